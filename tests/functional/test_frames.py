"""Geometries of the squared error, and those without a parameter, against numerical minima."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.frame_oracles import minimum
from support.problems import unchecked_shapes

from lightning_nc.functional.frames import (
    Triple,
    centered,
    class_shares,
    class_states,
    etf,
    frame_gaps,
    gains,
    gof,
    gof_centered,
    gof_centered_shape,
    gof_limit,
    gof_shape,
    gram_triple,
    orthogonal,
    rms,
    seli,
    smallest_surviving_share,
    spinodal,
    survival_threshold,
)


def close(value, expected, within):
    return torch.allclose(value, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=within)


def require_minimum(found, expected, within=1e-5):
    """Loss and the three matrices are those of the numerical minimum, relative to their size."""
    assert float(expected.loss) == pytest.approx(found.loss, rel=1e-8)
    for ours, theirs in zip(expected.triple, (found.weights, found.means, found.logits), strict=True):
        assert close(ours, theirs, within * max(1e-2, np.abs(theirs).max()))


def test_general_orthogonal_frame_has_its_published_lengths():
    least = gof(torch.tensor([200, 100, 50, 50]), [5e-4], 5e-4).triple
    assert close(least.weights.diagonal(), [13.94213562, 9.8, 6.87106781, 6.87106781], 1e-7)
    assert close(least.means.diagonal(), [0.06971068, 0.098, 0.13742136, 0.13742136], 1e-8)
    assert close(least.logits.diagonal(), [0.98585786, 0.98, 0.97171573, 0.97171573], 1e-8)


def test_that_of_two_layers_too():
    penalty, n = 0.01, torch.tensor([8, 4, 2, 2])
    least = gof(n, [penalty, penalty], penalty)
    g = least.triple.logits.diagonal()
    x = (g / (1 - g)).sqrt()  # the unknown of the paper's equation
    assert close(x, [4.86388322, 3.79479640, 2.92619433, 2.92619433], 1e-7)
    assert close(
        least.triple.weights.diagonal(), [3.78517760, 2.30407675, 1.37001813, 1.37001813], 1e-7
    )
    assert float(least.loss) == pytest.approx(0.08937160, abs=1e-8)


def random_problem(number):
    """Counts and penalties, of which some let classes vanish."""
    rng = np.random.default_rng(number)
    num_classes, num_layers = int(rng.integers(2, 6)), 1 + number % 3
    counts = rng.integers(1, 30, num_classes)
    share = counts / counts.sum()
    # the threshold of a class in the middle, times or by up to 30
    at = survival_threshold(num_layers) * np.sort(share)[num_classes // 2] ** num_layers
    tau = at * 30 ** rng.uniform(-1.3, 0.6)
    split = rng.dirichlet(np.ones(num_layers + 1) * 5)
    penalties = (tau / counts.sum()) ** split
    return counts.tolist(), penalties[:-1].tolist(), float(penalties[-1])


@pytest.mark.parametrize("number", range(50))
def test_it_is_the_global_minimum(number):
    counts, weight_penalties, feature_penalty = random_problem(number)
    found = minimum(counts, weight_penalties, feature_penalty, restarts=6, seed=number)
    require_minimum(found, gof(torch.tensor(counts), weight_penalties, feature_penalty))


def test_the_problems_have_classes_that_live_and_classes_that_vanish():
    states = set()
    for number in range(50):
        counts, weights, features = random_problem(number)
        tau = sum(counts) * features * math.prod(weights)
        states |= {(len(weights), s) for s in class_states(torch.tensor(counts), tau, len(weights))}
    assert states >= {(m, state) for m in (1, 2, 3) for state in ("alive", "dead")}
    assert states >= {(3, "bistable")}


@pytest.mark.parametrize(
    ("counts", "penalties"), [([9, 5, 3, 2], [0.06]), ([6, 3, 2], [0.05, 0.04]), ([30, 4, 1], [0.09])]
)
def test_with_a_free_bias_it_is_the_centered_frame(counts, penalties):
    found = minimum(counts, penalties, 0.01, bias="free", restarts=8)
    least = gof_centered(torch.tensor(counts), penalties, 0.01)
    require_minimum(found, least)
    shares = class_shares(torch.tensor(counts))
    assert close(shares - least.triple.logits @ shares, found.bias, 1e-6)


@pytest.mark.parametrize("number", range(30))
def test_with_a_free_bias_it_is_the_global_minimum(number):
    counts, weight_penalties, feature_penalty = random_problem(number)
    found = minimum(counts, weight_penalties, feature_penalty, bias="free", restarts=8, seed=number)
    require_minimum(found, gof_centered(torch.tensor(counts), weight_penalties, feature_penalty))


def test_relu_features_change_nothing_without_a_bias():
    counts = [6, 3, 2]
    found = minimum(counts, [0.02], 0.02, relu=True, restarts=6)
    require_minimum(found, gof(torch.tensor(counts), [0.02], 0.02))


def test_with_fewer_features_than_classes_the_largest_live():
    counts = [9, 5, 3, 2]
    found = minimum(counts, [0.02], 0.02, width=3, restarts=12)
    require_minimum(found, gof(torch.tensor(counts), [0.02], 0.02, num_features=3))


@pytest.mark.parametrize("num_layers", [1, 2, 3, 6])
def test_gains_solve_their_equation_up_to_the_spinodal(num_layers):
    m, limit = num_layers, spinodal(num_layers)
    right = limit * torch.tensor([1e-12, 1e-6, 1e-2, 0.3, 0.9, 0.999999], dtype=torch.float64)
    all_live = torch.ones(6, dtype=torch.bool)
    g = gains(right, m, all_live)
    assert torch.allclose((1 - g) ** (m + 1) * g ** (m - 1), right, rtol=1e-9, atol=0)
    assert bool((g > (m - 1) / (2 * m) - 1e-3).all())
    globally = gains(right, m)
    assert torch.equal(globally > 0, right < survival_threshold(m))
    assert not gains(right, m, ~all_live).any()


def test_a_dead_class_is_bistable_between_threshold_and_spinodal():
    assert (survival_threshold(2), survival_threshold(3)) == (1 / 16, 4 / 729)
    for m in (2, 3):
        inside = (survival_threshold(m) + spinodal(m)) / 2
        n = torch.tensor([1, 1])
        assert class_states(n, inside / 2**m, m) == ["bistable", "bistable"]
        assert class_states(n, spinodal(m) * 1.01 / 2**m, m) == ["dead", "dead"]
    assert smallest_surviving_share(4 / 729 * 0.2**3, 3) == pytest.approx(0.2)


def test_layers_of_a_head_have_the_geometry_of_their_place():
    """W_3 W_2 at layer 2 of three, by the numerical minimum's own weights."""
    counts, penalties = [9, 6, 4], [0.02, 0.02, 0.02]
    found = minimum(counts, penalties, 0.01, restarts=8)
    first, second, third = found.layers
    tau = sum(counts) * 0.01 * 0.02**3
    for layer, product, h in (
        (1, third @ second @ first, found.features),
        (2, third @ second, first @ found.features),
        (3, third, second @ first @ found.features),
    ):
        measured = gram_triple(torch.tensor(h.T), torch.tensor(product))
        assert float(rms(frame_gaps(measured, gof_shape(torch.tensor(counts), tau, 3, layer)))) < 1e-4


def test_weak_regularization_tends_to_its_limit():
    counts = torch.tensor([40, 9, 3])
    for m, layer in ((1, 1), (2, 1), (3, 2)):
        gaps = [
            float(rms(frame_gaps(gof_shape(counts, tau, m, layer), gof_limit(counts, m, layer))))
            for tau in (1e-6, 1e-9, 1e-12)
        ]
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[-1] < 0.01


def test_equal_counts_give_the_simplex_and_the_orthogonal_frame():
    n = torch.full((4,), 7)
    for target, expected in (
        (gof_shape(n, 1e-4), orthogonal(4)),
        (gof_centered_shape(n, 1e-4), etf(4)),
        (seli(n), etf(4)),
    ):
        assert float(rms(frame_gaps(target, expected))) < 1e-14
    distance = math.sqrt(2 - 2 * math.sqrt(3 / 4))
    assert close(frame_gaps(etf(4), orthogonal(4)), [distance] * 3, 1e-8)


def test_seli_has_its_published_singular_values():
    scaled = seli(torch.tensor([4, 4, 1, 1])).weights * math.sqrt(10)
    assert close(torch.linalg.eigvalsh(scaled).flip(0)[:3], [2, 1.58113883, 1], 1e-8)
    assert close(scaled.diagonal(), [1.39528471, 1.39528471, 0.89528471, 0.89528471], 1e-8)
    assert float(scaled[0, 1] / scaled[0, 0]) == pytest.approx(-0.43339921, abs=1e-8)


def test_the_triple_of_centered_means_is_the_centered_triple():
    torch.manual_seed(0)
    mu, w, n = torch.randn(4, 6), torch.randn(4, 6), torch.tensor([5, 3, 2, 1])
    for ours, theirs in zip(
        gram_triple(mu, w, center=n), centered(gram_triple(mu, w), class_shares(n)), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-12)
    moved = gram_triple(mu + 3.0, w, center=n)
    assert torch.allclose(moved.means, gram_triple(mu, w, center=n).means, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 6), st.integers(0, 10**6), st.floats(0.01, 100))
def test_rotations_and_scales_change_no_gap(num_classes, seed, scale):
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=rng, dtype=torch.float64)  # noqa: E731
    mu, w = draw(num_classes, 7), draw(num_classes, 7)
    turn = torch.linalg.qr(draw(7, 7)).Q
    target = Triple(*(a @ a.T for a in draw(3, num_classes, num_classes)))
    gaps = frame_gaps(gram_triple(mu, w), target)
    turned = frame_gaps(gram_triple(scale * mu @ turn, w @ turn / scale**2), target)
    assert torch.allclose(gaps, turned, atol=1e-12)
    assert bool((gaps <= 2).all())


@pytest.mark.parametrize("counts", [[3], [3, 0]])
def test_a_class_without_rows_is_refused(counts):
    with pytest.raises(ValueError, match="Expected rows of two classes at least"):
        gof_shape(torch.tensor(counts), 0.1)


@pytest.mark.parametrize(("weights", "features"), [([0.1, 0.0], 0.1), ([0.1], 0.0), ([], 0.1)])
def test_without_a_penalty_there_is_no_minimum(weights, features):
    with pytest.raises(ValueError, match="Without one there is no minimum"):
        gof(torch.tensor([3, 2]), weights, features)


def test_shapes_that_differ_are_refused():
    with (
        unchecked_shapes(),
        pytest.raises(ValueError, match="Expected a weight of the shape of the class means"),
    ):
        gram_triple(torch.ones(3, 2), torch.ones(4, 2))
