"""A uniform sample of rows, planned on the host from row counts alone, so that nothing waits."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


class Placement(NamedTuple):
    """Which rows of a batch go where: first a run of rows into the free slots, then replacements.

    Attributes:
        fill: How many of the first rows go into the next free slots, in order.
        rows: Further rows that were drawn.
        slots: The slots that they replace, each at most once.
    """

    fill: int
    rows: np.ndarray
    slots: np.ndarray


class Reservoir:
    """Algorithm R (Vitter 1985): after n rows each of them is in the sample with probability R/n.

    Example:
        >>> reservoir = Reservoir(capacity=4, seed=0)
        >>> reservoir.place(3).fill, reservoir.place(5).fill
        (3, 1)
        >>> reservoir.seen, reservoir.size
        (8, 4)
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity = capacity
        self.seed = seed
        self.reset()

    def reset(self) -> None:
        """Start over, with the same sequence of choices."""
        self.seen = 0
        self._generator = np.random.default_rng(self.seed)

    @property
    def size(self) -> int:
        """How many slots are in use."""
        return min(self.seen, self.capacity)

    def place(self, num_rows: int) -> Placement:
        """Choose among the next ``num_rows`` rows.

        Args:
            num_rows: The rows of the batch.

        Returns:
            Which of them enter the sample, and where.
        """
        fill = min(num_rows, self.capacity - self.size)
        later = np.arange(fill, num_rows)
        # row number t (from 0) draws one of t + 1 places, and is kept if that is a slot
        drawn = (self._generator.random(len(later)) * (self.seen + later + 1)).astype(int)
        self.seen += num_rows
        kept = drawn < self.capacity
        rows, slots = later[kept], drawn[kept]
        # where two rows of the batch drew the same slot, the later one stays
        slots, last = np.unique(slots[::-1], return_index=True)
        return Placement(fill, rows[::-1][last], slots)

    def merge(self, other: "Reservoir") -> tuple[np.ndarray, np.ndarray]:
        """Become a uniform sample of the rows of both.

        Args:
            other: A reservoir of the same capacity; it is not changed.

        Returns:
            The slots of this sample to keep, and those of the other to put after them.
        """
        room = min(self.capacity, self.size + other.size)
        from_self = self.size
        if self.size + other.size > room:
            from_self = self._share(other.seen, room)
        kept = self._generator.permutation(self.size)[:from_self]
        taken = self._generator.permutation(other.size)[: room - from_self]
        self.seen += other.seen
        return kept, taken

    def _share(self, others: int, room: int) -> int:
        """How many of ``room`` rows, drawn without replacement from both, are this sample's."""
        total = self.seen + others
        if total < 10**9:  # numpy's bound
            return int(self._generator.hypergeometric(self.seen, others, room))
        return int(self._generator.binomial(room, self.seen / total))


def to_device(indices: np.ndarray, device: torch.device) -> Int[Tensor, " n"]:
    """Indices from the host without waiting for the device, which pageable memory would do."""
    host = torch.from_numpy(indices)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host
