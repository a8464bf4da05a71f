"""One network for each kind of label that is no class, which notes what a callback should have seen."""

import lightning as L
import numpy as np
import torch
from support import regression_oracles, tag_oracles, tagged
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

WIDTH, INPUTS, ROWS, BATCH = 6, 8, 160, 32


class Labeled(L.LightningModule):
    """Notes features, labels, outputs and W of each stage and epoch."""

    rows = 0

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(INPUTS, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, WIDTH)
        )
        self.head = nn.Linear(WIDTH, self.rows)
        self.noted = {}

    def forward(self, x):
        return self.head(self.body(x))

    def note(self, stage, batch):
        h = self.body(batch[0])
        z = self.head(h)
        parts = (h, batch[1], z, self.head.weight, self.head.bias)
        kept = [part.detach().clone() for part in parts]
        self.noted.setdefault((stage, self.current_epoch), []).append(kept)
        return self.loss(z, batch[1].float())

    def training_step(self, batch, batch_idx):
        loss = self.note("train_online", batch)
        self.log("own_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.note("val", batch)

    def test_step(self, batch, batch_idx):
        self.note("test", batch)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)

    def reference(self, stage, epoch):
        """Every key of a stage, by the oracles."""
        noted = self.noted[stage, epoch]
        rows = [torch.cat([row[i] for row in noted]).double().numpy() for i in range(3)]
        return self.expected(*rows, *(noted[-1][i].double().numpy() for i in (3, 4)))


class Tags(Labeled):
    """Five tags, of which a row has one to three."""

    task, rows = "multilabel", 5

    @staticmethod
    def loss(z, labels):
        return nn.functional.binary_cross_entropy_with_logits(z, labels)

    @staticmethod
    def expected(h, t, z, weight, bias):
        return tagged.reference(h, t, weight, bias, z)

    @staticmethod
    def data(rows=ROWS, seed=0, dtype=torch.float32):
        made = tag_oracles.drawn(seed, 5, INPUTS, rows, 3)
        order = np.random.default_rng(seed).permutation(rows)
        x = torch.tensor(made.h[order], dtype=torch.float32)
        return TensorDataset(x, torch.tensor(made.t[order]).to(dtype))


class Targets(Labeled):
    """Two numbers that go together, off zero."""

    task, rows = "regression", 2

    @staticmethod
    def loss(z, labels):
        return nn.functional.mse_loss(z, labels)

    @staticmethod
    def expected(h, y, z, weight, bias):
        sigma = regression_oracles.covariance(y)
        distance, gamma = regression_oracles.least_gram_distance(weight, sigma)
        of = regression_oracles
        return {
            "nrc0/num_samples": len(h),
            "nrc0/r2_linear": of.r2_linear(h, y),
            "nrc0/r2_readout": of.r2_readout(h, y, weight, bias),
            "nrc1/feature_collapse": of.feature_collapse(h, y),
            "nrc1/outside_variance": of.outside_variance(h, y),
            "nrc1/feature_collapse_centered": of.feature_collapse_centered(h, y),
            "nrc2/row_space": of.row_space_share(h, weight),
            "nrc2/row_space_centered": of.row_space_share_centered(h, weight),
            "nrc3/gram_distance": distance,
            "nrc3/gamma": gamma,
        }

    @staticmethod
    def data(rows=ROWS, seed=0):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((rows, INPUTS))
        y = x[:, :3] @ np.array([[1.0, 0.4], [0.2, 0.8], [-0.5, 0.3]]) + 1
        return TensorDataset(torch.tensor(x).float(), torch.tensor(y).float())


KINDS = {each.task: each for each in (Tags, Targets)}


def loader(data, batch=BATCH, **settings):
    return DataLoader(data, batch, **settings)
