"""Which rows of a batch count, where the batch tells it."""

from typing import Any

import torch
from torch import Tensor


def masked(labels: Tensor, mask: Any, ignored: int | float, looks: bool, dims: int = 0) -> Tensor:
    """Labels in which rows that do not count have the ignored one.

    Args:
        labels: Of any shape.
        mask: True (or 1) for the rows that count, in the shape of the labels; or their numbers.
        ignored: The label of rows that do not count.
        looks: Whether to look at what the mask holds; waits for the device.
        dims: How many dimensions a label has.

    Returns:
        The labels, in memory of their own.

    Raises:
        ValueError: If the mask does not fit the labels.

    Example:
        >>> masked(torch.tensor([3, 4, 5]), torch.tensor([True, False, True]), -100, looks=True)
        tensor([   3, -100,    5])
        >>> masked(torch.tensor([3, 4, 5]), torch.tensor([0]), -100, looks=True)
        tensor([   3, -100, -100])
    """
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        raise _refused(labels, mask, "Convert it with mask.bool() in a function of the batch.")
    mask, labels = mask.to(labels.device), roomy(labels)
    rows = labels[..., 0] if dims else labels  # one entry for each label
    if mask.dtype == torch.bool or (mask.shape == rows.shape and rows.ndim > 1):
        if mask.shape != rows.shape:
            raise _refused(rows, mask, "Is it another stage's, or does it count before the labels?")
        if looks:
            _require_marks(rows, mask)
        return torch.where(mask.bool()[..., None] if dims else mask.bool(), labels, ignored)
    if mask.ndim != 1 or rows.ndim != 1:
        raise _refused(rows, mask, "Numbers of rows go with labels of one dimension.")
    if looks:
        _require_numbers(rows, mask)
    kept = torch.full_like(labels, ignored)
    return kept.index_copy(0, mask.long(), labels[mask.long()])


def is_whole_numbers(value: Any) -> bool:
    """Whether it is a tensor of integers.

    Example:
        >>> is_whole_numbers(torch.tensor([1])), is_whole_numbers(torch.tensor([1.0]))
        (True, False)
    """
    return isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()


def roomy(labels: Tensor) -> Tensor:
    """Labels of a type that holds an ignored one: -100 would be a class in uint8, and True in bool."""
    return labels if labels.is_floating_point() else labels.long()


def _require_marks(labels: Tensor, mask: Tensor) -> None:
    if mask.dtype != torch.bool and bool(((mask != 0) & (mask != 1)).any()):
        raise _refused(labels, mask, f"It holds {_first(mask, (mask != 0) & (mask != 1))}.")
    if not bool(mask.any()):
        raise ValueError(
            f"Expected a mask that marks some rows of the first batch, but none of {mask.numel()} is "
            "True. Is it another split's, or the opposite (what to leave out)?"
        )


def _require_numbers(labels: Tensor, rows: Tensor) -> None:
    wrong = (rows < 0) | (rows >= len(labels))
    if bool(wrong.any()):
        raise ValueError(
            f"Expected a mask of row numbers from 0 to {len(labels) - 1}, but it holds "
            f"{_first(rows, wrong)}. Are they numbers in the whole data set, and the batch is a part "
            "of it? Give a boolean mask of the labels' shape."
        )
    is_a_mask = len(rows) == len(labels) and not bool((rows > 1).any())
    if is_a_mask and rows.unique().numel() < len(rows):
        raise _refused(labels, rows, "It holds zeros and ones: convert it with mask.bool().")
    if not len(rows):
        raise ValueError("Expected a mask that marks some rows of the first batch, but it is empty.")


def _first(values: Tensor, where: Tensor) -> int:
    return int(values[where][0])


def _refused(labels: Tensor, mask: Any, hint: str) -> ValueError:
    got = (
        f"{mask.dtype} of shape {tuple(mask.shape)}"
        if isinstance(mask, Tensor)
        else f"a {type(mask).__name__}"
    )
    return ValueError(
        f"Expected a boolean mask of the labels' shape {tuple(labels.shape)}, or the numbers of the "
        f"rows that count, but got {got}. {hint}"
    )
