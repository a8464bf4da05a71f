r"""NRC3: W W' is the root of the targets' covariance, less a multiple of the identity.

With :math:`A = W W^\top`, :math:`S = \Sigma^{1/2}` and :math:`\tilde X = X / \|X\|_F`, the distance is

.. math:: d(s) = \big\| \tilde A - \widetilde{(S - s I)} \big\|_F^2, \quad s = \sqrt\gamma

It is least where the cosine between A and the line S - s I is largest, which has one stationary point
in s. With the traceless parts :math:`A_0, S_0` and the slope :math:`\beta = \langle A_0, S_0 \rangle /
\|S_0\|^2` of A on S,

.. math:: s^* = \tfrac1n \operatorname{tr} S - \tfrac{1}{n \beta} \operatorname{tr} A

It is the maximum where :math:`\beta > 0`, and the cosine falls towards both sides of it; else the
cosine falls for all s below :math:`\tfrac1n \operatorname{tr} S`. So the best s in :math:`[0,
\sqrt{\lambda_{\min}(\Sigma)}]` needs no search.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.regression.spectrum import target_roots
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.joint import JointMoments, LinearReadout

_ROUND = 1e-10
"""A traceless part that is this much smaller than the whole is rounding."""


def gram_distance(joint: JointMoments, readout: LinearReadout) -> Float[Tensor, ""]:
    r"""NRC3: distance of W W' from the root of the targets' covariance, less the best multiple of I.

    .. math:: \min_{0 \le \gamma \le \lambda_{\min}(\Sigma)} \big\| \widetilde{W W^\top} -
        \widetilde{(\Sigma^{1/2} - \sqrt\gamma I)} \big\|_F^2

    Conventions: squared; :math:`\Sigma` is the covariance of the targets of these rows, divided by N;
    :func:`gamma` is that of the minimum. It cannot reach 0 where the penalties have let a direction of
    the targets vanish, as W W' has then lost its rank. Where targets are constant or depend linearly on
    each other :math:`\lambda_{\min}(\Sigma) = 0`, and so is :math:`\gamma`.

    Range ``[0, 2]``, 0 at collapse. Invariant under rotation and scaling of h, and scaling of y and W;
    under rotation of y with the rows of W.

    Args:
        joint: Moments of features and targets.
        readout: The last linear layer.

    Returns:
        The distance, a float64 scalar.

    Raises:
        UndefinedMeasure: If there is a single target, where it is 0 whatever W is; if all targets are
            constant; if W is 0.

    Example:
        >>> y = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
        >>> joint = JointMoments.from_batch(torch.zeros(4, 3), y)  # the root is diag(2, 1)
        >>> readout = LinearReadout(torch.tensor([[1.75, 0.0, 0.0], [0.0, 0.75, 0.0]]).sqrt())
        >>> gram_distance(joint, readout) < 1e-12, gamma(joint, readout)
        (tensor(True), tensor(0.0625, dtype=torch.float64))

    References:
        Andriopoulos, Dong, Guo, Zhao & Ross (2024), "The prevalence of neural collapse in neural
        multivariate regression".
    """
    return _distance(joint, readout, gamma(joint, readout))


def gamma(joint: JointMoments, readout: LinearReadout) -> Float[Tensor, ""]:
    r"""The :math:`\gamma` of :func:`gram_distance`, in units of a squared target.

    In the limit of :func:`~lightning_nc.functional.regression.regression_limit` it is the product of
    the penalties of W and of a row's features. Where all variances of the targets are equal every
    :math:`\gamma` is as good, and it is 0.

    Range ``[0, lambda_min(Sigma)]``. Scales like a squared target.

    Args:
        joint: Moments of features and targets.
        readout: The last linear layer.

    Returns:
        The best one, a float64 scalar.

    Raises:
        UndefinedMeasure: As :func:`gram_distance`.

    Example:
        >>> y = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
        >>> joint = JointMoments.from_batch(torch.zeros(4, 2), y)
        >>> gamma(joint, LinearReadout(torch.eye(2)))  # nothing that is subtracted makes these equal
        tensor(0., dtype=torch.float64)

    References:
        Andriopoulos, Dong, Guo, Zhao & Ross (2024), "The prevalence of neural collapse in neural
        multivariate regression".
    """
    return _best_shift(joint, readout).square()


def gram_distance_at_zero(joint: JointMoments, readout: LinearReadout) -> Float[Tensor, ""]:
    r"""NRC3 with :math:`\gamma = 0`: distance of W W' from the root of the targets' covariance.

    .. math:: \big\| \widetilde{W W^\top} - \widetilde{\Sigma^{1/2}} \big\|_F^2

    Nothing is fitted; 0 only as the penalties go to 0. Conventions, range and invariances of
    :func:`gram_distance`.

    Args:
        joint: Moments of features and targets.
        readout: The last linear layer.

    Returns:
        The distance, a float64 scalar.

    Raises:
        UndefinedMeasure: As :func:`gram_distance`.

    Example:
        >>> y = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
        >>> joint = JointMoments.from_batch(torch.zeros(4, 2), y)
        >>> gram_distance_at_zero(joint, LinearReadout(torch.eye(2)))  # 2 - 6 / 10 ** 0.5
        tensor(0.1026, dtype=torch.float64)

    References:
        Andriopoulos, Dong, Guo, Zhao & Ross (2024), "The prevalence of neural collapse in neural
        multivariate regression".
    """
    return _distance(joint, readout, joint.feature_mean.new_zeros(()))


def _best_shift(joint: JointMoments, readout: LinearReadout) -> Float[Tensor, ""]:
    """Of the root, by which it is nearest: the square root of gamma."""
    product, root = _normalized(_gram(joint, readout)), target_roots(joint)
    rest, size = _traceless(root.matrix), root.matrix.norm()
    slope = (_traceless(product) * rest).sum() / rest.square().sum()
    if bool(rest.norm() <= _ROUND * size) or not bool(slope > 0):
        return torch.zeros_like(size)
    mean = root.matrix.diagonal().mean()
    return torch.clamp(mean - product.diagonal().mean() / slope, min=root.least * 0, max=root.least)


def compared_grams(
    joint: JointMoments, readout: LinearReadout, gamma: Float[Tensor, ""]
) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n n"]]:
    r"""What :func:`gram_distance` compares: :math:`W W^\top`, and the root of Sigma less that of gamma.

    Args:
        joint: Moments of features and targets.
        readout: The last linear layer.
        gamma: What is taken off.

    Returns:
        Both, with a Frobenius norm of 1.

    Raises:
        UndefinedMeasure: As :func:`gram_distance`.
    """
    root = target_roots(joint).matrix
    shifted = root - gamma.sqrt() * torch.eye(len(root), dtype=root.dtype, device=root.device)
    return _normalized(_gram(joint, readout)), _normalized(shifted)


def _distance(
    joint: JointMoments, readout: LinearReadout, gamma: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    product, shifted = compared_grams(joint, readout, gamma)
    return (product - shifted).square().sum()


def _gram(joint: JointMoments, readout: LinearReadout) -> Float[Tensor, "n n"]:
    """W W', of several targets, and not 0."""
    if joint.num_targets == 1:
        raise UndefinedMeasure("with a single target it is 0 whatever W is")
    weight = readout.weight.to(joint.target_mean)
    largest = weight.abs().amax()
    if bool(largest == 0):
        raise UndefinedMeasure("W is 0")
    weight = weight / largest
    return weight @ weight.T


def _traceless(square: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    return square - torch.diag(square.diagonal().mean().expand(len(square)))


def _normalized(square: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    return square / square.norm()
