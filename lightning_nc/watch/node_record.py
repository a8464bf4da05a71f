"""What a recorder keeps where the rows are the nodes of graphs."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lightning_nc.stream.graph_totals import GraphTotals
from lightning_nc.stream.nodes import Nodes, known_edges
from lightning_nc.tasks.graph_notices import about_edges
from lightning_nc.values.evidence import Evidence
from lightning_nc.values.graphs import GraphEvidence
from lightning_nc.values.recorded import HEAD
from lightning_nc.watch.graph_batch import GraphBatch
from lightning_nc.watch.mask import masked


class NodeRecord:
    """The graphs of one stage, and what was missing in them.

    Args:
        near: Layers of which the means over a node's neighbors are measured.
        ignored: The label of rows that do not count.

    Example:
        >>> NodeRecord(frozenset(), ignored=-100).are_of_several
        False
    """

    def __init__(self, near: frozenset[str], ignored: int | float | None) -> None:
        self._near, self._ignored = near, ignored
        self.totals: GraphTotals | None = None
        self.has_several: bool | None = None  # by the first stage that ended
        self._num_graphs = 0
        self._kinds: set[tuple[int, ...]] = set()  # how many graphs, nodes and edges batches have
        self._missing: Tensor | None = None  # isolated nodes, and edges to nodes that are not there

    def reset(self) -> None:
        """Forget the stage."""
        if self.totals is not None:
            self.totals.reset()
        self._missing, self._num_graphs = None, 0
        self._kinds.clear()

    @property
    def are_of_several(self) -> bool:
        """Whether each graph has statistics of its own: keys that were logged once stay."""
        begun = self.totals is not None and self.totals.num_graphs > 1
        return begun if self.has_several is None else self.has_several

    def decide(self, evidence: Evidence | None) -> None:
        """What the first stage that ended has held is what the later ones hold.

        Args:
            evidence: Of all ranks, so that they decide alike.
        """
        if self.has_several is None and evidence is not None and evidence.num_samples:
            self.has_several = isinstance(evidence, GraphEvidence)

    def nodes_of(self, graph: GraphBatch | None) -> GraphBatch | None:
        """The graphs of whose nodes the labels of a batch are.

        Args:
            graph: The graphs of the batch. Where each is a single node, labels are of what they were of
                before.

        Returns:
            They; None where labels are of something else.
        """
        if graph is None or graph.has_labels:
            return graph
        is_more = self._num_graphs > 0 and graph.is_of_single_nodes
        return replace(graph, has_labels=True) if is_more else None

    def with_means(self, parts: Mapping[str, Tensor], nodes: GraphBatch | None) -> dict[str, Tensor]:
        """Rows by module, of which some are the means over neighbors.

        Args:
            parts: Rows by module.
            nodes: The graphs of whose nodes they are.

        Returns:
            The rows; the means of all modules taken at once.

        Raises:
            ValueError: If means are asked for, and labels are not those of the nodes.
        """
        near = [name for name in parts if name in self._near]
        if not near:
            return dict(parts)
        if nodes is None or len(nodes.neighborhoods.degrees) != len(parts[near[0]]):
            raise ValueError(
                f"Layer {near[0]!r}: Expected labels of nodes with pool 'neighborhood_mean', but the "
                "batch has one for each graph. Leave this pool out."
            )
        together = torch.cat([parts[name] for name in near], 1)
        means = nodes.neighborhoods.mean(together).split([parts[n].shape[1] for n in near], 1)
        return {**parts, **dict(zip(near, means, strict=True))}

    def rows_and_labels(
        self, name: str, h: Tensor, target: Tensor, nodes: GraphBatch | None
    ) -> tuple[Tensor, Tensor]:
        """Rows and labels of a module: of the seeds of a sample alone, less isolated nodes.

        Args:
            name: The module.
            h: Its rows.
            target: Labels of the batch.
            nodes: The graphs of whose nodes they are.

        Returns:
            The same, or those that count.

        Raises:
            ValueError: If there is no label for isolated nodes.
        """
        if nodes is None:
            return h, target
        if nodes.num_seeds is not None and nodes.num_seeds in (len(h), len(target)):
            return h[: nodes.num_seeds], target[: nodes.num_seeds]
        if name not in self._near:
            return h, target
        if self._ignored is None:
            raise ValueError(
                "Expected an ignore_index with pool 'neighborhood_mean', for nodes without neighbors, "
                "but got None. Set it to a number that is no label, such as -100."
            )
        mask, dims = nodes.neighborhoods.has_neighbors, target.ndim - 1
        return h, masked(target, mask, self._ignored, looks=False, dims=dims)

    def add(
        self,
        nodes: GraphBatch,
        target: Tensor,
        parts: Mapping[str, Tensor],
        predicted: Tensor | None,
        weights: Mapping[str, Tensor],
        blank: Callable[[], GraphTotals | None],
    ) -> None:
        """Add the graphs of a batch to those of the stage, where the task tells them apart.

        Args:
            nodes: Its graphs.
            target: Labels of the batch.
            parts: Rows by module, the classifier's features first.
            predicted: The network's decisions.
            weights: What features enter, by module.
            blank: Makes sums over graphs, where the task has any.
        """
        graphs, edges = nodes.num_graphs or 0, nodes.edge_index
        self._num_graphs += graphs
        self._kinds.add((graphs, target.numel(), 0 if edges is None else edges.shape[-1]))
        self.totals = self.totals or blank()
        if self.totals is None or self.has_several is False:
            return
        count, of_row = target.numel(), nodes.of_node
        edges = edges if nodes.num_nodes == count else None
        head = next(iter(parts))  # of which autograd, or the network itself, may have the memory
        rows = {**parts, head: parts[head].clone()}
        y = target.detach().reshape(-1).clone()  # it waits for others, and is the loader's
        self.totals.add(
            Nodes(
                y,
                {name: h for name, h in rows.items() if name not in self._near},
                {name: h for name, h in rows.items() if name in self._near},
                nodes.num_graphs or 0,
                torch.zeros_like(y, dtype=torch.int64) if of_row is None else of_row.clone(),
                None if edges is None else known_edges(edges.detach(), count),
                predicted if predicted is not None and len(predicted) == count else None,
                {name: weight.clone() for name, weight in weights.items()},
                nodes.sizes(count),
            )
        )

    def notices(self) -> dict[tuple[str, str], str]:
        """What was missing in a single graph, by kind and module; waits for the device."""
        if self.are_of_several:
            return {}
        texts = {} if self._missing is None else about_edges(*self._missing.tolist())
        said = {(kind, name): text for name in sorted(self._near) for kind, text in texts.items()}
        # the same one several times, in a window of steps, is no news
        differ = len(self._kinds) > 1 or any(graphs > 1 for graphs, *_ in self._kinds)
        if self.has_several is False and self._num_graphs > 1 and differ:
            said["graphs later", HEAD] = (
                f"This stage began with a single graph, and now has {self._num_graphs:,}: its keys "
                "stay, of the nodes of all of them pooled. If they are different graphs, measure each "
                "by itself, or give all of them from the first epoch on."
            )
        return said

    def note(self, nodes: GraphBatch | None) -> None:
        """Count nodes without neighbors, and edges that go elsewhere."""
        if self._near and nodes is not None:
            near = nodes.neighborhoods
            self._missing = near.missing if self._missing is None else self._missing + near.missing


def rows_of_nodes(h: Tensor, target: Tensor) -> Tensor:
    """The rows of a module, after a check that there is one for each label.

    Args:
        h: Rows of a module.
        target: Labels of the batch.

    Returns:
        The same.

    Raises:
        ValueError: If there is not.
    """
    if h.ndim != 2 or len(h) != target.numel():
        raise ValueError(
            f"Expected a row for each of {target.numel()} labels of nodes, but got {tuple(h.shape)}. "
            "Does the network leave nodes out, or pool them? Set `target` and `mask` to what fits, or "
            "leave the layer out."
        )
    return h
