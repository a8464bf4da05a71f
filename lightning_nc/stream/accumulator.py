"""What all accumulators share: rows in, never a wait; states that merge over batches and ranks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.evidence import Evidence


class Encoded(NamedTuple):
    """What labels mean.

    Attributes:
        label: Class numbers; 0 where there is none.
        counts: Which rows have one.
        wanted: Which rows are not left out on purpose.
        left_out: Which rows do not count for a fault of their label, one mask for each kind of fault.
    """

    label: Int[Tensor, " B"]
    counts: Bool[Tensor, " B"]
    wanted: Bool[Tensor, " B"]
    left_out: tuple[Bool[Tensor, " B"], ...]


@runtime_checkable
class Labels(Protocol):
    """A task, as far as an accumulator needs it."""

    label_dims: ClassVar[int]
    """How many dimensions a label has: 0 for a number, 1 for a vector."""

    def require(self, target: Shaped[Tensor, " B"]) -> None:
        """Raise a ValueError if these cannot be labels; may wait for the device."""

    def encode(self, target: Shaped[Tensor, " B"]) -> Encoded:
        """What labels mean, without waiting for the device."""


class Accumulator(ABC):
    """Adds up the rows of one module over one stage.

    Over ranks it merges in two rounds. In the first, :meth:`sums` of all ranks are added up. Each rank
    then moves the rest of its state onto what all have come to, :meth:`around`; in the second round
    these add up. What it all amounts to is :meth:`merged`.
    """

    size_names: ClassVar[tuple[str, ...]] = ()
    """What ``sizes`` are, for messages."""
    once: ClassVar[bool] = False
    """Whether the ranks hold the same, so that one of them sends it."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """At most four numbers, of which a blank one of the same shape is made; equal on all ranks."""

    @abstractmethod
    def check(
        self, features: Float[Tensor, "..."], target: Shaped[Tensor, "..."]
    ) -> tuple[Float[Tensor, "B d"], Shaped[Tensor, " B"]]:
        """Features and labels as rows; a ValueError where they do not fit. Nothing is added."""

    @abstractmethod
    def add(
        self,
        features: Float[Tensor, "B d"],
        target: Shaped[Tensor, " B"],
        predicted: Int[Tensor, " B"] | None = None,
    ) -> None:
        """Add rows that were checked, without waiting for the device."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all rows."""

    def settle(self) -> None:  # noqa: B027 - there may be nothing to do
        """Bring the states up to date before they are read: what can fail in that fails here."""

    @abstractmethod
    def states(self) -> dict[str, Tensor]:
        """All that it holds, each tensor whole and readable by itself."""

    @abstractmethod
    def load(self, states: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`states`, which are copied."""

    @abstractmethod
    def sums(self) -> list[Tensor]:
        """Round one: what adds up over the ranks as it is."""

    def rest(self) -> list[Tensor]:
        """What adds up only around common sums, as this rank has it."""
        return []

    def around(self, sums: list[Tensor]) -> list[Tensor]:
        """Round two: :meth:`rest`, around the sums of all ranks."""
        return self.rest()

    @abstractmethod
    def merged(
        self, sums: list[Tensor], rest: list[Tensor], classifier: LinearClassifier | None = None
    ) -> Evidence:
        """What all ranks have accumulated; the sample stays each rank's own."""

    def value(self, classifier: LinearClassifier | None = None) -> Evidence:
        """What this rank has accumulated; later rows do not change it."""
        sums = self.sums()
        return self.merged(sums, self.around(sums), classifier)

    def own(self) -> Evidence:
        """What can be counted over: this rank's rows, for use at once."""
        return self.value()


@contextmanager
def own_mode(device: torch.device) -> Iterator[None]:
    """Neither gradients, nor autocast, nor inference mode, in which states could not be changed."""
    autocast = torch.autocast(device_type=device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), autocast:
        yield


def wrong_number(features: Tensor, target: Tensor, shape: torch.Size) -> ValueError:
    """What is raised where there is not one label for each row; they have this shape."""
    mixed = target.is_floating_point() or not target.numel() or int(target.max()) <= 1
    count = shape.numel()
    if target.ndim == 2 and len(target) == len(features) and mixed:
        likely = (
            "These look like one-hot or soft labels (mixup?): pass hard labels, in the callback by a "
            "`target` function. Tags of which a row may have several are task='multilabel', numbers "
            "to be predicted task='regression'."
        )
    else:
        likely = (
            "Do they come from the same forward, in one piece, or does the batch hold several views? "
            "In the callback, set forwards to the one that counts ('concat' for chunks of a batch), "
            "and target to a function for its labels."
        )
    if count and len(features) % count == 0 and len(features):
        likely += (
            " Or has each label several positions (tokens, pixels)? Set pool to what makes a row of "
            "them, such as 'last_token' or 'token_mean'."
        )
    if len(features) and count > len(features) and count % len(features) == 0:
        likely += (
            " Or has the network fewer positions than there are labels, as where its output is "
            "enlarged afterwards? Set target to a function that gives the labels at its positions."
        )
    return ValueError(
        f"Expected one label per feature, but got {len(features)} features and labels of shape "
        f"{tuple(target.shape)}. {likely}"
    )
