r"""Three K x K matrices that tell the geometry of class means and classifier, and how to compare them.

:math:`G_W = W W^\top`, :math:`G_H = \mu \mu^\top` and :math:`Z = W \mu^\top`, whose column k holds the
logits of the mean of class k, less the bias. No rotation of the features changes them. Each is divided
by its Frobenius norm before it is compared, so that no rescaling of W or of the features counts.

Logits alone prove nothing: of any network that fits the labels by the squared error, Z is near the
identity. A geometry needs all three.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.functional.geometry import unit
from lightning_nc.values.precision import accumulator_dtype

Counts = Int[Tensor, " K"] | Float[Tensor, " K"]
"""Rows of each class."""


class Triple(NamedTuple):
    """What a geometry is made of, or what was measured.

    Attributes:
        weights: Gram matrix of the classifier's rows.
        means: Gram matrix of the class means.
        logits: Those of the class means, one column per class, less the bias.
    """

    weights: Float[Tensor, "K K"]
    means: Float[Tensor, "K K"]
    logits: Float[Tensor, "K K"]


class Minimum(NamedTuple):
    """Where an objective is least over all features and weights.

    Attributes:
        loss: The objective there, penalties included.
        triple: The geometry, at its own scale.
    """

    loss: Float[Tensor, ""]
    triple: Triple


def class_shares(counts: Counts) -> Float[Tensor, " K"]:
    """The share of each class in all rows.

    Args:
        counts: Rows of each class.

    Returns:
        Shares in float64, which add up to 1.

    Raises:
        ValueError: If there are fewer than two classes, or one has no rows.

    Example:
        >>> class_shares(torch.tensor([3, 1]))
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    if len(counts) < 2 or not bool((counts > 0).all()):
        raise ValueError(
            "Expected rows of two classes at least, and of each, but got the counts "
            f"{counts.tolist()[:8]}. Restrict them to the classes seen."
        )
    counts = counts.to(accumulator_dtype(counts.device))
    return counts / counts.sum()


def gram_triple(
    means: Float[Tensor, "K d"],
    weight: Float[Tensor, "K d"],
    center: Float[Tensor, " K"] | Int[Tensor, " K"] | None = None,
) -> Triple:
    """What class means and a classifier form.

    Args:
        means: One per class.
        weight: W.
        center: Counts, by which the means are averaged, and what is left without that average: the
            mean of all rows. None: the means as they are.

    Returns:
        The three matrices in float64.

    Raises:
        ValueError: If the shapes differ, or a class has no rows.

    Example:
        >>> gram_triple(torch.eye(2), 2 * torch.eye(2), center=torch.tensor([1, 1])).logits
        tensor([[ 1., -1.],
                [-1.,  1.]], dtype=torch.float64)
    """
    if means.shape != weight.shape:
        raise ValueError(
            f"Expected a weight of the shape of the class means, {tuple(means.shape)}, but got "
            f"{tuple(weight.shape)}. Are the features the input of this layer, and the rows classes?"
        )
    dtype = accumulator_dtype(means.device)
    means, weight = means.to(dtype), weight.detach().to(dtype)
    if center is not None:
        means = means - class_shares(center) @ means
    return Triple(weight @ weight.T, means @ means.T, weight @ means.T)


def centered(triple: Triple, shares: Float[Tensor, " K"]) -> Triple:
    r"""The triple of the same means less their average, :math:`\mu - 1 p^\top \mu`.

    Args:
        triple: Of means that are centered otherwise, or not at all.
        shares: p, which adds up to 1.

    Returns:
        The triple.

    Example:
        >>> half = torch.full((2,), 0.5)
        >>> centered(Triple(torch.eye(2), torch.eye(2), torch.eye(2)), half).means
        tensor([[ 0.5000, -0.5000],
                [-0.5000,  0.5000]])
    """
    half = triple.means - shares @ triple.means  # of the rows, and then of the columns
    means = half - (half @ shares)[:, None]
    return Triple(triple.weights, means, triple.logits - (triple.logits @ shares)[:, None])


def frame_gaps(triple: Triple, target: Triple) -> Float[Tensor, " 3"]:
    r"""Distances of the three matrices to those of a geometry, each divided by its Frobenius norm.

    .. math:: \left\| \frac{X}{\|X\|_F} - \frac{T}{\|T\|_F} \right\|_F

    for W, means and logits. Range ``[0, 2]``, of the first two ``[0, sqrt(2)]``; 0 where the shape is
    that of the geometry.

    Args:
        triple: What was measured.
        target: The geometry.

    Returns:
        Three distances; NaN of a matrix that is zero.

    Example:
        >>> identity = Triple(torch.eye(2), torch.eye(2), torch.eye(2))
        >>> frame_gaps(identity, identity._replace(logits=-torch.eye(2)))
        tensor([0.0000, 0.0000, 2.0000])
    """
    gaps = [(unit(x) - unit(t)).norm() for x, t in zip(triple, target, strict=True)]
    return torch.stack(gaps)


def rms(gaps: Float[Tensor, "... 3"]) -> Float[Tensor, "..."]:
    """One number for the three: the root of their mean square.

    Example:
        >>> rms(torch.tensor([1.0, 1.0, 1.0]))
        tensor(1.)
    """
    return gaps.square().mean(dim=-1).sqrt()
