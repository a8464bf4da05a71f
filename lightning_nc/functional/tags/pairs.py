"""Which pairs of tags have rows to be compared."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.values.errors import NothingToCompare, UndefinedMeasure
from lightning_nc.values.tags import TagStatistics


class SeenPairs(NamedTuple):
    """The pairs of tags that can be compared: both tags have rows of their own, and so has the pair.

    Attributes:
        single_means: Of the tags that have rows of their own.
        pair_means: Of the pairs.
        pairs: For each pair, the places of its two tags in ``single_means``.
        tags: For each pair, the numbers of its two tags.
        rows: Of each pair.
        sums_of_squares: Of the rows of each pair around its mean.
    """

    single_means: Float[Tensor, "S d"]
    pair_means: Float[Tensor, "P d"]
    pairs: Int[Tensor, "P 2"]
    tags: Int[Tensor, "P 2"]
    rows: Float[Tensor, " P"]
    sums_of_squares: Float[Tensor, " P"]


def seen_pairs(tags: TagStatistics) -> SeenPairs:
    """The pairs that can be compared.

    Args:
        tags: What a stage leaves.

    Returns:
        Their means, with those of the single tags.

    Raises:
        NothingToCompare: If no row has two tags.
        UndefinedMeasure: If there are too many pairs for a mean of each, or no pair of two tags that
            have rows of their own.

    Example:
        >>> import torch
        >>> from lightning_nc import ClassStatistics
        >>> rows = torch.eye(3)
        >>> singles = ClassStatistics.from_batch(rows, torch.tensor([0, 1, 1]), num_classes=3)
        >>> pairs = ClassStatistics.from_batch(rows, torch.tensor([0, 1, 1]), num_classes=3)
        >>> seen_pairs(TagStatistics(singles, pairs, {})).tags  # no row has the third tag alone
        tensor([[0, 1]])
    """
    if tags.pairs is None:
        if not tags.moments:
            raise NothingToCompare("no row has two tags")
        raise UndefinedMeasure(
            f"{tags.num_tags} tags have too many pairs to keep a mean of each; tags/residual_2 tells "
            "the same without them"
        )
    counts, seen = tags.pairs.counts, tags.singles.seen
    if not bool((counts > 0).any()):
        raise NothingToCompare("no row has two tags")
    numbers = tags.pair_tags
    kept = (counts > 0) & seen[numbers].all(1)
    if not bool(kept.any()):
        raise UndefinedMeasure(
            f"{int((counts > 0).sum())} pairs of tags have rows, but of none of them do both tags have "
            "rows of their own, with no other tag"
        )
    places = seen.long().cumsum(0) - 1
    means = tags.pairs.means
    return SeenPairs(
        single_means=tags.singles.means[seen],
        pair_means=means[kept],
        pairs=places[numbers[kept]],
        tags=numbers[kept],
        rows=counts[kept].to(means.dtype),
        sums_of_squares=tags.pairs.sums_of_squares[kept],
    )
