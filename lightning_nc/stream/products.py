"""Products of rows with themselves, added to a matrix of which the upper triangle is computed.

On a CPU that is nearly half of the time of a large product. On other devices one launch is done sooner
than several, and all of it is computed.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.values.precision import float32_products_are_exact
from lightning_nc.values.symmetric import panels

_SPLIT_ENTRIES = 2**21  # of rows in three parts, of which twelve copies are made
_LEAST_UNIT, _OF_THE_LARGEST = 2.0**-126, 2.0**-48


def unit_of(rows: Float[Tensor, "B d"]) -> Float[Tensor, ""]:
    """A power of two, in multiples of which float32 holds squares of these rows and sums of them.

    The largest entry is some 2^48 of it. So 2^30 of its squares add up without overflow, and entries
    2^-100 times as large still have squares with all their digits.

    Args:
        rows: Of float32, finite.

    Returns:
        The unit, on the device of the rows, which is not waited for.

    Example:
        >>> float(unit_of(torch.tensor([[3.0, -5.0]]))) == 4 * 2.0**-48
        True
    """
    largest = torch.maximum(rows.amax(), -rows.amin())  # their norm would take 25 times as long
    exponent = largest.view(torch.int32).bitwise_and(0x7F800000).view(torch.float32)
    return (exponent * _OF_THE_LARGEST).clamp(min=_LEAST_UNIT)


class Products:
    """Float32 products of rows in a unit of their own, which grows with the rows.

    Squares leave the range of float32 where rows are smaller than 1e-19 or larger than 1e19. A power of
    two as a unit costs no digit.

    Args:
        width: d.
        device: Where they are.

    Example:
        >>> products, total = Products(1, torch.device("cpu")), torch.zeros(1, 1).double()
        >>> for row in (3e-30, 4e-30):
        ...     unit = products.in_unit(torch.tensor(1e-30))
        ...     products.add(torch.tensor([[row]]) / unit)
        >>> products.fold_into(total)
        >>> total
        tensor([[2.5000e-59]], dtype=torch.float64)
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._sum = torch.zeros(width, width, dtype=torch.float32, device=device)
        self._unit = torch.full((), _LEAST_UNIT, dtype=torch.float32, device=device)
        self._is_empty = True

    def in_unit(self, needed: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Change to a unit in which further rows can be added.

        Args:
            needed: What the rows need, see :func:`unit_of`.

        Returns:
            The unit: at least this one, and that of the rows before.
        """
        unit = needed if self._is_empty else torch.maximum(self._unit, needed)
        if not self._is_empty:
            share = (self._unit / unit).square()
            for panel in _panels(self._sum):
                self._sum[panel] *= share
        self._unit = unit
        return unit

    def add(self, rows: Float[Tensor, "B d"]) -> None:
        """Add the products of rows with themselves.

        Args:
            rows: In the unit.
        """
        add_symmetric_product_(self._sum, rows)
        self._is_empty = False

    def fold_into(self, total: Float[Tensor, "d d"]) -> None:
        """Move all of it into a sum of more digits, on and above the diagonal.

        Args:
            total: Added to in place.
        """
        square = self._unit.to(total.dtype).square()
        for panel in _panels(total):
            total[panel] += self._sum[panel].to(total.dtype).mul_(square)
            self._sum[panel].zero_()
        self._is_empty = True

    def clear(self) -> None:
        """Forget all of it, and keep the memory."""
        self._sum.zero_()
        self._is_empty = True

    def change(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put another tensor in the place of each."""
        self._sum, self._unit = change(self._sum), change(self._unit)


def add_symmetric_product_(out: Float[Tensor, "d d"], rows: Float[Tensor, "B d"]) -> None:
    """``out += rows.T @ rows`` on and above the diagonal.

    It is in the precision of its dtype, whatever the user allows for products: where float32 products
    may be computed in TF32 or bfloat16, each factor is split into three parts of 8 bits, which both
    hold exactly, and the six products that matter are added up.

    Args:
        out: Added to in place; what stands below the diagonal has no meaning until it is mirrored.
        rows: The factor.

    Example:
        >>> out = torch.zeros(1, 1)
        >>> add_symmetric_product_(out, torch.tensor([[3.0], [4.0]]))
        >>> out
        tensor([[25.]])
    """
    if out.dtype != torch.float32 or float32_products_are_exact(out.device):
        factor = rows.to(out.dtype)
        _add_product_(out, factor, factor)
        return
    for few in rows.split(max(1, _SPLIT_ENTRIES // max(1, rows.shape[1]))):
        high, middle, low = _bfloat16_parts(few.to(out.dtype))
        left = torch.cat([low, high, middle, middle, high, high])
        right = torch.cat([high, low, middle, high, middle, high])
        _add_product_(out, left, right)


def _add_product_(
    out: Float[Tensor, "d d"], left: Float[Tensor, "K d"], right: Float[Tensor, "K d"]
) -> None:
    for i, j in _panels(out):
        out[i, j].addmm_(left[:, i].T, right[:, j])


def _panels(square: Float[Tensor, "d d"]) -> list[tuple[slice, slice]]:
    whole = slice(len(square))
    return panels(len(square)) if square.device.type == "cpu" else [(whole, whole)]


def _bfloat16_parts(
    x: Float[Tensor, "B d"],
) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B d"], Float[Tensor, "B d"]]:
    """Three float32 tensors with 8 significant bits each, whose sum is x."""
    high = x.to(torch.bfloat16).to(x.dtype)
    middle = (x - high).to(torch.bfloat16).to(x.dtype)
    return high, middle, x - high - middle
