"""Which cluster stands for which class: the matching that most nodes agree with."""

from itertools import permutations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.values.precision import accumulator_dtype

_ALL_PERMUTATIONS = 4  # up to so many classes all of them are tried: 24
_INFINITE = 2**62


def overlaps(confusion: Int[Tensor, "G C C"]) -> Float[Tensor, " G"]:
    r"""Of each of G tables of classes against decisions, the overlap: accuracy less chance.

    .. math:: \frac{a - 1/C}{1 - 1/C}, \qquad a = \max_\pi \frac1N \sum_c n_{c, \pi(c)}

    with C the number of classes (rows) that have nodes.

    Cost: up to 4 classes, all permutations of all graphs at once. Of more, an exact assignment on the
    host, graph after graph; see :func:`most_agreeing` for its time.

    Args:
        confusion: Nodes of a class (row) for which the network decides for one (column); negative
            where its decisions are not known.

    Returns:
        The overlaps; NaN of a graph with fewer than two classes, or without known decisions.

    Example:
        >>> overlaps(torch.tensor([[[1, 9], [9, 1]], [[5, 5], [5, 5]]]))
        tensor([0.8000, 0.0000], dtype=torch.float64)
    """
    dtype = accumulator_dtype(confusion.device)
    known = (confusion >= 0).flatten(1).all(1)
    total = confusion.sum((1, 2))
    chance = 1 / (confusion.sum(2) > 0).sum(1).to(dtype)
    overlap = (_agreeing(confusion.clamp(min=0)) / total.to(dtype) - chance) / (1 - chance)
    return overlap.masked_fill(~known | (chance == 1), torch.nan)


def _agreeing(confusion: Int[Tensor, "G C C"]) -> Int[Tensor, " G"]:
    """How many nodes the best matching has right, in each of the tables."""
    size = confusion.shape[1]
    if size <= _ALL_PERMUTATIONS:
        tried = torch.tensor(list(permutations(range(size))), device=confusion.device)
        rows = torch.arange(size, device=confusion.device)
        return confusion[:, rows, tried].sum(2).amax(1)
    tables = confusion.cpu().numpy()
    agreeing = [int(table[np.arange(size), most_agreeing(table)].sum()) for table in tables]
    return torch.tensor(agreeing, dtype=confusion.dtype, device=confusion.device)


def most_agreeing(table: np.ndarray) -> np.ndarray:
    """A column for each row, all different, so that the sum of the entries is the largest.

    The Hungarian method by shortest augmenting paths, on whole numbers and so exact. It takes C^2 steps
    over a row at most, and C for a table whose rows have their largest entries in different columns:
    of 50 classes at most about 30 ms.

    Args:
        table: A square table of whole numbers.

    Returns:
        The columns.

    Example:
        >>> most_agreeing(np.array([[3, 2], [3, 1]])).tolist()
        [1, 0]
    """
    size = len(table)
    # row and column 0 are none; a row's price and a column's never add up to more than their cost
    cost = np.zeros((size + 1, size + 1), dtype=np.int64)
    cost[1:, 1:] = -table
    prices = (np.zeros(size + 1, dtype=np.int64), np.zeros(size + 1, dtype=np.int64))
    row_of = np.zeros(size + 1, dtype=np.int64)
    for row in range(1, size + 1):
        row_of[0] = row
        before, column = _cheapest_path(cost, *prices, row_of)
        while column:  # each row on the path moves to the column after its own
            row_of[column] = row_of[before[column]]
            column = before[column]
    return row_of[1:].argsort()


def _cheapest_path(
    cost: np.ndarray, of_rows: np.ndarray, of_columns: np.ndarray, row_of: np.ndarray
) -> tuple[np.ndarray, int]:
    """From the row at column 0 to a column without one; moves the prices so that it costs nothing.

    Returns:
        The column before each column, and the last one.
    """
    before = np.zeros_like(row_of)
    excess = np.full_like(row_of, _INFINITE)
    reached = np.zeros(len(row_of), dtype=bool)
    column = 0
    while column == 0 or row_of[column]:
        reached[column] = True
        row = row_of[column]
        here = cost[row] - of_rows[row] - of_columns
        nearer = ~reached & (here < excess)
        excess[nearer], before[nearer] = here[nearer], column
        column = int(np.where(reached, _INFINITE, excess).argmin())
        step = excess[column]
        of_rows[row_of[reached]] += step
        of_columns[reached] -= step
        excess[~reached] -= step
    return before, column
