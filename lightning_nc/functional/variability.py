r"""NC1, within-class variability collapse: the spread inside the classes against that between them.

Conventions: :math:`\Sigma_W` = scatter / N (no Bessel correction), :math:`\Sigma_B = \frac1C \sum_c
m_c m_c^\top` with the **unweighted** global mean, as in the code of Papyan, Han and Donoho (2020),
Zhu et al. (2021) and Kothapalli et al. (2023). Hong and Ling (2023) weight :math:`\Sigma_B` by
:math:`n_c/N`. All measures here are invariant under rotation, translation and scaling of the
features, and 0 at collapse.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.functional.geometry import off_diagonal
from lightning_nc.functional.spectrum import (
    between_class_directions,
    between_class_whitening,
    centered_means_cholesky,
    eigenvectors_above,
    trace_along,
)
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.precision import FLOAT32_EPS
from lightning_nc.values.statistics import ClassStatistics


def rank(statistics: ClassStatistics) -> Int[Tensor, ""]:
    """Numerical rank of the centered class means, on which NC1 rests.

    See :func:`between_class_directions` for when a direction counts. ``C - 1`` at collapse; at most
    ``min(C - 1, d)``.

    Args:
        statistics: Statistics in which every class has at least one sample.

    Returns:
        The rank, an integer scalar.

    Raises:
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [3.0, 0.0]])
        >>> rank(ClassStatistics.from_batch(h, torch.arange(3), num_classes=3))
        tensor(1)
    """
    if centered_means_cholesky(statistics) is not None:
        counted = min(statistics.num_classes - 1, statistics.num_features)
    else:
        counted = len(between_class_directions(statistics)[0])
    return torch.tensor(counted, device=statistics.means.device)


def within_between_pinv(statistics: ClassStatistics) -> Float[Tensor, ""]:
    r"""NC1: :math:`\operatorname{tr}(\Sigma_W \Sigma_B^+) / C`.

    The within-class covariance as the classifier sees it: only its part in the span of the class
    means counts, each direction relative to the spread of the means along it. With
    :math:`M = [m_1 \dots m_C]^\top` and :math:`P^\top P = (M^\top M)^+`
    (:func:`between_class_whitening`) it is :math:`\operatorname{tr}(P \Sigma_W P^\top)`; no
    pseudo-inverse of :math:`\Sigma_B` is formed, whose default tolerances are wrong by orders of
    magnitude near collapse.

    Conventions: divided by C (Zhu et al. 2021, Kothapalli et al. 2023); the notebook of Papyan, Han
    and Donoho reports it without 1/C. Range ``[0, inf)``, 0 at collapse, no unit.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.

    Returns:
        The measure, a float64 scalar; NaN if all class means coincide.

    Raises:
        UndefinedMeasure: If the covariance was not kept.
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 0.5], [1.0, -0.5], [-1.0, 0.5], [-1.0, -0.5]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> within_between_pinv(ClassStatistics.from_batch(h, y, num_classes=2))  # orthogonal
        tensor(0., dtype=torch.float64)

    References:
        Papyan, Han & Donoho (2020), "Prevalence of neural collapse during the terminal phase of deep
        learning training".
    """
    scatter = statistics.require_scatter()
    whitening = between_class_whitening(statistics)
    if len(whitening) == 0:
        return torch.full_like(statistics.within_trace, torch.nan)
    return (trace_along(whitening, scatter) / statistics.num_samples).clamp(min=0)


def within_between_ratio(statistics: ClassStatistics) -> Float[Tensor, ""]:
    r"""NC1 as a ratio of traces: :math:`\operatorname{tr} \Sigma_W / \operatorname{tr} \Sigma_B`.

    Counts all directions alike, also those in which the class means do not differ. Range
    ``[0, inf)``, 0 at collapse, no unit. Needs no covariance matrix.

    Args:
        statistics: Statistics in which every class has at least one sample.

    Returns:
        The ratio, a float64 scalar.

    Raises:
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> within_between_ratio(ClassStatistics.from_batch(h, y, num_classes=2))
        tensor(0.0690, dtype=torch.float64)

    References:
        Tirer, Huang & Niles-Weed (2023), "Perturbation analysis of neural collapse".
    """
    return statistics.within_trace / statistics.between_trace


def within_between_ratio_debiased(statistics: ClassStatistics) -> Float[Tensor, ""]:
    r"""The ratio of traces without the sampling noise of the class means.

    A mean of :math:`n_c` samples is off by :math:`v_c/n_c` in squared norm, which inflates
    :math:`\operatorname{tr} \Sigma_B`: NC1 from 50 validation images per class cannot be compared
    with NC1 from 1,300 training images per class. With :math:`q_c` the sum of squares of class c
    around its mean and :math:`v_c = q_c / (n_c - 1)`:

    .. math:: \frac{\sum_c q_c / (N - C)}
        {\operatorname{tr} \Sigma_B - (1 - \frac1C) \frac1C \sum_c v_c / n_c}

    Numerator and denominator are unbiased, each on its own. Range ``[0, inf)``, 0 at collapse.

    Args:
        statistics: Statistics in which every class has at least two samples.

    Returns:
        The ratio, a float64 scalar.

    Raises:
        UndefinedMeasure: If a class has fewer than two samples, or the denominator is not positive.
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> within_between_ratio_debiased(ClassStatistics.from_batch(h, y, num_classes=2))
        tensor(0.1429, dtype=torch.float64)
    """
    between_trace = statistics.between_trace
    n, num_classes = statistics.counts, statistics.num_classes
    if bool((n < 2).any()):
        raise UndefinedMeasure("a class has a single sample, whose variance is not known")
    variances = statistics.sums_of_squares / (n - 1)
    noise = (1 - 1 / num_classes) * (variances / n).mean()
    if bool(between_trace <= noise):
        raise UndefinedMeasure("the class means differ by no more than their sampling noise")
    within = statistics.sums_of_squares.sum() / (statistics.num_samples - num_classes)
    return within / (between_trace - noise)


def cdnv(statistics: ClassStatistics) -> Float[Tensor, ""]:
    r"""Class-distance normalized variance, averaged over the pairs of classes.

    .. math:: \operatorname{Avg}_{c \ne c'} \frac{v_c + v_{c'}}{2 \|\mu_c - \mu_{c'}\|^2}, \quad
        v_c = \frac1{n_c} \sum_{i: y_i = c} \|h_i - \mu_c\|^2

    Conventions: :math:`v_c` is the total variance, not per dimension, with ddof 0 (Galanti et al.
    2022); Wu and Papyan (2024) divide by the fourth power of the distance. Above 2,048 classes, an
    average over a seeded sample of 2,048 classes. Range ``[0, inf)``, 0 at collapse, no unit.

    Args:
        statistics: Statistics in which every class has at least one sample.

    Returns:
        The average, a float64 scalar; infinite or NaN if two class means coincide.

    Raises:
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> cdnv(ClassStatistics.from_batch(h, y, num_classes=2))  # (1 + 0) / (2 * 29)
        tensor(0.0172, dtype=torch.float64)

    References:
        Galanti, Gyorgy & Hutter (2022), "On the role of neural collapse in transfer learning".
    """
    return off_diagonal(pairwise_cdnv(statistics)).mean()


def pairwise_cdnv(statistics: ClassStatistics) -> Float[Tensor, "k k"]:
    r"""The terms of :func:`cdnv`, for each pair of the (sampled) classes.

    Args:
        statistics: Statistics in which every class has at least one sample.

    Returns:
        The terms; infinite or NaN where two class means coincide, and so on the diagonal.

    Raises:
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> pairwise_cdnv(ClassStatistics.from_batch(h, y, num_classes=2))[0, 1]
        tensor(0.0172, dtype=torch.float64)
    """
    frame = statistics.frame
    variances = (statistics.sums_of_squares / statistics.counts)[frame.sampled]
    return (variances[:, None] + variances) / (2 * frame.squared_distances)


def variability_collapse_index(statistics: ClassStatistics) -> Float[Tensor, ""]:
    r"""Variability collapse index: :math:`1 - \operatorname{tr}(\Sigma_T^+ \Sigma_B) / \min(d, C-1)`.

    Here, unlike elsewhere, :math:`\Sigma_B = \sum_c \frac{n_c}{N} (\mu_c - \bar\mu)(\mu_c -
    \bar\mu)^\top` is weighted by the counts, around the sample mean :math:`\bar\mu`, and
    :math:`\Sigma_T = \Sigma_W + \Sigma_B`, so that the index stays in ``[0, 1]``. 0 at collapse.
    Not logged by default: it needs the eigendecomposition of a d x d matrix.

    Invariant under invertible linear maps of the features. So each unit is divided by its standard
    deviation first, and a unit whose rows differ by no more than float32 rounds off drops out. What
    float32 makes of the means and of the scatter is then told unit by unit: no direction is missed
    because its units are small.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.

    Returns:
        The index, a float64 scalar.

    Raises:
        UndefinedMeasure: If the covariance was not kept.
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> variability_collapse_index(ClassStatistics.from_batch(h, y, num_classes=2))
        tensor(0., dtype=torch.float64)

    References:
        Xu & Liu (2023), "Quantifying the variability collapse of neural networks".
    """
    statistics.require_all_seen()
    scatter, n = statistics.require_scatter(), statistics.num_samples
    share = statistics.counts.to(statistics.means) / n
    mean = share @ statistics.means
    weighted = (statistics.means - mean) * share.sqrt()[:, None]
    within = scatter.diagonal() / n
    variances = within + weighted.square().sum(0)
    rounded = FLOAT32_EPS**2 * (variances + mean.square())
    units = variances > rounded
    if not bool(units.any()):
        return torch.ones_like(statistics.within_trace)
    variances, scale = variances[units], variances[units].rsqrt()
    weighted = weighted[:, units] * scale
    total = (scatter if bool(units.all()) else scatter[units][:, units]) * (scale / n)
    total.mul_(scale[:, None]).addmm_(weighted.T, weighted)
    least = _rounding_of_units(rounded[units] / variances, within[units] / variances, len(weighted))
    values, vectors = eigenvectors_above(least, total)
    explained = ((weighted @ vectors).square().sum(0) / values).sum()
    degrees = min(statistics.num_features, statistics.num_classes - 1)
    return 1 - explained / degrees


def _rounding_of_units(
    of_rows: Float[Tensor, " d"], within: Float[Tensor, " d"], num_classes: int
) -> Float[Tensor, " d"]:
    """Variance that float32 makes of nothing, for each unit; in a direction it is their average.

    Rounding errors of C means in d units add up to more along some directions, as do those of the d x d
    sums of products, by what random matrices of such shapes do.
    """
    width = len(of_rows)
    of_means = of_rows * (1 + (width / num_classes) ** 0.5) ** 2
    return of_means + FLOAT32_EPS * width**0.5 * within
