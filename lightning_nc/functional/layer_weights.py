r"""The weight of a layer against the class means that it meets.

The weight is a matrix with a row for each output and a column for each feature at the layer's input; a
convolution's is unfolded so that its columns are the input channels. The class means are those of the
features at that same input.

Conventions: class means **not** centered, as in the papers, unless a name says centered. Singular
subspaces are compared, so signs, scales and the order of rows do not count.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from lightning_nc.functional.geometry import unit
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.precision import FLOAT32_EPS, accumulator_dtype
from lightning_nc.values.statistics import ClassStatistics
from lightning_nc.values.symmetric import gram

_COSINES = 2**24  # at a time


def stable_rank(weight: Float[Tensor, "out in"]) -> Float[Tensor, ""]:
    r"""Stable rank of a weight: :math:`\|W\|_F^2 / \|W\|_2^2`.

    A lower bound of the rank that small singular values do not move. Range ``[1, rank]``. Where the
    weight acts on the means of C classes alone it falls to C or below. Invariant under rotation of
    both sides and scaling.

    Args:
        weight: W.

    Returns:
        The stable rank, a float64 scalar.

    Raises:
        UndefinedMeasure: If the weight is zero.

    Example:
        >>> stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0])))  # 6 / 4
        tensor(1.5000, dtype=torch.float64)

    References:
        Rudelson & Vershynin (2007), "Sampling from large matrices".
    """
    weight = _of_full_precision(weight)
    if bool(weight.isnan().any()):
        return weight.sum()
    rows = unit(weight if len(weight) <= weight.shape[1] else weight.T)
    return 1 / torch.linalg.eigvalsh(gram(rows))[-1]


def subspace_alignment(
    weight: Float[Tensor, "out in"], means: Float[Tensor, "C d"], rank: int, centered: bool = False
) -> Float[Tensor, ""]:
    r"""How far the directions that a layer passes on are those of the class means.

    .. math:: \frac1r \sum_k \sigma_k(V_r^\top U_r)

    the average cosine of the principal angles between :math:`V_r`, the first r right singular vectors
    of W, and :math:`U_r`, the first r left singular vectors of the d x C matrix of class means.

    Conventions: the paper takes means that are not centered and r = C; one of these directions is then
    the global mean's. Centered means with r = C - 1 behave better. The rank is lowered to what there
    is: at most C (centered: C - 1), and the numerical rank of W and of the means, beyond which
    directions are arbitrary: 1 for the single row of a binary head. Range ``[0, 1]``, 1 at collapse;
    chance is far from 0: see :func:`subspace_chance`. Invariant under rotation and scaling; centered,
    under translation, too. Costs a singular value decomposition of the weight.

    Args:
        weight: W.
        means: Class means at the layer's input.
        rank: r, lowered where it is more than there is.
        centered: Whether to subtract the unweighted mean of the class means.

    Returns:
        The average cosine, a float64 scalar; NaN if the weight, or the means as they are compared, are
        zero.

    Raises:
        ValueError: If no direction was asked for.

    Example:
        >>> tilted = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.75**0.5, 0.5]])  # the second by 30 degrees
        >>> subspace_alignment(tilted, torch.eye(2, 3), rank=2)
        tensor(0.9330, dtype=torch.float64)

    References:
        Rangamani et al. (2023), "Feature learning in deep classifiers through intermediate neural
        collapse".
    """
    of_weight, of_means = _subspaces(weight, means, rank, centered)
    if not len(of_weight):
        return torch.full_like(of_means.sum(), torch.nan)
    return torch.linalg.svdvals(of_weight @ of_means.T).mean().clamp(max=1)


def subspace_chance(num_features: int, rank: int) -> float:
    r"""What :func:`subspace_alignment` is on average for random subspaces.

    Of two subspaces of dimension r, drawn uniformly and independently; their expected average cosine,
    estimated from seeded draws to a standard error below .005. 1 where r is the number of features.

    Args:
        num_features: The columns of the weight.
        rank: r.

    Returns:
        The expectation, without the global random state being touched.

    Raises:
        ValueError: Unless 1 <= rank <= num_features.

    Example:
        >>> round(subspace_chance(96, 10), 1), subspace_chance(4, 4)
        (0.3, 1.0)
    """
    if not 1 <= rank <= num_features:
        raise ValueError(
            f"Expected a rank from 1 to the number of features, {num_features}, but got {rank}. Is it "
            "the number of classes, and the layer narrower? Use the smaller one."
        )
    return 1.0 if rank == num_features else _drawn_chance(num_features, rank)


def subspace_alignment_of(
    statistics: ClassStatistics, weight: Float[Tensor, "out in"]
) -> Float[Tensor, ""]:
    """:func:`subspace_alignment` in the paper's form: means as they are, r = C.

    Args:
        statistics: Of the features at the layer's input; every class has at least one sample.
        weight: The layer's.

    Returns:
        The average cosine, a float64 scalar.
    """
    statistics.require_all_seen()
    return subspace_alignment(weight, statistics.means, statistics.num_classes)


def subspace_alignment_centered_of(
    statistics: ClassStatistics, weight: Float[Tensor, "out in"]
) -> Float[Tensor, ""]:
    """:func:`subspace_alignment` with centered means and r = C - 1.

    Args:
        statistics: Of the features at the layer's input; every class has at least one sample.
        weight: The layer's.

    Returns:
        The average cosine, a float64 scalar.
    """
    statistics.require_all_seen()
    return subspace_alignment(weight, statistics.means, statistics.num_classes - 1, centered=True)


def subspace_chance_of(
    statistics: ClassStatistics, weight: Float[Tensor, "out in"]
) -> Float[Tensor, ""]:
    """What :func:`subspace_alignment_of` is by chance: see :func:`subspace_chance`.

    Args:
        statistics: Of the features at the layer's input.
        weight: The layer's.

    Returns:
        The expectation, a float64 scalar.
    """
    return _chance_of(statistics, weight, centered=False)


def subspace_chance_centered_of(
    statistics: ClassStatistics, weight: Float[Tensor, "out in"]
) -> Float[Tensor, ""]:
    """What :func:`subspace_alignment_centered_of` is by chance: see :func:`subspace_chance`.

    Args:
        statistics: Of the features at the layer's input.
        weight: The layer's.

    Returns:
        The expectation, a float64 scalar.
    """
    return _chance_of(statistics, weight, centered=True)


def weights_means_angle(
    statistics: ClassStatistics, weight: Float[Tensor, "out in"]
) -> Float[Tensor, ""]:
    r"""DNC3: average angle between a row of the weight and the class mean closest to it.

    .. math:: \frac{\sum_j \|w_j\| \min_c \angle(w_j, \mu_c)}{\sum_j \|w_j\|}

    At collapse every row is zero or points along a class mean, so long rows count more and zero rows
    not at all.

    Conventions: the angle itself, in degrees; a report of its sine has other values. It follows the
    property as the papers state it, not the code of their figures. Means as they are, not centered;
    a class whose mean is zero has no direction and is left out. Range ``[0, 180]``, 0 at collapse. Each
    row has C means to be close to, so that chance is well below 90. Invariant under rotation and
    scaling, not under translation. Exact to 1e-13 degrees, which an arc cosine would not be.

    Args:
        statistics: Of the features at the layer's input; every class has at least one sample.
        weight: The layer's.

    Returns:
        The average in degrees, a float64 scalar; NaN if all class means are zero.

    Raises:
        UndefinedMeasure: If the features are pooled to another width.
        ValueError: If a class has no sample.

    Example:
        >>> stats = ClassStatistics.from_batch(torch.eye(2), torch.arange(2), num_classes=2)
        >>> weights_means_angle(stats, torch.tensor([[3.0, 0.0], [0.6, 0.8]]))  # (3 * 0 + 36.87) / 4
        tensor(9.2175, dtype=torch.float64)

    References:
        Sukenik, Mondelli & Lampert (2023), "Deep neural collapse is provably optimal for the deep
        unconstrained features model".
    """
    statistics.require_all_seen()
    weight = _of_full_precision(weight)
    _require_width(weight, statistics.num_features)
    sizes = statistics.means.norm(dim=1, keepdim=True)
    directions = (statistics.means / sizes)[sizes[:, 0] > 0]
    if len(directions) == 0:
        return torch.full_like(sizes[0, 0], torch.nan)
    norms = weight.norm(dim=1, keepdim=True)
    units = weight / norms.masked_fill(norms == 0, 1)
    parts = units.split(max(1, _COSINES // len(directions)))
    closest = directions[torch.cat([(part @ directions.T).argmax(1) for part in parts])]
    angles = 2 * torch.atan2((units - closest).norm(dim=1), (units + closest).norm(dim=1))
    return torch.rad2deg(angles @ norms[:, 0] / norms.sum())


def _of_full_precision(weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """The weight in float64; NaN where there is nothing in it, or no number."""
    weight = weight.detach().to(accumulator_dtype(weight.device))
    is_known = bool(weight.any()) and bool(weight.isfinite().all())
    return weight if is_known else torch.full_like(weight, torch.nan)


def _require_width(weight: Float[Tensor, "out in"], num_features: int) -> None:
    if weight.shape[1] != num_features:
        raise UndefinedMeasure(
            f"the weight takes another width than its pooled input: {weight.shape[1]} columns for "
            f"{num_features} features; use a pool that keeps the last axis, or the channels"
        )


def _subspaces(
    weight: Float[Tensor, "out in"], means: Float[Tensor, "C d"], rank: int, centered: bool
) -> tuple[Float[Tensor, "r d"], Float[Tensor, "r d"]]:
    """Bases of those that are compared, of as many directions as both have; none of a zero weight."""
    if rank < 1:
        raise ValueError(
            f"Expected at least one direction to compare, but got rank = {rank}. A single centered "
            "mean is zero: are there two classes?"
        )
    _require_width(weight, means.shape[1])
    means = means.detach().to(accumulator_dtype(means.device))
    values, of_weight = _right_singular_vectors(weight)
    least = FLOAT32_EPS * means.norm()
    compared = means - means.mean(0) if centered else means
    sizes, of_means = torch.linalg.svd(compared, full_matrices=False)[1:]
    most = len(means) - 1 if centered else len(means)
    r = min(rank, most, len(values), int((sizes > least).sum()))
    return of_weight[:r], of_means[:r]


def _right_singular_vectors(
    weight: Float[Tensor, "out in"],
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k in"]]:
    """Those singular values that rounding to float32 cannot make, and their vectors, kept with W."""
    version = None if weight.is_inference() else weight._version
    kept = _DECOMPOSED.get(weight)
    if kept is None or version is None or kept[0] != version:
        whole = _of_full_precision(weight)
        if bool(whole.isnan().any()):
            return whole[:0, 0], whole[:0]
        _, values, vectors = torch.linalg.svd(whole, full_matrices=False)
        counted = values > max(weight.shape) * FLOAT32_EPS * values[0]
        kept = _DECOMPOSED[weight] = version, values[counted], vectors[counted]
    return kept[1:]


_DECOMPOSED: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _chance_of(
    statistics: ClassStatistics, weight: Float[Tensor, "out in"], centered: bool
) -> Float[Tensor, ""]:
    asked = statistics.num_classes - centered
    r = len(_subspaces(weight, statistics.means, asked, centered)[0])
    return statistics.means.new_tensor(subspace_chance(statistics.num_features, r) if r else torch.nan)


@lru_cache(maxsize=256)
def _drawn_chance(num_features: int, rank: int) -> float:
    """An average over draws; one of the two subspaces may be that of the first axes."""
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    # a draw has a standard deviation of at most 0.61 / sqrt(rank * num_features), the average 0.0046
    draws = math.ceil(18_000 / (rank * num_features))
    for _ in range(draws):
        normal = torch.randn(num_features, rank, generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(normal).Q
        total += float(torch.linalg.svdvals(basis[:rank]).mean())
    return total / draws
