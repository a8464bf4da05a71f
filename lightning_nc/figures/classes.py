"""Which classes, and which pairs of classes, have not collapsed."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from lightning_nc.figures.inline import showable
from lightning_nc.figures.style import (
    BLUE,
    GRAY,
    NAMED_CLASSES,
    ORANGE,
    VERMILION,
    at_collapse,
    class_label,
    log_axis,
    note,
    number,
    plain,
    wants_log,
    without_latex,
)  # fmt: skip
from lightning_nc.functional import pairwise_cdnv
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.statistics import ClassStatistics

_WORST_CLASSES = 3
_WORST_PAIRS = 6


@showable
@without_latex
def class_profile(
    statistics: ClassStatistics,
    classifier: LinearClassifier | None = None,
    class_names: Sequence[str] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Norm and spread of each class against its number of samples, and the pairs nearest to each other.

    Norms are relative to their average, spreads (root mean square distance from the class mean) to the
    average norm of the centered means. Under imbalance, minority collapse shows as norms that fall, and
    cosines that rise, towards the small classes. Where no class has twice the samples of another, the
    classes stand in their own order instead. Classes without samples are left out.

    Args:
        statistics: Statistics of at least one sample.
        classifier: Adds the norms of the rows of W.
        class_names: Names of all classes.

    Returns:
        The figure, and its axes: norms, spreads, pairs by cosine, pairs by CDNV.

    Raises:
        ValueError: If there is no sample.

    Example:
        >>> import torch
        >>> h, y = torch.tensor([[1.0], [2.0], [5.0], [5.0]]), torch.tensor([0, 0, 1, 1])
        >>> figure, axes = class_profile(ClassStatistics.from_batch(h, y, 2), None, ["cat", "dog"])
        >>> [tick.get_text() for tick in axes[3].get_yticklabels()]
        ['cat / dog']

    References:
        Fang, He, Long & Su (2021), "Exploring deep neural networks via layer-peeled model: minority
        collapse in imbalanced training".
    """
    if not bool(statistics.seen.any()):
        raise ValueError("Expected statistics of at least one sample, but got none to draw.")
    labels = statistics.seen.nonzero().flatten().tolist()
    names = [class_label(label, class_names) for label in labels]
    statistics = statistics.of_seen_classes
    norms = statistics.frame.norms.cpu().numpy()
    average = norms.mean() or 1.0
    spreads = (statistics.sums_of_squares / statistics.counts).sqrt().cpu().numpy() / average
    figure = Figure(figsize=(10, 6.4))
    counts = statistics.counts.cpu().numpy()
    balanced = bool(counts.max() < 2 * counts.min())
    named = balanced and class_names is not None and len(labels) <= NAMED_CLASSES
    by_class, by_pair = _four_axes(figure, max(map(len, names)), upright=named)
    x = _class_axes(by_class, labels, counts, names if named else None)
    rows = None
    if classifier is not None:
        rows = classifier.weight[labels].norm(dim=1).double().cpu().numpy()
        rows = rows / (rows.mean() or 1.0)
    _norms(by_class[0], x, norms / average, rows, names)
    _spreads(by_class[1], x, spreads, names)
    cosines = statistics.frame.cosines.cpu().numpy()
    variances = pairwise_cdnv(statistics).cpu().numpy()
    ideal = -1 / max(1, len(labels) - 1)
    sampled = [names[i] for i in statistics.frame.sampled.tolist()]
    _pairs(by_pair[0], cosines, sampled, BLUE, "pairs of the highest cosine of means")
    _pairs(by_pair[1], variances, sampled, VERMILION, "pairs of the highest CDNV")
    by_pair[0].axvline(ideal, color=GRAY, ls="--", lw=1)
    by_pair[0].set_xlabel(f"cosine; simplex ETF: {number(ideal)}", fontsize=9)
    by_pair[1].set_xlabel(f"CDNV; at collapse: {at_collapse('nc1/cdnv')}", fontsize=9)
    return figure, [*by_class, *by_pair]


def _four_axes(figure: Figure, longest: int, upright: bool) -> tuple[list[Axes], list[Axes]]:
    """Two panels above two, with margins for names of this length: a layout engine draws all twice."""
    width, height = figure.get_size_inches()
    character = 0.075  # inches, of the small letters along the axes
    names = character * longest if upright else 0.15
    half = 0.5 * width

    def row(left: float, right: float, top: float, bottom: float) -> list[Axes]:
        size = (half - left - right) / width, (top - bottom) / height
        return [figure.add_axes(((i * half + left) / width, bottom / height, *size)) for i in range(2)]

    middle = 0.5 * height
    above = row(0.75, 0.15, height - 0.55, middle + 0.4 + names)
    below = row(0.3 + character * (2 * longest + 3), 0.65, middle - 0.45, 0.5)
    return above, below


def _class_axes(
    axes: list[Axes], labels: list[int], counts: np.ndarray, names: list[str] | None
) -> np.ndarray:
    """Furnish the x axes, and say where on them each class is."""
    low, high = int(counts.min()), int(counts.max())
    for axis in axes:
        plain(axis)
        if high >= 2 * low:
            axis.set_xscale("log")
            axis.set_xlabel("samples of the class", fontsize=9)
            axis.set_xlim(low / 1.3, high * 1.3)
            few = LogLocator(subs=(1,) if high >= 1000 * low else (1, 2, 5))
            axis.xaxis.set_major_locator(few if high >= 10 * low else MaxNLocator(4, integer=True))
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
            # dozens of ticks take most of the time of drawing
            axis.xaxis.set_minor_locator(NullLocator())
            continue
        each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        axis.set_xlabel(f"class ({each} samples each)", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        if names is not None:
            axis.set_xticks(labels, names, rotation=90, parse_math=False)
    return counts if high >= 2 * low else np.array(labels)


def _norms(
    axis: Axes, x: np.ndarray, norms: np.ndarray, rows: np.ndarray | None, names: list[str]
) -> None:
    size = _marker_size(len(x))
    axis.axhline(1, color=GRAY, ls="--", lw=1, zorder=0)
    axis.plot(x, norms, "o", color=BLUE, ms=size, label="class mean, centered", alpha=0.8)
    if rows is not None:
        axis.plot(x, rows, "^", color=ORANGE, ms=size, label="classifier row", alpha=0.8)
        axis.legend(fontsize=7, frameon=False, loc="lower center", ncols=2)
    worst = np.argsort(np.nan_to_num(norms, nan=-1), kind="stable")[:_WORST_CLASSES]
    _mark(axis, x, norms, worst, names, "shortest", size)
    axis.set_ylabel("norm / average norm", fontsize=9)
    # one class that is a hair off shall not look like imbalance
    low, high = axis.get_ylim()
    low, high = min(low, 0.9), max(high, 1.1)
    axis.set_ylim(low - (0.15 * (high - low) if rows is not None else 0), high)


def _spreads(axis: Axes, x: np.ndarray, spreads: np.ndarray, names: list[str]) -> None:
    size, log = _marker_size(len(x)), wants_log(spreads)
    axis.plot(x, np.where(spreads > 0, spreads, np.nan) if log else spreads, "o", color=VERMILION,
              ms=size, alpha=0.8)  # fmt: skip
    if log:
        low, high = np.nanmin(spreads[spreads > 0]), np.nanmax(spreads)
        axis.set_ylim(0.85 * low, 1.15 * high)
        log_axis(axis)
    hidden = int((spreads == 0).sum()) if log else 0
    worst = np.argsort(-np.nan_to_num(spreads, nan=np.inf), kind="stable")[:_WORST_CLASSES]
    _mark(axis, x, spreads, worst, names, "widest", size)
    axis.set_ylabel("spread / norm of means", fontsize=9)
    if hidden:
        axis.text(0.99, 0.02, f"{hidden} not shown: spread 0", transform=axis.transAxes, ha="right",
                  fontsize=7, color=GRAY)  # fmt: skip


def _mark(
    axis: Axes, x: np.ndarray, y: np.ndarray, worst: np.ndarray, names: list[str], which: str,
    size: float,
) -> None:  # fmt: skip
    """Circle the worst classes, and name them above the panel, where names cannot overlap."""
    axis.plot(x[worst], y[worst], "o", mfc="none", mec="black", mew=0.9, ms=size + 4)
    named = ", ".join(f"{names[i]} ({number(y[i])})" for i in worst)
    axis.set_title(textwrap.fill(f"{which}: {named}", 48), fontsize=8, y=1.0, parse_math=False)


def _marker_size(num_classes: int) -> float:
    return 6.0 if num_classes <= 25 else 4.0 if num_classes <= 200 else 2.0


def _pairs(axis: Axes, values: np.ndarray, names: list[str], color: str, title: str) -> None:
    """The highest of the values above the diagonal as bars, the highest on top."""
    plain(axis)
    axis.set_title(title, fontsize=9, y=1.0)
    i, j = np.triu_indices(len(values), 1)
    if len(i) == 0:
        note(axis, "one class has no pairs")
        axis.set_yticks([])
        return
    ranked = np.nan_to_num(values[i, j], nan=-np.inf, posinf=np.inf)
    best = np.argpartition(-ranked, min(_WORST_PAIRS, len(ranked)) - 1)[:_WORST_PAIRS]
    best = best[np.argsort(-ranked[best], kind="stable")]
    shown = values[i[best], j[best]]
    axis.barh(range(len(best)), np.where(np.isfinite(shown), shown, 0), color=color, height=0.6)
    pairs = [f"{names[i[k]]} / {names[j[k]]}" for k in best]
    axis.set_yticks(range(len(best)), pairs, parse_math=False)
    axis.set_ylim(_WORST_PAIRS - 0.4, -0.6)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axis.xaxis.set_major_formatter(lambda value, _: number(value))
    for row, value in enumerate(shown):
        axis.text(
            1.01, row, number(value), transform=axis.get_yaxis_transform(), va="center", fontsize=8
        )
