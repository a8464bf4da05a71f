"""What the figures of a stage rest on."""

from jaxtyping import Int
from torch import Tensor

from lightning_nc.values.statistics import ClassStatistics


def num_samples(statistics: ClassStatistics) -> Int[Tensor, ""]:
    """How many samples the figures of the stage rest on."""
    return statistics.num_samples


def classes_seen(statistics: ClassStatistics) -> Int[Tensor, ""]:
    """How many classes have at least one sample: the C of every formula."""
    return statistics.seen.sum()
