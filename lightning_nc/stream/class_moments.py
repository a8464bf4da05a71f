"""The moments of classes on a device: float64 states, float32 products that are folded into them."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_nc.stream.memory import require_bytes, shared_scratch
from lightning_nc.stream.moments import Moments, add_rows_
from lightning_nc.stream.products import fold_
from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.statistics import ClassStatistics
from lightning_nc.values.symmetric import mirror_


class ClassMoments:
    """Running counts, means and scatters, whole and in float64 whenever :meth:`settle` was called.

    Args:
        num_classes: C.
        num_features: d.
        covariance: "pooled", "per_class" or "none" (traces only).
        device: Where they are.

    Raises:
        ValueError: If the scatter of each class does not fit into memory.
    """

    # float32 products of so many rows keep the error of their sum below 1e-6, over all batches
    rows_per_fold: ClassVar[int] = 4096
    # products of features so narrow cost nothing in float64, and float32 sums over rows are coarse
    narrow: ClassVar[int] = 64

    def __init__(
        self, num_classes: int, num_features: int, covariance: str, device: torch.device
    ) -> None:
        dtype = accumulator_dtype(device)
        d, per_class = num_features, covariance == "per_class"
        if per_class:
            require_bytes(num_classes * d * d * dtype.itemsize, device, num_classes, d)

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.running = Moments(
            counts=zeros(num_classes, dtype=torch.int64),
            means=zeros(num_classes, d),
            sums_of_squares=zeros(num_classes),
            scatter=None if covariance == "none" else zeros(d, d),
            class_scatter=zeros(num_classes, d, d) if per_class else None,
        )
        self._products = None if covariance == "none" else zeros(d, d, dtype=torch.float32)
        self._unfolded_rows = 0
        self._is_mirrored = True

    @property
    def is_inference(self) -> bool:
        """Whether they were copied in inference mode, so that they can only be changed there."""
        return self.running.means.is_inference()

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
        target = self._product_target(features.dtype)
        moments = self.running._replace(scatter=target)
        add_rows_(moments, features, label, valid, rows_before)
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
        self.change(torch.zero_)

    def change(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put another tensor in the place of each."""
        changed: Any = (None if t is None else change(t) for t in self.running)
        self.running = Moments(*changed)
        self._products = None if self._products is None else change(self._products)

    def move(self, device: torch.device) -> None:
        """Go to another device, in float32 where it has no float64."""
        dtype = accumulator_dtype(device)
        self.change(lambda t: t.to(device, dtype if t.dtype == torch.float64 else t.dtype))

    def kept(self) -> dict[str, Tensor]:
        """Those that are kept, by name, as they are."""
        return {name: t for name, t in self.running._asdict().items() if t is not None}

    def require_same_shapes(self, states: Mapping[str, Tensor]) -> None:
        """Raise a ValueError where :meth:`copy_from` could not take on these values."""
        for name, mine in self.kept().items():
            if name not in states or states[name].shape != mine.shape:
                got = tuple(states[name].shape) if name in states else "none"
                raise ValueError(
                    f"Expected a state {name!r} of shape {tuple(mine.shape)}, but got {got}. Was it "
                    "saved with other num_classes, num_features or covariance?"
                )

    def copy_from(self, states: Mapping[str, Tensor]) -> None:
        """Take on other values.

        Args:
            states: Tensors of the same shapes by name; of a scatter what is above the diagonal counts.
        """
        for name, mine in self.kept().items():
            mine.copy_(states[name])
        if self.running.scatter is not None:
            mirror_(self.running.scatter)

    def statistics(self) -> ClassStatistics:
        """A copy that later rows do not change."""
        copies: Any = (None if t is None else t.clone() for t in self.running)
        return ClassStatistics(**dict(zip(Moments._fields, copies, strict=True)))

    def __getstate__(self) -> dict[str, object]:
        # nothing in the scratch is worth a place in a copy
        return {name: value for name, value in vars(self).items() if name != "_scratch"}

    def _product_target(self, dtype: torch.dtype) -> Tensor | None:
        _, width = self.running.means.shape
        in_float64 = dtype == self.running.means.dtype or width <= self.narrow
        return self.running.scatter if in_float64 else self._products

    def _fold(self) -> None:
        """Move the float32 products into the float64 scatter, before rounding adds up."""
        if self._unfolded_rows and self.running.scatter is not None and self._products is not None:
            fold_(self.running.scatter, self._products)
        self._unfolded_rows = 0
