"""NC4: the network decides like a nearest-class-center (NCC) rule; and the network's own accuracy."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.precision import float32_products_are_exact
from lightning_nc.values import ClassStatistics, Decisions, FeatureSample, UndefinedMeasure

_BLOCK_ENTRIES, _LEAST_ROWS = 2**20, 256


def nearest_class_center(
    features: Float[Tensor, "B d"], statistics: ClassStatistics
) -> Int[Tensor, " B"]:
    r"""The class whose mean is nearest: :math:`\operatorname{argmin}_c \|h - \mu_c\|_2`.

    Classes without samples are never chosen. Features and means are centered first: at an offset of
    1,000 the distances would lose too many digits.

    Args:
        features: One feature per row.
        statistics: Statistics with a sample of at least one class.

    Returns:
        The index of a class per row; the lowest where two are equally near.

    Example:
        >>> h = torch.tensor([[1.0], [3.0], [10.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 0, 2]), num_classes=3)
        >>> nearest_class_center(torch.tensor([[2.5], [7.0]]), stats)
        tensor([0, 2])
    """
    seen = statistics.seen
    centers = statistics.means[seen]
    origin = centers.mean(0)
    centers = centers - origin
    nearest = _nearest_of(centers)
    blocks = features.split(max(_LEAST_ROWS, _BLOCK_ENTRIES // max(centers.shape)))
    chosen = torch.cat([nearest(rows.to(origin.dtype) - origin) for rows in blocks])
    return seen.nonzero().flatten()[chosen]


def _nearest_of(centers: Float[Tensor, "K d"]) -> Callable[[Float[Tensor, "B d"]], Int[Tensor, " B"]]:
    """The function that finds the nearest of these centers for each row."""
    halves = centers.square().sum(1) / 2

    def exactly(rows: Float[Tensor, "B d"]) -> Int[Tensor, " B"]:
        return (rows @ centers.T - halves).argmax(1)

    device = centers.device
    worth_it = device.type == "cpu" and centers.dtype == torch.float64 and len(centers) > 1
    if not worth_it or not float32_products_are_exact(device):
        return exactly
    short, short_halves = centers.float(), halves.float()
    longest = (2 * halves.max()).sqrt()
    rounding = (centers.shape[1] + 8) * torch.finfo(torch.float32).eps

    def quickly(rows: Float[Tensor, "B d"]) -> Int[Tensor, " B"]:
        best = torch.addmm(-short_halves, rows.float(), short.T).topk(2)
        chosen, lead = best.indices[:, 0], best.values[:, 0] - best.values[:, 1]
        # by less than float32 may have rounded off nothing is decided, nor by NaN
        sure = lead > 2 * rounding * longest * (rows.norm(dim=1) + longest)
        doubtful = (~sure).nonzero().flatten()
        chosen[doubtful] = exactly(rows[doubtful])
        return chosen

    return quickly


def count_decisions(
    sample: FeatureSample,
    statistics: ClassStatistics,
    *,
    stands_for: Float[Tensor, ""] | Int[Tensor, ""],
    predicted: Float[Tensor, ""] | Int[Tensor, ""],
    correct: Float[Tensor, ""] | Int[Tensor, ""],
) -> Decisions:
    """Count how network and nearest class center decide; the counts of several ranks add up.

    Args:
        sample: A uniform sample of some rows.
        statistics: Statistics of **all** rows, those of other ranks included.
        stands_for: The number of valid rows that the sample was drawn from, its weight.
        predicted: Of these rows, those of which the network's decision is known.
        correct: Those that the network got right.

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
        center = nearest_class_center(sample.features, statistics)
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


def accuracy(decisions: Decisions) -> Float[Tensor, ""]:
    """The network's accuracy on the rows that the other measures rest on.

    The terminal phase of training begins where it reaches 1 on the training set. Exact, over all
    rows. Range ``[0, 1]``.

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

    The network's own at collapse. Exact while the sample holds all rows; else an unbiased estimate
    with the standard error :math:`\sqrt{p(1-p)/R}`, at most 0.006 for R = 8,192 rows that count (rows
    with an ignored label take places in the sample as well). Range
    ``[0, 1]``.

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

    The decisions are those that the network made, not recomputed from W and b. Exact while the
    sample holds all rows; else an unbiased estimate with the standard error :math:`\sqrt{p(1-p)/R}`,
    at most 0.006 for R = 8,192 rows that count (rows with an ignored label take places as well). Range
    ``[0, 1]``, 0 at collapse.

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
