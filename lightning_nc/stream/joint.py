"""Centered joint moments of features, of features of length 1, and of targets that are numbers."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_nc.stream.accumulator import Labels
from lightning_nc.stream.backlog import UNKNOWN, Rows
from lightning_nc.stream.class_moments import ClassMoments
from lightning_nc.stream.memory import entries_at_once, free_bytes
from lightning_nc.stream.row_accumulator import RowAccumulator, finite_rows
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.covariance import scatter_bytes
from lightning_nc.values.joint import JointMoments, unit_rows, wrong_head
from lightning_nc.values.regression import RegressionEvidence, RegressionTallies
from lightning_nc.values.statistics import ClassStatistics


class JointAccumulator(RowAccumulator):
    r"""Streams what a regression's measures rest on, in one exact pass.

    The rows (h, y) are those of a single class, and so are :math:`h / \|h\|`. All of it is in float64:
    a collapsed direction has a millionth of the variance, which float32 products of rows do not hold.

    Args:
        num_targets: n.
        num_features: d.
        labels: Which rows count.
        covariance: "auto", or "pooled", which asks whether the products fit into memory.
        sample_rows: Rows of the sample, at most what 64 MiB hold.
        seed: Of the sample.
        device: Where everything is.

    Raises:
        ValueError: If products that were asked for by name do not fit into memory.
    """

    size_names: ClassVar[tuple[str, ...]] = ("targets", "features")

    def __init__(
        self,
        num_targets: int,
        num_features: int,
        labels: Labels,
        covariance: str = "auto",
        sample_rows: int = 8192,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            num_features, labels, len(RegressionTallies._fields), sample_rows, seed, device
        )
        if covariance == "pooled":
            _require_room(num_targets, num_features, self.device)
        with torch.inference_mode(False):
            both = num_features + num_targets
            self.joint = ClassMoments(1, both, covariance, self.device, in_float64=True)
            self.unit = ClassMoments(1, num_features, covariance, self.device, in_float64=True)

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of targets and features: n and d."""
        return self.joint.running.means.shape[1] - self._width, self._width

    def check(
        self, features: Float[Tensor, "*rows d"], target: Shaped[Tensor, "..."]
    ) -> tuple[Float[Tensor, "B d"], Shaped[Tensor, "B n"]]:
        """Features and targets as rows, after a check that they fit; nothing is added.

        Args:
            features: One feature per row of targets.
            target: Targets, the numbers of a row last.

        Returns:
            The same, with one leading dimension.

        Raises:
            ValueError: If shapes, lengths or devices do not fit.
        """
        num_targets, _ = self.sizes
        if target.ndim and target.shape[-1] != num_targets:
            raise wrong_head(num_targets, target.shape[-1])
        return super().check(features, target)

    def add(
        self,
        features: Float[Tensor, "B d"],
        target: Shaped[Tensor, "B n"],
        predicted: Shaped[Tensor, "B ..."] | None = None,
    ) -> None:
        """Add rows that were checked.

        Args:
            features: One feature per row of targets.
            target: Targets.
            predicted: Not used: no measure rests on the network's own output.
        """
        unknown = torch.full_like(target[:, 0], UNKNOWN, dtype=torch.int64)
        self._take_in(Rows(features.detach(), target, unknown))

    def sums(self) -> list[Tensor]:
        """Counts, sums and tallies."""
        self.settle()
        return [*self.joint.sums(), *self.unit.sums(), self.tallies]

    def rest(self) -> list[Tensor]:
        """The centered products, around this rank's means."""
        return [*self.joint.rest(), *self.unit.rest()]

    def around(self, sums: list[Tensor]) -> list[Tensor]:
        """The centered products, around the means of all ranks.

        Args:
            sums: Those of all ranks.

        Returns:
            What adds up to those of all rows.
        """
        return [*self.joint.around(sums[:2]), *self.unit.around(sums[2:4])]

    def merged(
        self, sums: list[Tensor], rest: list[Tensor], classifier: LinearClassifier | None = None
    ) -> RegressionEvidence:
        """What all ranks have accumulated.

        Args:
            sums: Those of all ranks.
            rest: The centered products of all ranks.
            classifier: The head, if it is known.

        Returns:
            The evidence; its sample is this rank's own.
        """
        joint = _joint_moments(
            self.joint.merged(sums[:2], rest[:2]), self.unit.merged(sums[2:4], rest[2:])
        )
        told = RegressionTallies(*sums[4].round().to(torch.int64))
        return RegressionEvidence(joint, classifier, self.sample.value(), told)

    def value(self, classifier: LinearClassifier | None = None) -> RegressionEvidence:
        """What this rank has accumulated, as values that later rows do not change.

        Args:
            classifier: The head, if it is known.

        Returns:
            The evidence.
        """
        self.settle()
        joint = _joint_moments(self.joint.statistics(), self.unit.statistics())
        tallies = RegressionTallies(*self.tallies.clone())
        return RegressionEvidence(joint, classifier, self.sample.value(), tallies)

    def own(self) -> RegressionEvidence:
        """This rank's rows, for use at once: nothing is copied."""
        self.settle()
        joint = _joint_moments(self.joint.peek(), self.unit.peek())
        return RegressionEvidence(joint, None, self.sample.peek(), RegressionTallies(*self.tallies))

    def _named(self) -> tuple[tuple[str, ClassMoments], tuple[str, ClassMoments]]:
        return ("joint_", self.joint), ("unit_", self.unit)

    def _moments(self) -> dict[str, Tensor]:
        return {
            prefix + name: state
            for prefix, moments in self._named()
            for name, state in moments.kept().items()
        }

    def _copy_from(self, states: Mapping[str, Tensor]) -> None:
        for prefix, moments in self._named():
            moments.copy_from({name: states[prefix + name] for name in moments.kept()})

    def _forget(self) -> None:
        for _, moments in self._named():
            moments.reset()

    def _settle(self) -> None:
        for _, moments in self._named():
            moments.settle()

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        for _, moments in self._named():
            moments.change(change)

    @property
    def _is_settled(self) -> bool:
        return self.joint.is_settled and self.unit.is_settled

    def _add(self, rows: Rows) -> None:
        h, y = rows.features, rows.target
        encoded = self._labels.encode(y)
        finite = finite_rows(h)
        valid = encoded.counts & finite
        has_length = (h != 0).any(1)
        # in pieces, since all of it is copied to float64
        most = max(1, entries_at_once(self.device) // sum(self.sizes))
        for start in range(0, len(h), most):
            i = slice(start, start + most)
            self._add_moments(h[i], y[i], valid[i], has_length[i], self.sample.seen + start)
        whole = valid & (y == y.round()).all(1)
        counted = [encoded.wanted & ~finite, *encoded.left_out, valid & ~has_length, whole]
        self.tallies += torch.stack(counted).sum(1)
        self.sample.add(h, torch.where(valid, 0, -1), rows.predicted)

    def _add_moments(
        self,
        h: Float[Tensor, "B d"],
        y: Shaped[Tensor, "B n"],
        valid: Bool[Tensor, " B"],
        has_length: Bool[Tensor, " B"],
        rows_before: int,
    ) -> None:
        h = h.to(self.joint.running.means.dtype)
        label = torch.zeros_like(valid, dtype=torch.int64)
        self.joint.add(torch.cat([h, y.to(h)], 1), label, valid, rows_before)
        self.unit.add(unit_rows(h), label, valid & has_length, rows_before)


def joint_bytes(num_targets: int, num_features: int) -> int:
    """Bytes of the centered products of a module, in float64.

    Example:
        >>> joint_bytes(num_targets=0, num_features=512)
        4194304
    """
    return scatter_bytes(num_features + num_targets) + scatter_bytes(num_features)


def _require_room(num_targets: int, num_features: int, device: torch.device) -> None:
    """Raise a ValueError where the products, and the copy that a stage leaves, do not fit."""
    kept, free = joint_bytes(num_targets, num_features), free_bytes(device)
    if free is not None and 5 * kept // 2 > free:
        raise ValueError(
            f"Expected covariance='pooled' to fit into memory, but the centered products of "
            f"{num_features} features and {num_targets} targets need {kept:,} bytes, {5 * kept // 2:,} "
            f"with scratch and the copy that a stage leaves, and {free:,} are free on {device}. "
            "Measure a narrower layer, or pool it to fewer features."
        )


def _joint_moments(joint: ClassStatistics, unit: ClassStatistics) -> JointMoments:
    d = unit.num_features
    assert joint.scatter is not None
    assert unit.scatter is not None
    return JointMoments(
        count=joint.counts[0],
        feature_mean=joint.means[0, :d],
        target_mean=joint.means[0, d:],
        feature_scatter=joint.scatter[:d, :d],
        cross_scatter=joint.scatter[:d, d:],
        target_scatter=joint.scatter[d:, d:],
        unit_count=unit.counts[0],
        unit_mean=unit.means[0],
        unit_scatter=unit.scatter,
    )
