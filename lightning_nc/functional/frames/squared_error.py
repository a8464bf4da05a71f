r"""Geometries of the squared error with unequal counts: the general orthogonal frame (GOF), two kinds.

Objective, with one-hot labels and all features free:

.. math:: \frac{1}{2N} \|W_M \cdots W_1 H + b - Y\|^2 + \sum_l \frac{\lambda_l}{2} \|W_l\|^2
   + \frac{\lambda_H}{2} \|H\|^2

Without a bias, features and classifiers are orthogonal, with lengths that the counts set (:func:`gof`).
With a bias that is not penalized, and features of both signs, the same lengths belong to the singular
vectors of the centered labels (:func:`gof_centered`); with equal counts that is the simplex ETF. Under
ReLU the second kind is out of reach. For a penalized bias with unequal counts no closed form is known.

All depends on one number, :math:`\tau = N \lambda_H \prod_l \lambda_l`, by the gains g of
:mod:`lightning_nc.functional.frames.gains`.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_nc.functional.frames.gains import gains
from lightning_nc.functional.frames.triple import Counts, Minimum, Triple, class_shares


def gof_shape(
    counts: Counts,
    tau: float,
    num_layers: int = 1,
    layer: int = 1,
    alive: Bool[Tensor, " K"] | None = None,
) -> Triple:
    r"""The general orthogonal frame at a layer of a linear head, up to the scales of its matrices.

    With :math:`t_k = p_k g_k (1 - g_k)` and :math:`P_j = W_M \cdots W_j` for layer j, whose input are
    the features :math:`\mu_j`:

    .. math:: P_j P_j^\top \sim \operatorname{diag}(t^{M-j+1}), \qquad
       \mu_j \mu_j^\top \sim \operatorname{diag}(t^j / n), \qquad
       P_j \mu_j^\top = \operatorname{diag}(g)

    Args:
        counts: n, rows of each class.
        tau: :math:`N \lambda_H \prod_l \lambda_l`.
        num_layers: M.
        layer: j, from 1, where the features enter the head, to M, the classifier.
        alive: The classes that live; None: as at the global minimum.

    Returns:
        The geometry; the logits at their own scale.

    Raises:
        ValueError: If a class has no rows.

    Example:
        >>> gof_shape(torch.tensor([8, 4, 2, 2]), tau=1e-9).logits.diagonal()
        tensor([1.0000, 0.9999, 0.9999, 0.9999], dtype=torch.float64)

    References:
        Dang et al. (2023), "Neural collapse in deep linear networks: from balanced to imbalanced data".
    """
    shares = class_shares(counts)
    g = gains(tau / shares**num_layers, num_layers, alive)
    return Triple(*(each.diag() for each in gof_lengths(g, shares, num_layers, layer)))


def gof_lengths(
    g: Float[Tensor, "*n K"], shares: Float[Tensor, " K"], num_layers: int, layer: int
) -> Triple:
    """The diagonals of the frame's matrices for given gains.

    Args:
        g: Gains.
        shares: p, of the classes.
        num_layers: M.
        layer: j.

    Returns:
        Diagonals in the place of matrices.
    """
    t = shares * g * (1 - g)
    return Triple(t ** (num_layers - layer + 1), t**layer / shares, g)


def gof_limit(counts: Counts, num_layers: int = 1, layer: int = 1) -> Triple:
    r"""The general orthogonal frame under ever weaker regularization: :math:`\tau \to 0`.

    .. math:: P_j P_j^\top \sim \operatorname{diag}(p^{(M-j+1)/(M+1)}), \qquad
       \mu_j \mu_j^\top \sim \operatorname{diag}(p^{j/(M+1) - 1}), \qquad P_j \mu_j^\top \sim I

    Args:
        counts: Rows of each class.
        num_layers: M.
        layer: j.

    Returns:
        The geometry.

    Raises:
        ValueError: If a class has no rows.

    Example:
        >>> gof_limit(torch.tensor([4, 1])).weights.diagonal().square()
        tensor([0.8000, 0.2000], dtype=torch.float64)
    """
    p, rate = class_shares(counts), 1 / (num_layers + 1)
    lengths = p ** ((num_layers - layer + 1) * rate), p ** (layer * rate - 1), torch.ones_like(p)
    return Triple(*(each.diag() for each in lengths))


def gof(
    counts: Counts,
    weight_penalties: Sequence[float],
    feature_penalty: float,
    num_features: int | None = None,
) -> Minimum:
    r"""The global minimum of the squared error without a bias: :func:`gof_shape` at its own scale.

    .. math:: P_1 P_1^\top = \operatorname{diag}\Big(\frac{t^M}{\prod_l \lambda_l}\Big), \quad
       \mu \mu^\top = \operatorname{diag}\Big(\frac{t}{n \lambda_H}\Big), \quad
       \text{loss} = \sum_k \frac{p_k}{2} \big[(1-g_k)^2 + (M+1) g_k (1-g_k)\big]

    with :math:`t_k = p_k g_k (1 - g_k)`. No signs are asked for, and ReLU features change nothing.

    Args:
        counts: n, rows of each class.
        weight_penalties: :math:`\lambda_1, \dots, \lambda_M`.
        feature_penalty: :math:`\lambda_H`, of the sum over all rows.
        num_features: The least width of the head; with fewer features than classes, the largest
            classes live. None: wide enough.

    Returns:
        The objective and the geometry of features and head.

    Raises:
        ValueError: If a class has no rows, or a penalty is not positive.

    Example:
        >>> least = gof(torch.tensor([200, 100, 50, 50]), [5e-4], 5e-4)
        >>> least.triple.logits.diagonal()
        tensor([0.9859, 0.9800, 0.9717, 0.9717], dtype=torch.float64)

    References:
        Dang et al. (2023), "Neural collapse in deep linear networks: from balanced to imbalanced data".
    """
    shares, num_layers = class_shares(counts), len(weight_penalties)
    tau, product = _tau(counts, weight_penalties, feature_penalty)
    alive = _largest(shares, num_features)
    g = torch.where(alive, gains(tau / shares**num_layers, num_layers), 0.0)
    w, h, z = gof_lengths(g, shares, num_layers, layer=1)
    scaled = (w / product).diag(), (h / (counts.sum() * feature_penalty)).diag(), z.diag()
    return Minimum(_loss(shares, g, num_layers), Triple(*scaled))


def centered_directions(
    counts: Counts,
) -> tuple[Float[Tensor, "K r"], Float[Tensor, " r"], Float[Tensor, "K r"]]:
    r"""Singular vectors of the centered labels: :math:`(I - p 1^\top) D^{-1} = U s V^\top`.

    Args:
        counts: n; :math:`D = \operatorname{diag}(n)^{-1/2}`.

    Returns:
        U, the squares :math:`s^2 / N`, which take the place of the classes' shares, and :math:`D V`
        times the square root of the number of rows; r = K - 1 columns.

    Raises:
        ValueError: If a class has no rows.

    Example:
        >>> centered_directions(torch.tensor([1, 1]))[1]
        tensor([0.5000], dtype=torch.float64)
    """
    p = class_shares(counts)
    # of the product with its transpose: an SVD fails to converge for some counts that repeat
    squares, left = torch.linalg.eigh(p.diag() - p[:, None] * p)
    squares, left = squares[1:], left[:, 1:]
    return left, squares, (left - p @ left) / squares.sqrt()


def gof_centered_shape(counts: Counts, tau: float, num_layers: int = 1, layer: int = 1) -> Triple:
    r"""The general orthogonal frame with a bias that is not penalized, up to scales.

    With U, s and V of :func:`centered_directions`, gains of the shares :math:`s_i^2/N`, and
    :math:`t_i = s_i^2 g_i (1 - g_i) / N`:

    .. math:: P_j P_j^\top \sim U \operatorname{diag}(t^{M-j+1}) U^\top, \qquad
       \mu_j \mu_j^\top \sim D V \operatorname{diag}(t^j) V^\top D, \qquad
       P_j \mu_j^\top = U \operatorname{diag}(s g) V^\top D

    The mean of all rows is 0. Needs features of both signs.

    Args:
        counts: n, rows of each class.
        tau: :math:`N \lambda_H \prod_l \lambda_l`.
        num_layers: M.
        layer: j.

    Returns:
        The geometry; the logits, less the bias, at their own scale.

    Raises:
        ValueError: If a class has no rows.

    Example:
        >>> gof_centered_shape(torch.tensor([3, 1]), tau=1e-9).logits
        tensor([[ 0.2500, -0.7500],
                [-0.2500,  0.7500]], dtype=torch.float64)

    References:
        "The exploration of neural collapse under imbalanced data" (2024, arXiv 2411.17278).
    """
    left, squares, right = centered_directions(counts)
    g = gains(tau / squares**num_layers, num_layers)
    w, h, z = gof_lengths(g, squares, num_layers, layer)
    return Triple(
        (left * w) @ left.T, (right * (h * squares)) @ right.T, (left * (squares.sqrt() * z)) @ right.T
    )


def gof_centered(counts: Counts, weight_penalties: Sequence[float], feature_penalty: float) -> Minimum:
    r"""The global minimum of the squared error with a bias that is not penalized.

    :func:`gof_centered_shape` at its own scale, and :math:`b = p - Z p`. The loss is
    :math:`\sum_i \frac{s_i^2}{2N} [(1-g_i)^2 + (M+1) g_i (1-g_i)]`.

    Args:
        counts: n, rows of each class.
        weight_penalties: :math:`\lambda_1, \dots, \lambda_M`.
        feature_penalty: :math:`\lambda_H`, of the sum over all rows.

    Returns:
        The objective and the geometry of features and head.

    Raises:
        ValueError: If a class has no rows, or a penalty is not positive.

    Example:
        >>> gof_centered(torch.tensor([5, 5]), [0.01], 0.001).loss
        tensor(0.0070, dtype=torch.float64)

    References:
        "The exploration of neural collapse under imbalanced data" (2024, arXiv 2411.17278).
    """
    num_layers = len(weight_penalties)
    tau, product = _tau(counts, weight_penalties, feature_penalty)
    shape = gof_centered_shape(counts, tau, num_layers)
    _, squares, _ = centered_directions(counts)
    loss = _loss(squares, gains(tau / squares**num_layers, num_layers), num_layers)
    means = shape.means / (counts.sum() * feature_penalty)
    return Minimum(loss, Triple(shape.weights / product, means, shape.logits))


def _loss(shares: Tensor, g: Tensor, num_layers: int) -> Tensor:
    return (shares / 2 * ((1 - g).square() + (num_layers + 1) * g * (1 - g))).sum()


def _tau(
    counts: Counts, weight_penalties: Sequence[float], feature_penalty: float
) -> tuple[float, float]:
    """The number that all depends on, and the product of the weights' penalties."""
    if not weight_penalties or min(*weight_penalties, feature_penalty) <= 0:
        raise ValueError(
            "Expected a positive penalty of the features and of each layer of the head, but got "
            f"{list(weight_penalties)} and {feature_penalty}. Without one there is no minimum: "
            "features or weights grow for ever."
        )
    product = math.prod(weight_penalties)
    return float(counts.sum()) * feature_penalty * product, product


def _largest(shares: Float[Tensor, " K"], number: int | None) -> Bool[Tensor, " K"]:
    """The so many largest of the classes."""
    largest = torch.zeros_like(shares, dtype=torch.bool)
    largest[shares.argsort(descending=True, stable=True)[:number]] = True
    return largest
