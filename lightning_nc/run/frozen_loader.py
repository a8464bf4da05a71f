"""A private loader over the rows that training sees.

Private, because iterating the trainer's own ends its epoch early with persistent workers; in worker
processes, because a data set may draw its own random numbers.
"""

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


def frozen_loader(
    loader: Any, num_batches: int, seed: int, rank: int = 0, world_size: int = 1
) -> DataLoader:
    """A private loader over the rows that training sees, each once, in a seeded random order.

    Args:
        loader: The trainer's own training loader; it is read, not iterated.
        num_batches: Batches of a training epoch, per rank.
        seed: For the order, and for augmentation inside the worker processes.
        rank: This rank.
        world_size: The number of ranks; they share the rows without padding.

    Returns:
        A loader with worker processes of its own.

    Raises:
        ValueError: If the rows that training sees cannot be told.
    """
    _require_readable(loader)
    size = 1 if loader.batch_sampler is None else loader.batch_sampler.batch_size
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler.sampler
    indices, in_order = _training_rows(sampler)
    order = np.random.default_rng(seed)
    limit = num_batches * size * world_size if num_batches < len(loader) else len(indices)
    rows = indices[:limit] if in_order else order.permutation(indices)[:limit]
    if in_order:
        rows = order.permutation(rows)
    return DataLoader(
        loader.dataset,
        batch_size=None if loader.batch_sampler is None else size,
        sampler=rows[rank::world_size].tolist(),
        num_workers=max(1, loader.num_workers),
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=torch.Generator().manual_seed(seed),
    )


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
