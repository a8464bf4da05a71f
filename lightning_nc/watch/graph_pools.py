"""How what a layer puts out for the nodes of a graph becomes rows."""

from typing import Any

import torch
from torch import Tensor

from lightning_nc.watch.graph_batch import GRAPH_POOLS as GRAPH_POOLS
from lightning_nc.watch.graph_batch import NEIGHBORHOOD_MEAN, GraphBatch
from lightning_nc.watch.paths import Layer

OF_NODES = ("nodes", NEIGHBORHOOD_MEAN)
"""The pools that begin with the rows of the nodes."""


def of_graph(
    layer: Layer, x: Tensor, graph: GraphBatch | None, batch: Any, nodes: Tensor | None = None
) -> Tensor:
    """Rows of a pool of graphs, in memory of their own.

    Args:
        layer: The place in the network, and its pool.
        x: What was seen there.
        graph: The graph, or the graphs, in the batch.
        batch: What the data loader gave, for messages.
        nodes: A copy of it as rows of nodes, if there is one.

    Returns:
        One row for each node, or for each graph. For the mean over neighbors those of the nodes: the
        means of all layers together take a fraction of the time, once the forward is over.

    Raises:
        ValueError: If the batch holds no graph, or these are not its nodes.

    Example:
        >>> layer, graph = Layer("conv", "conv", "graph_mean"), GraphBatch(None, num_nodes=2)
        >>> of_graph(layer, torch.tensor([[1.0], [3.0]]), graph, None)
        tensor([[2.]])
    """
    if graph is None:
        raise _no_graph(layer, f"a {type(batch).__name__} without (or with more than one)")
    if x.ndim != 2 or graph.num_nodes not in (None, len(x)):
        raise ValueError(
            f"Expected a row for each of {graph.num_nodes} nodes from layer {layer.given!r} with pool "
            f"{layer.pool!r}, but it has shape {tuple(x.shape)}. Does it put out edges, graphs or "
            "other nodes than the batch has, or one head after another? Set its pool to the dotted "
            "path of a function of (x, batch)."
        )
    if layer.pool == NEIGHBORHOOD_MEAN:
        _require_neighbors(layer, graph, batch)
    if layer.pool in OF_NODES:
        return x.clone() if nodes is None else nodes
    of_node = x.new_zeros(len(x), dtype=torch.int64) if graph.of_node is None else graph.of_node
    rows = torch.promote_types(x.dtype, torch.float32)  # a half counts to 256, or to 2,048
    sums = x.new_zeros(graph.num_graphs or 0, x.shape[1], dtype=rows).index_add_(0, of_node, x.to(rows))
    counts = of_node.new_zeros(len(sums)).index_add_(0, of_node, torch.ones_like(of_node))
    return sums / counts.clamp(min=1)[:, None]


def _require_neighbors(layer: Layer, graph: GraphBatch, batch: Any) -> None:
    if graph.edge_index is None:
        raise _no_graph(layer, f"a {type(batch).__name__} with adj_t in its place (ToSparseTensor)")
    if graph.num_seeds is not None:
        raise ValueError(
            f"Expected whole neighborhoods for layer {layer.given!r} with pool {layer.pool!r}, but the "
            f"batch is a sample around {graph.num_seeds} nodes (batch_size), where neighbors are "
            "missing. Leave this pool out, or measure a loader that gives whole graphs."
        )
    if graph.num_nodes is None:
        raise ValueError(
            f"Expected to know how many nodes the batch has for layer {layer.given!r} with pool "
            f"{layer.pool!r}, but there is none of `x`, `pos` and `num_nodes` in it. Set num_nodes."
        )


def _no_graph(layer: Layer, got: str) -> ValueError:
    return ValueError(
        f"Expected a graph in the batch for layer {layer.given!r} with pool {layer.pool!r}, an "
        f"`edge_index` of whole numbers (2, E) as attribute, key or field, but got {got}. Name what "
        "the loader gives so."
    )
