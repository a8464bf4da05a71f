r"""Language models: more classes than dimensions, many of them rare.

A class is a token to come next, a row a position in a text. A simplex ETF of C > d + 1 classes does not
exist; what is asked for is uniformity on the sphere (GNC2) and uniform duality (UNC3). The coefficients
of variation that the paper reports divide by averages that pass through 0 early in training: here the
averages and the standard deviations stand on their own.

Conventions: centered class means and the classifier as it is; population standard deviations. Above
2,048 classes, what is pairwise is computed on a seeded sample of 2,048 of them.

References:
    Wu & Papyan (2024), "Linguistic collapse: neural collapse in (large) language models".
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.duality import duality_cosines, uniform_duality
from lightning_nc.functional.geometry import log_inverse_distances, off_diagonal
from lightning_nc.functional.variability import pairwise_cdnv
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.frame import Frame
from lightning_nc.values.statistics import ClassStatistics


def log_distance_std(means_frame: Frame) -> Float[Tensor, ""]:
    r"""GNC2: standard deviation of the log inverse distances of the normalized class means.

    .. math:: \operatorname{std}_{c < c'} l_{cc'}, \quad l_{cc'} = \log \|u_c - u_{c'}\|^{-1}, \quad
        u_c = m_c / \|m_c\|

    The numerator of :func:`log_distance_variation`. Natural logarithm. Range ``[0, inf)``, 0 at
    collapse, which is any frame whose pairs are equally far apart. Invariant under rotation and
    scaling.

    Args:
        means_frame: Centered class means.

    Returns:
        The standard deviation, a float64 scalar; NaN if two directions coincide.

    Example:
        >>> log_distance_std(Frame(torch.eye(4)))
        tensor(0., dtype=torch.float64)

    References:
        Wu & Papyan (2024), "Linguistic collapse: neural collapse in (large) language models".
    """
    return log_inverse_distances(means_frame).std(correction=0)


def log_distance_mean(means_frame: Frame) -> Float[Tensor, ""]:
    r"""GNC2: average of the log inverse distances of the normalized class means.

    .. math:: \operatorname{Avg}_{c < c'} l_{cc'}, \quad l_{cc'} = \log \|u_c - u_{c'}\|^{-1}, \quad
        u_c = m_c / \|m_c\|

    The denominator of :func:`log_distance_variation` with its sign, negative where the directions are
    more than 1 apart. Natural logarithm. At least :math:`-\frac12 \log \frac{2C}{C-1}`, which it is for
    a simplex ETF: the smaller, the more uniform. Invariant under rotation and scaling.

    Args:
        means_frame: Centered class means.

    Returns:
        The average, a float64 scalar; infinite if two directions coincide.

    Example:
        >>> log_distance_mean(Frame(torch.eye(4)))  # -log(2) / 2
        tensor(-0.3466, dtype=torch.float64)

    References:
        Wu & Papyan (2024), "Linguistic collapse: neural collapse in (large) language models".
    """
    return log_inverse_distances(means_frame).mean()


def duality_cosine_mean(statistics: ClassStatistics, classifier: LinearClassifier) -> Float[Tensor, ""]:
    r"""NC3 by angle: :math:`\operatorname{Avg}_c \cos(w_c, m_c)`.

    How well the classes are aligned; :func:`duality_cosine_std` is how equally. Near 0 before training.
    Range ``[-1, 1]``, 1 at collapse. Invariant under rotation and scaling.

    Args:
        statistics: Statistics in which every class has at least one sample.
        classifier: The last linear layer, of the same classes.

    Returns:
        The average, a float64 scalar; NaN if a row or a centered mean is zero.

    Raises:
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> from torch import arange, eye, tensor
        >>> stats = ClassStatistics.from_batch(tensor([[1.0, 0.0], [-1.0, 0.0]]), arange(2), 2)
        >>> duality_cosine_mean(stats, LinearClassifier(eye(2)))
        tensor(0.5000, dtype=torch.float64)

    References:
        Wu & Papyan (2024), "Linguistic collapse: neural collapse in (large) language models".
    """
    return duality_cosines(statistics, classifier).mean()


def duality_cosine_std(statistics: ClassStatistics, classifier: LinearClassifier) -> Float[Tensor, ""]:
    r"""UNC3: :math:`\operatorname{std}_c \cos(w_c, m_c)`, under its own name beside the average.

    The same number as :func:`uniform_duality`. Range ``[0, 1]``, 0 at collapse. Invariant under
    rotation and scaling.

    Args:
        statistics: Statistics in which every class has at least one sample.
        classifier: The last linear layer, of the same classes.

    Returns:
        The standard deviation, a float64 scalar; NaN if a row or a centered mean is zero.

    Raises:
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> from torch import arange, eye, tensor
        >>> stats = ClassStatistics.from_batch(tensor([[1.0, 0.0], [-1.0, 0.0]]), arange(2), 2)
        >>> duality_cosine_std(stats, LinearClassifier(eye(2)))
        tensor(0.5000, dtype=torch.float64)

    References:
        Wu & Papyan (2024), "Linguistic collapse: neural collapse in (large) language models".
    """
    return uniform_duality(statistics, classifier)


def cdnv_median(statistics: ClassStatistics) -> Float[Tensor, ""]:
    r"""Class-distance normalized variance: the median over the pairs of classes.

    .. math:: \operatorname{median}_{c < c'} \frac{v_c + v_{c'}}{2 \|\mu_c - \mu_{c'}\|^2}

    One pair of means that nearly coincide dominates the average, :func:`cdnv`, and not the median.

    Conventions: the terms of :func:`cdnv`; of an even number of pairs the smaller one of the two in the
    middle, so that it is the value of a pair. A pair whose means coincide counts as infinite, also
    where both classes have no spread. Range ``[0, inf]``, 0 at collapse. Invariant under rotation,
    translation and scaling.

    Args:
        statistics: Statistics in which every class has at least one sample.

    Returns:
        The median, a float64 scalar; infinite if the means of most pairs coincide.

    Raises:
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> cdnv_median(ClassStatistics.from_batch(h, y, num_classes=2))  # (1 + 0) / (2 * 29)
        tensor(0.0172, dtype=torch.float64)
    """
    coincide = statistics.frame.squared_distances == 0
    return off_diagonal(pairwise_cdnv(statistics).masked_fill(coincide, torch.inf)).median()


def cdnv_fourth_power(statistics: ClassStatistics) -> Float[Tensor, ""]:
    r"""Class-distance normalized variance by the fourth power of the distance, as in Wu and Papyan.

    .. math:: \operatorname{Avg}_{c \ne c'} \frac{v_c + v_{c'}}{2 \|\mu_c - \mu_{c'}\|^4}

    For comparison with their figures. Conventions: as :func:`cdnv`, but **not** free of the scale: of
    features that are s times as large it is :math:`s^{-2}` times as large. Range ``[0, inf)``, 0 at
    collapse, in units of an inverse squared feature. Invariant under rotation and translation.

    Args:
        statistics: Statistics in which every class has at least one sample.

    Returns:
        The average, a float64 scalar; infinite or NaN if two class means coincide.

    Raises:
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> cdnv_fourth_power(ClassStatistics.from_batch(h, y, num_classes=2))  # 1 / (2 * 29**2)
        tensor(0.0006, dtype=torch.float64)

    References:
        Wu & Papyan (2024), "Linguistic collapse: neural collapse in (large) language models".
    """
    return off_diagonal(pairwise_cdnv(statistics) / statistics.frame.squared_distances).mean()
