"""What accumulators of rows share: small batches wait for others, and a sample of the rows is kept."""

from abc import abstractmethod
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_nc.stream.accumulator import Accumulator, Labels, own_mode, wrong_number
from lightning_nc.stream.backlog import Backlog, Rows
from lightning_nc.stream.class_moments import require_same_shapes
from lightning_nc.stream.row_sample import RowSample


class RowAccumulator(Accumulator):
    """Rows in, one after another, in pieces that are worth the arithmetic.

    Args:
        num_features: d.
        labels: What a label means.
        num_tallies: How many kinds of rows are counted.
        sample_rows: Rows of the sample, at most what 64 MiB hold.
        seed: Of the sample.
        device: Where everything is.
    """

    def __init__(
        self,
        num_features: int,
        labels: Labels,
        num_tallies: int,
        sample_rows: int,
        seed: int,
        device: torch.device | str,
    ) -> None:
        self.device = torch.empty(0, device=device).device
        self._width = num_features
        self._labels = labels
        self._labels_are_known = False
        with torch.inference_mode(False):
            self.tallies = torch.zeros(num_tallies, dtype=torch.int64, device=self.device)
            self.sample = RowSample(num_features, sample_rows, seed, self.device)
        self._backlog = Backlog(num_features, self.device)

    @abstractmethod
    def _add(self, rows: Rows) -> None:
        """Add rows to the states."""

    @abstractmethod
    def _moments(self) -> dict[str, Tensor]:
        """The moments by name, as they are."""

    @abstractmethod
    def _copy_from(self, states: Mapping[str, Tensor]) -> None:
        """Take on other moments, by name."""

    @abstractmethod
    def _forget(self) -> None:
        """Zero the moments, in the same memory."""

    @abstractmethod
    def _settle(self) -> None:
        """Make the moments whole."""

    @abstractmethod
    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put another tensor in the place of each of the moments'."""

    @property
    @abstractmethod
    def _is_settled(self) -> bool:
        """Whether the moments are whole."""

    def check(
        self, features: Float[Tensor, "*rows d"], target: Shaped[Tensor, "..."]
    ) -> tuple[Float[Tensor, "B d"], Shaped[Tensor, "B ..."]]:
        """Features and labels as rows, after a check that they fit; nothing is added.

        Args:
            features: One feature per label.
            target: Labels.

        Returns:
            The same, with one leading dimension.

        Raises:
            ValueError: If shapes, lengths or dtypes do not fit.
        """
        width = self._width
        if features.ndim < 2 or features.shape[-1] != width:
            raise ValueError(
                f"Expected features of shape (B, {width}), but got "
                f"{tuple(features.shape)}. Are they the classifier's input?"
            )
        if features.device != self.device:
            raise ValueError(
                f"Expected features on {self.device}, where the metric is, but got them on "
                f"{features.device}. Move the metric with .to(features.device)."
            )
        h = features.reshape(-1, width)
        shape = target.shape[: target.ndim - self._labels.label_dims]
        if shape.numel() != h.shape[0]:
            raise wrong_number(h, target, shape)
        y = target.detach().reshape(len(h), *target.shape[len(shape) :]).to(h.device)
        if not self._labels_are_known:
            self._labels.require(y)
            self._labels_are_known = True
        return h, y

    def reset(self) -> None:
        """Forget all rows, and keep the memory for others."""
        self._leave_inference_mode()
        self._backlog.clear()
        with own_mode(self.device):
            self._forget()
            self.tallies.zero_()
            self.sample.reset()

    def states(self) -> dict[str, Tensor]:
        """All that it holds, each tensor whole and readable by itself."""
        self.settle()
        return {**self._moments(), "tallies": self.tallies, **self.sample.states()}

    def load(self, states: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`states`, which are copied.

        Args:
            states: Of an accumulator of the same shape.

        Raises:
            ValueError: If they are those of something else; nothing is changed.
        """
        require_same_shapes(states, {**self._moments(), "tallies": self.tallies})
        self.sample.require_same_shapes(states)
        self.reset()
        with own_mode(self.device):
            self._copy_from(states)
            self.tallies.copy_(states["tallies"])
            self.sample.load(states)

    def settle(self) -> None:
        """Bring the states up to date."""
        if len(self._backlog) == 0 and self._is_settled:
            return
        self._leave_inference_mode()
        with own_mode(self.device):
            self._catch_up()
            self._settle()

    def _take_in(self, rows: Rows) -> None:
        """Add a batch, or let it wait for others."""
        if len(rows.target) == 0:
            return
        self._leave_inference_mode()
        if self._backlog.add(rows):
            return
        with own_mode(self.device):
            self._catch_up()
            if not self._backlog.add(rows):
                self._add(rows)

    def _catch_up(self) -> None:
        if len(self._backlog):
            self._add(self._backlog.take())

    def _leave_inference_mode(self) -> None:
        """States that were copied in inference mode can only be changed there: copy them once more."""
        if self.tallies.is_inference():
            with torch.inference_mode(False), torch.no_grad():
                self._change(torch.clone)
                self.tallies = self.tallies.clone()
                self.sample.leave_inference_mode()
                self._backlog.leave_inference_mode()


def finite_rows(h: Float[Tensor, "B d"]) -> Bool[Tensor, " B"]:
    """Which rows hold neither NaN nor infinity; all of a batch that has none of either.

    Example:
        >>> finite_rows(torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [0.0, -torch.inf]]))
        tensor([ True, False, False])
    """
    return (h.amax(1) < torch.inf) & (h.amin(1) > -torch.inf)  # False for NaN
