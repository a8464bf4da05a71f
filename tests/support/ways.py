"""Data, strategies and ways to run a Trainer."""

import contextlib

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from support.training import BATCH, ROWS, digits
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

# Data


def shuffled(collate=None, rows=ROWS):
    return DataLoader(digits(rows=rows), BATCH, shuffle=True, collate_fn=collate)


def in_order(first=0, rows=ROWS, collate=None):
    return DataLoader(digits(first, rows), BATCH, collate_fn=collate)


def validation(collate=None):
    return in_order(ROWS, 96, collate)


def pairs(rows):
    x, y = zip(*rows, strict=True)
    return torch.stack(x), torch.stack(y)


def as_dictionary(rows):
    return dict(zip(("image", "label"), pairs(rows), strict=True))


def as_nested(rows):
    return {"name": "digits", "pair": pairs(rows)}


def mixed(rows):
    x, y = pairs(rows)
    hard = nn.functional.one_hot(y, 10).float()
    return 0.8 * x + 0.2 * x.flip(0), 0.8 * hard + 0.2 * hard.flip(0), y


def sometimes_none(rows):
    x, y = pairs(rows)
    return None if int(y.sum()) % 3 == 0 else (x, y)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(digits())


def stream():
    return DataLoader(Stream(), BATCH)


def two_sources():
    return {"first": shuffled(), "second": DataLoader(digits(96, 96), 24)}


def two_validations():
    return [validation(), in_order(0, 144)]


def labels_of_two_sources(batch):
    """Of a pair of batches in training, of one batch in validation."""
    return batch["first"][1] if isinstance(batch, dict) else batch[1]


# Strategies


class _OnCPU:
    """Lightning asks for a GPU under FSDP; torch itself works on a CPU, which the tests have."""

    def setup(self, trainer):
        import torch.distributed.fsdp as fsdp

        original = fsdp.FullyShardedDataParallel

        class OnCPU(original):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **{**kwargs, "device_id": torch.device("cpu")})

        fsdp.FullyShardedDataParallel = OnCPU
        try:
            super().setup(trainer)
        finally:
            fsdp.FullyShardedDataParallel = original


class FSDPOnCPU(_OnCPU, FSDPStrategy):
    pass


def fsdp1_on_cpu():
    return FSDPOnCPU()


def fsdp1_wrapping_on_cpu():
    return FSDPOnCPU(auto_wrap_policy={nn.Linear})


def fsdp2():
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)


# Ways to run


def fits_own_data(start, train, val):
    """One fit with the module's own loaders."""
    run, module = start()
    run.fit(module)
    return run, module


def batch_size_finder():
    return [BatchSizeFinder(mode="power", max_trials=2, steps_per_trial=1)]


def fits(start, train, val):
    """One fit."""
    run, module = start()
    run.fit(module, train(), val())
    return run, module


def validates_fits_tests(start, train, val):
    run, module = start()
    run.validate(module, val(), verbose=False)
    run.fit(module, train(), val())
    run.test(module, val(), verbose=False)
    return run, module


def goes_on_from(every, start, train, val):
    """A fit that is cut short, and another one from its checkpoint."""
    kept = ModelCheckpoint(**every)
    run, module = start([kept], max_epochs=1 if "every_n_epochs" in every else 2,
                        max_steps=6 if "every_n_train_steps" in every else -1)  # fmt: skip
    run.fit(module, train(), val())
    run, module = start()
    run.fit(module, train(), val(), ckpt_path=kept.best_model_path)
    return run, module


class Breaks(Callback):
    """An exception in the middle of the second epoch."""

    def __init__(self, error):
        self.error = error

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 2:
            raise self.error


def breaks_and_fits(error, start, train, val):
    """A fit that fails, and then another one with the same callback."""
    run, module = start([Breaks(error)])
    with contextlib.suppress(ValueError, SystemExit):
        run.fit(module, train(), val())
    left = [m for m in module.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert left == [], "hooks are left behind"
    seed_everything(1, verbose=False)
    return fits(start, train, val)
