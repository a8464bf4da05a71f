"""Statistics are a commutative monoid that aliases nothing; other values keep what they are given."""

import gc
import itertools
import math
import weakref

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import as_numpy, assert_statistics, gaussian_classes, problem, unchecked_shapes

from lightning_nc import ClassStatistics, LinearClassifier
from lightning_nc.values.statistics import (
    FeatureSample,
    Frame,
    accumulator_dtype,
    check_covariance,
    decide,
    summarize,
)

COVARIANCES = ("pooled", "per_class", "none")


def tensors(statistics):
    return {name: t for name, t in vars(statistics).items() if isinstance(t, torch.Tensor)}


def shares_memory(a, b):
    storages = {t.untyped_storage().data_ptr() for t in tensors(a).values()}
    return any(t.untyped_storage().data_ptr() in storages for t in tensors(b).values())


def some_statistics(covariance="pooled", seed=0, counts=(5, 0, 9, 3)):
    drawn = gaussian_classes(counts, 6, offset=4.0, dtype=torch.float64, seed=seed)
    return ClassStatistics.from_batch(drawn.features, drawn.target, len(counts), covariance)


# --------------------------------------------------------------------------------- from a batch


@pytest.mark.parametrize(
    "name", ["random", "imbalanced", "far from the origin", "missing classes", "tight", "one class"]
)
def test_statistics_of_a_batch_equal_the_reference(name):
    drawn = problem(name)
    h, y = as_numpy(drawn)
    counts, means, scatter, sums = map(
        torch.from_numpy, oracles.two_pass_statistics(h, y, drawn.num_classes)
    )
    statistics = ClassStatistics.from_batch(drawn.features, drawn.target, drawn.num_classes)
    assert_statistics(statistics, ClassStatistics(counts, means, scatter, sums), relative=1e-8)
    assert statistics.seen.tolist() == [n > 0 for n in counts.tolist()]
    assert (statistics.num_classes, statistics.num_features) == tuple(means.shape)


def test_the_scatter_of_each_class_equals_the_reference_and_adds_up_to_the_pooled_one():
    drawn = problem("imbalanced")
    h, y = as_numpy(drawn)
    statistics = ClassStatistics.from_batch(drawn.features, drawn.target, 6, covariance="per_class")
    for c, scatter in enumerate(statistics.class_scatter):
        _, _, expected, _ = oracles.two_pass_statistics(h[y == c], y[y == c], 6)
        np.testing.assert_allclose(scatter.numpy(), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(statistics.class_scatter.sum(0), statistics.scatter)
    trace = statistics.class_scatter.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(trace, statistics.sums_of_squares)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_means_are_kept_in_float64_whatever_the_features_are(dtype):
    statistics = ClassStatistics.from_batch(
        torch.tensor([[1.0], [2.0], [4.0]]).to(dtype), torch.zeros(3, dtype=torch.long), num_classes=1
    )
    assert statistics.means.dtype == torch.float64
    assert float(statistics.means) == pytest.approx(7 / 3, rel=1e-15)


def test_an_empty_batch_gives_empty_statistics():
    none = ClassStatistics.from_batch(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 2)
    assert_statistics(none, ClassStatistics.empty(2, 3))


def test_a_pair_of_rows_merged_with_one_by_hand():
    h = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
    y = torch.zeros(3, dtype=torch.long)
    for offset in (0.0, 100.0):
        parts = [ClassStatistics.from_batch(h[i] + offset, y[i], 1) for i in (slice(2), slice(2, 3))]
        merged = parts[0].merge(parts[1])
        assert merged.means.tolist() == [[3 + offset, 2 + offset]]
        assert merged.scatter.tolist() == [[8, -4], [-4, 8]]
        assert merged.sums_of_squares.tolist() == [16]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([0, 1], "Expected one label per feature, but got 3 features and 2 labels"),
        ([0, 1, 3], r"Expected labels in \[0, 3\), but got labels from 0 to 3. Is num_classes too"),
        ([-1, 1, 2], r"but got labels from -1 to 2. Is num_classes too small, or do the labels start"),
    ],
)
def test_labels_that_do_not_fit_are_refused(target, message):
    with unchecked_shapes(), pytest.raises(ValueError, match=message):
        ClassStatistics.from_batch(torch.zeros(3, 2), torch.tensor(target), num_classes=3)


@pytest.mark.parametrize(
    "build",
    [
        check_covariance,
        lambda covariance: ClassStatistics.empty(2, 3, covariance),
        lambda covariance: ClassStatistics.from_batch(
            torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), 2, covariance
        ),
    ],
)
def test_an_unknown_covariance_is_refused(build):
    message = r"Expected covariance to be one of \('pooled', 'per_class', 'none'\), but got 'full'"
    with pytest.raises(ValueError, match=message):
        build("full")


# ------------------------------------------------------------------------------------ the monoid


@st.composite
def splits(draw):
    """Rows with labels, a split of them into batches, and an order in which to merge these."""
    rows, width = draw(st.integers(1, 40)), draw(st.integers(1, 5))
    num_classes = draw(st.integers(1, 6))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    h = torch.from_numpy(numbers.normal(size=(rows, width)) + draw(st.sampled_from([0.0, 100.0])))
    y = torch.from_numpy(numbers.integers(num_classes, size=rows))
    h = h[torch.from_numpy(numbers.permutation(rows))]
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=6)))
    edges = [0, *cuts, rows]
    batches = [slice(a, b) for a, b in itertools.pairwise(edges)]
    order = draw(st.permutations(range(len(batches))))
    # which two neighbors are joined next
    joins = [draw(st.integers(0, n - 2)) for n in range(len(batches), 1, -1)]
    return h, y, num_classes, batches, order, joins


@pytest.mark.parametrize("covariance", COVARIANCES)
@given(split=splits())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_split_merged_in_any_order_gives_the_same_statistics(covariance, split):
    h, y, num_classes, batches, order, joins = split
    parts = [
        ClassStatistics.from_batch(h[batches[i]], y[batches[i]], num_classes, covariance) for i in order
    ]
    for i in joins:
        parts[i : i + 2] = [parts[i].merge(parts[i + 1])]
    whole = ClassStatistics.from_batch(h, y, num_classes, covariance)
    assert_statistics(parts[0], whole, relative=1e-11, absolute=1e-9)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_merge_is_commutative_and_associative(covariance):
    a, b, c = (
        some_statistics(covariance, seed, counts)
        for seed, counts in enumerate([(5, 0, 9, 3), (0, 0, 1, 7), (2, 4, 0, 50)])
    )
    assert_statistics(a.merge(b), b.merge(a), relative=1e-13)
    assert_statistics(a.merge(b).merge(c), a.merge(b.merge(c)), relative=1e-13)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_empty_statistics_change_nothing(covariance):
    some, empty = some_statistics(covariance), ClassStatistics.empty(4, 6, covariance)
    for merged in (some.merge(empty), empty.merge(some)):
        assert_statistics(merged, some, relative=0, absolute=0)
    assert_statistics(empty.merge(empty), empty, relative=0, absolute=0)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("neutral", [False, True])
def test_merge_neither_changes_nor_aliases_its_inputs(covariance, neutral):
    a = some_statistics(covariance)
    b = ClassStatistics.empty(4, 6, covariance) if neutral else some_statistics(covariance, seed=1)
    before = [{name: t.clone() for name, t in tensors(x).items()} for x in (a, b)]
    for merged in (a.merge(b), b.merge(a), a.merge(a)):
        assert not shares_memory(merged, a)
        assert not shares_memory(merged, b)
        for tensor in tensors(merged).values():
            tensor.zero_()
    for x, kept in zip((a, b), before, strict=True):
        assert all(torch.equal(tensors(x)[name], t) for name, t in kept.items())


def test_statistics_of_a_batch_do_not_alias_the_batch():
    h, y = torch.ones(3, 2, dtype=torch.float64), torch.arange(3)
    statistics = ClassStatistics.from_batch(h, y, num_classes=3)
    h.zero_()
    assert bool((statistics.means == 1).all())


def test_merge_does_not_lose_digits_far_from_the_origin():
    drawn = gaussian_classes([30] * 4, 6, spread=1e-4, offset=1000.0, dtype=torch.float64)
    parts = [
        ClassStatistics.from_batch(h, y, 4)
        for h, y in zip(drawn.features.split(7), drawn.target.split(7), strict=True)
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    whole = ClassStatistics.from_batch(drawn.features, drawn.target, 4)
    assert_statistics(merged, whole, relative=1e-7, absolute=0)


@pytest.mark.parametrize(
    "other",
    [
        ClassStatistics.empty(4, 5),
        ClassStatistics.empty(3, 6),
        ClassStatistics.empty(4, 6, "none"),
        ClassStatistics.empty(4, 6, "per_class"),
    ],
)
def test_statistics_of_different_shapes_are_not_merged(other):
    message = r"Expected statistics of the same shape to merge, but got .* Do they come from different"
    with pytest.raises(ValueError, match=message):
        some_statistics().merge(other)
    with pytest.raises(ValueError, match=message):
        other.merge(some_statistics())


# ------------------------------------------------------------------- derived, moved, saved, restricted


def test_traces_and_centered_means_by_hand():
    h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 5.0], [0.0, 5.0]])
    statistics = ClassStatistics.from_batch(h, torch.tensor([0, 0, 1, 1, 1]), num_classes=2)
    assert statistics.global_mean.tolist() == [1.0, 2.5]
    assert statistics.centered_means.tolist() == [[1.0, -2.5], [-1.0, 2.5]]
    assert float(statistics.within_trace) == 2 / 5
    assert float(statistics.between_trace) == 7.25
    assert statistics.within_covariance.tolist() == [[2 / 5, 0], [0, 0]]
    assert int(statistics.num_samples) == 5


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_statistics_survive_a_file_of_plain_tensors(covariance, tmp_path):
    statistics = some_statistics(covariance)
    statistics.save(tmp_path / "statistics.pt")
    plain = torch.load(tmp_path / "statistics.pt", weights_only=True)
    assert {name for name, t in plain.items() if t is not None} == set(tensors(statistics))
    loaded = ClassStatistics.load(tmp_path / "statistics.pt")
    assert_statistics(loaded, statistics, relative=0, absolute=0)
    assert_statistics(loaded.merge(statistics), statistics.merge(statistics), 0, 0)


def test_restricting_keeps_the_scatter_and_the_chosen_classes():
    statistics = some_statistics("per_class")
    kept = statistics.of_seen_classes
    assert kept.counts.tolist() == [5, 9, 3]
    assert torch.equal(kept.means, statistics.means[[0, 2, 3]])
    assert torch.equal(kept.class_scatter, statistics.class_scatter[[0, 2, 3]])
    assert torch.equal(kept.scatter, statistics.scatter)
    kept.require_all_seen()
    assert statistics.of_seen_classes is kept
    assert kept.of_seen_classes is kept


def test_statistics_of_all_classes_do_not_hold_themselves_alive():
    statistics = ClassStatistics.from_batch(torch.eye(3), torch.arange(3), 3)
    assert statistics.of_seen_classes is statistics
    gone = weakref.ref(statistics)
    gc.disable()
    try:
        del statistics
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("counts", "named"),
    [((2, 0, 1), "class 1"), ((0, 2, 0), "classes 0, 2"), ((1, *[0] * 11), "classes 1, 2, 3, 4, 5, "
                                                          "6, 7, 8 and 3 more")],
)  # fmt: skip
def test_absent_classes_are_named(counts, named):
    statistics = some_statistics(counts=counts)
    message = f"Expected at least one sample of every class, but got none of {named}. Leave the unseen"
    with pytest.raises(ValueError, match=message):
        statistics.require_all_seen()
    with pytest.raises(ValueError, match=message):
        _ = statistics.centered_means


def test_statistics_move_to_another_device():
    moved = some_statistics("none").to("meta")
    assert moved.means.device.type == "meta"
    assert moved.scatter is None


# ----------------------------------------------------------------------------------- the classifier


def test_a_binary_head_is_read_as_two_rows():
    head = torch.nn.Linear(3, 1)
    read = LinearClassifier(head.weight, head.bias)
    h = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    logits = h @ read.weight.T + read.bias
    assert torch.equal(read.weight, torch.cat([-head.weight / 2, head.weight / 2]))
    assert torch.equal(read.bias, torch.cat([-head.bias / 2, head.bias / 2]))
    assert torch.equal(decide(logits), decide(head(h)))
    assert read.num_classes == 2


def test_a_single_row_left_over_by_a_restriction_stays_a_single_row():
    classifier = LinearClassifier(torch.eye(3), torch.arange(3.0))
    left = classifier.restrict(torch.tensor([False, True, False]))
    assert left.weight.tolist() == [[0, 1, 0]]
    assert left.bias.tolist() == [1]
    assert LinearClassifier(torch.eye(3)).restrict(torch.tensor([True, False, True])).bias is None


def test_a_classifier_follows_its_layer_and_a_snapshot_does_not():
    head = torch.nn.Linear(3, 4)
    read = LinearClassifier(head.weight, head.bias)
    kept = read.snapshot()
    before = head.weight.detach().clone()
    with torch.no_grad():
        head.weight.add_(1)
        head.bias.add_(1)
    assert not read.weight.requires_grad
    assert torch.equal(read.weight, head.weight)
    assert torch.equal(kept.weight, before)
    assert torch.equal(kept.bias + 1, head.bias)


@pytest.mark.parametrize(
    ("logits", "decisions"),
    [
        (torch.tensor([[0.1, 2.0, 0.3], [5.0, 2.0, 0.3]]), [1, 0]),
        (torch.tensor([[-1.0], [0.0], [1.0]]), [0, 0, 1]),
        (torch.tensor([-1.0, 0.0, 1.0]), [0, 0, 1]),
        (torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]), [1, 0, 1, 1]),
        (torch.tensor([[[-1.0], [1.0]], [[1.0], [1.0]]]), [0, 1, 1, 1]),
        (torch.zeros(0, 3), []),
    ],
)
def test_the_decision_is_the_largest_logit_or_the_sign_of_the_only_one(logits, decisions):
    assert decide(logits).tolist() == decisions


# ------------------------------------------------------------------------------------ other values


def test_a_frame_of_many_vectors_pairs_a_seeded_sample_of_them(monkeypatch):
    vectors = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    everything = Frame(vectors).cosines
    monkeypatch.setattr("lightning_nc.values.statistics.PAIRWISE_CLASSES", 10)
    state = torch.get_rng_state()
    frame, again = Frame(vectors), Frame(vectors)
    assert len(set(frame.sampled.tolist())) == 10
    assert frame.sampled.tolist() == sorted(frame.sampled.tolist()) == again.sampled.tolist()
    assert frame.num_vectors == len(frame.norms) == 50
    chosen = frame.sampled
    torch.testing.assert_close(frame.cosines, everything[chosen][:, chosen])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_frame_keeps_float64_and_no_graph():
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    frame = Frame(weight)
    assert not frame.vectors.requires_grad
    assert frame.vectors.dtype == torch.float64
    assert frame.norms.tolist() == [5, 0]
    assert math.isnan(frame.cosines[0, 1])


def test_a_sample_gives_its_valid_rows():
    sample = FeatureSample(
        torch.arange(6.0).reshape(3, 2), torch.tensor([1, -1, 0]), torch.tensor([1, 1, -1]), seen=9
    )
    valid = sample.valid()
    assert valid.features.tolist() == [[0, 1], [4, 5]]
    assert (valid.target.tolist(), valid.predicted.tolist(), valid.seen) == ([1, 0], [1, -1], 9)
    without = FeatureSample(sample.features, sample.target, None, seen=9)
    assert without.valid().predicted is None


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("cpu", torch.float64), ("cuda:1", torch.float64), ("mps", torch.float32)],
)
def test_sums_are_float64_where_the_device_has_it(device, dtype):
    assert accumulator_dtype(device) == dtype


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([3], "class 3"),
        ([1, 2], "classes 1, 2"),
        (range(9), "classes 0, 1, 2, 3, 4, 5, 6, 7 and 1 more"),
    ],
)
def test_a_few_numbers_are_summarized(numbers, text):
    assert summarize(numbers, "class", "classes") == text


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([2048, 2049, 2175, 2176, 2177, 4096, 5000]),
    st.sampled_from([1, 3, 100]),
    st.sampled_from([0.0, 1e-3, 0.5]),
    st.integers(0, 10**6),
)
def test_the_decision_among_many_logits_is_the_first_largest(num_classes, values, unusual, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(values, (9, num_classes), generator=generator).float()
    for value in (-torch.inf, torch.inf, torch.nan):
        logits[torch.rand(logits.shape, generator=generator) < unusual] = value
    logits[0] = -torch.inf
    logits[[1, 2, 3]] = 0.0
    logits[1, -1] = logits[2, num_classes // 128 * 128 - 1] = logits[3, 128] = 1.0
    expected = logits.argmax(1)
    assert torch.equal(decide(logits), expected)
    assert torch.equal(decide(logits.bfloat16().reshape(3, 3, -1)), expected)
    first = np.array([np.argmax(row) for row in logits.numpy()])  # NaN is the largest here, too
    assert expected.tolist() == first.tolist()
