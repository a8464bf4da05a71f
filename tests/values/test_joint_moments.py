"""Joint moments are a commutative monoid that aliases nothing; a read-out has a row for each target."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import regression_oracles as oracles
from support.problems import unchecked_shapes

from lightning_nc import LinearClassifier
from lightning_nc.values.joint import JointMoments, LinearReadout, unit_rows
from lightning_nc.values.penalties import Penalties
from lightning_nc.values.regression import RegressionEvidence
from lightning_nc.values.training import Training


def drawn(seed=0, rows=60, width=5, n=2, offset=0.0):
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((rows, width)) + offset
    h[::7] = 0
    return h, rng.standard_normal((rows, n)) + h[:, :n]


def moments_of(h, y):
    return JointMoments.from_batch(torch.from_numpy(h), torch.from_numpy(y))


def assert_moments(found, h, y, relative=1e-12):
    for name, expected in oracles.moments(h, y).items():
        got = getattr(found, name).numpy()
        scale = max(1e-300, np.abs(expected).max())
        assert np.abs(got - expected).max() <= relative * scale, name


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_moments_of_a_batch_are_those_of_its_rows(offset):
    h, y = drawn(offset=offset)
    assert_moments(moments_of(h, y), h, y, relative=1e-11)


def test_three_rows_by_hand():
    h, y = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0], [2.0], [6.0]])
    joint = JointMoments.from_batch(h, y)
    assert (joint.num_features, joint.num_targets) == (2, 1)
    assert joint.feature_mean.tolist() == [1, 2]
    assert joint.feature_scatter.tolist() == [[6, 6], [6, 8]]
    assert joint.cross_scatter.flatten().tolist() == [-6, -2]
    assert joint.target_scatter.tolist() == [[14]]
    assert joint.unit_count == 2
    second = torch.tensor([[0.18, 0.24], [0.24, 0.82]], dtype=torch.float64)
    assert torch.allclose(joint.unit_second_moment, second, atol=1e-15)
    assert torch.equal(joint.feature_covariance, joint.feature_scatter / 3)
    assert torch.equal(joint.cross_covariance, joint.cross_scatter / 3)


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(0, 60), max_size=4), seed=st.integers(0, 5))
def test_any_split_in_any_order_merges_to_the_same(cuts, seed):
    h, y = drawn(seed)
    edges = sorted({0, *cuts, 60})
    parts = [moments_of(h[i:j], y[i:j]) for i, j in itertools.pairwise(edges)]
    np.random.default_rng(seed).shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert_moments(merged, h, y)


def test_no_rows_are_the_neutral_element():
    h, y = drawn()
    nothing, some = moments_of(h[:0], y[:0]), moments_of(h, y)
    for merged in (nothing.merge(some), some.merge(nothing)):
        assert_moments(merged, h, y)
    assert int(nothing.merge(nothing).count) == 0
    assert not nothing.feature_covariance.any()


def test_a_merge_changes_and_shares_nothing():
    h, y = drawn()
    one, other = moments_of(h[:20], y[:20]), moments_of(h[20:], y[20:])
    before = [tensor.clone() for each in (one, other) for tensor in vars(each).values()]
    merged = one.merge(other)
    for tensor in vars(merged).values():
        tensor.zero_()
    after = [tensor for each in (one, other) for tensor in vars(each).values()]
    assert all(map(torch.equal, before, after))


def test_what_does_not_fit_is_refused():
    h, y = drawn()
    with pytest.raises(ValueError, match=r"got \(2, 5\) and \(1, 5\)\. Do they come from different"):
        moments_of(h, y).merge(moments_of(h, y[:, :1]))
    text = "got 60 features and 59 rows of targets"
    with unchecked_shapes(), pytest.raises(ValueError, match=text):
        moments_of(h, y[1:])


def test_rows_of_any_size_have_length_1():
    rows = torch.tensor([[3.0, -4.0]], dtype=torch.float64)
    for scale in (1e-200, 1.0, 1e200):
        assert unit_rows(rows * scale).flatten().tolist() == pytest.approx([0.6, -0.8], rel=1e-14)


def test_a_head_is_read_as_it_was_given():
    w, b = torch.tensor([[2.0, 4.0]]), torch.tensor([1.0])
    head = LinearClassifier(w, b)
    of_another_rank = LinearClassifier(head.weight, head.bias)  # which does not tell of a single row
    for each in (head, of_another_rank):
        readout = LinearReadout.of(each, num_targets=1)
        assert torch.equal(readout.weight, w)
        assert torch.equal(readout.bias, b)
    two = LinearReadout.of(LinearClassifier(torch.eye(2)), num_targets=2)
    assert torch.equal(two.weight, torch.eye(2))
    assert two.bias is None


@pytest.mark.parametrize(
    ("rows", "targets", "text"),
    [
        (10, 1, "a head of 1 row, one for each target, but got 10 rows. Are the targets class indices"),
        (10, 1, "Use task='multiclass'"),
        (4, 2, "a head of 2 rows, one for each target, but got 4 rows. Is another layer the head"),
        (1, 3, "one-hot or multi-hot labels\\? Use task='multiclass' or 'multilabel'"),
    ],
)
def test_a_head_of_other_rows_is_refused(rows, targets, text):
    joint = JointMoments.from_batch(torch.zeros(4, 3), torch.zeros(4, targets))
    given_rows = LinearClassifier(torch.zeros(rows, 3))
    if rows == 1:
        text = text.replace("got 1 row", "got 2 rows")
    with pytest.raises(ValueError, match=text):
        RegressionEvidence(joint, given_rows)


def evidence(bias=True, mean=0.0, width=3, **changes):
    torch.manual_seed(0)
    y = torch.randn(50, 2)
    y = y - y.mean(0) + mean
    head = LinearClassifier(torch.randn(2, width), torch.zeros(2) if bias else None)
    given = {
        "penalties": Penalties(weight=0.1, features=0.01),
        "training": Training(torch.tensor([50])),
        **changes,
    }
    joint = JointMoments.from_batch(torch.randn(50, width), y)
    return RegressionEvidence(joint, given.pop("head", head), **given)


def test_the_closed_form_rests_on_the_rows_of_training_and_both_penalties():
    terms = evidence().limit_terms
    assert (terms.penalty, terms.row_penalty, terms.lacks) == (0.1, 0.5, "")
    assert torch.equal(terms.target_covariance, evidence().joint.target_covariance)


@pytest.mark.parametrize(
    "missing",
    [
        {"penalties": Penalties(weight=0.1)},
        {"penalties": Penalties(features=0.1)},
        {"training": None},
        {"training": Training(torch.tensor([50]), is_whole=False)},
        {"trains": False},
        {"head": None},
    ],
)
def test_without_one_of_them_there_is_none(missing):
    assert evidence(**missing).limit_terms is None


def test_without_a_bias_the_targets_are_not_centered():
    given = evidence(bias=False, mean=2.0)
    second = given.joint.target_covariance + torch.full((2, 2), 4.0, dtype=torch.float64)
    assert torch.allclose(given.limit_terms.target_covariance, second, rtol=1e-6)
    assert given.limit_terms.lacks == ""


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"mean": 2.0},
            "there is no closed form for targets with a mean and a bias with a penalty; center",
        ),
        ({"penalties": Penalties(0.0, None, 0.1)}, "without a penalty on both weight and features"),
        ({"width": 1}, "2 targets have their limit in as many features at least"),
        ({"mean": 2.0, "penalties": Penalties(0.1, 0.0, 0.1)}, ""),
        ({"mean": 1e-3}, ""),
    ],
)
def test_where_there_is_no_closed_form_the_reason_is_told(changes, text):
    lacks = evidence(**changes).limit_terms.lacks
    assert lacks.startswith(text)
    assert bool(lacks) == bool(text)


def test_evidence_moves_with_all_it_holds():
    given = evidence()
    moved = given.to("cpu")
    assert moved.size == "2 targets, 3 features"
    assert moved.num_samples == 50
    assert moved.rows_by_kind.tolist() == [50]
    assert torch.equal(moved.readout.weight, given.readout.weight)
    assert moved.lost == {}
