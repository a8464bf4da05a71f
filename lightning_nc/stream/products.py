"""Symmetric matrices, of which only what stands on and above the diagonal is computed.

On a CPU that is nearly half of the time of a large product. On other devices one launch is done sooner
than several, and all of it is computed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.values.precision import float32_products_are_exact

_PANEL, _PANELS = 128, 8  # at least so wide, at most so many


def add_symmetric_product_(out: Float[Tensor, "d d"], rows: Float[Tensor, "B d"]) -> None:
    """``out += rows.T @ rows`` on and above the diagonal.

    It is in the precision of its dtype, whatever the user allows for products: where float32 products
    may be computed in TF32 or bfloat16, each factor is split into three parts of 8 bits, which both
    hold exactly, and the six products that matter are added up.

    Args:
        out: Added to in place; what stands below the diagonal has no meaning, see :func:`symmetric`.
        rows: The factor.

    Example:
        >>> out = torch.zeros(1, 1)
        >>> add_symmetric_product_(out, torch.tensor([[3.0], [4.0]]))
        >>> out
        tensor([[25.]])
    """
    left = right = rows.to(out.dtype)
    if out.dtype == torch.float32 and not float32_products_are_exact(out.device):
        high, middle, low = _bfloat16_parts(rows)
        left = torch.cat([low, high, middle, middle, high, high])
        right = torch.cat([high, low, middle, high, middle, high])
    for i, j in _panels(out):
        out[i, j].addmm_(left[:, i].T, right[:, j])


def fold_(total: Float[Tensor, "d d"], part: Float[Tensor, "d d"]) -> None:
    """Move what was added to a symmetric ``part`` into ``total``, which has more digits.

    Args:
        total: Added to in place, on and above the diagonal.
        part: Zero afterwards, on and above the diagonal.
    """
    for panel in _panels(total):
        total[panel] += part[panel]
        part[panel].zero_()


def symmetric(upper: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The symmetric matrix with these entries on and above its diagonal.

    Example:
        >>> symmetric(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        tensor([[1., 2.],
                [2., 3.]])
    """
    whole = upper.clone()
    for rows, columns in _panels(upper):
        whole[columns, rows] = upper[rows, columns].T
        corner = upper[columns, columns]
        whole[columns, columns] = corner.triu() + corner.triu(1).T
    return whole


def gram(rows: Float[Tensor, "C d"]) -> Float[Tensor, "C C"]:
    """``rows @ rows.T``.

    Example:
        >>> gram(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        tensor([[5., 6.],
                [6., 9.]])
    """
    upper = rows.new_zeros(len(rows), len(rows))
    add_symmetric_product_(upper, rows.T)
    return symmetric(upper)


def trace_along(rows: Float[Tensor, "k d"], square: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    r""":math:`\operatorname{tr}(P S P^\top)` of a symmetric S; the rows are P.

    Example:
        >>> trace_along(torch.eye(2), torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
        tensor(4.)
    """
    total = rows.new_zeros(())
    for i, j in _panels(square):
        terms = (rows[:, i].T @ rows[:, j]).mul_(square[i, j])
        # what is above the diagonal's block stands below it, too
        total += 2 * terms.sum() - terms[j].sum()
    return total


def _panels(square: Float[Tensor, "d d"]) -> list[tuple[slice, slice]]:
    """Rows and columns down to the diagonal, which leave out nearly half of a symmetric matrix."""
    width = len(square)
    panel = max(_PANEL, -(-width // _PANELS)) if square.device.type == "cpu" else max(1, width)
    stops = [min(i + panel, width) for i in range(0, width, panel)]
    return [(slice(stop), slice(i, stop)) for i, stop in zip([0, *stops], stops, strict=False)]


def _bfloat16_parts(
    x: Float[Tensor, "B d"],
) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B d"], Float[Tensor, "B d"]]:
    """Three float32 tensors with 8 significant bits each, whose sum is x."""
    high = x.to(torch.bfloat16).to(x.dtype)
    middle = (x - high).to(torch.bfloat16).to(x.dtype)
    return high, middle, x - high - middle
