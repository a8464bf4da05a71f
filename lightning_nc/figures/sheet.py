"""All measures of a run on one sheet of paper."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lightning_nc.figures.inline import showable
from lightning_nc.figures.style import (
    GRAY,
    at_collapse,
    finite,
    line,
    log_axis,
    note,
    number,
    plain,
    stage_colors,
    wants_log,
    without_latex,
)  # fmt: skip
from lightning_nc.functional import MEASURES
from lightning_nc.values.history import History, Logged
from lightning_nc.values.key import keys_in
from lightning_nc.values.tags import MOST_TAGS

_COLUMNS = 3
_MANY = 24  # panels: for more of them the sheet has one column more, and smaller titles
_A4 = (8.27, 11.69)
_HEAD, _ROW, _FOOT = 0.65, 1.5, 0.45  # inches
_LEAST_ROW = 0.88  # inches
_GAP = 0.38  # inches between two rows, for the numbers of the one and the title of the other
_WIDEST_TITLE = 205  # points by letters: in the last of four columns a title has no more room
_LINE = 0.11  # inches from one last value to the next
# what a stage rests on: no curves
_COUNTED = (
    "nc0/num_samples", "nc0/classes_seen", "nrc0/num_samples", "tags/pairs_seen",
    *(f"tags/rows_{m}" for m in range(2, MOST_TAGS + 1)),
)  # fmt: skip

_Rows = Sequence[Logged]


@showable
@without_latex
def summary(history: History, prefix: str = "") -> tuple[Figure, list[Axes]]:
    """One panel per logged measure, all stages in it; layers are left out.

    On one A4 sheet, which with more than 48 measures is longer.

    The axis is logarithmic where the value at collapse is 0, and says so by "→ 0"; another value at
    collapse is a dashed line. A zero on a logarithmic axis is a triangle on its lower edge. The last
    values stand beside the curves.

    Args:
        history: The logged values.
        prefix: What the logged keys begin with; others are left out.

    Returns:
        The figure and its axes, in the order of :data:`functional.MEASURES`, measures of one's own
        last.

    Example:
        >>> history = History().extended(0, 9, {"nc1/cdnv/val": 0.5, "nc1/cdnv/val/conv": 0.8})
        >>> figure, axes = summary(history.extended(1, 19, {"nc1/cdnv/val": 0.25}))
        >>> [axis.get_title("left") for axis in axes], axes[0].lines[0].get_ydata().tolist()
        (['nc1/cdnv → 0'], [0.5, 0.25])
    """
    curves, classes = _curves(history, prefix)
    every = {stage for stages in curves.values() for stage in stages}
    colors = stage_colors(every)
    if not curves:
        figure = Figure(figsize=(4, 2), layout="constrained")
        axis = figure.subplots()
        axis.set_axis_off()
        note(axis, "nothing logged yet")
        return figure, [axis]
    figure, axes = _sheet(len(curves))
    by_step = _epochs_repeat(curves)
    for axis, (measure, stages) in zip(axes, curves.items(), strict=True):
        _panel(axis, measure, stages, classes, colors, by_step, crowded=len(axes) > _MANY)
    for axis in axes[-_columns(len(axes)) :]:
        axis.set_xlabel("optimizer step" if by_step else "epoch", fontsize=7)
    handles = [Line2D([], [], color=color, lw=2, label=stage) for stage, color in colors.items()]
    handles.append(Line2D([], [], color=GRAY, ls="--", lw=0.8, label="→ value at collapse"))
    figure.legend(
        handles=handles, loc="upper center", ncols=len(handles) if len(axes) > 2 else 3,
        frameon=False, fontsize=8 if len(axes) > 2 else 7, columnspacing=1.2,
    )  # fmt: skip
    return figure, axes


def _columns(count: int) -> int:
    return min(_COLUMNS + (count > _MANY), max(2, count))


def _sheet(count: int) -> tuple[Figure, list[Axes]]:
    """Panels by rows, with fixed margins: a layout engine takes seconds for this many texts."""
    columns = _columns(count)
    rows = -(-count // columns)
    height = _HEAD + _FOOT + rows * _ROW
    height = min(height, max(_A4[1], _HEAD + _FOOT + rows * _LEAST_ROW))
    width = columns * _A4[0] / max(_COLUMNS, columns)
    pitch = (height - _HEAD - _FOOT) / rows
    gap = max(_GAP, pitch / 3)
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(
        rows, columns, squeeze=False,
        gridspec_kw={
            "left": 0.5 / width, "right": 1 - 0.5 / width, "wspace": 0.55,
            "bottom": _FOOT / height, "top": 1 - _HEAD / height, "hspace": gap / (pitch - gap),
        },
    )  # fmt: skip
    axes = list(grid.flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _curves(history: History, prefix: str) -> tuple[dict[str, dict[str, _Rows]], dict[str, int]]:
    """The rows by measure and stage, and the number of classes that each stage has seen."""
    found: dict[str, dict[str, _Rows]] = {}
    for text, key in keys_in(history, prefix):
        ours = key.measure in MEASURES or key.group == "custom"
        if ours and not key.layer and history[text]:
            found.setdefault(key.measure, {})[key.stage] = history[text]
    classes = {
        stage: int(rows[-1].value)
        for stage, rows in found.get("nc0/classes_seen", {}).items()
        if np.isfinite(rows[-1].value)
    }
    order = [key for key in MEASURES if key in found] + [key for key in found if key not in MEASURES]
    return {key: found[key] for key in order if key not in _COUNTED}, classes


def _epochs_repeat(curves: Mapping[str, Mapping[str, _Rows]]) -> bool:
    """Whether a stage was logged several times in an epoch: only the steps tell such rows apart."""
    every = (rows for stages in curves.values() for rows in stages.values())
    return any(len({row.epoch for row in rows}) < len(rows) for rows in every)


def _panel(
    axis: Axes, measure: str, stages: Mapping[str, _Rows], classes: Mapping[str, int],
    colors: Mapping[str, str], by_step: bool, crowded: bool,
) -> None:  # fmt: skip
    plain(axis, labelsize=6.5)
    text = at_collapse(measure)
    _title(axis, f"{measure} → {text}" if text else measure, crowded)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    values = {stage: finite(row.value for row in rows) for stage, rows in stages.items()}
    together = np.concatenate(list(values.values()))
    if np.isnan(together).all():
        note(axis, "NaN", size=7.0)
        axis.set_yticks([])
        return
    log = text == "0" and wants_log(together)
    places: list[int] = []
    last: list[tuple[float, str, str]] = []
    for stage in [stage for stage in colors if stage in stages]:
        x = [row.step if by_step else row.epoch for row in stages[stage]]
        places += x
        line(axis, x, values[stage], log, color=colors[stage], label=stage, width=1.2)
        known = values[stage][~np.isnan(values[stage])]
        if len(known):
            # where the curve ends the height is that of its end, but the value is what it is
            last.append((float(known[-1]), number(stages[stage][-1].value), colors[stage]))
        if text and not log:
            _ideal(axis, measure, classes.get(stage))
    if log:
        log_axis(axis)
    if np.ptp(places) == 0:
        axis.set_xlim(places[0] - 1, places[0] + 1)
    _last_values(axis, last)


def _title(axis: Axes, text: str, crowded: bool) -> None:
    size = min(6.2, _WIDEST_TITLE / len(text)) if crowded else 7.5
    # a given height saves the search for one, which takes half of the time of drawing
    axis.set_title(text, fontsize=size, loc="left", y=1.0, pad=4 if crowded else 6)


def _ideal(axis: Axes, measure: str, num_classes: int | None) -> None:
    """A dashed line at the value at collapse, where that is known."""
    if num_classes is None and not MEASURES[measure].at_collapse.isdigit():
        return
    ideal = MEASURES[measure].value_at_collapse(num_classes or 0)
    drawn = {line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"}  # type: ignore[index]
    if ideal is not None and ideal not in drawn:
        axis.axhline(ideal, color=GRAY, ls="--", lw=0.8, zorder=0)


def _inches_high(axis: Axes) -> float:
    figure = axis.get_figure(root=True)
    assert figure is not None
    return axis.get_position().height * figure.get_figheight()


def _last_values(axis: Axes, last: list[tuple[float, str, str]]) -> None:
    """The last values at the right edge, moved apart where they would overlap."""
    limits = axis.get_ylim()
    axis.set_ylim(limits)
    low, high, *heights = axis.yaxis.get_transform().transform(
        [*limits, *(max(v, min(limits)) for v, _, _ in last)]
    )
    order = np.argsort(heights, kind="stable")
    # in parts of the panel's height
    apart = max(0.13, _LINE / _inches_high(axis))
    spots = np.clip([(heights[i] - low) / (high - low) for i in order], 0.0, 1.0)
    for i in range(1, len(spots)):
        spots[i] = max(spots[i], spots[i - 1] + apart)
    if len(spots) and spots[-1] > 1:
        spots[-1] = 1
        for i in range(len(spots) - 2, -1, -1):
            spots[i] = min(spots[i], spots[i + 1] - apart)
    for spot, i in zip(spots, order, strict=True):
        axis.text(
            1.02,
            spot,
            last[i][1],
            color=last[i][2],
            fontsize=6.5,
            va="center",
            transform=axis.transAxes,
        )
