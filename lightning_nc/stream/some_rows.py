"""Rows of some kind among those of a batch, without waiting for a device."""

import torch
from jaxtyping import Bool
from torch import Tensor


def some_rows(rows: Bool[Tensor, " B"], *parts: Tensor) -> tuple[Bool[Tensor, " R"], list[Tensor]]:
    """Some rows, and which of what is left over are these.

    On a CPU they are picked, so that what is done with them costs as much as there are. A device would
    have to be waited for to know how many that is: there all rows stay, and the others are masked.

    Args:
        rows: Which.
        parts: Tensors with an entry for each row.

    Returns:
        Which of the entries are of these rows, and the tensors.

    Example:
        >>> some_rows(torch.tensor([True, False, True]), torch.tensor([5, 6, 7]))
        (tensor([True, True]), [tensor([5, 7])])
    """
    if not _picks(rows.device):
        return rows, list(parts)
    chosen = rows.nonzero().flatten()
    return torch.ones_like(chosen, dtype=torch.bool), [p.index_select(0, chosen) for p in parts]


def _picks(device: torch.device) -> bool:
    return device.type == "cpu"
