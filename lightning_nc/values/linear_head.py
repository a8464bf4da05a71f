"""Class means at a layer of a linear head, and what the head makes of them."""

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.errors import NothingToCompare, UndefinedMeasure
from lightning_nc.values.statistics import ClassStatistics


@dataclass(frozen=True, eq=False)
class LinearHead:
    r"""What the geometry of a stage is read from.

    Attributes:
        statistics: Of the features that enter the layer, for the classes seen.
        product: What the head makes of them: :math:`P_j = W_M \cdots W_j`, with its bias.
        counts: Rows of these classes in training, which set the geometry; None where not known.
        layer: j, from 1, where the features enter the head, to M, the classifier.
        num_layers: M.
        lacks: Why there are no counts to go by, a clause; empty where there are.
        is_doubtful: Whether that is for a doubt which the user can settle.
    """

    statistics: ClassStatistics
    product: LinearClassifier
    counts: Int[Tensor, " K"] | None
    layer: int = 1
    num_layers: int = 1
    lacks: str = ""
    is_doubtful: bool = False

    def require_counts(self) -> Int[Tensor, " K"]:
        """The counts.

        Raises:
            UndefinedMeasure: If there are none to go by.
        """
        if self.counts is None:
            raise (UndefinedMeasure if self.is_doubtful else NothingToCompare)(self.lacks)
        return self.counts
