"""Batches with labels in other places, or with rows that do not count."""

import torch
from support.heads_parts import ROWS, D, Head, balanced, truth_of
from torch import nn
from torch.nn import functional as F


class Graph:
    """A batch as graph packages have it: one graph, whose nodes are split by masks."""

    def __init__(self):
        self.y = balanced(48)
        self.x = torch.randn(48, 5) + 1.5 * F.one_hot(self.y, 5)
        part = torch.arange(48) % 3
        self.train_mask, self.val_mask = part < 2, part == 2
        self.train_index, self.val_index = (m.nonzero().flatten() for m in (self.train_mask, part == 2))


class Nodes(Head):
    masks = ("train_mask", "train_mask")
    refused = "target"

    def batch(self):
        return Graph()

    def loss(self, batch):
        mask = getattr(batch, self.masks[not self.training])
        return F.cross_entropy(self.head(self.body(batch.x))[mask], batch.y[mask])

    def truth(self, batch):
        mask = getattr(batch, self.masks[not self.training])
        return truth_of(self.body(batch.x)[mask], batch.y[mask], self.head)


class NodesByStage(Nodes):
    masks = ("train_mask", "val_mask")


class NodesByNumber(Nodes):
    masks = ("train_index", "val_index")


class Deep(Head):
    refused = "target"

    def batch(self):
        x, y = super().batch()
        return {"image": x, "meta": {"labels": {"fine": y, "coarse": y // 2}}}

    def loss(self, batch):
        x, y = batch["image"], batch["meta"]["labels"]["fine"]
        return F.cross_entropy(self.head(self.body(x)), y)

    def truth(self, batch):
        return truth_of(self.body(batch["image"]), batch["meta"]["labels"]["fine"], self.head)


class Several(Head):
    def __init__(self):
        super().__init__()
        self.coarse = nn.Linear(D, 3)

    def batch(self):
        x, y = super().batch()
        return {"x": x, "fine": y, "coarse": y.clamp(max=2)}

    def loss(self, batch):
        h = self.body(batch["x"])
        heads = zip((self.head, self.coarse), (batch["fine"], batch["coarse"]), strict=True)
        return sum(F.cross_entropy(layer(h), y) for layer, y in heads)

    def truths(self, batch):
        h = self.body(batch["x"])
        return [truth_of(h, batch["fine"], self.head), truth_of(h, batch["coarse"], self.coarse)]


class Rare(Head):
    least, says = 3, r"with fewer than min_count = 3 rows left out"

    def batch(self):
        y = balanced(ROWS) % 3
        y[0] = 3
        return torch.randn(ROWS, 5) + 1.5 * F.one_hot(y, 5), y


class TwoLoaders(Head):
    loaders = ("train", "val")
