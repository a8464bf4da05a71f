"""The formulas of several tags as the table of measures asks for them: of all that a stage leaves."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.functional.own_rows import share
from lightning_nc.functional.tags.angles import tag_angle, tag_angle_ratio
from lightning_nc.functional.tags.pairs import seen_pairs
from lightning_nc.functional.tags.pick_all_labels import pick_all_label_scales
from lightning_nc.functional.tags.scale import pair_residual, pair_scale, tag_residual, tag_scale
from lightning_nc.values.errors import NothingToCompare, UndefinedMeasure, summarize
from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.tags import TagDecisions, TagMoments, TagStatistics

_UNKNOWN = "the network's decisions are not known"


def angle(tags: TagStatistics) -> Float[Tensor, ""]:
    """:func:`~lightning_nc.functional.tags.tag_angle` of the pairs seen, uncentered as in the paper."""
    pairs = seen_pairs(tags)
    return tag_angle(pairs.single_means, pairs.pair_means, pairs.pairs)


def angle_ratio(tags: TagStatistics) -> Float[Tensor, ""]:
    """:func:`~lightning_nc.functional.tags.tag_angle_ratio` of the pairs seen, uncentered."""
    pairs = seen_pairs(tags)
    return tag_angle_ratio(pairs.single_means, pairs.pair_means, pairs.pairs)


def angle_ratio_centered(tags: TagStatistics) -> Float[Tensor, ""]:
    """The same, centered by the unweighted mean of the single-tag means.

    It does not depend on a vector that the network adds to all features. For features after ReLU it is
    not 0 at the optimum: see :mod:`lightning_nc.functional.tags.angles`.
    """
    pairs = seen_pairs(tags)
    center = pairs.single_means.mean(0)
    return tag_angle_ratio(pairs.single_means, pairs.pair_means, pairs.pairs, center)


def pairs_seen(tags: TagStatistics) -> Int[Tensor, ""]:
    """How many pairs of tags the angles rest on: with rows, of tags that have rows of their own."""
    return torch.tensor(len(seen_pairs(tags).pairs))


def rows(tags: TagStatistics, multiplicity: int) -> Float[Tensor, ""]:
    """How many rows have so many tags."""
    return _moments(tags, multiplicity).count


def scale(tags: TagStatistics, multiplicity: int) -> Float[Tensor, ""]:
    """:func:`~lightning_nc.functional.tags.tag_scale` of the rows with so many tags.

    Of two tags, those pairs count of which both tags have rows of their own; of more, or of more pairs
    than have a mean each, all rows or none.
    """
    if multiplicity == 2 and tags.pairs is not None:
        return pair_scale(seen_pairs(tags))
    return tag_scale(*_means_and_moments(tags, multiplicity))


def residual(tags: TagStatistics, multiplicity: int) -> Float[Tensor, ""]:
    """:func:`~lightning_nc.functional.tags.tag_residual` of the same rows as :func:`scale`.

    A sum of squares for two tags; a difference, which has an error of about 1e-15, for more.
    """
    if multiplicity == 2 and tags.pairs is not None:
        return pair_residual(seen_pairs(tags))
    return tag_residual(*_means_and_moments(tags, multiplicity))


def subset_accuracy(decisions: TagDecisions) -> Float[Tensor, ""]:
    """Share of rows of which the network finds just the tags, no more and no less.

    Over all rows with a tag of which the network's scores are known: those without one are left out, as
    they have no loss. Range ``[0, 1]``.

    Args:
        decisions: Counted decisions.

    Returns:
        The share, a float64 scalar.

    Raises:
        UndefinedMeasure: If the network's decisions are not known.

    Example:
        >>> subset_accuracy(TagDecisions(*torch.tensor([4.0, 3.0, 2.0])))
        tensor(0.7500)
    """
    return share(decisions.correct, decisions.known, _UNKNOWN)


def iou(decisions: TagDecisions) -> Float[Tensor, ""]:
    r"""The paper's IoU: mean softmax mass on the tags of a row, :math:`\sum_{k \in S} \operatorname{softmax}(z)_k`.

    No intersection over union of decided sets: it reaches 1 only where all probability is on the tags,
    however it is spread over them. Range ``[0, 1]``.

    Args:
        decisions: Counted decisions.

    Returns:
        The mean, a float64 scalar.

    Raises:
        UndefinedMeasure: If the network's decisions are not known.

    Example:
        >>> iou(TagDecisions(*torch.tensor([4.0, 3.0, 2.0])))
        tensor(0.5000)

    References:
        Li, Li, Wang & Qu (2024), "Neural collapse in multi-label learning with pick-all-label loss",
        by their code.
    """  # noqa: E501
    return share(decisions.overlap, decisions.known, _UNKNOWN)


def scale_2_predicted(
    weight: Float[Tensor, "K d"], row_penalty: float, normalized: bool = False
) -> Float[Tensor, ""]:
    r""":math:`C_2 / C_1` that the loss asks for, by the weights as they are and the features' penalty.

    :math:`a_2 / a_1` of :func:`pick_all_label_margin` with :math:`\rho = \|W\|_F^2 / (K - 1)`. To be
    compared with :func:`~lightning_nc.functional.tags.tag_scale` of the rows with two tags.

    Conventions: of features of both signs, with room for a simplex, :math:`d \ge K - 1`. Features that
    are not negative (ReLU) have another optimum: with 5 tags, for one, a scale of 0.837 where 0.889 is
    predicted.

    Args:
        weight: W, the rows of all tags, those without rows of their own included.
        row_penalty: :math:`\kappa = N \lambda_H`.
        normalized: Whether the loss of a row is divided by its number of tags.

    Returns:
        The ratio, a float64 scalar without unit.

    Raises:
        UndefinedMeasure: If there are fewer than 3 rows, or fewer features than a simplex takes; if W
            is 0, or the features have no penalty.

    Example:
        >>> weight = 4 * (torch.eye(4) - 0.25)
        >>> f"{float(scale_2_predicted(weight, row_penalty=0.1)):.4f}"
        '0.8845'
        >>> f"{float(scale_2_predicted(weight, row_penalty=0.1, normalized=True)):.4f}"
        '0.7687'
    """
    squares = weight.to(accumulator_dtype(weight.device)).square().sum()
    if len(weight) < 3:
        raise UndefinedMeasure("it takes a classifier with at least 3 rows")
    if weight.shape[1] < len(weight) - 1:
        raise UndefinedMeasure(
            f"{len(weight)} tags have their simplex in {len(weight) - 1} features at least, and there "
            f"are {weight.shape[1]}"
        )
    if not row_penalty > 0:
        raise UndefinedMeasure(
            "the features have no penalty, and without one their length has no limit"
        )
    if not bool(squares > 0):
        raise UndefinedMeasure("the classifier's weight is 0")
    rho = float(squares) / (len(weight) - 1)
    scales = pick_all_label_scales(len(weight), rho, row_penalty, (1, 2), normalized)
    return squares.new_tensor(scales[2] / scales[1])


def _moments(tags: TagStatistics, multiplicity: int) -> TagMoments:
    moments = tags.moments.get(multiplicity)
    if moments is None or not bool(moments.count > 0):
        raise NothingToCompare(f"no row has {multiplicity} tags")
    return moments


def _means_and_moments(
    tags: TagStatistics, multiplicity: int
) -> tuple[Float[Tensor, "S d"], TagMoments]:
    """The single-tag means that there are, and the moments of these tags, which must be all."""
    moments, seen = _moments(tags, multiplicity), tags.singles.seen
    missing = (moments.tags > 0) & ~seen
    if bool(missing.any()):
        which = summarize(missing.nonzero().flatten().tolist(), "tag", "tags")
        raise UndefinedMeasure(
            f"rows with {multiplicity} tags have {which}, of which no row has that one alone"
        )
    of_seen = replace(
        moments,
        tags=moments.tags[seen],
        joint=moments.joint[seen][:, seen],
        cross=moments.cross[seen],
    )
    return tags.singles.means[seen], of_seen
