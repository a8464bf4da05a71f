"""Several measures of one stage over a run, side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lightning_nc.figures.style import finite
from lightning_nc.values.history import History
from lightning_nc.values.key import Key


class OverRun(NamedTuple):
    """What is logged of some measures in one stage, at the classifier's input.

    Attributes:
        epochs: In their order, and as often as there were values in each.
        steps: The optimizer steps of the same.
        values: By measure, NaN where nothing is logged, or nothing finite.
    """

    epochs: list[int]
    steps: list[int]
    values: dict[str, np.ndarray]

    @property
    def is_by_step(self) -> bool:
        """Whether there are several values in an epoch: only the steps tell them apart."""
        return len(set(self.epochs)) < len(self.epochs)

    @property
    def x(self) -> np.ndarray:
        """Where the values stand."""
        return np.array(self.steps if self.is_by_step else self.epochs, dtype=np.float64)

    @property
    def edges(self) -> np.ndarray:
        """Where the columns of the values meet: half-way between them."""
        x = self.x
        if len(x) < 2:
            return np.array([x[0] - 1, x[0] + 1])
        outside = np.concatenate([[2 * x[0] - x[1]], x, [2 * x[-1] - x[-2]]])
        return (outside[1:] + outside[:-1]) / 2

    def headline(self, stage: str) -> str:
        """The stage, and the last epoch."""
        return f"{stage}, epoch {self.epochs[-1]}" if self.epochs else stage

    def furnish(self, axis: Axes) -> None:
        """The x axis, with room around a single value."""
        axis.set_xlabel("optimizer step" if self.is_by_step else "epoch", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        if len(self.epochs) == 1:
            axis.set_xlim(self.x[0] - 1, self.x[0] + 1)


def over_run(history: History, measures: Sequence[str], stage: str, prefix: str = "") -> OverRun:
    """The values of some measures, in the order of the optimizer steps.

    Args:
        history: The logged values.
        measures: Keys without stage.
        stage: Such as "val".
        prefix: What the logged keys begin with.

    Returns:
        The values.

    Example:
        >>> history = History().extended(0, 9, {"mse/snr_min/val": 0.5, "mse/snr_max/val": 2.0})
        >>> history = history.extended(1, 19, {"mse/snr_max/val": 4.0})
        >>> over_run(history, ["mse/snr_min", "mse/snr_max"], "val").values
        {'mse/snr_min': array([0.5, nan]), 'mse/snr_max': array([2., 4.])}
    """
    logged = {
        measure: {
            (row.step, row.epoch): row.value
            for row in history.get(str(Key(measure, stage, prefix=prefix)), ())
        }
        for measure in measures
    }
    places = sorted({place for rows in logged.values() for place in rows})
    values = {m: finite(rows.get(place, np.nan) for place in places) for m, rows in logged.items()}
    return OverRun([epoch for _, epoch in places], [step for step, _ in places], values)
