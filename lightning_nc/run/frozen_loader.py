"""A private loader over the rows that training sees.

Private, because iterating the trainer's own ends its epoch early with persistent workers; in worker
processes, because a data set may draw its own random numbers.

Which rows belong to a rank is what its sampler says: a distributed sampler deals the rows of one data
set out to the ranks; any other draws from rows that are this rank's own, however the user has shared
them.
"""

import math
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

ALTERNATIVE = (
    "Set frozen_every_n_epochs=0 and pass the training data as one more validation loader, which is "
    "measured in eval mode as well (stage val_1)."
)


LONGEST_WAIT = 300.0
"""Seconds that a batch is waited for, where the loader sets no timeout: a forked worker may hang."""


def frozen_loader(loader: Any, num_batches: int, seed: int, num_workers: int = 1) -> DataLoader:
    """A private loader over the rows that training sees, each once, in a seeded random order.

    Args:
        loader: The trainer's own training loader; it is read, not iterated.
        num_batches: Batches of a training epoch, per rank.
        seed: For the order, and for augmentation inside the worker processes.
        num_workers: At least so many worker processes, and as many as training has where that is
            more; 0: none.

    Returns:
        A loader of its own. Ranks that share a data set by a distributed sampler share its rows
        without padding.

    Raises:
        ValueError: If the rows that training sees cannot be told.
    """
    _require_readable(loader)
    size, sampler, (rank, num_ranks) = _size(loader), _sampler(loader), _share(loader)
    indices, in_order = _training_rows(sampler)
    order = np.random.default_rng(seed)
    limit = _num_rows(loader, num_batches, len(indices))
    rows = indices[:limit] if in_order else order.permutation(indices)[:limit]
    if in_order:
        rows = order.permutation(rows)
    workers = max(num_workers, loader.num_workers) if num_workers else 0
    return DataLoader(
        loader.dataset,
        batch_size=None if loader.batch_sampler is None else size,
        sampler=rows[rank::num_ranks].tolist(),
        num_workers=workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=(loader.timeout or LONGEST_WAIT) if workers else 0,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if workers else None,
        generator=torch.Generator().manual_seed(seed),
    )


def most_batches(loader: Any, num_batches: int) -> int:
    """Batches of the rank that has most of them, in the loader's private twin.

    Args:
        loader: The trainer's own training loader.
        num_batches: Batches of a training epoch, per rank.

    Returns:
        Their number; 0 where a rank knows its own rows only, without a distributed sampler.
    """
    sampler = _sampler(loader)
    if not isinstance(sampler, DistributedSampler):
        return 0
    num_rows = _num_rows(loader, num_batches, len(_training_rows(sampler)[0]))
    return math.ceil(math.ceil(num_rows / sampler.num_replicas) / _size(loader))


def _sampler(loader: Any) -> Any:
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler.sampler


def _size(loader: Any) -> int:
    return 1 if loader.batch_sampler is None else loader.batch_sampler.batch_size


def _share(loader: Any) -> tuple[int, int]:
    """Which of how many shares of the rows is this rank's."""
    sampler = _sampler(loader)
    return (sampler.rank, sampler.num_replicas) if isinstance(sampler, DistributedSampler) else (0, 1)


def _num_rows(loader: Any, num_batches: int, known: int) -> int:
    """The rows that training sees, over all shares: fewer where its batches are limited."""
    is_limited = num_batches < len(loader)
    return min(known, num_batches * _size(loader) * _share(loader)[1]) if is_limited else known


def _require_readable(loader: Any) -> None:
    if not isinstance(loader, DataLoader):
        raise ValueError(
            f"Expected a single DataLoader as training data for the frozen pass, but got a "
            f"{type(loader).__name__}. {ALTERNATIVE}"
        )
    if isinstance(loader.dataset, IterableDataset):
        raise ValueError(
            "Expected a map-style training data set for the frozen pass, but got the iterable-style "
            f"{type(loader.dataset).__name__}, whose rows cannot be visited apart from training. "
            f"{ALTERNATIVE}"
        )
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        raise _unknown(loader.batch_sampler)


def _training_rows(sampler: Any) -> tuple[np.ndarray, bool]:
    """The data set's rows that a sampler draws from, and whether it keeps their order."""
    if isinstance(sampler, DistributedSampler):
        dataset: Any = sampler.dataset
        # Lightning puts a distributed sampler around a custom one
        wrapped = getattr(dataset, "_sampler", None)
        if wrapped is not None:
            return _training_rows(wrapped)
        return np.arange(len(dataset)), not sampler.shuffle
    if type(sampler) in (SequentialSampler, RandomSampler):
        return np.arange(len(sampler.data_source)), type(sampler) is SequentialSampler
    if type(sampler) is SubsetRandomSampler:
        return np.asarray(sampler.indices), False
    if isinstance(sampler, list | tuple | range):
        return np.asarray(sampler), True
    raise _unknown(sampler)


def _unknown(sampler: Any) -> ValueError:
    return ValueError(
        "Expected a sequential, random, subset or distributed sampler for the frozen pass, but got "
        f"a {type(sampler).__name__}, which does not tell the rows that it draws from. "
        f"{ALTERNATIVE}"
    )
