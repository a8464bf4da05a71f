"""A profile of a training epoch: a batch more or less makes nobody wait for the device once more."""

from collections import Counter

import lightning as L
import pytest
import torch
from support.training import trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback
from lightning_nc.stream.class_accumulator import ClassAccumulator
from lightning_nc.stream.row_sample import RowSample

# what has to know a value before it can go on, by torch's and by CUDA's own names
WAITS = (
    "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::masked_select",
    "aten::_unique2", "aten::equal", "cudaStreamSynchronize", "cudaDeviceSynchronize",
    "cudaEventSynchronize", "Memcpy DtoH",
)  # fmt: skip
SHORT, LONG, ROWS = 2, 12, 1024
DEVICES = [
    "cpu",
    pytest.param(
        "gpu",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


class Plain(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 600), nn.ReLU(), nn.Linear(600, 600), nn.ReLU())
        self.head = nn.Linear(600, 5)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.head(self.body(x)), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def waits(batches, accelerator, callbacks):
    """How often each of them was called in a fit of one epoch."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(5, (batches * ROWS,), generator=generator)
    x = torch.randn(len(y), 32, generator=generator) + 5 * torch.eye(5, 32)[y]
    # whole batches: collating rows would fill the profile
    loader = DataLoader(list(zip(x.split(ROWS), y.split(ROWS), strict=True)), batch_size=None)
    run = trainer(callbacks, accelerator=accelerator, devices=1, max_epochs=1)
    with torch.profiler.profile() as profile:
        run.fit(Plain(), loader)
    found = Counter()
    for event in profile.events():
        found.update(name for name in WAITS if event.name.startswith(name))
    assert any(event.name == "aten::addmm" for event in profile.events())
    return found


def waits_per_more_batches(accelerator, callbacks):
    few, many = (waits(batches, accelerator, callbacks()) for batches in (SHORT, LONG))
    return {name: many[name] - few[name] for name in WAITS}


def measuring():
    # batches that are too large to wait for long, small samples that rows are drawn into, subsets
    return [
        NeuralCollapseCallback(
            classifier="head", layers=["body.0"], max_rows_per_batch=ROWS - 3, figures_every_n_epochs=0
        )
    ]


@pytest.fixture
def _small_samples(monkeypatch):
    honest = RowSample.__init__

    def small(self, num_features, rows, *args):
        honest(self, num_features, min(rows, 100), *args)

    monkeypatch.setattr(RowSample, "__init__", small)


pytestmark = pytest.mark.usefixtures("_small_samples")


@pytest.mark.parametrize("accelerator", DEVICES)
def test_a_batch_that_is_measured_waits_for_nothing_that_it_would_not_wait_for(accelerator):
    bare = waits_per_more_batches(accelerator, callbacks=list)
    assert waits_per_more_batches(accelerator, measuring) == bare


@pytest.mark.parametrize("accelerator", DEVICES)
def test_an_update_that_waits_would_be_seen_in_a_profile(accelerator, monkeypatch):
    honest = ClassAccumulator.add

    def waiting(self, features, *args, **kwargs):
        honest(self, features, *args, **kwargs)
        float(features.sum())

    monkeypatch.setattr(ClassAccumulator, "add", waiting)
    bare = waits_per_more_batches(accelerator, callbacks=list)
    assert waits_per_more_batches(accelerator, measuring) != bare
