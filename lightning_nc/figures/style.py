"""What the pictures share: colors, short texts, and axes that take zeros and gaps without a warning."""

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from lightning_nc.functional import MEASURES
from lightning_nc.values.stage import STAGES, in_order

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"  # Okabe and Ito's palette,
VERMILION, SKY, BLACK = "#D55E00", "#56B4E9", "#000000"  # less its yellow, which white paper swallows
GRAY = "0.45"

_Given = ParamSpec("_Given")
_Drawn = TypeVar("_Drawn")

_STAGES = (BLUE, ORANGE, GREEN, PURPLE)  # of the lines of the table
NAMED_CLASSES = 25  # with more classes than this their names do not fit along an axis


def stage_colors(names: Iterable[str]) -> dict[str, str]:
    """A color for each stage, in the order in which they are shown; the same in every figure.

    Example:
        >>> stage_colors(["val_1", "val"])
        {'val': '#009E73', 'val_1': '#D55E00'}
    """
    ordered = in_order(names)
    of_table = dict(zip([stage.name for stage in STAGES], _STAGES, strict=False))
    others, rest = [n for n in ordered if n not in of_table], (VERMILION, SKY, BLACK)
    return {n: of_table.get(n) or rest[others.index(n) % len(rest)] for n in ordered}


def at_collapse(key: str) -> str:
    """The value of a measure at collapse as a text; "" where there is none, or the key is not ours.

    Example:
        >>> at_collapse("nc1/cdnv"), at_collapse("custom/mine")
        ('0', '')
    """
    return MEASURES[key].at_collapse if key in MEASURES else ""


def without_latex(draw: Callable[_Given, _Drawn]) -> Callable[_Given, _Drawn]:
    """Draws with matplotlib's own letters, whatever ``text.usetex`` says.

    LaTeX may be missing, and it would read a name as its source. A text keeps what it was made with, so
    that a figure can be saved by whom and whenever.

    Args:
        draw: A function that makes figures or axes.

    Returns:
        The same function, less LaTeX.
    """

    @wraps(draw)
    def drawn(*args: _Given.args, **kwargs: _Given.kwargs) -> _Drawn:
        with matplotlib.rc_context({"text.usetex": False}):
            return draw(*args, **kwargs)

    return drawn


def class_label(label: int, class_names: Sequence[str] | None, width: int = 16) -> str:
    """The name of a class, cut to a width, or its number.

    Example:
        >>> class_label(1, None), class_label(1, ["cat", "a rather long name"], width=8)
        ('1', 'a ra…ame')
    """
    return cut(str(label) if class_names is None else str(class_names[label]), width)


def cut(text: str, width: int) -> str:
    """A text without its middle, as names often differ in their ends alone.

    Example:
        >>> cut("backbone.layer4.1.relu", 12), cut("head", 12)
        ('backbo….relu', 'head')
    """
    if len(text) <= width:
        return text
    return text[: width // 2] + "…" + text[len(text) - (width - 1) // 2 :]


def spread(count: int, most: int) -> list[int]:
    """Which of a row of things to show where there is no room for all: evenly, the first and the last.

    Args:
        count: How many there are.
        most: How many may be shown, at least two.

    Returns:
        Positions, whose distances differ by one at most.

    Example:
        >>> spread(5, 8), spread(13, 8)
        ([0, 1, 2, 3, 4], [0, 2, 4, 6, 8, 10, 12])
    """
    if count <= most:
        return list(range(count))
    stride = -(-(count - 1) // (most - 1))
    shown = (count - 1) // stride + 1
    return [int(i) for i in np.linspace(0, count - 1, shown).round()]


def number(value: float) -> str:
    """A value in a few characters.

    Example:
        >>> number(0.012345), number(999.0), number(float("nan"))
        ('0.0123', '999', 'NaN')
    """
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else f"{value:g}"
    if value == int(value) and abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.2e}".replace("e-0", "e-")


def new_axes(ax: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    """The given axes and their figure, or new ones."""
    axis = Figure(figsize=(width, height), layout="constrained").subplots() if ax is None else ax
    return axis.get_figure(root=True), axis  # type: ignore[return-value]


def plain(axis: Axes, labelsize: float = 8.0) -> None:
    """Less ink: no box around the panel, small ticks."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(which="both", labelsize=labelsize)


def note(axis: Axes, text: str, size: float = 8.0) -> None:
    """Say in the middle of an empty panel why it is empty."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", fontsize=size,
              color=GRAY)  # fmt: skip


def finite(values: Iterable[float]) -> np.ndarray:
    """The values in float64, with NaN, which draws as a gap, in the place of infinity."""
    array = np.asarray(list(values), dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def wants_log(values: Iterable[float]) -> bool:
    """Whether a logarithmic axis can show the values: none negative, and not all of them zero.

    Example:
        >>> wants_log([0.0, 0.1]), wants_log([-1.0, 0.1]), wants_log([0.0]), wants_log([])
        (True, False, False, False)
    """
    array = finite(values)
    array = array[~np.isnan(array)]
    return bool((array >= 0).all() and (array > 0).any())


def log_axis(axis: Axes) -> None:
    """A logarithmic y axis with few ticks, and with some where it spans less than a decade."""
    axis.set_yscale("log")
    few_log_ticks(axis)


def few_log_ticks(axis: Axes) -> None:
    """The ticks of a y axis that is logarithmic already, such as that of a bar of colors."""
    axis.yaxis.set_major_locator(LogLocator(numticks=5))
    axis.yaxis.set_minor_locator(NullLocator())  # dozens of ticks take most of the time of drawing
    low, high = axis.get_ylim()
    if np.floor(np.log10(high)) - np.ceil(np.log10(low)) < 1:
        few = MaxNLocator(nbins=4, steps=[1, 2, 5, 10])
        axis.yaxis.set_major_locator(few if high < 4 * low else LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(lambda value, _: number(value))


def line(
    axis: Axes, x: Sequence[int] | np.ndarray, values: np.ndarray, log: bool, *, color: object,
    label: str | None = None, width: float = 1.4, size: float = 3.0, marked: bool = False,
) -> None:  # fmt: skip
    """Values as a line; on a logarithmic axis a zero is a triangle on the lower edge.

    Args:
        axis: Where to draw.
        x: Positions.
        values: Values, NaN for a gap.
        log: Whether the axis is, or will be, logarithmic.
        color: Of the line.
        label: In the legend.
        width: Of the line.
        size: Of the markers.
        marked: Mark each value; a value without neighbors is marked anyhow, as no line shows it.
    """
    shown = np.where(values > 0, values, np.nan) if log else values
    gaps = np.isnan(np.concatenate([[np.nan], shown, [np.nan]]))
    alone = gaps[:-2] & ~gaps[1:-1] & gaps[2:]
    every = list(range(len(shown))) if marked else np.flatnonzero(alone).tolist()
    axis.plot(x, shown, "-o", color=color, lw=width, ms=size, label=label, markevery=every)
    if log and (values == 0).any():
        zeros = np.asarray(x)[values == 0]
        axis.plot(
            zeros, np.zeros(len(zeros)), "v", color=color, ms=size + 1, clip_on=False,
            transform=axis.get_xaxis_transform(),
        )  # fmt: skip
