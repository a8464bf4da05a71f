"""From evidence to outcomes: a value, or why there is none."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.measure import Measure
from lightning_nc.values.errors import NothingToCompare, UndefinedMeasure
from lightning_nc.values.evidence import Evidence
from lightning_nc.values.outcome import Fate, Outcome


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
        >>> from lightning_nc.functional import ClassEvidence, select
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
        nothing = isinstance(undefined, NothingToCompare)
        return Outcome(None, Fate.NOT_HERE if nothing else Fate.LEFT_OUT, str(undefined))
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
