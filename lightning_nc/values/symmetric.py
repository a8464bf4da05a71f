"""Symmetric matrices, of which what stands on and above the diagonal is all that needs computing."""

from jaxtyping import Float
from torch import Tensor

_PANEL, _PANELS = 128, 8  # at least so wide, at most so many


def panels(width: int) -> list[tuple[slice, slice]]:
    """Rows and columns down to the diagonal, which leave out nearly half of a symmetric matrix.

    Args:
        width: d, of a d x d matrix.

    Returns:
        Pairs of row and column ranges that cover the upper triangle once.

    Example:
        >>> panels(200)
        [(slice(None, 128, None), slice(0, 128, None)), (slice(None, 200, None), slice(128, 200, None))]
    """
    panel = max(_PANEL, -(-width // _PANELS))
    stops = [min(i + panel, width) for i in range(0, width, panel)]
    return [(slice(stop), slice(i, stop)) for i, stop in zip([0, *stops], stops, strict=False)]


def mirror_(upper: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Write what stands above the diagonal below it, too, in place.

    Example:
        >>> import torch
        >>> mirror_(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        tensor([[1., 2.],
                [2., 3.]])
    """
    for _, columns in panels(len(upper)):
        above = slice(columns.start)
        upper[columns, above] = upper[above, columns].T
        corner = upper[columns, columns]
        corner.copy_(corner.triu() + corner.triu(1).T)
    return upper


def gram(rows: Float[Tensor, "C d"]) -> Float[Tensor, "C C"]:
    """``rows @ rows.T``.

    Example:
        >>> import torch
        >>> gram(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        tensor([[5., 6.],
                [6., 9.]])
    """
    whole = rows.new_empty(len(rows), len(rows))
    for i, j in panels(len(rows)):
        # products of few rows with many take a fifth less time than those of many with few
        whole[j, i] = rows[j] @ rows[i].T
    return mirror_(whole.T).T
