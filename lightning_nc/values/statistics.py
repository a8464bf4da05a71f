r"""Counts, means and scatters of features by class.

Notation of the whole package: ``B`` rows of a batch, ``C`` classes, ``d`` features; :math:`h_i` a
feature, :math:`y_i` its label, :math:`n_c` the number of samples of class c, :math:`N = \sum_c n_c`,
:math:`\mu_c` the mean of class c, :math:`\mu_G = \frac1C \sum_c \mu_c` the **unweighted** mean of the
class means, :math:`m_c = \mu_c - \mu_G`, :math:`w_c` row c of the classifier.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_nc.values.covariance import check_covariance, why_not_kept
from lightning_nc.values.errors import UndefinedMeasure, summarize
from lightning_nc.values.frame import Frame
from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.statistics_file import read_statistics


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    r"""Counts, means and scatters of features by class: all that NC1 to NC3 need of the data.

    ``merge`` is a commutative monoid up to rounding, with ``empty`` as its neutral element: the same
    algebra joins batches, ranks, shards and checkpoints. No method changes or aliases its inputs.

    Attributes:
        counts: :math:`n_c`, samples of each class.
        means: :math:`\mu_c` in float64, zero where a class has no sample.
        scatter: Pooled within-class scatter :math:`\sum_i (h_i-\mu_{y_i})(h_i-\mu_{y_i})^\top`, or
            None if only traces were asked for.
        sums_of_squares: :math:`\sum_{i: y_i=c} \|h_i-\mu_c\|^2` per class, the trace of its scatter.
        class_scatter: The scatter of each class, only when asked for (``covariance="per_class"``).

    Example:
        >>> h = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
        >>> y = torch.zeros(3, dtype=torch.long)
        >>> stats = ClassStatistics.from_batch(h, y, num_classes=1)
        >>> stats.means
        tensor([[3., 2.]], dtype=torch.float64)
        >>> stats.scatter
        tensor([[ 8., -4.],
                [-4.,  8.]], dtype=torch.float64)
    """

    counts: Int[Tensor, " C"]
    means: Float[Tensor, "C d"]
    scatter: Float[Tensor, "d d"] | None
    sums_of_squares: Float[Tensor, " C"]
    class_scatter: Float[Tensor, "C d d"] | None = None

    @classmethod
    def empty(
        cls,
        num_classes: int,
        num_features: int,
        covariance: str = "pooled",
        device: torch.device | str = "cpu",
    ) -> "ClassStatistics":
        """The neutral element of ``merge``: no samples.

        Args:
            num_classes: C.
            num_features: d.
            covariance: "pooled", "per_class" or "none" (traces only).
            device: Where the tensors live.

        Returns:
            Statistics with all counts zero.

        Raises:
            ValueError: If ``covariance`` is none of the three.
        """
        check_covariance(covariance)
        dtype = accumulator_dtype(device)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            counts=torch.zeros(num_classes, dtype=torch.int64, device=device),
            means=zeros(num_classes, num_features),
            scatter=None if covariance == "none" else zeros(num_features, num_features),
            sums_of_squares=zeros(num_classes),
            class_scatter=(
                zeros(num_classes, num_features, num_features) if covariance == "per_class" else None
            ),
        )

    @classmethod
    def from_batch(
        cls,
        features: Float[Tensor, "B d"],
        target: Int[Tensor, " B"],
        num_classes: int,
        covariance: str = "pooled",
    ) -> "ClassStatistics":
        """Statistics of one batch, by two passes over it in float64.

        Args:
            features: One feature per row.
            target: Labels in ``[0, num_classes)``.
            num_classes: C.
            covariance: "pooled", "per_class" or "none" (traces only).

        Returns:
            The statistics, on the device of ``features``.

        Raises:
            ValueError: If the lengths differ or a label is outside ``[0, num_classes)``.
        """
        if len(features) != len(target):
            raise ValueError(
                f"Expected one label per feature, but got {len(features)} features and "
                f"{len(target)} labels."
            )
        if len(target) and not 0 <= int(target.min()) <= int(target.max()) < num_classes:
            raise ValueError(
                f"Expected labels in [0, {num_classes}), but got labels from {int(target.min())} "
                f"to {int(target.max())}. Is num_classes too small, or do the labels start at 1?"
            )
        check_covariance(covariance)
        label = target.long()
        h = features.detach().to(accumulator_dtype(features.device))
        counts = torch.bincount(label, minlength=num_classes)
        sums = h.new_zeros(num_classes, h.shape[1]).index_add_(0, label, h)
        means = sums / counts.clamp(min=1)[:, None]
        r = h - means[label]
        class_scatter = None
        if covariance == "per_class":
            class_scatter = torch.stack([r[label == c].T @ r[label == c] for c in range(num_classes)])
        return cls(
            counts=counts,
            means=means,
            scatter=None if covariance == "none" else r.T @ r,
            sums_of_squares=h.new_zeros(num_classes).index_add_(0, label, r.square().sum(1)),
            class_scatter=class_scatter,
        )

    def merge(self, other: "ClassStatistics") -> "ClassStatistics":
        """Statistics of both samples together (Chan, Golub & LeVeque 1979).

        Args:
            other: Statistics of the same classes and features.

        Returns:
            New statistics; neither input is changed or referenced.

        Raises:
            ValueError: If the two differ in shape or in the scatters that they hold.
        """
        if self._signature() != other._signature():
            raise ValueError(
                f"Expected statistics of the same shape to merge, but got {self._signature()} and "
                f"{other._signature()}. Do they come from different layers or settings?"
            )
        counts = self.counts + other.counts
        delta = other.means - self.means
        total = counts.clamp(min=1).to(delta.dtype)
        means = self.means + delta * (other.counts / total)[:, None]
        # n_a n_b / n is 0 for a class that one side lacks, so its meaningless delta drops out
        weight = self.counts * (other.counts / total)
        scatter = class_scatter = None
        if self.scatter is not None and other.scatter is not None:
            scatter = torch.addmm(self.scatter, (delta * weight[:, None]).T, delta).add_(other.scatter)
        if self.class_scatter is not None and other.class_scatter is not None:
            outer = torch.einsum("c,ci,cj->cij", weight, delta, delta)
            class_scatter = self.class_scatter + other.class_scatter + outer
        return ClassStatistics(
            counts=counts,
            # a class that one side lacks keeps the other side's mean to the last bit
            means=torch.where((self.counts == 0)[:, None], other.means, means),
            scatter=scatter,
            sums_of_squares=self.sums_of_squares
            + other.sums_of_squares
            + weight * delta.square().sum(1),
            class_scatter=class_scatter,
        )

    def restrict(self, classes: Bool[Tensor, " C"]) -> "ClassStatistics":
        """The same statistics for some of the classes.

        The pooled scatter stays as it is, so only classes without samples should be left out.

        Args:
            classes: True for the classes to keep.

        Returns:
            Statistics with ``classes.sum()`` classes.
        """
        return ClassStatistics(
            counts=self.counts[classes],
            means=self.means[classes],
            scatter=self.scatter,
            sums_of_squares=self.sums_of_squares[classes],
            class_scatter=None if self.class_scatter is None else self.class_scatter[classes],
        )

    def to(self, device: torch.device | str) -> "ClassStatistics":
        """The same statistics on another device."""
        tensors: dict[str, Any] = {n: None if t is None else t.to(device) for n, t in self._tensors()}
        return ClassStatistics(**tensors)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics as plain tensors, readable with ``torch.load(weights_only=True)``."""
        torch.save(dict(self._tensors()), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ClassStatistics":
        """Read what :meth:`save` wrote, onto the CPU.

        Args:
            path: Of the file.

        Returns:
            The statistics.

        Raises:
            ValueError: If the file holds anything else.
        """
        return cls(**read_statistics(path))

    @property
    def num_classes(self) -> int:
        """C, seen or not."""
        return self.means.shape[0]

    @property
    def num_features(self) -> int:
        """The width d."""
        return self.means.shape[1]

    @property
    def seen(self) -> Bool[Tensor, " C"]:
        """True for the classes that have at least one sample."""
        return self.counts > 0

    @property
    def of_seen_classes(self) -> "ClassStatistics":
        """The same statistics without the classes that have no sample."""
        return self if bool(self.seen.all()) else self._of_seen_classes

    @cached_property
    def _of_seen_classes(self) -> "ClassStatistics":
        # where all are seen this is not kept: it would be a cycle of references, freed late
        return self.restrict(self.seen)

    @cached_property
    def num_samples(self) -> Int[Tensor, ""]:
        """N, the number of samples of all classes."""
        return self.counts.sum()

    @cached_property
    def global_mean(self) -> Float[Tensor, " d"]:
        r""":math:`\mu_G`, the unweighted mean of the class means."""
        self.require_all_seen()
        return self.means.mean(0)

    @cached_property
    def centered_means(self) -> Float[Tensor, "C d"]:
        r"""Row c is :math:`m_c = \mu_c - \mu_G`."""
        return self.means - self.global_mean

    @cached_property
    def frame(self) -> Frame:
        """The centered class means as a frame."""
        return Frame(self.centered_means)

    @cached_property
    def within_trace(self) -> Float[Tensor, ""]:
        r""":math:`\operatorname{tr} \Sigma_W`, with :math:`\Sigma_W` = scatter / N."""
        return self.sums_of_squares.sum() / self.num_samples

    @cached_property
    def between_trace(self) -> Float[Tensor, ""]:
        r""":math:`\operatorname{tr} \Sigma_B`, with :math:`\Sigma_B = \frac1C \sum_c m_c m_c^\top`."""
        m = self.centered_means.flatten()
        return m @ m / self.num_classes

    @property
    def within_covariance(self) -> Float[Tensor, "d d"]:
        r""":math:`\Sigma_W` = scatter / N, of which no copy is kept."""
        return self.require_scatter() / self.num_samples

    def require_scatter(self) -> Float[Tensor, "d d"]:
        """The pooled scatter, or an UndefinedMeasure that says why it was not kept."""
        if self.scatter is None:
            raise UndefinedMeasure(why_not_kept(self.num_features))
        return self.scatter

    def require_all_seen(self) -> None:
        """Raise a ValueError that names the classes without samples, if there are any."""
        if not bool(self.seen.all()):
            absent = (~self.seen).nonzero().flatten().tolist()
            raise ValueError(
                "Expected at least one sample of every class, but got none of "
                f"{summarize(absent, 'class', 'classes')}. Leave the unseen classes out with "
                "statistics.of_seen_classes."
            )

    def _tensors(self) -> Iterator[tuple[str, Tensor | None]]:
        return ((field.name, getattr(self, field.name)) for field in fields(self))

    def _signature(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(t.shape) for name, t in self._tensors() if t is not None}
