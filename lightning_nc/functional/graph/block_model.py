"""Graphs with communities: drawn from a stochastic block model, or with just the same degrees.

N nodes in C classes of n = N/C nodes each; two nodes of one class are joined with probability p, two of
different classes with probability q.
"""

from itertools import combinations

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_nc.functional.graph.expected import check_probabilities

_AT_ONCE = 2**20  # pairs of nodes


def sample_stochastic_block_model(
    num_nodes: int,
    num_classes: int,
    p: int | float,
    q: int | float,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "2 E"], Int[Tensor, " N"]]:
    """A graph with communities, in which each pair of nodes is joined with just its stated probability.

    Conventions: every unordered pair is drawn **once**. The published generator draws both triangles of
    the matrix and takes the maximum, so that its real probabilities are :math:`2p - p^2` and
    :math:`2q - q^2`, nearly twice those that it states: to compare with it, pass those here.

    Args:
        num_nodes: N.
        num_classes: C, which divides N.
        p: Of an edge within a class.
        q: Of an edge between classes.
        generator: Of random numbers, on the CPU; None: the global one.

    Returns:
        Edges in both directions, without loops, and the class of each node, in ascending order. Nodes
        may be isolated.

    Raises:
        ValueError: If C does not divide N, or p or q is no probability.

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> edge_index, labels = sample_stochastic_block_model(4, 2, p=1, q=0, generator=random)
        >>> edge_index, labels
        (tensor([[1, 3, 0, 2],
                [0, 2, 1, 3]]), tensor([0, 0, 1, 1]))

    References:
        Kothapalli, Tirer & Bruna (2023), "A neural collapse perspective on feature evolution in graph
        neural networks", by their code.
    """
    labels = _balanced_labels(num_nodes, num_classes)
    check_probabilities(p, q)
    nodes, found = torch.arange(num_nodes), []
    for rows in nodes.split(max(1, _AT_ONCE // num_nodes)):
        drawn = torch.rand(len(rows), num_nodes, dtype=torch.float64, generator=generator)
        same = labels[rows, None] == labels
        joined = (drawn < torch.where(same, p, q).double()) & (nodes < rows[:, None])
        i, j = joined.nonzero(as_tuple=True)
        found.append(torch.stack([rows[i], j]))
    below = torch.cat(found, 1)
    return torch.cat([below, below.flip(0)], 1), labels


def planted_regular_graph(
    num_nodes: int,
    num_classes: int,
    within: int,
    between: int,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "2 E"], Int[Tensor, " N"]]:
    """A random graph in which all nodes have equally many neighbors in each class, as collapse asks.

    Every node has just ``within`` neighbors in its own class and ``between`` in each other one, so that
    :func:`~lightning_nc.functional.graph.condition_gap` is exactly 0.

    Conventions: no loops, no edge twice. Each class, and each pair of classes, has its nodes in a
    random order on a ring, and neighbors at random distances along it: random, but not uniform among
    all graphs with these degrees. It may fall into parts that are not connected.

    Args:
        num_nodes: N.
        num_classes: C, which divides N.
        within: Neighbors of a node in its own class.
        between: Neighbors of a node in each other class.
        generator: Of random numbers, on the CPU; None: the global one.

    Returns:
        Edges in both directions, and the class of each node, in ascending order.

    Raises:
        ValueError: If C does not divide N, or no graph has these degrees.

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> edge_index, labels = planted_regular_graph(6, 2, within=2, between=0, generator=random)
        >>> edge_index[:, edge_index[1] == 0].T  # the others of its class
        tensor([[1, 0],
                [2, 0]])
    """
    labels = _balanced_labels(num_nodes, num_classes)
    size = num_nodes // num_classes
    _check_degrees(size, num_classes, within, between)

    def order() -> Int[Tensor, " n"]:
        return torch.randperm(size, generator=generator)

    parts = []
    for c in range(num_classes):
        steps = 1 + torch.randperm((size - 1) // 2, generator=generator)[: within // 2]
        ring = order() + c * size
        both_ways = torch.cat([steps, -steps, steps.new_full((within % 2,), size // 2)])
        parts.append(_along_rings(ring, ring, both_ways))
    for c, other in combinations(range(num_classes), 2):
        edges = _along_rings(order() + c * size, order() + other * size, order()[:between])
        parts += [edges, edges.flip(0)]
    edge_index = torch.cat(parts, 1)
    return edge_index[:, (edge_index[0] + num_nodes * edge_index[1]).argsort()], labels


def _along_rings(
    ring: Int[Tensor, " n"], other: Int[Tensor, " n"], steps: Int[Tensor, " b"]
) -> Int[Tensor, "2 E"]:
    """From the node at each place of a ring to those at the place so many steps on in the other."""
    places = (torch.arange(len(ring))[:, None] + steps) % len(ring)
    return torch.stack([ring[:, None].expand_as(places).flatten(), other[places].flatten()])


def _balanced_labels(num_nodes: int, num_classes: int) -> Int[Tensor, " N"]:
    if num_classes < 1 or num_nodes < num_classes or num_nodes % num_classes:
        raise ValueError(
            f"Expected classes of equal size, but got {num_nodes} nodes for {num_classes} classes. "
            "Choose a number of nodes that the number of classes divides."
        )
    return torch.arange(num_classes).repeat_interleave(num_nodes // num_classes)


def _check_degrees(size: int, num_classes: int, within: int, between: int) -> None:
    if not 0 <= within < size or not 0 <= between <= size:
        raise ValueError(
            f"Expected 0 to {size - 1} neighbors in the class and 0 to {size} in each other one, since "
            f"a class has {size} nodes, but got {within} and {between}. Are they shares? Pass numbers."
        )
    if within * size % 2:
        raise ValueError(
            "Expected an even number of neighbors in the class, as an edge has two ends and a class "
            f"has {size} nodes, but got {within}. Take one more or less, or classes of even size."
        )
    if within + between * (num_classes - 1) == 0:
        raise ValueError(
            "Expected neighbors, but got none within classes and none between. Without them there is "
            "nothing to average."
        )
