"""Runs that take a minute, each in a process of its own.

``python -m support.long_runs NAME`` in tests/ prints what a run has come to, as JSON.
"""

import gc
import json
import logging
import resource
import sys
import warnings

import lightning as L
import torch
from benchmarks.measure import peak
from support.oracles import two_pass_statistics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nc import LinearClassifier, NeuralCollapse, NeuralCollapseCallback


def fifty_thousand_classes():
    """Statistics of 50,000 classes in 1,024 features: memory beyond what was there, and values."""
    classes, width, rows = 50_000, 1024, 2048
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(classes, width, generator=generator)
    metric = NeuralCollapse(classes, width, sample_rows=1024)
    order = torch.randperm(2 * classes, generator=generator) % classes
    # what the batches themselves take is not the metric's
    features, noise = torch.zeros(2, rows, width)
    before = peak()
    for target in order.split(rows):
        features, noise = features[: len(target)], noise[: len(target)]
        torch.index_select(weight, 0, target, out=features)
        features.add_(noise.normal_(generator=generator), alpha=0.1)
        metric.update(features, target, predicted=target, classifier=LinearClassifier(weight))
    during = peak()
    values = {key: float(value) for key, value in metric.compute().items()}
    return {"update": during - before, "compute": peak() - before, "values": values}


def hundred_thousand_batches():
    """Small batches with a small spread far from the origin, against two passes in float64."""
    batches, rows, classes, width = 100_000, 4, 3, 72  # wide enough for products in float32
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(classes, (batches, rows), generator=generator)
    noise = torch.randn(batches, rows, width, generator=generator)
    h = 50 + 10 * torch.eye(classes, width)[y] + 0.01 * noise
    metric = NeuralCollapse(classes, width)
    for features, target in zip(h, y, strict=True):
        metric.update(features, target)
    got = metric.statistics()
    exact, label = h.reshape(-1, width).double(), y.reshape(-1)
    found = two_pass_statistics(exact.numpy(), label.numpy(), classes)
    counts, means, scatter, squares = map(torch.from_numpy, found)
    spread = (squares.sum() / exact.numel()).sqrt()
    return {
        "counts": (got.counts - counts).abs().max().item(),
        "means": ((got.means - means) / spread).abs().max().item(),
        "scatter": ((got.scatter - scatter).norm() / scatter.norm()).item(),
        "sums_of_squares": ((got.sums_of_squares - squares) / squares).abs().max().item(),
    }


class Small(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Linear(8, 64), nn.Linear(64, 4)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.fc(self.body(batch[0]).relu()), batch[1])

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Memory(L.Callback):
    """Notes the memory after every fortieth epoch."""

    def __init__(self):
        self.bytes = []

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch % 40 == 39:
            gc.collect()
            with open("/proc/self/statm") as file:
                self.bytes.append(int(file.read().split()[1]) * resource.getpagesize())


def eight_hundred_epochs():
    """Short epochs with a layer more: the memory over time, and how long the history is."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    y = torch.arange(64) % 4
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) + torch.eye(4, 8)[y]
    loader = DataLoader(TensorDataset(x, y), 32)
    callback = NeuralCollapseCallback(layers=["body"], measures=["nc1/cdnv", "nc2/means_etf*"])
    memory = Memory()
    trainer = L.Trainer(
        max_epochs=800,
        callbacks=[callback, memory],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Small(), loader, loader)
    lengths = [len(callback.history[key]) for key in callback.history.keys()]  # noqa: SIM118
    return {"memory": memory.bytes, "lengths": lengths}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    runs = (fifty_thousand_classes, hundred_thousand_batches, eight_hundred_epochs)
    print(json.dumps({run.__name__: run for run in runs}[sys.argv[1]]()))
