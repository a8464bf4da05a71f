"""How much of the targets the best linear map of the features gives, without a second pass."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.regression.spectrum import constant_targets, feature_directions
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.joint import JointMoments


def r2_linear(joint: JointMoments) -> Float[Tensor, ""]:
    r"""Share of the targets' variance that the best linear map of the features, with a bias, gives.

    .. math:: R^2 = 1 - \frac{\min_{V, b} \sum_i \|V h_i + b - y_i\|^2}{\sum_i \|y_i - \bar y\|^2}
        = \frac{\operatorname{tr}(C^\top \Sigma_h^{+} C)}{\operatorname{tr} \Sigma}

    with the covariances :math:`\Sigma_h` of the features, :math:`\Sigma` of the targets and C of both.

    Conventions: all targets together, not the average over targets: one of a large variance counts
    for more, a constant one for nothing. Directions in which features vary no more than float32 rounds
    them are not used. Fitted to the rows on which it is measured, without a penalty: with as many
    features as rows it is 1 whatever they are.

    Range ``[0, 1]``, 1 at collapse where the network fits its targets. Invariant under invertible
    affine maps of h, and under rotation, translation and scaling of y.

    Args:
        joint: Moments of features and targets.

    Returns:
        The share, a float64 scalar.

    Raises:
        UndefinedMeasure: If all targets are constant, or the features do not vary.

    Example:
        >>> h = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
        >>> y = torch.tensor([[3.0], [1.0], [1.0], [-1.0]])
        >>> r2_linear(JointMoments.from_batch(h, y))
        tensor(0.5000, dtype=torch.float64)

    References:
        NRC4' of "Deep neural regression collapse" (2026) is the error of this map.
    """
    if bool(constant_targets(joint).all()):
        raise UndefinedMeasure("all targets are constant")
    variances, vectors = feature_directions(joint)
    told = (vectors.T @ joint.cross_covariance).square().sum(1) / variances
    return torch.clamp(told.sum() / joint.target_covariance.trace(), max=1)
