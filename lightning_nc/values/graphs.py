"""What the nodes of each of several graphs leave, and averages over the graphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.values.evidence import Evidence
from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.sample import Tallies


@dataclass(frozen=True, eq=False)
class GraphMoments:
    r"""Of each of G graphs what its formulas need, around the class means of that graph.

    With h a node's feature, :math:`\mu_c` the mean of a class in the graph, :math:`\mu_G` the
    unweighted mean of those of the classes that the graph has, :math:`m_c = \mu_c - \mu_G` (0 of a
    class that it lacks), and :math:`x = h - \mu_{y}`.

    Attributes:
        counts: Nodes of each class.
        within: :math:`\sum |x|^2`.
        gram: :math:`m_c^\top m_{c'}`.
        projected: :math:`\sum (m_c^\top x)(m_{c'}^\top x)`.
        signal: :math:`\sum |W \mu_y|^2`; NaN where W is not known.
        noise: :math:`\sum |W x|^2`, likewise.

    Example:
        >>> none = GraphMoments.empty(num_classes=3)
        >>> len(GraphMoments.cat([none, none])), none.gram.shape
        (0, torch.Size([0, 3, 3]))
    """

    counts: Int[Tensor, "G C"]
    within: Float[Tensor, " G"]
    gram: Float[Tensor, "G C C"]
    projected: Float[Tensor, "G C C"]
    signal: Float[Tensor, " G"]
    noise: Float[Tensor, " G"]

    @classmethod
    def empty(cls, num_classes: int, device: torch.device | str = "cpu") -> "GraphMoments":
        """Of no graph."""
        counts = torch.zeros(0, num_classes, dtype=torch.int64, device=device)
        real = torch.zeros(0, dtype=accumulator_dtype(device), device=device)
        table = real.new_zeros(0, num_classes, num_classes)
        return cls(counts, real, table, table, real, real)

    @classmethod
    def cat(cls, parts: "Sequence[GraphMoments]") -> "GraphMoments":
        """Of the graphs of all parts, of which there is one at least."""
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def num_bytes(self) -> int:
        """That it takes."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))


QUANTITIES = (
    "within_between_ratio_log10",
    "within_between_pinv_log10",
    "snr",
    "overlap",
    "condition_gap",
)
"""What is averaged over graphs, in the order of :attr:`GraphAverages.sums`."""


@dataclass(frozen=True, eq=False)
class GraphAverages:
    r"""Sums over graphs, from which averages with their standard errors are told.

    Attributes:
        sums: Of each of :data:`QUANTITIES`: how many graphs have it, the sum, and the sum of squares.

    Example:
        >>> averages = GraphAverages(torch.tensor([[2.0, 4.0, 10.0]] * 5))
        >>> averages.count("snr"), averages.mean("snr"), averages.standard_error("snr")
        (tensor(2), tensor(2.), tensor(1.))
    """

    sums: Float[Tensor, "q 3"]

    def count(self, quantity: str) -> Int[Tensor, ""]:
        """How many graphs have it: G."""
        return self._of(quantity)[0].round().long()

    def mean(self, quantity: str) -> Float[Tensor, ""]:
        """The average over graphs; NaN where none has it."""
        count, total, _ = self._of(quantity)
        return total / count

    def standard_error(self, quantity: str) -> Float[Tensor, ""]:
        r"""Of that average: :math:`\sqrt{s^2 / G}` with :math:`s^2` the variance by :math:`G - 1`."""
        count, total, squares = self._of(quantity)
        scatter = (squares - total.square() / count).clamp(min=0)
        return (scatter / (count * (count - 1))).sqrt()

    def _of(self, quantity: str) -> Float[Tensor, " 3"]:
        return self.sums[QUANTITIES.index(quantity)]


@dataclass(frozen=True, eq=False)
class GraphEvidence(Evidence):
    """What a stage of several graphs leaves, whose nodes have labels.

    Attributes:
        graphs: Averages over the graphs.
        num_graphs: How many there were; of a layer, in which it has run.
        class_counts: Nodes of each class in all of them.
        incomplete: Graphs that lack a class.
        single: Graphs with fewer than two classes, of which nothing can be told.
        isolated: Nodes without a neighbor.
        strays: Edges that go to or come from no node.
        tallies: Counts of rows; None of a layer, of which they are told elsewhere.
    """

    graphs: GraphAverages
    num_graphs: int
    class_counts: Int[Tensor, " C"]
    incomplete: int = 0
    single: int = 0
    isolated: int = 0
    strays: int = 0
    tallies: Tallies | None = None
    occasions: frozenset[str] = field(default=frozenset({"graphs"}), kw_only=True)
    parts: ClassVar[tuple[str, ...]] = ("graphs", "references", "penalties")

    @property
    def num_samples(self) -> int:
        """Nodes that count."""
        return int(self.class_counts.sum())

    @property
    def size(self) -> str:
        """Graphs and classes."""
        return f"{self.num_graphs:,} graphs, {len(self.class_counts):,} classes"

    @property
    def lost(self) -> Mapping[str, int]:
        """How many rows were left out for what."""
        return {} if self.tallies is None else self.tallies.lost()

    @property
    def rows_by_kind(self) -> Int[Tensor, " C"]:
        """Nodes of each class."""
        return self.class_counts

    @property
    def zero(self) -> Float[Tensor, ""]:
        """A zero with the dtype and the device of the sums."""
        return self.graphs.sums.new_zeros(())

    def to(self, device: torch.device | str) -> "GraphEvidence":
        """The same on another device, less the stages that it refers to."""
        return replace(
            self, graphs=GraphAverages(self.graphs.sums.to(device)),
            class_counts=self.class_counts.to(device), references={},
            tallies=self.tallies and Tallies(*torch.stack(self.tallies).to(device)),
        )  # fmt: skip
