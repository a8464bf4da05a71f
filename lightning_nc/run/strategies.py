"""Which of Lightning's strategies the callback was tested under, and what cannot be measured."""

from inspect import signature
from typing import Any

_TESTED = {"SingleDeviceStrategy", "DDPStrategy", "FSDPStrategy", "ModelParallelStrategy"}
_SHARDED = {"FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"}
# they derive from tested ones
_UNTESTED = {"DeepSpeedStrategy", "XLAStrategy", "XLAFSDPStrategy", "SingleDeviceXLAStrategy"}


def refuse_frozen_pass(strategy: Any) -> None:
    """Raise where an extra pass on each rank's own batches would hang.

    Args:
        strategy: The Trainer's strategy.

    Raises:
        ValueError: If the forward is a collective, because each rank holds a part of the weights.
    """
    sharded = sorted(_SHARDED & _names(strategy))
    if sharded:
        raise ValueError(
            f"Expected a strategy whose ranks hold the whole network for the frozen pass, but got "
            f"{sharded[0]}: there a forward waits for all ranks, which may have different numbers of "
            "batches. Set frozen_every_n_epochs=0 and pass the training data as one more validation "
            "loader, which is measured in eval mode as well (stage val_1)."
        )


def refuse_hidden_batches(pl_module: Any) -> None:
    """Raise where training fetches its batches by itself.

    Args:
        pl_module: The LightningModule.

    Raises:
        ValueError: If its training_step takes the loader's iterator.
    """
    if "dataloader_iter" in signature(pl_module.training_step).parameters:
        raise ValueError(
            "Expected a training_step that takes a batch, but got one that takes `dataloader_iter`, "
            "whose batches nobody else sees. Set online=False to measure validation only."
        )


def doubt(strategy: Any) -> str | None:
    """A warning where nobody has shown that the values are right, else None.

    Args:
        strategy: The Trainer's strategy.

    Returns:
        The text.
    """
    names = _names(strategy)
    name = type(strategy).__name__
    if names & _UNTESTED or not names & _TESTED:
        what, why = name, ""
    elif "ModelParallelStrategy" in names and _tensor_parallel_size(strategy) > 1:
        what = "tensor parallelism"
        why = " Ranks that work on the same batch would count it several times."
    else:
        return None
    return (
        f"NeuralCollapseCallback has not been tested with {what}: compare nc0/num_samples and "
        f"nc0/accuracy with what you expect before you trust the other values.{why}"
    )


def _names(strategy: Any) -> set[str]:
    return {base.__name__ for base in type(strategy).__mro__}


def _tensor_parallel_size(strategy: Any) -> int:
    size = getattr(strategy, "_tensor_parallel_size", 1)
    return size if isinstance(size, int) else 1
