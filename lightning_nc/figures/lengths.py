"""How long the class means and the classifier's rows are, beside what the nearest geometry says."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from lightning_nc.figures.inline import showable
from lightning_nc.figures.race import FAMILY_COLORS
from lightning_nc.figures.style import NAMED_CLASSES, class_label, number, plain, without_latex
from lightning_nc.functional.frames import gram_triple
from lightning_nc.functional.imbalance.families import Fit
from lightning_nc.functional.imbalance.nearest import Ranking
from lightning_nc.functional.imbalance.race import race_of
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.evidence import ClassEvidence, Evidence
from lightning_nc.values.training import Training

_WORST = 3
_MEASURED = "0.25"


@showable
@without_latex
def class_lengths(
    evidence: ClassEvidence, class_names: Sequence[str] | None = None, stage: str = ""
) -> tuple[Figure, list[Axes]]:
    """Lengths of the classifier's rows and of the class means against the counts of training.

    Dots are measured; lines are the geometries of theory at their fitted parameters, the nearest one
    thick. Without a bias of the head the class means are as they are, with one they are less the mean
    of all rows, each beside the geometries whose theory has that center. Lengths are relative to the
    root of their mean square, so that no scale counts. The classes farthest from the nearest geometry
    have a circle and their names. Where no class has twice the rows of another, the classes stand in
    their own order.

    Args:
        evidence: With a linear head, and the counts of training.
        class_names: Names of all classes.
        stage: Such as "val".

    Returns:
        The figure, and its axes: of the classifier's rows, and of the class means.

    Raises:
        UndefinedMeasure: If there is no linear head, or the counts of training are not known, or do
            not fit.

    Example:
        >>> import torch
        >>> from lightning_nc import ClassStatistics, LinearClassifier
        >>> h, y = torch.eye(3)[[0, 0, 0, 1, 1, 2]], torch.tensor([0, 0, 0, 1, 1, 2])
        >>> evidence = ClassEvidence.of(
        ...     ClassStatistics.from_batch(h, y, 3), LinearClassifier(torch.eye(3))
        ... )
        >>> figure, axes = class_lengths(evidence, stage="val")
        >>> figure.get_suptitle(), axes[0].lines[-2].get_label()
        ('val: of', 'measured')

    References:
        Dang et al. (2023), "Neural collapse in deep linear networks: from balanced to imbalanced data".
    """
    head = evidence.linear_head
    if head is None:
        raise UndefinedMeasure("there is no linear classifier whose lengths could be compared")
    ranked = race_of(head)
    assert head.counts is not None
    center = None if head.product.bias is None else head.counts
    measured = gram_triple(head.statistics.means, head.product.weight, center)
    labels = evidence.all_classes.seen.nonzero().flatten().tolist()
    names = [class_label(label, class_names) for label in labels]
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axes = list(figure.subplots(1, 2))
    titles = "classifier's rows", f"class means, {'as they are' if center is None else 'centered'}"
    x = _class_axes(axes, labels, head.counts.cpu().numpy())
    for i, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        predicted = {
            fit: _lengths(fit.member[i])
            for fit in ranked.fits
            if fit.member is not None and np.isfinite(fit.rms)
        }
        _panel(axis, title, x, _lengths(measured[i]), predicted, names)
    axes[0].set_ylabel("length / root mean square", fontsize=9)
    handles, texts = axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.suptitle(_headline(stage, ranked), fontsize=10)
    return figure, axes


def tells_lengths(evidence: Evidence) -> bool:
    """Whether counts in training are unequal, and geometries can be compared.

    Args:
        evidence: What a stage has left.

    Returns:
        Whether the picture has something to show.
    """
    head = evidence.part("linear_head")
    if head is None or head.counts is None:
        return False
    if not ("unequal_counts" in evidence.occasions or Training(head.counts).is_unequal):
        return False
    try:
        return bool(race_of(head).fits)  # which is kept for the drawing
    except UndefinedMeasure:
        return False


def _lengths(gram: Float[Tensor, "K K"]) -> np.ndarray:
    """The root of the diagonal, relative to the root of its mean."""
    squares = gram.diagonal().clamp(min=0).cpu().numpy()
    return np.sqrt(squares / (squares.mean() or 1.0))


def _class_axes(axes: Sequence[Axes], labels: list[int], counts: np.ndarray) -> np.ndarray:
    """Furnish the x axes, and say where on them each class is."""
    low, high = int(counts.min()), int(counts.max())
    for axis in axes:
        plain(axis)
        if high < 2 * low:
            axis.set_xlabel("class", fontsize=9)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
            continue
        axis.set_xscale("log")
        axis.set_xlabel("rows of the class in training", fontsize=9)
        axis.set_xlim(low / 1.3, high * 1.3)
        few = LogLocator(subs=(1,) if high >= 1000 * low else (1, 2, 5))
        axis.xaxis.set_major_locator(few if high >= 10 * low else MaxNLocator(4, integer=True))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        # dozens of ticks take most of the time of drawing
        axis.xaxis.set_minor_locator(NullLocator())
    return counts if high >= 2 * low else np.array(labels)


def _panel(
    axis: Axes, title: str, x: np.ndarray, measured: np.ndarray, predicted: dict[Fit, np.ndarray],
    names: list[str],
) -> None:  # fmt: skip
    few = len(x) <= NAMED_CLASSES
    order = np.argsort(x, kind="stable")
    for place, (fit, lengths) in enumerate(predicted.items()):
        marks: dict[str, Any] = {"marker": "o", "mfc": "white", "ms": 7.0} if few and place == 0 else {}
        axis.plot(
            x[order], lengths[order], color=FAMILY_COLORS[fit.family], zorder=2 - 0.1 * place,
            lw=1.2 if place else 2.4, label=f"{fit.family} {number(fit.rms)}", **marks,
        )  # fmt: skip
    size = 4.5 if few else 3.0 if len(x) <= 200 else 2.0
    axis.plot(x, measured, "o", color=_MEASURED, ms=size, mew=0, alpha=0.85, label="measured", zorder=3)
    nearest = next(iter(predicted), None)
    off = measured if nearest is None else -abs(measured - predicted[nearest])
    worst = np.argsort(off, kind="stable")[:_WORST]
    axis.plot(x[worst], measured[worst], "o", mfc="none", mec="black", mew=0.9, ms=size + 5, zorder=4)
    which = "shortest" if nearest is None else "farthest off"
    named = ", ".join(f"{names[i]} ({number(float(measured[i]))})" for i in worst)
    told = textwrap.fill(f"{which}: {named}", 56)
    axis.set_title(f"{title}\n{told}", fontsize=8, y=1.0, parse_math=False)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, 0.9), max(high, 1.1))  # a hair off shall not look like imbalance


def _headline(stage: str, ranked: Ranking) -> str:
    return f"{stage}: {ranked.told}" if stage else ranked.told
