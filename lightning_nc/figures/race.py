"""Which geometry a network with unequal counts is heading for."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_nc.figures.inline import showable
from lightning_nc.figures.over_run import OverRun, over_run
from lightning_nc.figures.style import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    line,
    log_axis,
    note,
    number,
    plain,
    without_latex,
)  # fmt: skip
from lightning_nc.functional.imbalance import race as geometries
from lightning_nc.functional.imbalance.nearest import TOLERANCE
from lightning_nc.values.history import History

FAMILY_COLORS = {
    "of": GREEN, "gof": BLUE, "relu_ce": VERMILION, "ce_ufm": PURPLE,
    "etf": ORANGE, "gof_centered": SKY, "seli": BLACK,
}  # fmt: skip
"""A color for each geometry, the same in every figure."""

_CENTERS = {"as they are": (*geometries.AS_THEY_ARE, "ce_ufm"), "centered": geometries.CENTERED}
_GROUP = "imbalance/"
RACES = tuple(_GROUP + name for names in _CENTERS.values() for name in names)
"""What is drawn, where it is logged."""

_FLOOR, _CEILING = 1e-4, 2.0  # of the distances: at the lower one a network is what theory says
_WIDEST, _THINNER = 2.8, 0.7  # so that of lines upon each other all are seen


@showable
@without_latex
def race(history: History, stage: str, prefix: str = "") -> tuple[Figure, list[Axes]]:
    """The distances from the geometries of theory over a run: left of the class means as they are.

    On the right those of the class means less the mean of all rows. The nearest one comes first, with
    its last value, and has the thickest line. A distance below 1e-4, or zero, is a triangle on the
    lower edge. Only below the thin line may a verdict be that geometry.

    Args:
        history: The logged values.
        stage: Such as "val".
        prefix: What the logged keys begin with.

    Returns:
        The figure and its two axes.

    Example:
        >>> values = {"imbalance/of/val": 0.5, "imbalance/gof/val": 0.02, "imbalance/etf/val": 0.3}
        >>> figure, axes = race(History().extended(4, 9, values), "val")
        >>> figure.get_suptitle()
        'val, epoch 4, nearest: gof 0.02 as they are, etf 0.3 centered'

    References:
        Dang et al. (2023), "Neural collapse in deep linear networks: from balanced to imbalanced data";
        Dang et al. (2024), "Neural collapse for cross-entropy class-imbalanced learning with
        unconstrained ReLU features model"; Thrampoulidis et al. (2022), "Imbalance trouble: revisiting
        neural-collapse geometry".
    """
    run = over_run(history, RACES, stage, prefix)
    figure = Figure(figsize=(8.6, 4.2), layout="constrained")
    axes = list(figure.subplots(1, 2, sharey=True))
    nearest = [
        _panel(axis, run, center, names)
        for axis, (center, names) in zip(axes, _CENTERS.items(), strict=True)
    ]
    lowest = np.nanmin(np.concatenate([*run.values.values(), [TOLERANCE / 2]]))
    axes[0].set_ylim(max(_FLOOR, lowest / 1.5), _CEILING)
    log_axis(axes[0])
    axes[0].set_ylabel("distance, at most 2; 0: that geometry", fontsize=8, color=GRAY)
    axes[1].annotate(
        f"a verdict\nis below\n{number(TOLERANCE)}", (1, TOLERANCE), (4, 0),
        xycoords=axes[1].get_yaxis_transform(), textcoords="offset points", va="center", fontsize=7,
        color=GRAY,
    )  # fmt: skip
    told = ", ".join(text for text in nearest if text)
    figure.suptitle(f"{run.headline(stage)}, nearest: {told}" if told else run.headline(stage),
                    fontsize=10)  # fmt: skip
    return figure, axes


def _panel(axis: Axes, run: OverRun, center: str, names: Sequence[str]) -> str:
    """One center, and the nearest of its geometries in words; "" where there is none."""
    plain(axis)
    axis.set_title(f"class means {center}", fontsize=9, y=1.0, pad=36)
    curves = {name: run.values[_GROUP + name] for name in names}
    curves = {name: values for name, values in curves.items() if not np.isnan(values).all()}
    if not curves:
        note(axis, "no value")
        axis.set_xticks([])
        return ""
    run.furnish(axis)
    # the nearest first; one whose last value is NaN comes last
    ranked = sorted(curves, key=lambda name: np.nan_to_num(curves[name][-1], nan=np.inf))
    for place, name in enumerate(ranked):
        values = np.where(curves[name] < _FLOOR, 0, curves[name])
        line(
            axis, run.x, values, log=True, color=FAMILY_COLORS[name],
            label=f"{name} {number(curves[name][-1])}", width=_WIDEST - _THINNER * place,
        )  # fmt: skip
    axis.axhline(TOLERANCE, color=GRAY, lw=0.8, zorder=0)
    axis.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=8, frameon=False, ncols=2,
        handlelength=1.4, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip
    last = float(curves[ranked[0]][-1])
    return "" if np.isnan(last) else f"{ranked[0]} {number(last)} {center}"
