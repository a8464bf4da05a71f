"""The convex program of cross-entropy: against scipy, certified, and closed forms at its edges."""

import math

import numpy as np
import pytest
import torch
from support import frame_oracles as oracles

from lightning_nc.functional.frames.ce_program import Program, ce_ufm, solve
from lightning_nc.functional.frames.cross_entropy import ce_balanced, collapse_penalty
from lightning_nc.functional.frames.simplex import seli
from lightning_nc.functional.frames.triple import frame_gaps

BIASES = pytest.mark.parametrize("bias", [None, 0.0, 0.05])
FALLING = [round(500 * 0.01 ** (k / 29)) for k in range(30)]


def program_of(counts, penalty, bias=None, smoothing=0.0):
    """As for features that are penalized row by row."""
    counts = torch.tensor(counts).double()
    return Program(counts / counts.sum(), counts.rsqrt(), penalty, bias, smoothing)


def border(counts, smoothing=0.0):
    """The penalty from which on nothing is learned, without a bias."""
    counts = np.asarray(counts)
    simplex = np.eye(len(counts)) - 1 / len(counts)
    return (1 - smoothing) * np.linalg.norm(simplex * np.sqrt(counts), 2) / counts.sum()


def random_problem(seed):
    """Up to seven classes, with blocks of equal counts and all different ones, and any penalty."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 30, size=2 + seed % 6)
    counts = rng.choice(counts[:2], len(counts)) if seed % 3 == 0 else counts
    smoothing = float(rng.choice([0, 0, 0.1, 0.3]))
    return counts.tolist(), float(border(counts, smoothing) * 10 ** rng.uniform(-3, 0)), smoothing


def apart(triple, j, k):
    """Distance of two class means, by their Gram matrix."""
    return math.sqrt(max(float(triple.means[j, j] + triple.means[k, k] - 2 * triple.means[j, k]), 0.0))


@BIASES
@pytest.mark.parametrize("seed", range(10))
def test_it_is_the_least_that_scipy_finds(seed, bias):
    counts, penalty, smoothing = random_problem(seed)
    found = oracles.minimum(
        counts, [penalty], penalty, "ce", bias=bias, smoothing=smoothing, restarts=1, seed=seed
    )
    least = ce_ufm(torch.tensor(counts), penalty, bias, smoothing)
    assert float(least.loss) == pytest.approx(found.loss, rel=1e-12, abs=0)
    for ours, theirs in zip(least.triple, found[1:4], strict=True):
        assert ours.numpy() == pytest.approx(theirs, abs=2e-5 * max(np.abs(theirs).max(), 1))


@pytest.mark.full
@BIASES
@pytest.mark.parametrize("seed", range(10, 160))
def test_it_is_the_least_that_scipy_finds_in_many_problems(seed, bias):
    test_it_is_the_least_that_scipy_finds(seed, bias)


@BIASES
@pytest.mark.parametrize("share", [1e-6, 1e-3, 0.1, 0.999999])
@pytest.mark.parametrize("counts", [[10_000, 3, 3], [7] * 6, FALLING], ids=["steep", "equal", "thirty"])
def test_its_end_is_certified_to_be_the_global_minimum(counts, share, bias):
    # the dual: no singular value of the gradient above the penalty, and equal to it where V Q is not 0
    program = program_of(counts, float(share * border(counts)), bias)
    point = solve(program)
    assert float(program.gradient(point).abs().max()) < 1e-9
    by_product = program.slope(program.logits(point)) * program.scales
    assert float(torch.linalg.matrix_norm(by_product, 2)) <= program.penalty * (1 + 1e-9)
    v, q, _ = program.split(point)
    gain = -float((by_product * (v @ q)).sum())
    assert gain == pytest.approx(
        program.penalty * float(torch.linalg.svdvals(v @ q).sum()), rel=1e-9, abs=0
    )


@pytest.mark.full
@BIASES
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_hundred_classes_are_certified_too(smoothing, bias):
    counts = [round(500 * 0.01 ** (k / 99)) for k in range(100)]
    program = program_of(counts, 1e-4, bias, smoothing)
    point = solve(program)
    by_product = program.slope(program.logits(point)) * program.scales
    assert float(torch.linalg.matrix_norm(by_product, 2)) <= program.penalty * (1 + 1e-9)
    assert float(program.gradient(point).abs().max()) < 1e-9


@BIASES
def test_gradient_and_curvature_are_those_of_the_value(bias):
    program = program_of([7, 3, 2], 0.02, bias, smoothing=0.1)
    generator = torch.Generator().manual_seed(0)
    point, direction = torch.randn(2, 7, 3, generator=generator).double()
    if bias is None:
        point[-1] = direction[-1] = 0
    expected = torch.autograd.functional.jacobian(program.value, point)
    expected[-1] *= bias is not None
    assert torch.allclose(program.gradient(point), expected)
    _, change = torch.autograd.functional.hvp(program.value, point, direction)
    change[-1] *= bias is not None
    assert torch.allclose(program.curvature(point)(direction), change)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("counts", [[9, 5, 3, 2], [4, 4, 4], [20, 20, 4, 4, 4], [7, 1]])
def test_all_is_zero_just_from_a_penalty_on(counts, smoothing):
    penalty = float(border(counts, smoothing))
    for factor in (1.0, 1.03, 30.0):
        nothing = ce_ufm(torch.tensor(counts), factor * penalty * (1 + 1e-13), smoothing=smoothing)
        assert all(not matrix.any() for matrix in nothing.triple)
        assert float(nothing.loss) == pytest.approx(math.log(len(counts)))
    assert ce_ufm(torch.tensor(counts), 0.97 * penalty, smoothing=smoothing).triple.logits.norm() > 0.01


@BIASES
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.15])
@pytest.mark.parametrize("counts", [[20, 20, 4, 4, 4], [50, 9, 2, 2], [30, 12, 12, 3]])
def test_classes_of_a_size_coincide_just_from_their_penalty_on(counts, smoothing, bias):
    penalties = collapse_penalty(torch.tensor(counts), smoothing)
    j, k = torch.isclose(penalties, penalties.min()).nonzero().flatten()[-2:].tolist()
    for factor, coincide in [(0.97, False), (1.03, True)]:
        penalty = factor * float(penalties.min())
        triple = ce_ufm(torch.tensor(counts), penalty, bias, smoothing).triple
        assert (apart(triple, j, k) < 1e-7) == coincide
        assert (float((triple.weights[j] - triple.weights[k]).abs().max()) < 1e-9) == coincide


def test_minority_collapse_has_the_digits_of_the_reference():
    counts = torch.tensor([20, 20, 4, 4, 4])
    assert apart(ce_ufm(counts, 0.98 * 2 / 52).triple, 2, 3) == pytest.approx(0.284309, abs=1e-6)
    assert apart(ce_ufm(counts, 1.02 * 2 / 52).triple, 2, 3) < 1e-8


@BIASES
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("num_classes", [2, 6])
def test_with_equal_counts_it_is_the_closed_form(num_classes, smoothing, bias):
    for penalty in (1e-6, 1e-3, 0.05):
        expected = ce_balanced(num_classes, 5, penalty, penalty, smoothing)
        least = ce_ufm(torch.full((num_classes,), 5), penalty, bias, smoothing)
        assert float(least.loss) == pytest.approx(float(expected.loss), rel=1e-12, abs=0)
        for ours, theirs in zip(least.triple, expected.triple, strict=True):
            assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-8)


def test_it_tends_to_seli_with_the_logarithm_of_the_penalty():
    counts = torch.tensor([10, 10, 1, 1])
    near = frame_gaps(ce_ufm(counts, 1e-3).triple, seli(counts)).tolist()
    assert near == pytest.approx([0.103, 0.173, 0.153], abs=5e-4)
    nearer = frame_gaps(ce_ufm(counts, 1e-6).triple, seli(counts)).tolist()
    assert nearer == pytest.approx([0.051, 0.082, 0.075], abs=5e-4)
    nearest = frame_gaps(ce_ufm(counts, 1e-12).triple, seli(counts)).tolist()
    assert all(0.3 * b < a < 0.6 * b for a, b in zip(nearest, nearer, strict=True))


@pytest.mark.parametrize(("each", "ratio"), [(2, 27.735), (3, 14.577)])
def test_the_layer_peeled_model_collapses_at_its_ratio(each, ratio):
    # there the mean squares of W and of the class means are bounded by 2 each, so that the nuclear norm
    # of the logits is bounded by 2 K; at the threshold its multiplier is the share of a small class
    shares = torch.tensor([ratio] * each + [1.0] * each).double()
    shares = shares / shares.sum()
    program = Program(shares, torch.ones_like(shares), float(shares[-1]))
    nuclear = float(torch.linalg.svdvals(program.logits(solve(program))).sum())
    assert nuclear == pytest.approx(2 * 2 * each, rel=1e-4)


def test_penalties_that_differ_set_the_scale_alone():
    counts, weight_penalty, feature_penalty = [6, 3, 2], 0.04, 0.0025
    found = oracles.minimum(counts, [weight_penalty], feature_penalty, "ce", restarts=1)
    least = ce_ufm(torch.tensor(counts), math.sqrt(weight_penalty * feature_penalty))
    ratio = math.sqrt(feature_penalty / weight_penalty)
    assert float(least.loss) == pytest.approx(found.loss, rel=1e-12, abs=0)
    weights, means, logits = (matrix.numpy() for matrix in least.triple)
    assert ratio * weights == pytest.approx(found.weights, abs=1e-6)
    assert means / ratio == pytest.approx(found.means, abs=1e-6)
    assert logits == pytest.approx(found.logits, abs=1e-6)


def test_shapes_depend_on_the_shares_and_the_penalty_times_the_root_of_the_rows():
    few, many = torch.tensor([6, 3, 2]), torch.tensor([600, 300, 200])
    gaps = frame_gaps(ce_ufm(few, 0.02).triple, ce_ufm(many, 0.002).triple)
    assert gaps.tolist() == pytest.approx([0] * 3, abs=1e-8)
    assert frame_gaps(ce_ufm(few, 0.02).triple, ce_ufm(many, 0.02).triple).min() > 0.01


def test_a_free_bias_leaves_means_whose_average_over_all_rows_is_zero():
    counts = torch.tensor([9, 5, 3, 2])
    free = ce_ufm(counts, 0.01, bias_penalty=0.0)
    assert float((counts.double() @ free.triple.means).abs().max()) < 1e-9
    without, strong = ce_ufm(counts, 0.01), ce_ufm(counts, 0.01, bias_penalty=1e6)
    assert float((counts.double() @ without.triple.means).abs().max()) > 0.1
    assert float(free.loss) < float(without.loss)
    assert float(strong.loss) == pytest.approx(float(without.loss), rel=1e-5)


def test_a_bias_that_learns_the_shares_is_all_that_is_left_under_a_strong_penalty():
    counts = torch.tensor([9, 5, 3, 2])
    shares = counts / 19
    nothing = ce_ufm(counts, 1.0, bias_penalty=0.0)
    assert all(not matrix.any() for matrix in nothing.triple)
    assert float(nothing.loss) == pytest.approx(-float(shares @ shares.log()), rel=1e-6)


def test_counts_may_be_floats_of_any_kind():
    expected = ce_ufm(torch.tensor([3, 2]), 0.05)
    found = ce_ufm(torch.tensor([3.0, 2.0], dtype=torch.bfloat16), 0.05)
    assert torch.equal(found.triple.logits, expected.triple.logits)
    assert found.loss.dtype == found.triple.means.dtype == torch.float64


def test_numbers_out_of_range_are_refused():
    counts = torch.tensor([3, 2])
    with pytest.raises(ValueError, match=r"Expected a penalty above 0.* but got 0\.0, None and 0\.0"):
        ce_ufm(counts, 0.0)
    with pytest.raises(ValueError, match="seli is the limit of weak ones"):
        ce_ufm(counts, 0.1, bias_penalty=-1.0)
    with pytest.raises(ValueError, match=r"label smoothing in \[0, 1\)"):
        ce_ufm(counts, 0.1, smoothing=1.0)
    with pytest.raises(ValueError, match="Expected rows of two classes at least"):
        ce_ufm(torch.tensor([3]), 0.1)
