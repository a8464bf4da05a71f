"""How many rows the classifier of some labels may have."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from lightning_nc.tasks.task import Task


@dataclass(frozen=True)
class Rows:
    """The number of rows, where it is given, or what it is at least.

    Attributes:
        num_classes: C, where it was given.
        least: One more than the largest label that was seen.
        of_label: One for each entry of a label, where that is a vector.

    Example:
        >>> Rows(None, least=10).fit(64), Rows(10, least=3).fit(64), Rows(None, least=2).fit(1)
        (True, False, True)
    """

    num_classes: int | None
    least: int
    of_label: int | None = None

    @classmethod
    def of(cls, task: Task, labels: Tensor) -> "Rows":
        """What a batch of labels tells; may wait for the device."""
        return cls(task.settings.num_classes, task.least_rows(labels), task.rows_of(labels))

    def fit(self, rows: int) -> bool:
        """Whether a classifier may have so many; a single one stands for two classes."""
        if self.of_label is not None:
            return rows == self.of_label
        classes = 2 if rows == 1 else rows
        return classes == self.num_classes if self.num_classes else classes >= self.least

    def closer(self, sides: Iterable[int], rows: int) -> bool:
        """Whether a matrix of these sides may be it, and is as close to the labels' number or closer.

        Args:
            sides: Its numbers of rows, or of columns where it may be transposed.
            rows: Of the classifier that it is compared with.

        Returns:
            Whether it is.
        """
        return any(self.fit(side) and max(2, side) <= max(2, rows) for side in sides)

    @property
    def wanted(self) -> str:
        """A clause on the rows."""
        if self.of_label is not None:
            rows = "1 row" if self.of_label == 1 else f"{self.of_label} rows"
            other = (
                "class numbers are task='multiclass'"
                if self.of_label == 1
                else "of one number for each position, (B, T), return target.unsqueeze(-1) by `target`"
            )
            return (
                f"has {rows}, as many as a label has entries (of a head for means and variances "
                "together, make the means a layer of their own, or set classifier=False and "
                f"`features`; {other})"
            )
        if self.num_classes:
            return f"has num_classes = {self.num_classes} rows"
        return f"has more rows than the largest label, {self.least - 1}"
