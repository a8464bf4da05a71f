"""What the user is told about the data: each thing once, with the numbers and the remedy."""

import warnings
from dataclasses import replace

import pytest
import torch
from problems import gaussian_classes, problem, streamed

from lightning_nc import ClassStatistics, NeuralCollapse, NeuralCollapseWarning
from lightning_nc.tasks.notices import notices, rows_left_out
from lightning_nc.values.statistics import Accumulated, FeatureSample, Tallies


def accumulated(given, **tallies):
    """What is left of a stage, with these counts of rows."""
    counts = {**dict.fromkeys(Tallies._fields, 0), **tallies}
    return Accumulated(
        ClassStatistics.from_batch(given.features, given.target, given.num_classes),
        FeatureSample(given.features, given.target, None, seen=len(given.target)),
        Tallies(**{name: torch.tensor(n) for name, n in counts.items()}),
    )


def said(metric):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metric.compute()
    assert all(w.category is NeuralCollapseWarning for w in caught)
    return [str(w.message) for w in caught]


# ------------------------------------------------------------------------------------------- texts


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
    assert notices(accumulated(problem("random"), **{name: count}), {}) == {name: text}


LEFT_OUT = (
    "left out of every formula. Is num_classes too large, or are the data sorted by class and cut "
    "short (limit_train_batches, limit_val_batches)?"
)
ONE_CLASS = "Samples of a single class: neural collapse compares classes, so only nc0/ keys are logged."
SINGLE_SAMPLES = (
    "Every class has a single sample: the within-class variability is 0 by construction, not by "
    "collapse. Measure more samples per class."
)
WIDE = (
    "7 classes in 3 features: a simplex ETF needs at least 6 features, so the etf_distance and "
    "max_angle keys cannot reach 0. nc2/means_log_distance_variation can be read here too."
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
        ([5] * 7, 3, "wide", WIDE),
        ([5] * 4, 3, None, None),
        ([1, 1, 2], 8, None, None),
        ([5, 5], 1, None, None),
    ],
    ids=["an absent class", "many absent classes", "one class", "one sample", "one of each class",
         "more classes than features can hold", "just enough features", "one class with two samples",
         "two classes in one feature"],
)  # fmt: skip
def test_classes_that_allow_no_measure_are_explained(counts, width, kind, text):
    texts = notices(accumulated(gaussian_classes(counts, width)), {})
    assert texts == ({} if kind is None else {kind: text})


def test_keys_with_the_same_reason_share_a_sentence():
    reasons = {"a": "too few", "b": "NaN: they coincide", "c": "too few", "d": "NaN, because it failed"}
    assert list(notices(accumulated(problem("random")), reasons).values()) == [
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
    assert rows_left_out(accumulated(problem("random"), **tallies).tallies) == text


# ---------------------------------------------------------------------------------- from the metric


@pytest.mark.parametrize(
    ("name", "beginnings"),
    [
        ("random", []),
        ("imbalanced", []),
        ("bottleneck", []),
        ("far from the origin", []),
        ("tight", []),
        ("missing classes", ["Expected samples of all 10 classes, but got none of classes 1, 3, 4, "]),
        ("two classes", ["nc2/means_equinorm, nc2/means_equiangularity, nc2/weights_equiangularity, "
                         "nc2/means_max_angle, nc2/means_etf_distance, "
                         "nc2/means_log_distance_variation left out: needs at least 3 classes with "
                         "samples, and there are 2."]),
        ("one class", ["Expected samples of all 3 classes, but got none of classes 0, 2",
                       "Samples of a single class"]),
        ("more classes than features", ["12 classes in 5 features: a simplex ETF needs at least 11"]),
        ("a class with one sample", ["nc1/within_between_ratio_debiased left out: a class has a single "
                                     "sample, whose variance is not known."]),
    ],
)  # fmt: skip
def test_a_metric_says_once_what_the_data_do_not_allow(name, beginnings):
    given = problem(name)
    metric = streamed(given)
    texts = said(metric)
    assert len(texts) == len(beginnings)
    for text, beginning in zip(texts, beginnings, strict=True):
        assert text.startswith(beginning)
    metric._computed = None
    assert said(metric) == []
    metric.reset()
    metric.update(given.features, given.target, given.logits, given.classifier)
    assert said(metric) == []


def test_something_new_is_said_later():
    given = problem("random")
    metric = streamed(given)
    assert said(metric) == []
    metric.update(given.features[:2] * torch.nan, given.target[:2], given.logits[:2], given.classifier)
    assert [text[:24] for text in said(metric)] == ["2 rows with a NaN or inf"]


def test_forward_and_compute_share_what_was_said():
    given = problem("two classes")
    metric = NeuralCollapse(2, 8)
    with pytest.warns(NeuralCollapseWarning, match="needs at least 3 classes"):
        metric(given.features[:50], given.target[:50], given.logits[:50])
    metric(given.features[50:], given.target[50:], given.logits[50:])
    assert said(metric) == []


def test_means_that_coincide_are_said_to_be_the_reason_of_nan():
    given = gaussian_classes([20, 20, 20], 4)
    constant = replace(given, features=torch.full((60, 4), 2.0))
    metric = streamed(constant, measures=["nc1/cdnv", "nc3/*"])
    texts = said(metric)
    assert len(texts) == 1
    assert texts[0].startswith(
        "nc1/cdnv, nc3/self_duality, nc3/duality_etf_distance, nc3/uniform_duality"
    )
    assert texts[0].endswith("is NaN: class means or classifier rows coincide, vanish or overflow.")


def test_the_warning_points_at_the_caller():
    metric = streamed(problem("two classes"))
    with pytest.warns(NeuralCollapseWarning) as caught:
        metric.compute()
    # torchmetrics wraps compute: what is pointed at is not our own file
    assert not caught[0].filename.endswith("lightning_nc/metric.py")
