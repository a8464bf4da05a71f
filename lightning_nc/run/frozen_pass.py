"""The extra inference pass over the training data, as in the papers, that leaves no trace in training.

Through a private loader, with every module's mode, the buffers, the module's metrics, the loggers and
the global random states put back afterwards, whatever happens in between.
"""

import itertools
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_nc.run.frozen_loader import ALTERNATIVE, frozen_loader, most_batches
from lightning_nc.run.inference import STEPS, Inference
from lightning_nc.run.isolation import buffers_of_rank_zero, without_logging
from lightning_nc.run.loading import batches_of
from lightning_nc.run.metrics import metrics_on_copies
from lightning_nc.run.progress import Progress
from lightning_nc.unchanged import eval_mode, same_random_states


def frozen_pass(
    trainer: Any,
    pl_module: Any,
    loader: DataLoader,
    before: Callable[[Any], None],
    after: Callable[[Any, Any], None],
    inference: Inference | None = None,
    max_batches: int | None = None,
    num_forwards: int = 0,
) -> None:
    """Run the network over a loader in eval mode, without a trace.

    Args:
        trainer: The Lightning Trainer, for devices and precision.
        pl_module: The LightningModule, not its DDP wrapper.
        loader: A private loader.
        before: Called with each batch on the device, before the network runs; once more where it runs
            again in another way.
        after: Called with it afterwards, and with what the network has returned.
        inference: How the network runs on a batch. None: found out on the first one.
        max_batches: Stop after as many.
        num_forwards: Forwards that every rank makes; one without a batch for the last of them repeats
            its own, which does not count.
    """
    total = len(loader) if max_batches is None else min(max_batches, len(loader))
    run = (inference or Inference()).on(pl_module, reopen=before)
    with (
        buffers_of_rank_zero(pl_module, trainer.world_size),
        same_random_states(trainer.strategy.root_device),
        eval_mode(pl_module, ALTERNATIVE),
        metrics_on_copies(pl_module),
        without_logging(trainer, pl_module),
        Progress(trainer, total if max_batches is None else 0) as shown,
        closing(batches_of(loader)) as batches,
        torch.no_grad(),
    ):
        batch, index = None, -1
        for index, raw in enumerate(itertools.islice(batches, total)):
            batch = _to_device(trainer, pl_module, raw)
            before(batch)
            with trainer.precision_plugin.forward_context():
                outputs = run(batch, index)
            after(batch, outputs)
            shown.advance()
        # a forward may wait for the other ranks, which may have a batch more
        if batch is not None and index + 1 < num_forwards and max_batches is None:
            with trainer.precision_plugin.forward_context():
                run(batch, index + 1)


class FrozenPass:
    """The pass of one callback, over whatever its Trainer trains on.

    Args:
        inference: How the network runs on a batch, see
            :class:`lightning_nc.run.inference.Inference`.
        num_workers: At least so many worker processes load the data; 0: this process does.
        seed: Of the order of the rows.
        say: Told the kind and the text of a warning.

    Raises:
        ValueError: If the number of worker processes is negative.
    """

    def __init__(
        self,
        inference: str | Callable[[Any, Any], Any] | None,
        num_workers: int,
        seed: int,
        say: Callable[[str, str], None],
    ) -> None:
        if num_workers < 0:
            raise ValueError(f"Expected frozen_num_workers to be at least 0, but got {num_workers}.")
        self._inference = Inference(inference)
        self._num_workers = num_workers
        self._seed = seed
        self._say = say

    def run(
        self,
        trainer: Any,
        pl_module: Any,
        before: Callable[[Any], None],
        after: Callable[[Any, Any], None],
        max_batches: int | None = None,
    ) -> None:
        """Run the network over the Trainer's training data.

        Args:
            trainer: The Trainer.
            pl_module: The LightningModule.
            before: Called with each batch on the device, before the network runs.
            after: Called with it afterwards, and with what the network has returned.
            max_batches: Stop after as many: a check, before training begins.
        """
        if max_batches is not None:
            self._inference.forget()
        source = trainer.train_dataloader, trainer.num_training_batches
        loader = frozen_loader(*source, self._seed, self._num_workers)
        self._tell(trainer)
        frozen_pass(
            trainer,
            pl_module,
            loader,
            before,
            after,
            self._inference,
            max_batches,
            most_batches(*source),
        )

    def _tell(self, trainer: Any) -> None:
        limited, full = trainer.num_training_batches, len(trainer.train_dataloader)
        if limited < full:
            self._say(
                "limit",
                f"The frozen pass measures as many batches as training runs, "
                f"{limited} of {full} (limit_train_batches, overfit_batches).",
            )
        if not self._num_workers:
            self._say(
                "frozen workers",
                "With frozen_num_workers=0 the frozen pass reads the training data in this process, "
                "so what the data set keeps by itself (own random numbers, counters, caches, file "
                "positions) is touched by it, and training may draw other numbers than without it.",
            )
        if self._inference.given in STEPS:
            self._say(
                "inference",
                f"The frozen pass runs {self._inference.given} on the training data. The module's "
                "torchmetrics are put back and what it logs is dropped, but lists and other attributes "
                "that it fills itself keep what the pass adds to them. If there are any, set inference "
                "to a method without such effects, or to a function of the module and the batch.",
            )


def _to_device(trainer: Any, pl_module: Any, batch: Any) -> Any:
    """The way of a training batch to the device (Lightning's epoch loop)."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
