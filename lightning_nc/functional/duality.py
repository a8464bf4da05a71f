r"""NC3, self-duality: the classifier against the class means.

Conventions: M holds the class means centered by the unweighted :math:`\mu_G`, one per row as the
rows of W; W is taken as it is. With absent classes, both lose the same rows.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.geometry import simplex_gram, unit
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.statistics import ClassStatistics


def self_duality(statistics: ClassStatistics, classifier: LinearClassifier) -> Float[Tensor, ""]:
    r"""NC3: :math:`\left\| W/\|W\|_F - M/\|M\|_F \right\|_F^2`.

    Convention: squared (Papyan, Han and Donoho 2020); Guo et al. (2024) take the root. Range
    ``[0, 4]``; 0 at collapse, 2 if the two are orthogonal, 4 if they are opposite.

    Args:
        statistics: Statistics in which every class has at least one sample.
        classifier: The last linear layer, of the same classes.

    Returns:
        The squared distance, a float64 scalar.

    Raises:
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> import torch
        >>> h = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 1]), num_classes=2)
        >>> self_duality(stats, LinearClassifier(torch.tensor([[5.0, 0.0], [-5.0, 0.0]])))
        tensor(0., dtype=torch.float64)

    References:
        Papyan, Han & Donoho (2020), "Prevalence of neural collapse during the terminal phase of deep
        learning training".
    """
    weight, means = _matched(statistics, classifier)
    # in place: fresh memory for C x d numbers costs more than the arithmetic
    difference = unit(weight).addcdiv_(means, means.norm(), value=-1)
    return difference.square_().sum()


def duality_etf_distance(
    statistics: ClassStatistics, classifier: LinearClassifier
) -> Float[Tensor, ""]:
    r"""Distance of the normalized :math:`W M^\top` to the ETF's Gram matrix.

    .. math:: \left\| \frac{W M^\top}{\|W M^\top\|_F} - \frac{1}{\sqrt{C-1}} \left(I -
        \tfrac1C 1 1^\top\right) \right\|_F

    NC2 and NC3 in one number; not squared. Range ``[0, 2]``, 0 at collapse. Above 2,048 classes, the
    rows and columns of a seeded sample of 2,048 classes.

    Args:
        statistics: Statistics in which every class has at least one sample.
        classifier: The last linear layer, of the same classes.

    Returns:
        The distance, a float64 scalar.

    Raises:
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> import torch
        >>> h = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 1]), num_classes=2)
        >>> duality_etf_distance(stats, LinearClassifier(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])))
        tensor(2., dtype=torch.float64)

    References:
        Zhu et al. (2021), "A geometric analysis of neural collapse with unconstrained features".
    """
    weight, means = _matched(statistics, classifier)
    chosen = statistics.frame.of_sample
    product = chosen(weight) @ chosen(means).T
    return (unit(product) - unit(simplex_gram(statistics.frame))).norm()


def uniform_duality(statistics: ClassStatistics, classifier: LinearClassifier) -> Float[Tensor, ""]:
    r"""UNC3: :math:`\operatorname{std}_c \cos(w_c, m_c)`.

    Whether all classes are equally well aligned, not how well. Population standard deviation (Wu and
    Papyan report the coefficient of variation as well). Range ``[0, 1]``, 0 at collapse.

    Args:
        statistics: Statistics in which every class has at least one sample.
        classifier: The last linear layer, of the same classes.

    Returns:
        The standard deviation, a float64 scalar.

    Raises:
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> from torch import arange, eye, tensor
        >>> stats = ClassStatistics.from_batch(tensor([[1.0, 0.0], [-1.0, 0.0]]), arange(2), 2)
        >>> uniform_duality(stats, LinearClassifier(eye(2)))
        tensor(0.5000, dtype=torch.float64)

    References:
        Wu & Papyan (2024), "Linguistic collapse: neural collapse in (large) language models".
    """
    return duality_cosines(statistics, classifier).std(correction=0)


def duality_cosines(statistics: ClassStatistics, classifier: LinearClassifier) -> Float[Tensor, " C"]:
    r"""The terms of :func:`uniform_duality`: :math:`\cos(w_c, m_c)` of each class.

    Args:
        statistics: Statistics in which every class has at least one sample.
        classifier: The last linear layer, of the same classes.

    Returns:
        The cosines; NaN where a row or a centered mean is zero.

    Raises:
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> from torch import arange, eye, tensor
        >>> stats = ClassStatistics.from_batch(tensor([[1.0, 0.0], [-1.0, 0.0]]), arange(2), 2)
        >>> duality_cosines(stats, LinearClassifier(eye(2)))
        tensor([1., 0.], dtype=torch.float64)
    """
    weight, means = _matched(statistics, classifier)
    products = torch.einsum("cd,cd->c", weight, means)
    return products / (classifier.frame.norms * statistics.frame.norms)


def bias_collapse(statistics: ClassStatistics, classifier: LinearClassifier) -> Float[Tensor, ""]:
    r"""What the global mean and the bias add to the logits: :math:`\|(I - \frac1C 11^\top)(W \mu_G + b)\|_2`.

    A constant added to all logits changes no decision, hence the projection; Zhu et al. report
    :math:`\|W \mu_G + b\|_2` without it. In units of a logit; range ``[0, inf)``, 0 at collapse.
    Invariant under rotation of the features with the classifier.

    Args:
        statistics: Statistics in which every class has at least one sample.
        classifier: The last linear layer, of the same classes; no bias counts as 0.

    Returns:
        The norm, a float64 scalar.

    Raises:
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> import torch
        >>> h = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 1]), num_classes=2)
        >>> head = LinearClassifier(torch.eye(2), bias=torch.tensor([0.0, 3.0]))
        >>> bias_collapse(stats, head)  # W muG + b = (1, 4), less its mean 2.5
        tensor(2.1213, dtype=torch.float64)

    References:
        Zhu et al. (2021), "A geometric analysis of neural collapse with unconstrained features".
    """  # noqa: E501
    weight, _ = _matched(statistics, classifier)
    logits = weight @ statistics.global_mean
    if classifier.bias is not None:
        logits = logits + classifier.bias
    return (logits - logits.mean()).norm()


def _matched(
    statistics: ClassStatistics, classifier: LinearClassifier
) -> tuple[Float[Tensor, "C d"], Float[Tensor, "C d"]]:
    """W in the statistics' dtype, and M, after a check that they belong together."""
    means = statistics.centered_means
    if classifier.weight.shape != means.shape:
        raise ValueError(
            "Expected a classifier whose weight has the shape of the class means, "
            f"{tuple(means.shape)}, but got {tuple(classifier.weight.shape)}. Are the features the "
            "classifier's input, and num_classes the number of its rows?"
        )
    return classifier.frame.vectors, means
