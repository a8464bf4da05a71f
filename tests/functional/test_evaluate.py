"""All measures at once: the values of the reference, or why there is none."""

import math

import pytest
import torch
from support import oracles
from support.ideal import collapsed, etf
from support.problems import (
    NAMES,
    VCI,
    Problem,
    assert_measures,
    gaussian_classes,
    measured,
    problem,
    statistics_of,
    with_reference,
)

from lightning_nc import ClassStatistics, LinearClassifier
from lightning_nc.functional import MEASURES, ClassEvidence, evaluate, select, values_of
from lightning_nc.values import Fate


@pytest.mark.parametrize("name", NAMES)
def test_every_measure_equals_the_reference(name):
    assert_measures(measured(problem(name)), problem(name).reference)


def test_the_problems_cover_every_measure_that_is_logged_unasked():
    default = {measure.key for measure in select(["default"])}
    assert default | {VCI} == {key for name in NAMES for key in problem(name).reference}


OFFSETS = pytest.mark.parametrize("offset", [0.0, 100.0])


@OFFSETS
def test_an_etf_has_all_limit_values(offset):
    statistics = collapsed(3 * etf(4, 6), offset)
    classifier = LinearClassifier(5 * etf(4, 6), -5 * offset * etf(4, 6).sum(1))
    outcomes = evaluate(select(with_reference()), ClassEvidence.of(statistics, classifier))
    for key, outcome in outcomes.items():
        assert (outcome.fate, outcome.reason) == (Fate.VALUE, ""), key
        expected = MEASURES[key].value_at_collapse(num_classes=4)
        if expected is not None:
            assert float(outcome.value) == pytest.approx(expected, abs=1e-6), key


def test_without_classifier_and_decisions_their_keys_are_left_out_silently():
    given = problem("random")
    outcomes = evaluate(select(with_reference()), ClassEvidence.of(statistics_of(given)))
    assert {outcome.fate for outcome in outcomes.values()} == {Fate.VALUE}
    reference = oracles.reference_measures(given.features.numpy(), given.target.numpy(), 10)
    del reference["nc4/ncc_accuracy"]  # the one that needs a sample, which the reference has
    assert_measures(values_of(outcomes), reference)


def reason(given: Problem, key: str, fate: Fate) -> str:
    outcomes = evaluate(select([key]), ClassEvidence.of(statistics_of(given), given.classifier))
    assert (outcomes[key].value, outcomes[key].fate) == (None, fate)
    return outcomes[key].reason


@pytest.mark.parametrize(
    ("name", "keys", "fate", "why"),
    [
        (
            "two classes",
            ["nc2/means_equinorm", "nc2/means_max_angle", "nc2/means_equiangularity",
             "nc2/means_etf_distance", "nc2/means_log_distance_variation",
             "nc2/weights_equiangularity"],
            Fate.FEW_CLASSES,
            "needs at least 3 classes with samples, and there are 2",
        ),
        (
            "one class",
            ["nc1/within_between_pinv", "nc2/weights_equinorm", "nc3/self_duality"],
            Fate.FEW_CLASSES,
            "needs at least 2 classes with samples, and there are 1",
        ),
        (
            "a class with one sample",
            ["nc1/within_between_ratio_debiased"],
            Fate.LEFT_OUT,
            "a class has a single sample, whose variance is not known",
        ),
    ],
)  # fmt: skip
def test_a_key_without_meaning_is_left_out_with_its_reason(name, keys, fate, why):
    assert [reason(problem(name), key, fate) for key in keys] == [why] * len(keys)


@pytest.mark.parametrize(
    "key",
    [
        "nc1/within_between_pinv", "nc1/within_between_ratio", "nc1/cdnv",
        "nc2/means_log_distance_variation", "nc2/means_equinorm", "nc3/self_duality",
    ],
)  # fmt: skip
def test_means_that_all_coincide_give_nan_with_a_reason(key):
    rows = torch.tensor([[1.0, 2.0], [3.0, 2.0]]).repeat(4, 1)
    statistics = ClassStatistics.from_batch(rows, torch.arange(4).repeat_interleave(2), num_classes=4)
    classifier = LinearClassifier(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    outcome = evaluate(select([key]), ClassEvidence.of(statistics, classifier))[key]
    assert math.isnan(outcome.value)
    assert outcome.fate is Fate.NAN
    assert outcome.reason.startswith("class means or classifier rows coincide")


@pytest.mark.parametrize(("num_classes", "width"), [(3, 8), (3, 512), (4, 64), (10, 512), (13, 33)])
@pytest.mark.parametrize("key", ["nc1/cdnv", "nc2/means_log_distance_variation"])
def test_two_means_that_coincide_give_nan(key, num_classes, width):
    generator = torch.Generator().manual_seed(1000 * num_classes + width)
    means = torch.randn(num_classes, width, generator=generator, dtype=torch.float64)
    means[1] = means[0]
    y = torch.arange(num_classes).repeat_interleave(2)
    h = means[y] + torch.tensor([0.25, -0.25]).repeat(num_classes)[:, None]
    statistics = ClassStatistics.from_batch(h, y, num_classes)
    assert torch.equal(statistics.means[0], statistics.means[1])
    assert math.isnan(evaluate(select([key]), ClassEvidence.of(statistics))[key].value)


@pytest.mark.parametrize("num_classes", [3, 7, 10])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e3])
def test_a_network_that_puts_out_a_constant_is_not_taken_for_collapsed(num_classes, size):
    given = gaussian_classes([8] * num_classes, 12)
    constant = (size * given.features[:1]).expand(8 * num_classes, -1).clone()
    dead = Problem(constant, given.target, num_classes, given.weight, given.bias)
    # without any variance the index is 1 by its formula; the reference calls it undefined
    values, expected = measured(dead), dead.reference
    assert values.pop(VCI) == 1
    assert math.isnan(expected.pop(VCI))
    assert_measures(values, expected)
    assert sum(map(math.isnan, values.values())) == 11


# where it is not certain that all directions of the means count, eigenvalues tell
@pytest.mark.parametrize(("name", "classes"), [("cholesky_ex", "random"), ("eigh", "bottleneck")])
def test_a_decomposition_that_fails_gives_nan_with_a_reason(name, classes, monkeypatch):
    def fails(*args, **kwargs):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, name, fails)
    evidence = ClassEvidence.of(statistics_of(problem(classes)))
    outcomes = evaluate(select(["nc1/within_between_pinv", "nc1/cdnv"]), evidence)
    failed, other = outcomes["nc1/within_between_pinv"], outcomes["nc1/cdnv"]
    assert math.isnan(failed.value)
    assert failed.fate is Fate.NAN
    assert failed.reason == "because it failed: _LinAlgError: did not converge"
    assert not math.isnan(other.value)
    assert (other.fate, other.reason) == (Fate.VALUE, "")
