"""Scalars to any Lightning logger."""

from collections.abc import Iterable
from typing import Any


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
