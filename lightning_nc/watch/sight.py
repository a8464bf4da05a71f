"""What a batch has shown of a network, and the words for a classifier that is not certain."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from lightning_nc.watch.batch import Batch
from lightning_nc.watch.graph import Applied
from lightning_nc.watch.heads import Matrix, matrices
from lightning_nc.watch.rows import Rows

_REMEDY = (
    "Set classifier to the dotted path of the linear map whose output the network decides by, or "
    "num_classes where only one of them has as many rows; of one that is applied as a function, set "
    "classifier to its weight, and features to the module whose output it is applied to."
)


@dataclass(frozen=True, eq=False)
class Sight:
    """A network in one batch.

    Attributes:
        batch: In which it has run, with what its losses apply last where there were any.
        modules: By path.
        rows: How many rows the classifier may have.
        trained: Ids of the parameters that were to be trained when the run began; a step with several
            optimizers may take their gradients away for a while.
    """

    batch: Batch
    modules: Mapping[str, nn.Module]
    rows: Rows
    trained: frozenset[int] = frozenset()

    @cached_property
    def matrices(self) -> list[Matrix]:
        """All that could be W."""
        return matrices(self.modules)

    def fits(self, matrix: Matrix) -> bool:
        """Whether a matrix has as many rows as the classifier may have."""
        return any(self.rows.fit(side) for side in matrix.sides)

    def applied(self, places: Iterable[Applied]) -> list[Matrix]:
        """The matrices of some places in a loss."""
        met = {id(place.matrix) for place in places}
        return [m for m in self.matrices if id(m.parameter) in met]

    @property
    def wanted(self) -> str:
        """A clause on the rows."""
        return self.rows.wanted


def refused(reason: str, candidates: Sequence[Matrix | str]) -> ValueError:
    """What is raised where it is not certain which linear map is the classifier.

    Args:
        reason: A clause.
        candidates: What could be it, or what was seen.

    Returns:
        The error.

    Example:
        >>> str(refused("nothing ran", []))[:78]
        'Expected to be certain which linear map is the classifier, but nothing ran: no'
    """
    words = [c if isinstance(c, str) else _described(c) for c in candidates]
    listed = ", ".join(words[:8]) + (f" and {len(words) - 8} more" if words[8:] else "")
    return ValueError(
        f"Expected to be certain which linear map is the classifier, but {reason}: {listed or 'none'}. "
        f"{_REMEDY}"
    )


def _described(matrix: Matrix) -> str:
    frozen = "" if matrix.parameter.requires_grad else ", without gradient"
    rows = " x ".join(map(str, matrix.sides))
    return f"{matrix.name!r} ({rows} rows of a {type(matrix.module).__name__}{frozen})"
