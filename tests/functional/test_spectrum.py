"""The directions in which class means differ, however they are decomposed."""

import math
import weakref

import numpy as np
import pytest
import torch
from support.problems import VCI

from lightning_nc import ClassStatistics
from lightning_nc import functional as F
from lightning_nc.functional import select
from lightning_nc.functional.spectrum import centered_means_cholesky, centered_means_svd, trace_along

SHAPES = pytest.mark.parametrize("shape", [(6, 20), (20, 6), (6, 6), (2, 9), (9, 1)])


def conditioned(shape, condition, offset=0.0):
    """Statistics of one row per class, whose features differ by this factor in their spread."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -math.log10(condition), shape[1], dtype=torch.float64)
    means = offset + torch.randn(shape, generator=generator, dtype=torch.float64) * scales
    return ClassStatistics.from_batch(means, torch.arange(shape[0]), shape[0])


@SHAPES
@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e3, 1e4, 1e6, 1e12])
def test_rank_and_whitening_are_those_of_a_decomposition_of_the_means(shape, condition, offset):
    statistics = conditioned(shape, condition, offset)
    means = statistics.means.numpy()
    _, values, vectors = np.linalg.svd(means - means.mean(0), full_matrices=False)
    counted = values > np.finfo(np.float32).eps * np.linalg.norm(means)
    whitened = vectors[counted] / values[counted, None]
    expected = whitened.T @ whitened
    whitening = F.between_class_whitening(statistics)
    assert int(F.rank(statistics)) == counted.sum()
    got = (whitening.T @ whitening).numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_cholesky_factor_takes_the_place_of_a_decomposition_just_where_all_directions_count():
    certain = {
        condition: centered_means_cholesky(conditioned((6, 6), condition)) is not None
        for condition in (1.0, 1e2, 1e7, 1e12)
    }
    assert certain == {1.0: True, 1e2: True, 1e7: False, 1e12: False}
    narrow = conditioned((20, 6), 10.0)
    assert centered_means_cholesky(narrow).shape == (6, 6)
    coinciding = ClassStatistics.from_batch(torch.ones(3, 4), torch.arange(3), 3)
    assert centered_means_cholesky(coinciding) is None
    assert centered_means_cholesky(conditioned((6, 20), 1.0, offset=1e8)) is None
    assert centered_means_cholesky(conditioned((1, 20), 1.0)) is None


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_float32_statistics_from_a_device_without_float64_are_measured_on_a_cpu(shape):
    exact = conditioned(shape, 10.0)
    tensors = {name: t for name, t in exact._tensors() if t is not None}
    scatter = torch.eye(shape[1])
    short = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    statistics = ClassStatistics(**(short | {"scatter": scatter}))
    expected = ClassStatistics(**(tensors | {"scatter": scatter.double()}))
    for measure in select(["nc1/within_between_pinv", "nc1/rank", VCI, "nc1/cdnv"]):
        value, reference = measure.function(statistics), measure.function(expected)
        assert float(value) == pytest.approx(float(reference), rel=1e-4, abs=1e-6)
    found, directions = F.between_class_directions(statistics)
    torch.testing.assert_close(found, F.between_class_directions(expected)[0], rtol=1e-5, atol=1e-5)
    assert len(directions) == len(found) == int(F.rank(statistics))


def test_noise_of_float32_sums_counts_as_no_direction(monkeypatch):
    for module in ("statistics", "frame"):
        path = f"lightning_nc.values.{module}.accumulator_dtype"
        monkeypatch.setattr(path, lambda device: torch.float32)
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        means = torch.randn(10, 5, generator=generator) @ torch.randn(5, 64, generator=generator)
        statistics = ClassStatistics(torch.ones(10).long(), means, torch.eye(64), torch.zeros(10))
        assert int(F.rank(statistics)) == 5
        assert centered_means_cholesky(statistics) is None


@SHAPES
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6, 1e12])
def test_directions_are_those_of_a_decomposition_of_the_means_themselves(shape, condition):
    statistics = conditioned(shape, condition)
    means = statistics.means
    values, vectors = centered_means_svd(statistics)
    expected = np.linalg.svd((means - means.mean(0)).numpy())[1]
    kept = min(len(values), len(expected))
    scale = expected[0]
    np.testing.assert_allclose(values[:kept], expected[:kept], rtol=1e-7, atol=1e-12 * scale)
    assert (expected[kept:] <= 1e-12 * scale).all()
    large = values > 1e-10 * scale
    torch.testing.assert_close(vectors[large] @ vectors[large].T, torch.eye(int(large.sum())).double())


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (257, 40), (600, 900), (40, 2100)])
def test_a_trace_along_rows_is_that_of_the_whole_product(shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factor = torch.randn(shape[1], 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    square = factor @ factor.T
    torch.testing.assert_close(trace_along(rows, square), (rows @ square @ rows.T).trace())


def test_what_was_decomposed_is_kept_with_the_value_and_goes_with_it(monkeypatch):
    statistics = conditioned((6, 20), 10.0)
    first = centered_means_svd(statistics), centered_means_cholesky(statistics)
    for name in ("eigh", "svd", "cholesky_ex"):
        monkeypatch.setattr(torch.linalg, name, lambda *args, **kwargs: pytest.fail("once more"))
    again = centered_means_svd(statistics), centered_means_cholesky(statistics)
    assert again[0] is first[0]
    assert again[1] is first[1]
    gone = weakref.ref(statistics)
    del statistics
    assert gone() is None
