"""What a label means: classes, rows that do not count, and the network's decision."""

import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.problems import evidence_of, problem, unchecked_shapes

from lightning_nc.functional import select
from lightning_nc.tasks import TASKS, Binary, Multiclass, Settings, make_task
from lightning_nc.tasks.multiclass import decide


def encoded(target, num_classes=3, **settings):
    return Multiclass(Settings(num_classes, **settings)).encode(torch.as_tensor(target))


def test_labels_become_classes_and_say_why_rows_do_not_count():
    found = encoded([2.0, -100.0, 7.0, -1.0, 0.5, 0.0])
    out_of_range, fractional = found.left_out
    assert found.label.tolist() == [2, 0, 0, 0, 0, 0]
    assert found.label.dtype == torch.int64
    assert found.counts.tolist() == [True, False, False, False, False, True]
    assert found.wanted.tolist() == [True, False, True, True, True, True]
    assert out_of_range.tolist() == [False, False, True, True, False, False]
    assert fractional.tolist() == [False, False, False, False, True, False]


@pytest.mark.parametrize(
    ("ignore_index", "counts", "wanted"),
    [
        (-100, [True, True, False, False], [True, True, False, True]),
        (None, [True, True, False, False], [True, True, True, True]),
        (1, [True, False, False, False], [True, False, True, True]),
        (7, [True, True, False, False], [True, True, True, False]),
    ],
)
def test_the_ignored_label_is_left_out_on_purpose(ignore_index, counts, wanted):
    found = encoded([0, 1, -100, 7], ignore_index=ignore_index)
    assert found.counts.tolist() == counts
    assert found.wanted.tolist() == wanted
    assert sum(map(int, found.left_out[0])) == wanted.count(True) - counts.count(True)


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.float64],
)
def test_whole_labels_of_any_dtype_mean_the_same(dtype):
    target = torch.tensor([0, 1, 1]).to(dtype)
    found = encoded(target)
    assert found.label.tolist() == [0, 1, 1]
    assert bool(found.counts.all())
    Multiclass().require(target)


@pytest.mark.parametrize("first", [0.5, 1.25, float("nan")])
def test_labels_that_are_no_whole_numbers_are_refused_with_the_first_of_them(first):
    message = (
        f"Expected integer class labels, but got floats that are not whole numbers, such as {first}. "
        r"Are these soft labels \(mixup\?\)\? Pass hard ones, .* predicted are task='regression'\."
    )
    with pytest.raises(ValueError, match=message):
        Multiclass().require(torch.tensor([1.0, first, 0.75]))


def test_the_sizes_are_the_classifiers_rows_and_the_width():
    assert Multiclass().sizes(num_features=8, num_rows=5) == (5, 8)
    assert Multiclass().sizes(num_features=8, num_rows=1) == (2, 8)
    assert Multiclass(Settings(5)).sizes(num_features=8, num_rows=5) == (5, 8)


@pytest.mark.parametrize("num_rows", [1, 4, 6])
def test_a_classifier_of_other_rows_is_refused(num_rows):
    message = (
        f"Expected a classifier with num_classes = 5 rows, but got {num_rows}. Leave num_classes out "
        "to take the classifier's rows, or name another layer as `classifier`."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        Multiclass(Settings(5)).sizes(num_features=8, num_rows=num_rows)


def test_a_binary_task_has_two_classes_whatever_it_was_told():
    for told in (Settings(), Settings(2)):
        assert Binary(told).settings.num_classes == 2
        assert Binary(told).sizes(num_features=3, num_rows=1) == (2, 3)
    with pytest.raises(ValueError, match="num_classes to be 2 for task='binary', but got 3"):
        Binary(Settings(3))


def test_tasks_are_made_by_their_names():
    made = {name: make_task(name, Settings(2, seed=7)) for name in TASKS}
    assert {name: type(task) for name, task in made.items()} == TASKS
    assert {task.settings.seed for task in made.values()} == {7}
    with pytest.raises(ValueError, match=r"one of \('multiclass', 'binary'.*\), but got 'multclass'"):
        make_task("multclass", Settings())


def test_an_unknown_covariance_is_refused_with_the_settings():
    message = r"one of \('auto', 'pooled', 'per_class', 'none'\), but got 'full'"
    with unchecked_shapes(), pytest.raises(ValueError, match=message):
        Settings(covariance="full")


def test_an_accumulator_has_the_settings_of_its_task():
    task = Multiclass(Settings(covariance="per_class", sample_rows=7, seed=3))
    made = task.accumulator((4, 5), "cpu")
    assert made.sizes == (4, 5)
    assert made.moments.running.class_scatter.shape == (4, 5, 5)
    assert (made.sample.reservoir.capacity, made.sample.reservoir.seed) == (7, 3)
    made.add(*made.check(torch.ones(2, 5), torch.tensor([3, 4])))
    assert made.value().tallies.out_of_range == 1  # of four classes, though none were named


@pytest.mark.parametrize(
    ("measures", "counts"),
    [(("default",), ["decisions"]), (("nc1/*", "nc3/*"), []), (("nc4/ncc_accuracy",), ["decisions"])],
)
def test_what_has_to_be_counted_follows_from_the_measures(measures, counts):
    assert list(Multiclass(Settings(3, measures=measures)).counts_on(())) == counts


def test_what_says_something_of_the_network_as_a_whole_is_left_out_of_layers():
    given = problem("random")
    task = Multiclass(Settings(10, measures=("*",)))
    whole, of_layer = (task.evaluate(evidence_of(given), flag) for flag in (False, True))
    lines = [measure for measure in select(["*"]) if "graphs" not in measure.needs]
    assert list(whole) == [measure.key for measure in lines]
    assert list(of_layer) == [measure.key for measure in lines if measure.of_layers]
    of_network = {"accuracy", "num_samples", "classes_seen", "classes_kept"}
    assert set(whole) - set(of_layer) == {f"nc0/{name}" for name in of_network}


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


nobody_pickles_this = lambda statistics: statistics.within_trace  # noqa: E731


def test_a_task_is_pickled_by_the_names_of_its_measures():
    chosen = Settings(measures=("nc1/cdnv", "test_multiclass.nobody_pickles_this"))
    task = Multiclass(chosen)
    names = [measure.key for measure in task.measures]
    copy = pickle.loads(pickle.dumps(task))
    assert copy.settings == chosen
    assert [measure.key for measure in copy.measures] == names
