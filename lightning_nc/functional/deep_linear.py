r"""A head of several linear layers: collapse at the input of each of them.

The head is :math:`W_M \cdots W_1 h + b`. For the input of layer j there are the class means
:math:`M_j`, one per row, and :math:`P_j = W_M \cdots W_j`, which makes logits of them; :math:`P_M` is
the classifier. Under weight decay and the squared error with equal counts, :math:`M_j M_j^\top`,
:math:`P_j P_j^\top` and :math:`P_j M_j^\top` of every layer become multiples of one Gram matrix.

Conventions: without a bias that is the identity, an orthogonal frame, and nothing is centered; with a
bias on the last layer it is the simplex ETF's, and the class means are centered by their unweighted
mean. :math:`P_j` is taken as it is. The distance is that of matrices divided by their Frobenius norms,
not squared. With unequal counts the lengths differ at the optimum, where no distance is 0.

With C > d_j classes for the width d_j of layer j's input (centered: C > d_j + 1) the frame is out of
reach, and no distance is less than :math:`\sqrt{2 - 2\sqrt{d_j/C}}` (centered:
:math:`\sqrt{2 - 2\sqrt{d_j/(C-1)}}`). Above 2,048 classes, what is pairwise is computed on a seeded
sample of 2,048 of them.

For NC1 there is :func:`within_between_ratio` and no pseudo-inverse. Where a small class dies, or the
means at a layer have a low rank, :math:`\Sigma_W \Sigma_B^+` divides by next to nothing: values of 555
and 9.5 were seen where :math:`\operatorname{tr} \Sigma_W / \operatorname{tr} \Sigma_B` was 5e-3.
"""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional import variability
from lightning_nc.functional.geometry import simplex_gram, unit
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.frame import Frame
from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.statistics import ClassStatistics


def partial_products(weights: Sequence[Float[Tensor, "_ _"]]) -> list[Float[Tensor, "C _"]]:
    r"""What makes the logits of the input of each layer: :math:`P_j = W_M \cdots W_j`.

    Args:
        weights: W_1 to W_M, in the order in which they are applied.

    Returns:
        P_1 to P_M in float64, of C rows each.

    Raises:
        ValueError: If there is no weight, or one does not take what the one before puts out.

    Example:
        >>> first, last = partial_products([torch.eye(3, 5), torch.ones(2, 3)])
        >>> first
        tensor([[1., 1., 1., 0., 0.],
                [1., 1., 1., 0., 0.]], dtype=torch.float64)
    """
    shapes = [tuple(weight.shape) for weight in weights]
    chained = all(after[1] == before[0] for before, after in itertools.pairwise(shapes))
    if not shapes or not chained:
        raise ValueError(
            "Expected weights of which each takes as many features as the one before puts out, but got "
            f"the shapes {shapes}. Are they in the order in which they are applied, the first first?"
        )
    *earlier, last = (weight.detach().to(accumulator_dtype(weight.device)) for weight in weights)
    products = [last]
    for weight in reversed(earlier):
        products.insert(0, products[0] @ weight)
    return products


def within_between_ratio(statistics: ClassStatistics, product: LinearClassifier) -> Float[Tensor, ""]:
    r"""NC1 at a layer of the head: :math:`\operatorname{tr} \Sigma_W / \operatorname{tr} \Sigma_B`.

    :func:`lightning_nc.functional.within_between_ratio` where the layer belongs to a deep linear head.
    Range ``[0, inf)``, 0 at collapse. Invariant under rotation, translation and scaling.

    Args:
        statistics: Of the features at the layer's input; every class has at least one sample.
        product: P_j. It is not read: where there is none, there is no such head.

    Returns:
        The ratio, a float64 scalar.

    Raises:
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 0, 1, 1]), num_classes=2)
        >>> within_between_ratio(stats, LinearClassifier(torch.eye(2)))
        tensor(0.0690, dtype=torch.float64)

    References:
        Dang et al. (2023), "Neural collapse in deep linear networks: from balanced to imbalanced data".
    """
    return variability.within_between_ratio(statistics)


def weights_frame_distance(product: LinearClassifier) -> Float[Tensor, ""]:
    r"""NC2 of the weights: distance of :math:`P_j P_j^\top` to the frame's Gram matrix.

    .. math:: \left\| \frac{P_j P_j^\top}{\|P_j P_j^\top\|_F} - \frac{T}{\|T\|_F} \right\|_F

    with T = I without a bias, and :math:`T = I - \frac1C 1 1^\top` with one. Range ``[0, sqrt(2)]``, 0
    at collapse; out of reach with too many classes (see the module). Invariant under rotation and
    scaling.

    Args:
        product: P_j, with the head's bias.

    Returns:
        The distance, a float64 scalar; NaN if the product is zero.

    Example:
        >>> weights_frame_distance(LinearClassifier(torch.eye(4)))
        tensor(0., dtype=torch.float64)
        >>> weights_frame_distance(LinearClassifier(torch.eye(4), bias=torch.zeros(4)))
        tensor(0.5176, dtype=torch.float64)

    References:
        Dang et al. (2023), "Neural collapse in deep linear networks: from balanced to imbalanced data".
    """
    return _distance(product.frame.gram, product)


def means_frame_distance(statistics: ClassStatistics, product: LinearClassifier) -> Float[Tensor, ""]:
    r"""NC2 at a layer's input: distance of the means' :math:`M_j M_j^\top` to the frame's Gram matrix.

    .. math:: \left\| \frac{M_j M_j^\top}{\|M_j M_j^\top\|_F} - \frac{T}{\|T\|_F} \right\|_F

    with the class means as they are and T = I without a bias, and with centered means and
    :math:`T = I - \frac1C 1 1^\top` with one. Range ``[0, sqrt(2)]``, 0 at collapse; out of reach with
    too many classes (see the module). Invariant under rotation and scaling.

    Args:
        statistics: Of the features at the layer's input; every class has at least one sample.
        product: P_j, with the head's bias.

    Returns:
        The distance, a float64 scalar; NaN if the means are zero.

    Raises:
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> stats = ClassStatistics.from_batch(torch.eye(4), torch.arange(4), num_classes=4)
        >>> means_frame_distance(stats, LinearClassifier(torch.eye(4)))
        tensor(0., dtype=torch.float64)

    References:
        Dang et al. (2023), "Neural collapse in deep linear networks: from balanced to imbalanced data".
    """
    return _distance(_means(statistics, product).gram, product)


def duality_frame_distance(statistics: ClassStatistics, product: LinearClassifier) -> Float[Tensor, ""]:
    r"""NC3 at a layer's input: distance of :math:`P_j M_j^\top` to the frame's Gram matrix.

    .. math:: \left\| \frac{P_j M_j^\top}{\|P_j M_j^\top\|_F} - \frac{T}{\|T\|_F} \right\|_F

    with the class means as they are and T = I without a bias, and with centered means and
    :math:`T = I - \frac1C 1 1^\top` with one. The product holds the logits of the means, less the bias:
    in a stack that is linear throughout, the same at every layer. Range ``[0, 2]``, 0 at collapse; out
    of reach with too many classes (see the module). Invariant under rotation of the features with the
    product, and scaling.

    Args:
        statistics: Of the features at the layer's input; every class has at least one sample.
        product: P_j, with the head's bias.

    Returns:
        The distance, a float64 scalar; NaN if the product of both is zero.

    Raises:
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> stats = ClassStatistics.from_batch(torch.eye(4), torch.arange(4), num_classes=4)
        >>> duality_frame_distance(stats, LinearClassifier(-torch.eye(4)))
        tensor(2., dtype=torch.float64)

    References:
        Dang et al. (2023), "Neural collapse in deep linear networks: from balanced to imbalanced data".
    """
    means = _means(statistics, product)
    logits = means.of_sample(product.frame.vectors) @ means.of_sample(means.vectors).T
    return _distance(logits, product)


def _means(statistics: ClassStatistics, product: LinearClassifier) -> Frame:
    """The class means as the head's frame has them, centered or not."""
    statistics.require_all_seen()
    if product.weight.shape != statistics.means.shape:
        raise ValueError(
            "Expected a product of weights with the shape of the class means at the layer's input, "
            f"{tuple(statistics.means.shape)}, but got {tuple(product.weight.shape)}. Are the features "
            "measured at the input of the layer whose product this is?"
        )
    return Frame(statistics.means) if product.bias is None else statistics.frame


def _distance(matrix: Float[Tensor, "k k"], product: LinearClassifier) -> Float[Tensor, ""]:
    return (unit(matrix) - unit(_target(product, matrix))).norm()


def _target(product: LinearClassifier, like: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """The frame's Gram matrix, up to a factor: the identity, or less 1/C with a bias."""
    if product.bias is not None:
        return simplex_gram(product.frame)
    return torch.eye(len(like), dtype=like.dtype, device=like.device)
