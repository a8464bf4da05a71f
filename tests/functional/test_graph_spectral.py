"""Spectral methods step by step: two communities by power iteration."""

import re

import numpy as np
import pytest
import torch
from support import graph_oracles as oracles

from lightning_nc.functional import graph as of_graphs

N, STEPS = 200, 9


def drawn(heterophilic=False, seed=0):
    p, q = (0.1, 0.01)[:: -1 if heterophilic else 1]
    random = torch.Generator().manual_seed(seed)
    return of_graphs.sample_stochastic_block_model(N, 2, p, q, random)


def dense(matrix):
    return torch.stack([matrix.times(column) for column in torch.eye(N).double()], 1).numpy()


def test_matrices_are_the_dense_ones():
    edges, _ = drawn()
    edges = edges[:, (edges > 0).all(0)]  # the first node is isolated
    laplacian, listed = of_graphs.normalized_laplacian(edges, N), edges.numpy()
    expected = oracles.normalized_laplacian(listed, N)
    np.testing.assert_allclose(dense(laplacian), expected, atol=1e-14)
    two = torch.tensor(2.0).double()
    np.testing.assert_allclose(dense(laplacian.shifted(two)), 2 * np.eye(N) - expected, atol=1e-14)
    for heterophilic, sign in ((False, 1), (True, -1)):
        hessian = of_graphs.bethe_hessian(edges, N, heterophilic)
        np.testing.assert_allclose(dense(hessian), oracles.bethe_hessian(listed, N, sign), rtol=1e-13)


def dense_steps(matrix, removed, start):
    """Of B itself, by dense products; ``removed`` of its eigenvectors from the last one on."""
    vectors = np.linalg.eigh(matrix)[1][:, len(matrix) - removed :]
    steps, vector = [], start
    for _ in range(STEPS):
        vector = matrix @ vector
        vector = vector - vectors @ (vectors.T @ vector)
        vector = vector / np.linalg.norm(vector)
        steps.append(vector)
    return np.array(steps).T


@pytest.mark.parametrize("heterophilic", [False, True])
@pytest.mark.parametrize("name", ["laplacian", "bethe_hessian"])
def test_steps_are_those_of_dense_matrices(name, heterophilic, monkeypatch):
    start = np.random.default_rng(0).standard_normal(N)
    at = "lightning_nc.functional.graph.spectral._random_like"
    monkeypatch.setattr(at, lambda vector, generator: torch.from_numpy(start))
    edges, _ = drawn(heterophilic)
    if name == "laplacian":
        found = of_graphs.laplacian_steps(edges, N, STEPS, heterophilic)
        matrix = oracles.normalized_laplacian(edges.numpy(), N)
    else:
        found = of_graphs.bethe_hessian_steps(edges, N, STEPS, heterophilic)
        matrix = oracles.bethe_hessian(edges.numpy(), N, -1 if heterophilic else 1)
    shifted = np.linalg.norm(matrix, 2) * np.eye(N) - matrix
    if not heterophilic:
        expected = dense_steps(shifted, 1, start)
    elif name == "laplacian":
        first = np.linalg.eigh(matrix)[1][:, :1]
        start = start - first @ (first.T @ start)
        expected = dense_steps(matrix, 0, start)
    else:
        expected = dense_steps(shifted, 0, start)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("heterophilic", [False, True])
@pytest.mark.parametrize("method", [of_graphs.laplacian_steps, of_graphs.bethe_hessian_steps])
def test_steps_find_the_communities(method, heterophilic):
    overlaps, ratios = [], []
    for seed in range(2):
        edges, labels = drawn(heterophilic, seed)
        steps = method(edges, N, 60, heterophilic, torch.Generator().manual_seed(seed))
        overlaps.append(float(of_graphs.overlap((steps[:, -1] > 0).long(), labels, 2)))
        graphs = (
            oracles.Graph(s[:, None], labels.numpy(), None, None, None)
            for s in steps.T[[0, 8, -1]].numpy()
        )
        ratios.append([oracles.trace_ratio(graph) for graph in graphs])
    assert np.mean(overlaps) > 0.9
    first, ninth, last = np.mean(ratios, 0)
    assert first > 30 * ninth > 30 * last


def test_random_numbers_are_those_of_the_generator():
    edges, _ = drawn()
    one, two = (
        of_graphs.laplacian_steps(edges, N, 3, generator=torch.Generator().manual_seed(5)) for _ in "ab"
    )
    assert torch.equal(one, two)


@pytest.mark.parametrize("method", [of_graphs.laplacian_steps, of_graphs.bethe_hessian_steps])
def test_bad_input_is_refused(method):
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    for listed, steps, text in (
        (edges[:, :3], 3, "Expected each edge in both directions, but got some in one only. Is the"),
        (edges, 0, "Expected at least one step, but got 0. Is it the number of layers?"),
        (edges + 1, 3, "Expected edges between nodes 0 to 2, but got nodes 1 to 3."),
    ):
        with pytest.raises(ValueError, match=re.escape(text)):
            method(listed, 3, steps)
