r"""Exact merge across ranks, for all measured modules of a stage at once.

A header of a few integers agrees on the shapes, which a rank without samples does not know. Then two
packed all-reduces: what adds up as it is, and what adds up around the sums of all ranks. A third one
adds up what can be counted only when those are known. Bytes and memory are those of the state, never
times the number of ranks. Every rank takes part in the same collectives, whatever its data and whatever
goes wrong with them: a rank that cannot take part says so in the header, and one that fails between the
rounds adds NaN.
"""

import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_nc.values.errors import NeuralCollapseWarning, OutOfStep, RankFailed, RanksDiffer
from lightning_nc.values.precision import accumulator_dtype

_SIZES, _NO_SIZE = 4, 2**62


@runtime_checkable
class Part(Protocol):
    """What one rank brings to a merge: an accumulator, or anything that keeps its promises."""

    size_names: ClassVar[tuple[str, ...]]
    once: ClassVar[bool]

    @property
    def sizes(self) -> tuple[int, ...]: ...  # noqa: D102
    def sums(self) -> list[Tensor]: ...  # noqa: D102
    def rest(self) -> list[Tensor]: ...  # noqa: D102
    def around(self, sums: list[Tensor]) -> list[Tensor]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Merged:
    """One part of all ranks.

    Attributes:
        own: This rank's part, a blank one where it had none.
        sums: Of all ranks.
        rest: Of all ranks, around these sums.
    """

    own: Any
    sums: list[Tensor]
    rest: list[Tensor]


@dataclass(frozen=True)
class Ranks:
    """Who merges, and where the tensors of a rank without any live.

    Attributes:
        device: For what is sent.
        group: The ranks; None for all.
    """

    device: torch.device | str = "cpu"
    group: dist.ProcessGroup | None = None

    @property
    def several(self) -> bool:
        """Whether there is anybody to merge with."""
        ready = dist.is_available() and dist.is_initialized()
        return ready and dist.get_world_size(self.group) > 1


def merge_ranks(
    parts: Sequence[Part | None],
    blank: Callable[[int, tuple[int, ...]], Part],
    ranks: Ranks,
    failed: bool = False,
    names: str = "",
) -> list[Merged | None]:
    """Merge what each rank has, part by part.

    Args:
        parts: In the same order on all ranks; None where this rank has nothing.
        blank: Makes an empty part, from its place and its sizes.
        ranks: Who merges.
        failed: This rank cannot take part with its data.
        names: What the parts are of, the same on all ranks; "" where this rank does not know.

    Returns:
        The merged parts, with equal sums on all ranks. None where no rank has any.

    Raises:
        RanksDiffer: On all ranks, if their parts differ in shape, or in what they are of.
        RankFailed: On all ranks, if one of them has failed.
        OutOfStep: On this rank alone, for instance if another one has died.
    """
    with _in_step(ranks):
        headers = _agree(parts, blank, ranks, failed, names)
        found = {i: parts[i] or blank(i, header.sizes) for i, header in enumerate(headers) if header}
        own = [_own_sums(part, headers[i], ranks) for i, part in found.items()]
        sums = _all_reduce(own, ranks)
        rests = [
            _or_nan(partial(part.around, s), part.rest())
            for part, s in zip(found.values(), sums, strict=True)
        ]
        rest = _all_reduce(rests, ranks)
    merged: list[Merged | None] = [None] * len(parts)
    for (i, part), s, r in zip(found.items(), sums, rest, strict=True):
        merged[i] = Merged(part, s, r)
    return merged


def add_up(counts: Sequence[tuple[Callable[[], Tensor], int]], ranks: Ranks) -> list[Tensor]:
    """Count on each rank, and add up over all of them, in one round.

    Args:
        counts: What counts this rank's rows, and the length of the vector that it gives.
        ranks: Who merges.

    Returns:
        The sums; NaN where a rank could not count.

    Raises:
        OutOfStep: On this rank alone, for instance if another one has died.
    """
    dtype = accumulator_dtype(ranks.device)
    nothing = torch.zeros(0, dtype=dtype, device=ranks.device)
    vectors = [_or_nan(partial(_listed, count), [nothing.new_empty(size)]) for count, size in counts]
    with _in_step(ranks):
        return [vector for [vector] in _all_reduce(vectors, ranks)]


def _listed(count: Callable[[], Tensor]) -> list[Tensor]:
    return [count()]


@contextmanager
def _in_step(ranks: Ranks) -> Iterator[None]:
    """What goes wrong on this rank alone is of another kind than what all ranks find out together."""
    try:
        yield
    except (RanksDiffer, RankFailed):
        raise
    except Exception as error:
        raise OutOfStep(
            f"Rank {dist.get_rank(ranks.group)} failed in the middle of merging the ranks' statistics, "
            f"where the others may wait for it: {type(error).__name__}: {error}. Has another rank "
            "died, or is memory short?"
        ) from error


@dataclass(frozen=True)
class _Header:
    """What the ranks have agreed on for one part: its sizes, and the lowest rank that has it."""

    sizes: tuple[int, ...]
    lowest: int


def _agree(
    parts: Sequence[Part | None],
    blank: Callable[[int, tuple[int, ...]], Part],
    ranks: Ranks,
    failed: bool,
    names: str,
) -> list[_Header | None]:
    rank, world = dist.get_rank(ranks.group), dist.get_world_size(ranks.group)
    # the maximum over the ranks of `world - rank` names the lowest rank, and that of a negative size is
    # the smallest size, so that ranks that differ find out together, before a collective of two lengths
    mine = [_number_of(names)] + [0] * (_SIZES - 1) if names else []
    rows = [[world - rank if failed else 0, *_extremes(mine)]]
    for part in parts:
        sizes = [*part.sizes, *[0] * _SIZES][:_SIZES] if part is not None else []
        rows.append([0 if part is None else world - rank, *_extremes(sizes)])
    table = torch.tensor(rows, dtype=torch.int64, device=ranks.device)
    dist.all_reduce(table, op=dist.ReduceOp.MAX, group=ranks.group)
    (lowest_failed, *named), *agreed = table.tolist()  # sync ok: once per stage
    if lowest_failed:
        raise RankFailed(
            f"Rank {world - lowest_failed} could not take part with its data; its own message says why."
        )
    if named[0] and named[0] != -named[_SIZES]:
        raise RanksDiffer(
            "Expected all ranks to measure the same modules, but they differ: this one measures "
            f"{names or 'none yet'}. Has each found a classifier of its own? Set classifier to "
            "the dotted path of one."
        )
    headers: list[_Header | None] = []
    for i, (lead, *numbers) in enumerate(agreed):
        most, least = tuple(numbers[:_SIZES]), tuple(-n for n in numbers[_SIZES:])
        if lead and most != least:
            raise _differ(most, least, blank(i, most).size_names)
        headers.append(_Header(most, world - lead) if lead else None)
    return headers


def _extremes(sizes: Sequence[int]) -> list[int]:
    """Numbers and their negatives, whose maxima over the ranks are the largest and the smallest."""
    return [*(sizes or [0] * _SIZES), *([-size for size in sizes] or [-_NO_SIZE] * _SIZES)]


def _number_of(names: str) -> int:
    """A number that tells names apart, the same in all processes."""
    return 1 + zlib.crc32(names.encode())


def _differ(most: tuple[int, ...], least: tuple[int, ...], names: Sequence[str]) -> RanksDiffer:
    spans = [f"{low} to {high} {n}" for low, high, n in zip(least, most, names, strict=False)]
    return RanksDiffer(
        f"Expected features of one shape on all ranks, but got {' and '.join(spans)}. Does a layer's "
        "width follow the size of its input (pool 'flatten')?"
    )


def _own_sums(part: Part, header: _Header | None, ranks: Ranks) -> list[Tensor]:
    """Of what all ranks hold alike, one sends it and the others add zeros."""
    silent = part.once and header is not None and header.lowest != dist.get_rank(ranks.group)
    return [torch.zeros_like(t) for t in part.sums()] if silent else part.sums()


def _or_nan(compute: Callable[[], list[Tensor]], like: list[Tensor]) -> list[Tensor]:
    """Where this rank fails, NaN for all ranks, who wait for its part."""
    try:
        return compute()
    except Exception as error:
        warnings.warn(
            f"Rank {dist.get_rank()} could not merge its statistics, and what rests on them is NaN on "
            f"all ranks: {type(error).__name__}: {error}",
            NeuralCollapseWarning,
            stacklevel=2,
        )
        return [torch.full_like(t, torch.nan) for t in like]


def _all_reduce(parts: Sequence[Sequence[Tensor]], ranks: Ranks) -> list[list[Tensor]]:
    """Add up tensors across the ranks in one collective."""
    flat = [tensor for part in parts for tensor in part]
    dtype = accumulator_dtype(ranks.device)
    packed = torch.cat([tensor.flatten().to(dtype) for tensor in flat] or [torch.zeros(0)])
    if packed.numel():
        dist.all_reduce(packed, group=ranks.group)
    unpacked = iter(packed.split([tensor.numel() for tensor in flat]))
    return [[next(unpacked).view(tensor.shape) for tensor in part] for part in parts]
