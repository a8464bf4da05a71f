"""Whether tokens and their labels are in the same order: batch first, sequence first, or flat."""

from collections.abc import Iterable, Sequence
from math import prod

from torch import nn


class Order:
    """Remembers what was seen of the order, so that a batch that does not tell may be trusted.

    Args:
        modules: Of the network: those of torch say whether they are batch first.
        is_known: Whether the user has named the place of the labels, and so vouches for their order.

    Example:
        >>> order = Order([nn.LSTM(2, 2, batch_first=True)], is_known=False)
        >>> order.require((4, 4), (4, 4))
        >>> Order([], is_known=False).require((5, 4), (4, 5))
        Traceback (most recent call last):
        ValueError: Expected features and labels whose leading dimensions agree in their order, ...
    """

    def __init__(self, modules: Iterable[nn.Module], is_known: bool) -> None:
        told = {bool(m.batch_first) for m in modules if hasattr(m, "batch_first")}
        self._is_batch_first = told == {True}
        self._is_known = is_known

    def require(self, leading: Sequence[int], labels: Sequence[int]) -> None:
        """Raise a ValueError unless features and labels have the same leading dimensions in one order.

        Args:
            leading: The leading dimensions of the features.
            labels: The shape of the labels, less the entries of one that is a vector.

        Raises:
            ValueError: If they are in another order, or which one it is cannot be told.
        """
        mine, theirs = ([n for n in shape if n != 1] for shape in (leading, labels))
        if prod(mine) != prod(theirs) or max(len(mine), len(theirs)) < 2:
            return  # how many rows there are is looked at elsewhere
        tells = mine == theirs and (mine[0] != mine[1] or self._is_batch_first)
        is_flat = min(len(mine), len(theirs)) == 1
        if not tells and not (self._is_known and (mine == theirs or is_flat)):
            raise _unknown(leading, labels, mine == theirs)
        self._is_known = True


def _unknown(leading: Sequence[int], labels: Sequence[int], are_equal: bool) -> ValueError:
    why = (
        "two of which are equal, so that the network may run sequence first or not."
        if are_equal
        else "which differ: does the network run sequence first, or flatten its tokens?"
    )
    return ValueError(
        "Expected features and labels whose leading dimensions agree in their order, but got features "
        f"of leading dimensions {tuple(leading)} and labels of shape {tuple(labels)}, {why} Set target "
        "to the dotted path of a function that returns the labels in the order of the features "
        f"(labels.transpose(0, 1) for sequence first, labels.flatten(0, {max(1, len(labels) - 1)}) for "
        "flat ones), or to the labels' place in the batch where they are in that order already. The "
        "entries of a label that is a vector are not among these dimensions."
    )
