"""What is known of the data that a network is trained on, whatever the stage that is measured."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

UNEQUAL = 2
"""Counts are unequal where the largest is more than so many times the smallest."""

_CHANCE = 4  # standard deviations of a count that a part of the rows may differ by


@dataclass(frozen=True, eq=False)
class Training:
    """Rows of each class in training.

    Attributes:
        counts: By class, of all ranks; None where they are not known (yet).
        is_whole: Whether they are those of a whole epoch, and of all of its rows.
        is_settled: Whether this run has shown a whole epoch, by whose counts it goes from then on.

    Example:
        >>> Training(torch.tensor([60, 20, 0])).is_unequal, Training().is_unequal
        (True, False)
        >>> Training(torch.tensor([6, 2]), is_whole=False).is_unequal  # by chance, it may be
        False
    """

    counts: Int[Tensor, " C"] | None = None
    is_whole: bool = True
    is_settled: bool = False

    @property
    def is_unequal(self) -> bool:
        """Whether some class has more than twice the rows of another one that has any.

        Of a part of the rows, only where chance does not make that of equal ones.
        """
        if self.counts is None:
            return False
        some = self.counts[self.counts > 0].cpu().double()
        if len(some) < 2:
            return False
        most, least, chance = some.max(), some.min(), 0 if self.is_whole else _CHANCE
        return bool(most - chance * most.sqrt() > UNEQUAL * (least + chance * least.sqrt()))

    def after(self, shown: "Training") -> "Training":
        """What is known once a stage of training has ended.

        Args:
            shown: What the stage itself has shown.

        Returns:
            The counts of the first whole epoch of a run; before there is one, those of a checkpoint, or
            of all parts of epochs together.
        """
        if self.is_settled or shown.counts is None:
            return self
        if shown.is_whole:
            return replace(shown, is_settled=True)
        if self.counts is None or len(self.counts) != len(shown.counts):
            return shown
        return self if self.is_whole else Training(self.counts + shown.counts.to(self.counts), False)

    def to(self, device: torch.device | str) -> "Training":
        """The same on another device."""
        return self if self.counts is None else replace(self, counts=self.counts.to(device))

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


UNKNOWN = Training()
"""Where nothing is known."""
