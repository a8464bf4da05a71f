"""What becomes of small classes: cosines, norms, recalls, and parameters that each class tells."""

import math

import pytest
import torch
from support.triples import collapsed, network_of

from lightning_nc import LinearClassifier
from lightning_nc.functional.frames import etf, gof, orthogonal, relu_ce
from lightning_nc.functional.imbalance.minority import (
    minority_cosine,
    norm_ratio,
    recall_few,
    recall_many,
    recall_medium,
)
from lightning_nc.functional.imbalance.profiles import (
    effective_feature_penalty,
    r_profile,
    tau_profile,
)
from lightning_nc.functional.imbalance.race import margin
from lightning_nc.values import UndefinedMeasure
from lightning_nc.values.linear_head import LinearHead
from lightning_nc.values.recalls import Recalls

N = torch.tensor([60, 30, 12, 8, 6])


def head_of(triple, counts=N, bias=None):
    statistics, classifier = network_of(triple, counts, bias=bias)
    return LinearHead(statistics, classifier, counts)


def test_a_simplex_and_an_orthogonal_frame_have_their_cosines():
    assert float(minority_cosine(head_of(etf(5)))) == pytest.approx(-1 / 4)
    assert float(minority_cosine(head_of(orthogonal(5)))) == pytest.approx(0, abs=1e-12)
    for frame in (etf(5), orthogonal(5)):
        assert float(norm_ratio(head_of(frame))) == pytest.approx(1)


def test_the_minority_has_at_most_twice_the_rows_of_the_smallest_class():
    torch.manual_seed(0)
    weight = torch.randn(5, 7, dtype=torch.float64)
    head = LinearHead(collapsed(torch.randn(5, 7), N), LinearClassifier(weight), N)
    small, large = weight[2:], weight[:2]
    cosines = [
        float(torch.nn.functional.cosine_similarity(small[i], small[j], dim=0))
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert float(minority_cosine(head)) == pytest.approx(sum(cosines) / 3)
    expected = large.norm(dim=1).mean() / small.norm(dim=1).mean()
    assert float(norm_ratio(head)) == pytest.approx(float(expected))
    turn = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64)).Q
    turned = LinearHead(head.statistics, LinearClassifier(3 * weight @ turn), N)
    assert float(minority_cosine(turned)) == pytest.approx(float(minority_cosine(head)))
    assert float(norm_ratio(turned)) == pytest.approx(float(norm_ratio(head)))


def test_minority_collapse_shows():
    weight = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 1], [0, 0, 0.5], [0, 0, 1]])
    head = LinearHead(collapsed(torch.randn(5, 3), N), LinearClassifier(weight), N)
    assert float(minority_cosine(head)) == pytest.approx(1)
    assert float(norm_ratio(head)) == pytest.approx(2 / (2.5 / 3))


@pytest.mark.parametrize(
    ("counts", "message"), [([5, 5, 5], "no class has more than 2 times"), ([9, 9, 4], "single class")]
)
def test_without_a_minority_there_is_nothing_to_compare(counts, message):
    with pytest.raises(UndefinedMeasure, match=message):
        minority_cosine(head_of(etf(3), torch.tensor(counts)))


def test_counts_that_are_not_known_are_the_reason():
    statistics, classifier = network_of(etf(3), [9, 5, 3])
    head = LinearHead(statistics, classifier, None, lacks="nobody has counted")
    for measure in (minority_cosine, norm_ratio, margin):
        with pytest.raises(UndefinedMeasure, match="nobody has counted"):
            measure(head)


def test_the_margin_is_that_of_the_center_of_the_head():
    """Without a bias the class means as they are, with one those less the mean of all rows."""
    counts = torch.tensor([9, 5, 3, 2])
    triple = gof(counts, [0.06], 0.01).triple
    assert float(margin(head_of(triple, counts))) == pytest.approx(0.234, abs=5e-3)
    other = float(margin(head_of(triple, counts, bias=torch.zeros(4))))
    assert other == pytest.approx(0.327 - 0.3215, abs=1e-3)
    with pytest.raises(UndefinedMeasure, match="as many rows in each, have one centered geometry"):
        margin(head_of(etf(3), torch.tensor([4, 4, 4]), bias=torch.zeros(3)))


def recalls(**changes):
    given = {
        "sampled": torch.tensor([10.0, 20.0, 5.0, 5.0, 0.0]),
        "correct": torch.tensor([9.0, 10.0, 1.0, 5.0, 0.0]),
        "training_counts": torch.tensor([101, 100, 20, 19, 3]),
        "shots": (20, 100),
    }
    return Recalls(**(given | changes))


def test_recalls_are_averages_over_the_classes_of_a_group():
    assert float(recall_many(recalls())) == pytest.approx(0.9)
    assert float(recall_medium(recalls())) == pytest.approx((0.5 + 0.2) / 2)
    assert float(recall_few(recalls())) == pytest.approx(1.0)  # the other one has no row here
    assert float(recall_few(recalls(shots=(21, 99)))) == pytest.approx((0.2 + 1) / 2)
    assert float(recall_many(recalls(shots=(21, 99)))) == pytest.approx((0.9 + 0.5) / 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training_counts": None}, "not known yet"),
        ({"is_whole": False}, "not those of a whole epoch"),
        ({"training_counts": torch.tensor([200, 200, 200, 200, 3])}, "fewer than 20 rows in training"),
        ({"training_counts": torch.tensor([200, 200, 200, 200, 0])}, "fewer than 20 rows in training"),
    ],
)
def test_a_recall_that_would_say_something_else_is_left_out(changes, message):
    with pytest.raises(UndefinedMeasure, match=message):
        recall_few(recalls(**changes))


def test_each_class_of_a_minimum_tells_the_same_parameter():
    counts = torch.tensor([9, 5, 3, 2])
    for m, tau in ((1, 0.0114), (3, 4e-6)):
        penalty = (tau / 19) ** (1 / (m + 1))
        profile = tau_profile(counts, gof(counts, [penalty] * m, penalty).triple.logits, m)
        assert torch.allclose(profile.values, torch.tensor(tau, dtype=torch.float64), rtol=1e-9)
        assert float(profile.variation) < 1e-9
        assert profile.left_out == 0
    profile = r_profile(counts, relu_ce(counts, 0.005, 0.004).triple.logits)
    assert torch.allclose(profile.values, torch.tensor(math.sqrt(19 * 2e-5 * 0.75)).double(), rtol=1e-9)
    assert float(profile.variation) < 1e-9


def test_a_class_that_does_not_fit_tells_no_parameter():
    profile = tau_profile(torch.tensor([9, 5, 3]), torch.diag(torch.tensor([0.9, 1.2, -0.1])))
    assert profile.left_out == 2
    assert math.isnan(float(profile.variation))


def test_penalties_balance_at_a_minimum():
    counts, least = torch.tensor([9, 5, 3, 2]), gof(torch.tensor([9, 5, 3, 2]), [0.06], 0.01).triple
    weight = least.weights.diagonal().sqrt().diag()
    squares = (counts * least.means.diagonal()).sum()
    assert effective_feature_penalty(0.06, weight, squares) == pytest.approx(0.01)
