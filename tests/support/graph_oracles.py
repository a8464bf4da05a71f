"""Independent float64 reference for nodes of graphs, with dense matrices.

Numpy and scipy only, written from the papers' formulas with explicit loops, no shared code with the
library under test. Slow and obvious on purpose.

A graph has features h (N, d), classes y (N,), and edges as two rows, from where to where.
"""

import math
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import scipy.linalg
from scipy.optimize import linear_sum_assignment


class Graph(NamedTuple):
    """One graph with features, the weight that they enter, and decisions."""

    h: np.ndarray
    y: np.ndarray
    edges: np.ndarray
    weight: np.ndarray | None
    decided: np.ndarray | None

    @property
    def classes(self) -> list[int]:
        return sorted(set(self.y.tolist()))

    @property
    def mean_of_own_class(self) -> np.ndarray:
        """Each node's class mean."""
        return np.array([self.h[self.y == c].mean(0) for c in self.y])


def drawn(seed: int, classes: tuple[int, ...] = (0, 1, 2), d: int = 4, each: int = 9) -> Graph:
    """A dense random graph on a ring, of some of the classes, in a random order, off the origin."""
    rng = np.random.default_rng(seed)
    sizes = each + rng.integers(0, 4, len(classes))
    y = rng.permutation(np.repeat(classes, sizes))
    h = rng.standard_normal((max(classes) + 1, d))[y] + 0.5 * rng.standard_normal((len(y), d)) + 3
    dense = np.triu(rng.random((len(y), len(y))) < 0.4, 1) | np.eye(len(y), k=1, dtype=bool)
    weight = rng.standard_normal((max(classes) + 1, d))
    decided = np.where(rng.random(len(y)) < 0.6, y, rng.choice(classes, len(y)))
    return Graph(h, y, np.array(np.nonzero(dense | dense.T)), weight, decided)


def ring_of_classes(size: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges and classes: each node has two neighbors in its own class, and one in each other one."""
    y, edges = np.repeat(np.arange(num_classes), size), []
    for node, (c, other) in product(range(size), product(range(num_classes), repeat=2)):
        steps = (1, size - 1) if c == other else (0,)
        edges += [(other * size + (node + step) % size, c * size + node) for step in steps]
    return np.array(edges).T, y


def adjacency(edges: np.ndarray, num_nodes: int) -> np.ndarray:
    """Entry (i, j): how many edges go from i to j."""
    dense = np.zeros((num_nodes, num_nodes))
    for i, j in edges.T:
        dense[i, j] += 1
    return dense


def neighborhood_mean(h: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """H A D^-1 with nodes as columns, NaN of isolated nodes."""
    dense = adjacency(edges, len(h))
    with np.errstate(invalid="ignore"):
        return (h.T @ (dense / dense.sum(0))).T


def covariances(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Sw and Sb of the classes that the graph has."""
    means = np.array([graph.h[graph.y == c].mean(0) for c in graph.classes])
    x, m = graph.h - graph.mean_of_own_class, means - means.mean(0)
    return x.T @ x / len(x), m.T @ m / len(m)


def trace_ratio(graph: Graph) -> float:
    within, between = covariances(graph)
    return float(np.trace(within) / np.trace(between))


def pinv_trace(graph: Graph) -> float:
    within, between = covariances(graph)
    return float(np.trace(within @ scipy.linalg.pinv(between, rtol=1e-10)) / len(graph.classes))


def signal_to_noise(graph: Graph) -> float:
    mean = graph.mean_of_own_class
    signal, noise = graph.weight @ mean.T, graph.weight @ (graph.h - mean).T
    return float(np.linalg.norm(signal) / np.linalg.norm(noise))


def overlap(decided: np.ndarray, y: np.ndarray, num_classes: int) -> float:
    """By the assignment of scipy, less chance of the classes that there are."""
    table = np.zeros((num_classes, num_classes))
    for a, b in zip(y, decided, strict=True):
        table[a, b] += 1
    accuracy = table[linear_sum_assignment(-table)].sum() / len(y)
    chance = 1 / len(set(y.tolist()))
    return float((accuracy - chance) / (1 - chance))


def condition_gap(edges: np.ndarray, y: np.ndarray) -> float:
    """The largest population std of shares of neighbors, node by node."""
    dense, gaps = adjacency(edges, len(y)), []
    for c, other in product(set(y.tolist()), repeat=2):
        nodes = [j for j in range(len(y)) if y[j] == c and dense[:, j].sum() > 0]
        if nodes:
            gaps.append(np.std([dense[y == other, j].sum() / dense[:, j].sum() for j in nodes]))
    return float(max(gaps))


class Moments(NamedTuple):
    """What a graph leaves around its class means, by the definitions: the fields of GraphMoments."""

    counts: np.ndarray
    within: float
    gram: np.ndarray
    projected: np.ndarray
    signal: float
    noise: float


def moments(graph: Graph, num_classes: int) -> Moments:
    """Of all nodes of a graph, each with a class."""
    size, present = (num_classes, graph.h.shape[1]), graph.classes
    means, m = np.zeros(size), np.zeros(size)
    for c in present:
        means[c] = graph.h[graph.y == c].mean(0)
    for c in present:
        m[c] = means[c] - means[present].mean(0)
    x = graph.h - means[graph.y]
    along = x @ m.T
    signal = noise = math.nan
    if graph.weight is not None:
        signal = float(((means[graph.y] @ graph.weight.T) ** 2).sum())
        noise = float(((x @ graph.weight.T) ** 2).sum())
    counts = np.bincount(graph.y, minlength=num_classes)
    return Moments(counts, float((x**2).sum()), m @ m.T, along.T @ along, signal, noise)


def confusion(graph: Graph, num_classes: int) -> np.ndarray:
    """Nodes by class and decision."""
    table = np.zeros((num_classes, num_classes), dtype=int)
    for a, b in zip(graph.y, graph.decided, strict=True):
        table[a, b] += 1
    return table


def share_variances(graph: Graph, num_classes: int) -> np.ndarray:
    """Of a class's nodes, population variances of the shares of their neighbors."""
    dense = adjacency(graph.edges, len(graph.y))
    shares = (dense / dense.sum(0)).T @ np.eye(num_classes)[graph.y]
    variances = np.zeros((num_classes, num_classes))
    for c in graph.classes:
        variances[c] = shares[graph.y == c].var(0)
    return variances


def of_some(graph: Graph, keep: np.ndarray) -> Graph:
    """Some of the nodes, without edges."""
    return graph._replace(
        h=graph.h[keep], y=graph.y[keep], decided=graph.decided[keep], edges=np.zeros((2, 0), int)
    )


def nodes_that_count(graph: Graph, keep: np.ndarray, num_classes: int, min_count: int) -> Graph:
    """Those kept of classes that are there, less classes of which too few are left."""
    some = of_some(graph, keep & (graph.y >= 0) & (graph.y < num_classes))
    enough = np.bincount(some.y, minlength=num_classes) >= max(1, min_count)
    return of_some(some, enough[some.y])


def values_of_features(
    graph: Graph, num_classes: int, near: bool = False, min_count: int = 1
) -> tuple[float, float, float]:
    """Log10 of both forms of NC1, and the ratio of signal to noise; NaN where a graph has none."""
    keep = np.ones(len(graph.y), dtype=bool)
    if near:
        inside = ((graph.edges >= 0) & (graph.edges < len(keep))).all(0)
        edges = graph.edges[:, inside]
        keep = np.isin(np.arange(len(keep)), edges[1])
        graph = graph._replace(h=neighborhood_mean(graph.h, edges))
    part = nodes_that_count(graph, keep, num_classes, min_count)
    if len(part.classes) < 2 or not np.isfinite(part.h).all():
        return math.nan, math.nan, math.nan
    within, between = (np.trace(each) for each in covariances(part))
    if within == 0 or between == 0:
        return math.nan, math.nan, math.nan
    snr = math.nan if graph.weight is None else signal_to_noise(part)
    return math.log10(trace_ratio(part)), math.log10(pinv_trace(part)), snr


def overlap_of(graph: Graph, num_classes: int, min_count: int = 1) -> float:
    """Of the nodes that count and whose decision is known; NaN where these are of one class."""
    if graph.decided is None:
        return math.nan
    known = (graph.decided >= 0) & (graph.decided < num_classes)
    counting = nodes_that_count(graph, np.ones_like(known), num_classes, min_count)
    part = of_some(counting, (counting.decided >= 0) & (counting.decided < num_classes))
    return overlap(part.decided, part.y, num_classes) if len(part.classes) > 1 else math.nan


def gap_of(graph: Graph, num_classes: int) -> float:
    """The condition gap of a graph; NaN without a label, with a single class, and without edges."""
    lacking = ((graph.y < 0) | (graph.y >= num_classes)).any()
    if graph.edges is None or lacking or len(graph.classes) < 2:
        return math.nan
    inside = ((graph.edges >= 0) & (graph.edges < len(graph.y))).all(0)
    return condition_gap(graph.edges[:, inside], graph.y) if inside.any() else math.nan


def sums(values: list[float]) -> list[float]:
    """How many are finite, their sum, and that of their squares."""
    finite = [v for v in values if math.isfinite(v)]
    return [float(len(finite)), math.fsum(finite), math.fsum(v * v for v in finite)]


def normalized_laplacian(edges: np.ndarray, num_nodes: int) -> np.ndarray:
    dense = adjacency(edges, num_nodes)
    degrees = dense.sum(1)
    root = np.array([1 / math.sqrt(d) if d > 0 else 0.0 for d in degrees])
    return np.eye(num_nodes) - np.diag(root) @ dense @ np.diag(root)


def bethe_hessian(edges: np.ndarray, num_nodes: int, sign: int = 1) -> np.ndarray:
    dense = adjacency(edges, num_nodes)
    r = sign * math.sqrt(dense.sum(1).mean())
    return (r * r - 1) * np.eye(num_nodes) - r * dense + np.diag(dense.sum(1))


def probability(num_nodes: int, num_classes: int, p: float, q: float, holds) -> np.ndarray:
    """That each of some things holds of a stochastic block model: the sum over all graphs there are.

    ``holds`` tells which do, by the (N, C) table of the numbers of a node's neighbors in each class.
    """
    y = np.repeat(np.arange(num_classes), num_nodes // num_classes)
    pairs, total = list(combinations(range(num_nodes), 2)), 0
    chances = [p if y[i] == y[j] else q for i, j in pairs]
    for joined in product((False, True), repeat=len(pairs)):
        table = np.zeros((num_nodes, num_classes))
        for (i, j), edge in zip(pairs, joined, strict=True):
            if edge:
                table[i, y[j]] += 1
                table[j, y[i]] += 1
        chance = math.prod(c if e else 1 - c for c, e in zip(chances, joined, strict=True))
        total = total + chance * np.array(holds(table, y))
    return total
