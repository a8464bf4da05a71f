r"""NRC1 and NRC2: the features of a regression lie in n dimensions, and W reads just these.

With :math:`\tilde h = h / \|h\|` and n targets. Both measures of Andriopoulos et al. (2024) look at
rows that are not centered, so that features with a mean, as after a ReLU, leave a floor that is no lack
of collapse. Those that end in ``_centered`` are their counterparts around the mean.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.own_rows import share
from lightning_nc.functional.regression.spectrum import (
    feature_directions,
    leading,
    row_space_basis,
)
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.joint import JointMoments, LinearReadout, unit_rows
from lightning_nc.values.precision import FLOAT32_EPS
from lightning_nc.values.regression import CenteredRows, RegressionEvidence

_ENTRIES = 2**22  # of a sample in float64, at a time
_NO_LENGTH = "the features of all rows are 0"
_NO_ROWS = "no row was sampled, or all of them are at the mean"


def feature_collapse(joint: JointMoments) -> Float[Tensor, ""]:
    r"""NRC1: what of the features' directions lies outside of the n in which they vary most.

    .. math:: \operatorname{Avg}_i \|\tilde h_i - P \tilde h_i\|^2 = 1 - \operatorname{tr}(P G), \quad
        G = \operatorname{Avg}_i \tilde h_i \tilde h_i^\top

    with P on the top n eigenvectors of the covariance of the features.

    Conventions: P is that of **centered** features, and is applied to rows of length 1 that are **not
    centered**, as in the paper; rows that are 0 are left out of the average. A mean outside of the n
    directions counts as error: see :func:`feature_collapse_centered`. Each row counts alike, however
    short it is: see :func:`outside_variance`. Directions that are rounding do not count, so that P may
    have fewer than n.

    Range ``[0, 1]``, 0 at collapse; about 1 - n/d for features without structure. Invariant under
    rotation and scaling of h.

    Args:
        joint: Moments of features and targets.

    Returns:
        The share, a float64 scalar.

    Raises:
        UndefinedMeasure: If there are as many targets as features, where it is 0 whatever they are; if
            the features do not vary.

    Example:
        >>> import torch
        >>> h = torch.tensor([[2.0, 0.0, 1.0], [-2.0, 0.0, 1.0]])
        >>> feature_collapse(JointMoments.from_batch(h, torch.zeros(2, 1)))
        tensor(0.2000, dtype=torch.float64)

    References:
        Andriopoulos, Dong, Guo, Zhao & Ross (2024), "The prevalence of neural collapse in neural
        multivariate regression".
    """
    return _outside(joint, leading(joint))


def outside_variance(joint: JointMoments) -> Float[Tensor, ""]:
    r"""Share of the features' variance outside of the n directions in which they vary most.

    .. math:: 1 - \frac{\sum_{j \le n} \lambda_j}{\sum_j \lambda_j}

    of the eigenvalues of the covariance of the features, in descending order. Centered, and a long row
    counts for more than a short one: what NRC1 says where neither a mean nor rows near 0 disturb.

    Range ``[0, 1 - n/d]``, 0 at collapse; below 1e-10 float64 sums leave it fewer than five digits.
    Invariant under rotation, translation and scaling of h.

    Args:
        joint: Moments of features and targets.

    Returns:
        The share, a float64 scalar.

    Raises:
        UndefinedMeasure: As :func:`feature_collapse`.

    Example:
        >>> import torch
        >>> h = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> outside_variance(JointMoments.from_batch(h, torch.zeros(4, 1)))
        tensor(0.1000, dtype=torch.float64)

    References:
        "Deep neural regression collapse" (2026).
    """
    kept = leading(joint).shape[1]
    total = joint.feature_covariance.trace()
    return (total - feature_directions(joint).variances[:kept].sum()).clamp(min=0) / total


def row_space(joint: JointMoments, readout: LinearReadout) -> Float[Tensor, ""]:
    r"""NRC2: what of the features' directions lies outside of the row space of W.

    .. math:: \operatorname{Avg}_i \|\tilde h_i - Q \tilde h_i\|^2 = 1 - \operatorname{tr}(Q G)

    with Q on the row space of W, and G as in :func:`feature_collapse`.

    Conventions: rows are not centered, as in the paper, so that a mean outside of the row space counts
    as error: see :func:`row_space_centered`. Directions of W that are rounding do not count.

    Range ``[0, 1]``, 0 at collapse; about 1 - n/d for a W that has nothing to do with the features.
    Invariant under rotation of h with W, and scaling of either.

    Args:
        joint: Moments of features and targets.
        readout: The last linear layer.

    Returns:
        The share, a float64 scalar.

    Raises:
        UndefinedMeasure: If W reads all of the space, where it is 0 whatever the features are; if W, or
            all features, are 0.

    Example:
        >>> import torch
        >>> h = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        >>> joint = JointMoments.from_batch(h, torch.zeros(2, 1))
        >>> row_space(joint, LinearReadout(torch.tensor([[0.0, 2.0]])))  # (9/25 + 0) / 2
        tensor(0.1800, dtype=torch.float64)

    References:
        Andriopoulos, Dong, Guo, Zhao & Ross (2024), "The prevalence of neural collapse in neural
        multivariate regression".
    """
    return _outside(joint, _proper_row_space(readout))


def feature_collapse_centered(centered_rows: CenteredRows, joint: JointMoments) -> Float[Tensor, ""]:
    r"""NRC1 around the mean: what of the centered rows lies outside of their n top directions.

    .. math:: \operatorname{Avg}_i \|u_i - P u_i\|^2, \quad u_i = \frac{h_i - \bar h}{\|h_i - \bar h\|}

    For features with a mean, as after a ReLU, on which :func:`feature_collapse` has a floor.

    Conventions: P of that function; rows at the mean are left out. An average over the sample of the
    stage's rows, exact while it holds all of them. Range ``[0, 1]``, 0 at collapse. Invariant under
    rotation, translation and scaling of h.

    Args:
        centered_rows: Sums over the sample.
        joint: Moments of features and targets, of which it takes their numbers.

    Returns:
        The share, a float64 scalar.

    Raises:
        UndefinedMeasure: As :func:`feature_collapse`; if no row was sampled.

    Example:
        >>> import torch
        >>> rows = CenteredRows(*torch.tensor([4.0, 1.0, 3.0]))
        >>> joint = JointMoments.from_batch(torch.eye(3), torch.arange(3.0)[:, None])
        >>> feature_collapse_centered(rows, joint)
        tensor(0.2500)
    """
    leading(joint)  # raises where there is nothing outside of them
    return share(centered_rows.outside_directions, centered_rows.weight, _NO_ROWS)


def row_space_centered(centered_rows: CenteredRows, readout: LinearReadout) -> Float[Tensor, ""]:
    r"""NRC2 around the mean: what of the centered rows lies outside of the row space of W.

    .. math:: \operatorname{Avg}_i \|u_i - Q u_i\|^2

    with the rows of :func:`feature_collapse_centered` and the Q of :func:`row_space`. Range ``[0, 1]``,
    0 at collapse. Invariant under rotation of h with W, translation and scaling of h.

    Args:
        centered_rows: Sums over the sample.
        readout: The last linear layer.

    Returns:
        The share, a float64 scalar.

    Raises:
        UndefinedMeasure: As :func:`row_space`; if no row was sampled.

    Example:
        >>> import torch
        >>> rows = CenteredRows(*torch.tensor([4.0, 1.0, 3.0]))
        >>> row_space_centered(rows, LinearReadout(torch.tensor([[0.0, 1.0]])))
        tensor(0.7500)
    """
    _proper_row_space(readout)  # raises where there is nothing outside of it
    return share(centered_rows.outside_row_space, centered_rows.weight, _NO_ROWS)


def centered_rows_of_own_rows(
    own: RegressionEvidence, merged: RegressionEvidence
) -> Float[Tensor, " 3"]:
    """Sum what of this rank's sampled rows lies outside of the directions of all ranks.

    Around the mean of all ranks, each row by the rows that it stands for. Those that are at the mean,
    to what float32 tells of features of this size, have no direction.

    Args:
        own: What this rank has accumulated, with its sample.
        merged: What all ranks have accumulated.

    Returns:
        :class:`CenteredRows` as a vector, whose sum over the ranks is that of all rows. A part without
        a subspace, see :func:`feature_collapse` and :func:`row_space`, is 0; NaN where there is no
        decomposition.

    Example:
        >>> import torch
        >>> from lightning_nc.values import FeatureSample
        >>> h = torch.tensor([[5.0, 3.0], [5.0, -3.0], [6.0, 0.0], [4.0, 0.0]])
        >>> sample = FeatureSample(h, torch.zeros(4, dtype=torch.long), None, seen=4)
        >>> joint = JointMoments.from_batch(h, torch.zeros(4, 1))
        >>> stage = RegressionEvidence(joint, sample=sample)
        >>> centered_rows_of_own_rows(stage, stage)
        tensor([4., 2., 0.], dtype=torch.float64)
    """
    mean = merged.joint.feature_mean
    sums = mean.new_zeros(3)
    sample = None if own.sample is None else own.sample.valid()
    if sample is None or not len(sample.target):
        return sums
    try:
        bases = [_basis_or_none(partial(leading, merged.joint)), None]
        if merged.readout is not None:
            bases[1] = _basis_or_none(partial(row_space_basis, merged.readout))
    except torch.linalg.LinAlgError:  # features leave the range of the numbers
        return sums + torch.nan
    least = FLOAT32_EPS * (mean.square().sum() + merged.joint.feature_covariance.trace()).sqrt()
    for rows in sample.features.split(max(1, _ENTRIES // len(mean))):
        centered = rows.to(mean.dtype) - mean
        away = centered.norm(dim=1) > least
        unit = torch.where(away[:, None], unit_rows(centered), 0)
        sums[0] += away.sum()
        for i, basis in enumerate(bases):
            if basis is not None:
                sums[i + 1] += (unit - (unit @ basis) @ basis.T).square().sum()
    return sums * (own.joint.count / len(sample.target))


def _basis_or_none(find: Callable[[], Float[Tensor, "d k"]]) -> Float[Tensor, "d k"] | None:
    try:
        return find()
    except UndefinedMeasure:
        return None


def _proper_row_space(readout: LinearReadout) -> Float[Tensor, "d r"]:
    basis = row_space_basis(readout)
    if basis.shape[0] == basis.shape[1]:
        raise UndefinedMeasure(
            f"W reads all of the {len(basis)} features, and it is 0 whatever they are"
        )
    return basis


def _outside(joint: JointMoments, basis: Float[Tensor, "d k"]) -> Float[Tensor, ""]:
    """Of rows of length 1, the share outside of a subspace: 1 - tr(P G)."""
    if bool(joint.unit_count == 0):
        raise UndefinedMeasure(_NO_LENGTH)
    second = joint.unit_second_moment
    basis = basis.to(second)
    return (second.trace() - ((second @ basis) * basis).sum()).clamp(min=0)
