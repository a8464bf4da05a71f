"""The nearest class center of each row: what NC4 compares the network with.

Exact, and mostly without float64: float32 decides where its rounding cannot matter, and the
label of a row spares the distances to all other centers where its own is near enough. At collapse
that is everywhere.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.values.precision import FLOAT32_EPS, float32_products_are_exact
from lightning_nc.values.statistics import ClassStatistics

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
        guess: For each row a class, such as its label. It changes the time that this takes and not
            the result.

    Returns:
        The index of a class per row; of two that are equally near up to rounding, either.

    Example:
        >>> h = torch.tensor([[1.0], [3.0], [10.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 0, 2]), num_classes=3)
        >>> nearest_class_center(torch.tensor([[2.5], [7.0]]), stats)
        tensor([0, 2])
    """
    with torch.autocast(features.device.type, enabled=False):
        return _nearest(features.detach(), statistics, guess)


def _nearest(
    features: Float[Tensor, "B d"], statistics: ClassStatistics, guess: Int[Tensor, " B"] | None
) -> Int[Tensor, " B"]:
    size = max(_LEAST_ROWS, _BLOCK_ENTRIES // max(statistics.means.shape))
    known = statistics.of_seen_classes
    centers = _Float32Centers(known, most_rows=size) if _suits_float32(known) else _Centers(known)
    numbers = statistics.seen.nonzero().flatten()
    if guess is not None:  # its number among the classes seen; any of them will do
        guess = (statistics.seen.cumsum(0) - 1).clamp(min=0)[guess]
    chosen = torch.empty(len(features), dtype=torch.int64, device=features.device)
    for i in range(0, len(features), size):
        block = slice(i, i + size)
        chosen[block] = centers.nearest(features[block], None if guess is None else guess[block])
    return numbers[chosen]


def _suits_float32(statistics: ClassStatistics) -> bool:
    """Where its products are exact, and neither squares nor their differences leave its range."""
    means = statistics.means
    return (
        means.dtype == torch.float64
        and len(means) > 1
        and float32_products_are_exact(means.device)
        and 1e-15 < float(statistics.centered_means.norm()) < 1e15
    )


class _Centers:
    """Class means around their own mean."""

    def __init__(self, statistics: ClassStatistics) -> None:
        self._origin, self._centers = statistics.global_mean, statistics.centered_means
        self._halves = self._centers.square().sum(1) / 2

    def nearest(
        self, rows: Float[Tensor, "B d"], guess: Int[Tensor, " B"] | None = None
    ) -> Int[Tensor, " B"]:
        """The number of the nearest center for each row."""
        h = rows.to(self._origin.dtype) - self._origin
        return (h @ self._centers.T - self._halves).argmax(1)


class _Float32Centers(_Centers):
    """The same, in float64 only where float32 is in doubt."""

    def __init__(self, statistics: ClassStatistics, most_rows: int) -> None:
        super().__init__(statistics)
        self._high = self._origin.float()
        self._low = (self._origin - self._high).float()
        self._short, self._short_halves = self._centers.float(), self._halves.float()
        self._longest = (2 * self._halves.max()).sqrt()
        self._rounding = (self._centers.shape[1] + 8) * FLOAT32_EPS
        # memory that is used again: fresh memory costs more than the arithmetic
        self._memory = self._short.new_empty(2, most_rows, self._short.shape[1])
        self._reach = self._half_way_to_the_next(statistics)

    def nearest(
        self, rows: Float[Tensor, "B d"], guess: Int[Tensor, " B"] | None = None
    ) -> Int[Tensor, " B"]:
        """The number of the nearest center for each row."""
        h, r = self._memory[:, : len(rows)]
        if rows.dtype == self._origin.dtype:
            torch.sub(rows, self._origin, out=h)
        else:  # exact where they are near each other: no row needs float64
            torch.sub(rows, self._high, out=h).sub_(self._low)
        if guess is None or self._reach is None:
            return self._by_products(rows, h)
        torch.index_select(self._short, 0, guess, out=r).sub_(h)
        near = r.norm(dim=1) < self._reach[guess]
        chosen, others = guess.clone(), (~near).nonzero().flatten()
        chosen[others] = self._by_products(rows[others], h[others])
        return chosen

    def _by_products(self, rows: Float[Tensor, "B d"], h: Float[Tensor, "B d"]) -> Int[Tensor, " B"]:
        best = torch.addmm(-self._short_halves, h, self._short.T).topk(2)
        chosen, lead = best.indices[:, 0], best.values[:, 0] - best.values[:, 1]
        # by less than float32 may have rounded off nothing is decided, nor by NaN
        sure = lead > 2 * self._rounding * self._longest * (h.norm(dim=1) + self._longest)
        doubtful = (~sure).nonzero().flatten()
        chosen[doubtful] = super().nearest(rows[doubtful])
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
