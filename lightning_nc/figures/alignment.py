"""How the weights of the layers stand to the class means that they meet."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_nc.figures.by_layer import ByLayer, by_layer, logged, names_of, write_names
from lightning_nc.figures.inline import showable
from lightning_nc.figures.style import (
    BLUE,
    GRAY,
    SKY,
    at_collapse,
    note,
    plain,
    without_latex,
)
from lightning_nc.values.history import History

ALIGNMENTS = ("layer/subspace_alignment_centered", "layer/subspace_alignment")
"""The first of them that is logged is drawn."""

_LAST = "classifier"


@showable
@without_latex
def alignment(
    history: History, stage: str, layers: Sequence[str], prefix: str = ""
) -> tuple[Figure, Axes]:
    """Subspace alignment of each layer's weight with the class means, against that by chance.

    A dot for the last epoch, a light one for the first, and a gray mark where random subspaces would
    be, from which a line leads to the last epoch. Centered where ``layer/subspace_alignment_centered``
    is logged for a layer, else as it is without centering. Layers for which nothing is logged, as they
    have no weight, are left out; the classifier is the last one.

    Args:
        history: The logged values.
        stage: Such as "val".
        layers: The layers as they are logged, in their order in the network.
        prefix: What the logged keys begin with.

    Returns:
        The figure and its axes.

    Example:
        >>> values = {"layer/subspace_alignment/val/conv.in": 0.5, "layer/subspace_alignment/val": 0.9}
        >>> history = History().extended(3, 9, {**values, "layer/subspace_chance/val/conv.in": 0.25})
        >>> figure, axis = alignment(history, "val", ["conv.in", "pool.in"])
        >>> [label.get_text() for label in axis.get_xticklabels()]
        ['conv.in', 'classifier']

    References:
        Rangamani et al. (2023), "Feature learning in deep classifiers through intermediate neural
        collapse".
    """
    measure = (logged(history, ALIGNMENTS, stage, layers, prefix) or ALIGNMENTS)[0]
    table = by_layer(history, measure, stage, layers, prefix)
    chance = by_layer(history, measure.replace("alignment", "chance"), stage, layers, prefix)
    kept = np.flatnonzero(~np.isnan(table.values).all(axis=0))
    names = [names_of(layers, _LAST)[i] for i in kept]
    width = min(9.0, max(3.2, 0.25 * len(names)))
    figure = Figure(figsize=(width + 0.9, 4.0 + 0.05 * _excess(names)), layout="constrained")
    axis = figure.subplots()
    plain(axis)
    axis.set_title(measure, fontsize=9, y=1.0, pad=22)
    ideal = at_collapse(measure)
    axis.set_ylabel(f"at collapse: {ideal}" if ideal else "", fontsize=8, color=GRAY)
    if not len(kept):
        note(axis, "NaN" if table.epochs else "not logged")
        axis.set(xticks=[], yticks=[])
        figure.suptitle(stage, fontsize=10)
        return figure, axis
    by_chance = _last_known(chance)[kept]
    _dots(axis, ByLayer(table.epochs, table.values[:, kept]), by_chance)
    axis.set(ylim=(0, 1.03), xlim=(-0.6, len(kept) - 0.4))
    write_names(axis.xaxis, names, width, rotation=90)
    figure.suptitle(_headline(stage, table.epochs[-1], table.values[-1], by_chance), fontsize=10)
    return figure, axis


def _dots(axis: Axes, table: ByLayer, chance: np.ndarray) -> None:
    x = np.arange(len(chance))
    last, size = table.values[-1], 5.0 if len(x) <= 40 else 3.0
    axis.vlines(x, chance, last, color=BLUE, lw=1.2, alpha=0.5, zorder=1)
    axis.plot(x, chance, "_", color=GRAY, ms=1.8 * size, mew=1.5, label="by chance")
    if len(table.epochs) > 1:
        first = table.epochs[0]
        axis.plot(x, table.values[0], "o", color=SKY, ms=size - 1, label=f"epoch {first}")
    axis.plot(x, last, "o", color=BLUE, ms=size, label=f"epoch {table.epochs[-1]}")
    axis.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=8, frameon=False, ncols=3,
        handletextpad=0.2, columnspacing=1.0, borderaxespad=0.2,
    )  # fmt: skip


def _last_known(table: ByLayer) -> np.ndarray:
    """Chance does not change over the epochs: its last value by layer, NaN where it has none."""
    values = np.full(table.values.shape[1], np.nan)
    for row in table.values:
        values = np.where(np.isnan(row), values, row)
    return values


def _excess(names: Sequence[str]) -> int:
    return max(0, *(len(name) - 16 for name in names), 0)


def _headline(stage: str, epoch: int, values: np.ndarray, chance: np.ndarray) -> str:
    means = {"mean": values, "by chance": chance}
    told = [f"{what} {np.nanmean(v):.2f}" for what, v in means.items() if not np.isnan(v).all()]
    return f"{stage}, epoch {epoch}" + (f": {', '.join(told)}" if told else "")
