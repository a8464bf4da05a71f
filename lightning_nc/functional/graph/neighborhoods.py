"""Means over the neighbors of nodes, and how far a graph is from admitting exact collapse of both."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_nc.functional.graph.matching import overlaps
from lightning_nc.values.neighborhoods import Neighborhoods
from lightning_nc.values.precision import accumulator_dtype


def neighborhood_mean(
    features: Float[Tensor, "N d"], edge_index: Int[Tensor, "two E"]
) -> Float[Tensor, "N d"]:
    r"""Of each node, the mean over its neighbors: :math:`H \hat A` with :math:`\hat A = A D^{-1}`.

    .. math:: \frac{1}{d_j} \sum_{i \to j} h_i

    Conventions: an edge goes from ``edge_index[0]`` to ``edge_index[1]``, as in PyTorch Geometric; of
    an undirected graph both directions are listed. An edge that is listed twice counts twice; a loop
    makes a node its own neighbor. A node without neighbors has no mean: its row is NaN, as with a dense
    matrix, where layers of PyTorch Geometric give 0.

    Args:
        features: One row for each node.
        edge_index: From where to where, one column for each edge.

    Returns:
        The means in float64, one row for each node.

    Raises:
        ValueError: If there is no edge, or one that joins nodes that are not there.

    Example:
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> neighborhood_mean(torch.tensor([[1.0], [5.0], [3.0]]), path).flatten()
        tensor([5., 2., 5.], dtype=torch.float64)

    References:
        Kothapalli, Tirer & Bruna (2023), "A neural collapse perspective on feature evolution in graph
        neural networks".
    """
    neighborhoods = neighborhoods_of(edge_index, len(features))
    means = neighborhoods.mean(features)
    return means.masked_fill(~neighborhoods.has_neighbors[:, None], torch.nan)


def condition_gap(
    edge_index: Int[Tensor, "two E"], labels: Int[Tensor, " N"], num_classes: int | None = None
) -> Float[Tensor, ""]:
    r"""How far a graph is from admitting exact collapse: 0 where it does.

    Where features have collapsed to their class means, their means over neighbors have collapsed, too,
    if all nodes of a class have the same **share** of their neighbors in each class; for class means
    in general position only then. What is measured is how much the shares vary:

    .. math:: \max_{c, c'} \operatorname{std}_{j \in c} \frac{|\{i \to j : y_i = c'\}|}{d_j}

    Conventions: population standard deviation. Nodes without neighbors are left out, and with them a
    class in which no node has any. Edges as in :func:`neighborhood_mean`. Equal shares suffice, equal
    numbers of neighbors are not needed. Range ``[0, 1/2]``; exactly 0, without rounding, where the
    condition holds.

    Args:
        edge_index: From where to where, one column for each edge.
        labels: The class of each node.
        num_classes: C; None: the largest label and one.

    Returns:
        The gap, a float64 scalar.

    Raises:
        ValueError: If there is no edge, or one that joins nodes that are not there, or a label is
            negative or not below ``num_classes``.

    Example:
        >>> square = torch.tensor([[0, 1, 1, 2, 2, 3, 3, 0], [1, 0, 2, 1, 3, 2, 0, 3]])
        >>> condition_gap(square, torch.tensor([0, 0, 1, 1]))  # one neighbor in each class
        tensor(0., dtype=torch.float64)
        >>> condition_gap(square, torch.tensor([0, 1, 1, 1]))  # one of three has no neighbor in 0
        tensor(0.2357, dtype=torch.float64)

    References:
        Kothapalli, Tirer & Bruna (2023), "A neural collapse perspective on feature evolution in graph
        neural networks", Condition C.
    """
    neighborhoods = neighborhoods_of(edge_index, len(labels))
    classes = _checked(labels, num_classes, "labels")
    of_class = one_hot(labels.long(), classes).to(accumulator_dtype(labels.device))
    connected = neighborhoods.has_neighbors
    shares, of_class = neighborhoods.mean(of_class)[connected], of_class[connected]
    rows = labels.long()[connected, None].expand_as(shares)
    # from the least one of the class on, so that equal shares differ by nothing
    least = shares.new_zeros(classes, classes).scatter_reduce(
        0, rows, shares, "amin", include_self=False
    )
    shares = shares - least[rows[:, 0]]
    counts = of_class.sum(0).clamp(min=1)[:, None]
    deviations = shares - (of_class.T @ shares / counts)[rows[:, 0]]
    return (of_class.T @ deviations.square() / counts).amax().sqrt()


def overlap(
    predicted: Int[Tensor, " M"], target: Int[Tensor, " N"], num_classes: int
) -> Float[Tensor, ""]:
    r"""Accuracy less chance, for the best order of the classes.

    .. math:: \frac{a - 1/C}{1 - 1/C}, \qquad a = \max_\pi \frac1N |\{j : \pi(\hat y_j) = y_j\}|

    On a block model the names of the communities mean nothing, so decisions count by the permutation
    that most nodes agree with: all permutations up to 4 classes, an exact assignment for more.

    Conventions: C is the number of classes that ``target`` has. Range ``[0, 1]`` with classes of equal
    size; 1 where all nodes are right. A class of more than N/C nodes lifts even a constant decision
    above 0.

    Args:
        predicted: What was decided for each node.
        target: The class of each node.
        num_classes: Of which both are numbers.

    Returns:
        The overlap, a float64 scalar.

    Raises:
        ValueError: If a number is negative or not below ``num_classes``, or ``target`` has fewer than
            two classes.

    Example:
        >>> overlap(torch.tensor([1, 1, 0, 1]), torch.tensor([0, 0, 1, 1]), num_classes=2)
        tensor(0.5000, dtype=torch.float64)

    References:
        Chen, Li & Bruna (2019), "Supervised community detection with line graph neural networks".
    """
    if predicted.shape != target.shape:
        raise ValueError(
            f"Expected one decision for each of {len(target)} nodes, but got {len(predicted)}. Are "
            "they of another graph?"
        )
    _checked(predicted, num_classes, "decisions")
    _checked(target, num_classes, "labels")
    if not bool((target != target[:1]).any()):
        raise ValueError(
            f"Expected nodes of two classes at least, but got {len(target)} of a single one or none. "
            "No decision is better than chance there; was a mask applied that leaves one class?"
        )
    pairs = target.long() * num_classes + predicted.long()
    confusion = torch.bincount(pairs, minlength=num_classes**2)
    return overlaps(confusion.reshape(1, num_classes, num_classes))[0]


def neighborhoods_of(edge_index: Int[Tensor, "two E"], num_nodes: int) -> Neighborhoods:
    """The neighborhoods of a graph whose edges have been checked.

    Args:
        edge_index: From where to where, one column for each edge.
        num_nodes: N.

    Returns:
        The neighborhoods.

    Raises:
        ValueError: If there is no edge, or one that joins nodes that are not there.
    """
    if len(edge_index) != 2:
        raise ValueError(
            "Expected edges as two rows, from where to where, but got the shape "
            f"{tuple(edge_index.shape)}. Are they transposed? Then pass edge_index.T."
        )
    if edge_index.shape[1] == 0:
        raise ValueError(
            f"Expected edges, but got none among {num_nodes} nodes. Without neighbors there is nothing "
            "to average; was the graph filtered?"
        )
    neighborhoods = Neighborhoods(edge_index, num_nodes)
    if not bool(neighborhoods.inside.all()):
        least, most = int(edge_index.min()), int(edge_index.max())
        raise ValueError(
            f"Expected edges between nodes 0 to {num_nodes - 1}, but got nodes {least} to {most}. Are "
            "the edges of a larger graph than the rows? Then number its nodes anew."
        )
    return neighborhoods


def _checked(numbers: Int[Tensor, " M"], num_classes: int | None, name: str) -> int:
    """The number of classes, where all numbers are below it and none is negative."""
    least, most = (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, 0)
    classes = most + 1 if num_classes is None else num_classes
    if least < 0 or most >= classes:
        cause = "Are there nodes without a class? Leave them out" if least < 0 else "Raise num_classes"
        raise ValueError(
            f"Expected {name} from 0 to {classes - 1}, but got {least} to {most}. {cause}."
        )
    return classes
