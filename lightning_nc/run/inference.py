"""How the frozen pass runs the network on a batch."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lightning_nc.dotted_path import import_function

STEPS = ("training_step", "validation_step", "test_step")
"""Methods that may keep what they have seen."""


class ForwardRefused(ValueError):  # noqa: N818 - says what has happened
    """``forward`` does not take the inputs of a batch."""


class Inference:
    """The way that was asked for, or the one that the first batch has shown to work.

    Args:
        given: The name of a method that takes the batch and its index, a function of the module and
            the batch or its dotted path, or None: ``forward`` on the inputs where it takes them, else
            ``predict_step`` where it is overridden.
    """

    def __init__(self, given: str | Callable[[Any, Any], Any] | None = None) -> None:
        self.given = given
        self._shown = ""

    def forget(self) -> None:
        """Another run may have another network."""
        self._shown = ""

    def on(self, pl_module: Any, reopen: Callable[[Any], None]) -> Callable[[Any, int], Any]:
        """The way to run a module.

        Args:
            pl_module: The LightningModule.
            reopen: Called with a batch that is run once more, in the other way.

        Returns:
            A function of a batch and its index.

        Raises:
            ValueError: If what was asked for is not there.
        """
        if self.given is not None:
            return _asked_for(pl_module, self.given)

        def run(batch: Any, index: int) -> Any:
            if self._shown != "predict_step":
                try:
                    outputs = _forward(pl_module, batch)
                except ForwardRefused:
                    if self._shown or not _predicts(pl_module):
                        raise
                    reopen(batch)
                else:
                    self._shown = "forward"
                    return outputs
            outputs = pl_module.predict_step(batch, index)
            self._shown = "predict_step"
            return outputs

        return run


def _asked_for(pl_module: Any, given: str | Callable[[Any, Any], Any]) -> Callable[[Any, int], Any]:
    if isinstance(given, str) and "." not in given:
        method = getattr(pl_module, given, None)
        if method is None:
            raise ValueError(
                f"Expected inference to name a method of {type(pl_module).__name__} that takes a "
                f"batch and its index, such as 'predict_step', but there is no {given!r}."
            )
        return method
    function = import_function(given, "inference") if isinstance(given, str) else given
    return lambda batch, _: function(pl_module, batch)


def _predicts(pl_module: Any) -> bool:
    """Whether the module has a ``predict_step`` of its own: Lightning's calls ``forward``."""
    owners = (cls.__name__ for cls in type(pl_module).__mro__ if "predict_step" in vars(cls))
    return "predict_step" in vars(pl_module) or next(owners, "LightningModule") != "LightningModule"


def _forward(pl_module: Any, batch: Any) -> Any:
    """``forward`` on a batch without its labels."""
    try:
        if isinstance(batch, Mapping):
            known = [name for name in inspect.signature(pl_module.forward).parameters if name in batch]
            if known:
                return pl_module(**{name: batch[name] for name in known})
        elif isinstance(batch, Sequence) and len(batch) > 1:
            return pl_module(batch[0])
        return pl_module(batch)
    except torch.cuda.OutOfMemoryError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise ForwardRefused(
            f"Expected the forward of {type(pl_module).__name__} to run on the inputs of a training "
            f"batch (a sequence's first item, a mapping's items by parameter name, else the batch), "
            f"but it failed: {type(error).__name__}: {error}. Set inference to the name of a method "
            "that takes the batch and its index, such as 'predict_step', or to the dotted path of a "
            "function of the module and the batch."
        ) from error
