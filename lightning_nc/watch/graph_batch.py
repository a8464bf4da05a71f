"""The nodes and edges of a batch that holds a graph, or several side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_nc.values.neighborhoods import Neighborhoods
from lightning_nc.watch.mask import is_whole_numbers

_DEEPEST = 3  # a graph in a tuple in a dictionary

NEIGHBORHOOD_MEAN = "neighborhood_mean"
"""The pool that makes of every node the mean over its neighbors."""

GRAPH_POOLS = ("nodes", NEIGHBORHOOD_MEAN, "graph_mean")
"""Every node a row; of every node the mean over its neighbors; of every graph the mean of its nodes."""


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """One graph or several, as far as a batch tells; held from when it is opened.

    Attributes:
        edge_index: From which node to which; None where the batch has none.
        num_graphs: How many graphs there are; None where the batch does not tell.
        of_node: The graph of each node; None of a single one.
        num_nodes: How many nodes there are; None where it is not known.
        num_seeds: Of a sampled neighborhood, the nodes that it was sampled for, which come first.
        has_labels: Whether the labels of the batch are those of nodes.

    Example:
        >>> batch = {"x": torch.zeros(3, 2), "edge_index": torch.tensor([[0, 1], [1, 2]])}
        >>> find_graph(batch, torch.tensor([0, 1, 0])).num_nodes
        3
    """

    edge_index: Tensor | None
    num_graphs: int | None = 1
    of_node: Tensor | None = None
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

        Returns:
            The numbers; None also where the nodes of a graph are not side by side.
        """
        if self.of_node is None:
            return (nodes,)
        if self.of_node.device.type != "cpu" or bool((self.of_node.diff() < 0).any()):
            return None
        return tuple(torch.bincount(self.of_node, minlength=self.num_graphs or 0).tolist())

    @property
    def is_of_single_nodes(self) -> bool:
        """Whether every graph is a node, so that labels are of either."""
        return self.num_nodes == self.num_graphs

    def has_more_nodes(self, rows: int, labels: int) -> bool:
        """Whether so many rows are all nodes, and so many labels one for each graph."""
        return rows == self.num_nodes and labels == self.num_graphs != rows

    def require_mask(self, mask: Any) -> None:
        """Raise a ValueError for row numbers where the nodes of several graphs are side by side.

        Args:
            mask: Which rows count, or None.

        Raises:
            ValueError: If it holds numbers: they may be those in each graph.
        """
        is_numbers = isinstance(mask, Tensor) and mask.dtype != torch.bool and mask.ndim == 1
        if is_numbers and self.has_labels and self.num_graphs != 1:
            raise ValueError(
                f"Expected a boolean mask of the nodes of {self.num_graphs} graphs, but got "
                f"{len(mask)} numbers. Whether they are numbers in the batch, or in each graph, which "
                "begin at 0, cannot be told. Store a boolean mask in each graph."
            )

    def require_edges(self) -> None:
        """Raise a ValueError unless edges are between nodes that there are; waits for the device.

        Raises:
            ValueError: If one goes elsewhere.
        """
        edges = self.edge_index
        if edges is None or self.num_nodes is None:
            return
        outside = int((~self.neighborhoods.inside).sum())
        if outside:
            raise ValueError(
                f"Expected edges between the {self.num_nodes} nodes of the batch, but {outside} of "
                f"{edges.shape[-1]} go to or come from others: edge_index holds "
                f"{int(edges.min())} to {int(edges.max())}. Are nodes left out without their edges, or "
                "are several graphs put together without torch_geometric's Batch?"
            )

    def with_labels(self, labels: int, apart: bool = True, asked: bool = False) -> "GraphBatch":
        """The same, with a word on whether the labels are of nodes, or of graphs: by their number.

        Args:
            labels: How many there are.
            apart: Whether it matters which node is of which graph.
            asked: Whether there is a pool of graphs.

        Returns:
            It. Labels of something else are of rows; where every graph is a node, of graphs, unless a
            pool of graphs is asked for.

        Raises:
            ValueError: If a pool is asked for, there are several graphs, and labels are neither; or it
                is not known where the graphs begin.
        """
        of_nodes = labels in (self.num_nodes, self.num_seeds)
        if self.num_graphs is None and of_nodes and (apart or asked):
            raise ValueError(
                "Expected a batch of graphs with `batch`, the graph of each node, and `ptr` (where "
                "each graph begins, and the end) or `num_graphs`, but got the first alone. Batch them "
                "by torch_geometric.data.Batch.from_data_list, which has all of these."
            )
        graphs = labels if self.num_graphs is None else self.num_graphs
        if of_nodes and (labels != graphs or asked):
            return replace(self, num_graphs=graphs, has_labels=True)
        if labels == graphs or not asked:
            return replace(self, num_graphs=graphs)
        if graphs == 1:
            return replace(self, has_labels=True, num_nodes=self.num_nodes or labels)
        raise ValueError(
            f"Expected a label for each of {self.num_nodes} nodes, or for each of {graphs} graphs, but "
            f"got {labels}. Are they those of some nodes, or of edges? Which node, and so which graph, "
            "they belong to cannot be told: give all nodes a label and set `mask` to those that count, "
            "or batch a single graph at a time."
        )


def find_graph(
    batch: Any, labels: Tensor | None = None, dims: int = 0, asked: bool = False
) -> GraphBatch | None:
    """The graph, or the graphs, in a batch.

    It has an ``edge_index`` (or ``adj_t``) by name, or holds something that has; of several, the one
    with as many nodes as there are labels. In a plain sequence, where a pool of graphs is asked for, it
    is the only item of whole numbers with two rows.

    Args:
        batch: Whatever the data loader yields.
        labels: What was found in it.
        dims: How many dimensions a label has.
        asked: Whether there is a pool of graphs.

    Returns:
        The graphs; None where there is none, or more than one place has one.

    Raises:
        ValueError: If it is not certain which nodes are whose.
    """
    found = [_named_graph(holder) for holder in _holders(batch, _DEEPEST)]
    if len(found) > 1 and labels is not None:
        rows = labels.shape[: labels.ndim - dims].numel()
        found = [graph for graph in found if graph.num_nodes == rows]
    if len(found) == 1:
        return found[0]
    is_plain = isinstance(batch, Sequence) and not isinstance(batch, str)
    if found or labels is None or not (asked and is_plain):
        return None
    return _unnamed_graph(batch, labels, labels.ndim - dims)


def _holders(value: Any, depth: int) -> Iterator[Any]:
    """What has edges: the batch itself, else what it holds."""
    if isinstance(value, Tensor | str) or depth < 0:
        return
    if _is_edges(_stored(value, "edge_index")) or _stored(value, "adj_t") is not None:
        yield value
        return
    inside = value.values() if isinstance(value, Mapping) else value
    for each in inside if isinstance(value, Mapping | list | tuple) else ():
        yield from _holders(each, depth - 1)


def _is_edges(value: Any) -> bool:
    is_matrix = is_whole_numbers(value) and value.layout == torch.strided and value.ndim == 2
    return is_matrix and value.dtype != torch.bool and len(value) == 2


def _stored(value: Any, name: str) -> Any:
    """What is there by name; of a Data, nothing that it would derive."""
    if isinstance(value, Mapping):
        return value[name] if name in value else None  # noqa: SIM401 - not all of them have get
    keys = getattr(value, "keys", None)
    if callable(keys) and not isinstance(value, type) and name not in keys():
        return None
    return getattr(value, name, None)


def _named_graph(batch: Any) -> GraphBatch:
    edges, of_node, ptr = (_stored(batch, name) for name in ("edge_index", "batch", "ptr"))
    edges, nodes = edges if _is_edges(edges) else None, _num_nodes(batch)
    is_list = is_whole_numbers(ptr) and ptr.ndim == 1 and len(ptr) > 1
    told = len(ptr) - 1 if is_list else _stored(batch, "num_graphs")
    told = told if isinstance(told, int) else None
    is_of_nodes = is_whole_numbers(of_node) and of_node.ndim == 1
    if not is_of_nodes or nodes not in (None, len(of_node)):
        seeds = _stored(batch, "batch_size")
        is_sampled = isinstance(seeds, int) and (nodes is None or seeds <= nodes)
        # that it counts these nodes has to be looked at; who batches graphs by hand can wait for it
        if is_list and nodes is not None and [int(ptr[0]), int(ptr[-1])] == [0, nodes]:
            of_node = torch.arange(len(ptr) - 1, device=ptr.device)
            of_node = of_node.repeat_interleave(ptr.diff(), output_size=nodes)
            return GraphBatch(edges, told, None if told == 1 else of_node, nodes)
        return GraphBatch(edges, num_nodes=nodes, num_seeds=seeds if is_sampled else None)
    return GraphBatch(edges, told, None if told == 1 else of_node, len(of_node))


def _num_nodes(batch: Any) -> int | None:
    """Of one graph, by what it has for each node; it is not derived from its edges."""
    stored = _stored(batch, "num_nodes")
    if isinstance(stored, int):
        return stored
    rows = (_stored(batch, name) for name in ("x", "pos"))
    return next((len(each) for each in rows if isinstance(each, Tensor) and each.ndim == 2), None)


def _unnamed_graph(batch: Sequence[Any], labels: Tensor, label_dims: int) -> GraphBatch | None:
    count = len(labels) if label_dims == 1 else 0
    others = [t for t in batch if isinstance(t, Tensor) and t is not labels]
    whole = [t for t in others if is_whole_numbers(t) and t.dtype != torch.bool]
    edges = [t for t in whole if _is_edges(t)]
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
