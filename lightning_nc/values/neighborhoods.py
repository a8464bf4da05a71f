"""The neighbors of the nodes of a graph, and means over them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from lightning_nc.values.precision import accumulator_dtype

_TO_12_BITS = 1.5 * 2.0**12  # a number to which float32 adds another one as a multiple of 2^-11
_EXPONENT = 0x7F800000


@dataclass(frozen=True, eq=False)
class Neighborhoods:
    r"""Which nodes have an edge to a node: :math:`\hat A = A D^{-1}`, and no dense matrix.

    An edge goes from ``edge_index[0]`` to ``edge_index[1]``, as in PyTorch Geometric; of an undirected
    graph both directions are listed. An edge that is listed twice counts twice, a loop makes a node its
    own neighbor, and edges have no weights. Never waits for the device.

    Attributes:
        edge_index: From where to where, one column for each edge.
        num_nodes: N.

    Example:
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> Neighborhoods(path, num_nodes=3).mean(torch.tensor([[1.0], [5.0], [3.0]]))
        tensor([[5.],
                [2.],
                [5.]], dtype=torch.float64)
    """

    edge_index: Int[Tensor, "2 E"]
    num_nodes: int

    @cached_property
    def inside(self) -> Bool[Tensor, " E"]:
        """Which edges join nodes that there are; the others count for nothing."""
        return ((self.edge_index >= 0) & (self.edge_index < self.num_nodes)).all(0)

    @cached_property
    def degrees(self) -> Int[Tensor, " N"]:
        """How many edges end in each node."""
        return self._ends[: self.num_nodes]

    @cached_property
    def missing(self) -> Int[Tensor, " 2"]:
        """How many nodes are isolated, and how many edges go to or come from no node."""
        return torch.stack([(~self.has_neighbors).sum(), (~self.inside).sum()])

    @cached_property
    def has_neighbors(self) -> Bool[Tensor, " N"]:
        """Which nodes are not isolated."""
        return self.degrees > 0

    def mean(self, features: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
        r"""Of each node, the mean over its neighbors: row j is :math:`\sum_{i \to j} h_i / d_j`.

        Args:
            features: One row for each node.

        Returns:
            The means, in float64 where the device has it; 0 of an isolated node.
        """
        if features.dtype == torch.float64:
            return self._sum(features) / self._counted(features)
        h, width = features.float(), features.shape[1]
        # float32 sums are the fast ones, and exact for numbers of 12 bits on a grid; what is left is
        # 2^-12 of these, and so is its rounding
        anchor = _powers_of_two(_largest(h)) * _TO_12_BITS
        anchor = torch.where(anchor.isfinite(), anchor, 0)
        high = (h + anchor) - anchor
        sums = self._sum(torch.cat([high, h - high], 1)).to(accumulator_dtype(h.device))
        return (sums[:, :width] + sums[:, width:]) / self._counted(sums)

    def shares(self, kinds: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """Of each node, the share of its neighbors of each kind: means of whole numbers, exact.

        Args:
            kinds: For each node a one at its kind, of float32.

        Returns:
            The shares, in float64 where the device has it; 0 of an isolated node.
        """
        counted = self._sum(kinds).to(accumulator_dtype(kinds.device))
        return counted / self._counted(counted)

    def mean_in_float32(self, features: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
        """The same in one pass, with the rounding of float32.

        Args:
            features: One row for each node, of float32.

        Returns:
            The means; 0 of an isolated node.
        """
        return embedding_bag(self._sources, features, self._starts, mode="mean")[: self.num_nodes]

    def _sum(self, h: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
        return embedding_bag(self._sources, h, self._starts, mode="sum")[: self.num_nodes]

    def _counted(self, like: Tensor) -> Float[Tensor, "N 1"]:
        return self.degrees.clamp(min=1).to(like.dtype)[:, None]

    @cached_property
    def _targets(self) -> Int[Tensor, " E"]:
        """Where edges end; in a node of its own where that, or their origin, is not there."""
        return torch.where(self.inside, self.edge_index[1], self.num_nodes)

    @cached_property
    def _ends(self) -> Int[Tensor, " ends"]:
        none = self._targets.new_zeros(self.num_nodes + 1)
        return none.index_add(0, self._targets, torch.ones_like(self._targets))

    @cached_property
    def _starts(self) -> Int[Tensor, " ends"]:
        return self._ends.cumsum(0) - self._ends

    @cached_property
    def _sources(self) -> Int[Tensor, " E"]:
        origins = torch.where(self.inside, self.edge_index[0], 0)
        return origins[self._targets.argsort(stable=True)]


def _largest(h: Float[Tensor, "N d"]) -> Float[Tensor, " d"]:
    """Of each column the largest finite entry, without its sign; 0 of none."""
    sizes = torch.where(h.isfinite(), h.abs(), 0)
    return torch.cat([sizes, h.new_zeros(1, h.shape[1])]).amax(0)


def _powers_of_two(x: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """The largest ones that are no larger; 0 of 0."""
    return x.view(torch.int32).bitwise_and(_EXPONENT).view(torch.float32)
