r"""Coordinates in which class means are compared with the noise around them.

Noise is the covariance inside the classes, with a penalty on its diagonal. Signals are the class means
around the mean of all rows, which is weighted by the counts, and that mean itself where a classifier
has to learn it. What the squared error has to do with both is in ``central_path``, and without a
penalty in ``signal_to_noise``.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.spectrum import eigenvectors_above
from lightning_nc.values.precision import FLOAT32_EPS
from lightning_nc.values.statistics import ClassStatistics


class Directions(NamedTuple):
    r"""Coordinates of the features, of which each unit was brought to one size first.

    Attributes:
        signals: :math:`\sqrt{p_k}\, \bar\mu_k`, and below them :math:`\sqrt\kappa\, m`.
        factor: Cholesky factor of the noise, :math:`\Sigma_W + \lambda I`; None where that is singular.
        values: Of noise and signals together, which is diagonal here; None where these are the units.
        axes: The axes of the coordinates as columns; None where these are the units.
        scale: What each unit was multiplied by; 0 where rounding is all that it is.
    """

    signals: Float[Tensor, "n r"]
    factor: Float[Tensor, "r r"] | None
    values: Float[Tensor, " r"] | None
    axes: Float[Tensor, "d r"] | None
    scale: Float[Tensor, " d"]


def directions(statistics: ClassStatistics, penalty: float, mean_share: float) -> Directions:
    r"""Coordinates in which the class means are compared with the noise around them.

    The units themselves, where the noise is certain to be regular; else the eigenvectors of

    .. math:: \Sigma_W + \lambda I + \sum_k p_k \bar\mu_k \bar\mu_k^\top + \kappa\, m m^\top

    less those that rounding can make of nothing: rows are held in float32, and their products may have
    been added up in it.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.
        penalty: :math:`\lambda`.
        mean_share: :math:`\kappa`, in [0, 1].

    Returns:
        The coordinates.

    Raises:
        UndefinedMeasure: If the covariance was not kept.
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 3.0], [3.0, 3.0], [5.0, 3.0], [7.0, 3.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 0, 1, 1]), num_classes=2)
        >>> directions(stats, penalty=0.0, mean_share=0.0).scale  # nothing happens in the second unit
        tensor([0.4472, 0.0000], dtype=torch.float64)
    """
    units = _in_units(statistics, penalty, mean_share)
    d, n = len(units.scale), statistics.num_samples
    least = units.of_rows * (1 + (d / n) ** 0.5) ** 2 + units.of_scatter
    if penalty:  # which no rounding has made: half of it must be left
        precise = d * torch.finfo(least.dtype).eps * units.noise.diagonal()
        half = penalty / 2 * units.scale.square()
        least = torch.maximum(torch.minimum(least, half), precise)
    absent = (units.scale == 0).to(least)
    factor = _certain_cholesky(units.noise + absent.diag(), least.diag())
    if factor is not None:
        return Directions(units.signals, factor, None, None, units.scale)
    total = torch.addmm(units.noise, units.signals.T, units.signals)
    of_means = units.of_rows * (1 + (d / statistics.num_classes) ** 0.5) ** 2
    values, axes = eigenvectors_above(of_means + units.of_scatter, total)
    factor = _certain_cholesky(axes.T @ units.noise @ axes, (axes.T * least) @ axes)
    return Directions(units.signals @ axes, factor, values, axes, units.scale)


def least_squares_weight(
    statistics: ClassStatistics, penalty: float, mean_share: float
) -> Float[Tensor, "K d"]:
    r"""The weight that minimizes the squared error to one-hot labels, with the best bias.

    :math:`W = Y X (X^\top X + \Sigma_W + \lambda I)^{-1}` for signals X (see :class:`Directions`) and
    :math:`Y = [\operatorname{diag}(\sqrt p) \;\; \sqrt\kappa\, p]`. With :math:`L L^\top = \Sigma_W +
    \lambda I` and the thin singular value decomposition :math:`P \operatorname{diag}(s) Q^\top` of
    :math:`L^{-1} X^\top` that is

    .. math:: W = Y Q \operatorname{diag}\left(\frac{s}{1 + s^2}\right) P^\top L^{-1}

    in which signals that are a million times the noise cost no digits, as they would in the inverse.
    Where the noise is singular, it is the inverse along :class:`Directions`, and the W of least norm.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.
        penalty: :math:`\lambda`.
        mean_share: :math:`\kappa`, in [0, 1]: 1 without a bias, 0 with one that is free.

    Returns:
        W, float64.

    Raises:
        UndefinedMeasure: If the covariance was not kept.
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[-1.0], [1.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 1]), num_classes=2)
        >>> least_squares_weight(stats, penalty=1.0, mean_share=0.0)
        tensor([[-0.2500],
                [ 0.2500]], dtype=torch.float64)
    """
    shares, _ = shares_and_mean(statistics)
    found = directions(statistics, penalty, mean_share)
    if found.factor is not None:
        white = torch.linalg.solve_triangular(found.factor, found.signals.T, upper=False)
        left, s, right = torch.linalg.svd(white, full_matrices=False)
        # the signals are one too many, as they average to their mean: that direction is rounding
        s = torch.where(s > max(white.shape) * torch.finfo(s.dtype).eps * s[:1], s, 0)
        weight = (_labels_times(right.T, shares, mean_share) * (s / (1 + s.square()))) @ left.T
        weight = torch.linalg.solve_triangular(found.factor, weight, upper=False, left=False)
    else:
        assert found.values is not None
        weight = _labels_times(found.signals, shares, mean_share) / found.values
    if found.axes is None:
        return weight * found.scale
    # of least norm among the units as they were, not as they are scaled
    spanned = found.axes / torch.where(found.scale == 0, 1, found.scale)[:, None]
    basis = torch.linalg.qr(spanned).Q
    return (weight @ found.axes.T) * found.scale @ basis @ basis.T


def shares_and_mean(
    statistics: ClassStatistics,
) -> tuple[Float[Tensor, " K"], Float[Tensor, " d"]]:
    """The share of each class in all rows, p, and the mean of all rows, which is weighted by it.

    Args:
        statistics: Statistics in which every class has a sample.

    Returns:
        p and m.

    Raises:
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[0.0], [0.0], [0.0], [8.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 0, 0, 1]), num_classes=2)
        >>> shares_and_mean(stats)
        (tensor([0.7500, 0.2500], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    statistics.require_all_seen()
    shares = statistics.counts.to(statistics.means) / statistics.num_samples
    return shares, shares @ statistics.means


class _Units(NamedTuple):
    """Signals and noise in units of one size, and the variance that rounding makes of each unit."""

    signals: Float[Tensor, "n d"]
    noise: Float[Tensor, "d d"]
    of_rows: Float[Tensor, " d"]
    of_scatter: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]


def _in_units(statistics: ClassStatistics, penalty: float, mean_share: float) -> _Units:
    shares, mean = shares_and_mean(statistics)
    scatter, n = statistics.require_scatter(), statistics.num_samples
    around = statistics.means - mean
    around -= shares @ around  # what rounding of the mean has left
    around *= shares.sqrt()[:, None]
    signals = torch.cat([around, mean_share**0.5 * mean[None]])
    within = scatter.diagonal() / n
    sizes = within + signals.square().sum(0) + penalty
    rounded = FLOAT32_EPS**2 * (within + around.square().sum(0) + mean.square())
    # what leaves the range of the numbers is no unit that is constant
    is_constant = (sizes <= rounded) & sizes.isfinite()
    scale = torch.where(is_constant, 0, sizes.rsqrt())
    squares = scale.square()
    noise = scatter * (scale / n) * scale[:, None]
    noise.diagonal().add_(penalty * squares)
    of_scatter = FLOAT32_EPS * len(mean) ** 0.5 * within
    return _Units(signals * scale, noise, rounded * squares, of_scatter * squares, scale)


def _labels_times(
    rows: Float[Tensor, "n r"], shares: Float[Tensor, " K"], mean_share: float
) -> Float[Tensor, "K r"]:
    """Y times rows, of which there is one for each signal."""
    return shares.sqrt()[:, None] * rows[:-1] + mean_share**0.5 * torch.outer(shares, rows[-1])


def _certain_cholesky(
    matrix: Float[Tensor, "r r"], least: Float[Tensor, "r r"]
) -> Float[Tensor, "r r"] | None:
    """The Cholesky factor, if the matrix less what rounding may have made of it has one, too."""
    certain = torch.linalg.cholesky_ex(matrix - least).info == 0
    factor, info = torch.linalg.cholesky_ex(matrix)
    return factor if bool(certain & (info == 0)) else None
