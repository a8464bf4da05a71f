"""NC1: the spread inside the classes against that between them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.ideal import around, etf
from support.oracles import index_of_rows
from support.problems import (
    VCI,
    Problem,
    gaussian_classes,
    measured,
    problem,
    rotation,
    statistics_of,
    streamed,
)

from lightning_nc import ClassStatistics
from lightning_nc import functional as F
from lightning_nc.functional import MEASURES, ClassEvidence, evaluate, select
from lightning_nc.values import UndefinedMeasure


@pytest.mark.parametrize("name", ["bottleneck", "bottleneck off the origin"])
def test_rounding_to_float32_opens_no_direction(name):
    assert measured(problem(name))["nc1/rank"] == 4


def test_means_of_condition_1000_keep_their_rank():
    scales = torch.logspace(0, -3, 9, dtype=torch.float64)
    means = (torch.cat([torch.diag(scales), torch.zeros(1, 9)]) @ rotation(9) + 1).float()
    statistics = ClassStatistics.from_batch(means, torch.arange(10), num_classes=10)
    assert F.rank(statistics) == 9


OFFSETS = pytest.mark.parametrize("offset", [0.0, 100.0])


@OFFSETS
@pytest.mark.parametrize(
    ("width", "key", "expected"),
    [
        (5, "nc1/within_between_pinv", 0.0045),
        (5, "nc1/cdnv", 0.00375),
        (5, "nc1/within_between_ratio", 0.01),
        # q_c = 10 * 0.09, so 0.1 / (9 - 3/4 * 0.1 / 10)
        (5, "nc1/within_between_ratio_debiased", 0.1 / 8.9925),
        (5, "nc1/rank", 3),
        (6, VCI, 0.004975124),
    ],
)
def test_symmetric_noise_around_an_etf(width, key, expected, offset):
    h, y = around(3 * etf(4, width) + offset, delta=0.3)
    evidence = ClassEvidence.of(ClassStatistics.from_batch(h, y, num_classes=4))
    outcomes = evaluate(select([key]), evidence)
    assert float(outcomes[key].value) == pytest.approx(expected, rel=1e-7)


def test_debiased_ratio_does_not_depend_on_the_number_of_rows():
    debiased, plain = [], []
    for rows in (5, 200):
        drawn = [gaussian_classes([rows] * 10, 32, spread=3.0, seed=seed) for seed in range(12)]
        statistics = [statistics_of(given) for given in drawn]
        debiased.append(np.mean([float(F.within_between_ratio_debiased(s)) for s in statistics]))
        plain.append(np.mean([float(F.within_between_ratio(s)) for s in statistics]))
    assert debiased[0] == pytest.approx(debiased[1], rel=0.1)
    assert plain[0] < 0.5 * plain[1]


@pytest.mark.parametrize(
    ("key", "factor"),
    [
        ("nc1/within_between_pinv", 4),
        ("nc1/within_between_ratio", 4),
        ("nc1/within_between_ratio_debiased", None),
        ("nc1/cdnv", 4),
    ],
)
def test_nc1_grows_with_the_square_of_the_spread_inside_the_classes(key, factor):
    means = 3 * etf(4, 6)
    one, two = (
        float(MEASURES[key].function(ClassStatistics.from_batch(*around(means, delta), 4)))
        for delta in (0.1, 0.2)
    )
    assert two > 3.9 * one
    if factor is not None:
        assert two == pytest.approx(factor * one, rel=1e-9)


def test_the_sampled_pairs_are_always_the_same_and_estimate_all_pairs(monkeypatch):
    given = gaussian_classes([4] * 100, 32)
    everything = F.cdnv(statistics_of(given))
    monkeypatch.setattr("lightning_nc.values.frame.PAIRWISE_CLASSES", 50)
    sampled = F.cdnv(statistics_of(given))
    assert sampled != everything
    assert float(sampled) == pytest.approx(float(everything), rel=0.05)
    assert sampled == F.cdnv(statistics_of(given))


def test_means_closer_than_their_noise_have_no_debiased_ratio():
    rows = torch.tensor([[1.0], [-1.0], [1.1], [-1.0]])
    statistics = ClassStatistics.from_batch(rows, torch.tensor([0, 0, 1, 1]), num_classes=2)
    with pytest.raises(UndefinedMeasure, match="differ by no more than their sampling noise"):
        F.within_between_ratio_debiased(statistics)


@pytest.mark.parametrize("function", [F.within_between_pinv, F.variability_collapse_index])
def test_without_a_covariance_its_measures_say_so(function):
    statistics = statistics_of(problem("random"), covariance="none")
    with pytest.raises(UndefinedMeasure, match=r"was not kept \(covariance='none'\); use 'pooled'"):
        function(statistics)


UNSEEN = "got none of classes 1, 3, 4, 7, 8, 9. Leave the unseen classes out with"


@pytest.mark.parametrize(
    "function",
    [
        F.within_between_pinv, F.within_between_ratio, F.within_between_ratio_debiased, F.cdnv, F.rank,
        F.variability_collapse_index,
    ],
)  # fmt: skip
def test_unseen_classes_are_refused_by_name(function):
    with pytest.raises(ValueError, match=UNSEEN):
        function(statistics_of(problem("missing classes")))


SCALES = {
    "1e-6 to 1e6": lambda width: torch.logspace(-6, 6, width),
    "one is small": lambda width: torch.tensor([1e-6, *[1.0] * (width - 1)]),
    "one is large": lambda width: torch.tensor([1e6, *[1.0] * (width - 1)]),
    "half are 1e-4": lambda width: torch.where(torch.arange(width) % 2 == 0, 1e-4, 1.0),
}


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("width", [16, 100])
@pytest.mark.parametrize("spread", [1.0, 0.03])
def test_the_collapse_index_does_not_depend_on_the_scale_of_a_unit(scales, width, spread):
    given = gaussian_classes([60] * 5, width, spread=spread, offset=0.5)
    expected = index_of_rows(given.features.double().numpy(), given.target)
    scaled = replace(given, features=given.features * SCALES[scales](width))
    assert index_of_rows(scaled.features.double().numpy(), given.target) == pytest.approx(
        expected, rel=1e-5
    )
    for each in (given, scaled):
        index = F.variability_collapse_index(statistics_of(each))
        assert float(index) == pytest.approx(expected, rel=1e-5)
        index = F.variability_collapse_index(streamed(each).statistics())
        assert float(index) == pytest.approx(expected, rel=2e-5)


def test_units_that_do_not_vary_drop_out_of_the_collapse_index():
    given = gaussian_classes([60] * 5, 16, offset=0.5)
    expected = index_of_rows(given.features.double().numpy(), given.target)
    jitter = 1 + torch.finfo(torch.float32).eps * torch.randint(2, (300, 1))
    constant = torch.cat([given.features, torch.full((300, 3), 0.1), jitter, torch.zeros(300, 1)], 1)
    statistics = ClassStatistics.from_batch(constant, given.target, 5)
    assert float(F.variability_collapse_index(statistics)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("width", [40, 300])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_units_that_depend_on_others_open_no_direction_of_the_collapse_index(width, offset):
    """In float64 they are nothing but sums of ten; what rounding makes of them does not count."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(2000) % 5
    ten = torch.randn(5, 10, generator=generator, dtype=torch.float64)[target]
    ten = ten + 0.5 * torch.randn(2000, 10, generator=generator, dtype=torch.float64)
    mixed = ten @ torch.randn(10, width, generator=generator, dtype=torch.float64)
    mixed = (mixed * torch.logspace(0, -4, width, dtype=torch.float64) + offset).float()
    expected = index_of_rows(ten.double().numpy(), target)
    given = Problem(mixed, target, 5, torch.zeros(5, width))
    for statistics in (statistics_of(given), streamed(given, measures=[VCI]).statistics()):
        assert float(F.variability_collapse_index(statistics)) == pytest.approx(expected, rel=1e-4)
