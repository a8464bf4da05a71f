"""Scalars to the loggers, and to where EarlyStopping, ModelCheckpoint and progress bars look."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_nc.report.writers import to_each


def publish(
    trainer: Any,
    values: Mapping[str, Tensor],
    told: Mapping[str, float],
    headlines: Mapping[str, float],
    step: int,
    say: Callable[[str, str], None],
) -> None:
    """Write scalars to the loggers, and to where EarlyStopping, ModelCheckpoint and progress bars look.

    ``self.log`` does as much for a millisecond per key, as it prepares to reduce over batches and ranks
    what is one value and equal on all ranks; and what it is given within an epoch it writes only where
    ``log_every_n_steps`` happens to fall.

    Args:
        trainer: The Trainer, in a fit.
        values: Scalars by key.
        told: The same on the host.
        headlines: Scalars for the progress bar, by their short names.
        step: Where on the loggers' axis.
        say: Told the kind and the text of a warning.
    """
    shown = trainer._logger_connector
    as_logged = {key: value.float() for key, value in values.items()}
    shown._callback_metrics.update(as_logged)
    shown._logged_metrics.update(as_logged)
    shown._progress_bar_metrics.update(headlines)
    row = {**told, "epoch": trainer.current_epoch}
    to_each(trainer.loggers, lambda logger: logger.log_metrics(row, step=step), say, "values")


def numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars on the host, in one transfer.

    Example:
        >>> numbers({"nc1/cdnv": torch.tensor(0.5)})
        {'nc1/cdnv': 0.5}
    """
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True)) if values else {}


def axis(trainer: Any, ends_epoch: bool = False) -> int:
    """Where on the loggers' axis Lightning itself writes now, so that pictures and scalars meet.

    Args:
        trainer: The Trainer.
        ends_epoch: Whether this is the end of a training epoch, which belongs to its last batch.

    Returns:
        The step.
    """
    # what a step is only the loop knows: global_step counts each of several optimizers
    step = int(trainer.fit_loop.epoch_loop._batches_that_stepped)
    return max(0, step - 1) if ends_epoch else step


def takes_figures(trainer: Any) -> bool:
    """Whether any logger is there for whom to draw, on this rank."""
    return bool(trainer.loggers) and trainer.is_global_zero


def spare_second_sync(trainer: Any, keys: Iterable[str]) -> None:
    """Keep Lightning from advising ``sync_dist=True`` for values that are equal on all ranks already.

    Following the advice would cost two collectives for each key and epoch, and change nothing.

    Args:
        trainer: The Trainer; its package tells which of the two Lightning namespaces warns.
        keys: The logged keys.
    """
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
