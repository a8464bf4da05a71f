"""The closed form of the last two layers is the numerical minimum, also where directions vanish."""

import numpy as np
import pytest
import torch
from support import regression_oracles as oracles

from lightning_nc.functional import regression
from lightning_nc.functional.regression import regression_limit
from lightning_nc.values import UndefinedMeasure
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.joint import JointMoments, LinearReadout
from lightning_nc.values.penalties import Penalties
from lightning_nc.values.regression import LimitTerms, RegressionEvidence
from lightning_nc.values.training import Training


def targets(seed=0, rows=12, n=3, mean=1.0):
    """Variances of 2, 1, 0.5, ... along axes that are not the targets' own."""
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((rows, n))
    y = np.linalg.qr(y - y.mean(0))[0] * np.sqrt(rows * 2.0 / 2 ** np.arange(n))
    return y @ np.linalg.qr(rng.standard_normal((n, n)))[0] + mean


def limit_of(y, penalty, row_penalty, centered=True):
    sigma = oracles.covariance(y) if centered else y.T @ y / len(y)
    return regression_limit(torch.from_numpy(sigma), penalty, row_penalty)


def test_the_closed_form_values_of_two_targets():
    limit = regression_limit(torch.diag(torch.tensor([2.0, 0.5])), penalty=0.1, row_penalty=0.2)
    expected = torch.diag(torch.tensor([1.8, 0.8], dtype=torch.float64))
    assert torch.allclose(limit.gram, expected, rtol=0, atol=1e-12)
    assert float(limit.loss) == pytest.approx(0.28, rel=1e-12)
    assert limit.gamma == pytest.approx(0.02, rel=1e-12)
    assert limit.survivors.tolist() == [True, True]
    readout = LinearReadout(limit.gram.sqrt())
    y = np.diag([2.0, 1.0])
    joint = JointMoments.from_batch(
        torch.zeros(4, 3).double(), torch.from_numpy(np.concatenate([y, -y]))
    )
    assert float(regression.gram_distance(joint, readout)) < 1e-20
    assert float(regression.gamma(joint, readout)) == pytest.approx(0.02, rel=1e-10)


# the variances are 2, 1 and 0.5: all three directions survive, two, one, none
PENALTIES = {(0.1, 0.2): 3, (0.3, 0.01): 3, (0.5, 1.3): 2, (1.5, 0.9): 1, (2.0, 1.5): 0}


@pytest.mark.parametrize(("penalties", "survivors"), list(PENALTIES.items()))
@pytest.mark.parametrize("bias", ["free", "none"])
def test_the_limit_is_the_minimum_with_the_features_of_all_rows_free(penalties, survivors, bias):
    y = targets(mean=0.0 if bias == "none" else 1.0)
    limit = limit_of(y, *penalties, centered=bias == "free")
    w, h, b, loss = oracles.unconstrained(y, 5, *penalties, bias)
    assert int(limit.survivors.sum()) == survivors
    assert float(limit.loss) == pytest.approx(loss, rel=1e-8)
    assert np.abs(w @ w.T - limit.gram.numpy()).max() < 2e-5
    residual = y - h @ w.T - b * (bias == "free")
    assert np.abs(residual.T @ residual / len(y) - limit.residual.numpy()).max() < 2e-5
    if survivors:
        equal = penalties[0] * np.sum(w**2), penalties[1] * np.sum(h**2) / len(y)
        assert equal[0] == pytest.approx(equal[1], rel=1e-4)
    if bias == "free":
        assert b == pytest.approx(y.mean(0), abs=1e-5)


@pytest.mark.parametrize("penalties", list(PENALTIES)[:3])
def test_without_a_bias_the_mean_is_a_part_of_the_second_moment(penalties):
    y = targets(mean=1.0)
    limit = limit_of(y, *penalties, centered=False)
    w, _, _, loss = oracles.unconstrained(y, 5, *penalties, "none")
    assert float(limit.loss) == pytest.approx(loss, rel=1e-8)
    assert np.abs(w @ w.T - limit.gram.numpy()).max() < 2e-5


@pytest.mark.parametrize(("mean", "is_near"), [(0.0, True), (0.02, True), (1.0, False)])
def test_a_bias_with_a_penalty_has_the_limit_where_targets_are_near_centered(mean, is_near):
    """As far as evidence takes them for centered; beyond, the limit is another one."""
    y, penalties = targets(mean=mean), (0.1, 0.2)
    w, h, b, _ = oracles.unconstrained(y, 5, *penalties, "alike")
    head = LinearClassifier(torch.from_numpy(w), torch.from_numpy(b))
    joint = JointMoments.from_batch(torch.from_numpy(h), torch.from_numpy(y))
    stated = Penalties(penalties[0], None, penalties[1] / len(y))
    training = Training(torch.tensor([len(y)]))
    found = RegressionEvidence(joint, head, penalties=stated, training=training)
    assert (found.limit_terms.lacks == "") == is_near
    limit = limit_of(y, *penalties)
    off = np.linalg.norm(w @ w.T - limit.gram.numpy()) / float(limit.gram.norm())
    assert (off < 1e-3) == is_near
    if is_near:
        distance = regression.limit_distance(found.readout, found.limit_terms)
        assert float(distance) == pytest.approx(off, rel=1e-6)
    else:
        with pytest.raises(UndefinedMeasure, match="center the targets"):
            regression.limit_distance(found.readout, found.limit_terms)


def test_at_the_limit_all_of_it_has_collapsed():
    y, penalties = targets(rows=30), (0.1, 0.2)
    w, h, _, _ = oracles.unconstrained(y, 6, *penalties)
    joint = JointMoments.from_batch(torch.from_numpy(h), torch.from_numpy(y))
    readout = LinearReadout(torch.from_numpy(w))
    assert float(regression.feature_collapse(joint)) < 1e-8
    assert float(regression.row_space(joint, readout)) < 1e-8
    assert float(regression.gram_distance(joint, readout)) < 1e-8
    assert float(regression.gamma(joint, readout)) == pytest.approx(0.02, rel=1e-3)
    terms = LimitTerms(joint.target_covariance, *penalties)
    assert float(regression.limit_distance(readout, terms)) < 1e-4
    assert int(regression.surviving_directions(terms)) == 3
    for wrong in ((0.2, 0.2), (0.1, 0.1)):
        assert regression.limit_distance(readout, LimitTerms(joint.target_covariance, *wrong)) > 0.1


def test_where_a_direction_has_vanished_nrc3_keeps_its_distance():
    y, penalties = targets(rows=30), (0.5, 1.3)
    w, h, _, _ = oracles.unconstrained(y, 6, *penalties)
    joint = JointMoments.from_batch(torch.from_numpy(h), torch.from_numpy(y))
    readout = LinearReadout(torch.from_numpy(w))
    assert float(regression.gram_distance(joint, readout)) > 1e-3
    terms = LimitTerms(joint.target_covariance, *penalties)
    assert float(regression.limit_distance(readout, terms)) < 1e-3
    assert int(regression.surviving_directions(terms)) == 2


@pytest.mark.parametrize("penalties", [(0.0, 0.1), (0.1, 0.0), (-1.0, 0.1)])
def test_without_a_penalty_there_is_no_limit(penalties):
    with pytest.raises(ValueError, match=r"above 0, but got .* grow without bound"):
        regression_limit(torch.eye(2), *penalties)


def test_a_limit_of_0_is_at_no_relative_distance():
    terms = LimitTerms(torch.eye(2), 1.0, 1.0)
    assert int(regression.surviving_directions(terms)) == 0
    with pytest.raises(UndefinedMeasure, match="W is 0 in the limit: the product of the penalties"):
        regression.limit_distance(LinearReadout(torch.eye(2)), terms)
