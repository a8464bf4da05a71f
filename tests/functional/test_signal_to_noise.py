"""Class means in units of the spread around them, and how they grow apart on the central path."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from support import path_oracles as oracles
from support.ideal import around, etf
from support.problems import (
    as_numpy,
    gaussian_classes,
    near_collapse,
    problem,
    rotation,
    statistics_of,
    streamed,
)

from lightning_nc import ClassStatistics
from lightning_nc.functional import central_path
from lightning_nc.functional.noise import directions
from lightning_nc.functional.signal_to_noise import (
    snr_flow,
    snr_flow_rate,
    snr_matrix,
    snr_max,
    snr_min,
    snr_values,
)
from lightning_nc.values import UndefinedMeasure
from lightning_nc.values.penalties import Penalties


def of_rows(rows):
    h, y = torch.from_numpy(rows.h), torch.from_numpy(rows.y)
    return ClassStatistics.from_batch(h, y, int(y.max()) + 1)


@pytest.mark.parametrize("name", ["random", "imbalanced", "two classes", "more classes than features"])
def test_the_values_are_those_of_the_symmetric_root(name):
    given = problem(name)
    rows = oracles.Rows(*as_numpy(given))
    expected = np.linalg.svd(oracles.signal_to_noise(rows), compute_uv=False)[: given.num_classes - 1]
    expected = np.append(expected, np.zeros(given.num_classes - 1 - len(expected)))
    for statistics in (statistics_of(given), streamed(given).statistics()):
        values = snr_values(statistics)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-12)
        assert len(values) == given.num_classes - 1
        assert float(snr_max(statistics)) == float(values[0])
        assert float(snr_min(statistics)) == float(values[-1])
    np.testing.assert_allclose(snr_values(statistics_of(given)), expected, rtol=1e-9, atol=1e-12)


def test_an_etf_with_the_same_noise_everywhere():
    # +-.3 along one of 5 axes: a variance of .09 / 5; the means have 9 / 3 in each of 3 directions
    statistics = ClassStatistics.from_batch(*around(3 * etf(4, 5), delta=0.3), 4)
    expected = math.sqrt(3 / (0.09 / 5))
    assert snr_values(statistics).tolist() == pytest.approx([expected] * 3, rel=1e-9)


@settings(max_examples=25, deadline=None)
@for_all(st.integers(0, 10**6))
def test_no_invertible_affine_map_changes_them(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(6, 20, rng.integers(2, 6)).tolist()
    given = gaussian_classes(counts, int(rng.integers(1, 8)), dtype=torch.float64, seed=seed)
    d = given.num_features
    mild, wild = torch.from_numpy(10.0 ** rng.uniform([[-0.5] * d, [-3] * d], [[0.5] * d, [3] * d]))
    mapped = (given.features @ rotation(d, seed) * mild @ rotation(d, seed + 1) + 5) * wild
    moved = ClassStatistics.from_batch(mapped, given.target, len(counts))
    torch.testing.assert_close(
        snr_values(moved), snr_values(statistics_of(given)), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", ["random", "imbalanced", "two classes", "more classes than features"])
def test_they_are_all_that_the_least_loss_without_penalties_depends_on(name):
    given = problem(name)
    statistics, zero = statistics_of(given), given.classifier
    shares, snr = statistics.counts.double() / statistics.num_samples, snr_matrix(statistics)
    inverse = torch.linalg.inv(torch.eye(len(shares)).double() + snr.T @ snr)
    expected = ((shares.diag() @ inverse).trace() - shares.square().sum()) / 2
    assert zero.bias is not None
    least = central_path.loss_least_squares(statistics, zero, Penalties())
    torch.testing.assert_close(least, expected, rtol=1e-10, atol=0)
    if name == "random":  # equal counts
        of_values = (1 / (1 + snr_values(statistics).square())).mean() * 9 / 20
        torch.testing.assert_close(least, of_values, rtol=1e-10, atol=0)
    torch.testing.assert_close(snr @ shares.sqrt(), torch.zeros(len(snr)).double(), atol=1e-10, rtol=0)


def test_units_that_do_not_vary_and_dependent_ones_change_nothing():
    given = gaussian_classes([60, 40, 30], 8, dtype=torch.float64)
    expected = snr_values(statistics_of(given))
    mixed = torch.cat([given.features, given.features @ rotation(8)[:, :5] * 1e-3 + 7], 1)
    whole = torch.cat([mixed, torch.full((130, 2), 0.1), torch.zeros(130, 1)], 1).float()
    statistics = ClassStatistics.from_batch(whole, given.target, 3)
    assert len(snr_matrix(statistics)) == 8
    torch.testing.assert_close(snr_values(statistics), expected, rtol=1e-4, atol=0)


def test_units_that_do_not_vary_need_no_eigenvectors():
    given = problem("random")
    last_bit = 1 + torch.finfo(torch.float32).eps * (torch.arange(600)[:, None] % 2)
    constant = [torch.zeros(600, 2), torch.full((600, 1), 0.1), 100 * last_bit]
    statistics = ClassStatistics.from_batch(torch.cat([given.features, *constant], 1), given.target, 10)
    found = directions(statistics, penalty=0.0, mean_share=0.0)
    assert found.axes is None
    assert found.scale[32:].tolist() == [0] * 4
    torch.testing.assert_close(snr_values(statistics), snr_values(statistics_of(given)))


NO_SPREAD = {
    "fewer rows than features": lambda: statistics_of(problem("fewer rows than features")),
    "single rows": lambda: statistics_of(gaussian_classes([1, 1, 1], 4)),
    "a unit that tells the classes": lambda: ClassStatistics.from_batch(
        torch.cat([gaussian_classes([9, 9], 3).features, torch.zeros(18, 1)], 1).index_put_(
            (torch.arange(18), torch.tensor(3)), gaussian_classes([9, 9], 3).target.float()
        ),
        gaussian_classes([9, 9], 3).target,
        2,
    ),
}


@pytest.mark.parametrize("name", NO_SPREAD)
@pytest.mark.parametrize("function", [snr_values, snr_min, snr_max, snr_matrix])
def test_where_classes_differ_without_spread_it_is_infinite(name, function):
    with pytest.raises(
        UndefinedMeasure, match=r"a direction in which classes have no spread.*infinite"
    ):
        function(NO_SPREAD[name]())


@pytest.mark.parametrize("nc1", [1e-6, 1e-10])
def test_near_collapse(nc1):
    given = near_collapse(nc1, 24)
    rows = oracles.Rows(*as_numpy(given))
    expected = np.linalg.svd(oracles.signal_to_noise(rows), compute_uv=False)[:9]
    np.testing.assert_allclose(snr_values(statistics_of(given)), expected, rtol=1e-6)
    np.testing.assert_allclose(snr_values(streamed(given).statistics()), expected, rtol=1e-4)


def test_missing_covariances_unseen_classes_and_a_single_one():
    with pytest.raises(UndefinedMeasure, match=r"was not kept \(covariance='none'\); use 'pooled'"):
        snr_min(statistics_of(problem("random"), covariance="none"))
    with pytest.raises(ValueError, match=r"got none of classes 1, 3, 4, 7, 8, 9\. Leave the unseen"):
        snr_max(statistics_of(problem("missing classes")))
    with pytest.raises(ValueError, match="Expected statistics of two classes at least"):
        snr_min(statistics_of(problem("one class")).of_seen_classes)


def flowed(rows, steps, dt):
    """All rows, along the projected gradient."""
    y = rows.y
    return oracles.Rows(
        oracles.followed(lambda h: oracles.projected_velocity(oracles.Rows(h, y)), rows.h, steps, dt), y
    )


def rows_of(counts, width, seed):
    """Rows with Sw = I whose means are not far apart."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    means = 0.7 * rng.standard_normal((len(counts), width))
    rows = oracles.Rows(means[y] + rng.standard_normal((len(y), width)), y)
    return oracles.whitened(rows)


@pytest.mark.parametrize(("counts", "width"), [([6, 6, 6], 4), ([9, 9], 3)])
def test_with_equal_counts_the_ratios_of_all_rows_follow_the_closed_form(counts, width):
    rows = rows_of(counts, width, seed=0)
    start, n, classes = snr_values(of_rows(rows)), len(rows.y), len(counts)
    predicted = snr_flow(start, torch.tensor([100.0, 400.0]), n, classes)
    after = flowed(rows, steps=50, dt=2.0)
    np.testing.assert_allclose(snr_values(of_rows(after)), predicted[0], rtol=1e-8)
    later = flowed(after, steps=150, dt=2.0)
    np.testing.assert_allclose(snr_values(of_rows(later)), predicted[1], rtol=1e-8)
    # the noise stood still, and the means did not
    np.testing.assert_allclose(later.h - later.means, rows.h - rows.means, atol=1e-9)
    assert float(predicted[1, -1]) > 1.2 * float(start[-1])


@pytest.mark.parametrize(("counts", "width"), [([3, 9, 6], 4), ([4, 12], 3), ([3, 5, 7, 9], 2)])
def test_with_any_counts_the_matrix_of_all_rows_follows_its_rate(counts, width):
    rows = rows_of(counts, width, seed=1)
    shares, n = torch.tensor(counts).double() / sum(counts), len(rows.y)
    after = flowed(rows, steps=50, dt=2.0)

    def rate(matrix):
        return snr_flow_rate(torch.from_numpy(matrix), shares, n).numpy()

    # in coordinates in which Sw = I it is the means themselves
    start, end = oracles.signal_to_noise(rows), oracles.signal_to_noise(after)
    np.testing.assert_allclose(oracles.followed(rate, start, 50, 2.0), end, rtol=1e-8, atol=1e-9)
    assert np.abs(end - start).max() > 0.1
    velocity = oracles.projected_velocity(rows)
    moved = [velocity[rows.y == c].mean(0) - velocity.mean(0) for c in range(len(counts))]
    np.testing.assert_allclose(rate(start), np.stack(moved, 1) * shares.sqrt().numpy(), atol=1e-14)


def test_with_equal_counts_both_laws_are_one():
    v, n = torch.tensor([2.0, 0.7, 0.1]).double(), 40
    turn = torch.linalg.qr(torch.cat([torch.ones(4, 1), torch.eye(4)[:, :3]], 1).double()).Q[:, 1:]
    rate = snr_flow_rate(v.diag() @ turn.T, torch.full((4,), 0.25).double(), n) @ turn
    step = 0.01
    later = snr_flow(v, torch.tensor([-step, step]).double(), n, num_classes=4)
    torch.testing.assert_close(rate.diagonal(), (later[1] - later[0]) / (2 * step), rtol=1e-7, atol=0)
    torch.testing.assert_close(rate, rate.diagonal().diag(), rtol=0, atol=1e-15)


@settings(max_examples=50, deadline=None)
@for_all(st.floats(1e-6, 1e4), st.floats(0, 1e12))
def test_the_closed_form_is_solved_to_the_last_digits(start, time):
    v0, times = torch.tensor([[start], [time]], dtype=torch.float64)
    (found,) = snr_flow(v0, times, 100, 10)[0].tolist()

    def left(v):
        return math.log(v) + v**2 + v**4 / 4

    goal = left(start) + time / 1000
    assert left(found) == pytest.approx(goal, rel=1e-12, abs=1e-12)
    assert found >= start * (1 - 1e-12)


def test_the_flow_keeps_zeros_goes_backward_and_refuses_what_is_no_ratio():
    v = torch.tensor([3.0, 0.5, 0.0])
    there = snr_flow(v, torch.tensor([0.0, 50.0]), 10, 4)
    torch.testing.assert_close(there[0], v.double(), rtol=1e-14, atol=0)
    assert there[:, 2].tolist() == [0, 0]
    back = snr_flow(there[1], torch.tensor([-50.0]), 10, 4)
    torch.testing.assert_close(back[0], v.double(), rtol=1e-12, atol=0)
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="that are finite and not negative, but got"):
            snr_flow(torch.tensor([1.0, wrong]), torch.tensor([1.0]), 10, 3)


def test_the_constants_of_the_paper():
    """For w = sqrt(K) v: c1 log w + c2 w^2 + c3 w^4 = a + t, c1 = N K, c2 = N, c3 = N / (4 K)."""
    n, classes, v = 60, 5, torch.tensor([0.3, 1.0, 4.0]).double()
    w = [classes**0.5 * each for each in snr_flow(v, torch.tensor([0.0, 77.0]).double(), n, classes)]
    left = [n * classes * x.log() + n * x**2 + n / (4 * classes) * x**4 for x in w]
    torch.testing.assert_close(left[1] - left[0], torch.full((3,), 77.0).double(), rtol=1e-9, atol=0)
