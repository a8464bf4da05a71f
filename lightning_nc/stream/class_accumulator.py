"""Counts, means and scatters by class, a sample of the rows, and the network's own accuracy."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_nc.stream.accumulator import Accumulator, Labels, own_mode, wrong_number
from lightning_nc.stream.backlog import UNKNOWN, Backlog, Rows
from lightning_nc.stream.class_moments import ClassMoments, require_same_shapes
from lightning_nc.stream.row_sample import RowSample
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.evidence import ClassEvidence
from lightning_nc.values.sample import FeatureSample, Tallies
from lightning_nc.values.statistics import ClassStatistics


class ClassAccumulator(Accumulator):
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
        self.device = torch.empty(0, device=device).device
        self._labels = labels
        self._labels_are_known = False
        with torch.inference_mode(False):
            self.moments = ClassMoments(num_classes, num_features, covariance, self.device)
            self.tallies = torch.zeros(len(Tallies._fields), dtype=torch.int64, device=self.device)
            self.sample = RowSample(num_features, sample_rows, seed, self.device)
        self._backlog = Backlog(num_features, self.device)

    @property
    def sizes(self) -> tuple[int, int]:
        """C and d."""
        classes, width = self.moments.running.means.shape
        return classes, width

    def check(
        self, features: Float[Tensor, "*rows d"], target: Shaped[Tensor, "..."]
    ) -> tuple[Float[Tensor, "B d"], Shaped[Tensor, " B"]]:
        """Features and labels as rows, after a check that they fit; nothing is added.

        Args:
            features: One feature per label.
            target: Labels.

        Returns:
            The same, with one leading dimension.

        Raises:
            ValueError: If shapes, lengths or dtypes do not fit.
        """
        _, width = self.sizes
        if features.ndim < 2 or features.shape[-1] != width:
            raise ValueError(
                f"Expected features of shape (B, {width}), but got "
                f"{tuple(features.shape)}. Are they the classifier's input?"
            )
        if features.device != self.device:
            raise ValueError(
                f"Expected features on {self.device}, where the metric is, but got them on "
                f"{features.device}. Move the metric with .to(features.device)."
            )
        h = features.reshape(-1, width)
        if target.numel() != h.shape[0]:
            raise wrong_number(h, target)
        y = target.detach().reshape(-1).to(h.device)
        if not self._labels_are_known:
            self._labels.require(y)
            self._labels_are_known = True
        return h, y

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
        if target.shape[0] == 0:
            return
        self._leave_inference_mode()
        rows = Rows(features.detach(), target, predicted.detach())
        if self._backlog.add(rows):
            return
        with own_mode(self.device):
            self._catch_up()
            if not self._backlog.add(rows):
                self._add(rows)

    def reset(self) -> None:
        """Forget all rows, and keep the memory for others."""
        self._leave_inference_mode()
        self._backlog.clear()
        with own_mode(self.device):
            self.moments.reset()
            self.tallies.zero_()
            self.sample.reset()

    def states(self) -> dict[str, Tensor]:
        """All that it holds, each tensor whole and readable by itself."""
        self.settle()
        return {**self.moments.kept(), "tallies": self.tallies, **self.sample.states()}

    def load(self, states: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`states`, which are copied.

        Args:
            states: Of an accumulator of the same shape.

        Raises:
            ValueError: If they are those of something else; nothing is changed.
        """
        require_same_shapes(states, {**self.moments.kept(), "tallies": self.tallies})
        self.sample.require_same_shapes(states)
        self.reset()
        with own_mode(self.device):
            self.moments.copy_from(states)
            self.tallies.copy_(states["tallies"])
            self.sample.load(states)

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

    def _leave_inference_mode(self) -> None:
        """States that were copied in inference mode can only be changed there: copy them once more."""
        if self.moments.is_inference:
            with torch.inference_mode(False), torch.no_grad():
                self.moments.change(torch.clone)
                self.tallies = self.tallies.clone()
                self.sample.leave_inference_mode()
                self._backlog.leave_inference_mode()

    def settle(self) -> None:
        """Bring the states up to date."""
        if len(self._backlog) == 0 and self.moments.is_settled:
            return
        self._leave_inference_mode()
        with own_mode(self.device):
            self._catch_up()
            self.moments.settle()

    def _catch_up(self) -> None:
        if len(self._backlog):
            self._add(self._backlog.take())

    def _add(self, rows: Rows) -> None:
        h, predicted = rows.features, rows.predicted
        encoded = self._labels.encode(rows.target)
        finite = (h.amax(1) < torch.inf) & (h.amin(1) > -torch.inf)  # False for NaN
        valid = encoded.counts & finite
        label = torch.where(valid, encoded.label, 0)
        self.moments.add(h, label, valid, rows_before=self.sample.seen)
        known, correct = valid & (predicted >= 0), valid & (predicted == label)
        non_finite = encoded.wanted & ~finite
        self.tallies += torch.stack([known, correct, non_finite, *encoded.left_out]).sum(1)
        self.sample.add(h, torch.where(valid, label, -1), predicted)
