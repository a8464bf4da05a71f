"""Ranks that are merged equal one process over all rows, and send no more than the state."""

import math
import operator
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
import torch.distributed as dist
from oracles import nearest_class_center, reference_measures, two_pass_statistics
from processes import Pool

from lightning_nc import LinearClassifier, NeuralCollapse
from lightning_nc.stream.sync import merge_ranks
from lightning_nc.watch.capture import Forward
from lightning_nc.watch.recorder import HEAD, Recorder

pytestmark = pytest.mark.ddp

NUM_CLASSES, WIDTH = 5, 6
VCI = "nc1/variability_collapse_index"
MEASURES = ("default", VCI)
CLASSIFIER = LinearClassifier(
    torch.randn(NUM_CLASSES, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    torch.randn(NUM_CLASSES, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    # the tensors are small, and the cores are the other processes'
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["two_processes", "three_processes"])
def pool(request):
    return request.getfixturevalue(request.param)


# Rows, and how they are dealt to the ranks


@dataclass(frozen=True)
class Rows:
    features: torch.Tensor
    target: torch.Tensor
    logits: torch.Tensor

    def __getitem__(self, which):
        return Rows(self.features[which], self.target[which], self.logits[which])

    def __len__(self):
        return len(self.target)

    def batches(self, size=16):
        return [self[i : i + size] for i in range(0, len(self), size)]

    def reference(self, **classifier):
        counted = self[self.target >= 0]
        features, target = counted.features.numpy(), counted.target.numpy()
        predicted = counted.logits.argmax(1).numpy()
        return reference_measures(features, target, NUM_CLASSES, predicted=predicted, **classifier)


def draw(num_rows=180, classes=range(NUM_CLASSES), offset=0.0, spread=1.0, blur=0.6, dtype="float32"):
    rng = np.random.default_rng(0)
    centers = offset + 1.5 * rng.standard_normal((NUM_CLASSES, WIDTH))
    target = rng.choice(list(classes), num_rows)
    features = centers[target] + spread * rng.standard_normal((num_rows, WIDTH))
    logits = np.eye(NUM_CLASSES)[target] + blur * rng.standard_normal((num_rows, NUM_CLASSES))
    return Rows(*(torch.tensor(x) for x in (features.astype(dtype), target, logits)))


def deal(rows, owner, world):
    """The batches of each rank; ``owner`` says which rank has a row."""
    rank_of_row = torch.as_tensor(owner(rows.target, torch.arange(len(rows)), world))
    return [rows[rank_of_row == rank].batches() for rank in range(world)]


def evenly(target, i, world):
    return i % world


@dataclass(frozen=True)
class Case:
    owner: Callable = evenly
    rows: dict = None
    last_rank_is_ignored: bool = False
    says: tuple[str, ...] = ()

    def deal(self, world):
        rows = draw(**(self.rows or {}))
        if self.last_rank_is_ignored:
            last = self.owner(rows.target, torch.arange(len(rows)), world) == world - 1
            rows = Rows(rows.features, rows.target.masked_fill(last, -100), rows.logits)
        return rows, deal(rows, self.owner, world)


CASES = {
    "even shards": Case(),
    "one row against all others": Case(lambda y, i, world: (i > 0) * (1 + i % (world - 1))),
    "shards of 1, 20 and all other rows": Case(
        lambda y, i, world: torch.where(i == 0, world - 1, torch.where(i <= 20, world - 2, 0))
    ),
    "the last rank has no batch": Case(lambda y, i, world: i % (world - 1)),
    "the first rank has no batch": Case(
        lambda y, i, world: 1 + i % (world - 1),
        says=("was called before the ``update`` method",),  # torchmetrics, on rank 0
    ),
    "the last rank has only ignored rows": Case(last_rank_is_ignored=True),
    "each class is on one rank only": Case(lambda y, i, world: y % world),
    "the last rank has two classes only": Case(
        lambda y, i, world: torch.where(y < 2, i % world, i % (world - 1))
    ),
    "a class is on no rank": Case(rows={"classes": (0, 1, 3, 4)}, says=("none of class 2",)),
    "two classes are on no rank, and the others on one each": Case(
        lambda y, i, world: y % world,
        rows={"classes": (0, 1, 4)},
        says=("none of classes 2, 3",),
    ),
    "offset 1,000 and spread 1e-3 in float32": Case(rows={"offset": 1e3, "spread": 1e-3}),
    "offset 1,000 and spread 1e-5, each class on one rank": Case(
        lambda y, i, world: y % world,
        rows={"offset": 1e3, "spread": 1e-5, "dtype": "float64"},
    ),
    "offset 1,000 and spread 1e-5, uneven shards": Case(
        lambda y, i, world: torch.where(i < 7, world - 1, i % (world - 1)),
        rows={"offset": 1e3, "spread": 1e-5, "dtype": "float64"},
    ),
}
NEEDS_SCATTER = ("nc1/within_between_pinv", VCI)


@contextmanager
def saying(*patterns):
    """Each of the patterns is warned of, and nothing else."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts = [str(w.message) for w in caught]
    for text in texts:
        assert any(re.search(pattern, text) for pattern in patterns), text
    for pattern in patterns:
        assert any(re.search(pattern, text) for text in texts), f"nothing was said of {pattern}"


# What runs in the processes


def accumulated(batches, classifier=None, **settings):
    metric = NeuralCollapse(**{"num_classes": NUM_CLASSES, "num_features": WIDTH, **settings})
    for batch in batches:
        metric.update(batch.features, batch.target, batch.logits, classifier)
    return metric


def measure(rank, shards, settings, classifiers=None):
    metric = accumulated(shards[rank], classifiers and classifiers[rank], **settings)
    values = metric.compute()
    with metric.sync_context():
        merged = metric.statistics()
    return values, merged, metric.statistics()


# What is compared


def assert_identical(first, *others):
    """The same keys in the same order, and the same bits."""
    for other in others:
        assert list(first) == list(other)
        for key, value in first.items():
            assert torch.equal(value, other[key]), (key, value, other[key])


def assert_same_values(values, reference, rel=1e-6):
    mine = {key: float(value) for key, value in values.items()}
    assert mine == pytest.approx({key: float(v) for key, v in reference.items()}, rel=rel, abs=1e-12)


def assert_near(actual, expected, scale=None):
    """To 1e-6 of the largest entry, or of a scale."""
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    assert actual.shape == expected.shape
    scale = expected.abs().max() if scale is None else scale
    assert (actual - expected).abs().max() <= 1e-6 * scale


def assert_same_statistics(statistics, other, spread):
    assert torch.equal(statistics.counts, other.counts)
    assert_near(statistics.means, other.means, scale=spread)
    assert_near(statistics.sums_of_squares, other.sums_of_squares)
    for name in ("scatter", "class_scatter"):
        mine, its = getattr(statistics, name), getattr(other, name)
        assert (mine is None) == (its is None), name
        if mine is not None:
            assert_near(mine, its)


def assert_bitwise_statistics(first, *others):
    for other in others:
        for name, value in vars(first).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, getattr(other, name)), name


# The metric


def says(case, covariance):
    left_out = f"{', '.join(NEEDS_SCATTER)} left out: .*was not kept"
    return (*case.says, left_out) if covariance == "none" else case.says


@cache
def merged_and_alone(name, covariance, pool):
    """A case over the ranks and in one process: the rows, and values and statistics of both."""
    case = CASES[name]
    rows, shards = case.deal(pool.size)
    settings = {"covariance": covariance, "measures": MEASURES}
    with saying(*says(case, covariance)):
        results = pool.run(measure, shards, settings, [CLASSIFIER] * pool.size)
        metric = accumulated(rows.batches(), CLASSIFIER, **settings)
        alone = metric.compute(), metric.statistics()
    return rows, results, alone


# "per_class" keeps the pooled scatter as well
SITUATIONS = [
    *((name, "per_class") for name in CASES),
    *((name, "pooled") for name in list(CASES)[:4]),
    *((name, "none") for name in list(CASES)[:4]),
]


@pytest.mark.parametrize(("name", "covariance"), SITUATIONS)
def test_values_equal_one_process_and_the_reference(name, covariance, pool):
    rows, results, (alone, _) = merged_and_alone(name, covariance, pool)
    weight, bias = CLASSIFIER.weight.numpy(), CLASSIFIER.bias.numpy()
    reference = rows.reference(weight=weight, bias=bias)
    if covariance == "none":
        reference = {key: v for key, v in reference.items() if key not in NEEDS_SCATTER}
    assert_identical(*(values for values, _, _ in results))
    assert_same_values(results[0][0], alone)
    assert_same_values(results[0][0], reference)


@pytest.mark.parametrize(("name", "covariance"), SITUATIONS)
def test_statistics_equal_one_process_and_two_passes_over_all_rows(name, covariance, pool):
    rows, results, (_, alone) = merged_and_alone(name, covariance, pool)
    merged = [statistics for _, statistics, _ in results]
    assert_bitwise_statistics(*merged)
    spread = (CASES[name].rows or {}).get("spread", 1.0)
    assert_same_statistics(merged[0], alone, spread)

    counted = rows[rows.target >= 0]
    features, target = counted.features.numpy(), counted.target.numpy()
    counts, means, scatter, sums_of_squares = two_pass_statistics(features, target, NUM_CLASSES)
    assert merged[0].counts.tolist() == counts.tolist()
    assert_near(merged[0].means, means, scale=spread)
    assert_near(merged[0].sums_of_squares, sums_of_squares)
    assert (merged[0].scatter is None) == (covariance == "none")
    assert (merged[0].class_scatter is None) == (covariance != "per_class")
    if covariance != "none":
        assert_near(merged[0].scatter, scatter)
    if covariance == "per_class":
        for c in range(NUM_CLASSES):
            of_class = target == c
            _, _, its_own, _ = two_pass_statistics(features[of_class], target[of_class], NUM_CLASSES)
            assert_near(merged[0].class_scatter[c], its_own)


@pytest.mark.parametrize("name", ["even shards", "the last rank has no batch"])
def test_after_the_sync_context_statistics_are_the_ranks_own_again(name, pool):
    _, shards = CASES[name].deal(pool.size)
    results = pool.run(measure, shards, {"covariance": "per_class", "measures": ["nc0/*"]})
    for batches, (_, merged, own) in zip(shards, results, strict=True):
        assert_bitwise_statistics(own, accumulated(batches, covariance="per_class").statistics())
        assert int(merged.num_samples) == 180


def compute_again_and_again(rank, shards):
    first, second = shards[rank][::2], shards[rank][1::2]
    metric = accumulated(first)
    values = [metric.compute()]
    for batch in second:
        metric.update(batch.features, batch.target, batch.logits)
    values.append(metric.compute())
    metric.reset()
    for batch in first:
        metric.update(batch.features, batch.target, batch.logits)
    return [*values, metric.compute()]


def test_values_follow_updates_after_a_compute_and_a_reset(pool):
    _, shards = Case().deal(pool.size)
    results = pool.run(compute_again_and_again, shards)
    half = accumulated([batch for batches in shards for batch in batches[::2]]).compute()
    whole = accumulated([batch for batches in shards for batch in batches]).compute()
    for values in zip(*results, strict=True):
        assert_identical(*values)
    for values, expected in zip(results[0], (half, whole, half), strict=True):
        assert_same_values(values, expected)
    assert half["nc0/num_samples"] < whole["nc0/num_samples"]


def merge_widths(rank, widths):
    metric = NeuralCollapse(3, widths[rank], sync_on_compute=False)
    metric.update(torch.randn(6, widths[rank]), torch.arange(6) % 3)
    try:
        merge_ranks([metric.accumulated()])
    except ValueError as error:
        return str(error)


def test_ranks_whose_features_differ_in_width_find_out_together(two_processes):
    said = two_processes.run(merge_widths, [4, 5])
    assert said[0] == said[1]
    assert said[0].startswith(
        "Expected features of one shape on all ranks, but got 3 to 3 classes and 4 to 5"
    )
    assert two_processes.run(merge_widths, [4, 4]) == [None, None]


def compute_without_rows(rank, batch):
    """What compute() says when all rows are ignored, and what it comes to after one more batch."""
    metric = accumulated([Rows(batch.features, torch.full_like(batch.target, -100), batch.logits)])
    said = []
    for _ in range(2):
        try:
            return said, metric.compute()
        except Exception as error:
            said.append(str(error))
        metric.update(batch.features, batch.target, batch.logits)
    return said, {}


def test_a_metric_without_rows_says_so_on_all_ranks(pool):
    [batch] = draw(64).batches(64)
    for said, _ in pool.run(compute_without_rows, batch):
        assert said[0].startswith("Expected at least one sample before compute(), but got none")


def test_a_metric_without_rows_goes_on_when_there_are_some(pool):
    [batch] = draw(64).batches(64)
    for said, values in pool.run(compute_without_rows, batch):
        assert len(said) == 1
        assert int(values["nc0/num_samples"]) == 64 * pool.size


def forward_in_own_group(rank, batches):
    groups = [dist.new_group([r]) for r in range(dist.get_world_size())]
    metric = NeuralCollapse(
        NUM_CLASSES,
        WIDTH,
        measures=["nc0/num_samples"],
        process_group=groups[rank],
        dist_sync_on_step=True,
    )
    return metric(batches[rank].features, batches[rank].target)


def test_forward_merges_within_the_metrics_own_group(two_processes):
    rows = draw(30)
    values = two_processes.run(forward_in_own_group, [rows[:10], rows[10:]])
    assert [int(v["nc0/num_samples"]) for v in values] == [10, 20]


def measure_in_group(rank, shards, members, classifiers):
    group = dist.new_group(members)
    if rank not in members:
        own = accumulated(shards[rank], classifiers[rank], sync_on_compute=False)
        return own.compute(), own.statistics(), own.statistics()
    return measure(rank, shards, {"process_group": group}, classifiers)


@pytest.mark.parametrize("members", [[0, 2], [1, 2], [1]])
def test_a_process_group_merges_its_members_only(members, three_processes):
    _, shards = CASES["shards of 1, 20 and all other rows"].deal(3)
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((3, NUM_CLASSES, WIDTH))
    # only the last member knows the classifier: its rank in the group is not its rank in the world
    known = [LinearClassifier(torch.tensor(w)) if r == members[-1] else None
             for r, w in enumerate(weights)]  # fmt: skip
    # the rank with a single row has a single class
    alone = "single class" if 2 not in members else None
    with saying(*([alone, "none of classes", "left out"] if alone else [])):
        results = three_processes.run(measure_in_group, shards, members, known)
        together = [batch for member in members for batch in shards[member]]
        expected = accumulated(together, known[members[-1]])
        values = expected.compute()
    assert_identical(*(results[member][0] for member in members))
    for member in members:
        assert_same_values(results[member][0], values)
        assert_same_statistics(results[member][1], expected.statistics(), spread=1.0)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("known", ["on all ranks", "on all but the first", "on the last only"])
def test_the_classifier_needs_to_be_known_on_one_rank_only(known, has_bias, pool):
    rows, shards = CASES["one row against all others"].deal(pool.size)
    rng = np.random.default_rng(3)
    weight, bias = rng.standard_normal((NUM_CLASSES, WIDTH)), rng.standard_normal(NUM_CLASSES)
    bias = bias if has_bias else None
    first = {"on all ranks": 0, "on all but the first": 1, "on the last only": pool.size - 1}[known]
    classifier = LinearClassifier(torch.tensor(weight), bias if bias is None else torch.tensor(bias))
    classifiers = [None if rank < first else classifier for rank in range(pool.size)]
    results = pool.run(measure, shards, {"measures": MEASURES}, classifiers)
    assert_identical(*(values for values, _, _ in results))
    assert_same_values(results[0][0], rows.reference(weight=weight, bias=bias))


@pytest.mark.parametrize("columns", [1, 2])
def test_a_binary_head_reads_as_two_opposite_rows(columns, pool):
    rows, shards = Case(rows={"classes": (0, 1)}).deal(pool.size)
    rng = np.random.default_rng(4)
    weight, bias = rng.standard_normal((columns, WIDTH)), rng.standard_normal(columns)
    head = LinearClassifier(torch.tensor(weight), torch.tensor(bias))

    def with_logits_of_the_head(batch):
        logits = batch.features.double() @ torch.tensor(weight).T + torch.tensor(bias)
        return Rows(batch.features, batch.target, logits)

    shards = [[with_logits_of_the_head(batch) for batch in batches] for batches in shards]
    logits = with_logits_of_the_head(rows).logits
    if columns == 1:
        weight, bias = np.vstack([-weight / 2, weight / 2]), np.hstack([-bias / 2, bias / 2])
        predicted = (logits[:, 0] > 0).long()
    else:
        predicted = logits.argmax(1)
    settings = {"num_classes": 2, "measures": MEASURES}
    with saying("needs at least 3 classes"):
        results = pool.run(measure, shards, settings, [None] * (pool.size - 1) + [head])
    reference = reference_measures(
        rows.features.numpy(), rows.target.numpy(), 2,
        predicted=predicted.numpy(), weight=weight, bias=bias,
    )  # fmt: skip
    assert_identical(*(values for values, _, _ in results))
    assert_same_values(results[0][0], reference)
    assert 0 < reference["nc4/ncc_mismatch"] < 1


# NC4 from a sample that is smaller than the shards


def sampled(rank, shards, seeds, sample_rows):
    """NC4 and this rank's sample, for every seed."""
    results = []
    for seed in seeds:
        settings = {"measures": ["nc4/*"], "sample_rows": sample_rows, "seed": seed}
        metric = accumulated(shards[rank], **settings)
        values = metric.compute()
        sample = metric.sample()
        results.append((values, sample.features, sample.target, sample.predicted))
    return results


def easy_and_noisy(world):
    """A large shard that is easy to decide, and a small noisy one with ignored rows."""
    noisy = draw(90, spread=4.0, blur=2.0)
    ignored = torch.arange(90) % 3 == 0
    noisy = Rows(noisy.features, noisy.target.masked_fill(ignored, -100), noisy.logits)
    return [draw(300, spread=0.5, blur=0.1), *[draw(40)] * (world - 2), noisy]


def shares(features, target, predicted, means):
    center = nearest_class_center(features.double().numpy(), means, np.arange(NUM_CLASSES))
    return np.array([np.mean(center != predicted.numpy()), np.mean(center == target.numpy())])


def shares_by_hand(dealt, results):
    """Shares in each rank's sample, and how many rows it stands for."""
    rows = Rows(*(torch.cat([getattr(d, n) for d in dealt]) for n in Rows.__dataclass_fields__))
    counted = rows[rows.target >= 0]
    _, means, _, _ = two_pass_statistics(counted.features.numpy(), counted.target.numpy(), NUM_CLASSES)
    stands_for = np.array([int((d.target >= 0).sum()) for d in dealt])
    of_each = np.array(
        [[shares(*sample, means) for _, *sample in of_rank] for of_rank in results]
    )  # rank, seed, measure
    exact = shares(counted.features, counted.target, counted.logits.argmax(1), means)
    return of_each, stands_for / stands_for.sum(), exact


def test_each_ranks_sample_counts_as_many_rows_as_it_stands_for(pool):
    dealt = easy_and_noisy(pool.size)
    results = pool.run(sampled, [d.batches(64) for d in dealt], range(3), 24)
    of_each, weights, _ = shares_by_hand(dealt, results)
    for seed in range(3):
        assert_identical(*(of_rank[seed][0] for of_rank in results))
        values = [float(v) for v in results[0][seed][0].values()]
        combined = weights @ of_each[:, seed]
        assert list(results[0][seed][0]) == ["nc4/ncc_mismatch", "nc4/ncc_accuracy"]
        assert values == pytest.approx(combined.tolist(), rel=1e-12)
        # every rank counted alike would be another number
        assert np.abs(of_each[:, seed].mean(0) - combined).min() > 0.05


def test_the_sampled_estimate_is_unbiased(pool):
    dealt = easy_and_noisy(pool.size)
    seeds = range(60)
    results = pool.run(sampled, [d.batches(64) for d in dealt], seeds, 24)
    of_each, _, exact = shares_by_hand(dealt, results)
    values = np.array([[float(v) for v in values.values()] for values, *_ in results[0]])
    error = values.std(0, ddof=1) / np.sqrt(len(seeds))
    assert (np.abs(values.mean(0) - exact) < 4 * error).all()
    # every rank counted alike would be seen
    assert (np.abs(of_each.mean((0, 1)) - exact) > 10 * error).all()


def test_a_sample_with_room_for_all_rows_is_exact(pool):
    dealt = easy_and_noisy(pool.size)
    results = pool.run(sampled, [d.batches(64) for d in dealt], [0], 400)
    _, _, exact = shares_by_hand(dealt, results)
    values = [float(v) for v in results[0][0][0].values()]
    assert values == pytest.approx(exact.tolist(), rel=1e-12)


# The recorder


WIDTHS = {f"layer{i}": 3 + i for i in range(9)}


def features_of_layers(rows, names):
    """Another linear map of the features for each layer."""
    generator = torch.Generator().manual_seed(6)
    maps = {name: torch.randn(WIDTH, width, generator=generator) for name, width in WIDTHS.items()}
    return {name: rows.features @ maps[name] for name in names}


def recorded(batches, names, silent=(), **settings):
    """A recorder that has seen the batches; the hooks of ``silent`` layers have not fired."""
    recorder = Recorder(names, **settings)
    for batch in batches:
        if not recorder.keeps_classifier:
            recorder.keep_classifier(CLASSIFIER.weight, CLASSIFIER.bias)
        layers = features_of_layers(batch, [name for name in names if name not in silent])
        forward = Forward("fc", batch.features, batch.logits.argmax(1), layers)
        recorder.add(forward, batch.target, NUM_CLASSES)
    return recorder


def close_stage(rank, shards, names, silent, settings):
    recorder = recorded(shards[rank], names, silent[rank], **settings)
    first = recorder.close("cpu", distributed=True)
    again = recorder.close("cpu", distributed=True)
    assert_identical(first.values, again.values)
    return first


ONE, TEN = [], list(WIDTHS)
STAGES = [
    ("the last rank has no batch", "pooled", ONE),
    ("the last rank has no batch", "pooled", TEN),
    ("the last rank has no batch", "per_class", TEN),
    ("the last rank has no batch", "none", TEN),
    ("the first rank has no batch", "pooled", ONE),
    ("the first rank has no batch", "pooled", TEN),
    ("shards of 1, 20 and all other rows", "pooled", ONE),
    ("the last rank has only ignored rows", "pooled", ONE),
    ("a class is on no rank", "pooled", ONE),
]


def how_many(names):
    return f"{1 + len(names)} modules" if isinstance(names, list) else None


@pytest.mark.parametrize(("name", "covariance", "names"), STAGES, ids=how_many)
def test_a_stage_over_several_ranks_equals_one_process(name, covariance, names, pool):
    rows, shards = CASES[name].deal(pool.size)
    settings = {"covariance": covariance}
    results = pool.run(close_stage, shards, names, [()] * pool.size, settings)
    alone = recorded(rows.batches(), names, **settings).close("cpu")
    assert_identical(*(result.values for result in results))
    assert_same_values(results[0].values, alone.values)
    for result in results:
        assert result.notices == alone.notices
        assert list(result.accumulated) == [HEAD, *names]
        for module, expected in alone.accumulated.items():
            statistics = result.accumulated[module].statistics
            assert_same_statistics(statistics, expected.statistics, spread=1.0)

    reference = rows.reference(weight=CLASSIFIER.weight.numpy(), bias=CLASSIFIER.bias.numpy())
    head = {key: v for key, v in results[0].values.items() if key.count("/") == 1}
    skipped = NEEDS_SCATTER if covariance == "none" else (VCI,)
    assert_same_values(head, {key: v for key, v in reference.items() if key not in skipped})


def test_rows_left_out_on_any_rank_are_told_on_all(pool):
    rows, i = draw(), torch.arange(180)
    rows = Rows(
        torch.where((i % 7 == 0)[:, None], torch.nan, rows.features),
        rows.target.masked_fill(i % 11 == 0, NUM_CLASSES),
        rows.logits,
    )
    # one rank has the rows without a feature, another those with a label that is out of range
    shards = deal(rows, lambda y, i, world: torch.where(i % 7 == 0, 0, 1 + i % (world - 1)), pool.size)
    results = pool.run(close_stage, shards, [], [()] * pool.size, {})
    alone = recorded(rows.batches(), []).close("cpu")
    assert set(alone.notices) == {"non_finite", "out_of_range"}
    for result in results:
        assert result.notices == alone.notices
        assert_same_values(result.values, alone.values)


def test_a_layer_that_ran_on_one_rank_only_is_merged_all_the_same(pool):
    _, shards = Case().deal(pool.size)
    names = ["layer2", "layer5"]
    silent = [["layer5"] if rank == 0 else ["layer2"] for rank in range(pool.size)]
    results = pool.run(close_stage, shards, names, silent, {})
    assert_identical(*(result.values for result in results))
    together = [batch for batches in shards[1:] for batch in batches]
    for name, batches in (("layer2", shards[0]), ("layer5", together)):
        alone = recorded(batches, [name]).close("cpu").values
        expected = {key: v for key, v in alone.items() if key.endswith(name)}
        found = {key: v for key, v in results[0].values.items() if key.endswith(name)}
        assert_same_values(found, expected)


def test_a_stage_without_any_batch_ends_on_all_ranks(pool):
    results = pool.run(close_stage, [[]] * pool.size, list(WIDTHS), [()] * pool.size, {})
    for result in results:
        assert result.values == {}
        assert list(result.notices) == ["empty"]


# What it costs

COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "gather",
    "gather_object", "broadcast", "broadcast_object_list", "reduce", "reduce_scatter",
    "reduce_scatter_tensor", "scatter", "scatter_object_list", "all_to_all", "all_to_all_single",
    "barrier", "monitored_barrier", "send", "recv", "isend", "irecv",
)  # fmt: skip


@contextmanager
def noted_collectives():
    """Name and bytes of each collective that is called from Python; of a gather, the result's."""
    calls = []

    def noted(name, function):
        def call(*args, **kwargs):
            tensors = args[0] if args and isinstance(args[0], list) else args[:1]
            sizes = [t.nbytes for t in tensors if isinstance(t, torch.Tensor)]
            calls.append((name, sum(sizes)))
            return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in COLLECTIVES:
            patch.setattr(dist, name, noted(name, getattr(dist, name)))
        yield calls


def collectives_of_a_stage(rank, shards, names, covariance):
    recorder = recorded(shards[rank], names, covariance=covariance, measures=["nc0/num_samples"])
    with noted_collectives() as calls:
        recorder.close("cpu", distributed=True)
    return calls


def collectives_of_a_metric(rank, shards, covariance):
    metric = accumulated(shards[rank], covariance=covariance)
    with noted_collectives() as calls:
        metric.compute()
    return calls


def rounds(width, covariance, classifier=True):
    """Numbers that a module sends in the two rounds: once each, whatever the number of ranks."""
    counts = sums_of_squares = NUM_CLASSES
    means = NUM_CLASSES * width
    bias, weight = (NUM_CLASSES, means) if classifier else (0, 0)
    tallies, decisions = 5, 6
    scatter = 0 if covariance == "none" else width * width
    class_scatter = NUM_CLASSES * width * width if covariance == "per_class" else 0
    first = counts + means + tallies + weight + bias
    return first, sums_of_squares + decisions + scatter + class_scatter


@pytest.mark.parametrize("covariance", ["pooled", "per_class", "none"])
@pytest.mark.parametrize("names", [ONE, TEN], ids=how_many)
@pytest.mark.parametrize("name", ["even shards", "the last rank has no batch"])
def test_a_stage_takes_three_all_reduces_of_the_states_size(name, names, covariance, pool):
    # measured at C = 10, d = 512 and 10,240 rows on each rank: 2.2 MB, where torchmetrics' own gather
    # takes 10 barriers and 20 gathers, and leaves 40 MB on 2 ranks and 60 MB on 3, most of it samples;
    # without a sample 6.4 and 9.6 MB
    _, shards = CASES[name].deal(pool.size)
    for calls in pool.run(collectives_of_a_stage, shards, names, covariance):
        assert [call for call, _ in calls] == ["all_reduce"] * 3
        (_, header), (_, first), (_, second) = calls
        assert header == 8 * 6 * (2 + len(names))  # the first row tells of a failure
        layers = [rounds(WIDTHS[name], covariance, classifier=False) for name in names]
        expected = np.sum([rounds(WIDTH, covariance), *layers], 0)
        assert [first, second] == pytest.approx((8 * expected).tolist(), rel=0.01)


@pytest.mark.parametrize("covariance", ["pooled", "per_class", "none"])
def test_computing_a_metric_takes_three_all_reduces_of_the_states_size(covariance, pool):
    _, shards = Case().deal(pool.size)
    with saying(*(["left out"] if covariance == "none" else [])):
        results = pool.run(collectives_of_a_metric, shards, covariance)
    for calls in results:
        assert [call for call, _ in calls] == ["all_reduce"] * 3
        expected = [8 * numbers for numbers in rounds(WIDTH, covariance, classifier=False)]
        assert [size for _, size in calls] == pytest.approx([8 * 6 * 2, *expected], rel=0.01)


# A real Lightning run


def train(rank, folder, watches, monitored, settings):
    """Train in the processes that are there already; everything that a test may want to compare."""
    # imported here, because only these tests need Lightning in the processes
    from lightning.pytorch import seed_everything
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from training import Network, fit

    from lightning_nc import NeuralCollapseCallback

    callback = NeuralCollapseCallback(frozen_every_n_epochs=1)
    # this value never rises: training stops after the second epoch
    stop = EarlyStopping("nc0/num_samples/val", mode="max", patience=1)
    keep = ModelCheckpoint(folder, monitor="nc1/cdnv/val", mode="min")
    seed_everything(0, verbose=False)
    module = Network()
    with noted_collectives() as calls:
        run = fit(
            module,
            [callback] * watches + [stop, keep] * monitored,
            strategy="ddp",
            devices=2,
            default_root_dir=folder,
            enable_checkpointing=monitored,
            **settings,
        )
    return {
        "logged": {key: v.clone() for key, v in run.callback_metrics.items()},
        "history": callback.history,
        "epochs": run.current_epoch,
        "state": module.state_dict(),
        "rows": module.noted["train_online", run.current_epoch - 1],
        "calls": [name for name, _ in calls],
        "stopped": (stop.stopped_epoch, stop.best_score),
        "kept": (keep.best_model_path, keep.best_model_score),
    }


@pytest.fixture(scope="module")
def runs(two_processes, tmp_path_factory):
    """What is left of two epochs without the callback, with it, and with monitors of its keys."""
    folder = str(tmp_path_factory.mktemp("runs"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plain = two_processes.run(train, folder, False, False, {})
        watched = two_processes.run(train, folder, True, False, {})
        monitored = two_processes.run(train, folder, True, True, {"max_epochs": 5})
    texts = [str(w.message) for w in caught]
    return {"plain": plain, "watched": watched, "monitored": monitored, "said": texts}


def by_hand(state, data):
    """The measures of all rows, from the final weights and the functions alone."""
    from training import Network

    from lightning_nc import FeatureSample, functional
    from lightning_nc.values.statistics import ClassStatistics

    module = Network()
    module.load_state_dict(state)
    module.eval()
    x, y = data.tensors
    with torch.no_grad():
        h = module.features(x)
        predicted = module.fc(h).argmax(1)
    statistics = ClassStatistics.from_batch(h, y, 10)
    n = torch.tensor(len(y))
    sample = FeatureSample(h, y, predicted, seen=len(y))
    correct = (predicted == y).sum()
    decisions = functional.count_decisions(
        sample, statistics, stands_for=n, predicted=n, correct=correct
    )
    classifier = LinearClassifier(module.fc.weight, module.fc.bias)
    evidence = functional.Evidence.of(statistics, classifier, decisions)
    values, reasons = functional.evaluate(functional.select(["default"]), evidence)
    assert not reasons
    return values


def of_stage(logged, stage):
    return {key.removesuffix(f"/{stage}"): v for key, v in logged.items() if key.endswith(f"/{stage}")}


@pytest.mark.parametrize("name", ["watched", "monitored"])
def test_both_ranks_of_a_trainer_log_the_same_bits(name, runs):
    first, second = runs[name]
    assert_identical(first["logged"], second["logged"])
    assert first["history"] == second["history"]
    assert {key.split("/")[2] for key in first["logged"]} == {"val", "train_online", "train"}


@pytest.mark.parametrize("stage", ["val", "train"])
def test_a_trainers_values_equal_the_functions_on_all_rows_and_the_final_weights(stage, runs):
    from training import ROWS, digits

    data = {"val": digits(ROWS, 96), "train": digits()}[stage]
    run, _ = runs["watched"]
    assert_same_values(of_stage(run["logged"], stage), by_hand(run["state"], data), rel=1e-5)


def test_online_values_equal_the_reference_on_the_features_that_both_ranks_met(runs):
    from training import ROWS

    rows = [row for run in runs["watched"] for row in run["rows"]]
    h, y, predicted = (torch.cat([row[i] for row in rows]).numpy() for i in range(3))
    weight, bias = (runs["watched"][0]["rows"][-1][i].numpy() for i in (3, 4))
    reference = reference_measures(h, y, 10, predicted=predicted, weight=weight, bias=bias)
    del reference[VCI]
    assert len(y) == ROWS
    values = of_stage(runs["watched"][0]["logged"], "train_online")
    assert_same_values(values, reference, rel=1e-5)


@pytest.mark.parametrize("name", ["watched", "monitored"])
def test_parameters_on_both_ranks_are_bit_identical_with_and_without_the_callback(name, runs):
    for plain, other in zip(runs["plain"], runs[name], strict=True):
        assert plain["epochs"] == other["epochs"] == 2
        assert_identical(plain["state"], other["state"])


def test_early_stopping_and_checkpoints_agree_on_both_ranks(runs):
    first, second = runs["monitored"]
    entries = [entry.value for entry in first["history"]["nc1/cdnv/val"]]
    path, score = first["kept"]
    assert torch.load(path, weights_only=True)["epoch"] == np.argmin(entries)
    assert float(score) == pytest.approx(min(entries))
    assert (path, score) == second["kept"]
    assert first["stopped"] == second["stopped"] == (1, 96)


def test_nothing_is_warned_of_and_no_sync_dist_is_advised(runs):
    known = "LeafSpec|this may be a bottleneck|does not have many workers"
    assert [text for text in runs["said"] if not re.search(known, text)] == []


def test_a_trainer_makes_three_all_reduces_per_stage_and_a_broadcast_per_frozen_pass(runs):
    for plain, watched in zip(runs["plain"], runs["watched"], strict=True):
        more = Counter(watched["calls"])
        more.subtract(Counter(plain["calls"]))
        stages, epochs = 3, 2
        # one batch of the frozen pass is tried before training
        expected = {"all_reduce": 3 * stages * epochs, "broadcast": epochs + 1}
        assert {name: n for name, n in more.items() if n} == expected


def test_the_frozen_pass_without_validation_measures_the_network_that_is_saved(two_processes, tmp_path):
    from training import digits

    settings = {"limit_val_batches": 0}
    plain = two_processes.run(train, str(tmp_path), False, False, settings)
    watched = two_processes.run(train, str(tmp_path), True, False, settings)
    # without a validation loop, in which DDP shares the buffers, each rank ends with its own
    assert not torch.equal(*(run["state"]["norm.running_mean"] for run in plain))
    for one, other in zip(plain, watched, strict=True):
        assert_identical(one["state"], other["state"])
    values = of_stage(watched[0]["logged"], "train")
    assert_same_values(values, by_hand(watched[0]["state"], digits()), rel=1e-5)


# The processes


def test_failure_and_silence_of_a_process_end_in_an_error_and_the_next_call_works():
    pool = Pool(2)
    try:
        with pytest.raises(RuntimeError, match=r"(?s)Rank 0: .*ZeroDivisionError.*Rank 1: Traceback"):
            pool.run(operator.truediv, 0)
        with pytest.raises(
            RuntimeError, match=r"(?s)Rank 0: Traceback.*ValueError: math domain error$"
        ):
            pool.run(math.log)
        assert pool.run(operator.add, 1) == [1, 2]
        with pytest.raises(TimeoutError, match=r"Ranks \[1\] have not returned within 0.5 s"):
            pool.run(time.sleep, timeout=0.5)
    finally:
        pool.close()
