"""What the networks of docs/models.md have in common."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

C, D, ROWS = 4, 6, 16
IGNORED, VOID, PAD = -100, 255, 0


class Truth(NamedTuple):
    """Rows of a batch, those with labels below 0 left out; W and b where there is a head."""

    h: Tensor
    y: Tensor
    predicted: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


def truth_of(h, y, layer, logits=None):
    """Of a linear layer, or of a matrix, that decides by W h + b."""
    weight = layer if isinstance(layer, Tensor) else layer.weight.flatten(1)
    bias = None if isinstance(layer, Tensor) else layer.bias
    h, y = h.reshape(-1, h.shape[-1]), y.reshape(-1)
    logits = F.linear(h, weight, bias) if logits is None else logits
    return Truth(h, y, logits.argmax(-1).reshape(-1), weight, bias)


class Head(nn.Module):
    """A body of one hidden layer; batches are vectors around their class."""

    unseen = ()  # stages in which the network's decisions are not known
    loaders = ("val",)
    least = 1  # rows of a class that counts
    refused = None  # what is said where nothing is set; None: it works, too
    says = None  # a warning
    package = None  # which has to be installed

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, D), nn.ReLU())
        self.head = nn.Linear(D, C)

    def batch(self):
        y = balanced(ROWS)
        return torch.randn(ROWS, 5) + 1.5 * F.one_hot(y, 5), y

    def logits(self, batch):
        return self.head(self.body(batch[0]))

    def loss(self, batch):
        return F.cross_entropy(self.logits(batch), batch[1])

    def forward(self, batch):
        return self.loss(batch)

    def truths(self, batch):
        """For each callback."""
        return [self.truth(batch)]

    def truth(self, batch):
        return truth_of(self.body(batch[0]), batch[1], self.head)


def balanced(*shape):
    """Labels of all classes, in any order."""
    size = torch.Size(shape).numel()
    return (torch.randperm(size) % C).reshape(shape)
