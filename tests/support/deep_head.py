"""A network whose head is several linear layers, and what its layers come to by hand."""

import lightning as L
import numpy as np
import torch
from support import depth_oracles as oracle
from torch import nn

HEAD = ("head.0", "head.1", "head.2")
LAYERS = ("body.0.in", "body.2.in")
CHANCE = ("layer/subspace_chance", "layer/subspace_chance_centered")


class DeepHead(L.LightningModule):
    """Two layers with ReLU, then three without; notes what enters each, and the weights that it met."""

    def __init__(self, bias=False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 20), nn.ReLU())
        widths = [(20, 16), (16, 12)]
        inner = [nn.Linear(*pair, bias=False) for pair in widths]
        self.head = nn.Sequential(*inner, nn.Linear(12, 10, bias=bias))
        self.noted = {}

    def forward(self, x):
        return self.head(self.body(x))

    def inputs_and_output(self, x):
        """What enters each layer with a weight, by the name of the layer, and what comes out."""
        kept = {}
        for part in ("body", "head"):
            for i, layer in enumerate(getattr(self, part)):
                if isinstance(layer, nn.Linear):
                    kept[f"{part}.{i}"] = x.detach().clone()
                x = layer(x)
        return kept, x

    def weights(self):
        return {
            n: m.weight.detach().clone() for n, m in self.named_modules() if isinstance(m, nn.Linear)
        }

    def note(self, stage, batch):
        kept, logits = self.inputs_and_output(batch[0])
        row = kept, batch[1], self.weights()
        self.noted.setdefault((stage, self.current_epoch), []).append(row)
        return nn.functional.cross_entropy(logits, batch[1])

    def training_step(self, batch, batch_idx):
        return self.note("train_online", batch)

    def validation_step(self, batch, batch_idx):
        self.note("val", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.3)


def together(rows):
    """What a stage has noted, in float64: inputs by layer, labels, and the weights that came last."""
    inputs = {
        name: torch.cat([row[name] for row, _, _ in rows]).double().numpy() for name in rows[0][0]
    }
    weights = {name: w.double().numpy() for name, w in rows[-1][2].items()}
    return inputs, torch.cat([y for _, y, _ in rows]).numpy(), weights


def reference(rows, bias=False):
    """All keys of the families layer and linear, less the value of chance, by module and key."""
    inputs, y, weights = together(rows)
    of_each = {}
    for name, h in inputs.items():
        module = "" if name == HEAD[-1] else f"{name}.in"
        of_each[module] = {f"layer/{key}": v for key, v in of_layer(h, y, weights[name]).items()}
        if name in HEAD:
            product = np.eye(10)
            for layer in reversed(HEAD[HEAD.index(name) :]):
                product = product @ weights[layer]
            of_each[module] |= {f"linear/{k}": v for k, v in of_head(h, y, product, bias).items()}
    return of_each


def of_layer(h, y, weight):
    means = oracle.class_means(h, y)
    centered = means - means.mean(0)
    most = min(*weight.shape, len(means))
    few = min(*weight.shape, len(means) - 1)
    return {
        "within_share": oracle.within_share(h, y),
        "within_share_classwise": oracle.within_share_classwise(h, y),
        "separation": oracle.separation(h, y),
        "effective_rank": oracle.effective_rank(h),
        "stable_rank": oracle.stable_rank(weight),
        "subspace_alignment": oracle.subspace_alignment(weight, means, most),
        "subspace_alignment_centered": oracle.subspace_alignment(weight, centered, few),
        "means_condition": oracle.means_condition(h, y),
        "weights_means_angle": oracle.weights_means_angle(weight, means),
    }


def of_head(h, y, product, bias):
    means = oracle.class_means(h, y)
    centered = means - means.mean(0)
    seen = centered if bias else means
    within = np.mean(((h - means[y]) ** 2).sum(1))
    return {
        "within_between_ratio": within / np.mean((centered**2).sum(1)),
        "weights_frame_distance": oracle.frame_distance(product, product, bias),
        "means_frame_distance": oracle.frame_distance(seen, seen, bias),
        "duality_frame_distance": oracle.frame_distance(product, seen, bias),
    }
