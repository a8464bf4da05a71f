"""Metrics over parts of the data, merged."""

import copy

import numpy as np
import pytest
import torch
import torchmetrics
from support.metrics import NEED_COVARIANCE, add, assert_identical, blank, quiet
from support.problems import (
    VCI,
    assert_measures,
    assert_statistics,
    of_default,
    problem,
    streamed,
    unchecked_shapes,
)

from lightning_nc import (
    NeuralCollapse,
)

pytestmark = pytest.mark.usefixtures("small_backlog")


@quiet
@pytest.mark.parametrize("covariance", ["pooled", "per_class", "none"])
@pytest.mark.parametrize("name", ["random", "missing classes", "float64"])
def test_merged_metrics_equal_one_metric_over_all_data(name, covariance):
    given = problem(name)
    settings = {"covariance": covariance, "measures": ["default", VCI]}
    parts = [blank(given, **settings) for _ in range(4)]
    order = given.target.argsort(stable=True)  # no part sees all classes
    for part, rows in zip(parts[:3], order.chunk(3), strict=True):
        for few in rows.split(17):
            add(part, given, few)
    whole = streamed(given, **settings)
    before = [copy.deepcopy(part) for part in parts]
    merged = parts[3]  # without a batch of its own
    for part in parts[:3]:
        merged.merge_state(part)
    assert_statistics(merged.statistics(), whole.statistics(), relative=1e-6)
    expected = of_default(given.reference)
    if covariance == "none":
        expected = {key: value for key, value in expected.items() if key not in NEED_COVARIANCE}
    else:
        expected[VCI] = given.reference[VCI]
    assert_measures(merged.compute(), expected)
    for part, kept in zip(parts[:3], before, strict=False):
        assert_identical(part, kept)


def test_a_merged_metric_goes_on():
    given = problem("random")
    a, b = blank(given), blank(given)
    add(a, given, slice(100))
    add(b, given, slice(100, 300))
    a.merge_state(b)
    add(b, given, slice(50))
    add(a, given, slice(300, None))
    assert_measures(a.compute(), given.reference)


def test_merged_metrics_whose_samples_overflow_keep_the_statistics_and_a_sample_of_all():
    given = problem("random")
    a, b = blank(given, sample_rows=40), blank(given, sample_rows=40, seed=1)
    for metric, part in ((a, torch.arange(400)), (b, torch.arange(400, 600))):
        for rows in part.split(60):
            add(metric, given, rows)
    a.merge_state(b)
    assert_statistics(a.statistics(), streamed(given).statistics(), relative=1e-6)
    values = a.compute()
    exact = {key: v for key, v in given.reference.items() if not key.startswith("nc4")}
    assert_measures({key: values[key] for key in exact}, exact)
    sample = a.sample()
    assert (len(sample.target), sample.seen) == (40, 600)
    rows = (sample.features[:, None] == given.features).all(2).int().argmax(1)
    assert len(set(rows.tolist())) == 40
    assert torch.equal(sample.target, given.target[rows])
    assert torch.equal(sample.predicted, given.predicted[rows])
    assert 0 < (rows >= 400).sum() < 40


def test_shares_of_merged_samples_follow_the_rows_that_they_stand_for():
    given = problem("random")
    from_second = []
    with unchecked_shapes():
        for seed in range(40):
            a = blank(given, sample_rows=30, seed=2 * seed)
            b = blank(given, sample_rows=30, seed=2 * seed + 1)
            a.update(given.features[:450], given.target[:450])
            b.update(given.features[450:], given.target[450:])
            a.merge_state(b)
            rows = (a.sample().features[:, None] == given.features).all(2).int().argmax(1)
            from_second.append(int((rows >= 450).sum()))
    assert abs(np.mean(from_second) - 7.5) < 4 * np.sqrt(30 * 0.25 * 0.75 / 40)


@quiet
def test_what_was_left_out_adds_up_in_a_merge():
    given = problem("random")
    a, b = blank(given), blank(given)
    add(a, given, slice(300))
    b.update(given.features[300:], given.target[300:] + 5, given.logits[300:], given.classifier)
    a.merge_state(b)
    beyond = int((given.target[300:] + 5 >= 10).sum())
    assert int(a.evidence().tallies.out_of_range) == beyond
    assert int(a.statistics().num_samples) == 600 - beyond


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (torchmetrics.MeanMetric(), "Expected a NeuralCollapse to merge, but got MeanMetric. Pass the"),
        (
            {"counts": torch.zeros(10)},
            "Expected a NeuralCollapse to merge, but got dict. Pass the other",
        ),
        (NeuralCollapse(10, 31), "Expected statistics of the same shape to merge, but got"),
        (NeuralCollapse(9, 32), "Expected statistics of the same shape to merge, but got"),
        (NeuralCollapse(10, 32, covariance="none"), "Do they come from different layers or settings?"),
    ],
)
def test_only_metrics_of_the_same_settings_are_merged(other, message):
    with pytest.raises(ValueError, match=message):
        NeuralCollapse(10, 32).merge_state(other)
