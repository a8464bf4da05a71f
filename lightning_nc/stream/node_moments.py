"""Moments of the nodes of each of several graphs, of several modules of a network at once.

The layers of a graph network are narrow and many, and each by itself would cost what its training does:
here an operation is on ten layers and a dozen graphs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_nc.stream.memory import Scratch, entries_at_once
from lightning_nc.stream.nodes import Together
from lightning_nc.values.graphs import GraphMoments
from lightning_nc.values.neighborhoods import Neighborhoods
from lightning_nc.values.precision import accumulator_dtype

Moments = tuple[tuple[str, ...], GraphMoments]
"""Of G graphs by the first of some modules, then of those by the second one, and so on."""


@dataclass(frozen=True, eq=False)
class Places:
    """Which class of which graph each row is of; rows that do not count are of one that is dropped.

    Attributes:
        label: The class of each row, 0 where it does not count.
        valid: Whether it counts.
        num_classes: C.
        num_graphs: G.
        of_row: The graph of each row.
        sizes: The rows of each graph; None where only the device knows.
    """

    label: Int[Tensor, " n"]
    valid: Bool[Tensor, " n"]
    num_classes: int
    num_graphs: int
    of_row: Int[Tensor, " n"]
    sizes: tuple[int, ...] | None = None

    @cached_property
    def slot(self) -> Int[Tensor, " n"]:
        """The class of the graph, as one number."""
        slots = self.of_row * self.num_classes + self.label
        return torch.where(self.valid, slots, self.num_graphs * self.num_classes)

    @cached_property
    def graph(self) -> Int[Tensor, " n"]:
        """The graph."""
        return torch.where(self.valid, self.of_row, self.num_graphs)

    @cached_property
    def counts(self) -> Int[Tensor, "G C"]:
        """Rows of each class in each graph."""
        totals = self.slot.new_zeros(self.num_graphs * self.num_classes + 1)
        totals.index_add_(0, self.slot, torch.ones_like(self.slot))
        return totals[:-1].view(self.num_graphs, self.num_classes)

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """Where each graph begins and ends, where that is known."""
        return list(pairwise(accumulate(self.sizes or (), initial=0)))

    @cached_property
    def are_all_valid(self) -> bool:
        """Whether no row has to be masked; where a device would have to be waited for, some may."""
        return self.valid.device.type == "cpu" and bool(self.valid.all())

    @cached_property
    def kinds(self) -> Float[Tensor, "C n"]:
        """1 at the rows of each class, those that do not count among those of the first."""
        rows = torch.nn.functional.one_hot(self.label, self.num_classes)
        return rows.T.to(accumulator_dtype(self.label.device)).contiguous()

    def where(self, valid: Bool[Tensor, " n"]) -> "Places":
        """Less the rows that do not count otherwise."""
        return replace(self, valid=self.valid & valid)

    def of_classes_with(self, min_count: int) -> "Places":
        """Less the rows of classes that have fewer in their graph."""
        if min_count <= 1:
            return self
        enough = torch.cat([(self.counts >= min_count).flatten(), self.valid.new_zeros(1)])
        return self.where(enough[self.slot])

    def by_graph(self, values: Float[Tensor, "n ..."]) -> Float[Tensor, "G ..."]:
        """Sums over the rows of each graph that count."""
        totals = values.new_zeros(self.num_graphs + 1, *values.shape[1:])
        return totals.index_add_(0, self.graph, values)[:-1]


@dataclass(frozen=True, eq=False)
class Around:
    """What is known of nodes, whatever is measured of them.

    Attributes:
        places: Which class of which graph each node is of.
        scratch: Memory that is used again.
        near: Which nodes have an edge to a node, where it is known.
        places_near: Less nodes without neighbors.
    """

    places: Places
    scratch: Scratch
    near: Neighborhoods | None = None
    places_near: Places | None = None

    @cached_property
    def shares(self) -> Float[Tensor, "n C"]:
        """Of each node, the share of its neighbors in each class, those without a label: the first."""
        assert self.near is not None
        return self.near.shares(self.places.kinds.T.float())


def node_moments(together: Together, around: Around) -> Iterator[Moments]:
    """Moments of each graph around the means of its classes, in two passes over the rows.

    A NaN in a row that counts is one of all moments of its module and graph.

    Args:
        together: Batches of graphs.
        around: What is known of their nodes.

    Yields:
        Names of modules, and their moments.
    """
    alike: dict[tuple[int, torch.dtype], list[int]] = {}
    first, rows = together.batches[0], len(together.nodes.target)
    for i, h in enumerate(first.tensors):
        alike.setdefault((h.shape[1], h.dtype), []).append(i)
    for (d, _), places in alike.items():
        # of a row and a module its features are held, by index the products of its projections as well
        entries = d if around.places.sizes is not None else max(d, around.places.num_classes**2)
        size = max(1, entries_at_once(first.target.device) // max(1, rows * entries))
        for start in range(0, len(places), size):
            yield from _of_modules(together, places[start : start + size], around)


def _of_modules(together: Together, tensors: list[int], around: Around) -> Iterator[Moments]:
    """Of modules of one width, by the numbers of their tensors."""
    first, places = together.batches[0], around.places
    at = {id(first.tensors[i]): place for place, i in enumerate(tensors)}
    plain, near = (
        {n: at[id(h)] for n, h in part.items() if id(h) in at} for part in (first.rows, first.near)
    )
    h = _side_by_side(together, tensors, around.scratch)
    means = _class_means(h, places)
    x = _plus_means_(h, places.kinds.T, means, places, sign=-1)
    if plain:
        some = _some(x, means, list(plain.values()))
        yield tuple(plain), _moments(*some, places, list(plain), together)
    if near and around.places_near is not None:
        x, means = _means_of_neighbors(*_some(x, means, list(near.values())), around)
        yield tuple(near), _moments(x, means, around.places_near, list(near), together)


def _side_by_side(together: Together, tensors: list[int], scratch: Scratch) -> Float[Tensor, "n L d"]:
    """The features of some modules in all batches, with the digits that statistics have."""
    one, rows = together.batches[0].tensors[tensors[0]], len(together.nodes.target)
    like = one[0].expand(rows, len(tensors), one.shape[1])
    h = scratch("rows of nodes", like, accumulator_dtype(one.device))
    for at, batch in zip(together.rows_of, together.batches, strict=True):
        of_batch = batch.tensors
        h[at].copy_(torch.stack([of_batch[i] for i in tensors], 1))
    return h


def _some(
    h: Float[Tensor, "n L d"], means: Float[Tensor, "G C L d"], places: list[int]
) -> tuple[Float[Tensor, "n l d"], Float[Tensor, "G C l d"]]:
    """Those of some modules; no copy of such as stand side by side."""
    first, last = places[0], places[-1]
    if places == list(range(first, last + 1)):
        return h[:, first : last + 1], means[:, :, first : last + 1]
    return h[:, places], means[:, :, places]


def _class_means(h: Float[Tensor, "n L d"], places: Places) -> Float[Tensor, "G C L d"]:
    """Of each graph, over the rows that count."""
    if not places.are_all_valid:
        h = h.masked_fill(~places.valid[:, None, None], 0)  # they may be NaN
    shape = (*places.counts.shape, *h.shape[1:])
    if places.sizes is None:
        sums = h.new_zeros(places.counts.numel() + 1, *h.shape[1:])
        means = sums.index_add_(0, places.slot, h)[:-1].view(shape)
    else:
        means = h.new_empty(shape)
        for sums, (start, stop) in zip(means.flatten(2), places.bounds, strict=True):
            torch.mm(places.kinds[:, start:stop], h[start:stop].flatten(1), out=sums)
    return means.div_(places.counts.clamp(min=1)[..., None, None])


def _plus_means_(
    h: Float[Tensor, "n L d"],
    shares: Float[Tensor, "n C"],
    means: Float[Tensor, "G C L d"],
    places: Places,
    sign: int = 1,
) -> Float[Tensor, "n L d"]:
    """To each row the means of the classes of its graph, by its shares in them; in place."""
    if places.sizes is None:
        for share, of_class in zip(shares.unbind(1), means.unbind(1), strict=True):
            h.add_(of_class[places.of_row].mul_(share[:, None, None]), alpha=sign)
        return h
    rows = h.flatten(1)
    for of_graph, (start, stop) in zip(means.flatten(2), places.bounds, strict=True):
        rows[start:stop].addmm_(shares[start:stop], of_graph, alpha=sign)
    return h


def _means_of_neighbors(
    x: Float[Tensor, "n L d"], means: Float[Tensor, "G C L d"], around: Around
) -> tuple[Float[Tensor, "n L d"], Float[Tensor, "G C L d"]]:
    r"""Means over neighbors, around their class means, and these.

    :math:`H \hat A = M Y \hat A + X \hat A`, of which only X is float32. So they have as many digits
    as what a node differs by from its class, near collapse as well.
    """
    near, places = around.near, around.places_near
    assert near is not None
    assert places is not None
    if around.places.are_all_valid:
        flat = around.scratch("nodes in float32", x, torch.float32).copy_(x)
        spread = near.mean_in_float32(flat.flatten(1)).view(x.shape)
    else:  # those that do not count may be far from the mean that they are taken around
        spread = near.mean(x.flatten(1)).view(x.shape)
    whole = around.scratch("means over neighbors", x, x.dtype).copy_(spread)
    _plus_means_(whole, around.shares, means, around.places)
    means = _class_means(whole, places)
    return _plus_means_(whole, places.kinds.T, means, places, sign=-1), means


def _moments(
    x: Float[Tensor, "n L d"],
    means: Float[Tensor, "G C L d"],
    places: Places,
    modules: list[str],
    together: Together,
) -> GraphMoments:
    """Of rows around the means of their classes."""
    if not places.are_all_valid:
        x = x.masked_fill(~places.valid[:, None, None], 0)
    centered = _centered(means, places.counts).transpose(1, 2)
    within, projected = _spreads(x, centered, places)
    signal, noise = torch.full_like(within, torch.nan), torch.full_like(within, torch.nan)
    for i, name in enumerate(modules):
        if name in together.nodes.weights:
            of_module = x[:, i], means[:, :, i]
            signal[:, i], noise[:, i] = _through_weights(name, *of_module, places, together)
    whole = within, centered @ centered.transpose(2, 3), projected, signal, noise
    counts = places.counts.repeat(len(modules), 1)
    return GraphMoments(counts, *(each.transpose(0, 1).flatten(0, 1) for each in whole))


def _centered(means: Float[Tensor, "G C L d"], counts: Int[Tensor, "G C"]) -> Float[Tensor, "G C L d"]:
    """Around the unweighted mean of the classes that a graph has; 0 of the others."""
    seen = (counts > 0).to(means.dtype)[..., None, None]
    overall = means.sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1)
    return (means - overall) * seen


def _spreads(
    x: Float[Tensor, "n L d"], centered: Float[Tensor, "G L C d"], places: Places
) -> tuple[Float[Tensor, "G L"], Float[Tensor, "G L C C"]]:
    """Squares of the rows of each graph, and of their projections on its centered means."""
    if places.sizes is None:
        sides = torch.stack([(x * m[places.of_row]).sum(2) for m in centered.unbind(2)], 2)
        products = sides[..., :, None] * sides[..., None, :]
        return places.by_graph(x.square().sum(2)), places.by_graph(products)
    within = x.new_empty(centered.shape[:2])
    projected = x.new_empty(*centered.shape[:3], centered.shape[2])
    for i, (start, stop) in enumerate(places.bounds):
        rows = x[start:stop]
        within[i] = rows.square().sum(0).sum(1)
        along = centered[i] @ rows.permute(1, 2, 0)
        torch.matmul(along, along.transpose(1, 2), out=projected[i])
    return within, projected


def _through_weights(
    name: str,
    x: Float[Tensor, "n d"],
    means: Float[Tensor, "G C d"],
    places: Places,
    together: Together,
) -> tuple[Float[Tensor, " G"], Float[Tensor, " G"]]:
    """Squares of W times the class means of all rows, and of W times what they differ by."""
    signal, noise = torch.empty_like(means[:, 0, 0]), torch.empty_like(x[:, 0])
    for batch, rows, graphs in zip(together.batches, together.rows_of, together.graphs_of, strict=True):
        w = batch.weights[name].to(x)
        noise[rows] = (x[rows] @ w.T).square().sum(1)
        seen = (means[graphs] @ w.T).square().sum(2)
        signal[graphs] = (seen * places.counts[graphs]).sum(1)
    return signal, places.by_graph(noise)
