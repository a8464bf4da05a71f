r"""The tag-wise average in lengths: rows with m tags are C times the sum of their tags' means.

With :math:`\mu_k` the mean of the rows with the tag k alone, :math:`m_k = \mu_k - g`, and t the
multi-hot tags of a row, the rows with m tags are fitted by one number C:

.. math:: h - g \approx C \sum_k t_k m_k

:func:`tag_scale` is C, and :func:`tag_residual` the share of :math:`\|h - g\|^2` that is left. All that
is needed of the rows are their co-moments (:class:`~lightning_nc.values.tags.TagMoments`), for any m.

The center g is the unweighted mean of the single-tag means. For features of both signs it is 0 at the
optimum, and what is measured does not depend on a vector that the network adds to all features. For
features that are not negative (ReLU) take ``center = 0``: their single-tag means are orthogonal at the
optimum and their sum is not 0, so that centered ones are not multiples of one another.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.tags.pairs import SeenPairs
from lightning_nc.values.errors import NothingToCompare, UndefinedMeasure
from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.tags import TagMoments

_SUMS = "the sums of the means of the rows' tags"


def tag_scale(
    single_means: Float[Tensor, "K d"],
    moments: TagMoments,
    center: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, ""]:
    r"""C, the length of rows with m tags by that of the sum of their tags' means.

    .. math:: C = \frac{\sum_i \langle h_i - g,\, \sum_k t_{ik} m_k \rangle}
        {\sum_i \|\sum_k t_{ik} m_k\|^2}
        = \frac{\operatorname{tr} M B^\top}{\operatorname{tr} M M^\top A}

    with A the sum of :math:`t t^\top` and B that of :math:`t (h - g)^\top`. Every row counts alike. At
    collapse :math:`C_m / C_1` of :func:`~lightning_nc.functional.tags.pick_all_label_scales`, below 1.
    Invariant under rotation and scaling, and with the default center under translation.

    Args:
        single_means: :math:`\mu`, of rows with one tag. Every tag of the moments has such rows.
        moments: Of the rows with m tags.
        center: g. None: the unweighted mean of ``single_means``.

    Returns:
        The scale, a float64 scalar without unit.

    Raises:
        NothingToCompare: If there is no row.
        UndefinedMeasure: If the sums of the means are zero.

    Example:
        >>> means, tags = torch.eye(3), torch.tensor([[1, 1, 0], [0, 1, 1]])
        >>> h = 0.8 * (tags.float() @ (means - 1 / 3)) + 1 / 3
        >>> f"{float(tag_scale(means, TagMoments.of_rows(h, tags))):.4f}"
        '0.8000'

    References:
        Li, Li, Wang & Qu (2024), "Neural collapse in multi-label learning with pick-all-label loss".
    """
    along, of_sums, _ = _products(single_means, moments, center)
    return along / of_sums


def tag_residual(
    single_means: Float[Tensor, "K d"],
    moments: TagMoments,
    center: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, ""]:
    r"""What the tag-wise average does not explain of the rows with m tags.

    .. math:: 1 - \frac{(\operatorname{tr} M B^\top)^2}{\operatorname{tr} M M^\top A \;\, e}, \qquad
        e = \sum_i \|h_i - g\|^2

    The spread of the rows of one set of tags is part of it. Range ``[0, 1]``, 0 at collapse of features
    of both signs. After a ReLU single-tag means are orthogonal at the optimum, and it is 0 around a
    center of 0 alone: around their mean it is 0.098 there with 5 tags and a scale of 0.837. It is a
    difference: with n rows around a center near the features it has an error of about 1e-15, so it
    keeps 5 digits down to 1e-10 (a spread of 1e-5 of the means), and is noise below 1e-15. For two
    tags :func:`pair_residual` is a sum of squares and keeps them all.

    Args:
        single_means: :math:`\mu`, of rows with one tag. Every tag of the moments has such rows.
        moments: Of the rows with m tags.
        center: g. None: the unweighted mean of ``single_means``.

    Returns:
        The share, a float64 scalar.

    Raises:
        NothingToCompare: If there is no row.
        UndefinedMeasure: If the sums of the means, or all rows, are zero.

    Example:
        >>> means, tags = torch.eye(3), torch.tensor([[1, 1, 0], [1, 1, 0]])
        >>> h = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0]])
        >>> zero = torch.zeros(3)
        >>> f"{float(tag_residual(means, TagMoments.of_rows(h, tags), zero)):.4f}"  # 1 of 10
        '0.1000'
    """
    along, of_sums, of_rows = _products(single_means, moments, center)
    return (1 - along / of_sums * (along / of_rows)).clamp(0, 1)


def pair_scale(pairs: SeenPairs, center: Float[Tensor, " d"] | None = None) -> Float[Tensor, ""]:
    r""":func:`tag_scale` of the rows with two tags, from the means of their pairs.

    .. math:: C_2 = \frac{\sum_{ij} n_{ij} \langle \mu_{ij} - g,\, m_i + m_j \rangle}
        {\sum_{ij} n_{ij} \|m_i + m_j\|^2}

    Args:
        pairs: Those that can be compared.
        center: g. None: the unweighted mean of the single-tag means.

    Returns:
        The scale, a float64 scalar without unit.

    Raises:
        UndefinedMeasure: If the sums of the means are zero.

    Example:
        >>> means, both = torch.eye(3), torch.tensor([[0, 1]])
        >>> of_pair = torch.tensor([[0.8, 0.8, 0.0]])
        >>> some = SeenPairs(means, of_pair, both, both, torch.ones(1), torch.zeros(1))
        >>> pair_scale(some, center=torch.zeros(3))
        tensor(0.8000, dtype=torch.float64)
    """
    sums, means = _sums_and_means(pairs, center)
    return _scale_of(pairs.rows.to(sums), sums, means)


def pair_residual(pairs: SeenPairs, center: Float[Tensor, " d"] | None = None) -> Float[Tensor, ""]:
    r""":func:`tag_residual` of the rows with two tags, as a sum of squares.

    .. math:: \frac{\sum_{ij} \left[ s_{ij} + n_{ij} \|\mu_{ij} - g - C_2 (m_i + m_j)\|^2 \right]}
        {\sum_{ij} \left[ s_{ij} + n_{ij} \|\mu_{ij} - g\|^2 \right]}

    with :math:`s_{ij}` the sum of squares of the rows of a pair around their mean. Range ``[0, 1]``, 0
    at collapse. Nothing cancels: it is as exact as the means are.

    Args:
        pairs: Those that can be compared.
        center: g. None: the unweighted mean of the single-tag means.

    Returns:
        The share, a float64 scalar.

    Raises:
        UndefinedMeasure: If the sums of the means, or all rows, are zero.

    Example:
        >>> means, both = torch.eye(3), torch.tensor([[0, 1]])
        >>> of_pair = torch.tensor([[1.5, 1.5, 0.0]])
        >>> some = SeenPairs(means, of_pair, both, both, 2 * torch.ones(1), torch.ones(1))
        >>> pair_residual(some, center=torch.zeros(3))  # 1 of 10
        tensor(0.1000, dtype=torch.float64)
    """
    sums, means = _sums_and_means(pairs, center)
    rows, within = pairs.rows.to(sums), pairs.sums_of_squares.to(sums).sum()
    left = within + rows @ (means - _scale_of(rows, sums, means) * sums).square().sum(1)
    whole = within + rows @ means.square().sum(1)
    _require_length(whole, rows.sum() * _rounding(pairs.single_means, center), "the rows with two tags")
    return left / whole


def _scale_of(
    rows: Float[Tensor, " P"], sums: Float[Tensor, "P d"], means: Float[Tensor, "P d"]
) -> Float[Tensor, ""]:
    return (rows @ (sums * means).sum(1)) / (rows @ sums.square().sum(1))


def _sums_and_means(
    pairs: SeenPairs, center: Float[Tensor, " d"] | None
) -> tuple[Float[Tensor, "P d"], Float[Tensor, "P d"]]:
    """Of each pair the sum of its tags' means, and its own mean, around the center."""
    singles, g = _around(pairs.single_means, center)
    sums, means = singles[pairs.pairs].sum(1), pairs.pair_means.to(singles) - g
    rows = pairs.rows.to(sums)
    least = rows.sum() * _rounding(pairs.single_means, center)
    _require_length(rows @ sums.square().sum(1), least, _SUMS)
    return sums, means


def _products(
    single_means: Float[Tensor, "K d"], moments: TagMoments, center: Float[Tensor, " d"] | None
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Sums over rows: of the row with the sum of its tags' means, of that with itself, of the row."""
    if not bool(moments.count > 0):
        raise NothingToCompare("no row has so many tags")
    singles, g = _around(single_means, center)
    around = moments.around(g)
    along = (singles * around.cross).sum()
    of_sums = ((singles @ singles.T) * around.joint).sum()
    least = moments.count * _rounding(single_means, center)
    _require_length(of_sums, least, _SUMS)
    _require_length(around.squares, least, "the rows with so many tags")
    return along, of_sums, around.squares


def _around(
    single_means: Float[Tensor, "K d"], center: Float[Tensor, " d"] | None
) -> tuple[Float[Tensor, "K d"], Float[Tensor, " d"]]:
    """The means around the center, and the center."""
    means = single_means.to(accumulator_dtype(single_means.device))
    g = means.mean(0) if center is None else center.to(means)
    return means - g, g


def _rounding(
    single_means: Float[Tensor, "K d"], center: Float[Tensor, " d"] | None
) -> Float[Tensor, ""]:
    """The square that rounding makes of nothing: in products of centered means, and in centering."""
    singles, g = _around(single_means, center)
    eps = torch.finfo(singles.dtype).eps
    largest, offset = singles.square().sum(1).max(), (singles + g).square().sum(1).max()
    return 64 * eps * largest + (64 * eps) ** 2 * offset


def _require_length(squares: Float[Tensor, ""], least: Float[Tensor, ""], what: str) -> None:
    if bool(squares <= least):
        raise UndefinedMeasure(f"{what} are zero around the center")
