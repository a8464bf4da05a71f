"""Many classes, many batches, many epochs: memory stays bounded and digits stay right."""

import json
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from support.training import trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nc import NeuralCollapse, NeuralCollapseCallback, NeuralCollapseWarning

needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def long_run(name):
    """What a run has come to, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "support.long_runs", name],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.full
@needs_proc
def test_fifty_thousand_classes_take_the_memory_of_their_means():
    result = long_run("fifty_thousand_classes")
    means = 8 * 50_000 * 1024
    # working memory for a batch (0.3 of the means); a copy of the means would add 1
    assert result["update"] < 0.5 * means
    # a copy of the means, the centered ones and their QR decomposition, W in float64, and W against
    # the means, both normalized
    assert result["compute"] < 9 * means
    values = result["values"]
    assert values["nc0/classes_seen"] == 50_000
    # two samples per class: sums of squares 0.01 d / 2 in each, and means 2 d apart, up to noise
    assert values["nc1/cdnv"] == pytest.approx(0.005 / 2.01, rel=0.05)
    assert values["nc1/rank"] == 1024


@pytest.mark.full
def test_a_hundred_thousand_batches_do_not_drift():
    errors = long_run("hundred_thousand_batches")
    assert errors["counts"] == 0
    assert errors["means"] < 1e-9
    assert errors["scatter"] < 1e-6
    assert errors["sums_of_squares"] < 1e-6


@pytest.mark.full
@needs_proc
def test_eight_hundred_epochs_take_no_memory_but_their_history():
    result = long_run("eight_hundred_epochs")
    assert result["lengths"] == [800] * 8
    # a number, an epoch and a step in a tuple, for each value of the second half
    history = 200 * 8 * 400
    assert result["memory"][-1] - result["memory"][9] < history + 0.4 * 2**20


def test_very_wide_layers_without_a_covariance():
    metric = NeuralCollapse(10, 200_000, covariance="none")
    target = torch.arange(64) % 10
    metric.update(torch.randn(64, 200_000) + 3 * torch.eye(10, 200_000)[target], target)
    assert metric.means.numel() == 2_000_000
    assert not hasattr(metric, "scatter")
    assert metric.statistics().scatter is None
    with pytest.warns(NeuralCollapseWarning) as told:
        values = metric.compute()
    assert any("within-class covariance was not kept" in str(w.message) for w in told)
    assert values["nc1/cdnv"] > 0


def test_covariances_that_do_not_fit_are_refused_before_the_first_step_with_their_bytes():
    class Wide(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.body, self.fc = nn.Linear(4, 30_000), nn.Linear(30_000, 10)

        def training_step(self, batch, batch_idx):
            return self.fc(self.body(batch[0])).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Wide()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    loader = DataLoader(TensorDataset(torch.randn(8, 4), torch.arange(8)), 8)
    run = trainer([NeuralCollapseCallback(covariance="per_class")], max_epochs=1)
    needed = f"{10 * 30_000**2 * 8:,} bytes"
    with pytest.raises(ValueError, match=f"10 matrices of 30000 x 30000 need {needed}"):
        run.fit(module, loader)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
