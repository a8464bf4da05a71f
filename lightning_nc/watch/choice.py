"""Which linear map is the classifier, where it was not named: certain, or refused.

After a forward and before a backward, the loss tells: the classifier is the one matrix that could be W
which it applies last, by an ``nn.Linear`` that ran. Where there is no loss, or it cannot be looked into
(a compiled network), it is the one that ran last, if no other one could be it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from torch import Tensor, nn

from lightning_nc.watch.batch import Batch, Forward
from lightning_nc.watch.by_loss import applied_last, by_loss, require_some
from lightning_nc.watch.by_order import by_order
from lightning_nc.watch.graph import Cover
from lightning_nc.watch.heads import first_rows, gap, largest_gap
from lightning_nc.watch.linear import LinearMap
from lightning_nc.watch.rows import Rows
from lightning_nc.watch.sight import Sight, refused


@dataclass(frozen=True)
class Choice:
    """The classifier that was found, so that all stages and later runs measure the same one.

    Attributes:
        name: Its path.
        rows: Its rows.
        width: Its features.
    """

    name: str
    rows: int
    width: int

    @classmethod
    def of(cls, linear: LinearMap) -> "Choice":
        """The choice of a linear map."""
        return cls(linear.name, linear.rows, linear.width)

    def suits(self, modules: Mapping[str, nn.Module]) -> bool:
        """Whether a network has that layer."""
        module = modules.get(self.name)
        return isinstance(module, nn.Linear) and self == Choice.of(LinearMap(self.name, module))

    def state_dict(self) -> dict[str, Any]:
        """In primitives."""
        return {"name": self.name, "rows": self.rows, "width": self.width}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Choice | None":
        """What :meth:`state_dict` described; None of an empty state.

        Raises:
            ValueError: If it is something else.
        """
        if not state:
            return None
        try:
            return cls(str(state["name"]), int(state["rows"]), int(state["width"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"Expected the choice of a classifier with name, rows and width, but got {state!r}."
            ) from error


def choose(
    batch: Batch,
    modules: Mapping[str, nn.Module],
    rows: Rows,
    is_trained: bool,
    is_partial: bool = False,
    trained: frozenset[int] = frozenset(),
) -> str | None:
    """The path of the classifier.

    Args:
        batch: In which the network has run, with what its losses apply last where there were any.
        modules: By path.
        rows: How many rows the classifier may have.
        is_trained: Whether a loss has to have given it a gradient.
        is_partial: Whether further losses may come.
        trained: Ids of the parameters that were to be trained when the run began.

    Returns:
        A path of one of the batch's forwards; None if the losses so far apply no map that could be it,
        and further ones may.

    Raises:
        ValueError: If it is not certain.
    """
    sight = Sight(batch, modules, rows, trained)
    last = applied_last(sight)
    covers = {place.cover for place in last}
    if not last:
        if is_partial:
            return None
        require_some(sight)
    if Cover.NOTHING in covers:
        return by_loss(sight, last, is_partial)
    if covers == {Cover.PRODUCT}:
        ran = {forward.name for forward in batch.forwards}
        fixed = [m for m in sight.matrices if m.owner in ran and not m.parameter.requires_grad]
        found = [*(m for m in fixed if sight.fits(m)), *sight.applied(last)]
        raise refused("something without gradient or of another kind is applied last", found)
    return by_order(sight, is_trained)


def require_linear(forward: Forward, weight: Tensor, bias: Tensor | None) -> None:
    """Raise a ValueError unless the output of a forward was W h + b; waits for the device.

    Args:
        forward: A forward of the classifier.
        weight: W.
        bias: b, or None.

    Raises:
        ValueError: If it was something else.
    """
    h, shown = forward.features, forward.shown
    if h is None or shown is None:
        return
    allowed = largest_gap(forward.rounds or shown.dtype, h.device)
    fits = forward.shape == (*h.shape[:-1], len(weight))
    if not fits and forward.shape[-1:] == weight.shape[1:]:
        raise ValueError(
            f"Expected the output of {forward.name!r} to have an entry for each row of its weight, "
            f"{len(weight)}, but it has {forward.shape[-1]}, as many as columns. Is the weight "
            f"(features, classes)? Set classifier to {forward.name + '.weight.T'!r} and features to "
            f"{forward.name + ':in'!r}."
        )
    seen = float(gap(first_rows(h), weight, bias, shown)) if fits else inf
    if seen > allowed:
        raise ValueError(
            f"Expected the output of the classifier {forward.name!r} to be W h + b, but they differ "
            f"by {seen:.1g} of the sum of their terms; rounding makes {allowed:.1g} at most. Is it a "
            "cosine or margin head, an adapter (with Dropout, it is W h + b in eval mode alone: "
            "online=False), or is its weight quantized in the forward? Set classifier to a linear map "
            "that is W h + b, or set features to the module whose output is the feature, and with it "
            "classifier to the head's weight, or to False to leave it out."
        )
