"""The nearest class center of each row: what NC4 compares the network with.

Exact, and mostly without float64: on a CPU, float32 decides where its rounding cannot matter, and the
label of a row spares the distances to all other centers where its own is near enough. At collapse
that is everywhere.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.precision import float32_products_are_exact
from lightning_nc.values import FLOAT32_EPS, ClassStatistics

_BLOCK_ENTRIES, _LEAST_ROWS = 2**20, 256


def nearest_class_center(
    features: Float[Tensor, "B d"],
    statistics: ClassStatistics,
    guess: Int[Tensor, " B"] | None = None,
) -> Int[Tensor, " B"]:
    r"""The class whose mean is nearest: :math:`\operatorname{argmin}_c \|h - \mu_c\|_2`.

    Classes without samples are never chosen. Features and means are centered first: at an offset of
    1,000 the distances would lose too many digits.

    Args:
        features: One feature per row.
        statistics: Statistics with a sample of at least one class.
        guess: For each row a class with samples, such as its label. It changes the time that this
            takes and not the result.

    Returns:
        The index of a class per row; of two that are equally near up to rounding, either.

    Example:
        >>> h = torch.tensor([[1.0], [3.0], [10.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 0, 2]), num_classes=3)
        >>> nearest_class_center(torch.tensor([[2.5], [7.0]]), stats)
        tensor([0, 2])
    """
    if guess is not None:
        guess = (statistics.seen.cumsum(0) - 1)[guess]  # its number among the classes seen
    size = max(_LEAST_ROWS, _BLOCK_ENTRIES // max(statistics.means.shape))
    centers = _Centers(statistics.of_seen_classes, most_rows=size)
    blocks = range(0, len(features), size)
    chosen = [
        centers.nearest(features[i : i + size], None if guess is None else guess[i : i + size])
        for i in blocks
    ]
    return statistics.seen.nonzero().flatten()[torch.cat(chosen)]


class _Centers:
    """Class means around their own mean, and how far float32 can be trusted with them."""

    def __init__(self, statistics: ClassStatistics, most_rows: int) -> None:
        self._origin, self._centers = statistics.global_mean, statistics.centered_means
        self._halves = self._centers.square().sum(1) / 2
        device, dtype = self._centers.device, self._centers.dtype
        self._suit_float32 = (
            device.type == "cpu"
            and dtype == torch.float64
            and len(self._centers) > 1
            and float32_products_are_exact(device)
        )
        if not self._suit_float32:
            return
        self._high = self._origin.float()
        self._low = (self._origin - self._high).float()
        self._short, self._short_halves = self._centers.float(), self._halves.float()
        self._longest = (2 * self._halves.max()).sqrt()
        self._rounding = (self._centers.shape[1] + 8) * FLOAT32_EPS
        self._memory = self._short.new_empty(2, most_rows, self._short.shape[1])
        self._reach = self._half_way_to_the_next(statistics)

    def nearest(self, rows: Float[Tensor, "B d"], guess: Int[Tensor, " B"] | None) -> Int[Tensor, " B"]:
        """The number of the nearest center for each row."""
        if not self._suit_float32:
            return self._exactly(rows)
        # memory that is used again: fresh memory costs more than the arithmetic
        h = torch.sub(rows, self._high, out=self._memory[0, : len(rows)]).sub_(self._low)
        if guess is None or self._reach is None:
            return self._by_products(rows, h)
        r = torch.index_select(self._short, 0, guess, out=self._memory[1, : len(rows)]).sub_(h)
        near = r.norm(dim=1) < self._reach[guess]
        chosen, others = guess.clone(), (~near).nonzero().flatten()
        chosen[others] = self._by_products(rows[others], h[others])
        return chosen

    def _exactly(self, rows: Float[Tensor, "B d"]) -> Int[Tensor, " B"]:
        h = rows.to(self._origin.dtype) - self._origin
        return (h @ self._centers.T - self._halves).argmax(1)

    def _by_products(self, rows: Float[Tensor, "B d"], h: Float[Tensor, "B d"]) -> Int[Tensor, " B"]:
        best = torch.addmm(-self._short_halves, h, self._short.T).topk(2)
        chosen, lead = best.indices[:, 0], best.values[:, 0] - best.values[:, 1]
        # by less than float32 may have rounded off nothing is decided, nor by NaN
        sure = lead > 2 * self._rounding * self._longest * (h.norm(dim=1) + self._longest)
        doubtful = (~sure).nonzero().flatten()
        chosen[doubtful] = self._exactly(rows[doubtful])
        return chosen

    def _half_way_to_the_next(self, statistics: ClassStatistics) -> Float[Tensor, " C"] | None:
        """What is nearer to a center than this is nearer to no other one, rounding allowed for."""
        frame = statistics.frame
        if len(frame.sampled) < frame.num_vectors:
            return None
        next_one = frame.squared_distances.clone().fill_diagonal_(torch.inf).min(1).values
        eps = torch.finfo(self._centers.dtype).eps
        next_one -= 4 * self._centers.shape[1] * eps * self._longest.square()
        half_way = next_one.clamp(min=0).sqrt() / 2
        return ((half_way - 8 * FLOAT32_EPS * self._longest) / (1 + self._rounding)).float()
