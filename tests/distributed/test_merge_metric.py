"""Metrics of several ranks, merged, equal one over all rows."""

from functools import cache

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.oracles import reference_measures, two_pass_statistics
from support.ranks import (
    CASES,
    CLASSIFIER,
    MEASURES,
    NEEDS_SCATTER,
    NUM_CLASSES,
    WIDTH,
    Case,
    Rows,
    accumulated,
    assert_bitwise_statistics,
    assert_identical,
    assert_near,
    assert_same_statistics,
    assert_same_values,
    draw,
    saying,
)

from lightning_nc import LinearClassifier, NeuralCollapse

pytestmark = pytest.mark.ddp


def measure(rank, shards, settings, classifiers=None):
    metric = accumulated(shards[rank], classifiers and classifiers[rank], **settings)
    values = metric.compute()
    with metric.sync_context():
        merged = metric.statistics()
    return values, merged, metric.statistics()


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
