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


@pytest.mark.parametrize("apart", [1.0, 1e-6, 1e-13])
def test_the_values_are_those_of_the_plain_formulas_also_near_0(apart):
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(900, 40, generator=generator, dtype=torch.float64)
    means -= means.mean(0)
    weight = 3 * means + apart * torch.randn(900, 40, generator=generator, dtype=torch.float64)
    statistics = collapsed(means)
    m = statistics.centered_means
    plain = (weight / weight.norm() - m / m.norm()).square().sum()
    value = F.self_duality(statistics, LinearClassifier(weight))
    assert float(value) == pytest.approx(float(plain), rel=1e-12, abs=0)
    cosines = (weight * m).sum(1) / (weight.norm(dim=1) * m.norm(dim=1))
    value = F.uniform_duality(statistics, LinearClassifier(weight))
    assert float(value) == pytest.approx(float(cosines.std(correction=0)), rel=1e-9, abs=1e-14)


def test_neither_the_classifier_nor_the_means_are_changed():
    given = problem("random")
    statistics, weight = statistics_of(given), given.classifier.weight.double()
    classifier = LinearClassifier(weight.clone())
    means = statistics.centered_means.clone()
    for function in (F.self_duality, F.duality_etf_distance, F.uniform_duality, F.bias_collapse):
        function(statistics, classifier)
    assert torch.equal(classifier.weight, weight)
    assert torch.equal(statistics.centered_means, means)
