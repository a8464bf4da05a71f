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
_TILE = 1024
"""Centers that rows meet at a time: of 50,000 at once, their products would go through memory."""

_CANDIDATES = 8
"""Nearest ones of more than a tile of centers, among which float64 decides where that is enough."""

_GUESSED = 32  # with no more classes a guess spares nothing
_LONG_PRODUCTS = 2**24  # of rows and all centers in float64, at a time


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
    size = max(
        _LEAST_ROWS, _BLOCK_ENTRIES // max(min(_TILE, statistics.num_classes), statistics.num_features)
    )
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
        self._halves = torch.einsum("cd,cd->c", self._centers, self._centers) / 2

    def nearest(
        self, rows: Float[Tensor, "B d"], guess: Int[Tensor, " B"] | None = None
    ) -> Int[Tensor, " B"]:
        """The number of the nearest center for each row."""
        at_once = max(1, _LONG_PRODUCTS // len(self._centers))
        parts = [
            (h @ self._centers.T - self._halves).argmax(1) for h in self._around(rows).split(at_once)
        ]
        return torch.cat(parts)

    def _around(self, rows: Float[Tensor, "B d"]) -> Float[Tensor, "B d"]:
        return rows.to(self._origin.dtype) - self._origin


class _Float32Centers(_Centers):
    """The same, in float64 only where float32 is in doubt."""

    def __init__(self, statistics: ClassStatistics, most_rows: int) -> None:
        super().__init__(statistics)
        self._high = self._origin.float()
        self._low = (self._origin - self._high).float()
        self._short, self._short_halves = self._centers.float(), self._halves.float()
        self._few = _CANDIDATES if len(self._centers) > _TILE else 2
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
        values, near = self._nearest_few(h)
        chosen, behind = near[:, 0], values[:, :1] - values
        # by less than float32 may have rounded off nothing is decided, nor by NaN
        rounded = 2 * self._rounding * self._longest * (h.norm(dim=1) + self._longest)
        sure, among_few = behind[:, 1] > rounded, behind[:, -1] > rounded
        few, many = (among_few & ~sure).nonzero().flatten(), (~among_few).nonzero().flatten()
        chosen[few] = self._nearest_of(rows[few], near[few])
        chosen[many] = super().nearest(rows[many])
        return chosen

    def _nearest_few(self, h: Float[Tensor, "B d"]) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
        """By float32: the largest few of h'm - m'm/2, largest where m is nearest, and their m."""
        values, numbers = [], []
        for start in range(0, len(self._short), _TILE):
            tile = slice(start, start + _TILE)
            scores = torch.addmm(-self._short_halves[tile], h, self._short[tile].T)
            found = scores.topk(min(self._few, scores.shape[1]))
            values.append(found.values)
            numbers.append(found.indices + start)
        best = torch.cat(values, 1).topk(self._few)
        return best.values, torch.cat(numbers, 1).gather(1, best.indices)

    def _nearest_of(
        self, rows: Float[Tensor, "B d"], candidates: Int[Tensor, "B k"]
    ) -> Int[Tensor, " B"]:
        """In float64, of a few centers for each row."""
        candidates = candidates.sort(1).values  # the first one, of two that are equally near
        products = (self._centers[candidates] @ self._around(rows)[:, :, None])[:, :, 0]
        best = (products - self._halves[candidates]).argmax(1, keepdim=True)
        return candidates.gather(1, best)[:, 0]

    def _half_way_to_the_next(self, statistics: ClassStatistics) -> Float[Tensor, " C"] | None:
        """What is nearer to a center than this is nearer to no other one, rounding allowed for."""
        frame = statistics.frame
        # to meet a few centers is less than to look at the own one alone
        if len(frame.sampled) < frame.num_vectors or frame.num_vectors <= _GUESSED:
            return None
        next_one = frame.squared_distances.clone().fill_diagonal_(torch.inf).min(1).values
        eps = torch.finfo(self._centers.dtype).eps
        next_one -= 4 * self._centers.shape[1] * eps * self._longest.square()
        half_way = next_one.clamp(min=0).sqrt() / 2
        return ((half_way - 8 * FLOAT32_EPS * self._longest) / (1 + self._rounding)).float()
