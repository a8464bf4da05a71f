"""How the nodes of graphs collapse with depth: the layers of a network beside spectral methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lightning_nc.figures.inline import showable
from lightning_nc.figures.style import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    cut,
    log_axis,
    note,
    number,
    plain,
    without_latex,
)
from lightning_nc.values.history import History
from lightning_nc.values.key import Key

RATIO = "graph/within_between_ratio_log10"
_KEYS = {"ratio": RATIO, "pinv": "graph/within_between_pinv_log10"}
_PANELS = {"pinv": "NC1, tr(Sw Sb+)/C", "ratio": "trace ratio, tr Sw / tr Sb"}
_POOLS = {"nodes": "-", "neighborhood_mean": "--"}
"""How a line of each kind of rows looks."""
_TITLES = {"nodes": "nodes", "neighborhood_mean": "means over their neighbors"}
_COLORS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
_MARKERS = "osD^vP"  # which tell the names apart where a print has no colors
_LONGEST = 36  # letters of a name
_LARGEST = 300.0  # exponent of ten of what float64 can be drawn as


@dataclass(frozen=True)
class DepthCurve:
    """Averages over graphs at each depth: after each layer of a network, or each step of a method.

    The numbers are those of ``graph/within_between_ratio_log10``, ``graph/within_between_pinv_log10``
    and their ``..._se``: statistics of each graph, their log10, and then the average over graphs with
    its standard error. NaN is a gap; a standard error that is NaN draws no band.

    Attributes:
        name: Of the network or of the method.
        depths: How many layers or steps, in their order.
        ratio_log10: log10 of tr Sw / tr Sb at each depth.
        pinv_log10: log10 of tr(Sw Sb^+) / C.
        ratio_se: Standard errors of the first.
        pinv_se: Standard errors of the second.
        pool: What the rows are: "nodes" or "neighborhood_mean".

    Example:
        >>> nan = float("nan")
        >>> DepthCurve("power iteration", (1, 2), (2.5, 1.5), (2.3, 1.1), (nan, nan), (nan, nan)).depths
        (1, 2)
    """

    name: str
    depths: tuple[int, ...]
    ratio_log10: tuple[float, ...]
    pinv_log10: tuple[float, ...]
    ratio_se: tuple[float, ...]
    pinv_se: tuple[float, ...]
    pool: str = "nodes"

    def __post_init__(self) -> None:
        if self.pool not in _POOLS:
            raise ValueError(
                f"Expected the rows of the curve {self.name!r} to be one of "
                f"{', '.join(map(repr, _POOLS))}, but got {self.pool!r}."
            )
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self)[1:6]}
        if len({*lengths.values()}) > 1:
            told = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise ValueError(
                f"Expected one value of each kind at each depth of the curve {self.name!r}, but got "
                f"{told}. Write NaN where there is none."
            )

    @classmethod
    def of_history(
        cls,
        history: History,
        stage: str,
        layers: Mapping[int, str] | Sequence[str],
        pool: str = "nodes",
        name: str = "network",
        epoch: int | None = None,
        prefix: str | None = None,
    ) -> "DepthCurve":
        """What a callback has logged of several graphs, by layer.

        The layers are those of its ``layers={"convs.*": ["nodes", "neighborhood_mean"]}``, as they are
        named there, without the pool at their end.

        Args:
            history: The callback's ``history``.
            stage: Such as "val".
            layers: In their order, the first one at depth 1; or by depth.
            pool: "nodes" or "neighborhood_mean".
            name: In the legend.
            epoch: Of which epoch; None: the last one of each key.
            prefix: What the keys begin with; None: what the history says.

        Returns:
            The curve, NaN where nothing is logged.

        Example:
            >>> values = {"graph/within_between_ratio_log10/val/convs.0.nodes": 2.0}
            >>> history = History().extended(0, 9, values)
            >>> DepthCurve.of_history(history, "val", ["convs.0"]).ratio_log10
            (2.0,)
        """
        at = dict(layers) if isinstance(layers, Mapping) else dict(enumerate(layers, 1))

        before = history.prefix if prefix is None else prefix

        def logged(measure: str) -> tuple[float, ...]:
            keys = [Key(measure, stage, f"{x}.{pool}", before) for x in at.values()]
            return tuple(_logged(history, str(key), epoch) for key in keys)

        values = {f"{kind}_log10": logged(key) for kind, key in _KEYS.items()}
        errors = {f"{kind}_se": logged(f"{key}_se") for kind, key in _KEYS.items()}
        return cls(name, tuple(at), **values, **errors, pool=pool)


NO_LAYERS = DepthCurve("network", (), (), (), (), ())


def curves_by_pool(
    history: History, stage: str, layers: Sequence[str], prefix: str | None = None
) -> list[DepthCurve]:
    """The curve of each pool that layers have at the end of their names, where it has values.

    Args:
        history: The callback's ``history``.
        stage: Such as "val".
        layers: As they are logged, in their order.
        prefix: What the keys begin with; None: what the history says.

    Returns:
        At most two curves.

    Example:
        >>> values = {"graph/within_between_ratio_log10/val/convs.0.nodes": 2.0}
        >>> [curve] = curves_by_pool(History().extended(0, 9, values), "val", ["convs.0.nodes"])
        >>> curve.pool, curve.ratio_log10
        ('nodes', (2.0,))
    """
    curves = []
    for pool in _POOLS:
        names = [name.removesuffix(f".{pool}") for name in layers if name.endswith(f".{pool}")]
        curve = DepthCurve.of_history(history, stage, names, pool, prefix=prefix)
        if any(value == value for value in (*curve.ratio_log10, *curve.pinv_log10)):
            curves.append(curve)
    return curves


def _logged(history: History, key: str, epoch: int | None) -> float:
    """The last value, or the last one of an epoch; NaN where there is none."""
    entries = [entry for entry in history.get(key, ()) if epoch is None or entry.epoch == epoch]
    return entries[-1].value if entries else float("nan")


@showable
@without_latex
def graph_depth(
    curves: Sequence[DepthCurve], stage: str, epoch: int | None = None
) -> tuple[Figure, list[Axes]]:
    """NC1 and trace ratio of the nodes of graphs by depth: a network, and spectral methods beside it.

    Both axes are logarithmic, and so are the averages: a line is 10 to the mean of log10 over the
    graphs, and the band about it one standard error to each side. Nodes are solid lines with full
    markers, means over neighborhoods dashed lines with empty ones; curves with the same name have the
    same color and marker. 0 is collapse.

    The values of a network are in the callback's history, ``DepthCurve.of_history(callback.history,
    "val", [f"convs.{i}" for i in range(10)], "neighborhood_mean")``; those of a method are made of its
    features after each step.

    Args:
        curves: In their order in the legend.
        stage: Whose graphs they are, such as "val".
        epoch: Of the network; None: not said.

    Returns:
        The figure and its two axes, NC1 and the trace ratio.

    Raises:
        ValueError: If there is no curve.

    Example:
        >>> layers = DepthCurve("network", (1, 2), (2.0, 1.0), (1.5, 0.5), (0.1, 0.1), (0.1, 0.1))
        >>> figure, axes = graph_depth([layers], "val", epoch=9)
        >>> figure.get_suptitle()
        'val, epoch 9: trace ratio 10 at depth 2 (network)'

    References:
        Kothapalli, Tirer & Bruna (2023), "A neural collapse perspective on feature evolution in graph
        neural networks".
    """
    if not curves:
        raise ValueError("Expected at least one curve to draw, but got none.")
    looks = {name: i for i, name in enumerate(dict.fromkeys(curve.name for curve in curves))}
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    axes = list(figure.subplots(1, len(_PANELS), sharex=True))
    for axis, kind in zip(axes, _PANELS, strict=True):
        lines = _panel(axis, kind, curves, looks)
    # told to the legend one by one: left to itself, it drops names that begin with "_"
    legend = figure.legend(
        lines, [f"{cut(curve.name, _LONGEST)}, {_TITLES[curve.pool]}" for curve in curves],
        loc="outside lower center", ncols=2, fontsize=8, frameon=False, handlelength=3,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.suptitle(_headline(curves[0], stage, epoch), fontsize=10, parse_math=False)
    return figure, axes


def _panel(
    axis: Axes, kind: str, curves: Sequence[DepthCurve], looks: Mapping[str, int]
) -> list[Line2D]:
    plain(axis)
    axis.set_title(_PANELS[kind], fontsize=9)
    axis.set_xlabel("layers, or steps", fontsize=8)
    axis.set_ylabel("at collapse: 0", fontsize=8, color=GRAY)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    lines = [_draw(axis, kind, curve, looks[curve.name]) for curve in curves]
    if all(np.isnan(line.get_ydata()).all() for line in lines):
        note(axis, "no value")
        axis.set_yticks([])
    else:
        log_axis(axis)
    return lines


def _draw(axis: Axes, kind: str, curve: DepthCurve, look: int) -> Line2D:
    color, marker = _COLORS[look % len(_COLORS)], _MARKERS[look % len(_MARKERS)]
    x = np.asarray(curve.depths)
    mean, error = (_floats(getattr(curve, f"{kind}_{part}")) for part in ("log10", "se"))
    [line] = axis.plot(
        x, 10**mean, _POOLS[curve.pool], color=color, marker=marker, ms=4.5, lw=1.6,
        markerfacecolor=color if curve.pool == "nodes" else "white",
    )  # fmt: skip
    low, high = (10 ** _floats(mean + error * side) for side in (-1, 1))
    axis.fill_between(x, low, high, color=color, alpha=0.2, lw=0, zorder=1)
    return line


def _floats(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """In float64, NaN where they are too large to be drawn."""
    found = np.asarray(values, dtype=np.float64)
    return np.where(np.abs(found) < _LARGEST, found, np.nan)


def _headline(curve: DepthCurve, stage: str, epoch: int | None) -> str:
    """The stage, the epoch, and the trace ratio of the first curve where it ends."""
    where = stage if epoch is None else f"{stage}, epoch {epoch}"
    known = np.flatnonzero(~np.isnan(_floats(curve.ratio_log10)))
    if not len(known):
        return where
    last = known[-1]
    ends = f"trace ratio {number(10 ** curve.ratio_log10[last])} at depth {curve.depths[last]}"
    return f"{where}: {ends} ({cut(curve.name, _LONGEST)})"
