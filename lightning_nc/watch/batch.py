"""One batch while the network runs on it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Forward:
    """What one forward has left.

    Attributes:
        name: Path of the linear layer.
        features: Its input, as it came in.
        predicted: The network's decision per row.
        layers: Pooled outputs of further modules, by path.
        parameters: A copy of its weight and bias, only where they cannot be read later.
    """

    name: str = ""
    features: Tensor | None = None
    predicted: Tensor | None = None
    layers: dict[str, Tensor] = field(default_factory=dict)
    parameters: tuple[Tensor, Tensor | None] | None = None


@dataclass
class Batch:
    """Opened when a batch begins, closed when it ends, garbage after that.

    Attributes:
        labels: As the data loader gave them.
        weights_move: Whether the optimizer may step before the batch ends.
        copies_weights: Whether the forward copies W where it cannot be read later.
        version: That of the classifier's weight when the batch began.
        forwards: Those that can count, in their order.
        current: The forward that is running.
        num_forwards: How many ran, those that do not count included.
        error: What went wrong in a hook.
        kept: The forward whose W was kept for the stage.
    """

    labels: Tensor
    weights_move: bool = True
    copies_weights: bool = True
    version: int | None = None
    forwards: list[Forward] = field(default_factory=list)
    current: Forward = field(default_factory=Forward)
    num_forwards: int = 0
    error: Exception | None = None
    kept: Forward | None = None

    def __post_init__(self) -> None:
        # by which token-level features are told; a hook in a compiled graph reads no label
        self.label_shape: torch.Size = self.labels.shape
