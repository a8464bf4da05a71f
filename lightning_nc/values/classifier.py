"""The last linear map."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_nc.values.frame import Frame

_LOGITS = 2**24  # at a time


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    r"""The last linear layer: :math:`W h + b`.

    A single row (a binary head, ``Linear(d, 1)``) is read as the two rows :math:`-w/2, +w/2`, with
    bias :math:`-b/2, +b/2`: the same decisions, and two classes.

    Attributes:
        weight: W, row c belongs to class c.
        bias: b, or None.
        is_single_row: Whether it was given as a single row.

    Example:
        >>> LinearClassifier(torch.tensor([[2.0, 4.0]]), torch.tensor([1.0])).weight
        tensor([[-1., -2.],
                [ 1.,  2.]])
    """

    weight: Float[Tensor, "C d"]
    bias: Float[Tensor, " C"] | None = None
    is_single_row: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_single_row", self.weight.shape[0] == 1)
        for name in ("weight", "bias"):
            value = getattr(self, name)
            if value is not None:
                value = value.detach()
                if self.is_single_row:
                    value = torch.cat([-value / 2, value / 2])
                object.__setattr__(self, name, value)

    @property
    def num_classes(self) -> int:
        """C, the rows of W."""
        return self.weight.shape[0]

    @cached_property
    def frame(self) -> Frame:
        """The rows of W, not centered, as a frame."""
        return Frame(self.weight)

    def decide(self, features: Float[Tensor, "R d"]) -> Int[Tensor, " R"]:
        """The class with the largest logit, for each row.

        Args:
            features: Inputs of the classifier.

        Returns:
            Numbers of classes.

        Example:
            >>> LinearClassifier(torch.eye(2)).decide(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
            tensor([1, 0])
        """
        dtype = torch.promote_types(features.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)
        rows = max(1, _LOGITS // self.num_classes)
        with torch.autocast(features.device.type, enabled=False):
            parts = [
                nn.functional.linear(part, weight, bias).argmax(1)
                for part in features.to(dtype).split(rows)
            ]
        return torch.cat(parts)

    def restrict(self, classes: Bool[Tensor, " C"]) -> "LinearClassifier":
        """The rows of some of the classes."""
        bias = None if self.bias is None else self.bias[classes]
        # a single row left over is one class, not a binary head
        return _built(weight=self.weight[classes], bias=bias)

    def to(self, device: torch.device | str) -> "LinearClassifier":
        """The same classifier on another device."""
        bias = None if self.bias is None else self.bias.to(device)
        return _built(weight=self.weight.to(device), bias=bias, is_single_row=self.is_single_row)

    def snapshot(self) -> "LinearClassifier":
        """A copy that later training steps do not change."""
        bias = None if self.bias is None else self.bias.clone()
        return _built(weight=self.weight.clone(), bias=bias, is_single_row=self.is_single_row)


def _built(**attributes: Any) -> LinearClassifier:
    """A classifier without ``__post_init__``, for rows that already have their final form."""
    value = object.__new__(LinearClassifier)
    for name, attribute in attributes.items():
        object.__setattr__(value, name, attribute)
    return value
