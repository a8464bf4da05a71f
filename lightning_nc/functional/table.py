"""The table of logged keys: what is measured, by which function, from what, and what to expect."""

import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.dotted_path import import_function
from lightning_nc.functional import decision, duality, geometry, size, variability
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.evidence import ClassEvidence, Evidence
from lightning_nc.values.outcome import Fate, Outcome


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    Attributes:
        key: The logged key, less the stage.
        function: The formula.
        needs: What it is given, by the names in ``Evidence.parts``; the key is logged only where all
            of it is there.
        summary: What it is, in a few words.
        at_collapse: The value at collapse as a text: a number, "C - 1", or "" where there is none.
        source: Who defined it.
        default: Whether it is logged without being asked for.
        min_classes: With fewer classes seen, the key is left out.
        headline: Its name where a single measure stands for the property: "NC1" to "NC4".
        of_layers: Whether it says something of each layer, and not of the network as a whole.
        is_custom: Whether it is a function of the user's own, which may fail in any way.
    """

    key: str
    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    summary: str
    at_collapse: str
    source: str
    default: bool = True
    min_classes: int = 2
    headline: str = ""
    of_layers: bool = True
    is_custom: bool = False

    def value_at_collapse(self, num_classes: int) -> float | None:
        """The value at collapse as a number, or None where there is none.

        Example:
            >>> MEASURES["nc1/rank"].value_at_collapse(num_classes=10)
            9.0
        """
        if self.at_collapse == "C - 1":
            return float(num_classes - 1)
        return float(self.at_collapse) if self.at_collapse.replace(".", "").isdigit() else None


_PAPYAN = "Papyan, Han & Donoho 2020"
_ZHU = "Zhu et al. 2021"
_WU = "Wu & Papyan 2024"

_TABLE = (
    Measure(
        "nc0/accuracy", decision.accuracy, ("network_decisions",),
        "accuracy of the network on the same rows", "", _PAPYAN, min_classes=0,
        of_layers=False,
    ),
    Measure(
        "nc0/num_samples", size.num_samples, ("statistics",),
        "samples that the figures rest on", "", "", min_classes=0, of_layers=False,
    ),
    Measure(
        "nc0/classes_seen", size.classes_seen, ("statistics",),
        "classes with at least one sample", "", "", min_classes=0, of_layers=False,
    ),
    Measure(
        "nc1/within_between_pinv", variability.within_between_pinv, ("statistics",),
        "tr(Sw Sb+)/C", "0", _PAPYAN,
        headline="NC1",
    ),
    Measure(
        "nc1/within_between_ratio", variability.within_between_ratio, ("statistics",),
        "tr Sw / tr Sb", "0", "Tirer et al. 2023",
    ),
    Measure(
        "nc1/within_between_ratio_debiased", variability.within_between_ratio_debiased,
        ("statistics",), "the same without the sampling noise of the class means", "0", "",
    ),
    Measure(
        "nc1/cdnv", variability.cdnv, ("statistics",),
        "mean pairwise class-distance normalized variance", "0", "Galanti et al. 2022",
    ),
    Measure(
        "nc1/rank", variability.rank, ("statistics",),
        "numerical rank of the centered class means", "C - 1", "",
    ),
    Measure(
        "nc1/variability_collapse_index", variability.variability_collapse_index, ("statistics",),
        "1 - tr(St+ Sb)/min(d, C - 1), weighted by counts", "0", "Xu & Liu 2023", default=False,
    ),
    Measure(
        "nc2/means_equinorm", geometry.equinorm, ("means_frame",),
        "std/mean of the norms of the class means", "0", _PAPYAN, min_classes=3,
    ),
    Measure(
        "nc2/weights_equinorm", geometry.equinorm, ("weights_frame",),
        "std/mean of the norms of the classifier's rows", "0", _PAPYAN,
    ),
    Measure(
        "nc2/means_equiangularity", geometry.equiangularity, ("means_frame",),
        "std of the cosines between class means", "0", _PAPYAN, min_classes=3,
    ),
    Measure(
        "nc2/weights_equiangularity", geometry.equiangularity, ("weights_frame",),
        "std of the cosines between the classifier's rows", "0", _PAPYAN, min_classes=3,
    ),
    Measure(
        "nc2/means_max_angle", geometry.max_angle, ("means_frame",),
        "mean |cos + 1/(C - 1)| of the class means", "0", _PAPYAN, min_classes=3,
    ),
    Measure(
        "nc2/weights_max_angle", geometry.max_angle, ("weights_frame",),
        "mean |cos + 1/(C - 1)| of the classifier's rows", "0", _PAPYAN,
    ),
    Measure(
        "nc2/means_etf_distance", geometry.etf_distance, ("means_frame",),
        "distance of the class means' Gram matrix to the ETF's", "0", _ZHU, min_classes=3,
        headline="NC2",
    ),
    Measure(
        "nc2/weights_etf_distance", geometry.etf_distance, ("weights_frame",),
        "distance of the classifier's Gram matrix to the ETF's", "0", _ZHU,
    ),
    Measure(
        "nc2/means_log_distance_variation", geometry.log_distance_variation, ("means_frame",),
        "GNC2: std/|mean| of log inverse distances of the normalized class means", "0", _WU,
        min_classes=3,
    ),
    Measure(
        "nc3/self_duality", duality.self_duality, ("statistics", "classifier"),
        "squared distance of normalized W and M", "0", _PAPYAN,
        headline="NC3",
    ),
    Measure(
        "nc3/duality_etf_distance", duality.duality_etf_distance, ("statistics", "classifier"),
        "distance of normalized W M to the ETF's Gram matrix", "0", _ZHU,
    ),
    Measure(
        "nc3/uniform_duality", duality.uniform_duality, ("statistics", "classifier"),
        "UNC3: std of the cosines between w_c and m_c", "0", _WU,
    ),
    Measure(
        "nc3/bias_collapse", duality.bias_collapse, ("statistics", "classifier"),
        "norm of the centered W muG + b", "0", _ZHU,
    ),
    Measure(
        "nc4/ncc_mismatch", decision.ncc_mismatch, ("network_decisions",),
        "share of samples where network and nearest class center disagree", "0", _PAPYAN,
        headline="NC4",
    ),
    Measure(
        "nc4/ncc_accuracy", decision.ncc_accuracy, ("decisions",),
        "accuracy of the nearest class center", "", _PAPYAN,
    ),
)  # fmt: skip

MEASURES: dict[str, Measure] = {measure.key: measure for measure in _TABLE}
"""The measures by their logged key, in the order of the dashboard."""


def select(names: Iterable[str], evidence: type[Evidence] = ClassEvidence) -> tuple[Measure, ...]:
    """The measures that a list of names asks for, of those that a kind of task has the evidence for.

    Args:
        names: Keys (``nc1/cdnv``), globs (``nc2/*``), ``default``, or a function by its dotted path,
            whose parameters are named like the ``parts`` of the evidence; it is logged under
            ``custom/`` and its name.
        evidence: What the task leaves.

    Returns:
        The measures, each once, in the order of the table; functions of one's own after them.

    Raises:
        ValueError: If a name fits nothing.

    Example:
        >>> [measure.key for measure in select(["nc4/*", "nc1/cdnv"])]
        ['nc1/cdnv', 'nc4/ncc_mismatch', 'nc4/ncc_accuracy']
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("Expected at least one measure, but got none. Use ['default'].")
    table = {key: m for key, m in MEASURES.items() if set(m.needs) <= set(evidence.parts)}
    chosen: dict[str, Measure] = {}
    for name in names:
        if name == "default":
            found = [measure for measure in table.values() if measure.default]
        else:
            found = [table[key] for key in fnmatch.filter(table, name)]
            if not found and "/" not in name and "." in name:
                found = [_from_function(name, evidence.parts)]
        if not found:
            raise _unknown(name, table)
        chosen.update((measure.key, measure) for measure in found)
    order = {key: i for i, key in enumerate(MEASURES)}
    return tuple(sorted(chosen.values(), key=lambda m: order.get(m.key, len(order))))


def _unknown(name: str, table: Iterable[str]) -> ValueError:
    near = get_close_matches(name, ["default", *table], n=3, cutoff=0.4)
    return ValueError(
        "Expected measures to name logged keys, globs of them, 'default' or functions by dotted path, "
        f"but got {name!r}. " + (f"Did you mean {' or '.join(map(repr, near))}?" if near else "")
    )


def evaluate(measures: Iterable[Measure], evidence: Evidence) -> dict[str, Outcome]:
    """Compute measures.

    A measure whose evidence is missing has no outcome; one without meaning on these data is left out
    with a reason; one that does not come out finite, or whose decomposition does not converge, is NaN
    with a reason.

    Args:
        measures: What to compute.
        evidence: What to compute it from.

    Returns:
        Outcomes by key.

    Example:
        >>> from lightning_nc import ClassStatistics
        >>> h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 0, 1, 1]), num_classes=2)
        >>> outcomes = evaluate(select(["nc1/cdnv", "nc2/means_*"]), ClassEvidence.of(stats))
        >>> outcomes["nc1/cdnv"].value
        tensor(0.0172, dtype=torch.float64)
        >>> outcomes["nc2/means_equinorm"].reason
        'needs at least 3 classes with samples, and there are 2'
    """
    outcomes = {}
    with torch.autocast(evidence.zero.device.type, enabled=False):
        for measure in measures:
            inputs = [evidence.part(name) for name in measure.needs]
            if all(part is not None for part in inputs):
                outcomes[measure.key] = _outcome(measure, inputs, evidence)
    return outcomes


def values_of(outcomes: Mapping[str, Outcome]) -> dict[str, Float[Tensor, ""]]:
    """The values of those that have one, NaN included, by key."""
    return {key: o.value for key, o in outcomes.items() if o.value is not None}


def _outcome(measure: Measure, inputs: Iterable[Any], evidence: Evidence) -> Outcome:
    seen = evidence.num_classes
    if seen is not None and seen < measure.min_classes:
        few = f"needs at least {measure.min_classes} classes with samples, and there are {seen}"
        return Outcome(None, Fate.FEW_CLASSES, few)
    zero = evidence.zero
    nan = torch.full_like(zero, torch.nan)
    out_of_range = _out_of_range(measure, evidence)
    if out_of_range:
        return Outcome(nan, Fate.NAN, out_of_range)
    try:
        value = _scalar(measure.function(*inputs), zero)
    except UndefinedMeasure as undefined:
        return Outcome(None, Fate.LEFT_OUT, str(undefined))
    except Exception as failure:
        # of ours a decomposition can fail to converge; a user's function can do anything
        if not (measure.is_custom or isinstance(failure, torch.linalg.LinAlgError)):
            raise
        failed = f"because it failed: {type(failure).__name__}: {failure}"
        return Outcome(nan, Fate.NAN, failed)
    if not bool(value.isfinite()):
        coincide = "class means or classifier rows coincide, vanish or overflow"
        return Outcome(nan, Fate.NAN, coincide)
    return Outcome(value)


def _out_of_range(measure: Measure, evidence: Evidence) -> str:
    """Why no formula that compares class means can be computed, a clause; empty where it can."""
    compares = (
        measure.min_classes > 1 and not measure.is_custom and "weights_frame" not in measure.needs
    )
    frame = evidence.part("means_frame") if compares else None
    if frame is None or not frame.leaves_range:
        return ""
    return f"the class means, centered, vanish or overflow: {frame.leaves_range}. Scale the features"


def _scalar(value: Tensor | float, like: Tensor) -> Float[Tensor, ""]:
    scalar = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if scalar.ndim:
        raise ValueError(f"expected a scalar, but got a tensor of shape {tuple(scalar.shape)}")
    return scalar


def _from_function(path: str, known: tuple[str, ...]) -> Measure:
    function, name = import_function(path, "measures"), path.rpartition(".")[2]
    needs = tuple(inspect.signature(function).parameters)
    if not needs or not set(needs) <= set(known):
        raise ValueError(f"Expected the parameters of {path} to be among {known}, but got {needs}.")
    summary = (inspect.getdoc(function) or name).splitlines()[0]
    key = f"custom/{name}"
    return Measure(key, function, needs, summary, "", path, default=False, is_custom=True)
