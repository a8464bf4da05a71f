"""NC3: the classifier against the class means."""

import math

import pytest
import torch
from support.ideal import collapsed, etf
from support.problems import problem, statistics_of

from lightning_nc import LinearClassifier
from lightning_nc import functional as F

OFFSETS = pytest.mark.parametrize("offset", [0.0, 100.0])


@OFFSETS
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aligned", 0),
        ("orthogonal", 2),
        ("opposite", 4),
        ("moved on cyclically", 2 + 2 / 3),
        ("two rows swapped", 4 / 3),
    ],
)
def test_self_duality_of_an_etf(name, expected, offset):
    means = torch.cat([etf(4, 3), torch.zeros(4, 3)], dim=1)
    weight = (
        7
        * {
            "aligned": means,
            "orthogonal": means.roll(3, dims=1),
            "opposite": -means,
            "moved on cyclically": means.roll(1, dims=0),
            "two rows swapped": means[[1, 0, 2, 3]],
        }[name]
    )
    value = F.self_duality(collapsed(means, offset), LinearClassifier(weight))
    assert float(value) == pytest.approx(expected, abs=1e-9)


@OFFSETS
@pytest.mark.parametrize(("sign", "expected"), [(1, 0), (-1, 2)])
def test_duality_etf_distance_of_an_etf(sign, expected, offset):
    means = etf(4, 5)
    value = F.duality_etf_distance(collapsed(means, offset), LinearClassifier(sign * means))
    assert float(value) == pytest.approx(expected, abs=1e-7)


def test_bias_collapse_by_hand():
    statistics = collapsed(torch.tensor([[2.0, 1.0], [0.0, 1.0], [4.0, 1.0]]))
    classifier = LinearClassifier(
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([1.0, 2.0, 0.0])
    )
    assert float(F.bias_collapse(statistics, classifier)) == 0  # (2, 1, 3) + (1, 2, 0) is constant
    assert float(F.bias_collapse(statistics, LinearClassifier(classifier.weight))) == pytest.approx(
        math.sqrt(2)
    )


UNSEEN = "got none of classes 1, 3, 4, 7, 8, 9. Leave the unseen classes out with"


@pytest.mark.parametrize(
    "function", [F.self_duality, F.duality_etf_distance, F.uniform_duality, F.bias_collapse]
)
def test_duality_refuses_unseen_classes_and_other_shapes(function):
    with pytest.raises(ValueError, match=UNSEEN):
        function(statistics_of(problem("missing classes")), problem("missing classes").classifier)
    narrow = LinearClassifier(torch.ones(10, 31))
    with pytest.raises(ValueError, match=r"shape of the class means, \(10, 32\), but got \(10, 31\)"):
        function(statistics_of(problem("random")), narrow)
