"""Moments of the nodes of each graph of a batch, of several modules of a network at once.

The layers of a graph network are narrow and many, and each by itself would cost what its training does:
an update is some twenty small operations, as many for ten modules as for one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_nc.stream.memory import Scratch, entries_at_once
from lightning_nc.values.graphs import GraphMoments
from lightning_nc.values.neighborhoods import Neighborhoods
from lightning_nc.values.precision import accumulator_dtype


@dataclass(frozen=True, eq=False)
class Places:
    """Which class of which graph each row is of; rows that do not count are of one that is dropped.

    Attributes:
        label: The class of each row, 0 where it does not count.
        valid: Whether it counts.
        num_classes: C.
        num_graphs: G.
        of_row: The graph of each row; None of a single one.
    """

    label: Int[Tensor, " n"]
    valid: Bool[Tensor, " n"]
    num_classes: int
    num_graphs: int = 1
    of_row: Int[Tensor, " n"] | None = None

    @cached_property
    def slot(self) -> Int[Tensor, " n"]:
        """The class of the graph, as one number."""
        of_row = 0 if self.of_row is None else self.of_row
        slots = of_row * self.num_classes + self.label
        return torch.where(self.valid, slots, self.num_graphs * self.num_classes)

    @cached_property
    def graph(self) -> Int[Tensor, " n"]:
        """The graph."""
        return torch.where(self.valid, 0 if self.of_row is None else self.of_row, self.num_graphs)

    @cached_property
    def counts(self) -> Int[Tensor, "G C"]:
        """Rows of each class in each graph."""
        totals = self.slot.new_zeros(self.num_graphs * self.num_classes + 1)
        totals.index_add_(0, self.slot, torch.ones_like(self.slot))
        return totals[:-1].view(self.num_graphs, self.num_classes)

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


Rows = Mapping[str, Float[Tensor, "n d"]]
Weights = Mapping[str, Float[Tensor, "out in"]]
Moments = tuple[tuple[str, ...], GraphMoments]
"""Of G graphs by the first of some modules, then of those by the second one, and so on."""


@dataclass(frozen=True, eq=False)
class Around:
    """What is known of the nodes of a batch, whatever is measured of them.

    Attributes:
        places: Which class of which graph each node is of.
        weights: The W that features enter, by module, where it is known.
        near: Which nodes have an edge to a node, where it is known.
        places_near: Less nodes without neighbors.
        scratch: Memory that is used again.
    """

    places: Places
    weights: Weights
    scratch: Scratch
    near: Neighborhoods | None = None
    places_near: Places | None = None

    @cached_property
    def shares(self) -> Float[Tensor, "n C"]:
        """Of each node, the share of its neighbors in each class, without a label: the first."""
        assert self.near is not None
        return self.near.shares(self.places.kinds.T.float())


def node_moments(rows: Rows, near: Rows, around: Around) -> Iterator[Moments]:
    """Moments of each graph around the means of its classes, in two passes over the rows.

    A NaN in a row that counts is one of all moments of its module and graph.

    Args:
        rows: Features of the nodes, by module.
        near: Those of which the means over neighbors are measured; they may be the same tensors.
        around: What is known of the nodes.

    Yields:
        Names of modules, and their moments.
    """
    compute = _of_one if around.places.of_row is None else _of_each
    alike: dict[tuple[int, torch.dtype], dict[int, Tensor]] = {}
    for h in (*rows.values(), *near.values()):
        alike.setdefault((h.shape[1], h.dtype), {})[id(h)] = h
    for (d, _), tensors in alike.items():
        # of a row and a module its features are held, and the products of its projections
        entries = len(around.places.label) * max(d, around.places.num_classes**2)
        size = max(1, entries_at_once(around.places.label.device) // max(1, entries))
        distinct = list(tensors.values())
        for i in range(0, len(distinct), size):
            at = {id(h): place for place, h in enumerate(distinct[i : i + size])}
            plain, means = (
                {n: at[id(h)] for n, h in part.items() if id(h) in at} for part in (rows, near)
            )
            yield from compute(distinct[i : i + size], plain, means, around)


def _of_one(
    rows: Sequence[Tensor], plain: Mapping[str, int], near: Mapping[str, int], around: Around
) -> Iterator[Moments]:
    """Of a single graph, by products of matrices."""
    like = rows[0].expand(len(rows), *rows[0].shape)
    h = around.scratch("rows of nodes", like, accumulator_dtype(like.device))
    for there, here in zip(h, rows, strict=True):
        there.copy_(here)
    means, x = _deviations_(h, around.places)
    if plain:
        of_plain = _some(list(plain.values()), means, x)
        yield tuple(plain), _moments(*of_plain, around.places, around, plain)
    if near and around.places_near is not None:
        h = _means_of_neighbors(*_some(list(near.values()), means, x), around)
        means, x = _deviations_(h, around.places_near)
        yield tuple(near), _moments(means, x, around.places_near, around, near)


def _some(places: list[int], means: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Those of some modules; no copy where that is all."""
    return (means, x) if places == list(range(len(x))) else (means[places], x[places])


def _deviations_(
    h: Float[Tensor, "L n d"], places: Places
) -> tuple[Float[Tensor, "L C d"], Float[Tensor, "L n d"]]:
    """Class means over the rows that count, and all rows around the mean of their class, in place."""
    counting = h if places.are_all_valid else h.masked_fill(~places.valid[:, None], 0)
    kinds = places.kinds if places.are_all_valid else places.kinds * places.valid
    means = (kinds @ counting).div_(places.counts[0].clamp(min=1)[:, None])
    return means, h.baddbmm_(places.kinds.T.expand(len(h), -1, -1), means, alpha=-1)


def _means_of_neighbors(
    means: Float[Tensor, "L C d"], x: Float[Tensor, "L n d"], around: Around
) -> Float[Tensor, "L n d"]:
    r"""Means over neighbors: :math:`H \hat A = M Y \hat A + X \hat A`, of which only X is float32.

    So they have as many digits as what a node differs by from its class, near collapse as well.
    """
    assert around.near is not None
    by_node = x.transpose(0, 1)
    flat = around.scratch("nodes in float32", by_node, torch.float32).copy_(by_node)
    spread = around.near.mean_in_float32(flat.flatten(1)).view(by_node.shape)
    whole = around.scratch("means over neighbors", x, x.dtype).copy_(spread.transpose(0, 1))
    return whole.baddbmm_(around.shares.expand(len(x), -1, -1), means)


def _moments(
    means: Float[Tensor, "L C d"],
    x: Float[Tensor, "L n d"],
    places: Places,
    around: Around,
    modules: Iterable[str],
) -> GraphMoments:
    x = x if places.are_all_valid else x.masked_fill(~places.valid[:, None], 0)
    counts = places.counts[0]
    centered = _centered(means, counts)
    along = centered @ x.transpose(1, 2)
    signal, noise = torch.full_like(x[:, :2, 0], torch.nan).unbind(1)
    for i, name in enumerate(modules):
        if name in around.weights:
            w = around.weights[name].to(x)
            signal[i] = ((means[i] @ w.T).square().sum(1) * counts).sum()
            noise[i] = (x[i] @ w.T).square().sum()
    within = torch.linalg.vector_norm(x.flatten(1), dim=1).square()
    gram, projected = (each @ each.transpose(1, 2) for each in (centered, along))
    return GraphMoments(counts.expand(len(x), -1), within, gram, projected, signal, noise)


def _of_each(
    rows: Sequence[Tensor], plain: Mapping[str, int], near: Mapping[str, int], around: Around
) -> Iterator[Moments]:
    """Of several graphs, where only the device knows which rows are whose."""
    if plain:
        yield (
            tuple(plain),
            _moments_by_graph([rows[i] for i in plain.values()], around.places, around, plain),
        )
    if near and around.near is not None and around.places_near is not None:
        d = rows[0].shape[1]
        means = around.near.mean(torch.cat([rows[i] for i in near.values()], 1)).split(d, 1)
        yield tuple(near), _moments_by_graph(means, around.places_near, around, near)


def _moments_by_graph(
    rows: Sequence[Float[Tensor, "n d"]], places: Places, around: Around, modules: Iterable[str]
) -> GraphMoments:
    x = torch.stack(list(rows), 1).to(accumulator_dtype(rows[0].device))
    shape, slot = (places.num_graphs, places.num_classes), places.slot
    sums = x.new_zeros(places.counts.numel() + 1, *x.shape[1:]).index_add_(0, slot, x)
    sums[:-1] /= places.counts.clamp(min=1).view(-1, 1, 1)
    x -= sums[slot]
    means = sums[:-1].unflatten(0, shape).transpose(1, 2)
    centered = _centered(means, places.counts[:, None])
    signal = torch.full_like(x[: places.num_graphs, :, 0], torch.nan)
    noise = signal.clone()
    for i, name in enumerate(modules):
        if name in around.weights:
            w = around.weights[name].to(x)
            signal[:, i] = ((means[:, i] @ w.T).square().sum(2) * places.counts).sum(1)
            noise[:, i] = _by_graph((x[:, i] @ w.T).square().sum(1), places)
    padded = torch.cat([centered, torch.zeros_like(centered[:1])]).unbind(2)
    along = torch.stack([(x * of_class[places.graph]).sum(2) for of_class in padded], 2)
    projected = _by_graph(along[..., :, None] * along[..., None, :], places)
    whole = (
        _by_graph(x.square().sum(2), places), centered @ centered.transpose(2, 3), projected, signal,
        noise,
    )  # fmt: skip
    counts = places.counts.repeat(len(rows), 1)
    return GraphMoments(counts, *(each.transpose(0, 1).flatten(0, 1) for each in whole))


def _centered(means: Float[Tensor, "*m C d"], counts: Int[Tensor, "*c C"]) -> Float[Tensor, "*m C d"]:
    """Around the unweighted mean of the classes that a graph has; 0 of the others."""
    seen = (counts > 0).to(means.dtype)[..., None]
    overall = means.sum(-2, keepdim=True) / seen.sum(-2, keepdim=True).clamp(min=1)
    return (means - overall) * seen


def _by_graph(values: Float[Tensor, "n ..."], places: Places) -> Float[Tensor, "G ..."]:
    """Summed over the rows of each graph that count."""
    totals = values.new_zeros(places.num_graphs + 1, *values.shape[1:])
    return totals.index_add_(0, places.graph, values)[:-1]
