"""The moments of classes on a device: float64 states, float32 products that are folded into them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_nc.stream.memory import require_bytes, shared_scratch
from lightning_nc.stream.moments import Moments, add_rows_
from lightning_nc.stream.products import Products
from lightning_nc.values.covariance import resolved
from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.statistics import ClassStatistics
from lightning_nc.values.symmetric import mirror_

_REFUSABLE = ("pooled", "per_class")


class ClassMoments:
    """Running counts, means and scatters, whole and in float64 whenever :meth:`settle` was called.

    Args:
        num_classes: C.
        num_features: d.
        covariance: "auto", "pooled", "per_class" or "none" (traces only).
        device: Where they are.
        in_float64: Whether rows come in float64, as where their products are to keep 1e-10.

    Raises:
        ValueError: If scatters that were asked for by name do not fit into memory.
    """

    # float32 products of so many rows keep the error of their sum below 1e-6, over all batches
    rows_per_fold: ClassVar[int] = 4096
    # products of features so narrow cost nothing in float64, and float32 sums over rows are coarse
    narrow: ClassVar[int] = 64

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        covariance: str,
        device: torch.device,
        in_float64: bool = False,
    ) -> None:
        dtype = accumulator_dtype(device)
        d, per_class = num_features, covariance == "per_class"
        if covariance in _REFUSABLE:
            require_bytes(covariance, num_classes, d, device)
        covariance = resolved(covariance, d)

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.running = Moments(
            counts=zeros(num_classes, dtype=torch.int64),
            means=zeros(num_classes, d),
            sums_of_squares=zeros(num_classes),
            scatter=None if covariance == "none" else zeros(d, d),
            class_scatter=zeros(num_classes, d, d) if per_class else None,
        )
        wants_products = covariance != "none" and not in_float64
        self._products = Products(d, device) if wants_products else None
        self._unfolded_rows = 0
        self._is_mirrored = True

    @property
    def is_settled(self) -> bool:
        """Whether all of them are whole."""
        return self._unfolded_rows == 0 and self._is_mirrored

    def add(
        self,
        features: Float[Tensor, "B d"],
        label: Int[Tensor, " B"],
        valid: Bool[Tensor, " B"],
        rows_before: int,
    ) -> None:
        """Add rows.

        Args:
            features: One feature per row.
            label: Classes, 0 where a row does not count.
            valid: Which rows count.
            rows_before: About how many were added before.
        """
        self._scratch = shared_scratch()  # held from one batch to the next
        products = self._products if self._needs_products(features.dtype) else None
        add_rows_(self.running, features, label, valid, rows_before, products)
        self._is_mirrored = False
        self._unfolded_rows += len(features)
        if self._unfolded_rows >= self.rows_per_fold:
            self._fold()

    def settle(self) -> None:
        """Make all of them whole."""
        self._fold()
        if self.running.scatter is not None and not self._is_mirrored:
            mirror_(self.running.scatter)
        self._is_mirrored = True

    def reset(self) -> None:
        """Zero, in the same memory."""
        self._unfolded_rows, self._is_mirrored = 0, True
        for kept in self.kept().values():
            kept.zero_()
        if self._products is not None:
            self._products.clear()

    def change(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put another tensor in the place of each."""
        changed: Any = (None if t is None else change(t) for t in self.running)
        self.running = Moments(*changed)
        if self._products is not None:
            self._products.change(change)

    def move(self, device: torch.device) -> None:
        """Go to another device, in float32 where it has no float64."""
        dtype = accumulator_dtype(device)
        self.change(lambda t: t.to(device, dtype if t.dtype == torch.float64 else t.dtype))

    def kept(self) -> dict[str, Tensor]:
        """Those that are kept, by name, as they are."""
        return {name: t for name, t in self.running._asdict().items() if t is not None}

    def copy_from(self, states: Mapping[str, Tensor]) -> None:
        """Take on other values.

        Args:
            states: Tensors of the same shapes by name; of a scatter what is above the diagonal counts.
        """
        for name, mine in self.kept().items():
            mine.copy_(states[name])
        if self.running.scatter is not None:
            mirror_(self.running.scatter)

    def sums(self) -> list[Tensor]:
        """What adds up over ranks as it is: counts, and sums of features by class."""
        counts, means = self.running.counts, self.running.means
        return [counts, means * counts[:, None]]

    def rest(self) -> list[Tensor]:
        """The scatters, around these means."""
        n = self.running
        return [t for t in (n.sums_of_squares, n.scatter, n.class_scatter) if t is not None]

    def around(self, sums: Sequence[Tensor]) -> list[Tensor]:
        r"""The scatters around the means of all ranks.

        :math:`S_r + \sum_c n_{rc} (\mu_{rc} - \mu_c)(\mu_{rc} - \mu_c)^\top`.

        Args:
            sums: Those of all ranks.

        Returns:
            What adds up to the scatters of all rows.
        """
        own = self.running
        delta = own.means - _means(*sums)
        moved = [own.sums_of_squares + own.counts * delta.square().sum(1)]
        if own.scatter is not None:
            moved.append(torch.addmm(own.scatter, (delta * own.counts[:, None]).T, delta))
        if own.class_scatter is not None:
            outer = torch.einsum("c,ci,cj->cij", own.counts.to(delta.dtype), delta, delta)
            moved.append(outer.add_(own.class_scatter))
        return moved

    def merged(self, sums: Sequence[Tensor], rest: Sequence[Tensor]) -> ClassStatistics:
        """The statistics of all ranks.

        Args:
            sums: Those of all ranks.
            rest: The scatters of all ranks.

        Returns:
            The statistics.
        """
        squares, *scatters = rest
        pooled = None if self.running.scatter is None else scatters[0]
        of_each = None if self.running.class_scatter is None else scatters[-1]
        return ClassStatistics(sums[0].round().to(torch.int64), _means(*sums), pooled, squares, of_each)

    def statistics(self) -> ClassStatistics:
        """A copy that later rows do not change."""
        copies: dict[str, Any] = {name: tensor.clone() for name, tensor in self.kept().items()}
        return ClassStatistics(**{"scatter": None, **copies})

    def peek(self) -> ClassStatistics:
        """Nothing is copied: for use at once."""
        return ClassStatistics(**self.running._asdict())

    def __getstate__(self) -> dict[str, object]:
        # nothing in the scratch is worth a place in a copy
        return {name: value for name, value in vars(self).items() if name != "_scratch"}

    def _needs_products(self, dtype: torch.dtype) -> bool:
        """Float64 is the slower one where features are wide, and there is no need of it for rows."""
        means = self.running.means
        return dtype != means.dtype and means.shape[1] > self.narrow

    def _fold(self) -> None:
        """Move the float32 products into the float64 scatter, before rounding adds up."""
        if self._unfolded_rows and self.running.scatter is not None and self._products is not None:
            self._products.fold_into(self.running.scatter)
        self._unfolded_rows = 0


def require_same_shapes(states: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    """Raise a ValueError where states are missing, or of other shapes than these."""
    for name, mine in like.items():
        if name not in states or states[name].shape != mine.shape:
            got = tuple(states[name].shape) if name in states else "none"
            raise ValueError(
                f"Expected a state {name!r} of shape {tuple(mine.shape)}, but got {got}. Was it "
                "saved with other num_classes, num_features or covariance?"
            )


def _means(counts: Float[Tensor, " C"] | Int[Tensor, " C"], sums: Tensor) -> Float[Tensor, "C d"]:
    whole = counts.round().to(torch.int64)
    return sums / whole.clamp(min=1)[:, None]
