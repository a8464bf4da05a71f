"""Scalars to any Lightning logger."""

from collections.abc import Iterable, Mapping
from typing import Any


def log_now(trainer: Any, values: Mapping[str, float]) -> None:
    """Write scalars at once, at the step at which Lightning logs this training batch.

    ``self.log`` would write them only where ``log_every_n_steps`` happens to fall.

    Args:
        trainer: The Trainer.
        values: Scalars by key.
    """
    # where a step is, only the loop knows: global_step counts each of several optimizers
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=step)


def spare_second_sync(trainer: Any, keys: Iterable[str]) -> None:
    """Keep Lightning from advising ``sync_dist=True`` for values that are equal on all ranks already.

    Following the advice would cost two collectives for each key and epoch, and change nothing.

    Args:
        trainer: The Trainer; its package tells which of the two Lightning namespaces warns.
        keys: The logged keys.
    """
    import importlib

    package = "pytorch_lightning" if type(trainer).__module__.startswith("pytorch_l") else None
    root = package or "lightning.pytorch"
    result = importlib.import_module(f"{root}.trainer.connectors.logger_connector.result")
    already_given = getattr(result, "warning_cache", None)
    if already_given is None:
        return
    for key in keys:
        already_given.add(
            f"It is recommended to use `self.log({key!r}, ..., sync_dist=True)`"
            " when logging on epoch level in distributed setting to accumulate the metric across"
            " devices."
        )
