"""The labels in a batch, wherever a data loader puts them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_nc.dotted_path import import_function

TARGET_NAMES = ("target", "targets", "label", "labels", "y")


def find_target(batch: Any, where: str | int | Callable[[Any], Any] | None = None) -> Tensor | None:
    """The labels in a batch.

    Args:
        batch: Whatever the data loader yields.
        where: A position, a key or attribute, several of them joined by dots ("labels.fine"), or a
            function of the batch (also by dotted path). None: the second item of a
            sequence, or a key or attribute in :data:`TARGET_NAMES`.

    Returns:
        The labels as a tensor; None if a function says that this batch has none.

    Raises:
        ValueError: If there are none at that place.

    Example:
        >>> import torch
        >>> find_target([torch.zeros(2, 3), torch.tensor([0, 1])])
        tensor([0, 1])
        >>> find_target({"x": torch.zeros(2, 3), "class": torch.tensor([0, 1])}, where="class")
        tensor([0, 1])
    """
    if where is None:
        found = _usual_target(batch)
    elif callable(where):
        found = where(batch)
        if found is None:
            return None
    else:
        found = _look_up(batch, where)
    if not isinstance(found, Tensor):
        raise ValueError(
            f"Expected labels as a tensor in the batch, but got {_describe(batch)}"
            + ("" if where is None else f", where target={where!r} gives {_describe(found)}")
            + ". Set target to a position (1), a key or attribute ('label'), several joined by dots "
            "('second.1'), or the dotted path of a function that takes the batch and returns the "
            "labels, or None for a batch without."
        )
    return found


def _usual_target(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return next((batch[name] for name in TARGET_NAMES if name in batch), None)
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return batch[1] if len(batch) > 1 else None
    return next((getattr(batch, name) for name in TARGET_NAMES if hasattr(batch, name)), None)


def _look_up(batch: Any, where: str | int) -> Any:
    steps = [where] if isinstance(where, int) else where.split(".")
    found = batch
    for step in steps:
        found = None if found is None else _item(found, step)
    if found is None and len(steps) > 1:
        return import_function(str(where), "target")(batch)
    return found


def _item(value: Any, step: str | int) -> Any:
    if isinstance(step, int) or step.lstrip("-").isdigit():
        try:
            return value[int(step)]
        except (IndexError, KeyError, TypeError):
            return None
    if isinstance(value, Mapping) and step in value:
        return value[step]
    return getattr(value, step, None)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {list(value)}"
    if isinstance(value, list | tuple):
        items = ", ".join(_describe(item) for item in value[:4])
        return f"a {type(value).__name__} of {len(value)}: {items}"
    return f"a {type(value).__name__}"
