"""How much is worked on at once, and where: the settings of a device, and memory that is used again."""

import os
import threading
import weakref
from pathlib import Path

import torch
from torch import Tensor

from lightning_nc.values.covariance import scatter_bytes

_ENTRIES_ON_CPU, _ENTRIES = 2**21, 2**24
_REMEDIES = {
    "pooled": "Use covariance='none', which keeps traces only, or measure a narrower layer.",
    "per_class": "Use covariance='pooled', which all logged keys are computed from.",
}


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


def require_bytes(covariance: str, classes: int, width: int, device: torch.device) -> None:
    """Raise a ValueError where the scatters that were asked for by name do not fit into memory.

    Beside the float64 sums that is float32 products, and a copy of the sums that a stage leaves.

    Args:
        covariance: "pooled" or "per_class".
        classes: C.
        width: d.
        device: Where they are to be.

    Raises:
        ValueError: If they do not fit.
    """
    matrices = classes if covariance == "per_class" else 1
    one = scatter_bytes(width)
    kept = one + (classes * one if covariance == "per_class" else 0)
    needed = 2 * kept + one // 2
    free = free_bytes(device)
    if free is not None and needed > free:
        raise ValueError(
            f"Expected covariance={covariance!r} to fit into memory, but {matrices} "
            f"{'matrix' if matrices == 1 else 'matrices'} of {width} x {width} need "
            f"{matrices * one:,} bytes, {needed:,} with float32 products and the copy that a stage "
            f"leaves, and {free:,} are free on {device}. {_REMEDIES[covariance]}"
        )


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device; None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        # pages that hold files are free for others, but only Linux counts them
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
