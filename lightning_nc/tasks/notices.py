"""What to tell the user about the data: each kind of notice once, as a warning with its remedy."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lightning_nc.functional.measure import Measure
from lightning_nc.values.covariance import why_not_kept
from lightning_nc.values.errors import summarize
from lightning_nc.values.evidence import ClassEvidence, Evidence
from lightning_nc.values.frame import PAIRWISE_CLASSES
from lightning_nc.values.outcome import Fate, Outcome
from lightning_nc.values.sample import Tallies
from lightning_nc.values.statistics import ClassStatistics
from lightning_nc.values.training import Training

_OF_ETF = (
    "nc2/means_equiangularity", "nc2/weights_equiangularity", "nc2/means_max_angle",
    "nc2/weights_max_angle", "nc2/means_etf_distance", "nc2/weights_etf_distance",
    "nc2/means_log_distance_variation", "nc3/duality_etf_distance", "imbalance/etf",
    "imbalance/gof_centered", "imbalance/seli",
)  # fmt: skip
_OF_ROWS = {"row_penalty", "limit_terms"}  # parts that are there where the rows of training are known
_OF_ORTHOGONAL_FRAME = ("imbalance/of", "imbalance/relu_ce")
_FATES = {
    Fate.NAN: "is NaN", Fate.LEFT_OUT: "left out", Fate.NOT_HERE: "left out",
    Fate.FEW_CLASSES: "left out",
}  # fmt: skip


def notices(evidence: ClassEvidence, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """Sentences on what was left out and why.

    Args:
        evidence: What the measures were computed from, all ranks together.
        outcomes: What has become of them, by key.

    Returns:
        Texts by the kind of notice, so that each kind can be said once.
    """
    tallies, num_classes = evidence.tallies, evidence.all_classes.num_classes
    texts = {} if tallies is None else about_rows(tallies, num_classes)
    texts |= _about_classes(evidence.all_classes) | _about_width(evidence.statistics, outcomes)
    if evidence.zero.dtype == torch.float32:
        texts["float32"] = (
            "This device has no float64: means and scatters are kept in float32, and NC1 loses digits "
            "near collapse. For exact values there, measure on another device."
        )
    one_class = "one_class" in texts  # says it of all keys
    told = {k: o for k, o in outcomes.items() if not (one_class and o.fate is Fate.FEW_CLASSES)}
    return texts | about_outcomes(told)


def about_outcomes(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """One sentence for each reason why keys have no value.

    Args:
        outcomes: By key.

    Returns:
        Texts by kind.

    Example:
        >>> about_outcomes({"nc1/cdnv": Outcome(None, Fate.LEFT_OUT, "no row was sampled")})
        {'left out: nc1/cdnv': 'nc1/cdnv left out: no row was sampled.'}
    """
    together: dict[tuple[str, str], list[str]] = {}
    for key, outcome in outcomes.items():
        if outcome.fate in _FATES:
            together.setdefault((_FATES[outcome.fate], outcome.reason), []).append(key)
    return {
        f"{fate}: {', '.join(keys)}": f"{', '.join(keys)} {fate}: {reason}."
        for (fate, reason), keys in together.items()
    }


def about_rows_of_training(evidence: Evidence, measures: Iterable[Measure]) -> dict[str, str]:
    """A sentence on a stated penalty of the features that cannot be used, as N is not known.

    Args:
        evidence: What the measures were computed from.
        measures: Those that were asked for.

    Returns:
        The text by its kind; nothing where no key is missing for it.
    """
    if evidence.penalties.features is None or evidence.row_penalty is not None:
        return {}
    known = replace(evidence, training=Training(torch.ones(1, dtype=torch.int64)))
    missing = [
        measure.key
        for measure in measures
        if _OF_ROWS & set(measure.needs) and all(known.part(n) is not None for n in measure.needs)
    ]
    if not missing:
        return {}
    return {
        "rows of training": (
            "feature_penalty is stated, but the rows of a whole training epoch are not known (yet): "
            f"{', '.join(missing)} left out. Is a part of each epoch measured (limit_train_batches, "
            "max_rows_per_batch, every_n_steps, forwards='all'), or no training (online=False)?"
        )
    }


def about_covariance(statistics: ClassStatistics, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """A sentence on a covariance that is too large to be kept unasked, unless a measure's says it."""
    reason = why_not_kept(statistics.num_features)
    told = any(outcome.reason == reason for outcome in outcomes.values())
    if told or statistics.scatter is not None:
        return {}
    return {"covariance": f"{reason[0].upper()}{reason[1:]}."}


def about_small_classes(
    evidence: ClassEvidence, min_count: int, outcomes: Mapping[str, Outcome]
) -> str:
    """What is said of classes that are left out for having few rows, and of what goes with them."""
    missing = (~evidence.all_classes.seen).nonzero().flatten().tolist()
    text = (
        f"{summarize(missing, 'class', 'classes')} with fewer than min_count = {min_count} rows left "
        "out of every formula."
    )
    lost = lost_with_them(evidence, outcomes)
    if not lost:
        return text
    return (
        f"{text} The pooled covariance holds their rows as well, so that {', '.join(lost)} have no "
        "value; covariance='per_class' keeps them apart."
    )


def lost_with_them(evidence: ClassEvidence, outcomes: Mapping[str, Outcome]) -> list[str]:
    """Keys that have no value because classes with few rows took the pooled covariance with them."""
    reason = _no_scatter(evidence) if evidence.lacks_scatter else None
    return [key for key, outcome in outcomes.items() if reason and outcome.reason == reason]


def _no_scatter(evidence: ClassEvidence) -> str:
    return why_not_kept(evidence.all_classes.num_features)


def without_lost(evidence: ClassEvidence, outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """Outcomes, less those that have no value because small classes took the covariance with them."""
    lost = lost_with_them(evidence, outcomes)
    return {key: outcome for key, outcome in outcomes.items() if key not in lost}


def rows_left_out(lost: Mapping[str, int]) -> str:
    """A clause on rows that were left out, empty if there are none.

    Args:
        lost: How many for what.

    Returns:
        The clause.

    Example:
        >>> rows_left_out({"no tag": 2, "a NaN or infinite feature": 0})
        ' (2 rows with no tag were left out)'
    """
    parts = [f"{count} rows with {what}" for what, count in lost.items() if count]
    return f" ({', '.join(parts)} were left out)" if parts else ""


def about_rows(tallies: Tallies, num_classes: int) -> dict[str, str]:
    """Sentences on rows that were left out, by kind."""
    texts = {}
    if tallies.non_finite:
        texts["non_finite"] = about_non_finite(tallies.non_finite)
    if tallies.out_of_range:
        texts["out_of_range"] = (
            f"{rows(tallies.out_of_range)} with a label outside [0, {num_classes}) left "
            "out. Is num_classes too small, do the labels start at 1, or is ignore_index another value?"
        )
    if tallies.fractional:
        texts["fractional"] = (
            f"{rows(tallies.fractional)} with a label that is no whole number left out. Are "
            "these soft labels? Pass hard ones, in the callback by a `target` function."
        )
    return texts


def _about_classes(statistics: ClassStatistics) -> dict[str, str]:
    texts = {}
    absent = (~statistics.seen).nonzero().flatten().tolist()
    num_seen = statistics.num_classes - len(absent)
    if absent:
        texts["absent"] = (
            f"Expected samples of all {statistics.num_classes} classes, but got none of "
            f"{summarize(absent, 'class', 'classes')}: left out of every formula. Is num_classes "
            "too large, or are the data sorted by class and cut short (limit_train_batches, "
            "limit_val_batches)?"
        )
    if num_seen == 1:
        texts["one_class"] = (
            "Samples of a single class: neural collapse compares classes, so only nc0/ keys are logged."
        )
    elif 0 < num_seen == int(statistics.num_samples):
        texts["single_samples"] = (
            "Every class has a single sample: the within-class variability is 0 by construction, "
            "not by collapse. Measure more samples per class."
        )
    return texts


def _about_width(statistics: ClassStatistics, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """Sentences on keys that compare with a frame which does not fit into the features."""
    num_classes, width = statistics.num_classes, statistics.num_features
    valued = [key for key, outcome in outcomes.items() if outcome.fate is Fate.VALUE]
    return _too_wide_for_etf(num_classes, width, valued) | _too_wide(num_classes, width, valued)


def _too_wide(num_classes: int, width: int, valued: Collection[str]) -> dict[str, str]:
    concerned = [key for key in valued if key in _OF_ORTHOGONAL_FRAME]
    if num_classes <= width or not concerned:
        return {}
    return {
        "wide for orthogonal frames": (
            f"{num_classes} classes in {width} features: an orthogonal frame needs {num_classes}, so "
            f"{', '.join(concerned)} cannot reach 0."
        )
    }


def _too_wide_for_etf(num_classes: int, width: int, valued: Collection[str]) -> dict[str, str]:
    concerned = [key for key in valued if key in _OF_ETF]
    if num_classes <= width + 1 or not concerned:
        return {}
    least = least_etf_distance(num_classes, width)
    has_distance = any(key.endswith("etf_distance") for key in concerned)
    reach = f" (an etf_distance: no less than {least:.3g})" if has_distance and least else ""
    return {
        "wide": (
            f"{num_classes} classes in {width} features: a simplex ETF needs at least "
            f"{num_classes - 1} features, so {', '.join(concerned)} cannot reach 0{reach}. Read "
            "nc2/means_log_distance_variation as uniformity, the smaller the better, and "
            "nc3/uniform_duality, which can."
        )
    }


def least_etf_distance(num_classes: int, num_features: int) -> float:
    r"""The least distance of a normalized Gram matrix of rank d to the ETF's.

    A matrix of rank d and norm 1 comes nearest to :math:`T = (I - J/C) / \sqrt{C-1}` where it is T on d
    of its eigenvectors, and 0 on the others: :math:`\sqrt{2 - 2 \sqrt{d/(C-1)}}`. Above 2,048 classes
    likewise, for the part of T that a sample of 2,048 classes meets.

    Args:
        num_classes: C.
        num_features: d.

    Returns:
        The distance; 0 where d vectors, or as many as are sampled, leave nothing over.

    Example:
        >>> f"{least_etf_distance(num_classes=10, num_features=4):.4f}"
        '0.8165'
    """
    sampled = min(num_classes, PAIRWISE_CLASSES)
    # the eigenvalues of I - J/C at k of C classes: 1, k - 1 times, and 1 - k/C
    squares = sampled - 1 + (1 - sampled / num_classes) ** 2
    return math.sqrt(max(0.0, 2 - 2 * math.sqrt(min(1.0, num_features / squares))))


def about_non_finite(count: Tensor) -> str:
    """A sentence on rows whose features are no numbers."""
    return (
        f"{rows(count)} with a NaN or infinite feature left out. Has training diverged, or does "
        "float16 overflow?"
    )


def rows(count: Tensor) -> str:
    """How many rows, in words."""
    return f"{int(count)} row" + ("" if int(count) == 1 else "s")
