"""How the nearest class center decides the rows of each class."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_nc.functional.own_rows import decided_by_centers
from lightning_nc.values.evidence import ClassEvidence
from lightning_nc.values.statistics import ClassStatistics

_DISTANCES = 2**21  # at a time


def recalls_of_own_rows(own: ClassEvidence, merged: ClassEvidence) -> Float[Tensor, " n"]:
    """Count by class how the nearest class center decides this rank's sample, each row by others.

    The center of a row's own class is that of its other rows, :math:`n/(n-1)` times as far
    away: else a class of few rows, in many dimensions, would be recognized by the rows themselves.

    Args:
        own: What this rank has accumulated, with its sample.
        merged: What all ranks have accumulated.

    Returns:
        For each class the rows that its sampled ones stand for, and then those that are decided for it;
        zeros for a class of a single row.

    Example:
        >>> from lightning_nc import ClassStatistics, FeatureSample
        >>> h, y = torch.tensor([[1.0], [3.0], [9.0], [7.0]]), torch.tensor([0, 0, 1, 1])
        >>> stage = ClassEvidence(
        ...     ClassStatistics.from_batch(h, y, 2), None, FeatureSample(h, y, None, seen=4)
        ... )
        >>> recalls_of_own_rows(stage, stage)
        tensor([2., 2., 2., 2.], dtype=torch.float64)
    """
    sample, center, rows = decided_by_centers(own, merged)
    weight = rows / max(1, len(center))
    counts = weight.new_zeros(2, merged.all_classes.num_classes)
    several = merged.all_classes.counts[sample.target] > 1
    near = (center == sample.target) & several
    right = sample.target[near][_nearest_of_others(sample.features[near], sample.target[near], merged)]
    for each, of_class in zip(counts, (sample.target[several], right), strict=True):
        each.index_add_(0, of_class, weight.expand(len(of_class)))
    return counts.flatten()


def _nearest_of_others(
    features: Float[Tensor, "R d"], target: Int[Tensor, " R"], merged: ClassEvidence
) -> Bool[Tensor, " R"]:
    """Whether the mean of the other rows of its class is nearer to a row than all other class means."""
    statistics, number = merged.statistics, merged.all_classes.seen.cumsum(0) - 1
    centers, origin, chosen = statistics.centered_means, statistics.global_mean, number[target]
    counts = statistics.counts[chosen].to(centers.dtype)
    farther, reach = counts / (counts - 1), _to_the_next(statistics)
    nearest, start = torch.ones_like(target, dtype=torch.bool), 0
    for h in features.split(max(1, _DISTANCES // len(centers))):
        block = slice(start, start := start + len(h))
        rows, c = h.to(centers.dtype) - origin, chosen[block]
        own = (rows - centers[c]).norm(dim=1)
        # no other mean is nearer than what lies between the means, less what lies between row and mean
        doubtful = ((farther[block] + 1) * own >= reach[c]).nonzero().flatten()
        others = torch.cdist(rows[doubtful], centers).scatter(1, c[doubtful, None], torch.inf).amin(1)
        nearest[start - len(h) + doubtful] = (farther[block] * own)[doubtful] < others
    return nearest


def _to_the_next(statistics: ClassStatistics) -> Float[Tensor, " K"]:
    """From each class mean to the next one, rounding allowed for; 0 where that is not known."""
    frame = statistics.frame
    if len(frame.sampled) < frame.num_vectors:
        return frame.norms.new_zeros(frame.num_vectors)
    squares = frame.squared_distances.clone().fill_diagonal_(torch.inf).amin(1)
    return (squares - 1e-9 * frame.norms.max().square()).clamp(min=0).sqrt()
