r"""What the last two layers of a regression come to, in closed form.

The features of all rows are free, as those of a network that can fit anything:

.. math:: \min_{W, b, H} \frac{1}{2N} \sum_i \|W h_i + b - y_i\|^2 + \frac{\lambda_W}{2} \|W\|_F^2
    + \frac{\kappa}{2N} \sum_i \|h_i\|^2

Here :math:`\kappa = N \lambda_H`, where :math:`\lambda_H` is the penalty of the convention of
:mod:`lightning_nc.values.penalties`: it stands beside the **sum** over rows, and :math:`\kappa` beside
their mean. With ``nn.MSELoss()``, which averages over the n targets as well, both penalties are n/2
times what stands beside that loss.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.joint import LinearReadout
from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.regression import LimitTerms


@dataclass(frozen=True, eq=False)
class RegressionLimit:
    r"""A global minimum, up to rotation of the features.

    Directions are the eigenvectors of :math:`\Sigma`, that of the largest variance first.

    Attributes:
        gram: :math:`W W^\top`.
        residual: The covariance of what is left of the targets, of :math:`y - W h - b`.
        gamma: :math:`c = \lambda_W \kappa`, that of NRC3.
        survivors: Which directions survive: those with a variance above c.
        loss: The objective, penalties included.
    """

    gram: Float[Tensor, "n n"]
    residual: Float[Tensor, "n n"]
    gamma: float
    survivors: Bool[Tensor, " n"]
    loss: Float[Tensor, ""]


def regression_limit(
    target_covariance: Float[Tensor, "n n"], penalty: float, row_penalty: float
) -> RegressionLimit:
    r"""The closed form of the last two layers.

    With :math:`c = \lambda_W \kappa` and the eigenvalues :math:`\lambda_j` of :math:`\Sigma`,

    .. math::
        W W^\top &= \sqrt{\kappa / \lambda_W}\, \big[ \Sigma^{1/2} - \sqrt c\, I \big]_+ \\
        L &= \sum_{\lambda_j > c} \Big( \frac c2 + \sqrt c\, (\sqrt{\lambda_j} - \sqrt c) \Big)
            + \sum_{\lambda_j \le c} \frac{\lambda_j}{2}

    and the bias is the mean of the targets. What is left of the targets has variance c along each
    direction that survives, and :math:`\lambda_j` along the others.

    Conventions: of a bias without a penalty; of targets with mean 0 also for one with a penalty;
    without a bias :math:`\Sigma` is the second moment of the targets, not centered. For no more targets
    than features.

    Args:
        target_covariance: :math:`\Sigma`, divided by N.
        penalty: :math:`\lambda_W`.
        row_penalty: :math:`\kappa = N \lambda_H`.

    Returns:
        The limit.

    Raises:
        ValueError: If a penalty is not positive: then there is no minimum.

    Example:
        >>> limit = regression_limit(torch.diag(torch.tensor([2.0, 0.5])), 0.1, 0.2)
        >>> limit.gram.diag(), limit.survivors.tolist(), f"{float(limit.loss):.3f}"
        (tensor([1.8000, 0.8000], dtype=torch.float64), [True, True], '0.280')

    References:
        Andriopoulos, Dong, Guo, Zhao & Ross (2024), "The prevalence of neural collapse in neural
        multivariate regression".
    """
    if not (penalty > 0 and row_penalty > 0):
        raise ValueError(
            f"Expected penalties of weight and features above 0, but got {penalty} and {row_penalty}. "
            "Without one of them W or the features grow without bound, and there is no limit."
        )
    c, dtype = penalty * row_penalty, accumulator_dtype(target_covariance.device)
    values, vectors = torch.linalg.eigh(target_covariance.to(dtype))
    values, vectors = values.clamp(min=0).flip(0), vectors.flip(1)
    gains = (values.sqrt() - c**0.5).clamp(min=0)
    left = values.clamp(max=c)
    # half of the squared error, and both penalties, which are equal
    loss = left.sum() / 2 + c**0.5 * gains.sum()
    return RegressionLimit(
        gram=(row_penalty / penalty) ** 0.5 * (vectors * gains) @ vectors.T,
        residual=(vectors * left) @ vectors.T,
        gamma=c,
        survivors=values > c,
        loss=loss,
    )


def limit_distance(readout: LinearReadout, limit_terms: LimitTerms) -> Float[Tensor, ""]:
    r"""How far W W' is from the closed form of the last two layers.

    .. math:: \frac{\| W W^\top - G \|_F}{\| G \|_F}

    with G of :func:`regression_limit` for the stated penalties and the targets of these rows, which are
    those of training. Unlike NRC3 it knows the scale, and which directions vanish.

    Range ``[0, inf)``, 0 in the limit. Invariant under rotation of h, and of y with the rows of W.

    Args:
        readout: The last linear layer.
        limit_terms: Penalties, and covariance of the targets.

    Returns:
        The distance, a float64 scalar.

    Raises:
        UndefinedMeasure: If there is no closed form, or W is 0 in the limit.

    Example:
        >>> terms = LimitTerms(torch.diag(torch.tensor([2.0, 0.5])), 0.1, 0.2)
        >>> limit_distance(LinearReadout(torch.tensor([[1.8, 0.0], [0.0, 0.0]]).sqrt()), terms)
        tensor(0.4061, dtype=torch.float64)
    """
    limit = _limit_of(limit_terms)
    if not bool(limit.survivors.any()):
        raise UndefinedMeasure(
            "W is 0 in the limit: the product of the penalties exceeds every variance of the targets"
        )
    weight = readout.weight.to(limit.gram)
    return (weight @ weight.T - limit.gram).norm() / limit.gram.norm()


def surviving_directions(limit_terms: LimitTerms) -> Int[Tensor, ""]:
    r"""How many directions of the targets survive the penalties: those with a variance above c.

    .. math:: \#\{ j : \lambda_j(\Sigma) > \lambda_W \kappa \}

    The rank of W in the limit of :func:`regression_limit`. Below n, NRC3 cannot reach 0.

    Args:
        limit_terms: Penalties, and covariance of the targets.

    Returns:
        Their number, in [0, n].

    Raises:
        UndefinedMeasure: If there is no closed form.

    Example:
        >>> surviving_directions(LimitTerms(torch.diag(torch.tensor([2.0, 0.5])), 1.0, 0.9))
        tensor(1)
    """
    return _limit_of(limit_terms).survivors.sum()


def _limit_of(terms: LimitTerms) -> RegressionLimit:
    if terms.lacks:
        raise UndefinedMeasure(terms.lacks)
    return regression_limit(terms.target_covariance, terms.penalty, terms.row_penalty)
