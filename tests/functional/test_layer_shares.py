"""The features of one layer, and what their depth makes of them."""

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

from lightning_nc import ClassStatistics
from lightning_nc.functional import layers, within_between_pinv
from lightning_nc.values import UndefinedMeasure

PROBLEMS = pytest.mark.parametrize(
    "name",
    [
        "random", "far from the origin", "float64", "imbalanced", "two classes",
        "more classes than features", "fewer rows than features", "tight",
    ],
)  # fmt: skip

OF_ONE_LAYER = {
    "within_share": oracles.within_share,
    "within_share_classwise": oracles.within_share_classwise,
    "separation": oracles.separation,
    "effective_rank": lambda h, y: oracles.effective_rank(h),
    "means_condition": oracles.means_condition,
}


@PROBLEMS
@pytest.mark.parametrize("measure", OF_ONE_LAYER)
def test_a_layer_is_measured_as_its_rows_say(name, measure):
    value = getattr(layers, measure)(statistics_of(problem(name)))
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(OF_ONE_LAYER[measure](*as_numpy(problem(name))), rel=1e-8)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_symmetric_noise_around_an_etf_in_closed_form(offset):
    h, y = around(3 * etf(4, 5) + offset, delta=0.3)
    statistics = ClassStatistics.from_batch(h, y, num_classes=4)
    assert float(layers.within_share(statistics)) == pytest.approx(0.01 / 1.01, rel=1e-9)
    assert float(layers.within_share_classwise(statistics)) == pytest.approx(0.01 / 1.01, rel=1e-9)
    assert float(layers.separation(statistics)) == pytest.approx(0.018, rel=1e-9)
    # 40 rows: along three axes 10 * 9 * 4/3 / 3 of the means each, and 40 * 0.09 / 5 along all five
    of_means, of_noise = math.sqrt(120 + 0.72), math.sqrt(0.72)
    shares = np.array([of_means] * 3 + [of_noise] * 2) / (3 * of_means + 2 * of_noise)
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert float(layers.effective_rank(statistics)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num_classes", [2, 4, 10])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_values_at_collapse(num_classes, offset):
    statistics = collapsed(2 * etf(num_classes, 12), offset)
    assert float(layers.within_share(statistics)) == pytest.approx(0, abs=1e-12)
    assert float(layers.within_share_classwise(statistics)) == pytest.approx(0, abs=1e-12)
    assert float(layers.separation(statistics)) == pytest.approx(0, abs=1e-12)
    assert float(layers.effective_rank(statistics)) == pytest.approx(num_classes - 1, rel=1e-9)
    orthogonal = collapsed(5 * rotation(12)[:num_classes])
    assert float(layers.means_condition(orthogonal)) == pytest.approx(1, rel=1e-9)


@settings(max_examples=40, deadline=None)
@for_all(
    st.lists(st.integers(1, 9), min_size=2, max_size=6),
    st.integers(1, 8),
    st.sampled_from([0.01, 1.0]),
    st.integers(0, 10**6),
)
def test_shares_and_ranks_stay_in_their_ranges_and_follow_their_laws(counts, width, spread, seed):
    given = gaussian_classes(counts, width, spread=spread, dtype=torch.float64, seed=seed)
    plain = statistics_of(given)
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
    turned = 3 * given.features @ rotation(width, seed)
    moved = ClassStatistics.from_batch(turned + 10, order[given.target], len(counts))
    for measure in (layers.within_share, layers.within_share_classwise, layers.effective_rank):
        assert float(measure(moved)) == pytest.approx(float(measure(plain)), rel=1e-7, abs=1e-9)
    assert 0 <= float(layers.within_share(plain)) <= 1
    assert 0 <= float(layers.within_share_classwise(plain)) <= 1
    assert 1 - 1e-9 <= float(layers.effective_rank(plain)) <= min(width, sum(counts) - 1) + 1e-9
    about_the_origin = ClassStatistics.from_batch(turned, order[given.target], len(counts))
    condition = float(layers.means_condition(plain))
    assert condition >= 1
    assert float(layers.means_condition(about_the_origin)) == pytest.approx(condition, rel=1e-6)


def test_both_shares_are_one_where_all_classes_have_as_many_rows_and_two_where_not():
    equal, unequal = statistics_of(problem("random")), statistics_of(problem("imbalanced"))
    expected = float(layers.within_share(equal))
    assert float(layers.within_share_classwise(equal)) == pytest.approx(expected, rel=1e-12)
    expected = float(layers.within_share(unequal))
    assert float(layers.within_share_classwise(unequal)) != pytest.approx(expected, rel=1e-3)


def test_the_separation_is_nc1_without_its_divisor():
    statistics = statistics_of(problem("imbalanced"))
    assert layers.separation(statistics) == 6 * within_between_pinv(statistics)


@pytest.mark.parametrize("width", [8, 300])
def test_the_effective_rank_does_not_see_what_rounding_makes_of_nothing(width):
    rows = torch.randn(4, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).T
    flat = (rows @ rotation(width)[:4] + 7).float()
    statistics = ClassStatistics.from_batch(flat, torch.arange(40) % 5, 5)
    expected = oracles.effective_rank(rows.numpy())
    assert float(layers.effective_rank(statistics)) == pytest.approx(expected, rel=1e-5)


def test_features_that_all_coincide_have_no_rank_and_no_share():
    statistics = ClassStatistics.from_batch(torch.full((6, 3), 0.1), torch.arange(6) % 2, 2)
    assert layers.effective_rank(statistics).isnan()
    assert layers.within_share(statistics).isnan()
    assert layers.within_share_classwise(statistics).isnan()
    assert layers.separation(statistics).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_means_that_depend_on_each_other_have_an_infinite_condition(dtype):
    flat = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = (flat @ rotation(10)[:3]).to(dtype)
    statistics = ClassStatistics.from_batch(means, torch.arange(6), 6)
    assert layers.means_condition(statistics) == torch.inf
    zero = ClassStatistics.from_batch(torch.zeros(2, 3), torch.arange(2), 2)
    assert layers.means_condition(zero).isnan()


def test_more_classes_than_features_can_be_a_tight_frame():
    corners = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert float(layers.means_condition(collapsed(corners))) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("function", [layers.separation, layers.effective_rank])
def test_without_a_covariance_its_measures_say_so(function):
    statistics = statistics_of(problem("random"), covariance="none")
    with pytest.raises(UndefinedMeasure, match=r"was not kept \(covariance='none'\); use 'pooled'"):
        function(statistics)


UNSEEN = "got none of classes 1, 3, 4, 7, 8, 9. Leave the unseen classes out with"


@pytest.mark.parametrize("measure", OF_ONE_LAYER)
def test_unseen_classes_are_refused_by_name(measure):
    with pytest.raises(ValueError, match=UNSEEN):
        getattr(layers, measure)(statistics_of(problem("missing classes")))


@pytest.mark.parametrize(
    ("shares", "fraction", "begins"),
    [
        ([0.58, 0.41, 0.22, 0.047, 0.002], 0.1, 3),
        ([0.58, 0.41, 0.22, 0.047, 0.002], 0.5, 2),
        ([0.58, 0.41, 0.22, 0.059], 0.1, None),
        ([0.5, 0.05, 0.5, 0.01], 0.1, 3),  # not below: equal
        ([0.5, 0.04, 0.5, 0.01], 0.1, 1),
        ([0.5, math.nan, 0.01], 0.1, 2),
        ([0.5], 0.1, None),
        ([0.5], 2.0, 0),
    ],
)
def test_collapse_begins_where_the_share_falls_below_a_fraction_of_the_inputs(shares, fraction, begins):
    assert layers.collapse_begins(shares, fraction) == begins


def test_collapse_begins_at_a_tenth_by_itself():
    assert layers.collapse_begins([0.5, 0.06, 0.04]) == 2


@pytest.mark.parametrize("shares", [[], [0.0, 0.1], [math.nan, 0.1], [-0.1, 0.0]])
def test_collapse_needs_an_input_to_begin_from(shares):
    message = r"of which the first, the input's, is positive, but got \[.*'name:in'\."
    with pytest.raises(ValueError, match=message):
        layers.collapse_begins(shares)


@settings(max_examples=60, deadline=None)
@for_all(st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=12, unique=True))
def test_the_law_of_separation_is_the_line_of_least_squares(separations):
    expected = oracles.separation_law(separations)
    assert layers.separation_law(separations) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_an_exact_law_leaves_nothing_and_gaps_keep_their_depth():
    exact = [5 * 0.3**depth for depth in range(7)]
    for given in (exact, [*exact[:2], math.nan, exact[3], 0.0, math.inf, exact[6]]):
        law = layers.separation_law(given)
        assert law.rate == pytest.approx(0.3, rel=1e-12)
        assert law.log_start == pytest.approx(math.log(5), rel=1e-12)
        assert law.residual == pytest.approx(0, abs=1e-12)
        assert law.correlation == pytest.approx(-1, rel=1e-12)


def test_equal_separations_have_a_rate_of_one_and_no_correlation():
    law = layers.separation_law([0.1] * 5)
    assert (law.rate, law.residual) == (pytest.approx(1), pytest.approx(0, abs=1e-12))
    assert math.isnan(law.correlation)


@pytest.mark.parametrize("separations", [[], [1.0, 0.5], [1.0, math.nan, 0.5, -1.0, 0.0, math.inf]])
def test_a_law_needs_three_separations(separations):
    message = r"at least three finite, positive separations by depth, but got \[.*layer/separation"
    with pytest.raises(ValueError, match=message):
        layers.separation_law(separations)
