"""The table of measures, and what is selected from it."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from support.problems import VCI, assert_measures, of_default, problem, statistics_of, streamed

from lightning_nc.functional import MEASURES, ClassEvidence, Measure, evaluate, select
from lightning_nc.functional.counts import counts_for

OF_CLASSES = {key: m for key, m in MEASURES.items() if set(m.needs) <= set(ClassEvidence.parts)}


def test_the_table_names_each_key_once_with_a_summary():
    assert all(key == measure.key for key, measure in MEASURES.items())
    assert all(measure.summary for measure in MEASURES.values())
    assert not MEASURES[VCI].default
    assert len(select(["default"])) == 23


@pytest.mark.parametrize(
    ("key", "expected"),
    [("nc1/rank", 6.0), ("nc1/cdnv", 0.0), ("nc0/accuracy", None), ("nc4/ncc_accuracy", None)],
)
def test_the_value_at_collapse_is_a_number_or_none(key, expected):
    assert MEASURES[key].value_at_collapse(num_classes=7) == expected


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["nc4/*", "nc1/cdnv"], ["nc1/cdnv", "nc4/ncc_mismatch", "nc4/ncc_accuracy"]),
        (["nc1/cdnv", "nc1/c*"], ["nc1/cdnv"]),
        (["default"], [key for key, m in OF_CLASSES.items() if m.default]),
        (["*"], list(OF_CLASSES)),
        ("nc4/*", ["nc4/ncc_mismatch", "nc4/ncc_accuracy"]),
    ],
)
def test_measures_are_selected_by_key_and_glob_in_the_order_of_the_table(names, keys):
    assert [measure.key for measure in select(names)] == keys


def half_trace(statistics):
    """Half of the trace.

    More text.
    """
    return statistics.within_trace / 2


def refused(statistics, epoch):
    """Asks for what is not there."""
    return statistics.within_trace * epoch


not_a_function = 3


def test_a_function_of_ones_own_is_logged_under_custom():
    measure = select(["nc1/cdnv", "test_table.half_trace"])[-1]
    assert (measure.key, measure.summary, measure.default) == (
        "custom/half_trace",
        "Half of the trace.",
        False,
    )
    statistics = statistics_of(problem("random"))
    outcomes = evaluate([measure], ClassEvidence.of(statistics))
    assert outcomes["custom/half_trace"].value == statistics.within_trace / 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nc1/cdvn", r"but got 'nc1/cdvn'. Did you mean 'nc1/cdnv'"),
        ("defaults", r"Did you mean 'default'"),
        ("nc2/means_equinrom", r"Did you mean 'nc2/means_equinorm' or "),
        ("xyzzy", r"functions by dotted path, but got 'xyzzy'. $"),
        ("nc7/*", r"Expected measures to name logged keys, globs or families of them, 'default' or "),
        ("no_such_module.f", r"Expected measures to name a function that can be imported, but got "
                             r"'no_such_module.f': No module named"),
        ("math.no_such", r"module 'math' has no attribute 'no_such'. Is its module on the Python path"),
        ("test_table.not_a_function", r"'test_table.not_a_function' is a int"),
        ("test_table.refused", r"Expected the parameters of test_table.refused to be among "
                                    r".*but got \('statistics', 'epoch'\)"),
    ],
)  # fmt: skip
def test_an_unknown_measure_is_refused_with_near_names(name, message):
    with pytest.raises(ValueError, match=message):
        select([name])


def test_another_measure_that_is_not_logged_by_default_disturbs_no_comparison(monkeypatch):
    toy = Measure(
        "nc1/toy", lambda statistics: statistics.within_trace, ("statistics",), "a toy", "0", "",
        default=False,
    )  # fmt: skip
    given = problem("random")
    before = dict(given.reference)
    monkeypatch.setitem(MEASURES, toy.key, toy)
    reference = {**before, toy.key: float(statistics_of(given).within_trace)}
    assert not {toy.key, VCI} & set(of_default(reference))
    assert_measures(streamed(given, measures=["default"]).compute(), of_default(reference))
    assert_measures(streamed(given, measures=["default", VCI, toy.key]).compute(), reference)


def test_a_task_is_given_the_measures_that_it_has_the_evidence_for():
    @dataclass(frozen=True, eq=False)
    class Bare(ClassEvidence):
        parts: ClassVar[tuple[str, ...]] = ("statistics",)

    keys = {measure.key for measure in select(["*"], Bare)}
    assert keys == {key for key, m in MEASURES.items() if m.needs == ("statistics",)}
    with pytest.raises(ValueError, match="but got 'nc3/self_duality'"):
        select(["nc3/self_duality"], Bare)


def test_counts_are_made_for_the_measures_that_rest_on_them_alone():
    rests = {"decisions": "decisions", "network_decisions": "decisions", "recalls": "recalls",
             "probe_decisions": "probe_decisions", "centered_rows": "centered_rows"}  # fmt: skip
    for measure in MEASURES.values():
        expected = {rests[part] for part in measure.needs if part in rests}
        assert set(counts_for(measure.needs)) == expected
