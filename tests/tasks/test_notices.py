"""What the user is told about the data: each thing once, with the numbers and the remedy."""

from dataclasses import replace

import pytest
import torch
from support.problems import evidence_of, gaussian_classes, problem, statistics_of, tallies_of

from lightning_nc.functional import MEASURES, ClassEvidence, evaluate
from lightning_nc.tasks.notices import about_covariance, about_outcomes, notices, rows_left_out
from lightning_nc.values import Fate, Outcome, covariance

NON_FINITE = "with a NaN or infinite feature left out. Has training diverged, or does float16 overflow?"


OUT_OF_RANGE = (
    "with a label outside [0, 10) left out. Is num_classes too small, do the labels start at 1, or is "
    "ignore_index another value?"
)


FRACTIONAL = (
    "with a label that is no whole number left out. Are these soft labels? Pass hard ones, in the "
    "callback by a `target` function."
)


@pytest.mark.parametrize(
    ("name", "count", "text"),
    [
        ("non_finite", 1, f"1 row {NON_FINITE}"),
        ("non_finite", 12, f"12 rows {NON_FINITE}"),
        ("out_of_range", 1, f"1 row {OUT_OF_RANGE}"),
        ("out_of_range", 3, f"3 rows {OUT_OF_RANGE}"),
        ("fractional", 1, f"1 row {FRACTIONAL}"),
        ("fractional", 2, f"2 rows {FRACTIONAL}"),
    ],
)
def test_rows_that_were_left_out_are_counted(name, count, text):
    assert notices(evidence_of(problem("random"), **{name: count}), {}) == {name: text}


LEFT_OUT = (
    "left out of every formula. Is num_classes too large, or are the data sorted by class and cut "
    "short (limit_train_batches, limit_val_batches)?"
)


ONE_CLASS = "Samples of a single class: neural collapse compares classes, so only nc0/ keys are logged."


SINGLE_SAMPLES = (
    "Every class has a single sample: the within-class variability is 0 by construction, not by "
    "collapse. Measure more samples per class."
)


@pytest.mark.parametrize(
    ("counts", "width", "kind", "text"),
    [
        (
            [5, 0, 5, 5], 8, "absent",
            f"Expected samples of all 4 classes, but got none of class 1: {LEFT_OUT}",
        ),
        (
            [5, 5, *[0] * 12], 8, "absent",
            "Expected samples of all 14 classes, but got none of classes 2, 3, 4, 5, 6, 7, 8, 9 and "
            f"4 more: {LEFT_OUT}",
        ),
        ([5], 8, "one_class", ONE_CLASS),
        ([1], 8, "one_class", ONE_CLASS),
        ([1, 1, 1], 8, "single_samples", SINGLE_SAMPLES),
        ([5] * 7, 3, None, None),
        ([5] * 4, 3, None, None),
        ([1, 1, 2], 8, None, None),
        ([5, 5], 1, None, None),
    ],
    ids=["an absent class", "many absent classes", "one class", "one sample", "one of each class",
         "no room for an ETF, and no key", "just enough features", "one class with two samples",
         "two classes in one feature"],
)  # fmt: skip
def test_classes_that_allow_no_measure_are_explained(counts, width, kind, text):
    given = gaussian_classes(counts, width)
    texts = notices(ClassEvidence(statistics_of(given), tallies=tallies_of(given)), {})
    assert texts == ({} if kind is None else {kind: text})


def test_keys_with_the_same_reason_share_a_sentence():
    nan = torch.tensor(torch.nan)
    outcomes = {
        "a": Outcome(None, Fate.LEFT_OUT, "too few"),
        "b": Outcome(nan, Fate.NAN, "they coincide"),
        "c": Outcome(None, Fate.LEFT_OUT, "too few"),
        "d": Outcome(nan, Fate.NAN, "because it failed"),
        "e": Outcome(torch.tensor(0.5)),
    }
    assert list(notices(evidence_of(problem("random")), outcomes).values()) == [
        "a, c left out: too few.",
        "b is NaN: they coincide.",
        "d is NaN: because it failed.",
    ]


@pytest.mark.parametrize(
    ("tallies", "text"),
    [
        ({}, ""),
        ({"non_finite": 2}, " (2 rows with a NaN or infinite feature were left out)"),
        (
            {"non_finite": 2, "out_of_range": 3, "fractional": 4},
            " (2 rows with a NaN or infinite feature, 3 rows with a label outside the classes, 4 rows "
            "with a label that is no whole number were left out)",
        ),
    ],
)
def test_a_clause_names_the_rows_that_were_left_out(tallies, text):
    assert rows_left_out(tallies_of(problem("random"), **tallies).lost()) == text


def test_a_single_class_is_said_once_and_not_of_every_key():
    given = problem("one class")
    evidence = evidence_of(given)
    outcomes = evaluate(MEASURES.values(), evidence)
    assert {o.fate for o in outcomes.values()} == {Fate.VALUE, Fate.FEW_CLASSES}
    assert set(notices(evidence, outcomes)) == {"absent", "one_class"}
    assert set(about_outcomes(outcomes)) > set()


def test_a_device_without_float64_is_named_as_the_reason_of_lost_digits():
    given = problem("random")
    s = statistics_of(given)
    short = replace(
        s, means=s.means.float(), scatter=s.scatter.float(), sums_of_squares=s.sums_of_squares.float()
    )
    [(kind, text)] = notices(ClassEvidence.of(short), {}).items()
    assert kind == "float32"
    assert text.startswith("This device has no float64: means and scatters are kept in float32")
    assert "float32" not in notices(ClassEvidence.of(s), {})


def test_a_covariance_that_auto_does_not_keep_is_told_once(monkeypatch):
    monkeypatch.setattr(covariance, "AUTO_BYTES", 8 * 32**2 - 1)
    given = problem("random")
    kept, traces = statistics_of(given), statistics_of(given, covariance="none")
    outcomes = evaluate([MEASURES["nc1/within_between_pinv"]], ClassEvidence.of(traces))
    assert about_covariance(kept, {}) == {}
    assert about_covariance(traces, outcomes) == {}
    [left_out] = about_outcomes(outcomes).values()
    [alone] = about_covariance(traces, {}).values()
    text = (
        "he within-class covariance was not kept: of 32 features it takes 8,192 bytes, and covariance="
    )
    assert left_out.startswith(f"nc1/within_between_pinv left out: t{text}")
    assert alone.startswith(f"T{text}")
    assert alone.endswith("if memory allows, set covariance='pooled'.")
