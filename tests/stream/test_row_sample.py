"""The sampled rows: chosen evenly, with their own labels and decisions, in little memory."""

import math

import numpy as np
import pytest
import torch
from support.problems import gaussian_classes, unchecked_shapes

from lightning_nc import NeuralCollapse
from lightning_nc.stream.row_sample import RowSample


def overlapping(rows=400):
    """Classes that overlap, and a network that decides by other lines than the class centers."""
    given = gaussian_classes([rows // 4] * 4, 6)
    return given.features, given.target, given.logits


def measured(h, y, logits, **settings):
    metric = NeuralCollapse(4, 6, measures=["nc4/*", "nc0/*"], **settings)
    for rows in torch.arange(len(y)).split(90):
        metric.update(h[rows], y[rows], logits[rows])
    return metric, {key: float(value) for key, value in metric.compute().items()}


def test_nc4_is_unbiased_where_the_sample_holds_a_part_of_the_rows():
    h, y, logits = overlapping()
    _, exact = measured(h, y, logits)
    with unchecked_shapes():
        draws = [measured(h, y, logits, sample_rows=50, seed=seed)[1] for seed in range(100)]
    for key in ("nc4/ncc_mismatch", "nc4/ncc_accuracy"):
        p = exact[key]
        assert 0.05 < p < 0.95
        estimates = [values[key] for values in draws]
        # 50 of 400 rows without replacement
        error = math.sqrt(p * (1 - p) / 50 * (1 - 50 / 400))
        assert abs(np.mean(estimates) - p) < 4 * error / math.sqrt(len(draws))
        assert 0.7 * error < np.std(estimates) < 1.3 * error
    assert {values["nc0/accuracy"] for values in draws} == {exact["nc0/accuracy"]}


def test_the_sample_holds_rows_with_their_own_labels_and_decisions():
    h, y, logits = overlapping()
    metric, _ = measured(h, y, logits, sample_rows=50)
    sample = metric.sample()
    assert (len(sample.target), sample.seen) == (50, 400)
    found = (sample.features[:, None] == h).all(2)
    assert found.sum(1).tolist() == [1] * 50
    rows = found.int().argmax(1)
    assert len(set(rows.tolist())) == 50
    assert torch.equal(sample.target, y[rows])
    assert torch.equal(sample.predicted, logits.argmax(1)[rows])


@pytest.mark.parametrize(
    ("sample_rows", "width", "capacity"),
    [(10, 6, 10), (8192, 6, 8192), (8192, 2**16, 256), (8192, 2**25, 1)],
)
def test_the_sample_takes_at_most_64_mebibytes(sample_rows, width, capacity):
    sample = RowSample(width, sample_rows, seed=0, device=torch.device("cpu"))
    assert sample.reservoir.capacity == capacity
    assert sample.capacity == 0


def test_a_small_stage_allocates_a_small_sample():
    metric = NeuralCollapse(4, 6)
    h, y, logits = overlapping(92)
    metric.update(h[:10], y[:10], logits[:10])
    assert len(metric.sample().target) == 10
    assert metric._accumulator.sample.capacity <= 20
    metric.update(h[10:], y[10:], logits[10:])
    assert len(metric.sample().target) == 92
    assert 92 <= metric._accumulator.sample.capacity <= 184
