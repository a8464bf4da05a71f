"""How collapse progresses through the layers, and over the epochs."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_nc.figures.by_layer import (
    SHARE,
    Beginning,
    ByLayer,
    beginning,
    by_layer,
    logged,
    names_of,
    write_names,
)
from lightning_nc.figures.depth_map import draw_map, map_height, map_title, span
from lightning_nc.figures.inline import showable
from lightning_nc.figures.style import (
    GRAY,
    at_collapse,
    cut,
    line,
    log_axis,
    note,
    plain,
    spread,
    wants_log,
    without_latex,
)
from lightning_nc.values.history import History

PANELS = (
    SHARE, "nc1/within_between_pinv", "nc4/ncc_mismatch", "nc1/cdnv",
    "nrc1/outside_variance", "nrc1/feature_collapse", "nrc0/r2_linear",
)  # fmt: skip
"""The first three of them that are logged for a layer are drawn where no others are asked for."""

_PANELS = 3
_EPOCHS = 8
_LINES = 12  # layers: of more, lines are too close to each other


@showable
@without_latex
def depth_profile(
    history: History,
    stage: str,
    layers: Sequence[str],
    measures: Sequence[str] | None = None,
    prefix: str = "",
) -> tuple[Figure, list[Axes]]:
    """Measures by layer, the classifier's input last, one line per epoch; many layers as maps.

    Of more than eight epochs, at most eight spread over the run are drawn. A zero on a logarithmic axis
    is a triangle on its lower edge. With more than a dozen layers and several epochs each panel is a
    map as in :func:`depth_map`; with a single epoch the lines stand below each other.

    Of ``layer/within_share`` a dashed line is at a tenth of the first **measured** layer's share in the
    last epoch, which stands for the network's input, and the panel names the first layer below it.

    Args:
        history: The logged values.
        stage: Such as "val".
        layers: The layers as they are logged, in their order in the network.
        measures: Keys without stage, one panel each; None: the first three of :data:`PANELS` that are
            logged.
        prefix: What the logged keys begin with.

    Returns:
        The figure and its axes, one per measure.

    Raises:
        ValueError: If ``measures`` is empty.

    Example:
        >>> values = {"nc1/cdnv/val/conv": 0.9, "nc1/cdnv/val": 0.2}
        >>> history = History().extended(0, 9, values)
        >>> figure, axes = depth_profile(history, "val", ["conv"], ["nc1/cdnv"])
        >>> axes[0].lines[0].get_ydata().tolist()
        [0.9, 0.2]

    References:
        He & Su (2023), "A law of data separation in deep learning"; Rangamani et al. (2023), "Feature
        learning in deep classifiers through intermediate neural collapse".
    """
    if measures is None:
        found = logged(history, PANELS, stage, layers, prefix)
        measures = (found or PANELS)[:_PANELS]
    if not measures:
        raise ValueError("Expected at least one measure to draw, but got none.")
    tables = {measure: by_layer(history, measure, stage, layers, prefix) for measure in measures}
    epochs = sorted({epoch for table in tables.values() for epoch in table.epochs})
    names = names_of(layers)
    if len(layers) > _LINES and len(epochs) > 1:
        figure, axes = _maps(tables, names)
        figure.suptitle(map_title(stage, epochs, [*tables.values()]), fontsize=10)
    else:
        figure, axes = _lines(tables, names, [epochs[i] for i in spread(len(epochs), _EPOCHS)])
        figure.suptitle(f"{stage}, {span(epochs)}" if epochs else stage, fontsize=10)
    return figure, axes


def _maps(tables: dict[str, ByLayer], names: list[str]) -> tuple[Figure, list[Axes]]:
    """A map for each measure, side by side, so that the names stand once."""
    height = map_height(len(names))
    figure = Figure(figsize=(1.2 + 3.1 * len(tables), height + 1.1), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, len(tables), sharey=True)))
    for axis, (measure, table) in zip(axes, tables.items(), strict=True):
        draw_map(axis, measure, table)
    write_names(axes[0].yaxis, names, height)
    return figure, axes


def _lines(
    tables: dict[str, ByLayer], names: list[str], epochs: list[int]
) -> tuple[Figure, list[Axes]]:
    norm = Normalize(epochs[0], epochs[-1]) if epochs else Normalize(0, 1)
    # the light end of viridis is lost on white paper
    colors = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.9, 256)))
    figure, axes, width = _grid(len(tables), names)
    for axis, (measure, table) in zip(axes, tables.items(), strict=True):
        _panel(axis, table, epochs, norm, colors)
        if measure == SHARE and table.epochs:
            _mark(axis, beginning(table.values[-1]), names)
        axis.set_title(measure, fontsize=9, y=1.0, pad=18 if SHARE in tables else 6)
        ideal = at_collapse(measure)
        axis.set_ylabel(f"at collapse: {ideal}" if ideal else "", fontsize=8, color=GRAY)
        axis.set_xlim(-0.4, len(names) - 0.6)
        write_names(axis.xaxis, names, width, rotation=90)
    if len(epochs) > 1:
        bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, shrink=0.9)
        bar.set_label("epoch", fontsize=9)
        bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        bar.ax.tick_params(labelsize=8)
    return figure, axes


def _grid(count: int, names: list[str]) -> tuple[Figure, list[Axes], float]:
    """Side by side; below each other where there are many names, which then stand once.

    Args:
        count: Of panels.
        names: Of the positions in them.

    Returns:
        The figure, its axes, and the inches that the names have in each.
    """
    excess = 0.05 * max(0, max(len(name) for name in names) - 16)
    if len(names) > _LINES + 1:
        figure = Figure(figsize=(9.5, 1.6 + 1.8 * count + excess), layout="constrained")
        return figure, list(np.atleast_1d(figure.subplots(count, 1, sharex=True))), 8.3
    width = min(6.0, max(2.6, 1.2 + 0.2 * len(names)))
    figure = Figure(figsize=(0.9 + width * count, 3.7 + excess), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, count))), width - 0.6


def _panel(axis: Axes, table: ByLayer, epochs: list[int], norm: Normalize, colors: Colormap) -> None:
    plain(axis)
    drawn = {e: row for e, row in zip(table.epochs, table.values, strict=True) if e in epochs}
    values = np.concatenate([*drawn.values(), np.zeros(0)])
    if np.isnan(values).all():
        note(axis, "not logged" if not len(values) else "NaN")
        axis.set_yticks([])
        return
    log = wants_log(values)
    for epoch, row in drawn.items():
        last = epoch == epochs[-1]
        line(
            axis, range(len(row)), row, log, color=colors(norm(epoch)), label=f"epoch {epoch}",
            width=2.0 if last else 1.1, size=4.0 if last else 3.0, marked=True,
        )  # fmt: skip
    if log:
        log_axis(axis)


def _mark(axis: Axes, begins: Beginning | None, names: list[str]) -> None:
    """A dashed line at the share where collapse begins, and the name of the first layer below it."""
    if begins is None:
        return
    axis.axhline(begins.level, color=GRAY, ls="--", lw=0.8, zorder=0)
    nowhere = "dashed: a tenth of the first layer's, not reached"
    where = nowhere if begins.layer is None else f"below a tenth from {cut(names[begins.layer], 20)} on"
    axis.annotate(
        where, (0.5, 1.0), (0, 5), xycoords="axes fraction", textcoords="offset points", ha="center",
        va="bottom", fontsize=7, color=GRAY, parse_math=False,
    )  # fmt: skip
