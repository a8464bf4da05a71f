"""The memory that a running callback holds, against the formula of docs/costs.md."""

import re
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from support.memory import tensors_of
from support.training import trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nc import NeuralCollapseCallback

COSTS = (Path(__file__).parents[2] / "docs/costs.md").read_text()
CLASSES, ROWS, BATCH = 10, 1536, 64
WIDTHS = [64, 96, 128, 192, 256, 256, 320, 384, 512, 512]


class Wide(L.LightningModule):
    """Ten layers of growing width."""

    def __init__(self):
        super().__init__()
        sizes = zip([32, *WIDTHS], WIDTHS, strict=False)
        self.body = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in sizes))
        self.head = nn.Linear(WIDTHS[-1], CLASSES)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.head(self.body(batch[0])), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-2)


class Weigh(Callback):
    """In the middle of the second epoch, when all rows but the last batches have come by."""

    def __init__(self, watched):
        self.watched, self.bytes = watched, 0

    def on_train_batch_end(self, run, module, outputs, batch, batch_idx):
        if run.current_epoch == 1 and batch_idx == ROWS // BATCH - 2:
            self.bytes = tensors_of(self.watched, [run, module, *module.parameters()])


def formula(width, rows, has_classifier):
    """What docs/costs.md says of one module and stage, with the value that its last epoch has left."""
    c, d = CLASSES, width
    waiting = min(4096, 2**21 // d)
    state = 8 * c * d + 12 * d**2 + 16 * c + (rows + waiting) * (4 * d + 16)
    value = 8 * c * d + 8 * d**2 + 16 * c
    return state + value + has_classifier * 8 * (c * d + c)


@pytest.mark.parametrize("layers", [[], ["body.*"]])
def test_a_running_callback_holds_what_the_formula_says(layers):
    seed_everything(0, verbose=False)
    data = TensorDataset(torch.randn(ROWS, 32), torch.randint(CLASSES, (ROWS,)))
    callback = NeuralCollapseCallback(layers=layers, figures_every_n_epochs=0)
    weigh = Weigh(callback)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)  # of random labels
        trainer([weigh, callback]).fit(Wide(), DataLoader(data, BATCH))
    expected = sum(formula(width, ROWS, False) for width in WIDTHS if layers)
    expected += formula(WIDTHS[-1], ROWS, True)
    assert weigh.bytes == pytest.approx(expected, rel=0.05)


def test_the_formula_is_the_documents():
    text = re.sub(r"\s+", " ", COSTS)
    assert "8 C d + 12 d² + 16 C + (R + Q)(4 d + 16)" in text
    assert "8 C d + 8 d² + 16 C" in text
