"""A uniform sample of a stage's rows, on the device."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.stream.reservoir import Reservoir, to_device
from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.sample import FeatureSample

_BYTES, _BYTES_OF_LAYERS = 64 * 2**20, 512 * 2**20


def shared_rows(widths: Sequence[int], rows: int) -> int:
    """How many rows each of several layers keeps, so that all of them keep the same ones.

    Of one at most what 64 MiB hold, of all together what 512 MiB hold.

    Args:
        widths: Of the layers.
        rows: How many are wanted.

    Returns:
        How many there are.

    Example:
        >>> shared_rows([512] * 10, 8192), shared_rows([768] * 200, 8192)
        (8192, 873)
    """
    if not widths:
        return rows
    return max(1, min(rows, _BYTES // (4 * max(widths)), _BYTES_OF_LAYERS // (4 * sum(widths))))


class _Kept(NamedTuple):
    features: Float[Tensor, "capacity d"]
    target: Tensor
    predicted: Int[Tensor, " capacity"]


class RowSample:
    """Rows that a :class:`Reservoir` has chosen, in memory that grows with them.

    What :meth:`value` hands out stays as it is: memory that somebody else may hold is not written to.

    Args:
        num_features: d.
        rows: How many to keep, at most what 64 MiB hold.
        seed: Of the choices.
        device: Where they are.

    Example:
        >>> sample = RowSample(num_features=1, rows=2, seed=0, device=torch.device("cpu"))
        >>> sample.add(torch.tensor([[5.0], [6.0], [7.0]]), torch.arange(3), torch.arange(3))
        >>> len(sample.value().target), sample.value().seen
        (2, 3)
    """

    def __init__(self, num_features: int, rows: int, seed: int, device: torch.device) -> None:
        self.reservoir = Reservoir(max(1, min(rows, _BYTES // (4 * num_features))), seed)
        no_rows = torch.zeros(0, dtype=torch.int64, device=device)
        features = torch.zeros(0, num_features, dtype=torch.float32, device=device)
        self._kept = _Kept(features, no_rows, no_rows.clone())
        self._knows_decisions = False
        self._is_handed_out = False

    @property
    def seen(self) -> int:
        """How many rows it is drawn from."""
        return self.reservoir.seen

    @property
    def capacity(self) -> int:
        """How many rows there is memory for now."""
        return len(self._kept.target)

    def reset(self) -> None:
        """Start over, with the same sequence of choices."""
        self.reservoir.reset()
        self._knows_decisions = False
        if self._is_handed_out:
            self._kept = _Kept(*map(torch.empty_like, self._kept))
            self._is_handed_out = False

    def knows_decisions(self) -> None:
        """From now on decisions of the network are among what is added."""
        self._knows_decisions = True

    def add(self, features: Float[Tensor, "B d"], target: Tensor, predicted: Int[Tensor, " B"]) -> None:
        """Choose among some rows, and keep the chosen ones.

        Args:
            features: One feature per row.
            target: Labels, -1 for a row that does not count.
            predicted: Decisions, -1 where unknown.
        """
        used = self.reservoir.size
        placement = self.reservoir.place(len(features))
        self._make_room(self.reservoir.size, features.dtype)
        chosen = None
        if len(placement.rows):
            places = placement.rows, placement.slots
            chosen = [to_device(place, features.device) for place in places]
        for kept, new in zip(self._kept, (features, target, predicted), strict=True):
            new = new.to(kept.dtype)
            kept[used : used + placement.fill] = new[: placement.fill]
            if chosen is not None:
                rows, slots = chosen
                kept.index_copy_(0, slots, new.index_select(0, rows))

    def value(self) -> FeatureSample:
        """The sample, -1 as a label for rows that do not count; later rows do not change it."""
        self._is_handed_out = True
        return self.peek()

    def peek(self) -> FeatureSample:
        """The sample, for use at once."""
        features, target, predicted = (part[: self.reservoir.size] for part in self._kept)
        return FeatureSample(features, target, predicted if self._knows_decisions else None, self.seen)

    def merge(self, other: "RowSample") -> None:
        """Become a uniform sample of the rows of both.

        Args:
            other: Another sample, which is not changed.
        """
        mine, theirs = self.reservoir.size, other.reservoir.size
        kept, taken = self.reservoir.merge(other.reservoir)
        size = len(kept) + len(taken)
        self._make_room(size, other._kept.features.dtype)
        for state, more in zip(self._kept, other._kept, strict=True):
            state[:size] = torch.cat([state[:mine][kept], more[:theirs][taken].to(state)])
        self._knows_decisions = self._knows_decisions or other._knows_decisions

    def states(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""
        size = self.reservoir.size
        parts = {f"sample_{n}": part[:size] for n, part in zip(_Kept._fields, self._kept, strict=True)}
        return {**parts, "rows_seen": torch.tensor(self.seen, device=self._kept.target.device)}

    def require_same_shapes(self, states: Mapping[str, Tensor]) -> None:
        """Raise a ValueError where :meth:`load` could not go on from these.

        Args:
            states: By name.

        Raises:
            ValueError: If some are missing, or are of other rows than a sample of this size holds.
        """
        names = [f"sample_{name}" for name in _Kept._fields]
        missing = [name for name in (*names, "rows_seen") if name not in states]
        if missing:
            raise ValueError(
                f"Expected the states of a sample, but got no {missing[0]!r}. Are they those of "
                "a NeuralCollapse, all of them?"
            )
        rows = min(int(states["rows_seen"]), self.reservoir.capacity)
        width = self._kept.features.shape[1]
        for name, shape in zip(names, ((width,), (), ()), strict=True):
            got = tuple(states[name].shape)
            if len(got) != 1 + len(shape) or got[1:] != shape or got[0] < rows:
                raise ValueError(
                    f"Expected a state {name!r} of at least {rows} rows of shape {shape}, but got "
                    f"{got}. Was it saved with fewer sample_rows, or other num_features?"
                )

    def load(self, states: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`states`, which fit."""
        device = self._kept.target.device
        copies = (states[f"sample_{name}"].to(device, copy=True) for name in _Kept._fields)
        self._kept = _Kept(*copies)
        self._is_handed_out = False
        self.reservoir.seen = int(states["rows_seen"])
        self._knows_decisions = bool((self._kept.predicted >= 0).any())

    def move(self, device: torch.device) -> None:
        """Go to another device, in float32 where it has no float64."""
        features, *rest = self._kept
        wide = features.dtype == torch.float64
        dtype = accumulator_dtype(device) if wide else features.dtype
        self._kept = _Kept(features.to(device, dtype), *(part.to(device) for part in rest))

    def leave_inference_mode(self) -> None:
        """Memory that was copied in inference mode can only be changed there: copy it once more."""
        self._kept = _Kept(*(part.clone() for part in self._kept))

    def _make_room(self, size: int, dtype: torch.dtype) -> None:
        """For more rows, for features of more digits than those so far, and apart from all others."""
        capacity = len(self._kept.target)
        if size > capacity:
            capacity = min(self.reservoir.capacity, max(size, 2 * capacity))
        digits = torch.promote_types(self._kept.features.dtype, dtype)
        fits = len(self._kept.target) == capacity and self._kept.features.dtype == digits
        if self._is_handed_out or not fits:
            features, *rest = (_grown(part, capacity) for part in self._kept)
            self._kept = _Kept(features.to(digits), *rest)
            self._is_handed_out = False


def _grown(part: Tensor, capacity: int) -> Tensor:
    grown = part.new_zeros(capacity, *part.shape[1:])
    grown[: len(part)] = part
    return grown
