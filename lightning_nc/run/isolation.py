"""Around a pass that leaves no trace: buffers, modes, random states and logs are put back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


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
    if world_size > 1 and own:
        as_bytes = [buffer.reshape(-1).view(torch.uint8) for buffer in own]
        shared = torch.cat(as_bytes)
        torch.distributed.broadcast(shared, src=0)
        contents = shared.split([len(part) for part in as_bytes])
        with torch.no_grad():
            for (_, _, buffer), content in zip(places, contents, strict=True):
                buffer.copy_(content.clone().view(buffer.dtype).view(buffer.shape))
    try:
        yield
    finally:
        with torch.no_grad():
            for (m, name, buffer), content in zip(places, own, strict=True):
                m._buffers[name] = buffer.copy_(content)


@contextmanager
def without_logging(pl_module: Any) -> Iterator[None]:
    """What a step logs of this pass would mix with what it has logged of its own."""
    pl_module.__dict__["log"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del pl_module.__dict__["log"]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards each module's own: a frozen BatchNorm stays frozen."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
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
