"""Where in a network and in its batches there is something to measure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Forwards = Literal["first", "last", "all"]


@dataclass(frozen=True)
class Places:
    """Where in a network and in its batches there is something to measure.

    Attributes:
        classifier: Path to the last linear layer; None: found, and refused where that is doubtful.
        layers: Paths or globs of further modules; a mapping gives each its pool.
        pool: A name in :data:`~lightning_nc.watch.pools.POOLS`, a dotted function, or "auto".
        forwards: Which forward of a step counts when there are several.
        target: Where the labels are in a batch.
        target_shift: By how many positions the labels are ahead of their tokens.
    """

    classifier: str | None = None
    layers: Sequence[str] | Mapping[str, str] = ()
    pool: str = "auto"
    forwards: Forwards = "last"
    target: str | int | Callable[[Any], Any] | None = None
    target_shift: int = 0
