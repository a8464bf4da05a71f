"""NC4: the network's decisions against those of the nearest class center."""

from dataclasses import replace

import pytest
import torch
from support.problems import decisions_of, evidence_of, problem, statistics_of

from lightning_nc import FeatureSample, LinearClassifier
from lightning_nc import functional as F
from lightning_nc.functional import count_decisions, own_rows
from lightning_nc.functional.decision import decisions_of_own_rows
from lightning_nc.values import Decisions, UndefinedMeasure
from lightning_nc.values.small_classes import without_small_classes


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        (F.ncc_mismatch, "the network's decisions are not known"),
        (F.accuracy, "the network's decisions are not known"),
        (F.ncc_accuracy, "no row was sampled"),
    ],
)
def test_decisions_that_were_never_seen_have_no_share(function, missing):
    nothing = FeatureSample(torch.zeros(0, 32), torch.zeros(0, dtype=torch.long), None, seen=0)
    zero = torch.tensor(0)
    statistics = statistics_of(problem("random"))
    decisions = count_decisions(nothing, statistics, stands_for=zero, predicted=zero, correct=zero)
    with pytest.raises(UndefinedMeasure, match=missing):
        function(decisions)


def test_rows_without_a_known_decision_count_for_the_center_alone():
    given = problem("random")
    predicted = given.predicted.clone()
    predicted[:100] = -1
    h, y = given.features, given.target
    statistics = statistics_of(given)
    decisions = count_decisions(
        FeatureSample(h, y, predicted, seen=len(y)),
        statistics,
        stands_for=torch.tensor(len(y)),
        predicted=torch.tensor(500),
        correct=torch.tensor(77),
    )
    center = F.nearest_class_center(h.double(), statistics)
    wrong = (center != predicted)[100:].double().mean()
    assert float(F.ncc_mismatch(decisions)) == pytest.approx(float(wrong))
    assert float(F.ncc_accuracy(decisions)) == pytest.approx(float((center == y).double().mean()))
    assert float(F.accuracy(decisions)) == 77 / 500


def test_the_counts_of_two_ranks_add_up_to_those_of_all_rows():
    given = problem("random")
    whole = evidence_of(given)
    halves = [
        evidence_of(replace(given, features=given.features[part], target=given.target[part]))
        for part in (slice(200), slice(200, None))
    ]
    merged = replace(whole, all_classes=halves[0].all_classes.merge(halves[1].all_classes))
    counted = sum(decisions_of_own_rows(half, merged) for half in halves)
    torch.testing.assert_close(counted, decisions_of(given).as_vector())


def unseen(given):
    """Evidence of rows whose decisions nobody saw."""
    whole = evidence_of(given)
    tallies = whole.tallies._replace(predicted=torch.tensor(0), correct=torch.tensor(0))
    return replace(whole, sample=replace(whole.sample, predicted=None), tallies=tallies)


def test_decisions_that_nobody_saw_are_those_of_the_classifier_where_it_stood_still():
    given = problem("random")
    stage = unseen(given)
    counted = decisions_of_own_rows(stage, replace(stage, by_head=True))
    torch.testing.assert_close(counted, decisions_of(given).as_vector())
    for other in (stage, replace(stage, by_head=True, head=None)):
        decisions = Decisions(*decisions_of_own_rows(stage, other))
        assert float(decisions.predicted) == float(decisions.compared) == 0
        assert float(decisions.sampled) == len(given.target)


def test_decisions_that_were_seen_are_not_made_anew():
    given = problem("random")
    seen = evidence_of(given)
    turned = replace(seen, by_head=True, head=LinearClassifier(-seen.head.weight))
    torch.testing.assert_close(decisions_of_own_rows(seen, turned), decisions_of(given).as_vector())


def test_the_rows_of_small_classes_are_in_no_count():
    given = problem("random")
    given = replace(given, features=given.features[5:], target=given.target[5:])
    whole = evidence_of(given)
    counts = whole.all_classes.counts
    least = int(counts.min()) + 1
    kept = counts[given.target] >= least
    assert not kept.all()
    rest = replace(given, features=given.features[kept], target=given.target[kept])
    larger = without_small_classes(whole.all_classes, least)
    restricted = replace(whole, all_classes=larger, counts_before=counts)
    expected = decisions_of(rest).as_vector()
    torch.testing.assert_close(decisions_of_own_rows(whole, restricted), expected)


def of_some_rows(stage, monkeypatch, rows, least=1, by_head=False):
    """Decisions where the distances of so many rows to all class means are allowed."""
    means = stage.all_classes.means
    monkeypatch.setattr(own_rows, "_MULTIPLY_ADDS", rows * means.numel())
    monkeypatch.setattr(own_rows, "_LEAST_ROWS", least)
    return Decisions(*decisions_of_own_rows(stage, replace(stage, by_head=by_head)))


def test_where_the_distances_cost_too_much_some_rows_stand_for_all(monkeypatch):
    given = problem("random")
    whole, n = decisions_of(given), len(given.target)
    some = of_some_rows(evidence_of(given), monkeypatch, rows=150)
    assert float(some.sampled) == pytest.approx(n)
    assert float(some.compared) == pytest.approx(n)
    # the network's own are counted over all rows
    assert (float(some.predicted), float(some.correct)) == (n, float(whole.correct))
    right = float(some.center_correct) / n * 150
    assert right == pytest.approx(round(right))
    assert float(some.mismatched) != float(whole.mismatched)
    for name in ("center_correct", "mismatched"):
        p = float(getattr(whole, name)) / n
        assert abs(float(getattr(some, name)) / n - p) < 4 * (p * (1 - p) / 150) ** 0.5
    again = of_some_rows(evidence_of(given), monkeypatch, rows=150)
    assert torch.equal(some.as_vector(), again.as_vector())


def test_so_many_rows_as_there_are_are_all_taken_and_so_many_as_tell_something(monkeypatch):
    given = problem("random")
    whole, stage, n = decisions_of(given).as_vector(), evidence_of(given), len(given.target)
    for rows, least, is_whole in ((n, 1, True), (0, n, True), (n // 2, 1, False), (0, n // 2, False)):
        counted = of_some_rows(stage, monkeypatch, rows, least).as_vector()
        assert torch.equal(counted, whole) is is_whole


def test_the_rows_that_stand_for_all_are_spread_over_the_sample(monkeypatch):
    sample = FeatureSample(
        torch.arange(8000.0)[:, None], torch.zeros(8000, dtype=torch.long), None, 8000
    )
    monkeypatch.setattr(own_rows, "_MULTIPLY_ADDS", 5 * 1000)
    rows = own_rows._within_reach(sample, num_classes=5).features.flatten()
    assert len(rows.unique()) == len(rows) == 1000
    each_tenth = torch.bincount((rows / 800).long(), minlength=10)
    assert 60 < int(each_tenth.min()) <= int(each_tenth.max()) < 140


def test_classifier_and_nearest_center_decide_on_the_same_rows(monkeypatch):
    given = problem("random")
    asked = []
    decide = LinearClassifier.decide
    monkeypatch.setattr(
        LinearClassifier, "decide", lambda self, rows: asked.append(len(rows)) or decide(self, rows)
    )
    by_head = of_some_rows(unseen(given), monkeypatch, rows=150, by_head=True)
    assert asked == [150]
    seen = of_some_rows(evidence_of(given), monkeypatch, rows=150)
    assert float(by_head.mismatched) == float(seen.mismatched)
    assert float(by_head.center_correct) == float(seen.center_correct)
    assert float(by_head.predicted) == len(given.target)


def test_the_counts_of_ranks_that_take_some_of_their_rows_weigh_what_each_has(monkeypatch):
    given = problem("random")
    whole = evidence_of(given)
    halves = [
        evidence_of(replace(given, features=given.features[part], target=given.target[part]))
        for part in (slice(200), slice(200, None))
    ]
    merged = replace(whole, all_classes=halves[0].all_classes.merge(halves[1].all_classes))
    monkeypatch.setattr(own_rows, "_MULTIPLY_ADDS", 50 * merged.all_classes.means.numel())
    monkeypatch.setattr(own_rows, "_LEAST_ROWS", 1)
    weights = [float(Decisions(*decisions_of_own_rows(half, merged)).sampled) for half in halves]
    assert weights == pytest.approx([200, len(given.target) - 200])
