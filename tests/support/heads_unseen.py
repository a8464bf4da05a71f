"""Networks whose head nobody sees, or that have none."""

import torch
from support.heads_parts import C, D, Head, Truth, truth_of
from torch import nn
from torch.nn import functional as F


class Unseen(Head):
    """Applies its weight as a function."""

    unseen = ("train_online",)
    refused = "features"


class Fused(Unseen):
    def logits(self, batch):
        return F.linear(self.body(batch[0]), self.head.weight, self.head.bias)


class Parameter(Unseen):
    def __init__(self):
        super().__init__()
        self.head = nn.Parameter(0.3 * torch.randn(C, D))

    def logits(self, batch):
        return self.body(batch[0]) @ self.head.T


class NormalizedSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(0.3 * torch.randn(D, C))

    def forward(self, h, y):
        return F.cross_entropy(h @ self.W, y)


class Columns(Unseen):
    def __init__(self):
        super().__init__()
        del self.head
        self.criterion = NormalizedSoftmax()

    def loss(self, batch):
        return self.criterion(self.body(batch[0]), batch[1])

    def truth(self, batch):
        return truth_of(self.body(batch[0]), batch[1], self.criterion.W.T)


class ArcFace(nn.Module):
    """Adds an angle to that of the right class."""

    def __init__(self, scale=8.0, margin=0.2):
        super().__init__()
        self.weight, self.scale, self.margin = nn.Parameter(torch.randn(C, D)), scale, margin

    def forward(self, h, y):
        cosine = F.linear(F.normalize(h), F.normalize(self.weight))
        angle = cosine.clamp(-0.999, 0.999).acos() + self.margin
        logits = torch.where(F.one_hot(y, C).bool(), angle.cos(), cosine)
        return F.cross_entropy(self.scale * logits, y), cosine


class Margin(Head):
    refused = "features"

    def __init__(self):
        super().__init__()
        self.head = ArcFace()

    def loss(self, batch):
        loss, cosine = self.head(self.body(batch[0]), batch[1])
        return {"loss": loss, "cosine": cosine}

    def truth(self, batch):
        h, weight = self.body(batch[0]), self.head.weight
        return truth_of(h, batch[1], weight, F.normalize(h) @ F.normalize(weight).T)


class Headless(Head):
    refused = "classifier"

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(D, 3)

    def loss(self, batch):
        z, y = F.normalize(self.head(self.body(batch[0]))), batch[1]
        alike = (y[:, None] == y).float().fill_diagonal_(0)
        return -(F.log_softmax(5 * z @ z.T, 1) * alike).mean()

    def truth(self, batch):
        return Truth(self.body(batch[0]), batch[1])


class Buffer(Head):
    refused = "classifier"

    def __init__(self):
        super().__init__()
        del self.head
        self.register_buffer("etf", torch.randn(C, D))

    unseen = ("train_online",)

    def logits(self, batch):
        return self.body(batch[0]) @ self.etf.T

    def truth(self, batch):
        return truth_of(self.body(batch[0]), batch[1], self.etf)


class Views(Headless):
    """Two views of each image, in two forwards."""

    refused = "classifier"

    def loss(self, batch):
        one, other = (F.normalize(self.head(self.body(x))) for x in (batch[0], batch[0] + 0.1))
        return -F.log_softmax(5 * one @ other.T, 1).diagonal().mean()

    def truth(self, batch):
        x, y = batch
        return Truth(torch.cat([self.body(x), self.body(x + 0.1)]), y.repeat(2))
