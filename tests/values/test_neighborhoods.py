"""Means over neighbors, without a dense matrix and without waiting for the device."""

import numpy as np
import pytest
import torch
from support import graph_oracles as oracles

from lightning_nc.values.neighborhoods import Neighborhoods

NODES = 400
HUB, LOOP, TWICE, ALONE = 0, 1, 2, NODES - 1


@pytest.fixture(scope="module")
def web():
    """To one node go 3,000 edges, one is its own neighbor, an edge is listed twice, a node has none."""
    rng = np.random.default_rng(0)
    edges = np.concatenate(
        [
            np.stack([rng.integers(0, NODES - 1, 3_000), np.full(3_000, HUB)]),
            [[LOOP, 5, 6, 6], [LOOP, TWICE, TWICE, TWICE]],
            np.stack([rng.integers(0, NODES - 1, 900), rng.integers(3, NODES - 1, 900)]),
        ],
        axis=1,
    )
    return edges[:, rng.permutation(edges.shape[1])]


@pytest.fixture(scope="module")
def averaging(web):
    """The matrix of the means, transposed."""
    dense = oracles.adjacency(web, NODES)
    return (dense / dense.sum(0).clip(1)).T


def of(edges, num_nodes=NODES):
    return Neighborhoods(torch.from_numpy(edges), num_nodes)


def normal(seed=0, width=3):
    return torch.randn(NODES, width, generator=torch.Generator().manual_seed(seed))


ROWS = {
    "around 0": lambda: normal(),
    "around 10": lambda: normal() + 10,
    "around a million": lambda: normal() + 1e6,
    "large": lambda: normal() * 1e30,
    "tiny": lambda: normal() * 1e-38,
    "below what float32 holds in full": lambda: normal() * 1e-42,
    "zeros": lambda: torch.zeros(NODES, 3),
    "all alike": lambda: torch.full((NODES, 3), 1 / 3),
    "columns of different size": lambda: normal() * torch.tensor([1e-20, 1, 1e20]),
    "one row far larger": lambda: normal().index_fill(0, torch.tensor([9]), 1e4),
    "float16": lambda: (normal() + 10).half(),
    "bfloat16": lambda: (normal() + 10).bfloat16(),
    "float64": lambda: normal().double() / 3 + 1e6,
    "one column": lambda: normal(width=1),
    "no column": lambda: normal(width=0),
}


@pytest.mark.parametrize("rows", ROWS)
def test_means_are_those_of_a_dense_product(rows, web, averaging):
    h = ROWS[rows]()
    before = h.clone()
    found, expected = of(web).mean(h), averaging @ h.double().numpy()
    assert found.dtype == torch.float64
    assert torch.equal(h, before)
    largest = np.abs(h.double().numpy()).max(0)
    assert (np.abs(found.numpy() - expected) <= 1e-10 * largest).all()


def test_degrees_and_who_has_neighbors(web):
    found = of(web)
    ends = oracles.adjacency(web, NODES).sum(0)
    assert found.degrees.tolist() == ends.tolist()
    assert found.has_neighbors.tolist() == (ends > 0).tolist()
    assert ends[[HUB, LOOP, TWICE, ALONE]].tolist() == [3_000, 1, 3, 0]
    assert found.inside.all()
    assert found.missing.tolist() == [int((ends == 0).sum()), 0]


def test_a_loop_an_edge_twice_and_no_edge(web):
    h = normal()
    found = of(web).mean(h)
    assert torch.equal(found[LOOP], h[LOOP].double())
    torch.testing.assert_close(found[TWICE], (h[5] + 2 * h[6].double()) / 3, rtol=1e-12, atol=1e-12)
    assert not found[ALONE].any()


def test_edges_go_one_way():
    found = of(np.array([[0], [1]]), 2)
    assert found.mean(torch.tensor([[3.0], [5.0]])).tolist() == [[0.0], [3.0]]
    assert found.has_neighbors.tolist() == [False, True]


def test_the_order_of_edges_means_nothing(web):
    h = normal()
    turned = of(web[:, np.random.default_rng(1).permutation(web.shape[1])]).mean(h)
    torch.testing.assert_close(turned, of(web).mean(h), rtol=0, atol=1e-10)


def test_edges_to_nodes_that_are_not_there_count_for_nothing(web):
    strays = np.array([[0, NODES, -1, 5, 7, -3], [NODES, 0, 4, -1, NODES + 10**6, -3]])
    mixed = np.concatenate([strays[:, :3], web, strays[:, 3:]], 1)
    h, found = normal(), of(mixed)
    assert torch.equal(found.mean(h), of(web).mean(h))
    assert torch.equal(found.mean_in_float32(h), of(web).mean_in_float32(h))
    assert torch.equal(found.degrees, of(web).degrees)
    assert found.inside.sum() == web.shape[1]
    assert found.missing.tolist() == [int((~found.has_neighbors).sum()), 6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nodes", [1, 4])
def test_a_graph_without_edges(dtype, nodes):
    found = of(np.zeros((2, 0), dtype=np.int64), nodes)
    assert torch.equal(found.mean(torch.ones(nodes, 2, dtype=dtype)), torch.zeros(nodes, 2).double())
    assert not found.has_neighbors.any()
    assert found.missing.tolist() == [nodes, 0]


def test_a_graph_without_nodes():
    found = of(np.zeros((2, 0), dtype=np.int64), 0)
    assert found.mean(torch.ones(0, 2)).shape == (0, 2)
    assert found.missing.tolist() == [0, 0]


def test_numbers_of_edges_of_half_the_width(web):
    h = normal()
    short = Neighborhoods(torch.from_numpy(web).int(), NODES)
    assert torch.equal(short.mean(h), of(web).mean(h))


def test_means_in_float32(web, averaging):
    h = normal()
    found = of(web).mean_in_float32(h)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), torch.from_numpy(averaging) @ h.double(), rtol=0, atol=1e-6
    )
    assert not found[ALONE].any()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 3e38])
def test_what_is_wrong_with_a_row_is_seen_by_its_neighbors_alone(number, web, averaging):
    h = normal()
    h[8, 1] = number
    found = of(web).mean(h)
    touched = torch.from_numpy(averaging[:, 8] > 0)
    assert touched.any()
    assert not touched.all()
    expected = of(web).mean(normal())
    torch.testing.assert_close(found[~touched], expected[~touched], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[:, [0, 2]], expected[:, [0, 2]], rtol=0, atol=1e-10)
    if number != 3e38:
        assert not found[touched, 1].isfinite().any()


def test_shares_of_kinds_are_exact(web, averaging):
    labels = torch.randint(4, (NODES,), generator=torch.Generator().manual_seed(0))
    kinds = torch.nn.functional.one_hot(labels, 4).float()
    dense = oracles.adjacency(web, NODES)
    counted = dense.T @ kinds.double().numpy()
    assert of(web).shares(kinds).tolist() == (counted / dense.sum(0).clip(1)[:, None]).tolist()
