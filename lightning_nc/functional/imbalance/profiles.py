r"""Tests of a geometry without its parameter: what one class says of it, every other class must say.

The logits of the class means, at their own scale, tell the parameter by themselves, and much better
than shapes do. Where the profiles are not flat, the network does not have that geometry, whatever its
distance from it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.frames.cross_entropy import r_profile as r_of_each_class
from lightning_nc.functional.frames.triple import Counts, class_shares


class Profile(NamedTuple):
    """A parameter by class.

    Attributes:
        values: The parameter that each class tells; NaN where its logit fits none.
        variation: Standard deviation over mean, of the classes that tell one: 0 where the network has
            the geometry; NaN with fewer than two.
        left_out: How many classes tell none.
    """

    values: Float[Tensor, " K"]
    variation: Float[Tensor, ""]
    left_out: int


def tau_profile(counts: Counts, logits: Float[Tensor, "K K"], num_layers: int = 1) -> Profile:
    r"""The :math:`\tau` of a general orthogonal frame that each class tells, by its logit g.

    .. math:: \tau_k = (1 - g_k)^{M+1} g_k^{M-1} p_k^M, \qquad g_k = w_k^\top \mu_k

    At a minimum of the squared error without a bias it is :math:`N \lambda_H \prod_l \lambda_l` for
    each class that lives. A class with a logit of 0 or less, or of 1 or more, tells none: it is dead,
    or does not fit. Invariant under rotation alone: the scale of the logits counts.

    Args:
        counts: Rows of each class in training.
        logits: :math:`W \mu^\top`, one column per class.
        num_layers: M, of the linear head, without a bias.

    Returns:
        The profile.

    Raises:
        ValueError: If a class has no rows.

    Example:
        >>> profile = tau_profile(torch.tensor([3, 1]), torch.diag(torch.tensor([0.8, 0.0])))
        >>> profile.values, profile.left_out
        (tensor([0.0300,    nan], dtype=torch.float64), 1)

    References:
        Dang et al. (2023), "Neural collapse in deep linear networks: from balanced to imbalanced data".
    """
    p, m = class_shares(counts), num_layers
    g = logits.diagonal().to(p)
    values = (1 - g) ** (m + 1) * g ** (m - 1) * p**m
    return _profile(torch.where((g > 0) & (g < 1), values, torch.nan))


def r_profile(counts: Counts, logits: Float[Tensor, "K K"]) -> Profile:
    r"""The r of cross-entropy with ReLU features that each class tells, by the error of its mean.

    .. math:: r_k = \sqrt{p_k}\, (1 - \operatorname{softmax}(z_k)_k)

    At a minimum without a bias it is :math:`\sqrt{N \lambda_W \lambda_H (K - 1)/K}` for each class that
    lives.

    Args:
        counts: Rows of each class in training.
        logits: Of the class means, one column per class.

    Returns:
        The profile.

    Raises:
        ValueError: If a class has no rows.

    Example:
        >>> r_profile(torch.tensor([3, 3]), torch.eye(2)).variation
        tensor(0., dtype=torch.float64)

    References:
        Dang et al. (2024), "Neural collapse for cross-entropy class-imbalanced learning with
        unconstrained ReLU features model".
    """
    return _profile(r_of_each_class(counts, logits))


def effective_feature_penalty(
    weight_penalty: float, weight: Float[Tensor, "K d"], sum_of_squares: Float[Tensor, ""] | float
) -> float:
    r"""The penalty of the features that would balance that of the weights.

    At every minimum :math:`\lambda_W \|W\|_F^2 = \lambda_H \|H\|_F^2`. Where the features have no
    penalty of their own, it is what the rest of the network amounts to; with it
    :math:`\tau = N \lambda_W \lambda_H` is to be compared with that of a fit and of a profile.

    Args:
        weight_penalty: :math:`\lambda_W`.
        weight: W.
        sum_of_squares: :math:`\|H\|_F^2`, of all rows: :math:`\sum_k n_k \|\mu_k\|^2` and the trace of
            the pooled scatter.

    Returns:
        :math:`\lambda_H = \lambda_W \|W\|_F^2 / \|H\|_F^2`.

    Example:
        >>> effective_feature_penalty(0.01, torch.eye(2), 4.0)
        0.005
    """
    return float(weight_penalty * weight.double().square().sum() / sum_of_squares)


def _profile(values: Float[Tensor, " K"]) -> Profile:
    known = values[values.isfinite()]
    enough = len(known) > 1
    variation = known.std(correction=0) / known.mean() if enough else values.new_tensor(torch.nan)
    return Profile(values, variation, len(values) - len(known))
