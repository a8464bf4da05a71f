"""Rows of a stage, and counts of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureSample:
    """A uniform sample of the rows of a stage, behind NC4 and the pictures.

    Attributes:
        features: R features.
        target: Their labels; -1 marks a row that was left out (ignored label, non-finite feature).
        predicted: The network's own decisions on them, or None if they are not known.
        seen: How many rows of the stage the sample was drawn from, those left out included.
    """

    features: Float[Tensor, "R d"]
    target: Int[Tensor, " R"]
    predicted: Int[Tensor, " R"] | None
    seen: int

    def to(self, device: torch.device | str) -> "FeatureSample":
        """The same sample on another device."""
        return self._changed(lambda rows: rows.to(device))

    def copy(self) -> "FeatureSample":
        """The same sample in memory of its own."""
        return self._changed(torch.clone)

    def valid(self) -> "FeatureSample":
        """The rows whose label counts; the sample itself where that is all of them."""
        keep = self.target >= 0
        return self if bool(keep.all()) else self._changed(lambda rows: rows[keep])

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "FeatureSample":
        predicted = None if self.predicted is None else change(self.predicted)
        return FeatureSample(change(self.features), change(self.target), predicted, self.seen)


class Tallies(NamedTuple):
    """Counts of rows, kept on the device, in one int64 tensor each.

    Attributes:
        predicted: Rows of which the network's decision is known.
        correct: Those that the network got right.
        non_finite: Rows left out for a NaN or infinite feature.
        out_of_range: Rows left out for a label outside [0, C).
        fractional: Rows left out for a label that is no whole number.
    """

    predicted: Int[Tensor, ""]
    correct: Int[Tensor, ""]
    non_finite: Int[Tensor, ""]
    out_of_range: Int[Tensor, ""]
    fractional: Int[Tensor, ""]

    def lost(self) -> dict[str, int]:
        """How many rows were left out for what."""
        return {
            "a NaN or infinite feature": int(self.non_finite),
            "a label outside the classes": int(self.out_of_range),
            "a label that is no whole number": int(self.fractional),
        }


class ProbeDecisions(NamedTuple):
    """How the probe decides: sums over the sample, weighted by the rows that it stands for.

    Attributes:
        sampled: Weight of the rows in the sample; 0 where no probe could be fitted, too.
        correct: Weight of those that the probe gets right.
        compared: Weight of those of which the network's decision is known.
        agreed: Weight of these where the probe decides like the network.
    """

    sampled: Float[Tensor, ""]
    correct: Float[Tensor, ""]
    compared: Float[Tensor, ""]
    agreed: Float[Tensor, ""]


@dataclass(frozen=True, eq=False)
class Decisions:
    """How the network and the nearest class center decided: sums, which add up across ranks.

    ``sampled`` and what follows it come from the sample, weighted by the rows that it stands for.

    Attributes:
        predicted: Rows of which the network's decision is known.
        correct: Those of them that the network got right.
        sampled: Weight of the rows in the sample.
        center_correct: Weight of those that the nearest class center gets right.
        compared: Weight of the sampled rows of which the network's decision is known.
        mismatched: Weight of those where it is not the nearest class center's.
    """

    predicted: Float[Tensor, ""]
    correct: Float[Tensor, ""]
    sampled: Float[Tensor, ""]
    center_correct: Float[Tensor, ""]
    compared: Float[Tensor, ""]
    mismatched: Float[Tensor, ""]

    def as_vector(self) -> Float[Tensor, " 6"]:
        """All of them as one tensor, in their order."""
        return torch.stack(list(vars(self).values()))
