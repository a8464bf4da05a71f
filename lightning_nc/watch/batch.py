"""One batch while the network runs on it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_nc.stream.kept_classifier import KeptClassifier
from lightning_nc.watch.graph import HardLabels, LastMaps, VectorLabels
from lightning_nc.watch.graph_batch import GraphBatch
from lightning_nc.watch.rows import Rows


@dataclass
class Forward:
    """What one forward has left.

    Attributes:
        name: Path of the classifier, or of the module whose output is the feature.
        features: The classifier's input, or that output, with the features last.
        predicted: The network's decision per row.
        layers: Pooled outputs of further modules, by their names.
        carried: Those of the layers that ran before an earlier forward of the batch, and not since.
        parameters: A copy of its weight and bias, where they are not kept for the stage at once.
        output: What it has put out, until that is looked into.
        shape: Of its output.
        shown: The first rows of its output.
        rounds: The type in which its output was computed, coarser under autocast than its own.
        product: The node of autograd's graph that its output comes from.
        leading: The leading dimensions of its input, also where that was flattened before.
    """

    name: str = ""
    features: Tensor | None = None
    predicted: Tensor | None = None
    layers: dict[str, Tensor] = field(default_factory=dict)
    carried: frozenset[str] = frozenset()
    parameters: tuple[Tensor, Tensor | None] | None = None
    output: Tensor | None = None
    shape: tuple[int, ...] = ()
    shown: Tensor | None = None
    rounds: torch.dtype | None = None
    product: Any = None
    leading: tuple[int, ...] = ()


@dataclass
class Batch:
    """Opened when a batch begins, closed when it ends, garbage after that.

    Attributes:
        labels: As the data loader gave them, less those that a mask leaves out.
        source: What the data loader has yielded.
        keeps: Where W is copied in a forward; None: it is known already.
        wanted: The layers of which the weight is copied that their input meets.
        weights: These copies, by layer.
        rows: How many rows the classifier may have, where which layer it is has still to be found.
        is_trained: Whether a backward may follow, which keeps what it needs.
        is_first: Whether training has not begun: what is seen once is looked at.
        losses: What the losses of the batch apply last, in either case.
        hard_labels: The labels of their cross-entropies.
        vector_labels: Those of their losses of entries.
        version: That of the classifier's weight when the batch began.
        forwards: Those that can count, in their order.
        current: The forward that is running.
        num_forwards: How many ran, those that do not count included.
        before: The layers that ran before the classifier did; None: it has not run yet.
        repeated: Layers that ran several times before the classifier did.
        error: What went wrong in a hook.
        label_dims: How many dimensions a label has.
        graph: The graph, or the graphs, that it holds.
    """

    labels: Tensor
    source: Any = None
    keeps: KeptClassifier | None = None
    wanted: frozenset[str] = frozenset()
    weights: dict[str, Tensor] = field(default_factory=dict)
    rows: Rows | None = None
    is_trained: bool = True
    is_first: bool = False
    losses: list[LastMaps] = field(default_factory=list)
    hard_labels: list[HardLabels] = field(default_factory=list)
    vector_labels: list[VectorLabels] = field(default_factory=list)
    version: int | None = None
    forwards: list[Forward] = field(default_factory=list)
    current: Forward = field(default_factory=Forward)
    num_forwards: int = 0
    before: frozenset[str] | None = None
    repeated: set[str] = field(default_factory=set)
    error: Exception | None = None
    label_dims: int = 0
    graph: GraphBatch | None = None

    def __post_init__(self) -> None:
        # by which token-level features are told; a hook in a compiled graph reads no label
        self.label_shape = self.labels.shape[: self.labels.ndim - self.label_dims]
