r"""Immutable values: what a stage of training leaves behind, and nothing that computes a measure.

Notation of the whole package: ``B`` rows of a batch, ``C`` classes, ``d`` features; :math:`h_i` a
feature, :math:`y_i` its label, :math:`n_c` the number of samples of class c, :math:`N = \sum_c n_c`,
:math:`\mu_c` the mean of class c, :math:`\mu_G = \frac1C \sum_c \mu_c` the **unweighted** mean of the
class means, :math:`m_c = \mu_c - \mu_G`, :math:`w_c` row c of the classifier.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_nc.stream.products import gram

PAIRWISE_CLASSES = 2048
"""Above this many classes the pairwise measures look at a seeded sample of this many classes."""


FLOAT32_EPS = torch.finfo(torch.float32).eps
_MANY_LOGITS = 2048


class UndefinedMeasure(ValueError):  # noqa: N818 - a state of the data, not a fault
    """A measure has no meaning on these data; its key is left out and the message says why."""


def accumulator_dtype(device: torch.device | str) -> torch.dtype:
    """Dtype in which means and sums are kept: float64, but float32 where the device has none (MPS).

    Example:
        >>> accumulator_dtype("cpu")
        torch.float64
    """
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


@dataclass(frozen=True, eq=False)
class Frame:
    r"""C vectors in :math:`\mathbb{R}^d`, with their Gram matrix and cosines computed once.

    The centered class means are one frame, the rows of the classifier another; NC2 compares either
    with the simplex equiangular tight frame (ETF). Above :data:`PAIRWISE_CLASSES` vectors, what is
    pairwise is computed on a seeded uniform sample of that many of them.

    Attributes:
        vectors: One vector per row, in the order of the classes.

    Example:
        >>> frame = Frame(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> frame.norms
        tensor([3., 4.], dtype=torch.float64)
        >>> frame.cosines
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """

    vectors: Float[Tensor, "C d"]

    def __post_init__(self) -> None:
        dtype = accumulator_dtype(self.vectors.device)
        object.__setattr__(self, "vectors", self.vectors.detach().to(dtype))

    @property
    def num_vectors(self) -> int:
        """C, the number of vectors, also where the pairs are a sample."""
        return self.vectors.shape[0]

    @cached_property
    def norms(self) -> Float[Tensor, " C"]:
        """Euclidean norm of each vector."""
        return self.vectors.norm(dim=1)

    @cached_property
    def sampled(self) -> Int[Tensor, " k"]:
        """Indices of the vectors among which pairs are formed: all, or a seeded sample of them."""
        if self.num_vectors <= PAIRWISE_CLASSES:
            return torch.arange(self.num_vectors, device=self.vectors.device)
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(self.num_vectors, generator=generator)[:PAIRWISE_CLASSES]
        return chosen.sort().values.to(self.vectors.device)

    def of_sample(self, rows: Float[Tensor, "C d"]) -> Float[Tensor, "k d"]:
        """Those of one row per vector that belong to the sampled ones; no copy where that is all."""
        return rows if len(self.sampled) == len(rows) else rows[self.sampled]

    @cached_property
    def gram(self) -> Float[Tensor, "k k"]:
        """Inner products of the sampled vectors."""
        return gram(self.of_sample(self.vectors))

    @cached_property
    def squared_distances(self) -> Float[Tensor, "k k"]:
        """Between the sampled vectors; 0 where rounding is all that tells two of them apart."""
        squares = self.gram.diagonal()
        sums = squares[:, None] + squares
        distances = sums - 2 * self.gram
        return distances.masked_fill_(distances < 16 * torch.finfo(sums.dtype).eps * sums, 0)

    @cached_property
    def cosines(self) -> Float[Tensor, "k k"]:
        """Cosines between the sampled vectors; NaN where a vector is zero."""
        norms = self.norms[self.sampled]
        return self.gram / torch.outer(norms, norms)


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
            scatter = self.scatter + other.scatter + (delta * weight[:, None]).T @ delta
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
        tensors = {name: None if t is None else t.to(device) for name, t in self._tensors()}
        return _built(ClassStatistics, **tensors)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics as plain tensors, readable with ``torch.load(weights_only=True)``."""
        torch.save(dict(self._tensors()), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ClassStatistics":
        """Read what :meth:`save` wrote, onto the CPU."""
        return cls(**torch.load(path, map_location="cpu", weights_only=True))

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
    def means_rounding(self) -> Float[Tensor, ""]:
        r"""The largest singular value that rounding the means to float32 can make of nothing.

        :math:`\epsilon_{32} \|[\mu_1 \dots \mu_C]\|_F`, a bound on the spectral norm of such a
        perturbation; of the means as they are, not centered.
        """
        return FLOAT32_EPS * self.means.norm()

    @cached_property
    def centered_means_cholesky(self) -> Float[Tensor, "k k"] | None:
        r"""Cholesky factor of a Gram matrix of the centered means, if all of them count.

        Of :math:`M M^\top + \frac{s}{C} 1 1^\top`, where the rows of M add up to 0 and s is any
        positive number, or of :math:`M^\top M` if C > d. None unless all min(C - 1, d) singular values
        are certain to exceed :attr:`means_rounding` and to be precise as roots of what a Gram matrix
        holds: in a tenth of the time of an eigendecomposition this tells what it would tell.
        """
        if self.num_classes == 1:
            return None
        products = self._gram_of_centered_means
        if self.num_classes <= self.num_features:
            products = products + products.trace() / (self.num_classes - 1) / self.num_classes
        precise = _least_share(products) * products.norm().sqrt()
        least = torch.maximum(self.means_rounding.to(precise), precise).square()
        margin = products.clone()
        margin.diagonal().sub_(least)
        # all eigenvalues of a symmetric matrix are positive just where it has a Cholesky factor
        certain = torch.linalg.cholesky_ex(margin).info == 0
        factor, info = torch.linalg.cholesky_ex(products)
        return factor if bool(certain & (info == 0) & least.isfinite()) else None

    @cached_property
    def _gram_of_centered_means(self) -> Float[Tensor, "k k"]:
        """Of their rows where C <= d, else of their columns: the smaller one."""
        m = self.frame.vectors
        if self.num_classes > self.num_features:
            return gram(m.T)
        all_pairs = len(self.frame.sampled) == len(m)
        return self.frame.gram if all_pairs else gram(m)  # NC2 needs the former, too

    @cached_property
    def centered_means_svd(self) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
        """Singular values, descending, and right singular vectors (rows) of the centered means.

        By the eigenvalues of a Gram matrix, ten times as fast, where the squares that it holds are
        precise enough; without the singular value that is 0 because the rows add up to 0.
        """
        m = self.frame.vectors
        wide = self.num_classes <= self.num_features
        k = min(self.num_classes - 1, self.num_features)
        squares, vectors = torch.linalg.eigh(self._gram_of_centered_means)
        values = squares.flip(0)[:k].clamp(min=0).sqrt()
        if k and bool(values[-1] > _least_share(squares) * values[0]):
            vectors = vectors.flip(1)[:, :k].T
            return values, (vectors @ m) / values[:, None] if wide else vectors
        if not wide:
            m = torch.linalg.qr(m, mode="r").R  # the same values and vectors, of a d x d matrix
        _, values, vectors = torch.linalg.svd(m, full_matrices=False)
        return values, vectors

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
        return self.centered_means.square().sum() / self.num_classes

    @cached_property
    def within_covariance(self) -> Float[Tensor, "d d"]:
        r""":math:`\Sigma_W` = scatter / N."""
        if self.scatter is None:
            raise UndefinedMeasure(
                "the within-class covariance was not kept (covariance='none'); use 'pooled'"
            )
        return self.scatter / self.num_samples

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


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    r"""The last linear layer: :math:`W h + b`.

    A single row (a binary head, ``Linear(d, 1)``) is read as the two rows :math:`-w/2, +w/2`, with
    bias :math:`-b/2, +b/2`: the same decisions, and two classes.

    Attributes:
        weight: W, row c belongs to class c.
        bias: b, or None.

    Example:
        >>> LinearClassifier(torch.tensor([[2.0, 4.0]]), torch.tensor([1.0])).weight
        tensor([[-1., -2.],
                [ 1.,  2.]])
    """

    weight: Float[Tensor, "C d"]
    bias: Float[Tensor, " C"] | None = None

    def __post_init__(self) -> None:
        for name in ("weight", "bias"):
            value = getattr(self, name)
            if value is not None:
                value = value.detach()
                if self.weight.shape[0] == 1 or (name == "bias" and value.shape[0] == 1):
                    value = torch.cat([-value / 2, value / 2])
                object.__setattr__(self, name, value)

    @property
    def num_classes(self) -> int:
        """C, the rows of W."""
        return self.weight.shape[0]

    @cached_property
    def frame(self) -> Frame:
        """The rows of W, not centered, as a frame."""
        return Frame(self.weight)

    def restrict(self, classes: Bool[Tensor, " C"]) -> "LinearClassifier":
        """The rows of some of the classes."""
        bias = None if self.bias is None else self.bias[classes]
        # a single row left over is one class, not a binary head
        return _built(LinearClassifier, weight=self.weight[classes], bias=bias)

    def to(self, device: torch.device | str) -> "LinearClassifier":
        """The same classifier on another device."""
        bias = None if self.bias is None else self.bias.to(device)
        return _built(LinearClassifier, weight=self.weight.to(device), bias=bias)

    def snapshot(self) -> "LinearClassifier":
        """A copy that later training steps do not change."""
        bias = None if self.bias is None else self.bias.clone()
        return _built(LinearClassifier, weight=self.weight.clone(), bias=bias)


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


@dataclass(frozen=True, eq=False)
class Accumulated:
    """All that one module has left over one stage: of this rank's rows, or of all ranks'.

    Attributes:
        statistics: Counts, means and scatters by class.
        sample: A sample of this rank's rows.
        tallies: Counts of rows.
        classifier: The last linear layer, where the features are its input.
        decisions: The sample's counted decisions against the statistics of all ranks; None before
            the ranks have been merged.
    """

    statistics: ClassStatistics
    sample: FeatureSample
    tallies: Tallies
    classifier: LinearClassifier | None = None
    decisions: Decisions | None = None

    def to(self, device: torch.device | str) -> "Accumulated":
        """The same on another device, less the counted decisions."""
        return Accumulated(
            statistics=self.statistics.to(device),
            sample=self.sample.to(device),
            tallies=Tallies(*torch.stack(self.tallies).to(device)),
            classifier=self.classifier and self.classifier.to(device),
        )


def decide(logits: Float[Tensor, "..."]) -> Int[Tensor, " B"]:
    """The network's decision per row: argmax, or the sign where there is a single column.

    Args:
        logits: The classifier's output, classes last.

    Returns:
        The index of a class for each row.

    Example:
        >>> decide(torch.tensor([[0.1, 2.0, 0.3]])), decide(torch.tensor([[-1.0], [1.0]]))
        (tensor([1]), tensor([0, 1]))
    """
    if logits.ndim == 1 or logits.shape[-1] == 1:
        return (logits > 0).reshape(-1).long()
    if logits.shape[-1] < _MANY_LOGITS or logits.device.type != "cpu":
        return logits.argmax(-1).reshape(-1)
    return _argmax_of_many(logits.reshape(-1, logits.shape[-1]))


def _argmax_of_many(x: Float[Tensor, "B C"], width: int = 128) -> Int[Tensor, " B"]:
    """``x.argmax(1)`` in a fifth of its time on a CPU, where the maximum alone is found by vectors."""
    starts = torch.arange(0, x.shape[1] - width + 1, width, device=x.device)
    last = x.shape[1] - width  # overlaps the one before it, which is the first where both hold it
    blocks = x[:, : len(starts) * width].unflatten(1, (-1, width))
    largest = torch.cat([blocks.amax(2), x[:, last:].amax(1, keepdim=True)], 1)
    start = torch.cat([starts, starts.new_full((1,), last)])[largest.argmax(1)]
    inside = start[:, None] + torch.arange(width, device=x.device)
    return start + x.gather(1, inside).argmax(1)


def _least_share(products: Float[Tensor, "..."]) -> float:
    """Of the largest singular value: the squares of smaller ones have lost half of their digits."""
    return float(max(1e-8, 8 * len(products) * torch.finfo(products.dtype).eps) ** 0.5)


def to_device(indices: np.ndarray, device: torch.device) -> Int[Tensor, " n"]:
    """Indices from the host without waiting for the device, which pageable memory would do."""
    host = torch.from_numpy(indices)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


COVARIANCES = ("pooled", "per_class", "none")


def check_covariance(covariance: str) -> None:
    """Raise a ValueError unless ``covariance`` is one of :data:`COVARIANCES`."""
    if covariance not in COVARIANCES:
        raise ValueError(f"Expected covariance to be one of {COVARIANCES}, but got {covariance!r}.")


def summarize(numbers: Iterable[int], singular: str, plural: str) -> str:
    """Name a few numbers in a message: ``class 3``, ``classes 1, 2, 3 and 5 more``.

    Example:
        >>> summarize(range(12), "class", "classes")
        'classes 0, 1, 2, 3, 4, 5, 6, 7 and 4 more'
    """
    listed = [str(n) for n in numbers]
    if len(listed) == 1:
        return f"{singular} {listed[0]}"
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return f"{plural} {', '.join(listed[:8])}{more}"


def _built(cls: type[Any], **attributes: Any) -> Any:
    """An instance without ``__post_init__``, for values that already have their final form."""
    value = object.__new__(cls)
    for name, attribute in attributes.items():
        object.__setattr__(value, name, attribute)
    return value
