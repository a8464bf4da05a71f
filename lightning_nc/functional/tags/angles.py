r"""The tag-wise average in angles: does the mean of rows with two tags point along the sum of the two?

:math:`\mu_i` is the mean of the rows with the tag i alone, :math:`\mu_{ij}` that of the rows with just
the tags i and j. At collapse :math:`\mu_{ij}` is a multiple of :math:`\mu_i + \mu_j`.

Conventions: means are taken as they are, as in the paper. With a ``center`` g all features are taken
around it, so that :math:`\mu_i + \mu_j - 2g` is compared with :math:`\mu_{ij} - g`: the sum has two
centers to lose, the mean of the pair one. Only the centered angle stays the same when all features move
by a vector. It agrees with the other at the optimum of features of both signs, where g = 0. For
features that are not negative (ReLU) the optimum has an angle of 0 uncentered, and not centered.

Angles are in degrees, :math:`2 \operatorname{atan2}(\|u - v\|, \|u + v\|)` of unit vectors, which has
all its digits near 0, where the inverse cosine has half of them. All are invariant under rotation and
scaling of the features.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.values.errors import NothingToCompare, UndefinedMeasure
from lightning_nc.values.precision import accumulator_dtype

_ENTRIES = 2**21  # of a table of angles, at a time
_ROUNDING = 1e4  # of eps, in degrees: less tells no two directions apart


def pair_angles(
    single_means: Float[Tensor, "S d"],
    pair_means: Float[Tensor, "P d"],
    pairs: Int[Tensor, "P 2"],
    center: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, " P"]:
    r"""The angle of each pair between the sum of its tags' means and its own mean, in degrees.

    .. math:: \angle(\mu_i + \mu_j - 2g,\; \mu_{ij} - g)

    Range ``[0, 180]``, 0 at collapse.

    Args:
        single_means: One mean for each tag.
        pair_means: One mean for each pair.
        pairs: The two tags of each pair, as places in ``single_means``.
        center: g. None: 0.

    Returns:
        Angles in float64; NaN where a sum or a mean vanishes.

    Example:
        >>> means, pairs = torch.eye(3), torch.tensor([[0, 1], [0, 2]])
        >>> pair_angles(means, torch.tensor([[2.0, 2.0, 0.0], [0.0, 3.0, 0.0]]), pairs)
        tensor([ 0., 90.], dtype=torch.float64)
    """
    singles, means, least = _around(single_means, pair_means, center)
    u, v = _unit(singles[pairs].sum(1), least), _unit(means, least)
    return _degrees((u - v).norm(dim=1), (u + v).norm(dim=1))


def tag_angle(
    single_means: Float[Tensor, "S d"],
    pair_means: Float[Tensor, "P d"],
    pairs: Int[Tensor, "P 2"],
    center: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, ""]:
    r"""Mean angle between the sum of two tags' means and the mean of their pair, in degrees.

    .. math:: \operatorname{Avg}_{ij} \angle(\mu_i + \mu_j - 2g,\; \mu_{ij} - g)

    Every pair counts alike, whatever its rows. Range ``[0, 180]``, 0 at collapse.

    Args:
        single_means: One mean for each tag.
        pair_means: One mean for each pair that has rows.
        pairs: The two tags of each pair, as places in ``single_means``.
        center: g. None: 0, as in the paper.

    Returns:
        The angle, a float64 scalar.

    Raises:
        UndefinedMeasure: If there are fewer than 3 tags, or no pair, or all that would be compared
            vanishes.

    Example:
        >>> means, pairs = torch.eye(3), torch.tensor([[0, 1], [0, 2]])
        >>> tag_angle(means, torch.tensor([[2.0, 2.0, 0.0], [0.0, 3.0, 0.0]]), pairs)
        tensor(45., dtype=torch.float64)

    References:
        Li, Li, Wang & Qu (2024), "Neural collapse in multi-label learning with pick-all-label loss".
    """
    _require(single_means, pairs)
    angles = pair_angles(single_means, pair_means, pairs, center)
    return _mean(angles.nansum(), int(angles.isfinite().sum()))


def tag_angle_ratio(
    single_means: Float[Tensor, "S d"],
    pair_means: Float[Tensor, "P d"],
    pairs: Int[Tensor, "P 2"],
    center: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, ""]:
    r"""The tag-wise average (TWA): :func:`tag_angle` over the same angle of any two.

    .. math:: \frac{\operatorname{Avg}_{ij} \angle(\mu_i + \mu_j - 2g,\; \mu_{ij} - g)}
        {\operatorname{Avg}_{i<j} \operatorname{Avg}_{kl} \angle(\mu_i + \mu_j - 2g,\; \mu_{kl} - g)}

    See :func:`unmatched_angle` for what is below. Range ``[0, inf)``; 0 at collapse, near 1 for
    features that know nothing of the tags.

    Args:
        single_means: One mean for each tag.
        pair_means: One mean for each pair that has rows.
        pairs: The two tags of each pair, as places in ``single_means``.
        center: g. None: 0, as in the paper.

    Returns:
        The ratio, a float64 scalar without unit.

    Raises:
        UndefinedMeasure: If there are fewer than 3 tags, or no pair, or all that would be compared
            vanishes.

    Example:
        >>> means, pairs = torch.eye(3), torch.tensor([[0, 1], [0, 2]])
        >>> ratio = tag_angle_ratio(means, torch.tensor([[2.0, 2.0, 0.0], [0.0, 3.0, 0.0]]), pairs)
        >>> f"{float(ratio):.4f}"  # 45 degrees over (0 + 60 + 60 + 45 + 90 + 45) / 6
        '0.9000'

    References:
        Li, Li, Wang & Qu (2024), "Neural collapse in multi-label learning with pick-all-label loss".
    """
    matched = tag_angle(single_means, pair_means, pairs, center)
    unmatched = unmatched_angle(single_means, pair_means, center)
    if bool(unmatched <= _ROUNDING * torch.finfo(unmatched.dtype).eps):
        raise UndefinedMeasure("the means of all tags and pairs point in one direction")
    return matched / unmatched


def unmatched_angle(
    single_means: Float[Tensor, "S d"],
    pair_means: Float[Tensor, "P d"],
    center: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, ""]:
    r"""Mean angle between the sum of any two tags' means and the mean of any pair, in degrees.

    .. math:: \operatorname{Avg}_{i<j} \operatorname{Avg}_{kl} \angle(\mu_i + \mu_j - 2g,\;
        \mu_{kl} - g)

    Over all sums, those of pairs without rows included, and all means of pairs, the matched ones
    included. Range ``[0, 180]``. At collapse to a simplex with all pairs 80 for 3 tags, 90 for 4,
    89.1774 for 10. By one matrix product: an angle of less than 1e-7 of the others counts as 0, one of
    180 degrees less as little as 180.

    Args:
        single_means: One mean for each tag.
        pair_means: One mean for each pair that has rows.
        center: g. None: 0.

    Returns:
        The angle, a float64 scalar.

    Raises:
        UndefinedMeasure: If all that would be compared vanishes.

    Example:
        >>> f"{float(unmatched_angle(torch.eye(3) - 1 / 3, 1 / 3 - torch.eye(3))):.2f}"
        '80.00'
    """
    singles, means, least = _around(single_means, pair_means, center)
    v = _directions(means, least)
    # less a common vector, products of vectors that are all close to one another keep their digits
    common = v.sum(0) / max(1, len(v))
    v = v - common
    i, j = torch.triu_indices(len(singles), len(singles), 1, device=singles.device)
    total, count = v.new_zeros(()), 0
    for part in torch.arange(len(i), device=i.device).split(max(1, _ENTRIES // max(v.shape))):
        u = _directions(singles[i[part]] + singles[j[part]], least) - common
        total = total + _table_of_angles(u, v).sum()
        count += len(u) * len(v)
    return _mean(total, count)


def _table_of_angles(u: Float[Tensor, "n d"], v: Float[Tensor, "P d"]) -> Float[Tensor, "n P"]:
    """Between unit vectors that are given less a common vector, in degrees."""
    sums = u.square().sum(1)[:, None] + v.square().sum(1)
    apart = torch.addmm(sums, u, v.T, alpha=-2)
    # what rounding alone can make is no angle
    rounding = 16 * torch.finfo(apart.dtype).eps
    apart.masked_fill_(apart < rounding * sums, 0)
    together = 4 - apart
    together.masked_fill_(together < 4 * rounding, 0)
    return _degrees(apart.sqrt_(), together.sqrt_())


def _around(
    single_means: Float[Tensor, "S d"],
    pair_means: Float[Tensor, "P d"],
    center: Float[Tensor, " d"] | None,
) -> tuple[Float[Tensor, "S d"], Float[Tensor, "P d"], float]:
    """The means around the center; and the norm that rounding alone can make of nothing."""
    dtype = accumulator_dtype(single_means.device)
    singles, means = single_means.to(dtype), pair_means.to(dtype)
    least = 16 * torch.finfo(dtype).eps * float(torch.cat([singles, means]).norm(dim=1).max())
    if center is None:
        return singles, means, least
    return singles - center.to(dtype), means - center.to(dtype), least


def _unit(vectors: Float[Tensor, "n d"], least: float) -> Float[Tensor, "n d"]:
    """At length 1; NaN where there is no more than rounding."""
    norms = vectors.norm(dim=1, keepdim=True)
    return torch.where(norms > least, vectors / norms, torch.nan)


def _directions(vectors: Float[Tensor, "n d"], least: float) -> Float[Tensor, "m d"]:
    """Those at length 1 that have one."""
    unit = _unit(vectors, least)
    return unit[unit.isfinite().all(1)]


def _degrees(apart: Float[Tensor, "*n"], together: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The angle between unit vectors, by the lengths of their difference and of their sum."""
    return torch.atan2(apart, together) * (360 / math.pi)


def _mean(total: Float[Tensor, ""], count: int) -> Float[Tensor, ""]:
    if not count:
        raise UndefinedMeasure("the means of the single tags, or those of their pairs, are zero")
    return total / count


def _require(single_means: Float[Tensor, "S d"], pairs: Int[Tensor, "P 2"]) -> None:
    if len(single_means) < 3:
        raise UndefinedMeasure(
            f"it takes 3 tags that have rows of their own, and there are {len(single_means)}"
        )
    if not len(pairs):
        raise NothingToCompare("no row has two tags")
