"""NC4: the network decides like a nearest-class-center (NCC) rule; and the network's own accuracy."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_nc.functional.nearest_center import nearest_class_center
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.evidence import ClassEvidence
from lightning_nc.values.sample import Decisions, FeatureSample
from lightning_nc.values.statistics import ClassStatistics

_MULTIPLY_ADDS, _LEAST_ROWS = 2**35, 256
"""Multiply-adds that the distances of a sample to all class means may take, but for so few rows.

Two or three seconds of one CPU core, whatever the device: a value must not depend on where it is
computed. With 50,257 classes in 768 dimensions it allows for 890 rows, whose shares have a standard
error of at most 0.017. Fewer than 256 rows (0.03) would tell too little.
"""


def count_decisions(
    sample: FeatureSample,
    statistics: ClassStatistics,
    *,
    stands_for: Float[Tensor, ""] | Int[Tensor, ""],
    predicted: Float[Tensor, ""] | Int[Tensor, ""],
    correct: Float[Tensor, ""] | Int[Tensor, ""],
    center: Int[Tensor, " R"] | None = None,
) -> Decisions:
    """Count how network and nearest class center decide; the counts of several ranks add up.

    Args:
        sample: A uniform sample of some rows.
        statistics: Statistics of **all** rows, those of other ranks included.
        stands_for: The number of valid rows that the sample was drawn from, its weight.
        predicted: Of these rows, those of which the network's decision is known.
        correct: Those that the network got right.
        center: The nearest class center of each valid row, where it is known.

    Returns:
        The counts, as float64 scalars.

    Example:
        >>> h = torch.tensor([[1.0], [3.0], [9.0], [11.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> stats = ClassStatistics.from_batch(h, y, num_classes=2)
        >>> sample = FeatureSample(h, y, predicted=torch.tensor([0, 1, 1, 1]), seen=4)
        >>> n = torch.tensor(4)
        >>> ncc_mismatch(count_decisions(sample, stats, stands_for=n, predicted=n, correct=n - 1))
        tensor(0.2500, dtype=torch.float64)
    """
    sample = sample.valid()
    num_rows = len(sample.target)
    dtype = statistics.means.dtype
    zero = torch.zeros((), dtype=dtype, device=statistics.means.device)
    sampled = center_correct = compared = mismatched = zero
    if num_rows:
        weight = stands_for.to(dtype) / num_rows
        if center is None:
            center = nearest_class_center(sample.features, statistics, guess=sample.target)
        sampled = weight * num_rows
        center_correct = weight * (center == sample.target).sum()
        if sample.predicted is not None:
            known = sample.predicted >= 0
            compared = weight * known.sum()
            mismatched = weight * (known & (center != sample.predicted)).sum()
    return Decisions(
        predicted=predicted.to(dtype),
        correct=correct.to(dtype),
        sampled=sampled,
        center_correct=center_correct,
        compared=compared,
        mismatched=mismatched,
    )


def decisions_of_own_rows(own: ClassEvidence, merged: ClassEvidence) -> Float[Tensor, " 6"]:
    """Count the decisions on this rank's sample against the class means of all ranks.

    Of many classes with many features it takes a uniform subset of the sample, the same rows for the
    network and for the nearest class center: see :func:`ncc_accuracy`.

    Args:
        own: What this rank has accumulated, sample and tallies included.
        merged: What all ranks have accumulated.

    Returns:
        :class:`Decisions` as a vector, whose sum over the ranks is that of all rows.

    Example:
        >>> from lightning_nc.values import Tallies
        >>> h, y = torch.tensor([[1.0], [3.0], [9.0], [11.0]]), torch.tensor([0, 0, 1, 1])
        >>> sample = FeatureSample(h, y, predicted=torch.tensor([0, 1, 1, 1]), seen=4)
        >>> tallies = Tallies(*torch.tensor([4, 3, 0, 0, 0]))
        >>> stage = ClassEvidence(ClassStatistics.from_batch(h, y, 2), None, sample, tallies)
        >>> ncc_mismatch(Decisions(*decisions_of_own_rows(stage, stage)))
        tensor(0.2500, dtype=torch.float64)
    """
    assert own.tallies is not None
    assert merged.tallies is not None
    sample, center, rows = _decided_by_centers(own, merged)
    predicted, correct = own.tallies.predicted, own.tallies.correct
    if _decides(merged) is not None or merged.is_restricted:
        predicted, correct = _weighed(sample, rows)
    return count_decisions(
        sample, merged.all_classes,
        stands_for=rows, predicted=predicted, correct=correct, center=center,
    ).as_vector()  # fmt: skip


def recalls_of_own_rows(own: ClassEvidence, merged: ClassEvidence) -> Float[Tensor, " n"]:
    """Count by class how the nearest class center decides this rank's sample.

    Args:
        own: What this rank has accumulated, with its sample.
        merged: What all ranks have accumulated.

    Returns:
        For each class the rows that its sampled ones stand for, and then those that are decided for it.

    Example:
        >>> h, y = torch.tensor([[1.0], [3.0], [9.0], [4.0]]), torch.tensor([0, 0, 1, 1])
        >>> stage = ClassEvidence(
        ...     ClassStatistics.from_batch(h, y, 2), None, FeatureSample(h, y, None, seen=4)
        ... )
        >>> recalls_of_own_rows(stage, stage)
        tensor([2., 2., 2., 1.], dtype=torch.float64)
    """
    sample, center, rows = _decided_by_centers(own, merged)
    weight = rows / max(1, len(center))
    counts = weight.new_zeros(2, merged.all_classes.num_classes)
    right = sample.target[center == sample.target]
    for each, of_class in zip(counts, (sample.target, right), strict=True):
        each.index_add_(0, of_class, weight.expand(len(of_class)))
    return counts.flatten()


def sample_that_counts(
    own: ClassEvidence, merged: ClassEvidence
) -> tuple[FeatureSample, Float[Tensor, ""]]:
    """This rank's sample: its rows of classes that count, so many of them as may meet all classes.

    Args:
        own: What this rank has accumulated, with its sample.
        merged: What all ranks have accumulated.

    Returns:
        The rows with the network's decisions, which are those of W h + b where nobody saw them and W
        stood still; and how many rows they stand for.
    """
    assert own.sample is not None
    seen, counts = merged.all_classes.seen, own.all_classes.counts
    sample = _within_reach(_of_classes(own.sample.valid(), seen), num_classes=int(seen.sum()))
    head = _decides(merged)
    if head is not None:
        sample = replace(sample, predicted=head.decide(sample.features))
    return sample, (counts * seen).sum().to(merged.all_classes.means.dtype)


def _decides(merged: ClassEvidence) -> LinearClassifier | None:
    """The classifier, where nobody saw a decision of the network and it is taken to decide."""
    unseen = merged.tallies is not None and bool(merged.tallies.predicted == 0)
    return merged.head if merged.by_head and unseen else None


def _decided_by_centers(
    own: ClassEvidence, merged: ClassEvidence
) -> tuple[FeatureSample, Int[Tensor, " R"], Float[Tensor, ""]]:
    """This rank's sample, its nearest class centers, and the rows that it stands for; found once."""
    memory = vars(merged)
    if memory.get("decided_by_centers", (None,))[0] is not own:
        sample, rows = sample_that_counts(own, merged)
        center = sample.target
        if len(center):
            center = nearest_class_center(sample.features, merged.all_classes, guess=center)
        memory["decided_by_centers"] = own, (sample, center, rows)
    return memory["decided_by_centers"][1]


def _of_classes(sample: FeatureSample, seen: Bool[Tensor, " C"]) -> FeatureSample:
    """Its rows of the classes that count."""
    keep = seen[sample.target]
    if bool(keep.all()):
        return sample
    return _rows_of(sample, keep)


def _within_reach(sample: FeatureSample, num_classes: int) -> FeatureSample:
    """So many of its rows as may meet the means of all classes; itself where these are all."""
    num_rows, num_features = sample.features.shape
    most = max(_LEAST_ROWS, _MULTIPLY_ADDS // max(1, num_classes * num_features))
    if num_rows <= most:
        return sample
    # the first rows of a reservoir are no uniform sample: they stay longest
    chosen = torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))[:most]
    return _rows_of(sample, chosen.to(sample.target.device))


def _rows_of(sample: FeatureSample, rows: Bool[Tensor, " R"] | Int[Tensor, " k"]) -> FeatureSample:
    predicted = None if sample.predicted is None else sample.predicted[rows]
    return FeatureSample(sample.features[rows], sample.target[rows], predicted, sample.seen)


def _weighed(
    sample: FeatureSample, rows: Float[Tensor, ""]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Of so many rows that a sample stands for, those whose decision is known, and those got right."""
    if sample.predicted is None or not len(sample.target):
        return rows * 0, rows * 0
    weight = rows / len(sample.target)
    known, right = sample.predicted >= 0, sample.predicted == sample.target
    return weight * known.sum(), weight * right.sum()


def accuracy(decisions: Decisions) -> Float[Tensor, ""]:
    """The network's accuracy on the rows that the other measures rest on.

    The terminal phase of training begins where it reaches 1 on the training set. Exact, over all rows;
    where the network's own decisions are not seen, or classes are left out (``min_count``), of the
    sample, with the standard error of :func:`ncc_accuracy`. Range ``[0, 1]``.

    Args:
        decisions: Counted decisions.

    Returns:
        The accuracy, a float64 scalar.

    Raises:
        UndefinedMeasure: If the network's decisions are not known.

    Example:
        >>> n, zero = torch.tensor(4.0), torch.tensor(0.0)
        >>> accuracy(Decisions(n, n - 1, n, n, zero, zero))
        tensor(0.7500)
    """
    return _share(decisions.correct, decisions.predicted, "the network's decisions are not known")


def ncc_accuracy(decisions: Decisions) -> Float[Tensor, ""]:
    r"""NC4: accuracy of the nearest class center, :math:`\operatorname{Avg}_i [\operatorname{argmin}_c \|h_i - \mu_c\| = y_i]`.

    The network's own at collapse. Exact while all rows are in the sample and it meets all class means;
    else an unbiased estimate with the standard error :math:`\sqrt{p(1-p)/R}`, at most 0.006 for R =
    8,192 rows that count (rows with an ignored label take places in the sample as well). Where R C d
    exceeds :math:`2^{35}`, a uniform subset of the sample stands for it, of :math:`2^{35} / (C d)` rows
    or 256 if that is more: of 50,257 classes in 768 dimensions R = 890, and the error at most 0.017.
    Each rank takes so many rows of its own. Range ``[0, 1]``.

    Args:
        decisions: Counted decisions.

    Returns:
        The accuracy, a float64 scalar.

    Raises:
        UndefinedMeasure: If the sample is empty.

    Example:
        >>> n, zero = torch.tensor(4.0), torch.tensor(0.0)
        >>> ncc_accuracy(Decisions(n, n, n, n / 2, zero, zero))
        tensor(0.5000)

    References:
        Papyan, Han & Donoho (2020), "Prevalence of neural collapse during the terminal phase of deep
        learning training".
    """  # noqa: E501
    return _share(decisions.center_correct, decisions.sampled, "no row was sampled")


def ncc_mismatch(decisions: Decisions) -> Float[Tensor, ""]:
    r"""NC4: share of samples on which the network and the nearest class center disagree.

    .. math:: 1 - \operatorname{Avg}_i \left[ \operatorname{argmin}_c \|h_i - \mu_c\| =
        \operatorname{argmax}_c (W h_i + b)_c \right]

    The decisions are those that the network made, not recomputed from W and b. An estimate from the
    rows of :func:`ncc_accuracy`, with its standard error. Range ``[0, 1]``, 0 at collapse.

    Args:
        decisions: Counted decisions.

    Returns:
        The share, a float64 scalar.

    Raises:
        UndefinedMeasure: If the network's decisions are not known.

    Example:
        >>> n = torch.tensor(4.0)
        >>> ncc_mismatch(Decisions(n, n, n, n, compared=n, mismatched=n / 4))
        tensor(0.2500)

    References:
        Papyan, Han & Donoho (2020), "Prevalence of neural collapse during the terminal phase of deep
        learning training".
    """
    return _share(decisions.mismatched, decisions.compared, "the network's decisions are not known")


def _share(part: Float[Tensor, ""], whole: Float[Tensor, ""], missing: str) -> Float[Tensor, ""]:
    if bool(whole == 0):  # but not where it is NaN: a rank could not count
        raise UndefinedMeasure(missing)
    return part / whole
