"""How often the rows of each class are decided for it."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class Recalls(NamedTuple):
    """Counts by class, of all classes, of a sample weighted by the rows that it stands for.

    Attributes:
        sampled: Weight of the rows in the sample.
        correct: Of those that the nearest class center gets right.
        training_counts: Rows in training, which tell many-shot from few-shot classes; None where they
            are not known.
        shots: A class with fewer rows than the first is few-shot, with more than the second many-shot.
        is_whole: Whether the counts are those of a whole epoch, and of all of its rows.
    """

    sampled: Float[Tensor, " C"]
    correct: Float[Tensor, " C"]
    training_counts: Int[Tensor, " C"] | None
    shots: tuple[int, int]
    is_whole: bool = True
