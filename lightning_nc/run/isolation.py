"""Around a pass that leaves no trace in a Trainer: buffers are those of one rank, logs are dropped."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn

from lightning_nc.unchanged import is_plain, same_buffers


@contextmanager
def buffers_of_rank_zero(module: nn.Module, world_size: int) -> Iterator[None]:
    """The network that is saved and used: DDP lets each rank's BatchNorm statistics drift apart.

    Afterwards each rank has its own back, also where a forward changes buffers in eval mode.
    """
    with same_buffers(module):
        buffers = [buffer for buffer in module.buffers() if is_plain(buffer)]
        if world_size > 1 and buffers:
            _take_those_of_rank_zero(buffers)
        yield


def _take_those_of_rank_zero(buffers: list[torch.Tensor]) -> None:
    as_bytes = [buffer.detach().reshape(-1).view(torch.uint8) for buffer in buffers]
    shared = torch.cat(as_bytes)
    torch.distributed.broadcast(shared, src=0)
    contents = shared.split([len(part) for part in as_bytes])
    with torch.no_grad():
        for buffer, content in zip(buffers, contents, strict=True):
            buffer.copy_(content.clone().view(buffer.dtype).view(buffer.shape))


@contextmanager
def without_logging(trainer: Any, pl_module: nn.Module) -> Iterator[None]:
    """What a step logs of this pass would mix with what it has logged of its own: it is dropped."""
    # a LightningModule inside another one logs by itself
    modules = [m for m in pl_module.modules() if callable(getattr(m, "log_dict", None))]
    own = [vars(m).get("log") for m in modules]
    loggers = trainer.loggers
    try:
        for m in modules:
            vars(m)["log"] = lambda *args, **kwargs: None
        trainer.loggers = [DummyLogger() for _ in loggers]
        yield
    finally:
        trainer.loggers = loggers
        for m, log in zip(modules, own, strict=True):
            del vars(m)["log"]
            if log is not None:
                vars(m)["log"] = log
