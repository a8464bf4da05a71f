"""How much of the targets linear maps of the features give: the best one, and the network's own."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.regression.spectrum import constant_targets, feature_directions
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.joint import JointMoments, LinearReadout


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


def r2_readout(joint: JointMoments, readout: LinearReadout) -> Float[Tensor, ""]:
    r"""Share of the targets' variance that the network's own W h + b gives: 1 less its squared error.

    .. math:: R^2 = 1 - \frac{\sum_i \|W h_i + b - y_i\|^2}{\sum_i \|y_i - \bar y\|^2}
        = 1 - \frac{\operatorname{tr}(W \Sigma_h W^\top) - 2 \operatorname{tr}(W C)
        + \operatorname{tr} \Sigma + \|W \bar h + b - \bar y\|^2}{\operatorname{tr} \Sigma}

    Conventions: all targets together, as in :func:`r2_linear`, which it exceeds by no more than
    rounding. Far below it where the loss takes other targets than the batch holds (standardized in the
    step, of a residual) or another output than W h + b (a link function); where W moves between the
    rows of an epoch, W is that of the end. The error is a difference: where W h + b is as large as y it
    is exact to about 1e-15 of the targets' variance, so that what is missing to 1 has five digits down
    to 1e-10, and is noise below 1e-15.

    Range ``(-inf, 1]``, 1 at collapse where the network fits its targets; 0 for their mean. Invariant
    under rotation of h with W, of y with W and b, and under a common scale of y, W and b.

    Args:
        joint: Moments of features and targets.
        readout: The last linear layer.

    Returns:
        The share, a float64 scalar.

    Raises:
        UndefinedMeasure: If all targets are constant.

    Example:
        >>> h = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
        >>> y = torch.tensor([[3.0], [1.0], [1.0], [-1.0]])
        >>> joint = JointMoments.from_batch(h, y)
        >>> r2_readout(joint, LinearReadout(torch.tensor([[1.0]]), torch.tensor([1.0])))
        tensor(0.5000, dtype=torch.float64)
        >>> r2_readout(joint, LinearReadout(torch.tensor([[1.0]])))  # the mean of y is 1
        tensor(0., dtype=torch.float64)
    """
    if bool(constant_targets(joint).all()):
        raise UndefinedMeasure("all targets are constant")
    weight = readout.weight.to(joint.feature_mean)
    told = ((weight @ joint.feature_covariance) * weight).sum()
    shared = (weight * joint.cross_covariance.T).sum()
    off = weight @ joint.feature_mean - joint.target_mean
    if readout.bias is not None:
        off = off + readout.bias.to(off)
    whole = joint.target_covariance.trace()
    error = told - 2 * shared + whole + off.square().sum()
    return torch.clamp(1 - error / whole, max=1)
