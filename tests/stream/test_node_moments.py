"""Moments of the nodes of graphs: by products of matrices where sizes are known, else by index."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from support import graph_oracles as oracles

from lightning_nc.functional.graph import values_of_features
from lightning_nc.stream import node_moments as module
from lightning_nc.stream.memory import Scratch
from lightning_nc.stream.node_moments import Around, Places, node_moments
from lightning_nc.stream.nodes import Nodes, Together
from lightning_nc.values.graphs import GraphMoments
from lightning_nc.values.neighborhoods import Neighborhoods

WAYS = ["sizes known", "sizes known, on a device", "by index"]
"""How moments may be taken; the second masks where nothing has to be masked."""


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    if request.param == WAYS[1]:
        monkeypatch.setattr(Places, "are_all_valid", False)
    return request.param


@pytest.fixture
def near_error(way):
    """Means over neighbors are of float32 where all rows are known to count."""
    return 1e-10 if way == WAYS[1] else 1e-6


@pytest.fixture
def places_of(way):
    """The places of a single graph."""

    def places(y, num_classes, valid=None):
        label = torch.as_tensor(y)
        valid = torch.ones_like(label, dtype=torch.bool) if valid is None else valid
        sizes = None if way == WAYS[2] else (len(label),)
        return Places(label, valid, num_classes, 1, torch.zeros_like(label), sizes)

    return places


class SpoiltScratch(Scratch):
    """Memory whose contents are never what is wanted."""

    def __call__(self, name, like, dtype):
        return super().__call__(name, like, dtype).fill_(math.nan)


SCRATCH = SpoiltScratch()  # the same for all, as in a stage


def around_of(graph, places):
    near = Neighborhoods(torch.from_numpy(graph.edges), len(graph.y))
    return Around(places, SCRATCH, near, places.where(near.has_neighbors))


def batch_of(graph, rows, near, places, weights=()):
    """As node_moments has it: it looks at features and weights alone."""
    known = dict.fromkeys(weights, graph.weight)
    return Nodes(
        places.label, rows, near, places.num_graphs, places.of_row,
        weights={name: torch.from_numpy(w) for name, w in known.items()}, sizes=places.sizes,
    )  # fmt: skip


def found_in(graph, rows, near, around, weights=()):
    """Moments of each module of a graph."""
    together = Together.of([batch_of(graph, rows, near, around.places, weights)])
    return by_module(node_moments(together, around))


def by_module(found):
    """Moments of each module; each of one graph."""
    return {name: at(moments, i) for names, moments in found for i, name in enumerate(names)}


def by_graph(found, num_graphs):
    """Moments of each module and graph."""
    return {
        (name, g): at(moments, i * num_graphs + g)
        for names, moments in found for i, name in enumerate(names) for g in range(num_graphs)
    }  # fmt: skip


def at(moments, place):
    return GraphMoments(*(getattr(moments, f.name)[place : place + 1] for f in fields(moments)))


def assert_moments(found, graph, num_classes, rtol=1e-10):
    expected = oracles.moments(graph, num_classes)
    for name, value in expected._asdict().items():
        actual = getattr(found, name)
        assert len(actual) == 1
        largest = np.abs(value).max()
        np.testing.assert_allclose(actual[0].numpy(), value, rtol, rtol * largest, err_msg=name)


def averaged(graph):
    """The same graph with means over neighbors in place of features."""
    return graph._replace(h=oracles.neighborhood_mean(graph.h, graph.edges))


def turned(graph, turn):
    """With other features; W as it was."""
    return graph._replace(h=graph.h @ turn)


@pytest.fixture
def graph():
    return oracles.drawn(0, (0, 1, 3))


def test_moments_are_those_of_the_definitions(places_of, graph):
    rng = np.random.default_rng(0)
    graphs = {name: turned(graph, rng.standard_normal((4, 4))) for name in "abc"}
    rows = {name: torch.from_numpy(g.h) for name, g in graphs.items()}
    found = found_in(graph, rows, {}, around_of(graph, places_of(graph.y, 5)), weights=["a", "c"])
    assert list(found) == ["a", "b", "c"]
    for name, g in graphs.items():
        assert_moments(found[name], g if name != "b" else g._replace(weight=None), 5)


def test_moments_of_means_over_neighbors(places_of, near_error, graph):
    rng = np.random.default_rng(0)
    graphs = {name: turned(graph, rng.standard_normal((4, 4))) for name in "abc"}
    rows = {name: torch.from_numpy(g.h) for name, g in graphs.items()}
    near = {"a near": rows["a"], "c near": rows["c"], "b near": rows["b"]}
    around = around_of(graph, places_of(graph.y, 5))
    found = found_in(graph, rows, near, around, weights=["b", "b near"])
    assert set(found) == {"a", "b", "c", *near}
    for name, g in graphs.items():
        g = g if name == "b" else g._replace(weight=None)
        assert_moments(found[name], g, 5)
        assert_moments(found[f"{name} near"], averaged(g), 5, near_error)


@pytest.mark.parametrize("which", [{"a": 0, "b near": 1}, {"a": 0, "a near": 0}, {"b": 1, "a near": 0}])
def test_some_modules_plain_and_others_near(places_of, near_error, graph, which):
    tensors = [torch.from_numpy(graph.h), torch.from_numpy(graph.h**2)]
    rows = {name: tensors[i] for name, i in which.items() if "near" not in name}
    near = {name: tensors[i] for name, i in which.items() if "near" in name}
    found = found_in(graph, rows, near, around_of(graph, places_of(graph.y, 4)))
    assert set(found) == set(which)
    for name, i in which.items():
        g = graph._replace(h=tensors[i].numpy(), weight=None)
        g, rtol = (averaged(g), near_error) if "near" in name else (g, 1e-10)
        assert_moments(found[name], g, 4, rtol)


def test_one_tensor_by_two_names(places_of, near_error, graph):
    h = torch.from_numpy(graph.h)
    around = around_of(graph, places_of(graph.y, 4))
    found = found_in(graph, {"a": h, "b": h}, {"c": h, "d": h}, around)
    assert set(found) == {"a", "b", "c", "d"}
    for plain, near in ("ac", "bd"):
        assert_moments(found[plain], graph._replace(weight=None), 4)
        assert_moments(found[near], averaged(graph._replace(weight=None)), 4, near_error)


@pytest.mark.parametrize("entries", [1, 400, 10**9])
def test_widths_and_dtypes_may_differ_and_chunks_mean_nothing(
    places_of, near_error, graph, entries, monkeypatch
):
    monkeypatch.setattr(module, "entries_at_once", lambda device: entries)
    h = torch.from_numpy(graph.h)
    wide = torch.cat([h, h.square(), h.sin()], 1)
    rows = {
        "double": h, "single": h.float(), "wide": wide, "half": h.half(), "brain": wide.bfloat16(),
        "single again": 2 * h.float(),
    }  # fmt: skip
    near = {f"{name} near": rows[name] for name in sorted(rows, reverse=True)}
    found = found_in(graph, rows, near, around_of(graph, places_of(graph.y, 4)))
    assert set(found) == {*rows, *near}
    for name, each in rows.items():
        g = graph._replace(h=each.double().numpy(), weight=None)
        assert_moments(found[name], g, 4)
        assert_moments(found[f"{name} near"], averaged(g), 4, near_error)


def test_what_is_held_at_once(places_of, graph, monkeypatch):
    """Features of all rows, and by index the products of their projections as well."""
    places = places_of(graph.y, 5)
    held = len(graph.y) * (4 if places.sizes else 25)
    rows = {name: torch.from_numpy(graph.h + i) for i, name in enumerate("abcd")}
    together = Together.of([batch_of(graph, rows, {}, places)])
    for entries, expected in ((2 * held, ["ab", "cd"]), (3 * held - 1, ["ab", "cd"]), (1, "abcd")):
        monkeypatch.setattr(module, "entries_at_once", lambda device, entries=entries: entries)
        found = node_moments(together, around_of(graph, places))
        assert [names for names, _ in found] == [tuple(names) for names in expected]


def test_features_are_left_as_they_were(places_of, graph):
    h = torch.from_numpy(graph.h.copy())
    for rows, near in (({"a": h}, {}), ({}, {"a": h}), ({"a": h}, {"b": h})):
        found_in(graph, rows, near, around_of(graph, places_of(graph.y, 4)))
        assert np.array_equal(h.numpy(), graph.h)


@pytest.mark.parametrize("far", [0, 1e8])
def test_rows_that_do_not_count_are_seen_by_their_neighbors_alone(places_of, graph, far):
    """However far they are from others."""
    rng = np.random.default_rng(0)
    kept = rng.random(len(graph.y)) < 0.7
    graph = graph._replace(h=graph.h + far * ~kept[:, None])
    h, label = torch.from_numpy(graph.h), torch.from_numpy(np.where(kept, graph.y, 0))
    around = around_of(graph, places_of(label, 4, torch.from_numpy(kept)))
    found = found_in(graph, {"a": h}, {"b": h}, around)
    plain = graph._replace(weight=None)
    assert_moments(found["a"], oracles.of_some(plain, kept), 4)
    assert_moments(found["b"], oracles.of_some(averaged(plain), kept), 4)
    h = h.masked_fill(torch.from_numpy(~kept)[:, None], math.nan)
    found = found_in(graph, {"a": h}, {}, around)
    assert_moments(found["a"], oracles.of_some(plain, kept), 4)


def test_nodes_without_neighbors_have_no_mean(places_of, near_error, graph):
    edges = graph.edges[:, (graph.edges != 4).all(0) & (graph.edges != 11).all(0)]
    graph = graph._replace(edges=edges, weight=None)
    h, kept = torch.from_numpy(graph.h), ~np.isin(np.arange(len(graph.y)), [4, 11])
    found = found_in(graph, {"a": h}, {"b": h}, around_of(graph, places_of(graph.y, 4)))
    assert_moments(found["a"], graph, 4)
    assert_moments(found["b"], oracles.of_some(averaged(graph), kept), 4, near_error)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_none_is_one_of_its_module_alone(places_of, near_error, graph, number):
    good = torch.from_numpy(graph.h)
    bad = good.clone()
    bad[3, 1] = number
    rows, near = {"a": good, "b": bad}, {"c": bad, "d": good}
    found = found_in(graph, rows, near, around_of(graph, places_of(graph.y, 4)))
    assert_moments(found["a"], graph._replace(weight=None), 4)
    assert_moments(found["d"], averaged(graph._replace(weight=None)), 4, near_error)
    for name in "bc":
        assert not values_of_features(found[name]).isfinite().any()


@pytest.mark.parametrize("masked", [0, 12], ids=["all count", "some do not count"])
@pytest.mark.parametrize(("spread", "offset"), [(1e-4, 10), (1e-5, 10), (1e-4, 0)])
def test_near_collapse(places_of, spread, offset, masked):
    """Of nodes, and of means over neighbors on a graph that admits collapse; rows are float32."""
    edges, y = oracles.ring_of_classes(30, 3)
    rng = np.random.default_rng(1)
    h = rng.standard_normal((3, 5))[y] + spread * rng.standard_normal((90, 5)) + offset
    h = h.astype(np.float32)
    kept = np.ones(90, dtype=bool)
    kept[rng.permutation(90)[:masked]] = False
    graph = oracles.Graph(h.astype(np.float64), y, edges, rng.standard_normal((3, 5)), y)
    places = places_of(torch.from_numpy(np.where(kept, y, 0)), 3, torch.from_numpy(kept))
    rows = torch.from_numpy(h)
    found = found_in(graph, {"a": rows}, {"b": rows}, around_of(graph, places), weights="ab")
    for name, g in (("a", graph), ("b", averaged(graph))):
        expected = oracles.values_of_features(oracles.of_some(g, kept), 3)
        assert expected[0] < 2 * math.log10(spread) + 1.5
        log10s = values_of_features(found[name])[:2, 0].tolist()
        assert log10s == pytest.approx(expected[:2], rel=0, abs=1e-5)
        snr = float(values_of_features(found[name])[2])
        assert snr == pytest.approx(expected[2], rel=3e-5)


def test_one_node(places_of):
    alone = oracles.Graph(np.ones((1, 4)), np.array([1]), np.zeros((2, 0), int), np.ones((3, 4)), None)
    h = torch.from_numpy(alone.h)
    found = found_in(alone, {"a": h}, {"b": h}, around_of(alone, places_of(alone.y, 3)), "a")
    assert_moments(found["a"], alone, 3)
    assert found["b"].counts.tolist() == [[0, 0, 0]]


def test_without_edges_no_means_are_told(places_of, graph):
    h = torch.from_numpy(graph.h)
    assert list(found_in(graph, {"a": h}, {"b": h}, Around(places_of(graph.y, 4), SCRATCH))) == ["a"]


CLASSES = [(0, 1, 2, 3, 4), (1, 3), (2,), (0, 2, 4)]


def several(way, graphs):
    """Graphs as one: rows in their order where sizes are known, else mixed, with the edges of each."""
    sizes = [len(g.y) for g in graphs]
    starts, total = np.cumsum([0, *sizes[:-1]]), sum(sizes)
    place = np.random.default_rng(0).permutation(total) if way == WAYS[2] else np.arange(total)
    back = place.argsort()
    h, y = (np.concatenate(each)[back] for each in zip(*((g.h, g.y) for g in graphs), strict=True))
    edges = np.concatenate([place[g.edges + s] for g, s in zip(graphs, starts, strict=True)], 1)
    whole = oracles.Graph(h, y, edges, graphs[0].weight, None)
    places = Places(
        torch.from_numpy(y), torch.ones(total, dtype=torch.bool), 5, len(graphs),
        torch.from_numpy(np.repeat(np.arange(len(graphs)), sizes)[back]),
        None if way == WAYS[2] else tuple(sizes),
    )  # fmt: skip
    return whole, places


def with_squares(graph):
    """Modules of a batch of graphs: features, and their squares with fewer digits."""
    h = torch.from_numpy(graph.h)
    rows = {"a": h, "b": h.square()}
    return rows, {"c": h, "d": rows["b"].float()}


def assert_all(found, graphs, near_error):
    """Moments of those modules in all graphs; the W of each is that of its batch."""
    assert {name for name, _ in found} == {*"abcd"}
    for i, g in enumerate(graphs):
        squared = g._replace(h=g.h**2)
        rounded = squared._replace(h=squared.h.astype(np.float32).astype(np.float64))
        assert_moments(found["a", i], g, 5)
        assert_moments(found["b", i], squared, 5)
        assert_moments(found["c", i], averaged(g._replace(weight=None)), 5, near_error)
        assert_moments(found["d", i], averaged(rounded), 5, near_error)


@pytest.fixture(scope="module")
def some_graphs():
    return [oracles.drawn(i, classes) for i, classes in enumerate(CLASSES)]


def test_moments_of_several_graphs_are_those_of_each(way, near_error, some_graphs):
    whole, places = several(way, some_graphs)
    batch = batch_of(whole, *with_squares(whole), places, weights="abd")
    found = by_graph(node_moments(Together.of([batch]), around_of(whole, places)), 4)
    assert_all(found, [g._replace(weight=whole.weight) for g in some_graphs], near_error)


@pytest.mark.parametrize("entries", [1, 10**9])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 1), (1, 2, 1)])
def test_moments_of_several_batches_are_those_of_each(
    way, near_error, some_graphs, sizes, entries, monkeypatch
):
    """With the W of each batch, and whichever modules are taken at once."""
    monkeypatch.setattr(module, "entries_at_once", lambda device: entries)
    batches, edges, owners = [], [], []
    for size in sizes:
        first = len(owners)
        whole, places = several(way, some_graphs[first : first + size])
        batches.append(batch_of(whole, *with_squares(whole), places, weights="abd"))
        edges.append(whole.edges + sum(len(b.target) for b in batches[:-1]))
        owners += [first] * size
    together = Together.of(batches)
    nodes, one = together.nodes, torch.ones(len(together.nodes.target), dtype=torch.bool)
    places = Places(nodes.target, one, 5, nodes.graphs, nodes.of_row, nodes.sizes)
    graph = oracles.Graph(None, nodes.target.numpy(), np.concatenate(edges, 1), None, None)
    found = by_graph(node_moments(together, around_of(graph, places)), 4)
    with_weights = [
        g._replace(weight=some_graphs[o].weight) for g, o in zip(some_graphs, owners, strict=True)
    ]
    assert_all(found, with_weights, near_error)


def test_graphs_of_which_the_batch_has_no_node(way):
    label = torch.tensor([0, 1])
    sizes = None if way == WAYS[2] else (0, 0, 2, 0)
    places = Places(label, torch.ones(2, dtype=torch.bool), 2, 4, torch.tensor([2, 2]), sizes)
    h = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    weights = {"a": torch.eye(2)}
    batch = Nodes(label, {"a": h}, {}, 4, places.of_row, weights=weights, sizes=sizes)
    ((_, found),) = node_moments(Together.of([batch]), Around(places, SCRATCH))
    assert found.counts.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]
    assert found.signal.tolist() == [0, 0, 39, 0]
    assert found.gram[2].tolist() == [[3.25, -3.25], [-3.25, 3.25]]
    assert not found.gram[[0, 1, 3]].any()


def test_places():
    label, of_row = torch.tensor([0, 1, 1, 2, 0, 2]), torch.tensor([0, 0, 1, 1, 1, 1])
    valid = torch.tensor([True, True, True, True, False, True])
    places = Places(label, valid, 3, 2, of_row)
    assert places.slot.tolist() == [0, 1, 4, 5, 6, 5]
    assert places.graph.tolist() == [0, 0, 1, 1, 2, 1]
    assert places.counts.tolist() == [[1, 1, 0], [0, 1, 2]]
    assert not places.are_all_valid
    assert replace(places, valid=torch.ones_like(valid)).are_all_valid
    assert places.kinds.tolist() == [[1, 0, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 1]]
    fewer = places.where(torch.tensor([True, False, True, True, True, False]))
    assert fewer.counts.tolist() == [[1, 0, 0], [0, 1, 1]]
    assert places.of_classes_with(1) is places
    assert places.of_classes_with(2).valid.tolist() == [False, False, False, True, False, True]
    assert not places.of_classes_with(3).valid.any()
    known = replace(places, sizes=(2, 0, 4))
    assert known.bounds == [(0, 2), (2, 2), (2, 6)]
    assert places.bounds == []
    assert known.of_classes_with(2).bounds == known.bounds
    values = torch.arange(12.0).view(6, 2)
    assert places.by_graph(values).tolist() == [[2, 4], [20, 23]]
