r"""Exact merge across ranks, for all measured modules of a stage at once.

A header of a few integers agrees on the shapes, which a rank without samples does not know. Then two
packed all-reduces: counts and sums give every rank the global means; each rank moves its scatter onto
them, :math:`S_r + \sum_c n_{rc} (\mu_{rc} - \mu_c)(\mu_{rc} - \mu_c)^\top`, and the second adds up the
rest. Bytes and memory are those of the state, never times the number of ranks. Every rank takes part
in the same collectives, whatever its data and whatever goes wrong with them: a rank that cannot take
part says so in the header, and one that fails between the two rounds adds NaN.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_nc.functional.decision import count_decisions
from lightning_nc.tasks.notices import NeuralCollapseWarning
from lightning_nc.values.statistics import (
    Accumulated,
    ClassStatistics,
    Decisions,
    FeatureSample,
    LinearClassifier,
    Tallies,
    accumulator_dtype,
)


class RankFailed(RuntimeError):  # noqa: N818 - says what has happened
    """Some rank could not take part with its data; raised on all ranks at the same place."""


class OutOfStep(RuntimeError):  # noqa: N818
    """This rank has left a merge in which the others wait: going on would hang or mix up their data."""


def merge_ranks(
    states: Sequence[Accumulated | None],
    covariance: str = "pooled",
    group: dist.ProcessGroup | None = None,
    device: torch.device | str = "cpu",
    failed: bool = False,
) -> list[Accumulated | None]:
    """Merge what each rank has accumulated; without a process group, count the decisions only.

    Args:
        states: One for each measured module, in the same order on all ranks; None where this rank
            has seen no batch.
        covariance: "pooled", "per_class" or "none", as the states were made.
        group: The ranks to merge; None for all.
        device: Where the tensors of a rank without batches live.
        failed: This rank cannot take part with its data.

    Returns:
        The merged states, equal on all ranks but for the sample, which stays each rank's own. None
        where no rank has seen a batch.

    Raises:
        ValueError: On all ranks, if they differ in their classes or features.
        RankFailed: On all ranks, if one of them has failed.
        OutOfStep: On this rank alone, for instance if another one has died.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        if failed:
            raise RankFailed("This rank could not take part with its data.")
        return [state and count_own_decisions(state) for state in states]
    try:
        return _merge(states, covariance, group, device, failed)
    except (ValueError, RankFailed):
        raise
    except Exception as error:
        rank = dist.get_rank(group)
        raise OutOfStep(
            f"Rank {rank} failed in the middle of merging the ranks' statistics, where the others may "
            f"wait for it: {type(error).__name__}: {error}. Has another rank died, or is memory short?"
        ) from error


def _merge(
    states: Sequence[Accumulated | None],
    covariance: str,
    group: dist.ProcessGroup | None,
    device: torch.device | str,
    failed: bool,
) -> list[Accumulated | None]:
    headers = _agree_on_shapes(states, group, device, failed)
    present = [i for i, header in enumerate(headers) if header.num_features]
    local = [_filled(states[i], headers[i], covariance, device) for i in present]
    sources = [headers[i].classifier_rank for i in present]

    rank = dist.get_rank(group)
    first = _all_reduce(
        [list(_sums(s, sends=rank == r, header=headers[i]))
         for s, r, i in zip(local, sources, present, strict=True)],
        group, device,
    )  # fmt: skip
    own = [_rest_or_nan(s, *sums[:2]) for s, sums in zip(local, first, strict=True)]
    second = _all_reduce(own, group, device)

    merged: list[Accumulated | None] = [None] * len(states)
    for i, state, sums, rest in zip(present, local, first, second, strict=True):
        merged[i] = _assembled(state, headers[i], sums, rest)
    return merged


def count_own_decisions(state: Accumulated) -> Accumulated:
    """The same, with the decisions of its sample counted against its own class means."""
    return _with_decisions(state, state.statistics)


_NO_SIZE = 2**62


@dataclass(frozen=True)
class _Header:
    """What the ranks have agreed on for one module: shapes, and who sends the classifier."""

    num_classes: int
    num_features: int
    classifier_rank: int | None
    has_bias: bool


def _agree_on_shapes(
    states: Sequence[Accumulated | None],
    group: dist.ProcessGroup | None,
    device: torch.device | str,
    failed: bool,
) -> list[_Header]:
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    # the maximum over the ranks of `world - rank` names the lowest rank, and that of a negative size is
    # the smallest size, so that ranks that differ find out together, before a collective of two lengths
    rows = [
        [0, 0, 0, 0, -_NO_SIZE, -_NO_SIZE]
        if state is None
        else [
            state.statistics.num_classes,
            state.statistics.num_features,
            0 if state.classifier is None else world - rank,
            int(state.classifier is not None and state.classifier.bias is not None),
            -state.statistics.num_classes,
            -state.statistics.num_features,
        ]
        for state in states
    ]
    flag = [world - rank if failed else 0, 0, 0, 0, 0, 0]
    header = torch.tensor([flag, *rows], dtype=torch.int64, device=device)
    dist.all_reduce(header, op=dist.ReduceOp.MAX, group=group)
    (lowest_failed, *_), *modules = header.tolist()
    if lowest_failed:
        raise RankFailed(
            f"Rank {world - lowest_failed} could not take part with its data; its own message says why."
        )
    agreed = []
    for c, d, lead, bias, least_c, least_d in modules:
        if c and (c, d) != (-least_c, -least_d):
            raise ValueError(
                f"Expected features of one shape on all ranks, but got {-least_c} to {c} classes and "
                f"{-least_d} to {d} features. Does a layer's width follow the size of its input (pool "
                "'flatten')?"
            )
        agreed.append(_Header(c, d, world - lead if lead else None, bool(bias)))
    return agreed


def _filled(
    state: Accumulated | None, header: _Header, covariance: str, device: torch.device | str
) -> Accumulated:
    if state is not None:
        return state
    empty = ClassStatistics.empty(header.num_classes, header.num_features, covariance, device)
    no_rows = torch.zeros(0, dtype=torch.int64, device=device)
    return Accumulated(
        statistics=empty,
        sample=FeatureSample(empty.means[:0].clone(), no_rows, no_rows, seen=0),
        tallies=Tallies(*torch.zeros(len(Tallies._fields), dtype=torch.int64, device=device)),
    )


def _sums(state: Accumulated, sends: bool, header: _Header) -> Iterator[Tensor]:
    """Round one: counts, sums, tallies, and the classifier from the one rank that sends it."""
    statistics = state.statistics
    yield statistics.counts
    yield statistics.means * statistics.counts[:, None]
    yield torch.stack(state.tallies)
    rows = 0 if header.classifier_rank is None else header.num_classes
    weight = statistics.means.new_zeros(rows, header.num_features)
    bias = statistics.means.new_zeros(rows)
    if sends and state.classifier is not None:
        weight = state.classifier.weight
        bias = bias if state.classifier.bias is None else state.classifier.bias
    yield weight
    yield bias


def _rest(state: Accumulated, counts: Tensor, sums: Tensor) -> list[Tensor]:
    """Round two: the scatters around the global means, and the decisions against them."""
    moved = _moved_onto(state.statistics, counts, sums)
    decisions = _with_decisions(state, _statistics_of_all(counts, sums)).decisions
    scatters = (t for t in (moved.scatter, moved.class_scatter) if t is not None)
    return [moved.sums_of_squares, torch.stack(list(vars(decisions).values())), *scatters]


def _rest_or_nan(state: Accumulated, counts: Tensor, sums: Tensor) -> list[Tensor]:
    """Where this rank fails, NaN for all ranks, who wait for its part."""
    try:
        return _rest(state, counts, sums)
    except Exception as error:
        warnings.warn(
            f"Rank {dist.get_rank()} could not merge its statistics, and what rests on them is NaN on "
            f"all ranks: {type(error).__name__}: {error}",
            NeuralCollapseWarning,
            stacklevel=2,
        )
        own = state.statistics
        decisions = counts.new_empty(len(fields(Decisions)))
        shaped = (own.sums_of_squares, decisions, own.scatter, own.class_scatter)
        return [torch.full_like(t, torch.nan) for t in shaped if t is not None]


def _all_reduce(
    parts: Sequence[Sequence[Tensor]],
    group: dist.ProcessGroup | None,
    device: torch.device | str,
) -> list[list[Tensor]]:
    """Add up tensors across the ranks in one collective."""
    flat = [tensor for part in parts for tensor in part]
    dtype = accumulator_dtype(device)
    packed = torch.cat([tensor.flatten().to(dtype) for tensor in flat] or [torch.zeros(0)])
    if packed.numel():
        dist.all_reduce(packed, group=group)
    unpacked = iter(packed.split([tensor.numel() for tensor in flat]))
    return [[next(unpacked).view(tensor.shape) for tensor in part] for part in parts]


def _statistics_of_all(counts: Tensor, sums: Tensor) -> ClassStatistics:
    """The global counts and means, all that the nearest class center needs."""
    whole = counts.round().to(torch.int64)
    return ClassStatistics(
        counts=whole,
        means=sums / whole.clamp(min=1)[:, None],
        scatter=None,
        sums_of_squares=torch.zeros_like(counts),
    )


def _moved_onto(local: ClassStatistics, counts: Tensor, sums: Tensor) -> ClassStatistics:
    """This rank's scatters, around the means of all ranks."""
    means = _statistics_of_all(counts, sums).means
    delta = local.means - means
    scatter = class_scatter = None
    if local.scatter is not None:
        scatter = local.scatter + (delta * local.counts[:, None]).T @ delta
    if local.class_scatter is not None:
        outer = torch.einsum("c,ci,cj->cij", local.counts.to(delta.dtype), delta, delta)
        class_scatter = local.class_scatter + outer
    return ClassStatistics(
        counts=local.counts,
        means=means,
        scatter=scatter,
        sums_of_squares=local.sums_of_squares + local.counts * delta.square().sum(1),
        class_scatter=class_scatter,
    )


def _with_decisions(state: Accumulated, statistics: ClassStatistics) -> Accumulated:
    decisions = count_decisions(
        state.sample,
        statistics,
        stands_for=state.statistics.num_samples,
        predicted=state.tallies.predicted,
        correct=state.tallies.correct,
    )
    return Accumulated(state.statistics, state.sample, state.tallies, state.classifier, decisions)


def _assembled(
    state: Accumulated,
    header: _Header,
    sums: list[Tensor],
    rest: list[Tensor],
) -> Accumulated:
    counts, class_sums, tallies, weight, bias = sums
    sums_of_squares, decisions, *scatters = rest
    return Accumulated(
        statistics=ClassStatistics(
            counts=counts.round().to(torch.int64),
            means=_statistics_of_all(counts, class_sums).means,
            scatter=scatters[0] if scatters else None,
            sums_of_squares=sums_of_squares,
            class_scatter=scatters[1] if len(scatters) > 1 else None,
        ),
        sample=state.sample,
        tallies=Tallies(*tallies.round().to(torch.int64)),
        classifier=(
            None
            if header.classifier_rank is None
            else LinearClassifier(weight, bias if header.has_bias else None)
        ),
        decisions=Decisions(*decisions),
    )
