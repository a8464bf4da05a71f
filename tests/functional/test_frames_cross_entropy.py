"""Closed forms of cross-entropy over free features, and the penalties at which classes vanish."""

import math

import numpy as np
import pytest
import torch
from support import frame_oracles as oracles

from lightning_nc.functional.frames import cross_entropy as ce
from lightning_nc.functional.frames.triple import class_shares, frame_gaps


def agrees(minimum, found, absolute=2e-5):
    """Losses to the last digits, and matrices as well as a descent finds them."""
    assert float(minimum.loss) == pytest.approx(found.loss, rel=1e-11, abs=0)
    for ours, theirs in zip(minimum.triple, found[1:4], strict=True):
        scale = max(np.abs(theirs).max(), 1.0)
        assert ours.numpy() == pytest.approx(theirs, abs=absolute * scale)


def random_problem(seed):
    """Counts, and penalties from strong to weak; the number of classes goes from 2 to 5."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 12, size=2 + seed % 4)
    weight_penalty, feature_penalty = 10 ** rng.uniform(-3, -1, size=2)
    return torch.tensor(counts), float(weight_penalty), float(feature_penalty)


def test_relu_ce_has_the_digits_of_the_closed_form():
    least = ce.relu_ce(torch.tensor([8, 4, 2, 2]), 0.005, 0.005)
    margins = ce.relu_ce_coefficients(
        torch.tensor([8, 4, 2, 2]), torch.tensor([math.sqrt(16 * 0.75) * 0.005]).double()
    )
    assert margins[0].tolist() == pytest.approx([4.78310285, 4.42607391, 4.06452507, 4.06452507])
    means, weights = least.triple.means.diagonal(), least.triple.weights.diagonal()
    assert means.tolist() == pytest.approx([1.46452017, 1.91654622, 2.48900312, 2.48900312])
    assert weights.tolist() == pytest.approx([10.25563749, 7.55565315, 5.76353405, 5.76353405])
    assert float(least.loss) == pytest.approx(0.18046317)


def relu_ce_is_the_least(seed, restarts):
    # many starts: a small class that is at 0 stays there, and that is no global minimum
    counts, weight_penalty, feature_penalty = random_problem(seed)
    found = oracles.minimum(
        counts.tolist(), [weight_penalty], feature_penalty, "ce", relu=True, restarts=restarts
    )
    agrees(ce.relu_ce(counts, weight_penalty, feature_penalty), found)


@pytest.mark.parametrize("seed", range(12))
def test_relu_ce_is_the_least_that_descents_find(seed):
    relu_ce_is_the_least(seed, restarts=12)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(12, 212))
def test_relu_ce_is_the_least_that_descents_find_in_many_problems(seed):
    relu_ce_is_the_least(seed, restarts=30)


@pytest.mark.parametrize(("loss", "relu"), [("ce", True), ("ce", False), ("mse", False)])
def test_a_feature_of_every_row_changes_nothing_and_collapses(loss, relu):
    problem = {"weight_penalties": [0.02], "feature_penalty": 0.01, "loss": loss, "relu": relu}
    counts = [4, 2, 1]
    rows = oracles.minimum(counts, **problem, every_row=True)
    assert rows.loss == pytest.approx(oracles.minimum(counts, **problem).loss, rel=1e-12)
    first, others = rows.features[:, :1], rows.features[:, 1:4]
    assert others == pytest.approx(np.repeat(first, 3, axis=1), abs=1e-6)
    assert np.abs(rows.features[:, 4] - rows.features[:, 0]).max() > 0.1


def test_relu_ce_vanishes_by_class_and_altogether():
    counts = torch.tensor([88, 7, 5])
    for factor, vanishing in [(0.97, [False, False, False]), (1.03, [False, False, True])]:
        penalty = float((factor * 5 * 2 / 3) ** 0.5 / 100)
        assert ce.relu_ce_vanishing(counts, penalty, penalty).tolist() == vanishing
        margins = ce.relu_ce(counts, penalty, penalty).triple.means.diagonal()
        assert (margins == 0).tolist() == vanishing
        found = oracles.minimum(counts.tolist(), [penalty], penalty, "ce", relu=True, restarts=4)
        assert (np.diag(found.means) < 1e-9).tolist() == vanishing
    nothing = ce.relu_ce(counts, 1.0, 1.0)
    assert float(nothing.loss) == pytest.approx(math.log(3))
    assert all(not matrix.any() for matrix in nothing.triple)


def test_the_shape_is_that_of_the_minimum_and_linear_in_its_coefficients():
    counts = torch.tensor([9, 5, 3, 2])
    least, r = ce.relu_ce(counts, 0.01, 0.003), math.sqrt(19 * 3e-5 * 0.75)
    shape = ce.relu_ce_shape(counts, r)
    assert frame_gaps(least.triple, shape).tolist() == pytest.approx([0, 0, 0], abs=1e-7)
    assert torch.equal(least.triple.logits, shape.logits)
    shares = class_shares(counts)
    several = ce.relu_ce_coefficients(counts, torch.tensor([0.4, r]).double())
    spread = 4 * torch.eye(4).double() - 1
    assert torch.allclose(spread @ (shares.sqrt() * several[1]).diag() @ spread.T, shape.weights)
    assert torch.allclose((several[1] / shares.sqrt()).diag(), shape.means)
    assert several[0].tolist() == [*ce.relu_ce_coefficients(counts, torch.tensor([0.4]).double())[0]]


def test_every_class_tells_the_same_r_at_the_minimum_and_no_other_does():
    counts = torch.tensor([9, 5, 3, 2])
    least, r = ce.relu_ce(counts, 0.01, 0.003), math.sqrt(19 * 3e-5 * 0.75)
    assert ce.r_profile(counts, least.triple.logits).tolist() == pytest.approx([r] * 4, rel=1e-12)
    # a constant that is added to all logits of a class, as a bias might, is no decision
    moved = least.triple.logits + torch.arange(4)
    assert ce.r_profile(counts, moved).tolist() == pytest.approx([r] * 4, rel=1e-12)
    unlike = ce.r_profile(counts, 2 * least.triple.logits)
    assert float(unlike.std() / unlike.mean()) > 0.3


def test_r_is_precise_where_hardly_an_error_is_left():
    counts = torch.tensor([6, 3])
    logits = ce.relu_ce_shape(counts, 1e-13).logits
    assert ce.r_profile(counts, logits).tolist() == pytest.approx([1e-13] * 2, rel=1e-12, abs=0)


def test_the_balanced_minimum_has_the_digits_of_the_closed_form():
    least = ce.ce_balanced(4, 5, weight_penalty=0.01, feature_penalty=0.005)
    assert float(least.loss) == pytest.approx(0.24300160)
    assert least.triple.weights.diagonal().tolist() == pytest.approx([4.86013864] * 4)
    assert least.triple.means.diagonal().tolist() == pytest.approx([1.94405546] * 4)
    assert least.triple.logits.diagonal().tolist() == pytest.approx([4.09842876 * 0.75] * 4)


@pytest.mark.parametrize("bias", [None, "free", 0.1])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_balanced_minimum_is_the_least_that_descents_find(num_classes, smoothing, bias):
    found = oracles.minimum(
        [3] * num_classes, [0.02], 0.005, "ce", bias=bias, smoothing=smoothing, restarts=2
    )
    agrees(ce.ce_balanced(num_classes, 3, 0.02, 0.005, smoothing), found)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_balanced_minimum_is_zero_from_a_penalty_on(smoothing):
    border = (1 - smoothing) / 4 / math.sqrt(9)
    for factor in (1.0, 1.03, 50.0):
        nothing = ce.ce_balanced(4, 9, factor * border, factor * border, smoothing)
        assert float(nothing.triple.logits.abs().max()) < 1e-12
        assert float(nothing.loss) == pytest.approx(math.log(4))
    assert ce.ce_balanced(4, 9, 0.97 * border, 0.97 * border, smoothing).triple.logits[0, 0] > 0.01


def test_the_penalty_at_which_classes_of_a_size_collapse():
    counts = torch.tensor([20, 20, 4, 4, 4, 7])
    expected = [20**0.5 / 59] * 2 + [2 / 59] * 3 + [math.inf]
    assert ce.collapse_penalty(counts).tolist() == pytest.approx(expected)
    smoothed = ce.collapse_penalty(counts, smoothing=0.25)
    assert smoothed.tolist() == pytest.approx([0.75 * each for each in expected])
    small = torch.tensor([20, 20, 4, 4, 4])
    assert ce.collapse_penalty(small)[2:].tolist() == pytest.approx([0.03846154] * 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_which_classes_collapse_is_told_the_same_by_penalty_and_by_count(smoothing):
    counts = torch.tensor([49, 49, 25, 25, 9, 9, 4, 4, 1, 1, 30])
    for penalty in torch.linspace(0.001, 0.08, 80).tolist():
        largest = ce.largest_collapsing_count(int(counts.sum()), penalty, smoothing)
        expected = (counts <= largest) & (counts != 30)
        assert torch.equal(ce.collapsing_classes(counts, penalty, smoothing), expected)
    assert ce.collapsing_classes(counts, 7 / 206).sum() == 10  # the border itself belongs to them
    for count in range(1, 100):
        assert ce.largest_collapsing_count(206, count**0.5 / 206) == count


def test_numbers_out_of_range_are_refused():
    counts = torch.tensor([3, 2])
    with pytest.raises(ValueError, match=r"Expected penalties above 0 .* got \[0\.0, 0\.1\] and 0\.0"):
        ce.relu_ce(counts, 0.0, 0.1)
    with pytest.raises(ValueError, match="state those trained with"):
        ce.relu_ce_vanishing(counts, 0.1, -1.0)
    with pytest.raises(ValueError, match=r"label smoothing in \[0, 1\), but got .* 1\.0"):
        ce.ce_balanced(3, 2, 0.1, 0.1, smoothing=1.0)
    for refused in (ce.collapse_penalty, lambda c, s: ce.collapsing_classes(c, 0.1, s)):
        with pytest.raises(ValueError, match=r"but got \[\] and 10\.0"):
            refused(counts, 10.0)
    with pytest.raises(ValueError, match=r"but got \[\] and -0\.1"):
        ce.largest_collapsing_count(5, 0.1, -0.1)
    with pytest.raises(ValueError, match="Expected rows of two classes at least"):
        ce.relu_ce(torch.tensor([3, 0]), 0.1, 0.1)
