"""What the figures of a stage rest on."""

from jaxtyping import Int
from torch import Tensor

from lightning_nc.values.joint import JointMoments
from lightning_nc.values.statistics import ClassStatistics


def num_samples(statistics: ClassStatistics) -> Int[Tensor, ""]:
    """How many samples the figures of the stage rest on."""
    return statistics.num_samples


def num_rows(joint: JointMoments) -> Int[Tensor, ""]:
    """How many rows the figures of a regression rest on."""
    return joint.count


def classes_seen(all_counts: Int[Tensor, " C"]) -> Int[Tensor, ""]:
    """How many classes have at least one sample."""
    return (all_counts > 0).sum()


def classes_kept(statistics: ClassStatistics) -> Int[Tensor, ""]:
    """How many classes have at least ``min_count`` samples: the C of every formula."""
    return statistics.seen.sum()
