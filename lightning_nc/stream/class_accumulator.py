"""Counts, means and scatters by class, a sample of the rows, and the network's own accuracy."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_nc.stream.accumulator import Labels, own_mode
from lightning_nc.stream.backlog import UNKNOWN, Backlog, Rows
from lightning_nc.stream.class_moments import ClassMoments
from lightning_nc.stream.row_accumulator import RowAccumulator, finite_rows
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.evidence import ClassEvidence
from lightning_nc.values.sample import FeatureSample, Tallies
from lightning_nc.values.statistics import ClassStatistics


class ClassAccumulator(RowAccumulator):
    """Streams the statistics of classes in one exact pass.

    Args:
        num_classes: C.
        num_features: d.
        labels: What a label means.
        covariance: "auto", "pooled", "per_class" or "none" (traces only).
        sample_rows: Rows of the sample, at most what 64 MiB hold.
        seed: Of the sample.
        device: Where everything is.

    Raises:
        ValueError: If scatters that were asked for by name do not fit into memory.
    """

    size_names: ClassVar[tuple[str, ...]] = ("classes", "features")

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        labels: Labels,
        covariance: str = "auto",
        sample_rows: int = 8192,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_features, labels, len(Tallies._fields), sample_rows, seed, device)
        with torch.inference_mode(False):
            self.moments = ClassMoments(num_classes, num_features, covariance, self.device)

    @property
    def sizes(self) -> tuple[int, int]:
        """C and d."""
        classes, width = self.moments.running.means.shape
        return classes, width

    def add(
        self,
        features: Float[Tensor, "B d"],
        target: Shaped[Tensor, " B"],
        predicted: Int[Tensor, " B"] | None = None,
    ) -> None:
        """Add rows that were checked.

        Args:
            features: One feature per label.
            target: Labels.
            predicted: The network's decisions, -1 where unknown; None: all of them are.
        """
        if predicted is None:
            predicted = torch.full_like(target, UNKNOWN, dtype=torch.int64)
        else:
            self.sample.knows_decisions()
        self._take_in(Rows(features.detach(), target, predicted.detach()))

    def sums(self) -> list[Tensor]:
        """Counts, sums and tallies."""
        self.settle()
        return [*self.moments.sums(), self.tallies]

    def rest(self) -> list[Tensor]:
        """The scatters, around this rank's means."""
        return self.moments.rest()

    def around(self, sums: list[Tensor]) -> list[Tensor]:
        """The scatters around the means of all ranks.

        Args:
            sums: Those of all ranks.

        Returns:
            What adds up to the scatters of all rows.
        """
        return self.moments.around(sums[:2])

    def merged(
        self, sums: list[Tensor], rest: list[Tensor], classifier: LinearClassifier | None = None
    ) -> ClassEvidence:
        """What all ranks have accumulated.

        Args:
            sums: Those of all ranks.
            rest: The scatters of all ranks.
            classifier: W, if it is known.

        Returns:
            The evidence; its sample is this rank's own.
        """
        *sums, tallies = sums
        told = Tallies(*tallies.round().to(torch.int64))
        return ClassEvidence(self.moments.merged(sums, rest), classifier, self.sample.value(), told)

    def value(self, classifier: LinearClassifier | None = None) -> ClassEvidence:
        """What this rank has accumulated, as values that later rows do not change.

        Args:
            classifier: W, if it is known.

        Returns:
            The evidence.
        """
        self.settle()
        tallies = Tallies(*self.tallies.clone())
        return ClassEvidence(self.moments.statistics(), classifier, self.sample.value(), tallies)

    def own(self) -> ClassEvidence:
        """This rank's rows, for use at once: nothing is copied, and there is no scatter."""
        self.settle()
        n = self.moments.running
        statistics = ClassStatistics(n.counts, n.means, None, n.sums_of_squares)
        return ClassEvidence(statistics, None, self.sample.peek(), Tallies(*self.tallies))

    def statistics(self) -> ClassStatistics:
        """A copy of the statistics of all rows so far."""
        self.settle()
        return self.moments.statistics()

    def sample_value(self) -> FeatureSample:
        """The sample of all rows so far."""
        self.settle()
        return self.sample.value()

    def merge(self, other: "ClassAccumulator") -> None:
        """Add what another one has accumulated, for instance over another shard of the data.

        Args:
            other: One of the same shape, which is not changed.

        Raises:
            ValueError: If the shapes differ.
        """
        self.settle()
        other.settle()
        joined = self.moments.peek().merge(other.moments.peek().to(self.device))
        self._leave_inference_mode()
        with own_mode(self.device):
            self.moments.copy_from(vars(joined))
            self.tallies += other.tallies.to(self.device)
            self.sample.merge(other.sample)

    def move(self, device: torch.device) -> None:
        """Go to another device, in float32 where it has no float64."""
        self.settle()
        self.moments.move(device)
        self.tallies = self.tallies.to(device)
        self.sample.move(device)
        self.device = device
        self._backlog = Backlog(self.sizes[1], device)

    def _moments(self) -> dict[str, Tensor]:
        return self.moments.kept()

    def _copy_from(self, states: Mapping[str, Tensor]) -> None:
        self.moments.copy_from(states)

    def _forget(self) -> None:
        self.moments.reset()

    def _settle(self) -> None:
        self.moments.settle()

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        self.moments.change(change)

    @property
    def _is_settled(self) -> bool:
        return self.moments.is_settled

    def _add(self, rows: Rows) -> None:
        h, predicted = rows.features, rows.predicted
        encoded = self._labels.encode(rows.target)
        finite = finite_rows(h)
        valid = encoded.counts & finite
        label = torch.where(valid, encoded.label, 0)
        self.moments.add(h, label, valid, rows_before=self.sample.seen)
        known, correct = valid & (predicted >= 0), valid & (predicted == label)
        non_finite = encoded.wanted & ~finite
        self.tallies += torch.stack([known, correct, non_finite, *encoded.left_out]).sum(1)
        self.sample.add(h, torch.where(valid, label, -1), predicted)
