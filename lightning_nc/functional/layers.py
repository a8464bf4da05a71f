r"""The features of one layer, and how they change with depth.

The measures of a single layer take its statistics; :func:`collapse_begins` and :func:`separation_law`
take one number for each layer, from the input to the top. What sets a layer's weight against its
features is in ``layer_weights.py``.

Conventions: as in ``variability.py``, unless a function says otherwise: :math:`\Sigma_W` = scatter / N,
:math:`\Sigma_B = \frac1C \sum_c m_c m_c^\top` around the unweighted mean of the class means.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.spectrum import means_rounding
from lightning_nc.functional.variability import within_between_pinv
from lightning_nc.values.precision import FLOAT32_EPS
from lightning_nc.values.statistics import ClassStatistics


def within_share(statistics: ClassStatistics) -> Float[Tensor, ""]:
    r"""Share of the variance that lies inside the classes.

    .. math:: \frac{\operatorname{tr} \Sigma_W}{\operatorname{tr} \Sigma_W + \operatorname{tr} \Sigma_B}

    The ratio of traces on a scale from 0 to 1, so that layers can be compared. Conventions: of the
    core; the paper's own form is :func:`within_share_classwise`, the same where all classes have as
    many samples. Range ``[0, 1]``, 0 at collapse. Invariant under rotation, translation and scaling.
    Needs no covariance matrix.

    Args:
        statistics: Statistics in which every class has at least one sample.

    Returns:
        The share, a float64 scalar; NaN if all features coincide.

    Raises:
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> within_share(ClassStatistics.from_batch(h, y, num_classes=2))  # 0.5 / (0.5 + 7.25)
        tensor(0.0645, dtype=torch.float64)

    References:
        Rangamani et al. (2023), "Feature learning in deep classifiers through intermediate neural
        collapse".
    """
    between = statistics.between_trace
    return statistics.within_trace / (statistics.within_trace + between)


def within_share_classwise(statistics: ClassStatistics) -> Float[Tensor, ""]:
    r"""Share of the variance inside the classes, each class counted alike.

    .. math:: \frac{w}{w + b}, \quad w = \frac1C \sum_c \frac1{n_c} \sum_{i: y_i = c} \|h_i-\mu_c\|^2,
        \quad b = \frac1C \sum_c \|\mu_c - \bar\mu\|^2

    Conventions: the paper's, which mixes two: the spread is averaged over the classes and not over the
    samples, but :math:`\bar\mu` is the mean of all samples. Equal to :func:`within_share` where all
    classes have as many samples. Range ``[0, 1]``, 0 at collapse. Invariant under rotation,
    translation and scaling.

    Args:
        statistics: Statistics in which every class has at least one sample.

    Returns:
        The share, a float64 scalar; NaN if all features coincide.

    Raises:
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
        >>> y = torch.tensor([0, 0, 1])
        >>> within_share_classwise(ClassStatistics.from_batch(h, y, num_classes=2))
        tensor(0.0584, dtype=torch.float64)

    References:
        Rangamani et al. (2023), "Feature learning in deep classifiers through intermediate neural
        collapse".
    """
    statistics.require_all_seen()
    within = (statistics.sums_of_squares / statistics.counts).mean()
    between = (statistics.means - _sample_mean(statistics)).square().sum(1).mean()
    return within / (within + between)


def separation(statistics: ClassStatistics) -> Float[Tensor, ""]:
    r"""Separation fuzziness: :math:`\operatorname{tr}(\Sigma_W \Sigma_B^+)`.

    C times :func:`within_between_pinv`: the form in which :func:`separation_law` is stated.

    Conventions: :math:`\Sigma_B` of the core, each class with the weight 1/C; He and Su weight it by
    :math:`n_c/N`, around the mean of all samples, which is the same where all classes have as many
    samples. Range ``[0, inf)``, 0 at collapse. Invariant under rotation, translation and scaling.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.

    Returns:
        The measure, a float64 scalar; NaN if all class means coincide.

    Raises:
        UndefinedMeasure: If the covariance was not kept.
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[2.0, 0.0], [1.0, 0.0], [-2.0, 0.0], [-1.0, 0.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> separation(ClassStatistics.from_batch(h, y, num_classes=2))  # 0.25 / 2.25
        tensor(0.1111, dtype=torch.float64)

    References:
        He & Su (2023), "A law of data separation in deep learning".
    """
    return statistics.num_classes * within_between_pinv(statistics)


def effective_rank(statistics: ClassStatistics) -> Float[Tensor, ""]:
    r"""Effective rank of the features: over how many directions they spread.

    .. math:: \exp\Big(-\sum_k p_k \log p_k\Big), \quad p_k = s_k \Big/ \sum_j s_j

    with the singular values :math:`s_k` of all feature rows less their mean: the roots of the
    eigenvalues of :math:`N \Sigma_W + \sum_c n_c (\mu_c - \bar\mu)(\mu_c - \bar\mu)^\top`.

    Conventions: centered by the mean of all samples, each sample counted alike; shares of the singular
    values, not of their squares. A direction counts if its variance exceeds what rounding the features
    to float32 can make. Range ``[1, d]``; C - 1 at collapse onto a simplex with as many samples in each
    class. Invariant under rotation, translation and scaling. Costs the eigenvalues of a d x d matrix.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.

    Returns:
        The rank, a float64 scalar, seldom an integer; NaN if all features coincide.

    Raises:
        UndefinedMeasure: If the covariance was not kept.
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> effective_rank(ClassStatistics.from_batch(h, y, num_classes=2))
        tensor(2., dtype=torch.float64)

    References:
        Roy & Vetterli (2007), "The effective rank: a measure of effective dimensionality".
    """
    statistics.require_all_seen()
    scatter, mean = statistics.require_scatter(), _sample_mean(statistics)
    weighted = (statistics.means - mean) * statistics.counts.to(mean).sqrt()[:, None]
    total = torch.addmm(scatter, weighted.T, weighted)
    squares = torch.linalg.eigvalsh(total)
    of_features = FLOAT32_EPS**2 * (total.trace() + statistics.num_samples * mean.square().sum())
    of_eigvalsh = len(squares) * torch.finfo(squares.dtype).eps * squares[-1]
    values = squares[squares > torch.maximum(of_features, of_eigvalsh)].sqrt()
    if len(values) == 0:
        return torch.full_like(statistics.within_trace, torch.nan)
    return torch.special.entr(values / values.sum()).sum().exp()


def means_condition(statistics: ClassStatistics) -> Float[Tensor, ""]:
    r"""DNC2: condition number of the class means, :math:`\sigma_1 / \sigma_{\min(C, d)}`.

    Of the C x d matrix of class means, **not** centered: in a deep unconstrained features model the
    means become orthogonal and equally long, not a simplex. A smallest singular value that rounding
    the means to float32 could have made counts as 0, as in :func:`rank`. Range ``[1, inf]``; 1 at
    collapse. Invariant under rotation and scaling, not under translation. With C > d the means cannot
    be orthogonal, and 1 says that they are a tight frame.

    Args:
        statistics: Statistics in which every class has at least one sample.

    Returns:
        The condition number, a float64 scalar; infinite if the means are linearly dependent.

    Raises:
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> means_condition(ClassStatistics.from_batch(h, torch.arange(2), num_classes=2))
        tensor(3., dtype=torch.float64)

    References:
        Sukenik, Mondelli & Lampert (2023), "Deep neural collapse is provably optimal for the deep
        unconstrained features model".
    """
    statistics.require_all_seen()
    values = torch.linalg.svdvals(statistics.means)
    least = values[-1].masked_fill(values[-1] <= means_rounding(statistics), 0)
    return values[0] / least


def collapse_begins(shares: Sequence[float], fraction: float = 0.1) -> int | None:
    """The first layer whose within-share is below a fraction of the input's.

    Args:
        shares: :func:`within_share` by depth, that of the input first.
        fraction: Of the input's share.

    Returns:
        The index of the layer, 0 for the input; None if no layer gets there.

    Raises:
        ValueError: If there is no share, or that of the input is not positive.

    Example:
        >>> collapse_begins([0.58, 0.41, 0.22, 0.047, 0.002])
        3

    References:
        Rangamani et al. (2023), "Feature learning in deep classifiers through intermediate neural
        collapse".
    """
    if len(shares) == 0 or not float(shares[0]) > 0:
        raise ValueError(
            "Expected within-shares by depth, of which the first, the input's, is positive, but got "
            f"{list(shares)}. Was the input of the first layer measured? Add it to layers as 'name:in'."
        )
    below = (depth for depth, share in enumerate(shares) if share < fraction * shares[0])
    return next(below, None)


class SeparationLaw(NamedTuple):
    r"""The line :math:`\log D_l = \log D_0 + l \log \rho` through separations by depth.

    Attributes:
        rate: :math:`\rho`, by which each layer multiplies the separation; below 1 where it falls.
        log_start: :math:`\log D_0` of the line, natural logarithm.
        residual: Root mean square of what the line leaves, in units of the natural logarithm.
        correlation: Of :math:`\log D_l` with the depth (Pearson), -1 where the law holds exactly; NaN
            if all separations are equal.
    """

    rate: float
    log_start: float
    residual: float
    correlation: float


def separation_law(separations: Sequence[float]) -> SeparationLaw:
    r"""The law of equi-separation: each layer multiplies the separation by the same factor.

    Least squares of :math:`\log D_l` on the depth l = 0..L. A separation that is not finite or not
    positive is left out; those above it keep their depth.

    Args:
        separations: :func:`separation` by depth, that of the input first.

    Returns:
        The line and how well it fits.

    Raises:
        ValueError: If fewer than three separations are finite and positive.

    Example:
        >>> law = separation_law([8.0, 4.0, 2.0, 1.0])
        >>> f"{law.rate:.3f} {law.log_start:.3f} {law.residual:.3f} {law.correlation:.3f}"
        '0.500 2.079 0.000 -1.000'

    References:
        He & Su (2023), "A law of data separation in deep learning".
    """
    given = torch.tensor([float(value) for value in separations], dtype=torch.float64)
    counted = given.isfinite() & (given > 0)
    if int(counted.sum()) < 3:
        raise ValueError(
            "Expected at least three finite, positive separations by depth, but got "
            f"{given.tolist()}. Is layer/separation among the measures, and are three layers measured?"
        )
    depth, logs = counted.nonzero().flatten().to(given), given[counted].log()
    x, y = depth - depth.mean(), logs - logs.mean()
    slope = (x @ y) / (x @ x)
    flat = bool(logs.min() == logs.max())
    return SeparationLaw(
        rate=float(slope.exp()),
        log_start=float(logs.mean() - slope * depth.mean()),
        residual=float((y - slope * x).square().mean().sqrt()),
        correlation=math.nan if flat else float((x @ y) / (x.norm() * y.norm())),
    )


def _sample_mean(statistics: ClassStatistics) -> Float[Tensor, " d"]:
    """The mean of all samples, in which a class has the weight of its count."""
    return statistics.counts.to(statistics.means) @ statistics.means / statistics.num_samples
