"""The least pick-all-label loss in closed form, against descents with a feature of every row."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from support import tag_oracles as oracles

from lightning_nc.functional import tags as of_tags
from lightning_nc.functional.tags import measured
from lightning_nc.values.errors import UndefinedMeasure

PROBLEMS = [
    (4, {1: 6, 2: 3}, 0.01, 0.005),
    (4, {1: 2, 2: 1, 3: 1}, 0.02, 0.01),
    (5, {1: 2, 2: 1, 3: 1}, 0.003, 0.02),
    (5, {1: 1, 2: 4}, 0.01, 0.002),
    (5, {2: 1, 3: 2}, 0.01, 0.01),
    (5, {1: 3, 4: 1}, 0.05, 0.003),
]


def optimum(found, weight_penalty, feature_penalty, normalized):
    rows = {int(m): int(n) for m, n in zip(*np.unique(found.t.sum(1), return_counts=True), strict=True)}
    num_classes = found.t.shape[1]
    return of_tags.pick_all_label_optimum(
        rows, num_classes, weight_penalty, feature_penalty, normalized
    )


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_no_descent_over_a_feature_of_every_row_finds_less(problem, normalized, with_bias):
    num_tags, copies, *penalties = problem
    found = oracles.pick_all_label(
        oracles.all_sets(num_tags, copies), *penalties, normalized, with_bias
    )
    least = optimum(found, *penalties, normalized)
    assert least.loss == pytest.approx(found.loss, abs=1e-9)
    assert found.off_the_sums() < 1e-6
    scales = found.scales()
    assert set(scales) == set(least.scales) == set(copies)
    for m, of_rows in scales.items():
        assert of_rows == pytest.approx(least.scales[m], abs=1e-6)
        assert least.margins[m] == pytest.approx(least.scales[m] * least.rho, rel=1e-15)
    gram = found.weight @ found.weight.T
    simplex = least.rho * (np.eye(num_tags) - 1 / num_tags)
    assert gram == pytest.approx(simplex, abs=1e-5 * least.rho)
    assert np.ptp(found.bias) < 1e-5


def test_the_digits_of_four_tags():
    least = of_tags.pick_all_label_optimum({1: 24, 2: 18}, 4, 0.01, 0.005)
    # the closed form by 40 digits
    assert least.rho == pytest.approx(8.464077819133957, rel=1e-13)
    assert least.scales[1] == pytest.approx(0.43742593996678189, rel=1e-13)
    assert least.scales[2] == pytest.approx(0.37681809985390917, rel=1e-13)
    assert least.loss == pytest.approx(0.92344142967342444, rel=1e-14)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("row_penalty", [1e-8, 1e-3, 0.21, 30.0])
@pytest.mark.parametrize("rho", [1e-9, 1e-2, 8.46, 1e4])
@pytest.mark.parametrize(("m", "num_tags"), [(1, 3), (2, 4), (3, 4), (8, 1000)])
def test_margins_are_roots(m, num_tags, rho, row_penalty, normalized):
    right_side = num_tags * rho / row_penalty / (m if normalized else 1)

    def above(u):
        return u + math.log(m * math.exp(math.exp(u)) + num_tags - m) - math.log(right_side)

    root = math.exp(brentq(above, -60, 6, xtol=1e-14, rtol=1e-14))
    found = of_tags.pick_all_label_margin(m, num_tags, rho, row_penalty, normalized)
    assert found == pytest.approx(root, rel=1e-12)
    scales = of_tags.pick_all_label_scales(num_tags, rho, row_penalty, (m,), normalized)
    assert scales == {m: found / rho}


@pytest.mark.parametrize("normalized", [False, True])
def test_above_a_threshold_of_the_penalties_all_is_zero(normalized):
    copies, num_tags = {1: 2, 2: 1, 3: 1}, 5
    t = oracles.all_sets(num_tags, copies)
    shares = {m: float((t.sum(1) == m).mean()) for m in copies}
    threshold = sum(
        share / (m if normalized else 1) ** 2 * m * (num_tags - m) / num_tags / (num_tags - 1)
        for m, share in shares.items()
    )
    for factor in (0.95, 1.05):
        weight_penalty, feature_penalty = 0.5, factor * threshold / 0.5 / len(t)
        found = oracles.pick_all_label(t, weight_penalty, feature_penalty, normalized)
        least = optimum(found, weight_penalty, feature_penalty, normalized)
        assert least.loss == pytest.approx(found.loss, abs=1e-9)
        assert (least.rho > 0) == (factor < 1)
        if factor < 1:
            assert (found.weight**2).sum() / 4 == pytest.approx(least.rho, rel=1e-4)
        else:
            assert (np.abs(found.weight).max(), least.rho) == (pytest.approx(0, abs=1e-3), 0.0)
            assert least.margins == dict.fromkeys(copies, 0.0)
            assert all(math.isnan(scale) for scale in least.scales.values())


def test_near_the_threshold_the_weights_are_small_and_found():
    threshold = 1 / 3  # of a single tag, by its share in three: (K - 1) / (K (K - 1))
    least = of_tags.pick_all_label_optimum({1: 30}, 3, 1.0, threshold * (1 - 1e-9) / 30)
    assert 0 < least.rho < 1e-7
    assert least.loss == pytest.approx(math.log(3), abs=1e-12)


def test_as_the_penalty_vanishes_the_scale_tends_to_one():
    ratios = []
    for row_penalty in (1e-2, 1e-20, 1e-200):
        scales = of_tags.pick_all_label_scales(10, 10.0, row_penalty)
        ratios.append(scales[2] / scales[1])
    assert ratios == sorted(ratios)
    assert 0.99 < ratios[-1] < 1
    heavy = (
        of_tags.pick_all_label_scales(10, 1e-6, 1.0),
        of_tags.pick_all_label_scales(10, 1e-6, 1.0, (1, 2), normalized=True),
    )
    assert [each[2] / each[1] for each in heavy] == pytest.approx([1, 0.5], abs=1e-4)


@pytest.mark.parametrize("normalized", [False, True])
def test_the_predicted_scale_is_what_a_descent_leaves(normalized):
    t, penalties = oracles.all_sets(5, {1: 2, 2: 1}), (0.02, 0.004)
    found = oracles.pick_all_label(t, *penalties, normalized)
    scales = found.scales()
    predicted = measured.scale_2_predicted(
        torch.from_numpy(found.weight), len(t) * penalties[1], normalized
    )
    assert float(predicted) == pytest.approx(scales[2].mean() / scales[1].mean(), abs=1e-7)


@pytest.mark.parametrize(
    ("weight", "row_penalty", "text"),
    [
        (torch.ones(2, 3), 0.1, "at least 3 rows"),
        (torch.zeros(4, 3), 0.1, "weight is 0"),
        (torch.eye(4), 0.0, "no penalty"),
        (torch.ones(6, 4), 0.1, "6 tags have their simplex in 5 features at least, and there are 4"),
    ],
)
def test_a_prediction_without_meaning_says_why(weight, row_penalty, text):
    with pytest.raises(UndefinedMeasure, match=text):
        measured.scale_2_predicted(weight, row_penalty)


def test_a_simplex_takes_a_feature_less_than_there_are_tags():
    assert float(measured.scale_2_predicted(torch.eye(6, 5), 0.1)) > 0


margin, scales = of_tags.pick_all_label_margin, of_tags.pick_all_label_scales
least_of = of_tags.pick_all_label_optimum


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: margin(4, 4, 1.0, 0.1), r"in 1 to num_classes - 1 = 3, but got 4"),
        (lambda: margin(0, 4, 1.0, 0.1), r"but got 0\. A row with all tags"),
        (lambda: margin(1, 4, 1.0, 0.0), r"row_penalty to be positive, but got 1.0 and 0"),
        (lambda: margin(1, 4, -1.0, 0.1), r"Expected rho to be at least 0"),
        (lambda: margin(1, 4, math.nan, 0.1), r"Expected rho to be at least 0"),
        (lambda: scales(4, 0.0, 0.1), r"rho to be positive, but got 0.0"),
        (lambda: least_of({}, 4, 0.1, 0.1), r"Expected rows of some multiplicity"),
        (lambda: least_of({1: -1}, 4, 0.1, 0.1), r"Expected rows of some"),
        (lambda: least_of({1: 3, 5: 1}, 4, 0.1, 0.1), r"but got 5\."),
        (lambda: least_of({1: 3}, 4, 0.0, 0.1), r"positive penalties, but got 0.0 and"),
        (lambda: least_of({1: 3}, 4, 0.1, math.inf), r"positive penalties, but got 0.1 and"),
    ],
)
def test_what_has_no_minimum_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_a_margin_of_weights_of_zero_is_zero():
    assert of_tags.pick_all_label_margin(2, 4, 0.0, 0.1) == 0.0
