"""What is known of the data that a network is trained on, whatever the stage that is measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

UNEQUAL = 2
"""Counts are unequal where the largest is more than so many times the smallest."""


@dataclass(frozen=True, eq=False)
class Training:
    """Rows of each class in training.

    Attributes:
        counts: By class, of all ranks; None where they are not known (yet).
        is_whole: Whether they are those of a whole epoch, and of all of its rows.

    Example:
        >>> Training(torch.tensor([60, 20, 0])).is_unequal, Training().is_unequal
        (True, False)
    """

    counts: Int[Tensor, " C"] | None = None
    is_whole: bool = True

    @property
    def is_unequal(self) -> bool:
        """Whether some class has more than twice the rows of another one that has any."""
        if self.counts is None:
            return False
        some = self.counts[self.counts > 0]
        return len(some) > 1 and bool(some.max() > UNEQUAL * some.min())

    def to(self, device: torch.device | str) -> "Training":
        """The same on another device."""
        return self if self.counts is None else Training(self.counts.to(device), self.is_whole)

    def state_dict(self) -> dict[str, Any]:
        """In primitives and tensors."""
        return {} if self.counts is None else {"counts": self.counts.cpu(), "is_whole": self.is_whole}

    @classmethod
    def from_state_dict(cls, state: Any) -> "Training":
        """Of what :meth:`state_dict` has given.

        Args:
            state: The state.

        Returns:
            The same.

        Raises:
            ValueError: If it is no such state.
        """
        if isinstance(state, Mapping) and not state:
            return cls()
        counts = state.get("counts") if isinstance(state, Mapping) else None
        if not isinstance(counts, Tensor) or counts.ndim != 1 or counts.is_floating_point():
            raise ValueError(
                "Expected the counts of training to be whole numbers, one per class, but got "
                f"{type(counts).__name__}."
            )
        return cls(counts.long(), bool(state.get("is_whole", True)))
