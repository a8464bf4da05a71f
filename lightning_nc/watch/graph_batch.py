"""The nodes and edges of a batch that holds a graph, or several side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_nc.values.neighborhoods import Neighborhoods
from lightning_nc.watch.mask import is_whole_numbers

NEIGHBORHOOD_MEAN = "neighborhood_mean"
"""The pool that makes of every node the mean over its neighbors."""


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """One graph or several, as far as a batch tells; held from when it is opened.

    Attributes:
        edge_index: From which node to which; None where the batch has none.
        num_graphs: How many graphs there are.
        of_node: The graph of each node; None of a single one.
        ptr: Where the nodes of each begin, and the end.
        num_nodes: How many nodes there are; None where it is not known.
        num_seeds: Of a sampled neighborhood, the nodes that it was sampled for, which come first.
        has_labels: Whether the labels of the batch are those of nodes.

    Example:
        >>> batch = {"x": torch.zeros(3, 2), "edge_index": torch.tensor([[0, 1], [1, 2]])}
        >>> find_graph(batch, torch.tensor([0, 1, 0])).num_nodes
        3
    """

    edge_index: Tensor | None
    num_graphs: int = 1
    of_node: Tensor | None = None
    ptr: Tensor | None = None
    num_nodes: int | None = None
    num_seeds: int | None = None
    has_labels: bool = False

    @cached_property
    def neighborhoods(self) -> Neighborhoods:
        """Which nodes have an edge to a node."""
        assert self.edge_index is not None
        assert self.num_nodes is not None
        return Neighborhoods(self.edge_index.detach(), self.num_nodes)

    def sizes(self, nodes: int) -> tuple[int, ...] | None:
        """The nodes of each graph, unless a device would have to be waited for.

        Args:
            nodes: How many there are.
        """
        if self.num_graphs == 1:
            return (nodes,)
        if self.ptr is None or self.ptr.device.type != "cpu":
            return None
        return tuple(self.ptr.diff().tolist())

    def has_more_nodes(self, rows: int, labels: int) -> bool:
        """Whether so many rows are all nodes, and so many labels one for each graph."""
        return rows == self.num_nodes and labels == self.num_graphs != rows

    def require_mask(self, mask: Any) -> None:
        """Raise a ValueError for row numbers where several graphs are side by side.

        Args:
            mask: Which rows count, or None.

        Raises:
            ValueError: If it holds numbers: they may be those in each graph.
        """
        is_numbers = isinstance(mask, Tensor) and mask.dtype != torch.bool and mask.ndim == 1
        if is_numbers and self.num_graphs > 1:
            raise ValueError(
                f"Expected a boolean mask of the nodes of {self.num_graphs} graphs, but got "
                f"{len(mask)} numbers. Those of each graph begin at 0, so that together they name "
                "other nodes. Store a boolean mask in each graph."
            )

    def require_edges(self, are_needed: bool) -> None:
        """Raise a ValueError unless edges are between nodes that there are; waits for the device.

        Args:
            are_needed: Whether there have to be some.

        Raises:
            ValueError: If there is none, or one goes elsewhere.
        """
        edges = self.edge_index
        if edges is None or self.num_nodes is None:
            return
        if are_needed and not edges.shape[-1]:
            raise ValueError(
                "Expected a graph with edges, but its edge_index is empty. Was it lost in a transform, "
                "or are the first graphs single nodes? A neighborhood mean needs edges."
            )
        outside = int((~self.neighborhoods.inside).sum())
        if outside:
            raise ValueError(
                f"Expected edges between the {self.num_nodes} nodes of the batch, but {outside} of "
                f"{edges.shape[-1]} go to or come from others: edge_index holds "
                f"{int(edges.min())} to {int(edges.max())}. Are nodes left out without their edges, or "
                "are several graphs put together without torch_geometric's Batch?"
            )

    def with_labels(self, labels: int, tells_graphs_apart: bool = True) -> "GraphBatch":
        """The same, with a word on whether the labels are of nodes, or of graphs: by their number.

        Args:
            labels: How many there are.
            tells_graphs_apart: Whether it matters which node is of which graph.

        Returns:
            It; where both are as many, every graph is a node.

        Raises:
            ValueError: If that matters, there are several graphs, and labels are neither.
        """
        if labels == self.num_graphs:
            return self
        of_nodes = labels in (self.num_nodes, self.num_seeds)
        if of_nodes or self.num_graphs == 1 or not tells_graphs_apart:
            nodes = labels if self.num_nodes is None else self.num_nodes
            return replace(self, has_labels=True, num_nodes=nodes)
        raise ValueError(
            f"Expected a label for each of {self.num_nodes} nodes, or for each of {self.num_graphs} "
            f"graphs, but got {labels}. Are they those of some nodes, or of edges? Which node, and so "
            "which graph, they belong to cannot be told: give all nodes a label and set `mask` to "
            "those that count, or batch a single graph at a time."
        )


def find_graph(batch: Any, labels: Tensor | None = None, dims: int = 0) -> GraphBatch | None:
    """The graph, or the graphs, in a batch.

    It has an ``edge_index`` (or ``adj_t``) by name, or holds something that has. In a plain sequence it
    is the only item of whole numbers with two rows, where there are more labels than that and a row of
    features for each.

    Args:
        batch: Whatever the data loader yields.
        labels: What was found in it.
        dims: How many dimensions a label has.

    Returns:
        The graphs; None where there is none, or more than one place has one.

    Raises:
        ValueError: If there are several graphs, and it is not certain which nodes are whose.
    """
    holders = [each for each in _parts(batch) if _has_edges(each)]
    if len(holders) == 1:
        return _named_graph(holders[0])
    if holders or labels is None or not _is_plain_sequence(batch):
        return None
    return _unnamed_graph(batch, labels, labels.ndim - dims)


def _parts(batch: Any) -> Iterator[Any]:
    """The batch itself, where it has edges, else what it holds."""
    if _has_edges(batch):
        yield batch
    elif isinstance(batch, Mapping):
        yield from batch.values()
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        yield from batch


def _has_edges(value: Any) -> bool:
    return not isinstance(value, Tensor) and any(
        _item(value, name) is not None for name in ("edge_index", "adj_t")
    )


def _item(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _named_graph(batch: Any) -> GraphBatch:
    edges, of_node, ptr = (_item(batch, name) for name in ("edge_index", "batch", "ptr"))
    edges = edges if isinstance(edges, Tensor) else None
    of_node = of_node if isinstance(of_node, Tensor) and of_node.ndim == 1 else None
    if of_node is None and not isinstance(ptr, Tensor):
        nodes, seeds = _num_nodes(batch), _item(batch, "batch_size")
        is_sampled = isinstance(seeds, int) and (nodes is None or seeds <= nodes)
        return GraphBatch(edges, num_nodes=nodes, num_seeds=seeds if is_sampled else None)
    told = len(ptr) - 1 if isinstance(ptr, Tensor) else _item(batch, "num_graphs")
    if of_node is None or not isinstance(told, int):
        raise ValueError(
            "Expected a batch of graphs with `batch`, the graph of each node, and `ptr` (where each "
            "graph begins, and the end) or `num_graphs`, but got only one of them. Batch them with "
            "torch_geometric.data.Batch.from_data_list, which has all of these."
        )
    ptr = ptr if isinstance(ptr, Tensor) else None
    return GraphBatch(edges, told, of_node if told > 1 else None, ptr, len(of_node))


def _num_nodes(batch: Any) -> int | None:
    """Of one graph, by what it has for each node; what is not stored is not derived from its edges."""
    keys = getattr(batch, "keys", None)
    is_stored = "num_nodes" in keys() if callable(keys) else True
    stored = _item(batch, "num_nodes") if is_stored else None
    if isinstance(stored, int):
        return stored
    rows = (_item(batch, name) for name in ("x", "pos"))
    return next((len(each) for each in rows if isinstance(each, Tensor) and each.ndim), None)


def _is_plain_sequence(batch: Any) -> bool:
    return isinstance(batch, Sequence) and not isinstance(batch, str)


def _unnamed_graph(batch: Sequence[Any], labels: Tensor, label_dims: int) -> GraphBatch | None:
    count = len(labels) if label_dims == 1 else 0
    others = [t for t in batch if isinstance(t, Tensor) and t is not labels]
    whole = [t for t in others if is_whole_numbers(t) and t.dtype != torch.bool]
    edges = [t for t in whole if t.ndim == 2 and len(t) == 2]
    has_features = any(t.is_floating_point() and t.ndim == 2 and len(t) == count for t in others)
    if len(edges) != 1 or count <= 2 or not has_features:
        return None
    if any(t.ndim == 1 and len(t) == count for t in whole):
        raise ValueError(
            f"Expected to be certain of which graph each node is, but the batch, a "
            f"{type(batch).__name__} with edges, holds further whole numbers for each of {count} "
            "nodes. Give it as a torch_geometric Data or Batch, a dict or a named tuple, where what "
            "is `batch` and `ptr` is called so."
        )
    return GraphBatch(edges[0], num_nodes=count)
