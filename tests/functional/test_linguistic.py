"""More classes than dimensions: distances, cosines and CDNV that bear it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from support import depth_oracles as oracles
from support.ideal import around, collapsed, etf
from support.problems import as_numpy, gaussian_classes, problem, rotation, statistics_of

from lightning_nc import ClassStatistics, LinearClassifier
from lightning_nc import functional as F
from lightning_nc.functional import linguistic
from lightning_nc.values import Frame

PROBLEMS = pytest.mark.parametrize(
    "name", ["random", "far from the origin", "imbalanced", "more classes than features", "tight"]
)


def lower_median(values):
    return sorted(values)[(len(values) - 1) // 2]


@PROBLEMS
def test_the_frames_measures_are_those_of_the_reference(name):
    means = oracles.class_means(*as_numpy(problem(name)))
    expected = oracles.log_distances(means - means.mean(0))
    frame = statistics_of(problem(name)).frame
    mean, std = linguistic.log_distance_mean(frame), linguistic.log_distance_std(frame)
    assert mean.dtype == std.dtype == torch.float64
    assert float(mean) == pytest.approx(expected.mean(), rel=1e-8)
    assert float(std) == pytest.approx(expected.std(), rel=1e-8)
    assert float(std / mean.abs()) == pytest.approx(float(F.log_distance_variation(frame)), rel=1e-14)


@PROBLEMS
def test_the_cosines_with_the_classifier_are_those_of_the_reference(name):
    given, statistics = problem(name), statistics_of(problem(name))
    means = oracles.class_means(*as_numpy(given))
    expected = oracles.duality_cosines(given.weight.double().numpy(), means - means.mean(0))
    mean = linguistic.duality_cosine_mean(statistics, given.classifier)
    std = linguistic.duality_cosine_std(statistics, given.classifier)
    assert float(mean) == pytest.approx(expected.mean(), rel=1e-8)
    assert float(std) == pytest.approx(expected.std(), rel=1e-8)
    assert std == F.uniform_duality(statistics, given.classifier)


@PROBLEMS
def test_the_variances_of_pairs_are_those_of_the_reference(name):
    h, y = as_numpy(problem(name))
    statistics = statistics_of(problem(name))
    median, fourth = linguistic.cdnv_median(statistics), linguistic.cdnv_fourth_power(statistics)
    assert float(median) == pytest.approx(lower_median(oracles.cdnv_terms(h, y, 2)), rel=1e-8)
    assert float(fourth) == pytest.approx(oracles.cdnv_terms(h, y, 4).mean(), rel=1e-8)


@pytest.mark.parametrize(("num_classes", "expected"), [(4, -0.4904146), (2, -math.log(2)), (10, None)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_log_distances_of_a_simplex(num_classes, expected, offset):
    frame = collapsed(2 * etf(num_classes, 12), offset).frame
    closed = -0.5 * math.log(2 * num_classes / (num_classes - 1))
    assert float(linguistic.log_distance_mean(frame)) == pytest.approx(closed, abs=1e-9)
    assert expected is None or closed == pytest.approx(expected, abs=1e-7)
    assert float(linguistic.log_distance_std(frame)) == pytest.approx(0, abs=1e-9)


def test_log_distances_of_four_orthogonal_points_and_of_a_square():
    orthogonal = Frame(5 * rotation(4))
    assert float(linguistic.log_distance_mean(orthogonal)) == pytest.approx(-0.3465736, abs=1e-7)
    assert float(linguistic.log_distance_std(orthogonal)) == pytest.approx(0, abs=1e-9)
    corners = Frame(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    # four sides of sqrt(2), two diagonals of 2
    terms = [-0.5 * math.log(2)] * 4 + [-math.log(2)] * 2
    assert float(linguistic.log_distance_mean(corners)) == pytest.approx(np.mean(terms), rel=1e-12)
    assert float(linguistic.log_distance_std(corners)) == pytest.approx(np.std(terms), rel=1e-12)


def test_no_frame_is_more_uniform_than_the_simplex():
    least = -0.5 * math.log(2 * 7 / 6)
    for seed in range(20):
        frame = statistics_of(gaussian_classes([2] * 7, 5, seed=seed)).frame
        assert float(linguistic.log_distance_mean(frame)) > least


def test_directions_that_coincide_have_no_average():
    frame = Frame(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]]))
    assert linguistic.log_distance_mean(frame) == torch.inf
    assert linguistic.log_distance_std(frame).isnan()
    assert F.log_distance_variation(frame).isnan()


def test_directions_that_only_rounding_tells_apart_coincide():
    rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = [Frame(torch.stack([row, row / 3])) for row in rows]
    assert {float(linguistic.log_distance_mean(frame)) for frame in pairs} == {math.inf}


@pytest.mark.parametrize("sign", [1, -1])
def test_cosines_of_a_classifier_along_the_means(sign):
    scales = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    statistics, head = collapsed(etf(4, 6), 100.0), LinearClassifier(sign * scales * etf(4, 6))
    assert float(linguistic.duality_cosine_mean(statistics, head)) == pytest.approx(sign, abs=1e-9)
    assert float(linguistic.duality_cosine_std(statistics, head)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_symmetric_noise_around_an_etf_in_closed_form(offset):
    h, y = around(3 * etf(4, 5) + offset, delta=0.3)
    statistics = ClassStatistics.from_batch(h, y, num_classes=4)
    assert float(linguistic.cdnv_median(statistics)) == pytest.approx(0.00375, rel=1e-7)
    assert float(linguistic.cdnv_fourth_power(statistics)) == pytest.approx(0.00375 / 24, rel=1e-7)
    assert float(linguistic.cdnv_median(collapsed(etf(4, 5), offset))) == pytest.approx(0, abs=1e-12)


@settings(max_examples=40, deadline=None)
@for_all(
    st.lists(st.integers(1, 5), min_size=3, max_size=8),
    st.integers(2, 6),
    st.sampled_from([0.25, 3.0]),
    st.integers(0, 10**6),
)
def test_only_the_fourth_power_depends_on_the_scale(counts, width, scale, seed):
    given = gaussian_classes(counts, width, dtype=torch.float64, seed=seed)
    turn, classes = rotation(width, seed), len(counts)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    plain = statistics_of(given)
    moved = ClassStatistics.from_batch(
        scale * given.features @ turn + 10, order.argsort()[given.target], classes
    )
    heads = given.classifier, LinearClassifier((given.weight.double() @ turn)[order] * 9)
    median = float(linguistic.cdnv_median(plain))
    assert float(linguistic.cdnv_median(moved)) == pytest.approx(median, rel=1e-6, abs=1e-9)
    fourth = float(linguistic.cdnv_fourth_power(plain)) / scale**2
    assert float(linguistic.cdnv_fourth_power(moved)) == pytest.approx(fourth, rel=1e-6, abs=1e-9)
    for of_frame in (linguistic.log_distance_mean, linguistic.log_distance_std):
        value = float(of_frame(plain.frame))
        assert float(of_frame(moved.frame)) == pytest.approx(value, rel=1e-6, abs=1e-7)
    for of_both in (linguistic.duality_cosine_mean, linguistic.duality_cosine_std):
        value = float(of_both(plain, heads[0]))
        assert float(of_both(moved, heads[1])) == pytest.approx(value, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("num_classes", [3, 4])  # an odd and an even number of pairs
def test_the_median_is_the_value_of_a_pair(num_classes):
    given = gaussian_classes([4] * num_classes, 5)
    terms = oracles.cdnv_terms(*as_numpy(given), 2)
    value = float(linguistic.cdnv_median(statistics_of(given)))
    assert np.abs(terms - value).min() < 1e-12
    assert sum(terms < value - 1e-12) == (len(terms) - 1) // 2


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_a_pair_whose_means_coincide_does_not_move_the_median(spread):
    means = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [5.0, 0.0]])
    h, y = around(means.double(), delta=spread)
    apart = ClassStatistics.from_batch(*around((means + torch.eye(5, 2)).double(), spread), 5)
    assert not F.cdnv(ClassStatistics.from_batch(h, y, 5)).isfinite()
    median = linguistic.cdnv_median(ClassStatistics.from_batch(h, y, 5))
    assert median.isfinite()
    assert (float(median) > 0) == (spread > 0)
    assert linguistic.cdnv_median(apart).isfinite()
    together = ClassStatistics.from_batch(*around(torch.ones(3, 2).double(), spread), 3)
    assert linguistic.cdnv_median(together) == torch.inf


def test_the_sampled_pairs_estimate_all_pairs(monkeypatch):
    given = gaussian_classes([4] * 100, 32)
    functions = (linguistic.cdnv_median, linguistic.cdnv_fourth_power)
    everything = [float(function(statistics_of(given))) for function in functions]
    monkeypatch.setattr("lightning_nc.values.frame.PAIRWISE_CLASSES", 50)
    sampled = [float(function(statistics_of(given))) for function in functions]
    assert sampled != everything
    assert sampled == pytest.approx(everything, rel=0.1)


UNSEEN = r"got none of classes 1, 3, 4, 7, 8, 9\. Leave the unseen classes out with"


def test_unseen_classes_and_other_shapes_are_refused():
    given = problem("missing classes")
    for function in (linguistic.cdnv_median, linguistic.cdnv_fourth_power):
        with pytest.raises(ValueError, match=UNSEEN):
            function(statistics_of(given))
    for function in (linguistic.duality_cosine_mean, linguistic.duality_cosine_std):
        with pytest.raises(ValueError, match=UNSEEN):
            function(statistics_of(given), given.classifier)
        with pytest.raises(
            ValueError, match=r"shape of the class means, \(10, 32\), but got \(10, 31\)"
        ):
            function(statistics_of(problem("random")), LinearClassifier(torch.ones(10, 31)))
