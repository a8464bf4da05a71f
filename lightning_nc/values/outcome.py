"""What has become of one measure on the data of one stage."""

from dataclasses import dataclass
from enum import Enum

from jaxtyping import Float
from torch import Tensor


class Fate(Enum):
    """Whether a measure has a value, and if not, what kind of reason there is."""

    VALUE = "value"
    NAN = "NaN"
    LEFT_OUT = "left out"
    NOT_HERE = "left out for want of what it compares"
    FEW_CLASSES = "left out for too few classes"


@dataclass(frozen=True, eq=False)
class Outcome:
    """A value, or why it is NaN, or why it is left out.

    Attributes:
        value: A scalar; None where the key is left out.
        fate: Which of these it is.
        reason: Why there is no number, a clause without its full stop; empty where there is one.

    Example:
        >>> Outcome(None, Fate.LEFT_OUT, "no row was sampled").reason
        'no row was sampled'
    """

    value: Float[Tensor, ""] | None
    fate: Fate = Fate.VALUE
    reason: str = ""
