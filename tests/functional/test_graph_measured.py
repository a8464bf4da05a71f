"""Statistics of each of several graphs, and their averages over the graphs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from support import graph_oracles as oracles

from lightning_nc.functional import graph as of_graphs
from lightning_nc.functional.graph import matching, measured
from lightning_nc.values.errors import NothingToCompare, UndefinedMeasure
from lightning_nc.values.graphs import QUANTITIES, GraphAverages, GraphMoments

CLASSES = [(0, 1, 2, 3, 4), (0, 1), (1, 3), (0, 2, 4), (0, 1, 2, 3, 4)]
"""Of five classes, some graphs have two or three."""


def moments_of(graph, num_classes):
    """What a stage leaves of one graph, by the definitions."""
    fields = oracles.moments(graph, num_classes)
    return GraphMoments(*(torch.from_numpy(np.asarray(f))[None] for f in fields))


def together(graphs, num_classes=5):
    return GraphMoments.cat([moments_of(graph, num_classes) for graph in graphs])


def of(graph, function, num_classes=5):
    return float(function(moments_of(graph, num_classes))[0])


@pytest.fixture(scope="module")
def graphs():
    return [oracles.drawn(seed, classes) for seed, classes in enumerate(CLASSES * 3)]


def overlaps(graphs, num_classes=5):
    tables = [oracles.confusion(graph, num_classes) for graph in graphs]
    return measured_of(of_graphs.overlaps, tables)


def gaps(graphs, num_classes=5):
    return measured_of(
        of_graphs.condition_gaps, [oracles.share_variances(g, num_classes) for g in graphs]
    )


def measured_of(function, tables):
    return function(torch.from_numpy(np.stack(tables))).tolist()


def test_values_are_those_of_dense_matrices(graphs):
    moments = together(graphs)
    for function, oracle in (
        (measured.within_between_ratio, oracles.trace_ratio),
        (measured.within_between_pinv, oracles.pinv_trace),
        (measured.signal_to_noise, oracles.signal_to_noise),
    ):
        assert function(moments).tolist() == pytest.approx([oracle(g) for g in graphs], rel=1e-10)
    by_definition = np.array([oracles.values_of_features(graph, 5) for graph in graphs])
    np.testing.assert_allclose(
        of_graphs.values_of_features(moments).numpy(), by_definition.T, rtol=1e-9
    )


def test_values_of_tables_are_those_of_dense_matrices(graphs):
    expected = [oracles.overlap(g.decided, g.y, 5) for g in graphs]
    assert overlaps(graphs) == pytest.approx(expected, rel=1e-10)
    assert gaps(graphs) == pytest.approx(
        [oracles.condition_gap(g.edges, g.y) for g in graphs], rel=1e-10
    )


def test_fewer_features_than_class_means_take(graphs):
    narrow = [graph._replace(h=graph.h[:, :2], weight=graph.weight[:, :2]) for graph in graphs]
    found = measured.within_between_pinv(together(narrow)).tolist()
    assert found == pytest.approx([oracles.pinv_trace(graph) for graph in narrow], rel=1e-10)


@pytest.mark.parametrize(("ratio", "error"), [(1e-1, 1e-12), (1e-2, 1e-10), (1e-3, 1e-8), (1e-4, 1e-6)])
def test_means_nearly_in_fewer_dimensions(ratio, error):
    """By a singular value decomposition of the means, which does not square their condition number."""
    rng = np.random.default_rng(0)
    values = np.geomspace(1, ratio, 4)
    left = np.linalg.qr(np.column_stack([np.ones(5), rng.standard_normal((5, 4))]))[0][:, 1:]
    right = np.linalg.qr(rng.standard_normal((6, 6)))[0][:4]
    m, y = left * values @ right, np.repeat(np.arange(5), 8)
    x = 1e-3 * rng.standard_normal((5, 8, 6))
    x = (x - x.mean(1, keepdims=True)).reshape(-1, 6)
    graph = oracles.drawn(0)._replace(h=m[y] + x, y=y, weight=np.ones((5, 6)), decided=y)
    along = np.linalg.svd(m)[2][:4] @ (x.T @ x / len(x)) @ np.linalg.svd(m)[2][:4].T
    expected = (np.diag(along) / values**2).sum()
    edges = np.array([[i, (i + s) % 40] for i in range(40) for s in (1, 39)]).T
    found = of(graph._replace(edges=edges), measured.within_between_pinv)
    assert found == pytest.approx(expected, rel=error)


@pytest.mark.parametrize(("length", "counts"), [(1.6e-7, 1), (8e-8, 0), (1e-12, 0), (0, 0)])
def test_directions_that_float32_makes_do_not_count(length, counts):
    """Singular values are 1 and ``length``, and along the second one the spread is as large."""
    m = np.array([[1, 1], [-1, 1], [0, -2]]) / np.sqrt([2, 6]) * [1, length]
    x = np.array([0, length])
    h = np.concatenate([m + x, m - x])
    y, nodes = np.tile([0, 1, 2], 2), np.arange(6)
    graph = oracles.Graph(h, y, np.array([nodes, (nodes + 1) % 6]), np.eye(3, 2), y)
    assert of(graph, measured.within_between_pinv) == pytest.approx(counts, abs=0.05)


def test_two_classes_have_one_direction(graphs):
    graph = graphs[1]
    within, between = oracles.covariances(graph)
    m = (graph.h[graph.y == 0].mean(0) - graph.h[graph.y == 1].mean(0)) / 2
    assert of(graph, measured.within_between_pinv) == pytest.approx(m @ within @ m / (2 * (m @ m) ** 2))
    assert np.trace(between) == pytest.approx(m @ m)


@for_all(seed=st.integers(0, 10**6), scale=st.floats(-30, 30), turned=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_laws(seed, scale, turned):
    """Order of nodes, names of classes, rotation, scaling and (less for the ratio of W) translation."""
    graph, rng = oracles.drawn(seed, CLASSES[seed % 5]), np.random.default_rng(turned)
    order, names = rng.permutation(len(graph.y)), rng.permutation(5)
    turn, place = np.linalg.qr(rng.standard_normal((4, 4)))[0] * 10**scale, order.argsort()
    other = oracles.Graph(
        (graph.h @ turn)[order], names[graph.y[order]], place[graph.edges],
        np.linalg.solve(turn, graph.weight.T).T, rng.permutation(5)[graph.decided[order]],
    )  # fmt: skip
    one, two = (of_graphs.values_of_features(moments_of(g, 5)) for g in (graph, other))
    torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9)
    assert overlaps([other]) == pytest.approx(overlaps([graph]), abs=1e-12)
    assert gaps([other]) == pytest.approx(gaps([graph]), abs=1e-12)
    moved = moments_of(other._replace(h=other.h + 10**scale), 5)
    torch.testing.assert_close(of_graphs.values_of_features(moved)[:2], one[:2], rtol=1e-7, atol=1e-7)


def averages_of(graphs):
    """Of values by the definitions, in the order of the quantities."""
    values = [
        *zip(*(oracles.values_of_features(graph, 5) for graph in graphs), strict=True),
        [oracles.overlap_of(graph, 5) for graph in graphs],
        [oracles.gap_of(graph, 5) for graph in graphs],
    ]
    sums = torch.tensor([oracles.sums(v) for v in values], dtype=torch.float64)
    return GraphAverages(sums), dict(zip(QUANTITIES, values, strict=True))


def test_averages_and_their_errors(graphs):
    averages, values_of = averages_of(graphs)
    for quantity, values in values_of.items():
        error = np.std(values, ddof=1) / len(values) ** 0.5
        mean = measured.mean_over_graphs(quantity)(averages)
        assert float(mean) == pytest.approx(np.mean(values), rel=1e-10)
        found = measured.standard_error_over_graphs(quantity)(averages)
        assert float(found) == pytest.approx(error, rel=1e-8)
        assert int(measured.graphs_with(quantity)(averages)) == len(graphs)


def test_a_value_is_of_its_graph_alone(graphs):
    values = of_graphs.values_of_features(together(graphs))
    parts = [of_graphs.values_of_features(together(p)) for p in (graphs[:4], graphs[4:5], graphs[5:])]
    torch.testing.assert_close(torch.cat(parts, 1), values, rtol=1e-12, atol=1e-12)
    assert of_graphs.values_of_features(GraphMoments.empty(5)).shape == (3, 0)
    none = torch.zeros(0, 5, 5, dtype=torch.int64)
    assert len(of_graphs.overlaps(none)) == len(of_graphs.condition_gaps(none.double())) == 0


def blurred(moments, number, *names):
    """With this number in some places."""
    return replace(moments, **{n: torch.full_like(getattr(moments, n), number) for n in names})


def spoilt(graph):
    """Moments of graphs that lack values, with which of the three values each has."""
    good = moments_of(graph, 5)
    flat = graph._replace(h=np.zeros_like(graph.h))
    one = graph._replace(y=np.zeros_like(graph.y))
    unseen = graph._replace(h=graph.h[:0], y=graph.y[:0])
    return {
        "collapsed": (blurred(good, 0, "within", "noise", "projected"), [0, 0, 0]),
        "means coincide": (moments_of(flat, 5), [0, 0, 0]),
        "one class": (moments_of(one, 5), [0, 0, 0]),
        "no node": (blurred(moments_of(unseen, 5), 0, "signal", "noise"), [0, 0, 0]),
        "W not known": (blurred(good, math.nan, "signal", "noise"), [1, 1, 0]),
        "NaN": (blurred(good, math.nan, "gram", "within", "projected"), [0, 0, 1]),
        "overflow": (blurred(good, math.inf, "gram", "within"), [0, 0, 1]),
        "overflow of the spread": (blurred(good, math.inf, "within", "projected"), [0, 0, 1]),
    }


def test_graphs_without_a_value_leave_those_of_others_alone(graphs):
    good = together(graphs)
    values = of_graphs.values_of_features(good)
    for name, (moments, has) in spoilt(graphs[0]).items():
        alone = of_graphs.values_of_features(moments)
        assert alone.isfinite()[:, 0].int().tolist() == has, name
        mixed = of_graphs.values_of_features(GraphMoments.cat([moments, good, moments]))
        expected = torch.cat([alone, values, alone], 1)
        torch.testing.assert_close(mixed, expected, rtol=1e-12, atol=1e-12, equal_nan=True, msg=name)


def test_tables_without_a_value(graphs):
    good = torch.from_numpy(oracles.confusion(graphs[0], 5))
    one_class = good * (torch.arange(5) == 2)[:, None]
    tables = torch.stack([good, -torch.ones_like(good), one_class, torch.zeros_like(good), good])
    found = of_graphs.overlaps(tables)
    assert found.isnan().tolist() == [False, True, True, True, False]
    assert found[0] == found[4] == oracles.overlap(graphs[0].decided, graphs[0].y, 5)
    variances = torch.tensor([[[0.04, 0.0], [0.01, 0.0]], [[math.nan, 0.0], [0.01, 0.0]]])
    assert of_graphs.condition_gaps(variances).tolist() == pytest.approx([0.2, math.nan], nan_ok=True)


def test_why_there_is_no_average(graphs):
    none = GraphAverages(torch.zeros(5, 3))
    said = {
        "within_between_ratio_log10": "no graph has two classes whose means differ",
        "within_between_pinv_log10": "no graph has two classes whose means differ",
        "snr": "no weight that these features meet is known",
        "overlap": "the network's decisions are not known, or no graph has nodes of two classes",
        "condition_gap": "no graph has edges, labels of all its nodes, and two classes",
    }
    assert tuple(said) == QUANTITIES
    one = averages_of(graphs[:1])[0]
    for quantity, text in said.items():
        with pytest.raises(UndefinedMeasure, match=text) as raised:
            measured.mean_over_graphs(quantity)(none)
        assert isinstance(raised.value, NothingToCompare) == (quantity == "snr")
        assert measured.mean_over_graphs(quantity)(one).isfinite()
        for averages, few in ((one, "^one graph has a value"), (none, "^no graph has a value")):
            with pytest.raises(NothingToCompare, match=few):
                measured.standard_error_over_graphs(quantity)(averages)
    with pytest.raises(ValueError, match=r"^Expected one of within_between_ratio_log10, .* got 'nc1'"):
        measured.mean_over_graphs("nc1")


@for_all(st.data())
@settings(max_examples=40, deadline=None)
def test_overlap_is_that_of_the_best_assignment(data):
    size = data.draw(st.integers(2, 9))
    y = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=2, max_size=60)))
    y[:2] = 0, size - 1
    decided = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=len(y), max_size=len(y))))
    found = float(of_graphs.overlap(torch.tensor(decided), torch.tensor(y), size))
    assert found == pytest.approx(oracles.overlap(decided, y, size), abs=1e-12)


@pytest.mark.parametrize("kind", ["random", "clear", "products"])
def test_many_classes(kind):
    rng = np.random.default_rng(0)
    table = {
        "random": rng.integers(0, 100, (50, 50)),
        "clear": 90 * np.eye(50, dtype=int)[rng.permutation(50)] + rng.integers(0, 9, (50, 50)),
        "products": np.outer(np.arange(50), np.arange(50)),
    }[kind]
    columns = matching.most_agreeing(table)
    assert sorted(columns) == list(range(50))
    best = table[oracles.linear_sum_assignment(-table)].sum()
    assert table[np.arange(50), columns].sum() == best
