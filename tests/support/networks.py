"""The shapes that a network and its training step take."""

import functools

import lightning as L
import torch
from support.training import BATCH, ROWS, Network, Notes, digits
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

# Modules


class Diverges(Network):
    """Its weights are NaN from the third epoch on."""

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self.current_epoch == 2:
            with torch.no_grad():
                for weight in self.parameters():
                    weight.fill_(torch.nan)


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
