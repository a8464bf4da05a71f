"""Around a pass that leaves no trace: buffers, modes, random states and logs are put back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn

from lightning_nc.run.effects_of_eval import plain_attributes, put_back, switch_to_eval


@contextmanager
def buffers_of_rank_zero(module: nn.Module, world_size: int) -> Iterator[None]:
    """The network that is saved and used: DDP lets each rank's BatchNorm statistics drift apart.

    Afterwards each rank has its own back, also where a forward changes buffers in eval mode.
    """
    # an expanded buffer cannot be written to, so that nobody does
    places = [
        (m, name, buffer)
        for m in module.modules()
        for name, buffer in m._buffers.items()
        if buffer is not None and 0 not in buffer.stride()
    ]
    own = [buffer.detach().clone() for _, _, buffer in places]
    try:
        if world_size > 1 and own:
            _take_those_of_rank_zero([buffer for _, _, buffer in places])
        yield
    finally:
        with torch.no_grad():
            for (m, name, buffer), content in zip(places, own, strict=True):
                m._buffers[name] = buffer.copy_(content)


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


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards each module's own: a frozen BatchNorm stays frozen.

    Raises:
        ValueError: If a module's own ``eval()`` changes weights.
    """
    modes = [(m, m.training) for m in module.modules()]
    attributes = plain_attributes(module)
    try:
        switch_to_eval(module)
        yield
    finally:
        put_back(attributes)
        for m, mode in modes:
            m.training = mode


@contextmanager
def isolated_random_state(device: torch.device) -> Iterator[None]:
    """Put Python's, NumPy's and torch's global random states back afterwards, whatever happens."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = [device.index or 0] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
