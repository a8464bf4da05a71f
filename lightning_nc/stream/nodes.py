"""The nodes of graphs, batch by batch, which wait until there are enough to be worked on as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_nc.values.neighborhoods import Neighborhoods


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of a batch of graphs.

    Attributes:
        target: Labels.
        rows: Features by module.
        near: Features by module of which the means over a node's neighbors are measured.
        graphs: How many graphs there are.
        of_row: The graph of each node.
        edges: Where they are known: from where to where, negative where a node is not there.
        predicted: The network's decisions, negative where unknown; None: all of them are.
        weights: The W that features enter, by module, where it is known.
        sizes: The nodes of each graph; None where only the device knows.
    """

    target: Shaped[Tensor, " n"]
    rows: Mapping[str, Float[Tensor, "n _"]]
    near: Mapping[str, Float[Tensor, "n _"]]
    graphs: int
    of_row: Int[Tensor, " n"]
    edges: Int[Tensor, "2 E"] | None = None
    predicted: Int[Tensor, " n"] | None = None
    weights: Mapping[str, Float[Tensor, "out in"]] = field(default_factory=dict)
    sizes: tuple[int, ...] | None = None

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The features, each once: some modules have both, of the same tensor."""
        return list({id(h): h for h in (*self.rows.values(), *self.near.values())}.values())

    @property
    def kind(self) -> tuple[Any, ...]:
        """What batches have in common that are worked on as one."""
        at = {id(h): place for place, h in enumerate(self.tensors)}
        named = [(n, h) for part in (self.rows, self.near) for n, h in part.items()]
        alike = [(name, h.shape[1], h.dtype, at[id(h)]) for name, h in named]
        known = self.edges is None, self.predicted is None, self.sizes is None, self.target.dtype
        return *known, tuple(self.weights), *alike


def known_edges(edge_index: Int[Tensor, "2 E"], num_nodes: int) -> Int[Tensor, "2 E"]:
    """Edges in memory of their own, negative where one goes to or comes from no node.

    Example:
        >>> known_edges(torch.tensor([[0, 1], [1, 7]]), num_nodes=2).tolist()
        [[0, -1], [1, -1]]
    """
    if edge_index.device.type == "cpu" and edge_index.numel():  # nothing to wait for
        least, most = (int(each) for each in edge_index.aminmax())
        if least >= 0 and most < num_nodes:
            return edge_index.clone()
    return torch.where(Neighborhoods(edge_index, num_nodes).inside, edge_index, -1)


@dataclass(frozen=True, eq=False)
class Together:
    """Several batches as one, whose nodes and graphs are numbered through.

    Attributes:
        nodes: All of them; their features stay in the batches.
        batches: At least one, of a kind.
        rows_of: Which nodes are of each batch.
        graphs_of: Which graphs are.
    """

    nodes: Nodes
    batches: Sequence[Nodes]
    rows_of: Sequence[slice]
    graphs_of: Sequence[slice]

    @classmethod
    def of(cls, batches: Sequence[Nodes]) -> "Together":
        """Put batches together.

        Example:
            >>> two = torch.tensor([0, 1])
            >>> one = Nodes(two, {}, {}, 1, torch.zeros_like(two), edges=two[:, None])
            >>> both = Together.of([one, one])
            >>> both.nodes.edges.tolist(), both.nodes.of_row.tolist(), both.rows_of[1]
            ([[0, 2], [1, 3]], [0, 0, 1, 1], slice(2, 4, None))
        """
        rows_of = _slices([len(b.target) for b in batches])
        graphs_of = _slices([b.graphs for b in batches])
        first, sizes = batches[0], [b.sizes for b in batches]
        edges = [
            torch.where(b.edges < 0, b.edges, b.edges + at.start)
            for b, at in zip(batches, rows_of, strict=True)
            if b.edges is not None
        ]
        of_row = [b.of_row + at.start for b, at in zip(batches, graphs_of, strict=True)]
        decided = [b.predicted for b in batches if b.predicted is not None]
        whole = replace(
            first,
            rows={},
            near={},
            target=torch.cat([b.target for b in batches]),
            graphs=graphs_of[-1].stop,
            of_row=torch.cat(of_row),
            edges=torch.cat(edges, 1) if edges else None,
            predicted=torch.cat(decided) if decided else None,
            sizes=None if None in sizes else tuple(n for each in sizes for n in each or ()),
        )
        return cls(whole, batches, rows_of, graphs_of)


def _slices(lengths: Sequence[int]) -> list[slice]:
    stops = accumulate(lengths)
    return [slice(stop - length, stop) for length, stop in zip(lengths, stops, strict=True)]
