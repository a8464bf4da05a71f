"""Products of rows with themselves, added to a matrix of which the upper triangle is computed.

On a CPU that is nearly half of the time of a large product. On other devices one launch is done sooner
than several, and all of it is computed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.values.precision import float32_products_are_exact
from lightning_nc.values.symmetric import panels

_SPLIT_ENTRIES = 2**21  # of rows in three parts, of which twelve copies are made


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


def fold_(total: Float[Tensor, "d d"], part: Float[Tensor, "d d"]) -> None:
    """Move what was added to a symmetric ``part`` into ``total``, which has more digits.

    Args:
        total: Added to in place, on and above the diagonal.
        part: Zero afterwards, on and above the diagonal.
    """
    for panel in _panels(total):
        total[panel] += part[panel]
        part[panel].zero_()


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
