r"""Spectral methods that find two communities, step by step, to be put beside the layers of a network.

A symmetric matrix M has the communities in its second smallest eigenvector. Power iteration on
:math:`B = \|M\| I - M` comes to it where the known first one is removed at each step.

Conventions: :math:`\|M\|` is the spectral norm, found by a power iteration of its own. The published
code has ``torch.norm(M, p=2)``, which is the Frobenius norm: many times as large, so that the vector
hardly moves in tens of steps. On a heterophilic graph, where q > p, the communities are at the other
end of the spectrum: ``heterophilic=True``.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.functional.graph.neighborhoods import neighborhoods_of
from lightning_nc.values.precision import accumulator_dtype

_MOST_STEPS, _STANDS_STILL = 2000, 1e-13


class SparseSymmetric(NamedTuple):
    """A symmetric matrix: its diagonal, and one weight for each edge, without a dense matrix.

    Attributes:
        diagonal: Its entries.
        edge_index: Rows and columns of the others; an edge that is listed twice counts twice.
        weights: Of the edges.

    Example:
        >>> swap = SparseSymmetric(torch.zeros(2), torch.tensor([[0, 1], [1, 0]]), torch.ones(2))
        >>> swap.times(torch.tensor([3.0, 5.0]))
        tensor([5., 3.])
    """

    diagonal: Float[Tensor, " N"]
    edge_index: Int[Tensor, "2 E"]
    weights: Float[Tensor, " E"]

    def times(self, vector: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """The product with a vector."""
        origins, targets = self.edge_index
        return (self.diagonal * vector).index_add(0, targets, self.weights * vector[origins])

    def shifted(self, shift: Float[Tensor, ""]) -> "SparseSymmetric":
        r"""``shift`` I - M."""
        return SparseSymmetric(shift - self.diagonal, self.edge_index, -self.weights)


def normalized_laplacian(edge_index: Int[Tensor, "two E"], num_nodes: int) -> SparseSymmetric:
    r""":math:`I - D^{-1/2} A D^{-1/2}`, with 1 on the diagonal of isolated nodes.

    Its eigenvalues are in ``[0, 2]``; the first is 0, of the vector :math:`D^{1/2} 1`.

    Args:
        edge_index: Both directions of each edge.
        num_nodes: N.

    Returns:
        The matrix, float64.

    Raises:
        ValueError: If there is no edge, one that joins nodes that are not there, or one in one
            direction only.

    Example:
        >>> normalized_laplacian(torch.tensor([[0, 1], [1, 0]]), num_nodes=2).weights
        tensor([-1., -1.], dtype=torch.float64)
    """
    degrees = _degrees(edge_index, num_nodes)
    origins, targets = edge_index
    weights = -(degrees[origins] * degrees[targets]).rsqrt()
    return SparseSymmetric(torch.ones_like(degrees), edge_index, weights)


def bethe_hessian(
    edge_index: Int[Tensor, "two E"], num_nodes: int, heterophilic: bool = False
) -> SparseSymmetric:
    r""":math:`(r^2 - 1) I - r A + D` with :math:`r = \sqrt{\bar d}`, the root of the mean degree.

    Negative eigenvalues are those of communities. With ``heterophilic``, r is the negative root, and
    the smallest eigenvalue is that of two communities with more edges between than within.

    Args:
        edge_index: Both directions of each edge.
        num_nodes: N.
        heterophilic: Whether communities have more edges between them.

    Returns:
        The matrix, float64.

    Raises:
        ValueError: If there is no edge, one that joins nodes that are not there, or one in one
            direction only.

    Example:
        >>> bethe_hessian(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)  # r = 1
        SparseSymmetric(diagonal=tensor([1., 1.], dtype=torch.float64), edge_index=tensor([[0, 1],
                [1, 0]]), weights=tensor([-1., -1.], dtype=torch.float64))

    References:
        Saade, Krzakala & Zdeborova (2014), "Spectral clustering of graphs with the Bethe Hessian", with
        this r.
    """
    degrees = _degrees(edge_index, num_nodes)
    r = degrees.mean().sqrt() * (-1 if heterophilic else 1)
    return SparseSymmetric(degrees + r.square() - 1, edge_index, -r.expand(edge_index.shape[1]))


def projected_power_iteration(
    matrix: SparseSymmetric,
    num_iterations: int,
    removed: Float[Tensor, " N"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "N T"]:
    r"""Steps from random numbers towards the leading eigenvector of B, or towards the next one.

    .. math:: w_{t+1} \propto (I - v v^\top) B w_t

    Args:
        matrix: B.
        num_iterations: T.
        removed: v up to its length, the leading eigenvector; None: nothing is removed.
        generator: Of the random numbers to start from, on the CPU; None: the global one.

    Returns:
        After each step the vector, of length 1: one column for each.

    Raises:
        ValueError: If there is no step to take.

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> none = torch.zeros(2, 0, dtype=torch.int64)
        >>> diagonal = SparseSymmetric(torch.tensor([3.0, 2.0, 1.0]), none, torch.zeros(0))
        >>> removed = torch.tensor([1.0, 0.0, 0.0])
        >>> projected_power_iteration(diagonal, 60, removed, random)[:, -1].abs().round()
        tensor([0., 1., 0.])
    """
    if num_iterations < 1:
        raise ValueError(
            f"Expected at least one step, but got {num_iterations}. Is it the number of layers?"
        )
    vector = _random_like(matrix.diagonal, generator)
    leading = torch.zeros_like(vector) if removed is None else removed.to(vector) / removed.norm()
    steps = []
    for _ in range(num_iterations):
        vector = matrix.times(vector)
        vector = vector - (leading @ vector) * leading
        vector = vector / vector.norm()
        steps.append(vector)
    return torch.stack(steps, 1)


def leading_eigenvector(
    matrix: SparseSymmetric, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, ""], Float[Tensor, " N"]]:
    """The eigenvalue that is the largest in magnitude, and its eigenvector, by power iteration.

    It stops where the value stands still, or after 2,000 steps: where the next eigenvalues are nearly
    as large, the value is a little too small, and the vector is a mixture of theirs.

    Args:
        matrix: B.
        generator: Of the random numbers to start from, on the CPU; None: the global one.

    Returns:
        The eigenvalue, and the eigenvector of length 1.

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> swap = SparseSymmetric(torch.ones(2), torch.tensor([[0, 1], [1, 0]]), torch.ones(2))
        >>> leading_eigenvector(swap, random)[0].round()
        tensor(2.)
    """
    vector = _random_like(matrix.diagonal, generator)
    vector, value = vector / vector.norm(), torch.zeros_like(vector[0])
    for _ in range(_MOST_STEPS):
        moved, before = matrix.times(vector), value
        value, vector = vector @ moved, moved / moved.norm()
        if bool((value - before).abs() <= _STANDS_STILL * value.abs()):
            break
    return value, vector


def laplacian_steps(
    edge_index: Int[Tensor, "two E"],
    num_nodes: int,
    num_iterations: int,
    heterophilic: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "N T"]:
    r"""Two communities by power iteration on the normalized Laplacian L, step by step.

    :math:`B = \|L\| I - L` without :math:`D^{1/2} 1`, its leading eigenvector. With ``heterophilic``
    the communities are in the **last** eigenvector of L, and B is L.

    Args:
        edge_index: Both directions of each edge.
        num_nodes: N.
        num_iterations: T.
        heterophilic: Whether communities have more edges between them.
        generator: Of the random numbers to start from, on the CPU; None: the global one.

    Returns:
        After each step the vector, of length 1: the sign tells the community.

    Raises:
        ValueError: If there is no step to take, no edge, one that joins nodes that are not there, or
            one in one direction only.

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> path = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
        >>> steps = laplacian_steps(path, num_nodes=4, num_iterations=20, generator=random)
        >>> (steps[:, -1] * steps[0, -1]).sign()
        tensor([ 1.,  1., -1., -1.], dtype=torch.float64)
    """
    laplacian = normalized_laplacian(edge_index, num_nodes)
    known = _degrees(edge_index, num_nodes).sqrt()
    if heterophilic:
        return projected_power_iteration(laplacian, num_iterations, known, generator)
    norm, _ = leading_eigenvector(laplacian, generator)
    return projected_power_iteration(laplacian.shifted(norm), num_iterations, known, generator)


def bethe_hessian_steps(
    edge_index: Int[Tensor, "two E"],
    num_nodes: int,
    num_iterations: int,
    heterophilic: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "N T"]:
    r"""Two communities by power iteration on the Bethe-Hessian H, step by step.

    :math:`B = \|H\| I - H` without its leading eigenvector, which a power iteration of its own finds.
    With ``heterophilic`` the communities are in the leading one, and nothing is removed.

    Args:
        edge_index: Both directions of each edge.
        num_nodes: N.
        num_iterations: T.
        heterophilic: Whether communities have more edges between them.
        generator: Of the random numbers to start from, on the CPU; None: the global one.

    Returns:
        After each step the vector, of length 1: the sign tells the community.

    Raises:
        ValueError: If there is no step to take, no edge, one that joins nodes that are not there, or
            one in one direction only.

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> path = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
        >>> steps = bethe_hessian_steps(path, num_nodes=4, num_iterations=20, generator=random)
        >>> (steps[:, -1] * steps[0, -1]).sign()
        tensor([ 1.,  1., -1., -1.], dtype=torch.float64)
    """
    hessian = bethe_hessian(edge_index, num_nodes, heterophilic)
    norm, _ = leading_eigenvector(hessian, generator)
    shifted = hessian.shifted(norm)
    known = None if heterophilic else leading_eigenvector(shifted, generator)[1]
    return projected_power_iteration(shifted, num_iterations, known, generator)


def _degrees(edge_index: Int[Tensor, "two E"], num_nodes: int) -> Float[Tensor, " N"]:
    """Of a graph whose edges are all listed in both directions."""
    neighborhoods = neighborhoods_of(edge_index, num_nodes)
    origins, targets = edge_index
    there, back = (origins * num_nodes + targets).sort(), (targets * num_nodes + origins).sort()
    if not bool((there.values == back.values).all()):
        raise ValueError(
            "Expected each edge in both directions, but got some in one only. Is the graph directed? "
            "Then pass torch.cat([edge_index, edge_index.flip(0)], 1)."
        )
    return neighborhoods.degrees.to(accumulator_dtype(edge_index.device))


def _random_like(vector: Float[Tensor, " N"], generator: torch.Generator | None) -> Float[Tensor, " N"]:
    return torch.randn(len(vector), generator=generator, dtype=vector.dtype).to(vector.device)
