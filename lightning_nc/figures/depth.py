"""How collapse progresses through the layers, and over the epochs."""

from collections.abc import Sequence
from dataclasses import replace

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_nc.figures.inline import showable
from lightning_nc.figures.style import (
    GRAY,
    at_collapse,
    cut,
    finite,
    line,
    log_axis,
    note,
    plain,
    wants_log,
    without_latex,
)
from lightning_nc.values.history import History
from lightning_nc.values.key import Key

_EPOCHS = 8
_FEATURES = "features"


@showable
@without_latex
def depth_profile(
    history: History,
    stage: str,
    layers: Sequence[str],
    measures: Sequence[str] = ("nc1/within_between_pinv", "nc1/cdnv", "nc4/ncc_mismatch"),
    prefix: str = "",
) -> tuple[Figure, list[Axes]]:
    """Measures by layer, the classifier's input last, one line per epoch.

    Of more than eight epochs, eight spread over the run are drawn. A zero on a logarithmic axis is a
    triangle on its lower edge.

    Args:
        history: The logged values.
        stage: Such as "val".
        layers: The layers as they are logged, in their order in the network.
        measures: Keys without stage, one panel each.
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
    if not measures:
        raise ValueError("Expected at least one measure to draw, but got none.")
    positions = [*layers, _FEATURES]
    tables = [_by_epoch(history, Key(measure, stage, "", prefix), layers) for measure in measures]
    epochs = _spread_over_run(sorted({epoch for table in tables for epoch in table}))
    norm = Normalize(epochs[0], epochs[-1]) if epochs else Normalize(0, 1)
    # the light end of viridis is lost on white paper
    colors = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.9, 256)))
    names = [cut(name, 28) for name in positions]
    longest = max(len(name) for name in names)
    width = min(6.0, max(2.6, 1.2 + 0.2 * len(positions)))
    figure = Figure(
        figsize=(0.9 + width * len(measures), 3.6 + 0.05 * max(0, longest - 16)), layout="constrained"
    )
    axes = list(np.atleast_1d(figure.subplots(1, len(measures))))
    for axis, measure, table in zip(axes, measures, tables, strict=True):
        _panel(axis, table, epochs, norm, colors)
        _name(axis, names)
        axis.set_title(measure, fontsize=9, y=1.0)
        ideal = at_collapse(measure)
        axis.set_ylabel(f"at collapse: {ideal}" if ideal else "", fontsize=8, color=GRAY)
    title = f"{stage}, epoch {epochs[0]}" if len(epochs) == 1 else stage
    figure.suptitle(title, fontsize=10)
    if len(epochs) > 1:
        bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, shrink=0.9)
        bar.set_label("epoch", fontsize=9)
        bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        bar.ax.tick_params(labelsize=8)
    return figure, axes


def _by_epoch(history: History, key: Key, layers: Sequence[str]) -> dict[int, np.ndarray]:
    """The values by layer of each epoch, the last one logged in it, NaN where there is none."""
    table: dict[int, np.ndarray] = {}
    for position, layer in enumerate([*layers, ""]):
        for row in history.get(str(replace(key, layer=layer)), ()):
            values = table.setdefault(row.epoch, np.full(len(layers) + 1, np.nan))
            values[position] = finite([row.value])[0]
    return table


def _spread_over_run(epochs: list[int]) -> list[int]:
    if len(epochs) <= _EPOCHS:
        return epochs
    chosen = np.linspace(0, len(epochs) - 1, _EPOCHS).round().astype(int)
    return [epochs[i] for i in chosen]


def _name(axis: Axes, names: list[str]) -> None:
    size = 8 if len(names) <= 16 else 6
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=size, parse_math=False)
    axis.set_xlim(-0.4, len(names) - 0.6)


def _panel(
    axis: Axes, table: dict[int, np.ndarray], epochs: list[int], norm: Normalize, colors: Colormap
) -> None:
    plain(axis)
    drawn = {epoch: table[epoch] for epoch in epochs if epoch in table}
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
