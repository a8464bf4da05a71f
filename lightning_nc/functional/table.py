"""The table of logged keys: what is measured, by which function, from what, and what to expect."""

import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.dotted_path import import_function
from lightning_nc.functional import decision, duality, geometry, variability
from lightning_nc.values.statistics import (
    ClassStatistics,
    Decisions,
    Frame,
    LinearClassifier,
    UndefinedMeasure,
)


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    Attributes:
        key: The logged key, less the stage.
        function: The formula. Its arguments are the attributes of :class:`Evidence` in ``needs``.
        needs: What the function is given; the key is logged only where all of it is there.
        summary: What it is, in a few words.
        at_collapse: The value at collapse as a text: a number, "C - 1", or "" where there is none.
        source: Who defined it.
        default: Whether it is logged without being asked for.
        min_classes: With fewer classes seen, the key is left out.
        headline: Its name where a single measure stands for the property: "NC1" to "NC4".
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

    def value_at_collapse(self, num_classes: int) -> float | None:
        """The value at collapse as a number, or None where there is none.

        Example:
            >>> MEASURES["nc1/rank"].value_at_collapse(num_classes=10)
            9.0
        """
        if self.at_collapse == "C - 1":
            return float(num_classes - 1)
        return float(self.at_collapse) if self.at_collapse.replace(".", "").isdigit() else None


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a stage leaves for the measures, for the classes that it has seen.

    Attributes:
        statistics: Statistics of the seen classes only.
        classifier: The rows of the seen classes only, or None if it is not known.
        decisions: Counted decisions, or None if there is no sample.
    """

    statistics: ClassStatistics
    classifier: LinearClassifier | None = None
    decisions: Decisions | None = None

    @classmethod
    def of(
        cls,
        statistics: ClassStatistics,
        classifier: LinearClassifier | None = None,
        decisions: Decisions | None = None,
    ) -> "Evidence":
        """Leave out the unseen classes, from the statistics and from the classifier.

        Args:
            statistics: Statistics of all classes.
            classifier: The classifier of all classes, if it is known.
            decisions: Counted decisions, if there are any.

        Returns:
            The evidence for the classes with at least one sample.

        Raises:
            ValueError: If classifier and statistics differ in their number of classes.
        """
        seen = statistics.seen
        if classifier is not None and classifier.num_classes != statistics.num_classes:
            raise ValueError(
                f"Expected a classifier with num_classes = {statistics.num_classes} rows, but got "
                f"{classifier.num_classes}. Is num_classes what the last layer puts out?"
            )
        known = statistics.of_seen_classes
        if known is not statistics and classifier is not None:
            classifier = classifier.restrict(seen)
        return cls(known, classifier, decisions)

    @property
    def network_decisions(self) -> Decisions | None:
        """The counted decisions, where the network's own are known."""
        known = self.decisions is not None and bool(self.decisions.predicted != 0)
        return self.decisions if known else None

    @property
    def means_frame(self) -> Frame:
        """The centered class means."""
        return self.statistics.frame

    @cached_property
    def weights_frame(self) -> Frame | None:
        """The rows of the classifier."""
        return None if self.classifier is None else self.classifier.frame


def num_samples(statistics: ClassStatistics) -> Int[Tensor, ""]:
    """How many samples the figures of the stage rest on."""
    return statistics.num_samples


def classes_seen(statistics: ClassStatistics) -> Int[Tensor, ""]:
    """How many classes have at least one sample: the C of every formula."""
    return statistics.seen.sum()


_PAPYAN = "Papyan, Han & Donoho 2020"
_ZHU = "Zhu et al. 2021"
_WU = "Wu & Papyan 2024"

_TABLE = (
    Measure(
        "nc0/accuracy", decision.accuracy, ("network_decisions",),
        "accuracy of the network on the same rows", "", _PAPYAN, min_classes=0,
    ),
    Measure(
        "nc0/num_samples", num_samples, ("statistics",),
        "samples that the figures rest on", "", "", min_classes=0,
    ),
    Measure(
        "nc0/classes_seen", classes_seen, ("statistics",),
        "classes with at least one sample", "", "", min_classes=0,
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

MEASURES: Mapping[str, Measure] = {measure.key: measure for measure in _TABLE}
"""The measures by their logged key, in the order of the dashboard."""


def select(names: Iterable[str]) -> tuple[Measure, ...]:
    """The measures that a list of names asks for.

    Args:
        names: Keys (``nc1/cdnv``), globs (``nc2/*``), ``default``, or a function by its dotted path,
            whose parameters are named like the attributes of :class:`Evidence`; it is logged under
            ``custom/`` and its name.

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
    chosen: dict[str, Measure] = {}
    for name in names:
        if name == "default":
            found = [m for m in _TABLE if m.default]
        else:
            found = [MEASURES[key] for key in fnmatch.filter(MEASURES, name)]
            if not found and "/" not in name and "." in name:
                found = [_from_function(name)]
        if not found:
            near = get_close_matches(name, ["default", *MEASURES], n=3, cutoff=0.4)
            raise ValueError(
                "Expected measures to name logged keys, globs of them, 'default' or functions by "
                f"dotted path, but got {name!r}. "
                + (f"Did you mean {' or '.join(map(repr, near))}?" if near else "")
            )
        chosen.update((measure.key, measure) for measure in found)
    order = {key: i for i, key in enumerate(MEASURES)}
    return tuple(sorted(chosen.values(), key=lambda m: order.get(m.key, len(order))))


def evaluate(
    measures: Iterable[Measure], evidence: Evidence
) -> tuple[dict[str, Float[Tensor, ""]], dict[str, str]]:
    """Compute measures.

    A key whose inputs are not there is left out silently; one without meaning on these data is left
    out with a reason; one that does not come out finite, or whose decomposition does not converge, is
    NaN with a reason.

    Args:
        measures: What to compute.
        evidence: What to compute it from.

    Returns:
        The values by key, as scalars, and the reasons by key.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 0, 1, 1]), num_classes=2)
        >>> values, reasons = evaluate(select(["nc1/cdnv", "nc2/means_*"]), Evidence.of(stats))
        >>> values
        {'nc1/cdnv': tensor(0.0172, dtype=torch.float64)}
        >>> reasons["nc2/means_equinorm"]
        'needs at least 3 classes with samples, and there are 2'
    """
    values: dict[str, Tensor] = {}
    reasons: dict[str, str] = {}
    statistics = evidence.statistics
    for measure in measures:
        inputs = [getattr(evidence, name) for name in measure.needs]
        if any(value is None for value in inputs):
            continue
        if statistics.num_classes < measure.min_classes:
            reasons[measure.key] = (
                f"needs at least {measure.min_classes} classes with samples, "
                f"and there are {statistics.num_classes}"
            )
            continue
        try:
            value = _scalar(measure.function(*inputs), statistics.means)
        except UndefinedMeasure as undefined:
            reasons[measure.key] = str(undefined)
            continue
        except Exception as failure:
            # of ours a decomposition can fail to converge; a user's function can do anything
            if not (measure.key.startswith("custom/") or isinstance(failure, torch.linalg.LinAlgError)):
                raise
            value = torch.full_like(statistics.within_trace, torch.nan)
            reasons[measure.key] = f"NaN, because it failed: {type(failure).__name__}: {failure}"
        if not bool(value.isfinite()):
            value = torch.full_like(value, torch.nan)
            reasons.setdefault(
                measure.key, "NaN: class means or classifier rows coincide, vanish or overflow"
            )
        values[measure.key] = value
    return values, reasons


def _scalar(value: Tensor | float, like: Tensor) -> Float[Tensor, ""]:
    scalar = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if scalar.ndim:
        raise ValueError(f"expected a scalar, but got a tensor of shape {tuple(scalar.shape)}")
    return scalar


def _from_function(path: str) -> Measure:
    function, name = import_function(path, "measures"), path.rpartition(".")[2]
    needs = tuple(inspect.signature(function).parameters)
    known = (
        "statistics", "classifier", "decisions", "network_decisions", "means_frame", "weights_frame",
    )  # fmt: skip
    if not needs or not set(needs) <= set(known):
        raise ValueError(f"Expected the parameters of {path} to be among {known}, but got {needs}.")
    summary = (inspect.getdoc(function) or name).splitlines()[0]
    return Measure(f"custom/{name}", function, needs, summary, "", path, default=False)
