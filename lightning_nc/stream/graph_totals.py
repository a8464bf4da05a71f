"""What the graphs of a stage come to: sums over graphs of what each of them gives."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.stream.accumulator import Labels, own_mode
from lightning_nc.stream.memory import entries_at_once, shared_scratch
from lightning_nc.stream.node_moments import Around, Places, node_moments
from lightning_nc.stream.nodes import Nodes, Together
from lightning_nc.values.graphs import QUANTITIES, GraphAverages, GraphEvidence, GraphMoments
from lightning_nc.values.neighborhoods import Neighborhoods
from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.sample import Tallies

_PIECES = 8  # of what is worked on at once: more batches, rows by module copied twice, were no faster
_MOST_BYTES = 2**26  # of moments that wait; then they become sums, for which the device is waited for


class Formulas(NamedTuple):
    """From what graphs leave to a value of each, NaN where it has none.

    Attributes:
        of_features: Moments to the first three of
            :data:`~lightning_nc.values.graphs.QUANTITIES`.
        of_decisions: Tables of classes against decisions to the overlap.
        of_neighbors: Variances of the shares of neighbors to the gap.
    """

    of_features: Callable[[GraphMoments], Float[Tensor, "3 G"]]
    of_decisions: Callable[[Int[Tensor, "G C C"]], Float[Tensor, " G"]]
    of_neighbors: Callable[[Float[Tensor, "G C C"]], Float[Tensor, " G"]]


class GraphTotals:
    """Sums over the graphs of a stage, for each measured module; each graph counts once.

    Moments wait for the end of the stage, where they are decomposed.

    Args:
        num_classes: C.
        modules: Their names, the classifier's features first.
        labels: What a label means.
        formulas: From what graphs leave to values.
        min_count: A class of fewer nodes is left out of its graph.
        device: Where everything is.
    """

    size_names: ClassVar[tuple[str, ...]] = ("classes", "modules")
    once: ClassVar[bool] = False

    def __init__(
        self,
        num_classes: int,
        modules: Sequence[str],
        labels: Labels,
        formulas: Formulas,
        min_count: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.empty(0, device=device).device
        self.num_graphs = 0
        self._classes, self._modules, self._labels = num_classes, tuple(modules), labels
        self._formulas, self._min_count = formulas, min_count
        with torch.inference_mode(False):
            shape, dtype = (len(self._modules), len(QUANTITIES), 3), accumulator_dtype(self.device)
            self._sums = torch.zeros(shape, dtype=dtype, device=self.device)
            self._counts = torch.zeros(num_classes, dtype=torch.int64, device=self.device)
            # graphs that lack a class, and that have a single one; labels out of range, and fractions;
            # nodes without neighbors, and edges that go elsewhere
            self._graphs, self._left_out, self._missing = self._counts.new_zeros(3, 2)
        self._scratch = shared_scratch()  # held from one batch to the next
        self._entered = [0] * len(self._modules)  # graphs, by module
        self._moments: dict[tuple[str, ...], list[GraphMoments]] = {}
        self._decided: list[Tensor] = []
        self._shares: list[Tensor] = []
        self._waiting: list[Nodes] = []
        self._entries = self._bytes = 0

    @property
    def sizes(self) -> tuple[int, int]:
        """C, and the number of modules."""
        return self._classes, len(self._modules)

    def add(self, nodes: Nodes) -> None:
        """Add the graphs of a batch, without waiting for the device.

        Args:
            nodes: Its nodes, in memory that nobody else changes.
        """
        self.num_graphs += nodes.graphs
        if not len(nodes.target):
            return
        if self._waiting and self._waiting[0].kind != nodes.kind:
            self._work()
        self._waiting.append(nodes)
        self._entries += sum(h.numel() for h in nodes.tensors)
        # a single graph has other statistics: it waits for a second one
        if self.num_graphs > 1 and self._entries > entries_at_once(self.device) // _PIECES:
            self._work()
        if self._bytes > _MOST_BYTES:
            self.settle()

    def settle(self) -> None:
        """Make sums of all that waits."""
        self._work()
        with own_mode(self.device):
            for modules, waiting in self._moments.items():
                values = _sums(self._formulas.of_features(GraphMoments.cat(waiting)))
                graphs = torch.tensor([len(each) // len(modules) for each in waiting])
                # of each batch, the graphs by the first module, then those by the second
                places = torch.tensor([self._modules.index(name) for name in modules]).repeat(
                    len(graphs)
                )
                of_value = places.repeat_interleave(graphs.repeat_interleave(len(modules)))
                self._sums[:, :3].index_add_(0, of_value.to(self.device), values.transpose(0, 1))
            for i, tables, formula in (
                (3, self._decided, self._formulas.of_decisions),
                (4, self._shares, self._formulas.of_neighbors),
            ):
                if tables:
                    self._sums[0, i] += _sums(formula(torch.cat(tables))).sum(0)
        self._clear()

    def reset(self) -> None:
        """Forget all graphs."""
        self._clear()
        self.num_graphs, self._entered = 0, [0] * len(self._modules)
        with own_mode(self.device):
            for state in (self._sums, self._counts, self._graphs, self._left_out, self._missing):
                state.zero_()

    def sums(self) -> list[Tensor]:
        """All that it has come to."""
        self.settle()
        entered = torch.tensor(self._entered, device=self.device)
        return [
            self._sums, entered, self._graphs, self._counts, self._left_out, self._missing,
        ]  # fmt: skip

    def rest(self) -> list[Tensor]:
        """Nothing: sums add up as they are."""
        return []

    def around(self, sums: list[Tensor]) -> list[Tensor]:
        """Nothing."""
        return []

    def num_graphs_of(self, sums: list[Tensor]) -> int:
        """How many graphs all ranks together have had."""
        return int(sums[1][0])

    def merged(self, sums: list[Tensor]) -> dict[str, GraphEvidence]:
        """What all ranks have come to, by module.

        Args:
            sums: Those of all ranks.

        Returns:
            The evidence of those that have run; of the data only the first one tells.
        """
        of_modules, *whole = sums
        entered, graphs, counts, left_out, missing = (e.round().to(torch.int64) for e in whole)
        (incomplete, single), (isolated, strays) = graphs.tolist(), missing.tolist()
        first = GraphEvidence(
            GraphAverages(of_modules[0].clone()), int(entered[0]), counts, incomplete, single,
            isolated, strays, Tallies(*left_out.new_zeros(3), *left_out),
        )  # fmt: skip
        others = {
            name: replace(first, graphs=GraphAverages(own.clone()), num_graphs=int(ran), tallies=None)
            for name, own, ran in zip(self._modules[1:], of_modules[1:], entered[1:], strict=True)
            if ran
        }
        return {self._modules[0]: first, **others}

    def _clear(self) -> None:
        self._waiting, self._entries = [], 0
        self._moments, self._decided, self._shares, self._bytes = {}, [], [], 0

    def _note(self, counts: Int[Tensor, "G C"], left_out: Sequence[Tensor]) -> None:
        """What the classes of each graph say of the data."""
        seen = (counts > 0).sum(1)
        self._counts += counts.sum(0)
        self._graphs += torch.stack([(seen < self._classes) & (seen > 1), seen < 2]).sum(1)
        self._left_out += torch.stack(list(left_out)).sum(1)

    def _work(self) -> None:
        """Make moments of the batches that wait."""
        if not self._waiting:
            return
        batches, self._waiting, self._entries = self._waiting, [], 0
        with own_mode(self.device):
            together = Together.of(batches)
            nodes, near = together.nodes, None
            encoded = self._labels.encode(nodes.target)
            label = torch.where(encoded.counts, encoded.label, 0)
            every = Places(
                label, encoded.counts, self._classes, nodes.graphs, nodes.of_row, nodes.sizes
            )
            places, some = every.of_classes_with(self._min_count), None
            if nodes.edges is not None:
                near = Neighborhoods(nodes.edges, len(nodes.target))
                some = every.where(near.has_neighbors)
            near_places = some and some.of_classes_with(self._min_count)
            around = Around(places, self._scratch, near, near_places)
            self._note(places.counts, encoded.left_out)
            for modules, moments in node_moments(together, around):
                self._moments.setdefault(modules, []).append(moments)
                for name in modules:
                    self._entered[self._modules.index(name)] += nodes.graphs
                self._bytes += moments.num_bytes
            if nodes.predicted is not None:
                self._decided.append(_confusion(places, nodes.predicted))
            if some is not None and near is not None:
                self._missing += near.missing
                self._shares.append(_share_variances(every, some, around.shares))


def _sums(values: Float[Tensor, "*q G"]) -> Float[Tensor, "*q G 3"]:
    """What adds up over graphs: whether a value is finite, the value, and its square."""
    finite = values.isfinite()
    values = torch.where(finite, values, 0)
    return torch.stack([finite.to(values), values, values.square()], -1)


def _confusion(places: Places, predicted: Int[Tensor, " n"]) -> Int[Tensor, "G C C"]:
    """For which class the network decides, by graph and class; rows without a decision are left out."""
    g, c = places.num_graphs, places.num_classes
    known = places.valid & (predicted >= 0) & (predicted < c)
    cells = torch.where(known, places.slot * c + predicted, g * c * c)
    totals = cells.new_zeros(g * c * c + 1).index_add_(0, cells, torch.ones_like(cells))
    return totals[:-1].view(g, c, c)


def _share_variances(
    every: Places, some: Places, shares: Float[Tensor, "n C"]
) -> Float[Tensor, "G C C"]:
    """Of a class's nodes with neighbors, variances of the shares of these; NaN where labels lack."""
    g, c = every.num_graphs, every.num_classes
    counts, blank = some.counts.clamp(min=1).view(-1, 1), shares.new_zeros(g * c + 1, c)
    means = blank.index_add(0, some.slot, shares)
    means[:-1] /= counts
    scatter = blank.index_add(0, some.slot, (shares - means[some.slot]).square())
    lacking = every.counts.new_zeros(g).index_add_(0, every.of_row, (~every.valid).long()) > 0
    variances = (scatter[:-1] / counts).view(g, c, c)
    single, alone = (every.counts > 0).sum(1) < 2, some.counts.sum(1) == 0
    return variances.masked_fill((lacking | single | alone)[:, None, None], torch.nan)
