"""The best linear classifier of the squared error, tried on the rows that it was fitted to."""

from dataclasses import replace

import pytest
import torch
from support import path_oracles as oracles
from support.problems import as_numpy, evidence_of, gaussian_classes, problem, rotation

from lightning_nc import FeatureSample, LinearClassifier
from lightning_nc.functional import probe
from lightning_nc.functional.counts import COUNTS, counts_for
from lightning_nc.functional.probe import probe_of_own_rows
from lightning_nc.values import UndefinedMeasure
from lightning_nc.values.penalties import Penalties
from lightning_nc.values.sample import ProbeDecisions
from lightning_nc.values.small_classes import without_small_classes


def counted(own, merged=None):
    """What a rank adds, by name, as numbers."""
    vector = probe_of_own_rows(own, own if merged is None else merged)
    assert len(vector) == COUNTS["probe_decisions"].size == 4
    return {name: float(x) for name, x in ProbeDecisions(*vector)._asdict().items()}


def decided_by_rows(given, penalty, bias_penalty):
    """The decisions of a ridge classifier of the rows themselves, by numbers of all classes."""
    present = torch.unique(given.target)
    rows = oracles.Rows(as_numpy(given)[0], torch.searchsorted(present, given.target).numpy())
    weight, bias = oracles.best(rows, penalty, bias_penalty, has_bias=True)
    return present[torch.from_numpy(oracles.outputs(rows, weight, bias).argmax(1))]


@pytest.mark.parametrize("name", ["random", "imbalanced", "missing classes", "far from the origin"])
@pytest.mark.parametrize("penalties", [Penalties(), Penalties(0.3), Penalties(0.3, 0.0)])
def test_it_decides_like_a_classifier_of_the_rows(name, penalties):
    given = problem(name)
    stage = replace(evidence_of(given), penalties=penalties)
    decided = decided_by_rows(given, penalties.for_weight, penalties.for_bias)
    n, found = len(given.target), counted(stage)
    assert found["sampled"] == found["compared"] == pytest.approx(n)
    assert found["correct"] == pytest.approx(int((decided == given.target).sum()))
    assert found["agreed"] == pytest.approx(int((decided == given.predicted).sum()))
    assert 0 < found["agreed"] < found["correct"] < n


def test_rows_whose_decision_nobody_knows_are_not_compared():
    given = problem("random")
    stage = evidence_of(given)
    decided = decided_by_rows(given, 0.0, 0.0)
    some = given.predicted.clone()
    some[:100] = -1
    found = counted(replace(stage, sample=replace(stage.sample, predicted=some)))
    assert found["compared"] == pytest.approx(500)
    assert found["agreed"] == pytest.approx(int((decided == some)[100:].sum()))
    none = counted(replace(stage, sample=replace(stage.sample, predicted=None)))
    assert (none["compared"], none["agreed"]) == (0, 0)
    assert none["correct"] == found["correct"]


def test_decisions_that_nobody_saw_are_those_of_a_classifier_that_stood_still():
    given = problem("random")
    seen = evidence_of(given)
    tallies = seen.tallies._replace(predicted=torch.tensor(0), correct=torch.tensor(0))
    unseen = replace(seen, sample=replace(seen.sample, predicted=None), tallies=tallies)
    assert counted(unseen, replace(unseen, by_head=True)) == counted(seen)
    assert counted(unseen, replace(unseen, by_head=True, head=None))["compared"] == 0
    turned = replace(seen, by_head=True, head=LinearClassifier(-seen.head.weight))
    assert counted(seen, turned) == counted(seen)


def halves_of(given):
    """Two ranks, and what they are together."""
    whole = evidence_of(given)
    halves = [
        evidence_of(replace(given, features=given.features[part], target=given.target[part]))
        for part in (slice(200), slice(200, None))
    ]
    return halves, replace(whole, all_classes=halves[0].all_classes.merge(halves[1].all_classes))


def test_the_counts_of_two_ranks_add_up_to_those_of_all_rows():
    given = problem("random")
    halves, merged = halves_of(given)
    total = sum(probe_of_own_rows(half, merged) for half in halves)
    torch.testing.assert_close(total, probe_of_own_rows(evidence_of(given), merged))
    # a rank stands for its own rows by fewer of them
    fewer = replace(
        halves[1],
        sample=FeatureSample(given.features[200:250], given.target[200:250], None, seen=400),
    )
    assert counted(fewer, merged)["sampled"] == pytest.approx(len(given.target) - 200)


def test_rows_of_small_classes_and_rows_left_out_are_in_no_count():
    given = problem("a class with one sample")
    whole = evidence_of(given)
    restricted = replace(
        whole,
        all_classes=without_small_classes(whole.all_classes, 2),
        counts_before=whole.all_classes.counts,
    )
    kept = given.target != 2
    rest = replace(given, features=given.features[kept], target=given.target[kept])
    assert counted(whole, restricted) == pytest.approx(counted(evidence_of(rest)))
    marked = whole.sample.target.clone()
    marked[marked == 2] = -1
    ignored = replace(whole, sample=replace(whole.sample, target=marked))
    assert counted(ignored, restricted) == pytest.approx(counted(evidence_of(rest)))


@pytest.mark.parametrize("lacks", ["covariance", "rows", "classes"])
def test_without_covariance_or_rows_all_ranks_count_nothing_and_the_measures_are_left_out(lacks):
    given = problem("random")
    own = merged = evidence_of(given)
    if lacks == "covariance":
        merged = replace(own, all_classes=replace(own.all_classes, scatter=None))
    elif lacks == "rows":
        own = replace(own, sample=FeatureSample(torch.zeros(0, 32), torch.zeros(0).long(), None, 0))
    else:
        merged = replace(own, all_classes=without_small_classes(own.all_classes, 1000))
    assert probe_of_own_rows(own, merged).tolist() == [0, 0, 0, 0]
    for measure in (probe.probe_accuracy, probe.probe_agreement):
        with pytest.raises(UndefinedMeasure, match="no probe could be fitted and tried: there is no"):
            measure(ProbeDecisions(*probe_of_own_rows(own, merged)))


def test_a_stage_without_the_network_s_decisions_has_no_agreement():
    four = torch.tensor(4.0)
    unknown = ProbeDecisions(four, four - 1, four * 0, four * 0)
    with pytest.raises(UndefinedMeasure, match="the network's decisions are not known"):
        probe.probe_agreement(unknown)
    assert float(probe.probe_accuracy(unknown)) == 0.75
    failed = ProbeDecisions(*torch.full((4,), torch.nan))
    assert probe.probe_accuracy(failed).isnan()
    assert probe.probe_agreement(failed).isnan()


def test_features_that_leave_the_range_of_the_numbers_give_nan():
    given = gaussian_classes([5, 5], 3, dtype=torch.float64)
    stage = evidence_of(replace(given, features=given.features * 1e200))
    assert probe_of_own_rows(stage, stage).isnan().all()


def test_with_more_features_than_rows_it_fits_whatever_there_is():
    given = problem("fewer rows than features")
    shuffled = replace(given, target=given.target.roll(1))
    for each in (given, shuffled):
        found = counted(evidence_of(each))
        assert found["correct"] == found["sampled"]
    held = counted(replace(evidence_of(shuffled), penalties=Penalties(10.0)))
    assert held["correct"] < held["sampled"]


def test_a_rotation_changes_no_decision_and_blocks_make_no_difference(monkeypatch):
    given = problem("imbalanced")
    found = counted(evidence_of(given))
    turned = given.features.double() @ rotation(16)
    moved = replace(evidence_of(replace(given, features=turned)), sample=None)
    sample = FeatureSample(turned, given.target, given.predicted, seen=len(given.target))
    assert counted(replace(moved, sample=sample)) == pytest.approx(found)
    monkeypatch.setattr(probe, "_OUTPUTS", 16 * 7)
    assert counted(evidence_of(given)) == found


def test_it_is_counted_for_the_measures_that_rest_on_it_alone():
    assert list(counts_for(["probe_decisions"])) == ["probe_decisions"]
    assert "probe_decisions" not in counts_for(["decisions", "statistics"])
