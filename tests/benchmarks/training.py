"""Training with the callback against training without.

The digits run by run; the slower networks epoch by epoch in one run, every other epoch measured,
because machines drift by more than the difference within a minute.
"""

import itertools
import logging
import tempfile
import time
import warnings

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from measure import Row, ratios, wait
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nc import NeuralCollapseCallback


class Network(L.LightningModule):
    """A body, a classifier, and one loss."""

    def __init__(self, body, width, classes):
        super().__init__()
        self.body, self.classifier = body, nn.Linear(width, classes)

    def forward(self, x):
        return self.classifier(self.body(x))

    def error(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self(x).flatten(0, -2), y.flatten())

    def training_step(self, batch, batch_idx):
        return self.error(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def digits():
    """The network of examples/digits.py, on the same images."""
    widths = [64, 256, 256, 256, 128]
    layers = [
        nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())
        for a, b in itertools.pairwise(widths)
    ]
    pixels, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))
    return Network(nn.Sequential(*layers), 128, 10), DataLoader(data, 128, drop_last=True)


def convolutions():
    """A convolution network on synthetic images of 3 x 32 x 32."""
    blocks = [
        nn.Sequential(nn.Conv2d(a, b, 3, s, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
        for a, b, s in ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 256, 2))
    ]
    body = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(body, 256, 10), _synthetic((1280, 3, 32, 32), (1280,), 10, 128)


class Tokens(nn.Module):
    """A small transformer encoder over tokens."""

    def __init__(self, vocabulary, width):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(self.embedding(x))


def transformer():
    """Next-token features: every position a row."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (512, 64), generator=generator)
    loader = DataLoader(TensorDataset(x, x.roll(-1, 1)), 16)
    return Network(Tokens(256, 128), 128, 256), loader


class Bottleneck(nn.Module):
    """The block that ResNet-50 is made of."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = 4 * width
        self.main = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        skips = inputs == outputs and stride == 1
        self.skip = nn.Identity() if skips else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        return (self.main(x) + self.skip(x)).relu()


def resnet50():
    """A step of the size of ResNet-50's: 224 x 224 pixels, 1,000 classes, 2,048 features."""
    blocks, inputs = [], 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            blocks.append(Bottleneck(inputs, width, stride if i == 0 else 1))
            inputs = 4 * width
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    body = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(body, 2048, 1000), _synthetic((1280, 3, 224, 224), (1280,), 1000, 64)


def _synthetic(shape, labels, classes, batch):
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(shape, generator=generator),
        torch.randint(classes, labels, generator=generator),
    )
    return DataLoader(TensorDataset(x, y), batch, drop_last=True)


class Clock(L.Callback):
    """Seconds of each epoch, from the start of one to the start of the next."""

    def __init__(self):
        self.marks = []

    def on_train_epoch_start(self, trainer, pl_module):
        wait()
        self.marks.append(time.perf_counter())

    def on_train_end(self, trainer, pl_module):
        wait()
        self.marks.append(time.perf_counter())

    def seconds(self):
        """Of all epochs but the first one, in which libraries are loaded."""
        return [b - a for a, b in itertools.pairwise(self.marks)][1:]


def quiet_trainer(device, **settings):
    """A Trainer that does nothing but train."""
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return L.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu", devices=1, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip


def seconds_per_epoch(make, epochs, device, logger, **settings):
    """Median over the epochs of one run, without the callback where it has no settings."""
    L.seed_everything(0, verbose=False)
    network, loader = make()
    clock = Clock()
    callbacks = [NeuralCollapseCallback(classifier="classifier", **settings)] if settings else []
    with tempfile.TemporaryDirectory() as folder:
        trainer = quiet_trainer(
            device, max_epochs=epochs + 1, callbacks=[*callbacks, clock],
            logger=TensorBoardLogger(folder) if logger else False,
        )  # fmt: skip
        trainer.fit(network, loader)
    return clock.seconds()


def total(make, epochs, device, logger, **settings):
    """Seconds per epoch on average: what comes in the last epoch alone counts, too."""
    return sum(seconds_per_epoch(make, epochs, device, logger, **settings)) / epochs


def against_neighbors(make, epochs, device, **settings):
    """Of each measured epoch, its time over the mean of the epochs before and after it."""
    seconds = seconds_per_epoch(make, 2 * epochs + 2, device, False, **settings)
    # the first epoch, which was measured, is left out of them
    around = [(a + b) / 2 for a, b in zip(seconds[::2], seconds[2::2], strict=False)]
    return ratios(seconds[1::2][: len(around)], around), seconds[::2]


ONLINE = {"figures_every_n_epochs": 0}
EVERY_OTHER = {**ONLINE, "every_n_epochs": 2}
LAYERS = {"body.[0-4].[01]": "spatial_mean"}
DIGITS = {
    "digits, online": (ONLINE, 1.05),
    "digits, online, every 10 epochs": ({**ONLINE, "every_n_epochs": 10}, None),
    "digits, online, pictures at the start, in the middle and at the end": (
        {"figures_every_n_epochs": 10}, None,
    ),
}  # fmt: skip
SLOWER = {
    "convolutions, online": (convolutions, EVERY_OTHER, 1.02),
    "convolutions, online, ten layers": (convolutions, {**EVERY_OTHER, "layers": LAYERS}, 1.05),
    "convolutions, frozen pass": (
        convolutions, {**ONLINE, "online": False, "frozen_every_n_epochs": 2}, None,
    ),
    "transformer, every token": (transformer, {**EVERY_OTHER, "pool": "tokens"}, None),
}  # fmt: skip


def run(quick, device):
    """Rows of the situations."""
    for name, (settings, target) in list(DIGITS.items())[: 1 if quick else None]:
        seconds = {"with": [], "without": []}
        for _ in range(5):
            for which, given in (("without", {}), ("with", settings)):
                seconds[which].append(total(digits, 20, device, True, **given))
        values = ratios(seconds["with"], seconds["without"])
        yield Row.of("training", name, "with / without", values, target)
        yield Row.of("training", name, "epoch without, ms", [1e3 * s for s in seconds["without"]])
    slower = {} if quick else dict(SLOWER)
    if device == "cuda" and not quick:
        slower["ResNet-50-sized, C=1000, online"] = (resnet50, EVERY_OTHER, 1.01)
    for name, (make, settings, target) in slower.items():
        values, without = against_neighbors(make, 7, device, **settings)
        yield Row.of("training", name, "with / without", values, target)
        yield Row.of("training", name, "epoch without, ms", [1e3 * s for s in without])
