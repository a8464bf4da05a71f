"""Matrices that are linear in some coefficients, and what their distances cost no more than."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Basis:
    """Where coefficients become a matrix; None stands for the identity.

    Attributes:
        left: L.
        right: R.
    """

    left: Float[Tensor, "K r"] | None = None
    right: Float[Tensor, "K r"] | None = None

    def matrix(self, c: Float[Tensor, " r"]) -> Float[Tensor, "K K"]:
        """L diag(c) R'."""
        scaled = c.diag() if self.left is None else self.left * c
        return scaled if self.right is None else scaled @ self.right.T

    def inner(self, x: Float[Tensor, "K K"]) -> Float[Tensor, " r"]:
        """What c is multiplied by in the inner product of its matrix with x: the diagonal of L' x R."""
        by_right = x if self.right is None else x @ self.right
        return by_right.diagonal() if self.left is None else (by_right * self.left).sum(0)

    def squares(self, c: Float[Tensor, "n r"]) -> Float[Tensor, " n"]:
        """The squared Frobenius norms of the matrices of c."""
        weighed = c * self._products if self._products.ndim < 2 else c @ self._products
        return (weighed * c).sum(1)

    @cached_property
    def _products(self) -> Float[Tensor, "..."]:
        """Of L' L and R' R, entry by entry; the diagonal where one of them is the identity."""
        sides = [side for side in (self.left, self.right) if side is not None]
        if len(sides) == 2:
            return (sides[0].T @ sides[0]) * (sides[1].T @ sides[1])
        return sides[0].square().sum(0) if sides else torch.ones((), dtype=torch.float64)
