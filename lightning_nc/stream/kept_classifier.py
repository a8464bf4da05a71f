"""The linear maps that the features of a stage have met."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_nc.values.classifier import LinearClassifier


class KeptMap:
    """A copy of a map's weight, and bias, in memory that is used again.

    Of all ranks the lowest that has one sends it.

    Example:
        >>> kept = KeptMap()
        >>> kept.keep(torch.ones(1, 3), None)
        >>> kept.sizes
        (1, 3, 0)
    """

    size_names: ClassVar[tuple[str, ...]] = ("rows of W", "features", "biases")
    once: ClassVar[bool] = True

    def __init__(self) -> None:
        self._weight = torch.empty(0, 0)
        self._bias: Tensor | None = None
        self._shards: list[Any] = []
        self.is_kept = False

    def keep(self, weight: Tensor, bias: Tensor | None) -> None:
        """Copy the map as it is now.

        Args:
            weight: W.
            bias: b, or None.
        """
        with torch.inference_mode(False), torch.no_grad():
            shards: list[Any] = [each for each in (weight, bias) if hasattr(each, "full_tensor")]
            self._shards = [each.clone() for each in shards]
            if self._shards:  # whole once the stage ends, on all ranks together
                self.is_kept = True
                return
            fits = self._weight.shape == weight.shape and (self._bias is None) == (bias is None)
            if not fits or self._weight.device != weight.device:
                self._weight = torch.empty_like(weight)
                self._bias = None if bias is None else torch.empty_like(bias)
            self._weight.copy_(weight)
            if self._bias is not None and bias is not None:
                self._bias.copy_(bias)
        self.is_kept = True

    def gather(self) -> None:
        """Make a sharded map whole (FSDP2); every rank has to call it."""
        if self._shards:
            shards, self._shards = self._shards, []
            whole = [each.full_tensor() for each in shards]
            self.keep(whole[0], whole[1] if whole[1:] else None)

    def reset(self) -> None:
        """Forget it, and keep the memory for another."""
        self._shards.clear()
        self.is_kept = False

    @property
    def parameters(self) -> tuple[Tensor, Tensor | None]:
        """W and b as they are held, which the next ones overwrite."""
        return self._weight, self._bias

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows, width, and whether there is a bias."""
        rows, width = self._weight.shape
        return rows, width, int(self._bias is not None)

    def sums(self) -> list[Tensor]:
        """W and b."""
        return [self._weight, *([] if self._bias is None else [self._bias])]

    def rest(self) -> list[Tensor]:
        """Nothing: one rank has sent it all."""
        return []

    def around(self, sums: list[Tensor]) -> list[Tensor]:
        """Nothing."""
        return []

    @classmethod
    def blank(cls, sizes: tuple[int, ...], device: torch.device | str) -> "KeptMap":
        """What a rank without this map brings in the place of it."""
        rows, width, has_bias = sizes[:3]
        kept = cls()
        kept._weight = torch.zeros(rows, width, device=device)
        kept._bias = torch.zeros(rows, device=device) if has_bias else None
        return kept


class KeptClassifier(KeptMap):
    """The classifier, in which one row is read as two.

    Example:
        >>> kept = KeptClassifier()
        >>> kept.keep(torch.ones(1, 3), None)
        >>> kept.value().weight.shape, kept.sizes
        (torch.Size([2, 3]), (2, 3, 0))
    """

    def value(self) -> LinearClassifier:
        """The classifier, which later copies do not change."""
        return LinearClassifier(self._weight, self._bias).snapshot()

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows, width, and whether there is a bias."""
        rows, width, has_bias = super().sizes
        return 2 if rows == 1 else rows, width, has_bias

    def sums(self) -> list[Tensor]:
        """W and b."""
        classifier = LinearClassifier(self._weight, self._bias)
        return [classifier.weight, *([] if classifier.bias is None else [classifier.bias])]

    @classmethod
    def of(cls, classifier: LinearClassifier | None) -> "KeptClassifier":
        """A copy of a classifier, if there is one."""
        kept = cls()
        if classifier is not None:
            copy = classifier.snapshot()
            kept._weight, kept._bias, kept.is_kept = copy.weight, copy.bias, True
        return kept
