"""NC4: the network decides like a nearest-class-center (NCC) rule; and the network's own accuracy."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.functional.nearest_center import nearest_class_center
from lightning_nc.functional.own_rows import decided_by_centers, decides, share
from lightning_nc.values.evidence import ClassEvidence
from lightning_nc.values.sample import Decisions, FeatureSample
from lightning_nc.values.statistics import ClassStatistics


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
    sample, center, rows = decided_by_centers(own, merged)
    predicted, correct = own.tallies.predicted, own.tallies.correct
    if decides(merged) is not None or merged.is_restricted:
        predicted, correct = _weighed(sample, rows)
    return count_decisions(
        sample, merged.all_classes,
        stands_for=rows, predicted=predicted, correct=correct, center=center,
    ).as_vector()  # fmt: skip


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
    return share(decisions.correct, decisions.predicted, "the network's decisions are not known")


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
    return share(decisions.center_correct, decisions.sampled, "no row was sampled")


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
    return share(decisions.mismatched, decisions.compared, "the network's decisions are not known")
