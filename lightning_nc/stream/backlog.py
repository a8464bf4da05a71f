"""Rows of small batches, put together until the arithmetic on them is worth its overhead."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_nc.stream.memory import entries_at_once

_MOST_ROWS = 4096  # twice as many were no faster

UNKNOWN = -1
"""Stands for a decision of the network that nobody has told."""


class Rows(NamedTuple):
    """One batch, or several as one.

    Attributes:
        features: One row per label.
        target: Labels as they were given.
        predicted: What the task takes for the network's decisions, :data:`UNKNOWN` where they are
            class numbers that are not known.
    """

    features: Float[Tensor, "B d"]
    target: Shaped[Tensor, "B ..."]
    predicted: Shaped[Tensor, "B ..."]


class Backlog:
    """Copies rows into one piece of memory, and hands them out as one batch.

    An update is some fifty small operations and a d x d product, which a few rows do not fill: most of
    its time is saved where several batches share it.

    Args:
        num_features: d.
        device: Where the rows are.

    Example:
        >>> backlog = Backlog(num_features=2, device=torch.device("cpu"))
        >>> rows = Rows(torch.ones(3, 2), torch.zeros(3, dtype=torch.long), torch.ones(3).long())
        >>> backlog.add(rows), backlog.add(rows)
        (True, True)
        >>> backlog.take().features.shape, len(backlog)
        (torch.Size([6, 2]), 0)
    """

    def __init__(self, num_features: int, device: torch.device) -> None:
        self.capacity = min(_MOST_ROWS, max(1, entries_at_once(device) // num_features))
        self._memory: Rows | None = None
        self._kind: list[tuple[torch.dtype, torch.device, torch.Size]] = []
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def clear(self) -> None:
        """Forget all rows."""
        self._used = 0

    def add(self, rows: Rows) -> bool:
        """Copy a batch, if it is small and goes with what waits already.

        Args:
            rows: A batch.

        Returns:
            False, and nothing was added, where the batch fills half of the memory by itself, does not
            fit into what is left of it, or is of another kind than the rows that wait.
        """
        kind = [(part.dtype, part.device, part.shape[1:]) for part in rows]
        count = rows.target.shape[0]
        stop = self._used + count
        if 2 * count > self.capacity or stop > self.capacity or (self._used and kind != self._kind):
            return False
        if self._memory is None or kind != self._kind:
            with torch.inference_mode(False):
                self._memory = Rows(*(p.new_empty(self.capacity, *p.shape[1:]) for p in rows))
            self._kind = kind
        for memory, part in zip(self._memory, rows, strict=True):
            memory[self._used : stop] = part
        self._used = stop
        return True

    def take(self) -> Rows:
        """All rows, until others are added, and none are left."""
        assert self._memory is not None
        used, self._used = self._used, 0
        return Rows(*(part[:used] for part in self._memory))

    def leave_inference_mode(self) -> None:
        """Memory that was copied in inference mode can only be changed there: copy it once more."""
        if self._memory is not None:
            self._memory = Rows(*(part.clone() for part in self._memory))
