"""A small network on digits with unequal counts, with or without a bias, or with a deep linear head."""

import lightning as L
import torch
from sklearn.datasets import load_digits
from support.training import NUM_CLASSES
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

COUNTS = (120, 60, 48, 38, 30, 24, 19, 15, 12, 10)


def unequal_digits(counts=COUNTS, first=0):
    pixels, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
    rows = [(labels == c).nonzero()[first : first + n, 0] for c, n in enumerate(counts)]
    chosen = torch.cat(rows)
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))
    return TensorDataset(pixels[chosen[order]].float() / 16, labels[chosen[order]])


class Network(L.LightningModule):
    """Notes what a callback should have seen of validation, and the classifier that it met."""

    def __init__(self, bias=True, depth=1, rows=NUM_CLASSES):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU())
        inner = [nn.Linear(16, 16, bias=False) for _ in range(depth - 1)]
        self.head = nn.Sequential(*inner, nn.Linear(16, rows, bias=bias))
        self.noted = {}

    def forward(self, x):
        return self.head(self.body(x))

    def note(self, stage, batch):
        h = self.body(batch[0])
        entering = self.head[:-1](h)
        logits = self.head[-1](entering)
        row = h.detach().clone(), entering.detach().clone(), batch[1].clone()
        self.noted.setdefault((stage, self.current_epoch), []).append(row)
        return logits

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.note("train_online", batch), batch[1])

    def validation_step(self, batch, batch_idx):
        self.note("val", batch)

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def loader(data, shuffle=False, batch=64):
    return DataLoader(data, batch_size=batch, shuffle=shuffle)
