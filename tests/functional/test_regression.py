"""NRC1 to NRC3 and R^2 are those of an independent reference, obey their laws, and know their ends."""

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from support import regression_oracles as oracles

from lightning_nc.functional import regression
from lightning_nc.functional.regression import spectrum
from lightning_nc.values import FeatureSample, UndefinedMeasure
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.joint import JointMoments, LinearReadout
from lightning_nc.values.regression import RegressionEvidence


def stage(h, y, weight=None):
    """All that a stage leaves of rows, with their sample."""
    h, y = torch.as_tensor(h), torch.as_tensor(y)
    sample = FeatureSample(h, torch.zeros(len(h), dtype=torch.long), None, len(h))
    head = None if weight is None else LinearClassifier(torch.as_tensor(weight))
    found = RegressionEvidence(JointMoments.from_batch(h, y), head, sample)
    counted = regression.centered_rows_of_own_rows(found, found)
    return RegressionEvidence(found.joint, head, sample, counts={"centered_rows": counted})


def drawn(seed, rows=80, width=9, n=3, spread=0.3, offset=0.0):
    rng = np.random.default_rng(seed)
    h, y, weight = oracles.collapsed(rng, rows, width, n, spread, offset)
    return h, y, weight + 0.1 * rng.standard_normal(weight.shape)


@pytest.mark.parametrize("spread", [1.0, 0.1, 1e-3])
@pytest.mark.parametrize("offset", [0.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_measures_are_those_of_the_rows(seed, spread, offset):
    n = 1 + seed % 4
    h, y, weight = drawn(seed, n=n, spread=spread, offset=offset)
    found = stage(h, y, weight)
    joint, readout, centered = found.joint, found.readout, found.centered_rows
    pairs = {
        "NRC1": (regression.feature_collapse(joint), oracles.feature_collapse(h, y)),
        "outside": (regression.outside_variance(joint), oracles.outside_variance(h, y)),
        "NRC2": (regression.row_space(joint, readout), oracles.row_space_share(h, weight)),
        "R2": (regression.r2_linear(joint), oracles.r2_linear(h, y)),
        "NRC1 centered": (
            regression.feature_collapse_centered(centered, joint),
            oracles.feature_collapse_centered(h, y),
        ),
        "NRC2 centered": (
            regression.row_space_centered(centered, readout),
            oracles.row_space_share_centered(h, weight),
        ),
    }
    for name, (got, expected) in pairs.items():
        assert float(got) == pytest.approx(expected, rel=1e-8, abs=1e-12), name


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["near the root", "less some of it", "less too much", "anything"])
def test_the_fitted_gamma_is_the_best_one(kind, seed):
    rng = np.random.default_rng(seed)
    n = 2 + seed % 4
    h, y, _ = oracles.collapsed(rng, 60, 8, n, 0.2)
    sigma = oracles.covariance(y)
    root, least = oracles.root(sigma), np.sqrt(np.linalg.eigvalsh(sigma)[0])
    share = {"near the root": 0.0, "less some of it": rng.uniform(), "less too much": 0.9}
    if kind == "anything":
        weight = rng.standard_normal((n, 8)) * rng.uniform(0.01, 10)
    else:
        target = root - share[kind] * least * np.eye(n)
        if kind == "less too much":  # of W W' as of a gamma above the smallest variance
            values, vectors = np.linalg.eigh(root)
            target = (vectors * np.maximum(values - 1.3 * least, 0)) @ vectors.T
        rotation = np.linalg.qr(rng.standard_normal((8, n)))[0].T
        weight = (oracles.root(target) + 1e-3 * rng.standard_normal((n, n))) @ rotation
    joint, readout = stage(h, y).joint, LinearReadout(torch.from_numpy(weight))
    value, gamma = oracles.least_gram_distance(weight, sigma)
    found = float(regression.gram_distance(joint, readout))
    assert found <= value + 1e-12
    assert found == pytest.approx(value, rel=1e-6, abs=1e-9)
    found_gamma = float(regression.gamma(joint, readout))
    assert 0 <= found_gamma <= least**2 * (1 + 1e-12)
    # flat at its minimum, and cut off just below the smallest variance
    assert found_gamma == pytest.approx(gamma, rel=1e-4, abs=1e-6 * least**2)
    at_zero = oracles.gram_distance(weight, sigma, 0.0)
    assert float(regression.gram_distance_at_zero(joint, readout)) == pytest.approx(at_zero, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_networks_own_share_is_that_of_its_rows(seed):
    n = 1 + seed
    h, y, weight = drawn(seed, n=n, offset=2.0)
    bias = np.random.default_rng(seed).standard_normal(n)
    joint, whole = stage(h, y).joint, LinearReadout(*map(torch.from_numpy, (weight, bias)))
    expected = oracles.r2_readout(h, y, weight, bias)
    assert float(regression.r2_readout(joint, whole)) == pytest.approx(expected, rel=1e-12)
    assert expected < oracles.r2_linear(h, y)
    without = float(regression.r2_readout(joint, LinearReadout(whole.weight.float())))
    assert without == pytest.approx(oracles.r2_readout(h, y, weight, np.zeros(n)), rel=1e-5)
    turned = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    moved = LinearReadout(torch.from_numpy(3 * turned @ weight), torch.from_numpy(3 * turned @ bias))
    found = regression.r2_readout(stage(h, 3 * y @ turned.T).joint, moved)
    assert float(found) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("lacks", [1e-2, 1e-4, 1e-5, 1e-9])
def test_what_a_good_network_lacks_has_five_digits_down_to_1e_10(lacks):
    rng = np.random.default_rng(0)
    h = rng.standard_normal((400, 6)) + 1
    weight, bias = rng.standard_normal((2, 6)), rng.standard_normal(2)
    y = h @ weight.T + bias + lacks * rng.standard_normal((400, 2))
    found = regression.r2_readout(
        stage(h, y).joint, LinearReadout(*map(torch.from_numpy, (weight, bias)))
    )
    expected = np.sum((h @ weight.T + bias - y) ** 2) / np.sum((y - y.mean(0)) ** 2)
    assert 1 - float(found) == pytest.approx(expected, rel=1e-5, abs=2e-15)
    assert float(found) <= 1


def test_constant_targets_have_no_share():
    found = stage(torch.randn(9, 4), torch.full((9, 2), 0.1), torch.ones(2, 4))
    with pytest.raises(UndefinedMeasure, match="all targets are constant"):
        regression.r2_readout(found.joint, found.readout)


def test_targets_that_the_loss_has_standardized_show():
    h, y, _ = drawn(0, spread=0.0)
    z = (y - y.mean(0)) / y.std(0)
    best = np.linalg.lstsq(np.column_stack([h, np.ones(len(h))]), z, rcond=None)[0].T
    readout = LinearReadout(torch.from_numpy(best[:, :-1]), torch.from_numpy(best[:, -1]))
    assert float(regression.r2_readout(stage(h, z).joint, readout)) > 1 - 1e-9
    assert float(regression.r2_readout(stage(h, 10 * y + 5).joint, readout)) < 0.2
    assert float(regression.r2_linear(stage(h, 10 * y + 5).joint)) > 1 - 1e-9


def joint_of_covariance(sigma, width=3):
    """Of targets with just this covariance."""
    values, vectors = np.linalg.eigh(np.asarray(sigma, dtype=float))
    n = len(values)
    axes = np.sqrt(n * values)[:, None] * vectors.T
    y = torch.from_numpy(np.concatenate([axes, -axes]))
    return JointMoments.from_batch(torch.zeros(2 * n, width).double(), y)


def test_the_closed_form_values_of_two_targets():
    joint = joint_of_covariance(np.diag([2, 0.5]))
    readout = LinearReadout(torch.diag(torch.tensor([1.8, 0.8], dtype=torch.float64).sqrt()))
    assert float(regression.gamma(joint, readout)) == pytest.approx(0.02, rel=1e-10)
    assert float(regression.gram_distance(joint, readout)) < 1e-20
    assert float(regression.gram_distance_at_zero(joint, readout)) == pytest.approx(
        0.00206292, abs=5e-9
    )


@pytest.mark.parametrize("seed", range(5))
def test_targets_of_equal_variances_take_no_gamma(seed):
    """What rounding makes of their differences is no direction to subtract from."""
    rng = np.random.default_rng(seed)
    sigma = np.eye(3) * 0.3 + 1e-14 * np.diag(rng.standard_normal(3))
    joint = joint_of_covariance(sigma)
    readout = LinearReadout(torch.from_numpy(rng.standard_normal((3, 3))))
    assert float(regression.gamma(joint, readout)) == 0
    assert regression.gram_distance(joint, readout) == regression.gram_distance_at_zero(joint, readout)


MEASURES = {
    "NRC1": lambda s: regression.feature_collapse(s.joint),
    "outside variance": lambda s: regression.outside_variance(s.joint),
    "NRC1 centered": lambda s: regression.feature_collapse_centered(s.centered_rows, s.joint),
    "NRC2": lambda s: regression.row_space(s.joint, s.readout),
    "NRC2 centered": lambda s: regression.row_space_centered(s.centered_rows, s.readout),
    "NRC3": lambda s: regression.gram_distance(s.joint, s.readout),
    "NRC3 at zero": lambda s: regression.gram_distance_at_zero(s.joint, s.readout),
    "R2": lambda s: regression.r2_linear(s.joint),
}
CENTERED = {"outside variance", "NRC1 centered", "NRC2 centered", "R2"}


def values_of(h, y, weight):
    found = stage(h, y, weight)
    return {name: float(measure(found)) for name, measure in MEASURES.items()}


@settings(deadline=None, max_examples=25)
@for_all(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-6, 0.3, 1e5]))
def test_laws_of_the_measures(seed, scale):
    rng = np.random.default_rng(seed)
    h, y, weight = drawn(seed, offset=0.5)
    before = values_of(h, y, weight)
    turn = np.linalg.qr(rng.standard_normal((9, 9)))[0]
    spin = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    order = rng.permutation(len(h))
    same = {
        "rotation of h": (h @ turn, y, weight @ turn),
        "scale of h": (h * scale, y, weight),
        "scale of W": (h, y, weight * scale),
        "rotation of y": (h, y @ spin, spin.T @ weight),
        "scale of y": (h, y * scale, weight),
        "shift of y": (h, y + 3.0, weight),
        "order of rows": (h[order], y[order], weight),
        "rows twice": (np.concatenate([h, h]), np.concatenate([y, y]), weight),
    }
    for law, changed in same.items():
        assert values_of(*changed) == pytest.approx(before, rel=1e-7, abs=1e-10), law
    shifted = values_of(h + rng.standard_normal(9), y, weight)
    for name in CENTERED:
        assert shifted[name] == pytest.approx(before[name], rel=1e-7, abs=1e-10), name
    assert abs(shifted["NRC1"] - before["NRC1"]) > 1e-4  # it looks at rows that are not centered


def test_exact_collapse_is_0():
    h, y, _ = oracles.collapsed(np.random.default_rng(0), 50, 9, 3)
    weight = np.linalg.lstsq(h, y, rcond=None)[0].T
    found = values_of(h, y, weight)
    for name in set(found) - {"NRC3", "NRC3 at zero", "R2"}:
        assert abs(found[name]) < 1e-12, name
    assert found["R2"] == pytest.approx(1, abs=1e-12)
    root = oracles.root(oracles.root(oracles.covariance(y)))
    matched = stage(h, y, root @ np.linalg.qr(h.T @ y)[0].T)
    assert float(regression.gram_distance_at_zero(matched.joint, matched.readout)) < 1e-12


def test_features_without_structure_are_outside_as_chance_has_it():
    rng = np.random.default_rng(0)
    n, d = 2, 40
    h, y = rng.standard_normal((4000, d)), rng.standard_normal((4000, n))
    found = values_of(h, y, rng.standard_normal((n, d)))
    for name in ("NRC1", "NRC1 centered", "NRC2", "NRC2 centered", "outside variance"):
        assert found[name] == pytest.approx(1 - n / d, abs=0.01), name
    assert 0 < found["R2"] < 0.03


def test_a_mean_is_a_floor_of_rows_that_are_not_centered_alone():
    h, y, _ = oracles.collapsed(np.random.default_rng(0), 200, 9, 2, offset=1.0)
    found = values_of(h, y, np.linalg.lstsq(h - h.mean(0), y, rcond=None)[0].T)
    assert found["NRC1"] > 0.2
    assert found["NRC2"] > 0.2
    assert found["NRC1 centered"] < 1e-12
    assert found["NRC2 centered"] < 1e-12
    assert found["outside variance"] < 1e-12


def test_rows_at_the_mean_have_no_direction():
    h, y, weight = drawn(0)
    h = np.concatenate([h - h.mean(0), np.zeros((20, 9))])
    y = np.concatenate([y, np.zeros((20, 3))])
    found = stage(h, y, weight)
    assert float(found.centered_rows.weight) == 80
    expected = oracles.feature_collapse_centered(h[:80], y[:80])
    assert MEASURES["NRC1 centered"](found) == pytest.approx(expected, rel=1e-9)


def test_a_sample_stands_for_its_rows():
    h, y, weight = drawn(0)
    whole = stage(h, y, weight)
    part = FeatureSample(torch.from_numpy(h[:20]), torch.zeros(20, dtype=torch.long), None, 80)
    part.target[:5] = -1
    own = RegressionEvidence(whole.joint, whole.head, part)
    counted = regression.centered_rows_of_own_rows(own, whole)
    assert float(counted[0]) == pytest.approx(80)
    half = regression.centered_rows_of_own_rows(stage(h[5:20], y[5:20]), whole)
    assert (counted / counted[0]).tolist() == pytest.approx((half / half[0]).tolist())


def test_a_rank_without_a_sample_counts_nothing():
    h, y, weight = drawn(0)
    whole = stage(h, y, weight)
    for sample in (None, FeatureSample(torch.zeros(0, 9), torch.zeros(0).long(), None, 0)):
        own = RegressionEvidence(whole.joint, None, sample)
        assert regression.centered_rows_of_own_rows(own, whole).tolist() == [0, 0, 0]


def test_features_that_leave_the_range_of_the_numbers_are_not_counted():
    h, y, weight = drawn(0)
    assert stage(h * 1e200, y, weight).counts["centered_rows"].isnan().all()


def test_fewer_directions_than_targets_are_taken_as_they_are():
    """One direction has vanished: what float32 rounds is no direction in its place."""
    rng = np.random.default_rng(0)
    line = rng.standard_normal((100, 1)) @ rng.standard_normal((1, 9))
    h = (line + 3 * np.eye(9)[0]).astype(np.float32)
    joint = stage(h, rng.standard_normal((100, 2))).joint
    assert spectrum.leading(joint).shape == (9, 1)
    assert float(regression.outside_variance(joint)) < 1e-10


def test_the_linear_map_does_not_use_what_rounding_makes():
    rng = np.random.default_rng(0)
    latent, turn = rng.standard_normal((200, 2)), rng.standard_normal((2, 30))
    h = (latent @ turn + 1000).astype(np.float32)
    y = rng.standard_normal((200, 1))
    exact = oracles.r2_linear(latent, y)
    assert float(regression.r2_linear(stage(h, y).joint)) == pytest.approx(exact, abs=1e-3)
    assert oracles.r2_linear(h.astype(float), y) > 5 * exact


def test_constant_targets_count_for_nothing():
    h, y, weight = drawn(0)
    before = float(regression.r2_linear(stage(h, y).joint))
    more = np.column_stack([y, np.full(len(y), 0.1)])
    joint = stage(h, more).joint
    assert spectrum.constant_targets(joint).tolist() == [False, False, False, True]
    assert float(regression.r2_linear(joint)) == pytest.approx(before, rel=1e-9)
    readout = LinearReadout(torch.from_numpy(np.vstack([weight, np.zeros(9)])))
    assert float(regression.gamma(joint, readout)) == 0
    assert 0 < float(regression.gram_distance(joint, readout)) < 2


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_target_that_is_the_sum_of_others_leaves_gamma_0(offset):
    h, y, weight = drawn(0)
    y = (y + offset).astype(np.float32)
    y[:, 2] = y[:, 0] + y[:, 1]
    joint = stage(h, y).joint
    assert float(spectrum.target_roots(joint).least) == 0
    assert float(regression.gamma(joint, LinearReadout(torch.from_numpy(weight)))) == 0


def test_w_is_not_changed():
    h, y, weight = drawn(0)
    given = torch.from_numpy(weight.copy())
    found = stage(h, y, given)
    for measure in MEASURES.values():
        measure(found)
    assert torch.equal(given, torch.from_numpy(weight))


def test_a_row_that_is_a_multiple_of_another_adds_no_direction():
    h, y, weight = drawn(0)
    weight[2] = 2 * weight[0] + weight[1] * 0.5
    found = stage(h, y, weight.astype(np.float32))
    expected = oracles.row_space_share(h, weight[:2])
    assert MEASURES["NRC2"](found) == pytest.approx(expected, rel=1e-6)


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


UNDEFINED = {
    "more targets than features": (
        rows(9, 2), rows(9, 3), rows(3, 2),
        {
            ("NRC1", "outside variance", "NRC1 centered"):
                "with 3 targets and 2 features it is 0 whatever the features are",
            ("NRC2", "NRC2 centered"): "W reads all of the 2 features, and it is 0 whatever they are",
        },
    ),
    "a single target": (
        rows(9, 4), rows(9, 1), rows(2, 4),
        {("NRC3", "NRC3 at zero"): "with a single target it is 0 whatever W is"},
    ),
    "a single row": (
        rows(1, 4), rows(1, 2), rows(2, 4),
        {
            ("NRC1", "outside variance"): "a single row has no spread",
            ("R2", "NRC3", "NRC3 at zero"): "all targets are constant",
            ("NRC2 centered",): "no row was sampled, or all of them are at the mean",
        },
    ),
    "features that are all 0": (
        torch.zeros(9, 4), rows(9, 2), rows(2, 4),
        {
            ("NRC1", "outside variance", "R2"): "the features of all rows are 0",
            ("NRC2",): "the features of all rows are 0",
        },
    ),
    "features that are all the same": (
        torch.ones(9, 4), rows(9, 2), rows(2, 4),
        {("NRC1", "outside variance", "R2"): "the features of all rows are the same"},
    ),
    "constant targets": (
        rows(9, 4), torch.full((9, 2), 0.1), rows(2, 4),
        {("R2", "NRC3", "NRC3 at zero"): "all targets are constant"},
    ),
    "W that is 0": (
        rows(9, 4), rows(9, 2), torch.zeros(2, 4),
        {
            ("NRC2", "NRC2 centered"): "W is 0, and has no row space",
            ("NRC3", "NRC3 at zero"): "W is 0",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNDEFINED)
def test_what_has_no_meaning_says_why(what):
    h, y, weight, said = UNDEFINED[what]
    head = weight[:1] if y.shape[1] == 1 else weight
    found = stage(h, y, head)
    texts = {name: text for names, text in said.items() for name in names}
    for name, measure in MEASURES.items():
        if name in texts:
            with pytest.raises(UndefinedMeasure) as raised:
                measure(found)
            assert str(raised.value) == texts[name], name
        elif what in ("more targets than features", "a single target", "constant targets"):
            assert np.isfinite(float(measure(found))), name
