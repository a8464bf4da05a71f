"""The extra inference pass over the training data, as in the papers, that leaves no trace in training.

Through a private loader, with every module's mode, the buffers, and the global random states put back
afterwards.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_nc.dotted_path import import_function
from lightning_nc.run.frozen_loader import ALTERNATIVE, frozen_loader
from lightning_nc.run.isolation import (
    buffers_of_rank_zero,
    eval_mode,
    isolated_random_state,
    without_logging,
)
from lightning_nc.run.progress import Progress


def frozen_pass(
    trainer: Any,
    pl_module: Any,
    loader: DataLoader,
    before: Callable[[Any], None],
    after: Callable[[Any], None],
    inference: str | Callable[[Any, Any], Any] | None = None,
    max_batches: int | None = None,
    num_forwards: int = 0,
) -> None:
    """Run the network over a loader in eval mode, without a trace.

    Args:
        trainer: The Lightning Trainer, for devices and precision.
        pl_module: The LightningModule, not its DDP wrapper.
        loader: A private loader.
        before: Called with each batch on the device, before the network runs.
        after: Called with it afterwards.
        inference: How the network runs on a batch: None (``forward`` on the inputs), the name of a
            method that takes the batch and its index, or a function of the module and the batch.
        max_batches: Stop after as many.
        num_forwards: Forwards that every rank makes; one without a batch for the last of them repeats
            its own, which does not count.
    """
    total = len(loader) if max_batches is None else min(max_batches, len(loader))
    run = _runner(pl_module, inference)
    with (
        buffers_of_rank_zero(pl_module, trainer.world_size),
        isolated_random_state(trainer.strategy.root_device),
        eval_mode(pl_module),
        without_logging(pl_module),
        Progress(trainer, total if max_batches is None else 0) as shown,
        torch.no_grad(),
    ):
        batch, index = None, -1
        for index, raw in enumerate(itertools.islice(_loaded(loader), total)):
            batch = _to_device(trainer, pl_module, raw)
            before(batch)
            with trainer.precision_plugin.forward_context():
                run(batch, index)
            after(batch)
            shown.advance()
        # a forward may wait for the other ranks, which may have a batch more
        if batch is not None and index + 1 < num_forwards and max_batches is None:
            with trainer.precision_plugin.forward_context():
                run(batch, index + 1)


class FrozenPass:
    """The pass of one callback, over whatever its Trainer trains on.

    Args:
        inference: How the network runs on a batch, see :func:`frozen_pass`.
        seed: Of the order of the rows.
        say: Told the kind and the text of a warning.
    """

    def __init__(
        self,
        inference: str | Callable[[Any, Any], Any] | None,
        seed: int,
        say: Callable[[str, str], None],
    ) -> None:
        self._inference = inference
        self._seed = seed
        self._say = say

    def run(
        self,
        trainer: Any,
        pl_module: Any,
        before: Callable[[Any], None],
        after: Callable[[Any], None],
        max_batches: int | None = None,
    ) -> None:
        """Run the network over the Trainer's training data.

        Args:
            trainer: The Trainer.
            pl_module: The LightningModule.
            before: Called with each batch on the device, before the network runs.
            after: Called with it afterwards.
            max_batches: Stop after as many.
        """
        source = trainer.train_dataloader, trainer.num_training_batches, self._seed
        loader, longest = (
            frozen_loader(*source, rank=rank, world_size=trainer.world_size)
            for rank in (trainer.global_rank, 0)
        )
        full = len(trainer.train_dataloader)
        if trainer.num_training_batches < full:
            self._say(
                "limit",
                f"The frozen pass measures as many batches as training runs, "
                f"{trainer.num_training_batches} of {full} (limit_train_batches, overfit_batches).",
            )
        frozen_pass(
            trainer, pl_module, loader, before, after, self._inference, max_batches, len(longest)
        )


def _loaded(loader: DataLoader) -> Iterator[Any]:
    """The batches of the loader, with an error that says whose processes have failed."""
    try:
        yield from loader
    except Exception as error:
        raise RuntimeError(
            "Expected the training data to load in worker processes of the frozen pass's own, which "
            f"keep the data set as it is, but it failed: {type(error).__name__}: {error}. Does it "
            "hold tensors on a GPU, or something that cannot be handed to another process? "
            f"{ALTERNATIVE}"
        ) from error


def _to_device(trainer: Any, pl_module: Any, batch: Any) -> Any:
    """The way of a training batch to the device (Lightning's epoch loop)."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def _runner(
    pl_module: Any, inference: str | Callable[[Any, Any], Any] | None
) -> Callable[[Any, int], Any]:
    if isinstance(inference, str) and "." not in inference:
        method = getattr(pl_module, inference, None)
        if method is None:
            raise ValueError(
                f"Expected inference to name a method of {type(pl_module).__name__} that takes a "
                f"batch and its index, such as 'predict_step', but there is no {inference!r}."
            )
        return method
    if inference is not None:
        given = import_function(inference, "inference") if isinstance(inference, str) else inference
        return lambda batch, _: given(pl_module, batch)
    return lambda batch, _: _forward(pl_module, batch)


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
    except (TypeError, ValueError, LookupError, AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"Expected the forward of {type(pl_module).__name__} to run on the inputs of a training "
            f"batch (a sequence's first item, a mapping's items by parameter name, else the batch), "
            f"but it failed: {type(error).__name__}: {error}. Set inference to the name of a method "
            "that takes the batch and its index, such as 'predict_step', or to the dotted path of a "
            "function of the module and the batch."
        ) from error
