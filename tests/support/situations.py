"""The shapes that training takes: modules, data and ways to run a Trainer."""

import contextlib
import functools
import random
import warnings

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from problems import unchecked_shapes
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset
from training import BATCH, ROWS, Network, Notes, digits, trainer

from lightning_nc import NeuralCollapseWarning

# Modules


class Recomputes(Network):
    """Activation checkpointing: the classifier runs again in backward, its hook too."""

    reentrant = False

    def both(self, x):
        h = self.features(x)
        return h, self.fc(h)

    def note(self, stage, batch):
        x, y = batch
        # the reentrant kind needs an input that has a gradient
        x = x.clone().requires_grad_(self.reentrant)
        h, logits = checkpoint(self.both, x, use_reentrant=self.reentrant)
        self.keep(stage, h, y, logits)
        return nn.functional.cross_entropy(logits, y)


class RecomputesReentrantly(Recomputes):
    reentrant = True


class Closures(Network):
    """LBFGS runs the step several times in a batch: the last run is the one that counts."""

    def training_step(self, batch, batch_idx):
        if batch_idx == getattr(self, "latest_idx", None):
            self.noted["train_online", self.current_epoch].pop()
        self.latest_idx = batch_idx
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.05, max_iter=3)


class Views(Network):
    """Three forwards in a step, of three views; the test says which of them are noted."""

    counts = slice(-1, None)

    def note(self, stage, batch):
        x, y = batch
        views = [x, x.flip(1), x.roll(1, 1)]
        counted = range(3)[self.counts]
        losses = []
        for i, view in enumerate(views):
            h = self.features(view)
            logits = self.fc(h)
            losses.append(nn.functional.cross_entropy(logits, y))
            if i in counted:
                self.keep(stage, h, y, logits)
        return sum(losses)


class FirstView(Views):
    counts = slice(0, 1)


class AllViews(Views):
    counts = slice(None)


class Manual(Network):
    """Manual optimization with two optimizers; the classifier's steps before the batch ends."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        body, head = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        body.zero_grad()
        head.zero_grad()
        self.manual_backward(loss)
        head.step()
        body.step()

    def configure_optimizers(self):
        body = [p for name, p in self.named_parameters() if not name.startswith("fc")]
        return torch.optim.SGD(body, lr=0.1), torch.optim.SGD(self.fc.parameters(), lr=0.1)


class Mixup(Network):
    """Trains on soft labels; the batch carries the hard ones in its third place."""

    def note(self, stage, batch):
        if len(batch) == 2:
            return super().note(stage, batch)
        x, soft, y = batch
        h = self.features(x)
        logits = self.fc(h)
        self.keep(stage, h, y, logits)
        return nn.functional.cross_entropy(logits, soft)


class Skips(Network):
    """Returns None for every other batch, which is no optimizer step; its features count."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if batch_idx % 2 else None


class Dictionaries(Network):
    def note(self, stage, batch):
        return super().note(stage, (batch["image"], batch["label"]))

    def training_step(self, batch, batch_idx):
        return self.note("train_online", batch)


class Nested(Dictionaries):
    def note(self, stage, batch):
        return Network.note(self, stage, batch["pair"])


class TwoSources(Network):
    """Two training loaders at once; the labels of the first belong to the classifier."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch["first"], batch_idx)


class TwoValidations(Network):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        stage = "val" if dataloader_idx == 0 else f"val_{dataloader_idx}"
        if batch_idx == 0:
            self.noted.pop((stage, self.current_epoch), None)
        return self.note(stage, batch)


class StopsInMidEpoch(Network):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx == 1:
            self.trainer.should_stop = True


class SkipsTheRest(Network):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if self.current_epoch == 1 and batch_idx == 2 else None


class Unused(Network):
    """A layer without gradient, which DDP has to be told of."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 3)


class Body(nn.Module):
    """The whole network, which says its features: what torch.compile likes."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 16),
                                  nn.ReLU())  # fmt: skip
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        h = self.body(x)
        return h, self.fc(h)


class Inner(Network):
    """A LightningModule around a network of its own."""

    def __init__(self):
        L.LightningModule.__init__(self)
        self.net = Body()
        self.noted, self.order = {}, []

    def forward(self, x):
        return self.net(x)

    def on_train_epoch_start(self):
        pass

    def note(self, stage, batch):
        x, y = batch
        h, logits = self(x)
        self.keep(stage, h, y, logits)
        return nn.functional.cross_entropy(logits, y)

    @property
    def fc(self):
        return getattr(self.net, "_orig_mod", self.net).fc


class Sharded(Inner):
    """Its weights are whole inside the forward only: a hook of its own notes what it met there."""

    layers = (0, 3)
    mesh = None

    def configure_model(self):
        if self.mesh is None and self.device_mesh is not None:
            from torch.distributed.fsdp import fully_shard

            self.mesh = self.device_mesh["data_parallel"]
            for part in (self.net.fc, self.net):
                fully_shard(part, mesh=self.mesh)

    def on_fit_start(self):
        fc = self.net.fc
        getattr(fc, "_fsdp_wrapped_module", fc).register_forward_pre_hook(self.take_parameters)

    def take_parameters(self, module, args):
        self.met = module.weight.detach().clone(), module.bias.detach().clone()

    def keep(self, stage, h, y, logits):
        row = h.detach().clone(), y.clone(), logits.detach().argmax(1), *self.met
        self.noted.setdefault((stage, self.current_epoch), []).append(row)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, foreach=False)


class WithLearningRate(Network):
    """For Lightning's search of a learning rate."""

    lr = 0.01

    def on_train_start(self):
        self.noted.clear()  # what the tuner's own batches have left

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class SizedByTheTuner(WithLearningRate):
    """For Lightning's search of a batch size."""

    batch_size = 16

    def train_dataloader(self):
        return DataLoader(digits(), self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(digits(ROWS, 96), BATCH)


@functools.cache
def twin_network():
    """The same module in the other of the two namespaces."""
    import pytorch_lightning

    return type("TwinNetwork", (Notes, pytorch_lightning.LightningModule), {})


class Twin:
    def __new__(cls):
        return twin_network()()


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


# What a run leaves behind


def live(rank, situation, watched, folder):
    """Run a situation, with the callback or without; everything that may be compared.

    Without the checks of shapes, which draw from Python's global random state.
    """
    seed_everything(0, verbose=False)
    torch.set_num_threads(1)
    callback = situation.kind(**situation.callback)

    def start(extra=(), **settings):
        module = situation.module()
        situation.prepare(module)
        callbacks = [*situation.others(), *extra, *([callback] if watched else [])]
        settings = {"default_root_dir": folder, **situation.trainer, **settings}
        if any(isinstance(c, ModelCheckpoint) for c in callbacks):
            settings["enable_checkpointing"] = True
        strategy = settings.get("strategy")
        if callable(strategy):
            settings["strategy"] = strategy()
        return trainer(callbacks, package=situation.package(), **settings), module

    with warnings.catch_warnings(), unchecked_shapes():
        warnings.filterwarnings("ignore", ".*this may be a bottleneck.*")
        for text in situation.ignored:
            warnings.filterwarnings("ignore", text)
        run, module = situation.run(start, situation.train, situation.val)
    modules = list(module.modules())
    return {
        "logged": {key: float(value) for key, value in run.callback_metrics.items()},
        "history": callback.history,
        "noted": module.noted,
        "epochs": run.current_epoch,
        "state": {key: whole(value).clone() for key, value in module.state_dict().items()},
        "order": torch.cat(module.order) if module.order else torch.zeros(0),
        "random": [
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            random.getstate(),
            [state.tolist() for state in torch.cuda.get_rng_state_all()],
        ],
        "modes": [m.training for m in modules],
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules),
    }


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@contextlib.contextmanager
def saying(text):
    """Expect a warning of ours, or none."""
    if text is None:
        yield
        return
    with pytest.warns(NeuralCollapseWarning, match=text):
        yield
