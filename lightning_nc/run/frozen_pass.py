"""The extra inference pass over the training data, as in the papers, that leaves no trace in training.

Through a private loader, because iterating the trainer's own ends its epoch early with persistent
workers; in worker processes, because a data set may draw its own random numbers; with every module's
mode, and the global random states, put back afterwards.
"""

import inspect
import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

_SECONDS_OF_SILENCE = 5.0
_ALTERNATIVE = (
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
    if not isinstance(loader, DataLoader):
        raise ValueError(
            f"Expected a single DataLoader as training data for the frozen pass, but got a "
            f"{type(loader).__name__}. {_ALTERNATIVE}"
        )
    if isinstance(loader.dataset, IterableDataset):
        raise ValueError(
            "Expected a map-style training data set for the frozen pass, but got the iterable-style "
            f"{type(loader.dataset).__name__}, whose rows cannot be visited apart from training. "
            f"{_ALTERNATIVE}"
        )
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        raise _unknown(loader.batch_sampler)
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


def frozen_pass(
    trainer: Any,
    pl_module: Any,
    loader: DataLoader,
    before: Callable[[Any], None],
    after: Callable[[Any], None],
    inference: str | Callable[[Any, Any], Any] | None = None,
    max_batches: int | None = None,
    num_forwards: int = 0,
) -> None:
    """Run the network over a loader in eval mode, without a trace.

    Args:
        trainer: The Lightning Trainer, for devices and precision.
        pl_module: The LightningModule, not its DDP wrapper.
        loader: A private loader.
        before: Called with each batch on the device, before the network runs.
        after: Called with it afterwards.
        inference: How the network runs on a batch: None (``forward`` on the inputs), the name of a
            method that takes the batch and its index, or a function of the module and the batch.
        max_batches: Stop after as many.
        num_forwards: Forwards that every rank makes; one without a batch for the last of them repeats
            its own, which does not count.
    """
    total = len(loader) if max_batches is None else min(max_batches, len(loader))
    run = _runner(pl_module, inference)
    with (
        _buffers_of_rank_zero(pl_module, trainer.world_size),
        _isolated_random_state(trainer.strategy.root_device),
        _eval_mode(pl_module),
        _without_logging(pl_module),
        _Progress(trainer, total if max_batches is None else 0) as shown,
        torch.no_grad(),
    ):
        batch, index = None, -1
        for index, raw in enumerate(itertools.islice(_loaded(loader), total)):
            batch = _to_device(trainer, pl_module, raw)
            before(batch)
            with trainer.precision_plugin.forward_context():
                run(batch, index)
            after(batch)
            shown.advance()
        # a forward may wait for the other ranks, which may have a batch more
        if batch is not None and index + 1 < num_forwards and max_batches is None:
            with trainer.precision_plugin.forward_context():
                run(batch, index + 1)


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
        f"{_ALTERNATIVE}"
    )


def _loaded(loader: DataLoader) -> Iterator[Any]:
    """The batches of the loader, with an error that says whose processes have failed."""
    try:
        yield from loader
    except Exception as error:
        raise RuntimeError(
            "Expected the training data to load in worker processes of the frozen pass's own, which "
            f"keep the data set as it is, but it failed: {type(error).__name__}: {error}. Does it "
            "hold tensors on a GPU, or something that cannot be handed to another process? "
            f"{_ALTERNATIVE}"
        ) from error


def _to_device(trainer: Any, pl_module: Any, batch: Any) -> Any:
    """The way of a training batch to the device (Lightning's epoch loop)."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def _runner(
    pl_module: Any, inference: str | Callable[[Any, Any], Any] | None
) -> Callable[[Any, int], Any]:
    if isinstance(inference, str) and "." not in inference:
        method = getattr(pl_module, inference, None)
        if method is None:
            raise ValueError(
                f"Expected inference to name a method of {type(pl_module).__name__} that takes a "
                f"batch and its index, such as 'predict_step', but there is no {inference!r}."
            )
        return method
    if inference is not None:
        from lightning_nc.dotted_path import import_function

        given = import_function(inference, "inference") if isinstance(inference, str) else inference
        return lambda batch, _: given(pl_module, batch)
    return lambda batch, _: _forward(pl_module, batch)


def _forward(pl_module: Any, batch: Any) -> Any:
    """``forward`` on a batch without its labels."""
    try:
        if isinstance(batch, Mapping):
            known = [name for name in inspect.signature(pl_module.forward).parameters if name in batch]
            if known:
                return pl_module(**{name: batch[name] for name in known})
        elif isinstance(batch, Sequence) and len(batch) > 1:
            return pl_module(batch[0])
        return pl_module(batch)
    except (TypeError, ValueError, LookupError, AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"Expected the forward of {type(pl_module).__name__} to run on the inputs of a training "
            f"batch (a sequence's first item, a mapping's items by parameter name, else the batch), "
            f"but it failed: {type(error).__name__}: {error}. Set inference to the name of a method "
            "that takes the batch and its index, such as 'predict_step', or to the dotted path of a "
            "function of the module and the batch."
        ) from error


@contextmanager
def _buffers_of_rank_zero(module: nn.Module, world_size: int) -> Iterator[None]:
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
def _without_logging(pl_module: Any) -> Iterator[None]:
    """What a step logs of this pass would mix with what it has logged of its own."""
    pl_module.__dict__["log"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del pl_module.__dict__["log"]


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards each module's own: a frozen BatchNorm stays frozen."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode


@contextmanager
def _isolated_random_state(device: torch.device) -> Iterator[None]:
    """Put Python's, NumPy's and torch's global random states back afterwards, whatever happens."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = [device.index or 0] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


class _Progress:
    """A bar beside the Trainer's own, or where it has none, now and then a line with the share."""

    def __init__(self, trainer: Any, total: int) -> None:
        self._total = total
        self._done = 0
        self._bar: Any = None
        self._last_word = time.monotonic()
        bar = trainer.progress_bar_callback
        if total and isinstance(bar, TQDMProgressBar) and not bar.is_disabled:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, desc="Neural collapse, frozen pass", leave=False, position=1)

    def __enter__(self) -> "_Progress":
        self._last_word = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif self._total and time.monotonic() - self._last_word > _SECONDS_OF_SILENCE:
            self._last_word = time.monotonic()
            share = self._done / self._total
            rank_zero_info(f"Neural collapse, frozen pass: {share:.0%} of {self._total} batches")
