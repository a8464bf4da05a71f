"""The eigenvalues of the within-class and of the between-class covariance."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lightning_nc.figures.inline import showable
from lightning_nc.figures.style import (
    BLUE,
    GRAY,
    VERMILION,
    log_axis,
    new_axes,
    note,
    plain,
    without_latex,
)
from lightning_nc.functional import MEASURES, between_class_directions
from lightning_nc.values.statistics import ClassStatistics

_WIDEST = 2048  # the eigenvalues of a matrix of this size take seconds, and grow with its cube


@showable
@without_latex
def spectra(statistics: ClassStatistics, ax: Axes | None = None) -> tuple[Figure, Axes]:
    r"""Eigenvalues of :math:`\Sigma_B` and :math:`\Sigma_W`, relative to tr :math:`\Sigma_B`.

    At collapse :math:`\Sigma_B` has C - 1 equal eigenvalues, and :math:`\Sigma_W` none. Of
    :math:`\Sigma_B` those are drawn that count towards ``nc1/rank``; classes without samples are left
    out. :math:`\Sigma_W` is left out, and the figure says so, where the covariance was not kept or has
    more than 2,048 columns.

    Args:
        statistics: Statistics of at least one sample.
        ax: Draw into these axes.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: If there is no sample.

    Example:
        >>> statistics = ClassStatistics.from_batch(torch.eye(3), torch.arange(3), num_classes=3)
        >>> figure, axis = spectra(statistics)
        >>> [line.get_label() for line in axis.lines]
        ['$\\Sigma_B$, rank 2', 'C - 1 = 2']
    """
    if not bool(statistics.seen.any()):
        raise ValueError("Expected statistics of at least one sample, but got none to draw.")
    statistics = statistics.of_seen_classes
    measure = MEASURES["nc1/rank"]
    ideal = measure.value_at_collapse(statistics.num_classes) or 0.0
    trace = float(statistics.between_trace)
    unit = trace if trace > 0 else 1.0
    between = between_class_directions(statistics)[0].cpu().square().numpy()
    between = between / statistics.num_classes / unit
    within, missing = _within(statistics)
    figure, axis = new_axes(ax, 5.2, 3.8)
    _curve(axis, between, VERMILION, rf"$\Sigma_B$, rank {len(between)}")
    _curve(axis, within / unit, BLUE, r"$\Sigma_W$")
    plain(axis)
    if len(between) or len(within):
        _furnish(axis, widest=max(len(between), len(within)), ideal=ideal, label=measure.at_collapse)
    else:
        note(axis, "all class means coincide, and no feature differs from its mean")
    relative = r" / tr $\Sigma_B$" if trace > 0 else ""
    axis.set_xlabel("index" + (f"   ({missing})" if missing else ""), fontsize=9)
    axis.set_ylabel(f"eigenvalue{relative}", fontsize=9)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False, loc="best")
    return figure, axis


def _furnish(axis: Axes, widest: int, ideal: float, label: str) -> None:
    """Logarithmic axes, and a line where the rank is at collapse."""
    axis.set_xscale("log")
    log_axis(axis)
    collapsed = f"{label} = {ideal:g}"
    axis.axvline(max(1, ideal), color=GRAY, ls="--", lw=1, zorder=0, label=collapsed)
    axis.set_xlim(0.8, 1.25 * max(widest, ideal))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def _curve(axis: Axes, values: np.ndarray, color: str, label: str) -> None:
    if len(values):
        size = 3 if len(values) <= 100 else 1.5
        axis.plot(np.arange(1, len(values) + 1), values, "-o", color=color, lw=1, ms=size, label=label)


def _within(statistics: ClassStatistics) -> tuple[np.ndarray, str]:
    r"""The eigenvalues of :math:`\Sigma_W` that are not rounding, or why there are none."""
    if statistics.scatter is None:
        return np.zeros(0), r"$\Sigma_W$ was not kept"
    if statistics.num_features > _WIDEST:
        return np.zeros(0), rf"$\Sigma_W$ left out: {statistics.num_features:,} features"
    values = torch.linalg.eigvalsh(statistics.within_covariance).flip(0).cpu().numpy()
    # batches are summed in float32: what is smaller, relative to the largest, is rounding
    values = values[values > max(0.0, values[0]) * np.finfo(np.float32).eps * 1e-2]
    return values, "" if len(values) else r"$\Sigma_W$ = 0"
