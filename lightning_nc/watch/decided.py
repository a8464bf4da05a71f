"""The network's decisions, where a function of the user's tells them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_nc.dotted_path import import_function
from lightning_nc.watch.batch import Batch
from lightning_nc.watch.mask import is_whole_numbers


def decisions_by(predicted: str | Callable[[Any, Any], Any], batch: Batch, outputs: Any) -> Tensor:
    """What ``predicted`` says of a batch.

    Args:
        predicted: A function of the batch and of what the step has returned, or its dotted path.
        batch: The open batch.
        outputs: What the step has returned.

    Returns:
        A decision for each label.

    Raises:
        ValueError: If it gives anything else.

    Example:
        >>> import torch
        >>> batch = Batch(torch.tensor([0]))
        >>> decisions_by(lambda batch, outputs: outputs.argmax(1), batch, torch.eye(1))
        tensor([0])
    """
    function = import_function(predicted, "predicted") if isinstance(predicted, str) else predicted
    try:
        found = function(batch.source, outputs)
    except Exception as error:
        raise ValueError(
            "Expected predicted to decide by the batch and what the step has returned, but it failed: "
            f"{type(error).__name__}: {error}. Does the step return what it decides by, in training "
            "and validation alike?"
        ) from error
    if (
        isinstance(found, Tensor)
        and is_whole_numbers(found)
        and _sizes(found.shape) in (_sizes(batch.label_shape), [batch.label_shape.numel()])
    ):
        return found.detach().reshape(-1)
    got = (
        f"{found.dtype} of shape {tuple(found.shape)}"
        if isinstance(found, Tensor)
        else f"a {type(found).__name__}"
    )
    raise ValueError(
        f"Expected predicted to give one class number for each label, of shape "
        f"{tuple(batch.label_shape)}, but got {got}. Does it return logits (argmax them), or does the "
        "step return nothing that it could decide by (a dict with the logits)?"
    )


def _sizes(shape: torch.Size) -> list[int]:
    return [size for size in shape if size != 1]
