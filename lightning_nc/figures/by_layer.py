"""The values of a measure by layer and epoch, and the names of the layers along an axis."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from matplotlib.axis import Axis

from lightning_nc.figures.style import cut, spread
from lightning_nc.functional.layers import collapse_begins
from lightning_nc.values.history import History
from lightning_nc.values.key import Key

SHARE = "layer/within_share"
FRACTION = 0.1
"""Collapse begins where the within-share falls below this part of that of the first layer."""

_FEATURES = "features"
_LONGEST = 32  # letters of a name
_APART = 1.35  # from line to line, by the size of the letters, so that names do not touch


class ByLayer(NamedTuple):
    """What is logged of one measure in one stage.

    Attributes:
        epochs: In their order.
        values: A row for each epoch and a column for each layer, the classifier's input last; NaN
            where nothing is logged, or nothing finite.
    """

    epochs: list[int]
    values: np.ndarray

    def at_most(self, most: int) -> "ByLayer":
        """So many epochs, spread over the run, with the first and the last."""
        kept = spread(len(self.epochs), most)
        return ByLayer([self.epochs[i] for i in kept], self.values[kept])

    @property
    def is_map(self) -> bool:
        """Whether there are two layers and two epochs to compare."""
        known = ~np.isnan(self.values)
        return bool(known.any(axis=0).sum() > 1 and known.any(axis=1).sum() > 1)


class Beginning(NamedTuple):
    """Where collapse begins.

    Attributes:
        level: Below this a layer has collapsed.
        layer: The first one that has, or None.
    """

    level: float
    layer: int | None


def by_layer(
    history: History, measure: str, stage: str, layers: Sequence[str], prefix: str = ""
) -> ByLayer:
    """The values by epoch and layer; of several in an epoch, the last one.

    Args:
        history: The logged values.
        measure: A key without stage.
        stage: Such as "val".
        layers: As they are logged, in their order.
        prefix: What the logged keys begin with.

    Returns:
        The values.

    Example:
        >>> values = {"nc1/cdnv/val/conv": 0.9, "nc1/cdnv/val": 0.2}
        >>> by_layer(History().extended(3, 9, values), "nc1/cdnv", "val", ["conv"])
        ByLayer(epochs=[3], values=array([[0.9, 0.2]]))
    """
    key = Key(measure, stage, prefix=prefix)
    rows: dict[int, np.ndarray] = {}
    for position, layer in enumerate([*layers, ""]):
        for row in history.get(str(replace(key, layer=layer)), ()):
            values = rows.setdefault(row.epoch, np.full(len(layers) + 1, np.nan))
            values[position] = row.value
    epochs = sorted(rows)
    table = np.array([rows[epoch] for epoch in epochs]).reshape(len(epochs), len(layers) + 1)
    return ByLayer(epochs, np.where(np.isfinite(table), table, np.nan))


def logged(
    history: History, measures: Sequence[str], stage: str, layers: Sequence[str], prefix: str = ""
) -> list[str]:
    """Those of some measures that are logged for one of the layers.

    Args:
        history: The logged values.
        measures: Keys without stage.
        stage: Such as "val".
        layers: As they are logged; none: the classifier's input is asked for.
        prefix: What the logged keys begin with.

    Returns:
        The measures in their order.

    Example:
        >>> history = History().extended(0, 9, {"nc1/cdnv/val/conv": 0.9, "nc1/rank/val": 9})
        >>> logged(history, ["nc1/rank", "nc1/cdnv"], "val", ["conv"])
        ['nc1/cdnv']
    """
    places = list(layers) or [""]
    return [
        measure
        for measure in measures
        if any(str(Key(measure, stage, place, prefix)) in history for place in places)
    ]


def beginning(shares: np.ndarray) -> Beginning | None:
    """Where the within-share is below a tenth of that of the first layer that has one.

    Args:
        shares: By layer.

    Returns:
        Where that is; None where no two layers can be compared, or the first has nothing to lose.

    Example:
        >>> beginning(np.array([np.nan, 0.5, 0.3, 0.04]))
        Beginning(level=0.05, layer=3)
    """
    known = np.flatnonzero(~np.isnan(shares))
    if len(known) < 2 or not shares[known[0]] > 0:
        return None
    found = collapse_begins(shares[known].tolist(), FRACTION)
    return Beginning(FRACTION * float(shares[known[0]]), None if found is None else int(known[found]))


def names_of(layers: Sequence[str], last: str = _FEATURES) -> list[str]:
    """What stands along an axis: the layers, and the last position.

    Long names are written without what all of them share; if they are still too long, without their
    middle.

    Args:
        layers: As they are logged.
        last: What stands at the end.

    Returns:
        The names.

    Example:
        >>> names_of([f"model.backbone.stages.0.blocks.{i}.mlp.fc1" for i in (8, 9)])
        ['…8…', '…9…', 'features']
    """
    names = list(layers)
    if len(names) > 1 and max(map(len, names)) > _LONGEST:
        names = _without_shared(names)
    return [cut(name, _LONGEST) for name in [*names, last]]


def _without_shared(names: list[str]) -> list[str]:
    """Paths without the parts that all of them begin and end with."""
    paths = [name.split(".") for name in names]
    head = _shared(paths)
    paths = [path[head:] for path in paths]
    tail = _shared([path[::-1] for path in paths])
    kept = [".".join(path[: len(path) - tail]) for path in paths]
    return [f"{'…' * (head > 0)}{name}{'…' * (tail > 0)}" for name in kept]


def _shared(paths: list[list[str]]) -> int:
    """With how many parts all paths begin, of which each has one more."""
    most = min(map(len, paths)) - 1
    return next((i for i in range(most) if len({path[i] for path in paths}) > 1), most)


def write_names(axis: Axis, names: Sequence[str], inches: float, rotation: int = 0) -> None:
    """Ticks with names at 0, 1, ...: evenly thinned out where not all fit, but for first and last.

    Args:
        axis: An x axis or a y axis.
        names: Of all positions.
        inches: The length of the axis.
        rotation: Of the names, in degrees.
    """
    size = 8.0 if _fitting(inches, 8.0) >= len(names) else 6.5
    kept = spread(len(names), _fitting(inches, size))
    axis.set_ticks(kept, [names[i] for i in kept], rotation=rotation, parse_math=False)
    axis.set_tick_params(labelsize=size)


def _fitting(inches: float, size: float) -> int:
    """How many lines of text there is room for."""
    return max(2, int(inches * 72 / (size * _APART)))
