"""How much is worked on at once, and where: the settings of a device, and memory that is used again."""

import os
import threading
import weakref

import torch
from torch import Tensor

_ENTRIES_ON_CPU, _ENTRIES = 2**21, 2**24


def entries_at_once(device: torch.device) -> int:
    """Entries of features that one piece of work holds: a chunk of an update, and the backlog.

    On a CPU more than 2 million leave its caches, and twice as many were no faster. On an accelerator
    every piece is some fifty launches: at d = 4,096 pieces of that size would mean thousands of them
    for a step with many tokens, where 16 million entries mean a few hundred.

    Example:
        >>> entries_at_once(torch.device("cpu"))
        2097152
    """
    return _ENTRIES_ON_CPU if device.type == "cpu" else _ENTRIES


class Scratch:
    """Memory for the intermediate results of a batch, used again for the next one.

    Fresh memory of this size costs more than the arithmetic on it, on a CPU.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.device, int], Tensor] = {}

    def __call__(self, name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor of the shape of ``like``, with arbitrary contents.

        Args:
            name: What it is for; one name, one memory on a device.
            like: Its shape and device.
            dtype: Its dtype.

        Returns:
            The tensor, contiguous.
        """
        if type(like) is not Tensor:  # those that stand for others, as in tracing, are not kept
            return torch.empty_like(like, dtype=dtype, memory_format=torch.contiguous_format)
        # what one stream still works on is not another's to write to
        stream = torch.cuda.current_stream(like.device).cuda_stream if like.is_cuda else 0
        place, size = (name, like.device, stream), like.numel()
        buffer = self._buffers.get(place)
        if buffer is None or len(buffer) < size or buffer.dtype != dtype:
            buffer = self._buffers[place] = torch.empty(size, dtype=dtype, device=like.device)
        return buffer[:size].view(like.shape)


_of_threads = threading.local()


def shared_scratch() -> Scratch:
    """The scratch of this thread, shared by all who hold it now: they take turns.

    Returns:
        It lives as long as somebody holds it.
    """
    reference = getattr(_of_threads, "scratch", None)
    scratch = None if reference is None else reference()
    if scratch is None:
        scratch = Scratch()
        _of_threads.scratch = weakref.ref(scratch)
    return scratch


def require_bytes(needed: int, device: torch.device, classes: int, width: int) -> None:
    """Raise a ValueError where the scatter of each class does not fit into memory."""
    free = free_bytes(device)
    if free is not None and needed > free:
        raise ValueError(
            f"Expected covariance='per_class' to fit into memory, but {classes} matrices of "
            f"{width} x {width} need {needed:,} bytes and {free:,} are free on {device}. "
            "Use covariance='pooled', which all logged keys are computed from."
        )


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device; None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
