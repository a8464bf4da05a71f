"""Graphs themselves: neighborhood means, the condition for collapse, block models and what they do."""

import math
import re
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from support import graph_oracles as oracles

from lightning_nc.functional import graph as of_graphs

RINGS = [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4)]
MATCHING = [(0, 4), (1, 5), (2, 6), (3, 7)]
TWO = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])


def both_ways(pairs):
    edges = torch.tensor(pairs).T
    return torch.cat([edges, edges.flip(0)], 1)


def test_two_rings_with_a_perfect_matching():
    h = torch.where(TWO == 0, 1.0, -1.0)[:, None]
    means = of_graphs.neighborhood_mean(h, both_ways(RINGS + MATCHING)).flatten()
    torch.testing.assert_close(means, h.flatten().double() / 3, rtol=1e-15, atol=0)
    assert means[:4].var() == means[4:].var() == 0
    assert of_graphs.condition_gap(both_ways(RINGS + MATCHING), TWO) == 0
    broken = both_ways(RINGS + MATCHING[1:])
    assert of_graphs.neighborhood_mean(h, broken)[0] == 1
    assert float(of_graphs.condition_gap(broken, TWO)) == pytest.approx(
        np.std([0, 1 / 3, 1 / 3, 1 / 3])
    )


@st.composite
def some_edges(draw):
    num_nodes = draw(st.integers(2, 12))
    ends = st.integers(0, num_nodes - 1)
    pairs = draw(st.lists(st.tuples(ends, ends), min_size=1, max_size=40))
    return num_nodes, np.array(pairs).T


@for_all(graph=some_edges(), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_means_and_gap_are_those_of_dense_matrices(graph, seed):
    """With directed edges, loops, edges that are listed twice, and isolated nodes."""
    (num_nodes, edges), rng = graph, np.random.default_rng(seed)
    h, y = rng.standard_normal((num_nodes, 3)), rng.integers(0, 3, num_nodes)
    listed = torch.from_numpy(edges)
    found = of_graphs.neighborhood_mean(torch.from_numpy(h), listed).numpy()
    np.testing.assert_allclose(found, oracles.neighborhood_mean(h, edges), rtol=1e-12, atol=1e-12)
    gap = float(of_graphs.condition_gap(listed, torch.from_numpy(y)))
    assert gap == pytest.approx(oracles.condition_gap(edges, y), abs=1e-12)
    order, names = torch.from_numpy(rng.permutation(num_nodes)), torch.from_numpy(rng.permutation(5))
    renamed = torch.empty(num_nodes, dtype=torch.int64).scatter(0, order, names[torch.from_numpy(y)])
    assert float(of_graphs.condition_gap(order[listed], renamed, 5)) == pytest.approx(gap, abs=1e-12)


def test_isolated_nodes_are_left_out():
    edges, labels = both_ways([(0, 1), (2, 3)]), torch.tensor([0, 1, 0, 1, 0, 2])
    assert of_graphs.condition_gap(edges, labels) == 0
    rows = of_graphs.neighborhood_mean(torch.ones(6, 2), edges)
    assert rows[:4].eq(1).all()
    assert rows[4:].isnan().all()


@pytest.mark.parametrize(
    ("sizes", "within", "between"),
    [
        ((6, 2), 2, 1),
        ((12, 2), 3, 6),
        ((12, 2), 5, 0),
        ((15, 3), 4, 5),
        ((20, 4), 0, 3),
        ((10, 1), 9, 0),
    ],
)
def test_planted_graphs_have_the_same_degrees(sizes, within, between):
    num_nodes, num_classes = sizes
    random = torch.Generator().manual_seed(0)
    edges, labels = of_graphs.planted_regular_graph(num_nodes, num_classes, within, between, random)
    dense = oracles.adjacency(edges.numpy(), num_nodes)
    assert dense.max() == 1
    assert (dense == dense.T).all()
    assert not dense.diagonal().any()
    counts = dense @ np.eye(num_classes)[labels]
    expected = np.where(np.eye(num_classes, dtype=bool), within, between)[labels]
    np.testing.assert_array_equal(counts, expected)
    assert of_graphs.condition_gap(edges, labels) == 0


@pytest.mark.parametrize(("within", "between"), [(2, 0), (0, 2)])
def test_planted_graphs_are_random(within, between):
    random = torch.Generator().manual_seed(0)
    graphs = [of_graphs.planted_regular_graph(12, 2, within, between, random)[0] for _ in range(20)]
    assert len({tuple(edges[0].tolist()) for edges in graphs}) > 15


@pytest.mark.parametrize("size", [49, 100, 333])
def test_equal_shares_differ_by_nothing(size):
    """The mean of as many sixths need not be a sixth."""
    random = torch.Generator().manual_seed(0)
    edges, labels = of_graphs.planted_regular_graph(3 * size, 3, 4, 1, random)
    assert of_graphs.condition_gap(edges, labels) == 0


@pytest.mark.parametrize("num_classes", [2, 3])
def test_sampled_graphs_have_the_stated_probabilities(num_classes):
    """By the numbers of edges of each kind, four standard deviations to both sides."""
    n, p, q = 120, 0.2, 0.03
    random = torch.Generator().manual_seed(0)
    edges, labels = of_graphs.sample_stochastic_block_model(n * num_classes, num_classes, p, q, random)
    dense = oracles.adjacency(edges.numpy(), n * num_classes)
    assert dense.max() == 1
    assert (dense == dense.T).all()
    assert not dense.diagonal().any()
    assert torch.bincount(labels).tolist() == [n] * num_classes
    blocks = dense.reshape(num_classes, n, num_classes, n).sum((1, 3))
    for c in range(num_classes):
        pairs = n * (n - 1) / 2
        assert abs(blocks[c, c] / 2 - p * pairs) < 4 * math.sqrt(p * (1 - p) * pairs)
        for other in range(c):
            assert abs(blocks[c, other] - q * n * n) < 4 * math.sqrt(q * (1 - q) * n * n)


def test_pairs_are_drawn_independently(monkeypatch):
    """Few at a time, and each with its own number."""
    monkeypatch.setattr("lightning_nc.functional.graph.block_model._AT_ONCE", 4)
    random = torch.Generator().manual_seed(0)
    counts = np.zeros((4, 4, 4, 4))
    for _ in range(500):
        edges, _ = of_graphs.sample_stochastic_block_model(4, 2, 0.5, 0.25, random)
        dense = oracles.adjacency(edges.numpy(), 4)
        counts += dense[:, :, None, None] * dense
    chance = {(i, j): 0.5 if (i < 2) == (j < 2) else 0.25 for i, j in combinations(range(4), 2)}
    for one, two in combinations(chance, 2):
        assert counts[(*one, *two)] / 500 == pytest.approx(chance[one] * chance[two], abs=0.08)


@pytest.mark.parametrize(
    ("num_classes", "n", "p", "q", "above"),
    [(2, 200, 0.5, 0.1, 1.02), (2, 500, 0.025, 0.0017, 1.09), (4, 100, 0.3, 0.1, 1.02)],
)
def test_averaging_on_sampled_graphs(num_classes, n, p, q, above):
    """Within-class ratio of features without class means; then the between part of far ones."""
    torch.manual_seed(0)
    num_nodes, ratios = num_classes * n, []
    for _ in range(3):
        edges, labels = of_graphs.sample_stochastic_block_model(num_nodes, num_classes, p, q)
        h = torch.randn(num_nodes, 24).double()
        means = 100 * torch.randn(num_classes, 24).double()
        (within, _), (of_means, _) = (
            parts(f, labels) for f in (h, of_graphs.neighborhood_mean(h, edges))
        )
        near, far = (
            parts(f, labels)[1]
            for f in (h + means[labels], of_graphs.neighborhood_mean(means[labels], edges))
        )
        ratios.append([of_means / within, far / near])
    within_ratio, between = np.mean(ratios, 0)
    expected = of_graphs.effective_within_ratio(p, q, n, num_classes)
    assert within_ratio == pytest.approx(above * expected, rel=0.03)
    assert between == pytest.approx(of_graphs.between_factor(p, q, num_classes), rel=0.03)
    assert of_graphs.expected_adjacency_ratio(p, q, n, num_classes) < 0.8 * expected


def test_expected_adjacency_averages_features():
    n, p, q = 30, 0.4, 0.1
    labels = np.repeat([0, 1, 2], n)
    dense = np.where(labels[:, None] == labels, p, q)
    row = dense[0] / dense[0].sum()
    assert of_graphs.expected_adjacency_ratio(p, q, n, 3) == pytest.approx((row**2).sum(), rel=1e-12)


def parts(h, labels):
    """Within-class and between-class variance of the nodes that are not isolated."""
    kept = ~h.isnan().any(1)
    graph = oracles.Graph(h[kept].numpy(), labels[kept].numpy(), None, None, None)
    return [float(np.trace(covariance)) for covariance in oracles.covariances(graph)]


@pytest.mark.parametrize(("num_nodes", "num_classes"), [(4, 2), (4, 4), (6, 2)])
def test_what_the_bound_is_the_probability_of(num_nodes, num_classes):
    """By all graphs that there are: equal numbers of neighbors, one way for each two classes."""

    def holds(table, y):
        constant = {
            (c, other): len(set(table[y == c, other])) == 1
            for c, other in product(range(num_classes), repeat=2)
        }
        return all(constant[pair] for pair in one_way), all(constant.values())

    one_way = list(combinations(range(num_classes), 2))
    bound = of_graphs.condition_probability_bound(num_nodes, num_classes, 0.3)
    found, all_numbers = oracles.probability(num_nodes, num_classes, 0.7, 0.3, holds)
    assert bound == pytest.approx(found, rel=1e-12)
    assert all_numbers <= bound * (1 + 1e-12)


def test_shares_may_be_equal_more_often_than_the_bound_says():
    def no_gap(table, y):
        edges = table.sum(1) > 0
        shares = (table / table.sum(1, keepdims=True).clip(1))[edges]
        return all(np.ptp(shares[y[edges] == c], 0).max() < 1e-12 for c in set(y[edges].tolist()))

    found = oracles.probability(4, 2, 0.7, 0.3, no_gap)
    assert found > of_graphs.condition_probability_bound(4, 2, 0.3)


def test_the_bound_where_it_is_small():
    q = 0.25 * math.log(1000) / 1000
    assert f"{of_graphs.condition_probability_bound(1000, 2, q):.3e}" == "2.177e-188"
    log10 = of_graphs.condition_probability_bound_log10
    assert log10(1000, 4, 0.01) == pytest.approx(6 * log10(500, 2, 0.01), rel=1e-12)
    assert log10(5000, 5, 0.01) == pytest.approx(-9003.908832820393, rel=1e-9)  # by 40 digits
    assert of_graphs.condition_probability_bound(5000, 5, 0.01) == 0
    assert log10(10, 2, 0) == log10(10, 2, 1) == 0


H, EDGES = torch.ones(3, 2), both_ways([(0, 1), (1, 2)])
MEAN, GAP, OVERLAP = of_graphs.neighborhood_mean, of_graphs.condition_gap, of_graphs.overlap
SAMPLE, PLANTED = of_graphs.sample_stochastic_block_model, of_graphs.planted_regular_graph
NUMBERS = torch.tensor([0, 0, 1])


WITHIN, BOUND = of_graphs.effective_within_ratio, of_graphs.condition_probability_bound


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: MEAN(H, EDGES.T), "Expected edges as two rows, from where to where, but got the"),
        (lambda: MEAN(H, EDGES[:, :0]), "Expected edges, but got none among 3 nodes. Without"),
        (lambda: MEAN(H, EDGES + 1), "Expected edges between nodes 0 to 2, but got nodes 1 to 3."),
        (lambda: MEAN(H, EDGES - 1), "Expected edges between nodes 0 to 2, but got nodes -1 to 1."),
        (lambda: GAP(EDGES + 1, NUMBERS), "Expected edges between nodes 0 to 2, but got nodes 1"),
        (lambda: GAP(EDGES, NUMBERS - 1), "Expected labels from 0 to 0, but got -1 to 0. Are there"),
        (lambda: GAP(EDGES, NUMBERS, 1), "Expected labels from 0 to 0, but got 0 to 1. Raise"),
        (lambda: OVERLAP(NUMBERS[:2], NUMBERS, 2), "one decision for each of 3 nodes, but got 2."),
        (lambda: OVERLAP(NUMBERS + 1, NUMBERS, 2), "decisions from 0 to 1, but got 1 to 2. Raise"),
        (lambda: OVERLAP(NUMBERS, NUMBERS * 2, 2), "labels from 0 to 1, but got 0 to 2. Raise"),
        (lambda: OVERLAP(NUMBERS, NUMBERS * 0, 2), "nodes of two classes at least, but got 3 of a"),
        (lambda: SAMPLE(7, 2, 0.5, 0.1), "classes of equal size, but got 7 nodes for 2 classes."),
        (lambda: SAMPLE(6, 2, 3.75, 0.1), "probabilities between 0 and 1, but got p = 3.75 and q"),
        (lambda: PLANTED(7, 2, 2, 1), "classes of equal size, but got 7 nodes for 2 classes."),
        (lambda: PLANTED(6, 2, 3, 1), "Expected 0 to 2 neighbors in the class and 0 to 3 in each"),
        (lambda: PLANTED(6, 2, 2, 4), "since a class has 3 nodes, but got 2 and 4. Are they shares?"),
        (lambda: PLANTED(6, 2, 1, 1), "Expected an even number of neighbors in the class, as an"),
        (lambda: PLANTED(6, 2, 0, 0), "Expected neighbors, but got none within classes and none"),
        (lambda: of_graphs.between_factor(0, 0), "nodes with neighbors, but got p = 0, q = 0 and"),
        (lambda: WITHIN(0.1, -1, 9), "probabilities between 0 and 1, but got p = 0.1 and q = -1"),
        (lambda: BOUND(7, 2, 0.1), "Expected two classes at least, of equal size, but got 7 nodes for"),
        (lambda: BOUND(8, 1, 0.1), "but got 8 nodes for 1 classes."),
        (lambda: BOUND(8, 2, 2), "Expected probabilities between 0 and 1, but got p = 2 and q = 2."),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        call()
