r"""The directions in which features and targets of a regression vary, found once for each value."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_nc.functional.spectrum import eigenvectors_above, kept_with_the_value
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.joint import JointMoments, LinearReadout
from lightning_nc.values.precision import FLOAT32_EPS, accumulator_dtype


class Directions(NamedTuple):
    """Those that count, the one with the largest variance first.

    Attributes:
        variances: Along each.
        vectors: As columns.
    """

    variances: Float[Tensor, " r"]
    vectors: Float[Tensor, "d r"]


class Roots(NamedTuple):
    r"""The root of the covariance of the targets, :math:`\Sigma^{1/2}`.

    Attributes:
        matrix: The root.
        least: Its smallest eigenvalue; 0 where rounding is all that it is.
    """

    matrix: Float[Tensor, "n n"]
    least: Float[Tensor, ""]


@kept_with_the_value
def feature_directions(joint: JointMoments) -> Directions:
    r"""Eigenvectors of the covariance of the features, less those that are rounding.

    A direction v counts when its variance exceeds what rounding features to float32 can make,
    :math:`\epsilon_{32}^2 \sum_j v_j^2 (\Sigma_{jj} + \bar h_j^2)`.

    Args:
        joint: Moments of at least one row.

    Returns:
        The directions.

    Raises:
        UndefinedMeasure: If there are none.

    Example:
        >>> h = torch.tensor([[1.0, 5.0], [-1.0, 5.0]])
        >>> feature_directions(JointMoments.from_batch(h, torch.zeros(2, 1))).variances
        tensor([1.], dtype=torch.float64)
    """
    if bool(joint.count < 2):
        raise UndefinedMeasure("a single row has no spread")
    covariance = joint.feature_covariance
    values, vectors = eigenvectors_above(_rounding(covariance, joint.feature_mean), covariance)
    if not len(values):
        what = "0" if bool(joint.unit_count == 0) else "the same"
        raise UndefinedMeasure(f"the features of all rows are {what}")
    return Directions(values.flip(0), vectors.flip(1))


def leading(joint: JointMoments) -> Float[Tensor, "d k"]:
    """The n directions in which the features vary most, as columns; fewer where fewer count.

    Args:
        joint: Moments of features and n targets.

    Returns:
        The directions.

    Raises:
        UndefinedMeasure: If there are none, or n of them are all that there are.
    """
    n, d = joint.num_targets, joint.num_features
    if n >= d:
        raise UndefinedMeasure(f"with {n} targets and {d} features it is 0 whatever the features are")
    return feature_directions(joint).vectors[:, :n]


@kept_with_the_value
def row_space_basis(readout: LinearReadout) -> Float[Tensor, "d r"]:
    r"""An orthonormal basis of the row space of W, as columns; W stays as it is.

    A direction counts when its singular value exceeds what rounding W to float32 can make,
    :math:`\epsilon_{32} \|W\|_F`: a row that is a multiple of another one adds none.

    Args:
        readout: W.

    Returns:
        The basis.

    Raises:
        UndefinedMeasure: If W is 0.

    Example:
        >>> row_space_basis(LinearReadout(torch.tensor([[0.0, 2.0], [0.0, 4.0]]))).abs()
        tensor([[0.],
                [1.]], dtype=torch.float64)
    """
    weight = readout.weight.to(accumulator_dtype(readout.weight.device))
    _, values, vectors = torch.linalg.svd(weight, full_matrices=False)
    basis = vectors[values > FLOAT32_EPS * weight.norm()].T
    if not basis.shape[1]:
        raise UndefinedMeasure("W is 0, and has no row space")
    return basis


@kept_with_the_value
def target_roots(joint: JointMoments) -> Roots:
    """The root of the covariance of the targets.

    Its smallest eigenvalue is 0 where targets are constant, or one is a linear map of the others to
    what float32 tells: with the bound of :func:`feature_directions`.

    Args:
        joint: Moments of at least one row.

    Returns:
        The root.

    Raises:
        UndefinedMeasure: If all targets are constant.
    """
    covariance = joint.target_covariance
    if bool(constant_targets(joint).all()):
        raise UndefinedMeasure("all targets are constant")
    values, vectors = torch.linalg.eigh(covariance)
    roots = values.clamp(min=0).sqrt()
    counted, _ = eigenvectors_above(_rounding(covariance, joint.target_mean), covariance)
    whole = len(counted) == len(values)
    return Roots((vectors * roots) @ vectors.T, roots[0] if whole else roots[0] * 0)


def constant_targets(joint: JointMoments) -> Bool[Tensor, " n"]:
    """Which targets are the same in all rows, to what the sums can tell.

    Args:
        joint: Moments.

    Returns:
        True for those, one entry for each target.

    Example:
        >>> y = torch.tensor([[0.1, 1.0], [0.1, 2.0]])
        >>> constant_targets(JointMoments.from_batch(torch.zeros(2, 3), y))
        tensor([ True, False])
    """
    spread = joint.target_covariance.diagonal().clamp(min=0).sqrt()
    return spread <= 64 * torch.finfo(spread.dtype).eps * joint.target_mean.abs()


def _rounding(covariance: Float[Tensor, "d d"], mean: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """The variance that rounding to float32 can make of each entry."""
    return FLOAT32_EPS**2 * (covariance.diagonal() + mean.square())
