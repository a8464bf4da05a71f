"""What a line of the table of logged keys says."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import Tensor

OCCASIONS = ("layers", "min_count", "unequal_counts", "graphs")
"""Where keys join by themselves: further layers are measured, classes with few rows are left out, or,
which only the data tell, a class has more than twice the rows of another in training, or the rows are
the nodes of several graphs."""


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    Attributes:
        key: The logged key, less the stage.
        function: The formula.
        needs: What it is given, by the names in ``Evidence.parts``; the key is logged only where all
            of it is there.
        summary: What it is, in a few words.
        at_collapse: The value at collapse as a text: a number, "C - 1", or "" where there is none.
        source: Who defined it.
        default: Whether it is logged without being asked for.
        joins: The one of :data:`OCCASIONS` in which it is, if it is not always.
        min_classes: With fewer classes seen, the key is left out.
        headline: Its name where a single measure stands for the property: "NC1" to "NC4".
        of_layers: Whether it says something of each layer, and not of the network as a whole.
        is_custom: Whether it is a function of the user's own, which may fail in any way.
    """

    key: str
    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    summary: str
    at_collapse: str
    source: str
    default: bool = True
    joins: str = ""
    min_classes: int = 2
    headline: str = ""
    of_layers: bool = True
    is_custom: bool = False

    def is_default(self, occasions: Collection[str] = ()) -> bool:
        """Whether it is logged without being asked for, where something is the case.

        Args:
            occasions: Those of :data:`OCCASIONS` that are given.

        Returns:
            Whether it is.

        Example:
            >>> from lightning_nc.functional import MEASURES
            >>> share = MEASURES["layer/within_share"]
            >>> share.is_default(), share.is_default(["layers"])
            (False, True)
        """
        return self.default or self.joins in occasions

    def value_at_collapse(self, num_classes: int) -> float | None:
        """The value at collapse as a number, or None where there is none.

        Example:
            >>> from lightning_nc.functional import MEASURES
            >>> MEASURES["nc1/rank"].value_at_collapse(num_classes=10)
            9.0
        """
        if self.at_collapse == "C - 1":
            return float(num_classes - 1)
        return float(self.at_collapse) if self.at_collapse.replace(".", "").isdigit() else None
