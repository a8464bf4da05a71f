"""Symmetric matrices, of which only what stands on and above the diagonal is computed.

On a CPU that is nearly half of the time of a large product. On other devices one launch is done sooner
than several, and all of it is computed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.precision import float32_products_are_exact

_PANEL, _PANELS = 256, 8  # at least so wide, at most so many


def add_symmetric_product_(
    out: Float[Tensor, "d d"], a: Float[Tensor, "B d"], b: Float[Tensor, "B d"]
) -> None:
    """``out += a.T @ b`` on and above the diagonal, where the product is known to be symmetric.

    It is in the precision of its dtype, whatever the user allows for products: where float32 products
    may be computed in TF32 or bfloat16, each factor is split into three parts of 8 bits, which both
    hold exactly, and the six products that matter are added up.

    Args:
        out: Added to in place; what stands below the diagonal has no meaning, see :func:`symmetric`.
        a: Left factor.
        b: Right factor.

    Example:
        >>> out = torch.zeros(1, 1)
        >>> add_symmetric_product_(out, torch.full((2, 1), 3.0), torch.full((2, 1), 4.0))
        >>> out
        tensor([[24.]])
    """
    if out.dtype == torch.float32 and not float32_products_are_exact(out.device):
        a1, a2, a3 = _bfloat16_parts(a)
        b1, b2, b3 = _bfloat16_parts(b)
        a, b = torch.cat([a3, a1, a2, a2, a1, a1]), torch.cat([b1, b3, b2, b1, b2, b1])
    a, b = a.to(out.dtype), b.to(out.dtype)
    for rows, columns in _panels(out):
        out[rows, columns].addmm_(a[:, rows].T, b[:, columns])


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
        corner = upper[rows, rows]
        whole[rows, rows] = corner.triu() + corner.triu(1).T
    return whole


def gram(rows: Float[Tensor, "C d"]) -> Float[Tensor, "C C"]:
    """``rows @ rows.T``.

    Example:
        >>> gram(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        tensor([[5., 6.],
                [6., 9.]])
    """
    upper = rows.new_zeros(len(rows), len(rows))
    add_symmetric_product_(upper, rows.T, rows.T)
    return symmetric(upper)


def trace_along(rows: Float[Tensor, "k d"], square: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    r""":math:`\operatorname{tr}(P S P^\top)` of a symmetric S; the rows are P.

    Example:
        >>> trace_along(torch.eye(2), torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
        tensor(4.)
    """
    total = square.new_zeros(())
    for panel in _panels(square):
        left, right = (rows[:, side] for side in panel)
        terms = (left.T @ right).mul_(square[panel])
        # what is right of the diagonal's block stands below it, too
        total += 2 * terms.sum() - terms[:, : left.shape[1]].sum()
    return total


def _panels(square: Float[Tensor, "d d"]) -> list[tuple[slice, slice]]:
    """Rows and columns from the diagonal on, which leave out nearly half of a symmetric matrix.

    One panel on other devices than a CPU: they are done with it sooner than with several launches.
    """
    width = len(square)
    panel = max(_PANEL, -(-width // _PANELS)) if square.device.type == "cpu" else max(1, width)
    return [(slice(i, i + panel), slice(i, None)) for i in range(0, width, panel)]


def _bfloat16_parts(
    x: Float[Tensor, "B d"],
) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B d"], Float[Tensor, "B d"]]:
    """Three float32 tensors with 8 significant bits each, whose sum is x."""
    high = x.to(torch.bfloat16).to(x.dtype)
    middle = (x - high).to(torch.bfloat16).to(x.dtype)
    return high, middle, x - high - middle
