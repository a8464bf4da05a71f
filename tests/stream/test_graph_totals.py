"""Sums over the graphs of a stage, against each graph taken by itself with dense matrices."""

import math
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import cycle, pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from support import graph_oracles as oracles

from lightning_nc.functional.graph import condition_gaps, overlaps, values_of_features
from lightning_nc.stream import graph_totals as module
from lightning_nc.stream.graph_totals import Formulas, GraphTotals
from lightning_nc.stream.node_moments import Places
from lightning_nc.stream.nodes import Nodes, known_edges
from lightning_nc.tasks.multiclass import Multiclass
from lightning_nc.values.graphs import GraphEvidence

FORMULAS = Formulas(values_of_features, overlaps, condition_gaps)
MODULES = ("plain", "near", "wide", "wide near")
WIDE = np.random.default_rng(5).standard_normal((4, 9))
IGNORED = -100
WAYS = ["sizes known", "sizes known, on a device", "by index"]
"""How moments may be taken; the second masks where nothing has to be masked."""


@dataclass(frozen=True)
class Stage:
    """Graphs with what the network is, of C classes."""

    in_order: ClassVar[bool] = True  # else the rows of a batch are mixed, and sizes are not known
    graphs: tuple
    num_classes: int = 5
    min_count: int = 1
    dtype: torch.dtype = torch.float64
    turn: np.ndarray = field(default_factory=lambda: WIDE)

    def totals(self, modules=MODULES):
        labels = Multiclass().of(num_classes=self.num_classes)
        return GraphTotals(self.num_classes, modules, labels, FORMULAS, self.min_count)

    def rounded(self, h):
        """As the network has it."""
        return torch.from_numpy(h).to(self.dtype)

    def nodes(self, graphs, shuffle=0):
        """A batch of some graphs, with the W of the first one."""
        sizes = [len(g.y) for g in graphs]
        mixed = np.random.default_rng(shuffle).permutation(sum(sizes))
        place = np.arange(sum(sizes)) if self.in_order else mixed
        back, edges = place.argsort(), [np.zeros((2, 0), int)]
        for g, start in zip(graphs, np.cumsum([0, *sizes]), strict=False):
            here, elsewhere = (g.edges >= 0) & (g.edges < len(g.y)), g.edges + 10**6 * (g.edges >= 0)
            edges.append(np.where(here, place[start + g.edges % len(g.y)], elsewhere))

        def rows(parts):
            return torch.from_numpy(np.concatenate(parts)[back])

        h = rows([g.h for g in graphs]).to(self.dtype)
        wide = rows([g.h @ self.turn for g in graphs]).to(self.dtype)
        return Nodes(
            rows([g.y for g in graphs]),
            {"plain": h, "wide": wide}, {"near": h, "wide near": wide}, len(graphs),
            rows([np.full(n, i) for i, n in enumerate(sizes)]),
            known_edges(torch.from_numpy(np.concatenate(edges, 1)), sum(sizes)),
            rows([g.decided for g in graphs]),
            {"plain": torch.from_numpy(graphs[0].weight)},
            tuple(sizes) if self.in_order else None,
        )  # fmt: skip

    def sums(self):
        """By the definitions: of each module, in the order of the quantities."""
        return self._sums.copy()

    @cached_property
    def _sums(self):
        nothing = [math.nan] * len(self.graphs)
        of_first = (
            [oracles.overlap_of(g, self.num_classes, self.min_count) for g in self.graphs],
            [oracles.gap_of(g, self.num_classes) for g in self.graphs],
        )
        found = []
        for name in MODULES:
            of_features = [
                oracles.values_of_features(
                    self.of_module(g, name), self.num_classes, "near" in name, self.min_count
                )
                for g in self.graphs
            ]
            of_data = of_first if name == MODULES[0] else (nothing, nothing)
            found.append([*zip(*of_features, strict=True), *of_data])
        return np.array([[oracles.sums(values) for values in of_module] for of_module in found])

    def of_module(self, graph, name):
        """The graph with the features of a module, as the network rounds them."""
        h = self.rounded(graph.h @ self.turn if "wide" in name else graph.h).double().numpy()
        return graph._replace(h=h, weight=graph.weight if name == "plain" else None)

    def check(self, totals, rtol=1e-6):
        np.testing.assert_allclose(totals.sums()[0].numpy(), self.sums(), rtol, rtol)

    def batches(self, splits=(1,)):
        """The graphs in batches of these sizes, again and again."""
        start = 0
        for turn, size in enumerate(cycle(splits)):
            if start >= len(self.graphs):
                return
            yield self.nodes(self.graphs[start : start + size], turn)
            start += size

    def fed(self, splits=(1,)):
        """Totals to which these batches were given."""
        totals = self.totals()
        for nodes in self.batches(splits):
            totals.add(nodes)
        return totals


@pytest.fixture(params=WAYS, autouse=True)
def way(request, monkeypatch):
    """All tests are taken each way."""
    monkeypatch.setattr(Stage, "in_order", request.param != "by index")
    if request.param == "sizes known, on a device":
        monkeypatch.setattr(Places, "are_all_valid", False)


def work_on(monkeypatch, entries):
    """As many entries wait at most."""
    monkeypatch.setattr(module, "entries_at_once", lambda device: module._PIECES * entries)


WAITING = {"for none": 0, "for some": 1_500, "for all": 10**9}


@pytest.fixture(params=WAITING)
def waiting(request, monkeypatch):
    """How long batches wait for others."""
    work_on(monkeypatch, WAITING[request.param])
    return request.param


CLASSES = [(0, 1, 2, 3, 4), (1, 3), (0, 2, 4), (2,), (0, 1, 2, 3, 4), (0, 4), (3,)]
SPLITS = {"one by one": (1,), "all at once": (7,), "by turns": (2, 1, 3)}


def drawn(classes=CLASSES, **settings):
    weight = np.random.default_rng(3).standard_normal((5, 4))
    graphs = [oracles.drawn(seed, of, **settings) for seed, of in enumerate(classes)]
    return [graph._replace(weight=weight) for graph in graphs]


@cache
def clean(start=0, stop=7, dtype=torch.float64):
    """Some of the graphs, all of whose nodes count; what they come to is computed once."""
    return Stage(tuple(drawn()[start:stop]), dtype=dtype)


def with_faults(graph, seed):
    """Nodes without label, decision or neighbors, and edges to nodes that are not there."""
    rng = np.random.default_rng(seed)
    y, decided = graph.y.copy(), graph.decided.copy()
    y[rng.permutation(len(y))[:3]] = IGNORED
    decided[rng.permutation(len(y))[:5]] = -1
    edges = graph.edges[:, ~np.isin(graph.edges, rng.permutation(len(y))[:2]).any(0)]
    strays = np.array([[-1, 2, len(y), 0], [0, len(y) + 3, 1, -7]])
    edges = np.concatenate([strays[:, :2], edges, strays[:, 2:]], 1)
    return graph._replace(y=y, decided=decided, edges=edges)


@cache
def faulty(min_count=1):
    graphs = [with_faults(g, i) if i % 3 != 1 else g for i, g in enumerate(drawn())]
    return Stage(tuple(graphs), min_count=min_count)


STAGES = {
    "whole": clean,
    "with faults": faulty,
    "classes of few nodes": lambda: faulty(min_count=10),
}


@pytest.fixture(params=STAGES)
def stage(request):
    return STAGES[request.param]()


@pytest.mark.parametrize("split", SPLITS)
def test_sums_are_those_of_each_graph_by_itself(stage, split):
    totals = stage.fed(SPLITS[split])
    stage.check(totals)
    has = totals.sums()[0][..., 0]
    assert (has[:, 0] >= 3).all()
    assert has[0, 2:].all()
    assert not has[1:, 2:].any()


def test_how_long_batches_wait_means_nothing(waiting):
    stage = faulty(min_count=10)
    totals, batches = stage.fed((2, 1)), 5
    low, high = {"for none": (0, 0), "for some": (0, batches - 1), "for all": (batches, batches)}[
        waiting
    ]
    assert low <= len(totals._waiting) <= high
    assert (totals._bytes > 0) is (waiting != "for all")
    stage.check(totals)
    first = told(totals)
    assert first.class_counts.tolist() == counts_of(stage).sum(0).tolist()
    assert (first.isolated, first.strays) == missing_of(stage)
    assert not totals._waiting


def test_a_single_graph_waits_for_a_second_one(monkeypatch):
    """Alone it has other statistics."""
    work_on(monkeypatch, 0)
    stage = clean(stop=2)
    totals = stage.totals()
    for nodes, left in zip(stage.batches(), (1, 0), strict=True):
        totals.add(nodes)
        assert len(totals._waiting) == left
    stage.check(totals)
    alone = clean(stop=1)
    alone.check(alone.fed())


@cache
def of_several_weights():
    """Each batch of two, one and three graphs has a W of its own."""
    rng, owners = np.random.default_rng(0), [0, 0, 1, 2, 2, 2, 3]
    weights = [rng.standard_normal((5, 4)) for _ in range(4)]
    graphs = [g._replace(weight=weights[i]) for g, i in zip(drawn(), owners, strict=True)]
    return Stage(tuple(graphs))


def test_every_batch_has_a_w_of_its_own(waiting):
    stage = of_several_weights()
    stage.check(stage.fed((2, 1, 3)))
    assert abs(stage.sums()[0, 2, 1] / clean().sums()[0, 2, 1] - 1) > 0.01


@cache
def of_one_width():
    return Stage(tuple(drawn()[:5]), turn=np.random.default_rng(1).standard_normal((4, 4)))


def test_modules_of_one_width_are_taken_at_once(waiting):
    stage = of_one_width()
    totals = stage.fed((2, 1))
    if waiting == "for none":
        assert set(totals._moments) == {("plain", "wide"), ("near", "wide near")}
    stage.check(totals)


KINDS = {
    "all that there is": lambda n: {},
    "no edges": lambda n: {"edges": None},
    "no decisions": lambda n: {"predicted": None},
    "no W": lambda n: {"weights": {}},
    "no means over neighbors": lambda n: {"near": {}},
    "another order": lambda n: {"near": dict(reversed(n.near.items()))},
    "one module": lambda n: {"rows": {"plain": n.rows["plain"]}},
    "sizes not known": lambda n: {"sizes": None},
    "labels as real numbers": lambda n: {"target": n.target.double()},
    "float32": lambda n: {part: {k: h.float() for k, h in getattr(n, part).items()} for part in PARTS},
}
PARTS = ("rows", "near")


@cache
def of_kind(i, kind):
    """What one of the graphs adds in a batch of this kind, by the definitions."""
    dtype = torch.float32 if kind == "float32" else torch.float64
    sums = clean(i, i + 1, dtype).sums()
    lacks = {
        "no edges": ([1, 3], slice(None)), "no decisions": (0, 3), "no W": (slice(None), 2),
        "no means over neighbors": ([1, 3], slice(None)), "one module": (2, slice(None)),
    }  # fmt: skip
    if kind in lacks:
        sums[lacks[kind]] = 0
    if kind == "no edges":
        sums[0, 4] = 0
    return sums


def test_batches_of_different_kinds():
    order = np.repeat(np.random.default_rng(0).permutation([*KINDS, *KINDS]), [2, 1] * len(KINDS))
    stage, graphs = clean(), clean().graphs
    totals, expected, kinds = stage.totals(), 0, []
    for turn, kind in enumerate(order):
        nodes = stage.nodes([graphs[turn % 7]], turn)
        nodes = replace(nodes, **KINDS[kind](nodes))
        kinds.append(nodes.kind)
        totals.add(nodes)
        assert all(each.kind == nodes.kind for each in totals._waiting)
        expected = expected + of_kind(turn % 7, kind)
    alike = sum(one == other for one, other in pairwise(kinds))
    assert 0 < alike < len(kinds) - 2  # some follow one that they wait with, most do not
    np.testing.assert_allclose(totals.sums()[0].numpy(), expected, 1e-6, 1e-6)
    assert totals.num_graphs == len(order)


def test_features_of_two_modules_that_are_one_tensor_count_once(monkeypatch):
    stage = clean(stop=2)
    first, second = stage.batches()
    entries = sum(len(n.target) * (4 + 9) for n in (first, second))
    for limit, left in ((entries, 2), (entries - 1, 0)):
        totals = stage.totals()
        work_on(monkeypatch, limit)
        totals.add(first)
        totals.add(second)
        assert len(totals._waiting) == left
        totals.add(second)
        assert len(totals._waiting) == (left + 1) % 3


def test_the_order_of_graphs_means_nothing():
    stage = faulty()
    turned = replace(stage, graphs=stage.graphs[::-1])
    for one, other in zip(stage.fed((2, 3)).sums(), turned.fed((3, 1)).sums(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def told(totals):
    """By the first module, which tells of the data."""
    return totals.merged(totals.sums())[MODULES[0]]


def counts_of(stage):
    """Nodes of each class, less classes of too few."""
    every = [np.ones(len(g.y), dtype=bool) for g in stage.graphs]
    return np.array([
        np.bincount(oracles.nodes_that_count(g, e, 5, stage.min_count).y, minlength=5)
        for g, e in zip(stage.graphs, every, strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize("split", ["one by one", "by turns"])
def test_what_is_told_of_the_data(stage, split):
    totals = stage.fed(SPLITS[split])
    evidence = totals.merged(totals.sums())
    first, counts = evidence["plain"], counts_of(stage)
    seen = (counts > 0).sum(1)
    assert list(evidence) == list(MODULES)
    assert first.class_counts.tolist() == counts.sum(0).tolist()
    assert (first.incomplete, first.single) == (((seen > 1) & (seen < 5)).sum(), (seen < 2).sum())
    assert totals.num_graphs == first.num_graphs == len(CLASSES)
    assert first.num_samples == counts.sum()
    assert first.lost == dict.fromkeys(first.lost, 0)
    assert {each.tallies for name, each in evidence.items() if name != "plain"} == {None}
    for name, sums in zip(MODULES, stage.sums(), strict=True):
        np.testing.assert_allclose(evidence[name].graphs.sums.numpy(), sums, 1e-6, 1e-6)
        other = evidence[name]
        assert (other.num_graphs, other.single) == (first.num_graphs, first.single)


def missing_of(stage):
    """Isolated nodes, and edges to nodes that are not there."""
    isolated = strays = 0
    for g in stage.graphs:
        inside = ((g.edges >= 0) & (g.edges < len(g.y))).all(0)
        isolated += len(g.y) - len(set(g.edges[1, inside].tolist()))
        strays += int((~inside).sum())
    return isolated, strays


def test_what_is_missing():
    stage = faulty()
    totals = stage.fed((2,))
    for _ in range(2):
        evidence = told(totals)
        assert (evidence.isolated, evidence.strays) == missing_of(stage)
    totals.reset()
    assert (told(totals).isolated, told(totals).strays) == (0, 0)


@pytest.mark.parametrize("split", [1, 3])
def test_a_graph_without_edges_has_no_condition_gap(split):
    """Nor has one of which all edges go elsewhere; all other values stay."""
    graphs = drawn([CLASSES[0]] * 3)
    none, away = np.zeros((2, 0), int), np.array([[0, -1], [10**4, 1]])
    graphs[1:] = (g._replace(edges=e) for g, e in zip(graphs[1:], (none, away), strict=True))
    stage = Stage(tuple(graphs))
    assert stage.sums()[0, :, 0].tolist() == [3, 3, 3, 3, 1]
    assert stage.sums()[1, :2, 0].tolist() == [1, 1]
    stage.check(stage.fed((split,)))


def test_labels_that_are_none_are_counted():
    graph = drawn()[0]
    y = graph.y.astype(float)
    y[:6] = [IGNORED, 7, -3, 1.5, math.nan, 5]
    stage = Stage((graph,))
    totals = stage.totals()
    totals.add(stage.nodes([graph._replace(y=y)]))
    evidence = totals.merged(totals.sums())["plain"]
    assert evidence.lost == {
        "a NaN or infinite feature": 0, "a label outside the classes": 3,
        "a label that is no whole number": 2,
    }  # fmt: skip
    masked = Stage((graph._replace(y=np.where(np.arange(len(y)) < 6, IGNORED, graph.y)),))
    masked.check(totals)


def test_features_of_rows_that_do_not_count_are_not_looked_at():
    """Their neighbors do look at them, so that only nodes themselves are measured."""
    graphs = [with_faults(g, i) for i, g in enumerate(drawn())]
    stage = Stage(tuple(graphs))
    for split in ((1,), (7,)):
        totals, clean = stage.totals(), stage.totals()
        for start in range(0, len(graphs), split[0]):
            nodes = stage.nodes(graphs[start : start + split[0]])
            masked = (nodes.target == IGNORED)[:, None]
            bad = {n: h.masked_fill(masked, math.nan) for n, h in nodes.rows.items()}
            totals.add(replace(nodes, rows=bad, near={}))
            clean.add(replace(nodes, near={}))
        for one, other in zip(totals.sums(), clean.sums(), strict=True):
            assert torch.equal(one, other)
        assert not totals.sums()[0][[1, 3]].any()


@pytest.mark.parametrize(
    ("number", "dtype"),
    [(math.nan, torch.float32), (math.nan, torch.float64), (math.inf, torch.float32)],
)
def test_a_feature_that_is_no_number_costs_its_graph_alone(number, dtype):
    """Of its module; edges join no two graphs."""
    stage = clean(dtype=dtype)
    graphs, whole, less = stage.graphs, stage.sums(), clean(start=1, dtype=dtype).sums()
    expected = np.stack([less[0], less[1], whole[2], whole[3]])
    expected[0, 3:] = whole[0, 3:]
    for split in ((1,), (7,)):
        totals = stage.totals()
        for start in range(0, len(graphs), split[0]):
            nodes = stage.nodes(graphs[start : start + split[0]])
            h = nodes.rows["plain"].clone()
            if start == 0:
                of_first = (nodes.target == 4) & (nodes.of_row == 0)
                h[of_first.nonzero()[0, 0], 2] = number
            totals.add(replace(nodes, rows={**nodes.rows, "plain": h}, near={**nodes.near, "near": h}))
        np.testing.assert_allclose(totals.sums()[0].numpy(), expected, 1e-6, 1e-6)


@pytest.mark.parametrize("known", ["decisions", "edges", "W", "nothing"])
def test_what_is_not_known_has_no_value(known):
    stage = clean(stop=3)
    graphs, expected, totals = stage.graphs, stage.sums(), stage.totals()
    if known != "W":
        expected[:, 2] = 0
    if known != "decisions":
        expected[:, 3] = 0
    if known != "edges":
        expected[[1, 3]] = 0
        expected[0, 4] = 0
    for part in (graphs[:1], graphs[1:]):
        nodes = stage.nodes(part)
        totals.add(
            replace(
                nodes, predicted=nodes.predicted if known == "decisions" else None,
                edges=nodes.edges if known == "edges" else None,
                weights=nodes.weights if known == "W" else {},
            )
        )  # fmt: skip
    np.testing.assert_allclose(totals.sums()[0].numpy(), expected, 1e-6, 1e-6)


def test_decisions_that_are_all_unknown():
    stage = clean(stop=3)
    for split in (1, 3):
        totals = stage.totals()
        for start in range(0, 3, split):
            nodes = stage.nodes(stage.graphs[start : start + split])
            totals.add(replace(nodes, predicted=torch.full_like(nodes.predicted, -1)))
        assert totals.sums()[0][0, 3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_of_fewer_digits(dtype):
    stage = clean(stop=4, dtype=dtype)
    for split in ((1,), (4,)):
        stage.check(stage.fed(split))


def test_dtypes_of_modules_may_differ():
    stage = clean(stop=4)
    totals = {split: stage.totals() for split in (1, 4)}
    for split, each in totals.items():
        for start in range(0, 4, split):
            nodes = stage.nodes(stage.graphs[start : start + split])
            near = {"near": nodes.near["near"].bfloat16(), "wide near": nodes.near["wide near"].float()}
            rows = {"plain": nodes.rows["plain"].half(), "wide": nodes.rows["wide"]}
            each.add(replace(nodes, rows=rows, near=near))
    expected = np.stack([
        clean(stop=4, dtype=dtype).sums()[i]
        for i, dtype in enumerate((torch.float16, torch.bfloat16, torch.float64, torch.float32))
    ])  # fmt: skip
    for each in totals.values():
        np.testing.assert_allclose(each.sums()[0].numpy(), expected, 1e-6, 1e-6)


@cache
def of_twelve_classes():
    weight = np.random.default_rng(0).standard_normal((12, 4))
    graphs = drawn([tuple(range(12)), tuple(range(12)), (3, 11)], each=4)
    return Stage(tuple(g._replace(weight=weight) for g in graphs), num_classes=12)


def test_many_classes_in_one_batch():
    stage = of_twelve_classes()
    for split in ((1,), (3,)):
        stage.check(stage.fed(split), rtol=3e-6)


def test_settling_in_the_middle_changes_nothing(monkeypatch):
    stage = faulty()
    work_on(monkeypatch, 0)
    late = stage.fed((2, 1))
    assert late._moments
    monkeypatch.setattr(module, "_MOST_BYTES", 0)
    early = stage.fed((2, 1))
    assert not early._moments
    assert early._sums.any()
    for one, other in zip(late.sums(), early.sums(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    before = [each.clone() for each in early.sums()]
    assert all(torch.equal(one, other) for one, other in zip(early.sums(), before, strict=True))


def test_moments_that_wait_are_bounded(monkeypatch):
    stage = clean(stop=2)
    totals = stage.totals()
    work_on(monkeypatch, 0)
    totals.add(stage.nodes(stage.graphs))
    waiting = sum(each.num_bytes for parts in totals._moments.values() for each in parts)
    monkeypatch.setattr(module, "_MOST_BYTES", 2 * waiting)
    totals.add(stage.nodes(stage.graphs))
    assert totals._moments
    totals.add(stage.nodes(stage.graphs))
    assert not totals._moments
    np.testing.assert_allclose(totals.sums()[0].numpy(), 3 * stage.sums(), 1e-6, 1e-6)


def test_after_a_reset_it_is_as_new(waiting):
    stage = faulty()
    totals = stage.fed((2,))
    totals.settle()
    totals.add(stage.nodes(stage.graphs[:2]))
    totals.reset()
    assert totals.num_graphs == 0
    for one, blank in zip(totals.sums(), stage.totals().sums(), strict=True):
        assert torch.equal(one, blank)
    for nodes in stage.batches((2, 3)):
        totals.add(nodes)
    assert len(totals._waiting) == {"for none": 0, "for all": 3}.get(waiting, len(totals._waiting))
    stage.check(totals)


TOLD = ("num_graphs", "incomplete", "single", "isolated", "strays", "lost")


def test_ranks_add_up():
    stage = faulty()
    ranks = [replace(stage, graphs=part) for part in (stage.graphs[:3], (), stage.graphs[3:])]
    parts = [rank.fed((2,)) for rank in ranks]
    sums = [sum(each) for each in zip(*(part.sums() for part in parts), strict=True)]
    whole = stage.fed((7,))
    found, expected = parts[0].merged(sums), whole.merged(whole.sums())
    for name in MODULES:
        one, other = found[name], expected[name]
        torch.testing.assert_close(one.graphs.sums, other.graphs.sums, rtol=1e-6, atol=1e-6)
        assert one.class_counts.tolist() == other.class_counts.tolist()
        for each in TOLD:
            assert getattr(one, each) == getattr(other, each)
    assert parts[0].rest() == parts[0].around(sums) == []


def test_sums_that_were_sent_as_real_numbers():
    stage = faulty()
    totals = stage.fed((3,))
    there = totals.merged([each.double() + 1e-9 for each in totals.sums()])["plain"]
    here = totals.merged(totals.sums())["plain"]
    assert there.class_counts.tolist() == here.class_counts.tolist()
    assert there.class_counts.dtype == torch.int64
    for each in TOLD:
        assert getattr(there, each) == getattr(here, each)


def test_later_graphs_do_not_change_what_was_told():
    stage = faulty()
    totals = stage.fed((2,))
    evidence = totals.merged(totals.sums())
    before = {name: each.graphs.sums.clone() for name, each in evidence.items()}
    counts = evidence["plain"].class_counts.tolist()
    totals.add(stage.nodes(stage.graphs))
    totals.settle()
    totals.reset()
    for name, each in evidence.items():
        assert isinstance(each, GraphEvidence)
        assert torch.equal(each.graphs.sums, before[name])
    assert evidence["plain"].class_counts.tolist() == counts


def test_a_batch_of_one_node():
    lone = oracles.Graph(
        np.ones((1, 4)), np.array([2]), np.zeros((2, 0), int), np.ones((5, 4)), np.array([2])
    )
    (graph,) = clean(stop=1).graphs
    for graphs in ((lone,), (graph, lone, graph)):
        stage, more = Stage(graphs), len(graphs) - 1
        totals = stage.fed()
        found = told(totals)
        np.testing.assert_allclose(totals.sums()[0].numpy(), more * clean(stop=1).sums(), 1e-6, 1e-6)
        assert (found.num_graphs, found.incomplete, found.single) == (1 + more, 0, 1)
        expected = more * np.bincount(graph.y, minlength=5) + np.eye(5, dtype=int)[2]
        assert found.class_counts.tolist() == expected.tolist()
        assert (found.isolated, found.strays) == (1, 0)


def test_a_graph_without_nodes_in_a_batch():
    stage = clean(stop=1)
    one = stage.nodes(stage.graphs)
    h, sizes = torch.tensor([[0.0, 1.0], [1.0, 1.0]]), one.sizes
    nodes = Nodes(
        torch.tensor([0, 1]), {"plain": h}, {}, 3, torch.tensor([1, 1]), sizes=sizes and (0, 2, 0)
    )
    totals = stage.totals()
    totals.add(nodes)
    empty = {"graphs": 2, "of_row": one.of_row + 1, "sizes": sizes and (0, *sizes)}
    totals.add(replace(one, **empty))
    totals.add(replace(one, **empty))
    np.testing.assert_allclose(totals.sums()[0].numpy(), 2 * stage.sums(), 1e-6, 1e-6)
    found = told(totals)
    assert (found.num_graphs, found.incomplete, found.single) == (7, 1, 4)


def test_a_batch_without_nodes():
    stage = clean(stop=1)
    totals = stage.fed()
    none = torch.zeros(0, dtype=torch.int64)
    totals.add(Nodes(none, {}, {}, 2, none, sizes=(0, 0)))
    stage.check(totals)
    assert totals.num_graphs == 3


def test_names_of_modules_are_in_the_order_that_was_given():
    stage = faulty()
    modules = ("wide near", "near", "plain", "wide")
    totals = stage.totals(modules)
    totals.add(stage.nodes(stage.graphs))
    found, expected = totals.sums()[0].numpy(), stage.sums()
    places = [MODULES.index(name) for name in modules]
    np.testing.assert_allclose(found[:, :3], expected[places, :3], 1e-6, 1e-6)
    np.testing.assert_allclose(found[0, 3:], expected[0, 3:], 1e-6, 1e-6)
    assert totals.sizes == (5, 4)


def test_a_module_that_a_batch_lacks(waiting):
    """It tells in how many graphs it has run."""
    stage = faulty()
    totals, nodes = stage.totals(), stage.nodes(stage.graphs)
    assert list(totals.merged(totals.sums())) == ["plain"]
    for batch, modules in (
        (replace(nodes, rows={"plain": nodes.rows["plain"]}), {"plain", "near", "wide near"}),
        (replace(nodes, near={}, predicted=None), {"plain", "near", "wide near", "wide"}),
    ):
        totals.add(batch)
        assert set(totals.merged(totals.sums())) == modules
    sums = stage.sums()
    sums[0, [0, 1, 2, 4]] *= 2
    np.testing.assert_allclose(totals.sums()[0].numpy(), sums, 1e-6, 1e-6)
    ran = {name: each.num_graphs for name, each in totals.merged(totals.sums()).items()}
    assert ran == {"plain": 14, "near": 7, "wide": 7, "wide near": 7}
    blind = stage.totals()
    blind.add(replace(nodes, edges=None))
    assert list(blind.merged(blind.sums())) == ["plain", "wide"]


def test_neither_gradients_nor_autocast_nor_inference_mode(waiting):
    stage = faulty()
    plain = stage.fed((4,)).sums()
    with torch.inference_mode():
        totals = stage.totals()
        totals.add(stage.nodes(stage.graphs[:4]))
    nodes = stage.nodes(stage.graphs[4:], 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = {name: each.requires_grad_() for name, each in nodes.rows.items()}
        totals.add(
            replace(nodes, rows=h, weights={n: w.requires_grad_() for n, w in nodes.weights.items()})
        )
        found = totals.sums()
    for one, other in zip(found, plain, strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad
        assert not one.is_inference()


@cache
def collapsed(spread):
    """Means over neighbors collapse as well where all nodes have the same shares of neighbors."""
    edges, y = oracles.ring_of_classes(30, 3)
    rng, graphs = np.random.default_rng(0), []
    for _ in range(3):
        h = rng.standard_normal((3, 4))[y] + spread * rng.standard_normal((90, 4)) + 10
        rounded = h.astype(np.float32).astype(np.float64)
        graphs.append(oracles.Graph(rounded, y, edges, rng.standard_normal((5, 4)), y))
    graphs = [g._replace(weight=graphs[0].weight) for g in graphs]
    return Stage(tuple(graphs), dtype=torch.float32)


@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("spread", [1e-4, 1e-5])
def test_near_collapse(spread, split):
    stage = collapsed(spread)
    found, expected = stage.fed((split,)).sums()[0].numpy(), stage.sums()
    assert (expected[:, :2, 1] / 3 < 2 * math.log10(spread) + 1.5).all()
    np.testing.assert_allclose(found[:, :2, 1] / 3, expected[:, :2, 1] / 3, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[:, 2], expected[:, 2], rtol=3e-5)
    assert found[0, 4, 1] == pytest.approx(0, abs=1e-14)
