r"""What a stage with several labels per row leaves: tags, pairs of tags, and co-moments.

A row has a set S of tags, written as a multi-hot vector t of length K. Its multiplicity is m = \|S\|.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_nc.values.statistics import ClassStatistics

MOST_TAGS = 8
"""Rows with more tags are counted, and take part in nothing else."""


class TagDecisions(NamedTuple):
    """How the network decides on sets of tags: sums over rows, which add up across ranks.

    Attributes:
        known: Rows of which the network's scores are known.
        correct: Those of them on which it finds just the tags of the row.
        overlap: Over the known rows, the sum of the softmax mass on the tags of the row.
    """

    known: Float[Tensor, ""]
    correct: Float[Tensor, ""]
    overlap: Float[Tensor, ""]


class TagTallies(NamedTuple):
    """Counts of rows that are left out, and of those that take part in some formulas only.

    Attributes:
        non_finite: Rows left out for a NaN or infinite feature.
        without: Rows left out because they have no tag.
        not_binary: Rows left out because a label in them is neither 0 nor 1.
        too_many: Rows with more than :data:`MOST_TAGS` tags, of which only decisions are counted.
    """

    non_finite: Int[Tensor, ""]
    without: Int[Tensor, ""]
    not_binary: Int[Tensor, ""]
    too_many: Int[Tensor, ""]

    def lost(self) -> dict[str, int]:
        """How many rows were left out for what."""
        return {
            "a NaN or infinite feature": int(self.non_finite),
            "no tag": int(self.without),
            "a label that is neither 0 nor 1": int(self.not_binary),
        }


@dataclass(frozen=True, eq=False)
class TagMoments:
    """Co-moments of multi-hot tags t and features h, over the rows with one number of tags.

    Attributes:
        count: n, how many rows.
        tags: a, the sum of t.
        joint: A, the sum of t t'.
        cross: B, the sum of t (h - c)'.
        total: The sum of h - c.
        squares: The sum of ``|h - c|^2``.
        center: c. Near the features, so that nothing cancels.

    Example:
        >>> h, t = torch.tensor([[1.0], [4.0]]), torch.tensor([[1, 1, 0], [1, 0, 1]])
        >>> moments = TagMoments.of_rows(h, t)
        >>> moments.cross.flatten().tolist(), moments.around(torch.ones(1)).cross.flatten().tolist()
        ([5.0, 1.0, 4.0], [3.0, 0.0, 3.0])
    """

    count: Float[Tensor, ""]
    tags: Float[Tensor, " K"]
    joint: Float[Tensor, "K K"]
    cross: Float[Tensor, "K d"]
    total: Float[Tensor, " d"]
    squares: Float[Tensor, ""]
    center: Float[Tensor, " d"]

    @classmethod
    def of_rows(
        cls,
        features: Float[Tensor, "B d"],
        tags: Shaped[Tensor, "B K"],
        center: Float[Tensor, " d"] | None = None,
    ) -> "TagMoments":
        """Of rows, as the definitions have it, in float64.

        Args:
            features: h.
            tags: t.
            center: c. None: 0.

        Returns:
            The moments.
        """
        h, t = features.double(), tags.double()
        c = h.new_zeros(h.shape[1]) if center is None else center.to(h)
        x = h - c
        count = h.new_tensor(float(len(h)))
        return cls(count, t.sum(0), t.T @ t, t.T @ x, x.sum(0), x.square().sum(), c)

    @classmethod
    def of_pairs(
        cls,
        pairs: ClassStatistics,
        center: Float[Tensor, " d"],
        kept: Bool[Tensor, " P"] | None = None,
    ) -> "TagMoments":
        """Of the rows with two tags, from the statistics of their pairs: no sum of squares cancels.

        Args:
            pairs: In the order of ``torch.triu_indices(K, K, 1)``.
            center: c.
            kept: The pairs that count. None: all.

        Returns:
            The moments.
        """
        n = (pairs.counts if kept is None else pairs.counts * kept).to(pairs.means.dtype)
        x = pairs.means - center
        i, j = pair_tags(num_tags_of(len(n)), n.device).T
        num_tags = num_tags_of(len(n))
        joint = n.new_zeros(num_tags, num_tags)
        joint[i, j] = joint[j, i] = n
        tags = joint.sum(1)
        weighted = n[:, None] * x
        cross = x.new_zeros(num_tags, x.shape[1]).index_add_(0, i, weighted).index_add_(0, j, weighted)
        within = pairs.sums_of_squares if kept is None else pairs.sums_of_squares * kept
        squares = within.sum() + n @ x.square().sum(1)
        return cls(n.sum(), tags, joint + tags.diag(), cross, weighted.sum(0), squares, center)

    def around(self, center: Float[Tensor, " d"]) -> "TagMoments":
        """The same rows, around another center.

        Args:
            center: The new c.

        Returns:
            The moments.
        """
        step = self.center - center
        return replace(
            self,
            cross=self.cross + self.tags[:, None] * step,
            total=self.total + self.count * step,
            squares=self.squares + 2 * step @ self.total + self.count * step.square().sum(),
            center=center,
        )

    def merge(self, other: "TagMoments") -> "TagMoments":
        """Of the rows of both, around the center of this one.

        Args:
            other: Of other rows.

        Returns:
            The moments.
        """
        there = other.around(self.center)
        sums = {
            f.name: getattr(self, f.name) + getattr(there, f.name)
            for f in fields(self)
            if f.name != "center"
        }
        return TagMoments(center=self.center, **sums)

    def to(self, device: torch.device | str) -> "TagMoments":
        """The same on another device."""
        return TagMoments(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True, eq=False)
class TagStatistics:
    """Features by their sets of tags.

    Attributes:
        singles: Of the rows with exactly one tag, by that tag, seen or not.
        pairs: Of the rows with two, by pair, in the order of ``torch.triu_indices(K, K, 1)``. None:
            there are too many pairs for a mean of each.
        moments: Co-moments by multiplicity, from 2 on, of those that were seen.
    """

    singles: ClassStatistics
    pairs: ClassStatistics | None
    moments: Mapping[int, TagMoments]

    @property
    def num_tags(self) -> int:
        """K."""
        return self.singles.num_classes

    @property
    def pair_tags(self) -> Int[Tensor, "P 2"]:
        """The two tags of each pair."""
        return pair_tags(self.num_tags, self.singles.means.device)

    def to(self, device: torch.device | str) -> "TagStatistics":
        """The same on another device."""
        pairs = self.pairs and self.pairs.to(device)
        return TagStatistics(
            self.singles.to(device), pairs, {m: each.to(device) for m, each in self.moments.items()}
        )


def num_pairs(num_tags: int) -> int:
    """How many pairs of tags there are.

    Example:
        >>> num_pairs(80), num_tags_of(3160)
        (3160, 80)
    """
    return num_tags * (num_tags - 1) // 2


def num_tags_of(num_pairs: int) -> int:
    """How many tags have so many pairs."""
    return (1 + round((1 + 8 * num_pairs) ** 0.5)) // 2


def pair_slot(first: Int[Tensor, " B"], last: Int[Tensor, " B"], num_tags: int) -> Int[Tensor, " B"]:
    """The number of the pair of two tags, the smaller one first: its place in :func:`pair_tags`.

    Example:
        >>> pair_slot(torch.tensor([0, 1]), torch.tensor([2, 2]), num_tags=3)
        tensor([1, 2])
    """
    return first * (2 * num_tags - first - 1) // 2 + last - first - 1


def pair_tags(num_tags: int, device: torch.device | str = "cpu") -> Int[Tensor, "P 2"]:
    """The two tags of each pair, the smaller first.

    Example:
        >>> pair_tags(3).tolist()
        [[0, 1], [0, 2], [1, 2]]
    """
    return torch.triu_indices(num_tags, num_tags, 1, device=device).T
