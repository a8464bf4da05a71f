"""What is counted over each rank's own rows, once the moments of all ranks are known."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from lightning_nc.functional import decision, probe, recall, regression
from lightning_nc.values.evidence import ClassEvidence, Evidence


@dataclass(frozen=True)
class Count:
    """What can be counted only once the moments of all ranks are known: over each rank's own rows.

    The sums over the ranks, of all counts that the chosen measures ask for, travel in one round.

    Attributes:
        function: Own and merged evidence to a vector.
        size: Its length.
        serves: The parts of the evidence that rest on it.
        of_each_class: So many more for each class, seen or not.
    """

    function: Callable[..., Tensor]
    size: int
    serves: tuple[str, ...]
    of_each_class: int = 0

    def length(self, merged: Evidence) -> int:
        """Of the vector, which is the same on all ranks."""
        if not self.of_each_class:
            return self.size
        assert isinstance(merged, ClassEvidence)
        return self.size + self.of_each_class * merged.all_classes.num_classes


COUNTS: dict[str, Count] = {
    "decisions": Count(decision.decisions_of_own_rows, 6, serves=("decisions", "network_decisions")),
    "recalls": Count(recall.recalls_of_own_rows, 0, serves=("recalls",), of_each_class=2),
    "probe_decisions": Count(probe.probe_of_own_rows, 4, serves=("probe_decisions",)),
    "centered_rows": Count(regression.centered_rows_of_own_rows, 3, serves=("centered_rows",)),
}
"""The counts by the name under which :attr:`Evidence.counts` holds their sums."""


def counts_for(parts: Iterable[str]) -> dict[str, Count]:
    """The counts that some parts of the evidence rest on.

    Args:
        parts: What measures ask for.

    Returns:
        The counts by name.

    Example:
        >>> list(counts_for(["statistics", "decisions"])), list(counts_for(["statistics"]))
        (['decisions'], [])
    """
    needed = set(parts)
    return {name: count for name, count in COUNTS.items() if needed & set(count.serves)}
