"""Which geometry a network is nearest to: on exact minima of all families, with noise, and of none."""

import math

import pytest
import torch
from support.triples import collapsed, factors, network_of, noisy

from lightning_nc import LinearClassifier
from lightning_nc.functional.frames import (
    Triple,
    class_shares,
    etf,
    gof,
    gof_centered,
    gof_limit,
    gof_shape,
    orthogonal,
    seli,
)
from lightning_nc.functional.frames.ce_program import ce_ufm
from lightning_nc.functional.frames.cross_entropy import relu_ce
from lightning_nc.functional.frames.squared_error import centered_directions
from lightning_nc.functional.imbalance.families import gof_curve
from lightning_nc.functional.imbalance.nearest import nearest_geometry
from lightning_nc.functional.imbalance.unconstrained import UnconstrainedFeatures

N = torch.tensor([9, 5, 3, 2])
TAU = 0.0114
WITH_PROGRAM = {"as_they_are": ("of", "gof", "relu_ce", "seli", "etf", "ce_ufm"),
                "centered": ("etf", "gof_centered", "seli", "ce_ufm")}  # fmt: skip
FEATURES = TAU / 19 / 0.06  # lambda_H of the table's M = 1


def nearest(triple, num_layers=1, **names):
    return nearest_geometry(*network_of(triple, N), num_layers=num_layers, **names)


def at_its_scale(shape, tau):
    """Of which weights and means make these logits."""
    return shape._replace(means=shape.means / tau)


def deep(num_layers, tau):
    """A minimum of a head with so many layers."""
    penalty = (tau / 19) ** (1 / (num_layers + 1))
    return gof(N, [penalty] * num_layers, penalty).triple


@pytest.mark.parametrize(
    ("triple", "num_layers", "family", "parameter", "second", "distance"),
    [
        (gof(N, [0.06], FEATURES).triple, 1, "gof", TAU, "gof_limit", 0.080),
        (deep(2, 1.7e-4), 2, "gof", 1.7e-4, None, None),
        (deep(3, 4e-6), 3, "gof", 4e-6, None, None),
        (relu_ce(N, 0.005, 0.004).triple, 1, "relu_ce", math.sqrt(19 * 2e-5 * 0.75), "seli", 0.312),
        (orthogonal(4), 1, "of", None, None, None),
        (gof_limit(N), 1, "gof_limit", None, "gof_2", None),
        (seli(N), 1, "seli", None, "etf", None),
    ],
)
def test_exact_minima_are_recognized(triple, num_layers, family, parameter, second, distance):
    ranked = nearest(triple, num_layers).as_they_are
    assert ranked.verdict == family or (family == "gof_limit" and ranked.verdict == "gof")
    best = ranked.of(family)
    assert best.rms < 1e-6
    if parameter is not None:
        assert best.value == pytest.approx(parameter, rel=2e-5)
        assert best.parameter == ("r" if family == "relu_ce" else "tau")
    if distance is not None:
        others = [f for f in ranked.fits if f.family not in (family, f"gof_{num_layers}")]
        assert (others[0].family, round(others[0].rms, 3)) == (
            second,
            pytest.approx(distance, abs=1e-3),
        )


def test_a_free_bias_and_a_simplex_are_recognized_by_centered_means():
    ranked = nearest(gof_centered(N, [0.06], FEATURES).triple, **WITH_PROGRAM)
    assert ranked.centered.verdict == "gof_centered"
    assert ranked.centered.of("gof_centered").value == pytest.approx(TAU, rel=2e-5)
    assert ranked.as_they_are.verdict == "none"
    # and so does a common shift of all means, of which theory without a center knows nothing
    for triple, family in ((etf(4), "etf"), (seli(N), "seli")):
        weight, means = factors(triple)
        shifted = collapsed(means + torch.linspace(1, 2, means.shape[1]), N)
        found = nearest_geometry(shifted, LinearClassifier(weight)).centered
        assert found.verdict == family
        assert found.of(family).rms < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [0.0107, 4.4e-6])
def test_cross_entropy_is_recognized_by_its_program(penalty):
    triple = ce_ufm(N, penalty / 19**0.5).triple
    ranked = nearest(triple, as_they_are=WITH_PROGRAM["as_they_are"]).as_they_are
    assert ranked.verdict == "ce_ufm"
    assert ranked.of("ce_ufm").value == pytest.approx(penalty, rel=2e-3)
    assert ranked.of("ce_ufm").rms < 1e-4
    assert ranked.fits[1].family == "seli"
    assert ranked.margin == pytest.approx({0.0107: 0.085, 4.4e-6: 0.037}[penalty], abs=1e-3)
    assert ranked.of("etf").rms == pytest.approx({0.0107: 0.202, 4.4e-6: 0.189}[penalty], abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_one_percent_of_noise_changes_no_verdict(seed):
    """Of Gram matrices and logits; the distance is that of the noise."""
    for triple, family in (
        (gof(N, [0.06], FEATURES).triple, "gof"),
        (relu_ce(N, 0.005, 0.004).triple, "relu_ce"),
        (orthogonal(4), "of"),
    ):
        measured = noisy(triple, 0.01, seed)
        fits = {
            name: family_of(name).fit(measured).rms for name in ("of", "gof", "relu_ce", "etf", "seli")
        }
        assert min(fits, key=fits.get) in ({"gof", "of"} if family == "of" else {family})
        assert fits[family] < 0.02


def family_of(name):
    from lightning_nc.functional.imbalance.candidates import Problem, family

    return family(name, False, Problem(tuple(N.tolist())))


def test_one_percent_of_noise_leaves_a_parameter_as_uncertain_as_it_is():
    curve, spread = gof_curve(class_shares(N)), {}
    for tau in (1e-3, 1e-6):
        shape = gof_shape(N, tau)
        fits = [curve.fit(noisy(shape, 0.01, seed)) for seed in range(60)]
        logs = [math.log(fit.value) for fit in fits if fit.value is not None]
        spread[tau] = torch.tensor(logs).std(), 60 - len(logs)
    assert 0.1 < spread[1e-3][0] < 0.3
    assert spread[1e-3][1] == 0
    assert spread[1e-6][0] > 1
    assert spread[1e-6][1] > 10  # of which no parameter is told


def test_a_dead_class_of_a_deep_head_is_masked():
    counts, m, tau = torch.tensor([60, 30, 15, 8]), 3, 3e-5
    alive = torch.tensor([True, True, True, False])
    shape = at_its_scale(gof_shape(counts, tau, m, 1, alive), tau)
    found = nearest_geometry(*network_of(shape, counts), num_layers=m).as_they_are
    assert found.verdict == "gof"
    assert found.of("gof").value == pytest.approx(tau, rel=1e-4)
    assert found.of("gof").rms < 1e-6


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_each_layer_of_a_head_has_its_own_target(layer):
    shape = at_its_scale(gof_shape(N, 4e-6, 3, layer), 4e-6)
    found = nearest_geometry(*network_of(shape, N), num_layers=3, layer=layer).as_they_are
    assert found.of("gof").value == pytest.approx(4e-6, rel=1e-4)
    assert found.of("gof").rms < 1e-6


def test_fewer_features_than_classes_leave_room_for_the_largest():
    least = gof(N, [0.06], FEATURES, num_features=3).triple
    weight, means = (rows[:, -3:] for rows in factors(least))  # the others are zero
    found = nearest_geometry(collapsed(means, N), LinearClassifier(weight)).as_they_are
    assert found.of("gof").rms < 1e-6
    assert found.of("gof").value == pytest.approx(TAU, rel=1e-4)


def test_logits_alone_prove_nothing():
    """Any network that fits one-hot labels has the identity as its logits."""
    torch.manual_seed(0)
    means = torch.randn(4, 6, dtype=torch.float64)
    weight = torch.linalg.pinv(means).T
    found = nearest_geometry(collapsed(means, N), LinearClassifier(weight))
    assert (found.as_they_are.verdict, found.centered.verdict) == ("none", "none")
    assert found.as_they_are.of("of").gaps[2] < 1e-10
    assert "above 0.1" in found.as_they_are.reason


def test_without_collapse_there_is_no_verdict():
    loose = nearest_geometry(*network_of(orthogonal(4), N, spread=0.2)).as_they_are
    assert loose.verdict == "none"
    assert "have not collapsed" in loose.reason
    assert nearest_geometry(*network_of(orthogonal(4), N, spread=0.01)).as_they_are.verdict == "of"


def test_with_equal_counts_each_geometry_is_reported_once():
    n = torch.full((4,), 6)
    found = nearest_geometry(*network_of(orthogonal(4), n)).as_they_are
    assert found.verdict == "of"
    assert found.of("gof").value is None
    distance = math.sqrt(2 - 2 * math.sqrt(3 / 4))
    assert found.margin == pytest.approx(
        math.sqrt((distance**2 + 0 + distance**2) / 3), abs=1e-6
    )  # relu_ce, whose class means are orthogonal as well
    simplex = nearest_geometry(*network_of(etf(4), n)).centered
    assert simplex.verdict == "etf"
    assert math.isnan(simplex.margin)  # all of them are the simplex


def test_zeros_have_no_geometry():
    nothing = Triple(*(torch.zeros(4, 4, dtype=torch.float64),) * 3)
    found = nearest_geometry(*network_of(nothing, N))
    assert found.as_they_are.verdict == "none"
    assert found.as_they_are.reason == "weights or class means are zero"
    assert all(math.isnan(fit.rms) for fit in found.as_they_are.fits)


def test_the_end_of_a_family_tells_no_parameter():
    found = nearest(gof_limit(N)).as_they_are.of("gof")
    assert (found.value, found.at_bound) == (None, True)
    assert "at the end of its range" in str(nearest(gof_limit(N)))


def test_classes_in_another_order_are_the_same_geometry():
    triple, order = relu_ce(N, 0.005, 0.004).triple, torch.tensor([2, 0, 3, 1])
    weight, means = factors(triple)
    here = nearest_geometry(collapsed(means, N), LinearClassifier(weight))
    there = nearest_geometry(collapsed(means[order], N[order]), LinearClassifier(weight[order]))
    for one, other in ((here.as_they_are, there.as_they_are), (here.centered, there.centered)):
        distances = {fit.family: fit.rms for fit in other.fits}
        assert all(distances[fit.family] == pytest.approx(fit.rms, abs=1e-6) for fit in one.fits)


def test_training_counts_set_the_geometry_and_not_those_of_the_rows():
    weight, means = factors(gof(N, [0.06], FEATURES).triple)
    balanced = collapsed(means, [5, 5, 5, 5])
    told = nearest_geometry(balanced, LinearClassifier(weight), counts=N).as_they_are
    untold = nearest_geometry(balanced, LinearClassifier(weight)).as_they_are
    assert told.of("gof").rms < 1e-6
    assert untold.of("gof").rms > 0.1


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="4 counts and 'simplex'"):
        nearest(etf(4), as_they_are=["simplex"])


def test_two_classes_have_their_geometries_too():
    n = torch.tensor([9, 4])
    found = nearest_geometry(*network_of(gof_centered(n, [0.06], 0.01).triple, n)).centered
    assert found.of("gof_centered").rms < 1e-7
    assert found.of("gof_centered").value is None
    uncentered = nearest_geometry(*network_of(gof(n, [0.06], 0.01).triple, n)).as_they_are
    assert uncentered.verdict == "gof"
    assert uncentered.of("gof").value == pytest.approx(13 * 0.06 * 0.01, rel=1e-4)


@pytest.mark.parametrize("num_dead", [4, 5, 7])
def test_a_head_of_which_most_classes_are_dead_is_read_by_the_others(num_dead):
    counts, tau = torch.tensor([60, 48, 38, 30, 24, 19, 15, 12, 10, 8]), 2e-6
    alive = torch.arange(10) < 10 - num_dead
    shape = noisy(at_its_scale(gof_shape(counts, tau, 2, 1, alive), tau), 1e-5, seed=0)
    found = nearest_geometry(*network_of(shape, counts), num_layers=2).as_they_are
    assert found.verdict == "gof"
    assert found.of("gof").value == pytest.approx(tau, rel=0.05)


@pytest.mark.parametrize("seed", [1, 7])
def test_counts_that_repeat_have_their_decompositions(seed):
    """For which an SVD has failed to converge: K = 800 with seed 1, K = 500 with seed 7."""
    num_classes = {1: 800, 7: 500}[seed]
    rng = torch.Generator().manual_seed(seed)
    counts = torch.randint(20, 60, (num_classes,), generator=rng)
    left, squares, right = centered_directions(counts)
    p = class_shares(counts)
    labels = (left * squares.sqrt()) @ (right * p.sqrt()[:, None]).T
    assert torch.allclose(labels, p.sqrt().diag() - p[:, None] * p.sqrt(), atol=1e-12)
    simplex = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    target = seli(counts)
    assert torch.allclose(target.weights @ target.weights, (simplex * p) @ simplex, atol=1e-12)


def test_two_classes_have_one_centered_geometry():
    n = torch.tensor([9, 4])
    found = nearest_geometry(*network_of(etf(2), n)).centered
    assert math.isnan(found.margin)
    assert found.verdict == "etf"


def test_a_free_bias_has_its_own_threshold():
    counts = (500, 10)
    for bias, highest in ((None, 0.0313), (0.0, 0.0087)):
        family = UnconstrainedFeatures(counts, bias)
        assert family.highest == pytest.approx(highest, abs=1e-4)
        below, above = (family.member(share * family.highest).means for share in (0.98, 1.02))
        assert float(above.norm()) == 0
        assert float(below.norm()) > 0
