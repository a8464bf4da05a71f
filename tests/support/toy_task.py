"""A task of another kind, from outside the package: real-valued targets, and their mean in each group.

The group of a row is told by its largest feature. What it logs is how far the two means are apart.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from lightning_nc.functional import Measure
from lightning_nc.stream.accumulator import Accumulator
from lightning_nc.tasks import Task
from lightning_nc.values import Evidence


@dataclass(frozen=True, eq=False)
class GroupEvidence(Evidence):
    group_counts: torch.Tensor
    group_means: torch.Tensor
    parts: ClassVar = ("group_counts", "group_means", "references")

    @property
    def num_samples(self):
        return int(self.group_counts.sum())


class GroupMeans(Accumulator):
    size_names: ClassVar = ("groups",)

    def __init__(self, groups, device):
        self.totals = torch.zeros(2, groups, dtype=torch.float64, device=device)

    @property
    def sizes(self):
        return (self.totals.shape[1],)

    def check(self, features, target):
        if len(features) != len(target):
            raise ValueError(f"Expected one target per row, but got {len(target)}.")
        return features, target.detach()

    def add(self, features, target, predicted=None):
        rows = torch.stack([torch.ones_like(target), target]).to(self.totals)
        self.totals.index_add_(1, features.argmax(1) % 2, rows)

    def reset(self):
        self.totals.zero_()

    def states(self):
        return {"totals": self.totals}

    def load(self, states):
        self.totals.copy_(states["totals"])

    def sums(self):
        return [self.totals.clone()]

    def merged(self, sums, rest, classifier=None):
        counts, totals = sums[0]
        return GroupEvidence(group_counts=counts, group_means=totals / counts.clamp(min=1))


@dataclass(frozen=True)
class Grouped(Task):
    evidence: ClassVar = GroupEvidence

    def sizes(self, num_features, num_rows):
        return (2,)

    def accumulator(self, sizes, device):
        return GroupMeans(sizes[0], device)

    def encode(self, target):
        raise NotImplementedError("this accumulator takes targets as they are")

    def decide(self, output):
        return output.reshape(len(output), -1)[:, 0].long()


def spread(group_means):
    """Distance of the two means."""
    return (group_means[1] - group_means[0]).abs()


MEASURE = Measure(
    "toy/spread", spread, ("group_means",), "distance of the means", "", "", min_classes=0
)
