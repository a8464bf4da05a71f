"""A small network on real digits that notes by itself what a callback should have seen."""

import random
import warnings

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from sklearn.datasets import load_digits
from support.oracles import reference_measures
from support.problems import of_default
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

ROWS, NUM_CLASSES, BATCH = 192, 10, 48


def digits(first=0, rows=ROWS):
    pixels, labels = load_digits(return_X_y=True)
    chosen = slice(first, first + rows)
    x = torch.tensor(pixels[chosen] / 16, dtype=torch.float32)
    return TensorDataset(x, torch.tensor(labels[chosen]))


class Noisy(Dataset):
    """Draws its own augmentation: reading it changes its state."""

    def __init__(self, inner):
        self.inner = inner
        self.generator = np.random.default_rng(7)

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        x, y = self.inner[index]
        noise = self.generator.normal(scale=0.05, size=64) + 0.01 * random.random()
        return x + torch.tensor(noise, dtype=torch.float32), y


class Notes:
    """Dropout, a frozen BatchNorm and a live one; notes features, labels, decisions and W."""

    def __init__(self, width=16, dropout=0.2):
        super().__init__()
        self.frozen_norm = nn.BatchNorm1d(64)
        self.hidden = nn.Linear(64, 32)
        self.drop = nn.Dropout(dropout)
        self.norm = nn.BatchNorm1d(32)
        self.neck = nn.Linear(32, width)
        self.fc = nn.Linear(width, NUM_CLASSES)
        self.noted = {}
        self.order = []

    def features(self, x):
        return self.neck(self.norm(self.drop(self.hidden(self.frozen_norm(x)))).relu()).relu()

    def forward(self, x):
        return self.fc(self.features(x))

    def note(self, stage, batch):
        x, y = batch
        h = self.features(x)
        logits = self.fc(h)
        self.keep(stage, h, y, logits)
        return nn.functional.cross_entropy(logits, y)

    def keep(self, stage, h, y, logits):
        """Note what a forward of this network has come to, and the classifier that it met."""
        predicted = logits.detach().argmax(1)
        met = (t.detach().clone() for t in (self.fc.weight, self.fc.bias))
        row = h.detach().clone(), y.clone(), predicted, *met
        self.noted.setdefault((stage, self.current_epoch), []).append(row)

    def on_train_epoch_start(self):
        self.frozen_norm.eval()

    def training_step(self, batch, batch_idx):
        self.order.append(batch[0].sum(1).clone())
        return self.note("train_online", batch)

    def validation_step(self, batch, batch_idx):
        # several validation loops in an epoch: the last one is the one that stays
        if batch_idx == 0:
            self.noted.pop(("val", self.current_epoch), None)
        return self.note("val", batch)

    def test_step(self, batch, batch_idx):
        return self.note("test", batch)

    def predict_step(self, batch, batch_idx):
        return self.note("train", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def reference(self, stage, epoch, num_classes=NUM_CLASSES):
        """The measures by the independent reference, from what was noted."""
        return reference_of(self.noted[stage, epoch], num_classes)


class Network(Notes, L.LightningModule):
    """In the namespace `lightning.pytorch`."""


def reference_of(rows, num_classes=NUM_CLASSES):
    """The measures by the independent reference; W is the one that the last row met."""
    h, y, predicted = (torch.cat([row[i] for row in rows]) for i in range(3))
    h, weight, bias = (t.cpu().double().numpy() for t in (h, *rows[-1][3:]))
    y, predicted = y.cpu().numpy(), predicted.cpu().numpy()
    return reference_measures(h, y, num_classes, predicted=predicted, weight=weight, bias=bias)


def trainer(callbacks=(), package=L, **settings):
    defaults = {
        "max_epochs": 2, "logger": False, "enable_checkpointing": False, "accelerator": "cpu",
        "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1,
    }  # fmt: skip
    if settings.get("barebones"):  # refuses to be told twice what it does not do
        defaults = {"max_epochs": 2, "accelerator": "cpu"}
    return package.Trainer(callbacks=list(callbacks), **{**defaults, **settings})


def fit(module, callbacks=(), train=None, val=None, **settings):
    run = trainer(callbacks, **settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*this may be a bottleneck.*")
        run.fit(
            module,
            train or DataLoader(digits(), BATCH, shuffle=True),
            val or DataLoader(digits(ROWS, 96), BATCH),
        )
    return run


class Record(EarlyStopping):
    """Notes what it sees whenever it looks."""

    def __init__(self, key, **settings):
        super().__init__(key, mode="min", patience=100, **settings)
        self.seen = []

    def _run_early_stopping_check(self, trainer):
        super()._run_early_stopping_check(trainer)
        self.seen.append((trainer.current_epoch, float(trainer.callback_metrics[self.monitor])))


def assert_close(logged, reference, stage, suffix=""):
    """Logged values of a stage against the reference, key by key, on both sides."""
    reference = of_default(reference)
    tail = f"/{stage}{suffix}"
    mine = {k.removesuffix(tail): float(v) for k, v in logged.items() if k.endswith(tail)}
    # they join where layers are measured, and have an oracle of their own
    shares = {key: mine.pop(key) for key in [*mine] if key.startswith("layer/")}
    assert all(0 < share < 1 for share in shares.values())
    assert set(mine) == set(reference)
    for key, value in reference.items():
        assert abs(mine[key] - value) <= 1e-5 * abs(value) + 1e-8, (key, mine[key], value)


def take_middle(x):
    """A pool of one's own."""
    return x[:, x.shape[1] // 2]


def take_deep(batch):
    """A place of labels of one's own."""
    return batch["deep"]["er"]


def forward_of_pair(module, batch):
    """A way of one's own to run the network on a batch."""
    return module(batch[0])
