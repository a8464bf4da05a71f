"""Co-moments of tags and features, by the number of tags, where pairs have no mean of their own."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_nc.stream.some_rows import some_rows
from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.tags import TagMoments


class _Sums(NamedTuple):
    counts: Float[Tensor, " M"]
    tags: Float[Tensor, "M K"]
    joint: Float[Tensor, "M K K"]
    cross: Float[Tensor, "M K d"]
    totals: Float[Tensor, "M d"]
    squares: Float[Tensor, " M"]
    center: Float[Tensor, " d"]


class CoMoments:
    """Of rows with some numbers of tags: O(K^2 + K d) for each of these.

    Features are taken from a fixed point, the mean of the first rows that come: late in training, sums
    of squares around 0 would be all offset.

    Args:
        num_tags: K.
        num_features: d.
        multiplicities: Numbers of tags, in a row.
        device: Where they are.

    Example:
        >>> sums = CoMoments(num_tags=3, num_features=1, multiplicities=range(3, 5), device="cpu")
        >>> h, t = torch.tensor([[1.0], [4.0]]), torch.tensor([[True] * 3, [True, True, False]])
        >>> sums.add(h, t, t.sum(1), torch.tensor([True, True]))
        >>> found = sums.merged(sums.sums(), sums.around(sums.sums()))
        >>> {m: int(each.count) for m, each in found.items()}
        {3: 1}
    """

    def __init__(
        self, num_tags: int, num_features: int, multiplicities: range, device: torch.device | str
    ) -> None:
        self._multiplicities = multiplicities
        k, d, m = num_tags, num_features, len(multiplicities)
        shapes = ((m,), (m, k), (m, k, k), (m, k, d), (m, d), (m,), (d,))
        dtype = accumulator_dtype(device)
        self._sums = _Sums(*(torch.zeros(shape, dtype=dtype, device=device) for shape in shapes))

    @staticmethod
    def num_bytes(num_tags: int, num_features: int, multiplicities: range) -> int:
        """What they take.

        Example:
            >>> CoMoments.num_bytes(80, 512, range(3, 9))
            2305888
        """
        k, d, m = num_tags, num_features, len(multiplicities)
        return 8 * (m * (2 + k + k * k + k * d + d) + d)

    def add(
        self,
        features: Float[Tensor, "B d"],
        tags: Bool[Tensor, "B K"],
        multiplicity: Int[Tensor, " B"],
        valid: Bool[Tensor, " B"],
    ) -> None:
        """Add rows.

        Args:
            features: One feature per row.
            tags: The tags of each.
            multiplicity: How many these are.
            valid: Which rows count.
        """
        if not self._multiplicities:
            return
        counts, a, joint, cross, totals, squares, center = self._sums
        first, last = self._multiplicities[0], self._multiplicities[-1]
        ours = valid & (multiplicity >= first) & (multiplicity <= last)
        ours, (h, t, m) = some_rows(ours, features, tags, multiplicity)
        if len(h) == 0:
            return
        h = h.to(center.dtype).masked_fill(~ours[:, None], 0)
        mean = h.sum(0) / ours.sum().clamp(min=1)
        center.copy_(torch.where(counts.sum() == 0, mean, center))
        for place, number in enumerate(self._multiplicities):
            these, (x, tm) = some_rows(ours & (m == number), h, t)
            if len(x) == 0:
                continue
            x = (x - center).masked_fill(~these[:, None], 0)
            tm = (tm & these[:, None]).to(x.dtype)
            counts[place] += these.sum()
            a[place] += tm.sum(0)
            joint[place].addmm_(tm.T, tm)
            cross[place].addmm_(tm.T, x)
            totals[place] += x.sum(0)
            squares[place] += x.square().sum()

    def reset(self) -> None:
        """Zero, in the same memory."""
        for state in self._sums:
            state.zero_()

    def change(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put another tensor in the place of each."""
        self._sums = _Sums(*map(change, self._sums))

    def kept(self) -> dict[str, Tensor]:
        """All of them by name, as they are."""
        return {f"co_{name}": state for name, state in self._sums._asdict().items()}

    def copy_from(self, states: Mapping[str, Tensor]) -> None:
        """Take on other values, by name."""
        for name, mine in self.kept().items():
            mine.copy_(states[name])

    def sums(self) -> list[Tensor]:
        """What adds up over ranks as it is: counts, tags, pairs of tags, and sums of features."""
        counts, a, joint, _, totals, _, center = self._sums
        return [counts.clone(), a.clone(), joint.clone(), totals + counts[:, None] * center]

    def rest(self) -> list[Tensor]:
        """What holds around this rank's center only."""
        return [self._sums.cross, self._sums.squares]

    def around(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """That, around the mean of all ranks' rows.

        Args:
            sums: Those of all ranks.

        Returns:
            What adds up to that of all rows.
        """
        counts, a, _, cross, totals, squares, center = self._sums
        step = center - _mean(sums)
        moved = squares + 2 * totals @ step + counts * step.square().sum()
        return [cross + a[:, :, None] * step, moved]

    def merged(self, sums: Sequence[Tensor], rest: Sequence[Tensor]) -> dict[int, TagMoments]:
        """What all ranks have, by the number of tags, of those that were seen.

        Args:
            sums: Those of all ranks.
            rest: What holds around their mean, of all ranks.

        Returns:
            The moments.
        """
        counts, a, joint, raw = sums
        center = _mean(sums)
        totals = raw - counts[:, None] * center
        found = {}
        for i, m in enumerate(self._multiplicities):
            if bool(counts[i] > 0):
                cross, squares = rest[0][i], rest[1][i]
                found[m] = TagMoments(counts[i], a[i], joint[i], cross, totals[i], squares, center)
        return found


def _mean(sums: Sequence[Tensor]) -> Float[Tensor, " d"]:
    counts, _, _, raw = sums
    return raw.sum(0) / counts.sum().clamp(min=1)
