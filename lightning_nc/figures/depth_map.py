"""A measure over layers and epochs, as a map."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_nc.figures.by_layer import (
    SHARE,
    ByLayer,
    beginning,
    by_layer,
    names_of,
    write_names,
)
from lightning_nc.figures.inline import showable
from lightning_nc.figures.style import (
    VERMILION,
    at_collapse,
    cut,
    few_log_ticks,
    note,
    plain,
    wants_log,
    without_latex,
)
from lightning_nc.values.history import History

_EPOCHS = 120  # columns that can be told apart in the width of a panel
_ROW = 0.13  # inches for a layer and its name
_GAP = "0.75"  # a gray that is not among the colors


@showable
@without_latex
def depth_map(
    history: History, stage: str, layers: Sequence[str], measure: str = SHARE, prefix: str = ""
) -> tuple[Figure, Axes]:
    """A measure by layer, the first at the top and the classifier's input last, and by epoch.

    The colors are logarithmic where the values allow it: the lighter, the smaller. A zero is white, and
    what is not logged, or NaN, is gray. Of more than 120 epochs, at most 120 spread over the run are
    drawn. Of the within-share a line shows where collapse begins: the layers below it have less than a
    tenth of the share of the first **measured** layer, which stands for the network's input.

    Args:
        history: The logged values.
        stage: Such as "val".
        layers: The layers as they are logged, in their order in the network.
        measure: A key without stage.
        prefix: What the logged keys begin with.

    Returns:
        The figure and its axes.

    Example:
        >>> history = History()
        >>> for epoch, share in enumerate([0.6, 0.2, 0.0]):
        ...     values = {"layer/within_share/val/conv": 0.9, "layer/within_share/val": share}
        ...     history = history.extended(epoch, 10 * epoch, values)
        >>> figure, axis = depth_map(history, "val", ["conv"])
        >>> axis.get_title("left"), [label.get_text() for label in axis.get_yticklabels()]
        ('layer/within_share → 0', ['conv', 'features'])

    References:
        Rangamani et al. (2023), "Feature learning in deep classifiers through intermediate neural
        collapse".
    """
    names = names_of(layers)
    height = map_height(len(names))
    figure = Figure(figsize=(6.6, height + 1.1), layout="constrained")
    axis = figure.subplots()
    table = by_layer(history, measure, stage, layers, prefix)
    draw_map(axis, measure, table)
    if measure == SHARE:
        _begins(axis, table.at_most(_EPOCHS), names)
    write_names(axis.yaxis, names, height)
    figure.suptitle(map_title(stage, table.epochs, [table]), fontsize=10)
    return figure, axis


def map_title(stage: str, epochs: Sequence[int], tables: Sequence[ByLayer]) -> str:
    """What is drawn, and what gray is where there is any."""
    where = f"{stage}, {span(epochs)}" if epochs else stage
    has_gaps = any(np.isnan(t.values).any() and not np.isnan(t.values).all() for t in tables)
    return f"{where}   (gray: no value)" if has_gaps else where


def span(epochs: Sequence[int]) -> str:
    """From which epoch to which.

    Example:
        >>> span([3]), span([0, 5, 9])
        ('epoch 3', 'epochs 0 to 9')
    """
    return f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"


def map_height(count: int) -> float:
    """Inches for so many layers: enough for all names, or for many of them."""
    return min(6.5, max(2.4, _ROW * count))


def draw_map(axis: Axes, measure: str, table: ByLayer) -> None:
    """One map, with its bar of colors.

    Args:
        axis: Where to draw.
        measure: A key without stage.
        table: Its values.
    """
    plain(axis)
    table = table.at_most(_EPOCHS)
    ideal = at_collapse(measure)
    axis.set_title(f"{measure} → {ideal}" if ideal else measure, fontsize=9, loc="left", y=1.0)
    if np.isnan(table.values).all():
        note(axis, "NaN" if table.epochs else "not logged")
        axis.set(xticks=[], yticks=[])
        return
    axis.set_facecolor(_GAP)
    edges = _edges(table.epochs)
    _mesh(axis, edges, table.values)
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylim(table.values.shape[1] - 0.5, -0.5)
    axis.set_xlabel("epoch", fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def _edges(epochs: Sequence[int]) -> np.ndarray:
    """Where the columns of the epochs meet: half-way, so that rarely logged epochs are wide."""
    between = (np.asarray(epochs[1:], dtype=float) + epochs[:-1]) / 2
    if not len(between):
        return np.array([epochs[0] - 0.5, epochs[0] + 0.5])
    return np.array([2 * epochs[0] - between[0], *between, 2 * epochs[-1] - between[-1]])


def _mesh(axis: Axes, edges: np.ndarray, values: np.ndarray) -> None:
    log, has_zeros = wants_log(values.flat), bool((values == 0).any())
    known = values[(values > 0) if log else ~np.isnan(values)]
    low, high = float(known.min()), float(known.max())
    if low == high:  # colors need a range
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    norm = LogNorm(low, high) if log else Normalize(low, high)
    # a logarithmic scale would leave out a zero like a gap; below the scale it has a color of its own
    shown = np.where((values == 0) & log, low / 2, values)
    colors = matplotlib.colormaps["viridis_r"].with_extremes(under="white")
    rows = np.arange(values.shape[1] + 1) - 0.5
    mesh = axis.pcolormesh(edges, rows, np.ma.masked_invalid(shown.T), norm=norm, cmap=colors)
    _bar(mesh, axis, log, has_zeros=log and has_zeros)


def _bar(mesh: QuadMesh, axis: Axes, log: bool, has_zeros: bool) -> None:
    """The bar of colors, as thin beside many layers as beside few."""
    figure = axis.get_figure(root=True)
    assert figure is not None
    height = figure.get_figheight()
    bar = figure.colorbar(
        mesh, ax=axis, aspect=8 * height, extend="min" if has_zeros else "neither",
        extendfrac=0.12 / height,
    )  # fmt: skip
    bar.ax.tick_params(which="both", labelsize=7)
    if log:
        few_log_ticks(bar.ax)
    if has_zeros:
        below = (0.5, -0.12 / height)
        bar.ax.annotate(
            "0", below, (0, -2), xycoords="axes fraction", textcoords="offset points", fontsize=7,
            ha="center", va="top",
        )  # fmt: skip


def _begins(axis: Axes, table: ByLayer, names: Sequence[str]) -> None:
    """A line above the first layer that has collapsed, in each epoch that has one."""
    found = [b.layer if b else None for b in map(beginning, table.values)]
    if not any(layer is not None for layer in found):
        return
    heights = [np.nan if layer is None else layer - 0.5 for layer in found]
    last = "nowhere" if found[-1] is None else cut(names[found[-1]], 20)
    axis.stairs(
        heights, _edges(table.epochs), baseline=None, color=VERMILION, lw=1.6,
        label=f"collapse begins (last epoch: {last})",
    )  # fmt: skip
    legend = axis.legend(
        loc="lower right", bbox_to_anchor=(1, 1), fontsize=7, frameon=False, borderaxespad=0.2
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
