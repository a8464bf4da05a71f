"""The streaming metric: right values over any batches, and exact near collapse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import oracles
from support.metrics import NEED_COVARIANCE, blank, quiet
from support.problems import (
    NAMES,
    VCI,
    as_numpy,
    assert_measures,
    assert_statistics,
    gaussian_classes,
    near_collapse,
    of_default,
    problem,
    streamed,
    unchecked_shapes,
)

from lightning_nc import (
    ClassStatistics,
    NeuralCollapseWarning,
)

pytestmark = pytest.mark.usefixtures("small_backlog")


@quiet
@pytest.mark.parametrize("name", NAMES)
def test_every_measure_equals_the_reference_over_uneven_batches(name):
    assert_measures(streamed(problem(name)).compute(), problem(name).reference)


@quiet
@pytest.mark.parametrize("sizes", [(1,), (10_000,), (16, 0)])
def test_every_measure_equals_the_reference_whatever_the_batches(sizes):
    given = problem("imbalanced")
    assert_measures(streamed(given, sizes).compute(), given.reference)


@quiet
def test_data_sorted_by_class_give_the_same_values():
    given = problem("far from the origin")
    order = given.target.argsort(stable=True)
    ordered = replace(given, features=given.features[order], target=given.target[order])
    assert_measures(streamed(ordered).compute(), given.reference)


@pytest.mark.parametrize("nc1", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12, 1e-13])
@pytest.mark.parametrize(
    ("width", "size"), [(64, 1.0), (512, 1.0), (64, 1e3)], ids=["d=64", "d=512", "d=64, means of 1e3"]
)
def test_nc1_is_exact_near_collapse(width, size, nc1):
    given = near_collapse(nc1, width, size)
    h, y = as_numpy(given)
    _, means, scatter, sums = oracles.two_pass_statistics(h, y, 10)
    expected = {
        "nc1/within_between_pinv": oracles.within_between_pinv(means, scatter, len(y)),
        "nc1/within_between_ratio": oracles.within_between_ratio(means, sums, len(y)),
    }
    assert 0.3 * nc1 < expected["nc1/within_between_ratio"] < 3 * nc1
    metric = streamed(given, (60, 1, 32), measures=list(expected))
    assert_measures(metric.compute(), expected, relative=1e-4, absolute=0)


@pytest.mark.slow
def test_many_tiny_batches_do_not_drift():
    given = gaussian_classes([5000] * 4, 6, offset=3.0)
    metric = blank(given, sample_rows=1)
    with unchecked_shapes():
        for h, y in zip(given.features.split(1), given.target.split(1), strict=True):
            metric.update(h, y)
    counts, means, scatter, sums = oracles.two_pass_statistics(*as_numpy(given), 4)
    statistics = metric.statistics()
    assert statistics.counts.tolist() == counts.tolist()
    np.testing.assert_allclose(statistics.means, means, rtol=0, atol=1e-6)
    np.testing.assert_allclose(statistics.sums_of_squares, sums, rtol=1e-6)
    np.testing.assert_allclose(statistics.scatter, scatter, rtol=0, atol=1e-6 * scatter.max())


def test_without_a_covariance_only_its_keys_are_left_out_with_a_reason():
    given = problem("random")
    metric = streamed(given, covariance="none", measures=["default", VCI])
    text = (
        "nc1/within_between_pinv, nc1/variability_collapse_index left out: the within-class "
        r"covariance was not kept \(covariance='none'\); use 'pooled'."
    )
    with pytest.warns(NeuralCollapseWarning, match=text):
        values = metric.compute()
    rest = of_default(given.reference)
    assert_measures(values, {key: v for key, v in rest.items() if key not in NEED_COVARIANCE})
    assert metric.statistics().scatter is None
    metric.persistent(True)
    squares = [t for t in metric.state_dict().values() if t.shape[-2:] == (32, 32)]
    assert sum(t.numel() for t in squares) == 0


@quiet
@pytest.mark.parametrize("name", ["imbalanced", "missing classes", "float64"])
def test_the_scatter_of_each_class_adds_up_and_equals_the_reference(name):
    given = problem(name)
    h, y = as_numpy(given)
    metric = streamed(given, covariance="per_class")
    assert_measures(metric.compute(), given.reference)
    statistics = metric.statistics()
    largest = float(statistics.scatter.abs().max())
    torch.testing.assert_close(
        statistics.class_scatter.sum(0), statistics.scatter, rtol=0, atol=1e-6 * largest
    )
    for c, scatter in enumerate(statistics.class_scatter):
        _, _, expected, _ = oracles.two_pass_statistics(h[y == c], y[y == c], given.num_classes)
        np.testing.assert_allclose(scatter, expected, rtol=0, atol=1e-6 * largest)


def test_classes_share_no_slots_when_there_are_many():
    num_classes = 2000
    given = gaussian_classes([3] * num_classes, 4, offset=1.0)
    metric = streamed(given, (64,), measures=["nc0/*"])
    whole = ClassStatistics.from_batch(given.features, given.target, num_classes)
    assert_statistics(metric.statistics(), whole, relative=1e-6)
