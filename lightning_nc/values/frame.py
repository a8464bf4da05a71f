"""C vectors and what is pairwise between them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.symmetric import gram

_RANGES = {torch.float64: (1e-75, 1e75), torch.float32: (1e-15, 1e15)}

PAIRWISE_CLASSES = 2048
"""Above this many classes the pairwise measures look at a seeded sample of this many classes."""


@dataclass(frozen=True, eq=False)
class Frame:
    r"""C vectors in :math:`\mathbb{R}^d`, with their Gram matrix and cosines computed once.

    The centered class means are one frame, the rows of the classifier another; NC2 compares either
    with the simplex equiangular tight frame (ETF). Above :data:`PAIRWISE_CLASSES` vectors, what is
    pairwise is computed on a seeded uniform sample of that many of them.

    Attributes:
        vectors: One vector per row, in the order of the classes.

    Example:
        >>> frame = Frame(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> frame.norms
        tensor([3., 4.], dtype=torch.float64)
        >>> frame.cosines
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """

    vectors: Float[Tensor, "C d"]

    def __post_init__(self) -> None:
        dtype = accumulator_dtype(self.vectors.device)
        object.__setattr__(self, "vectors", self.vectors.detach().to(dtype))

    @property
    def num_vectors(self) -> int:
        """C, the number of vectors, also where the pairs are a sample."""
        return self.vectors.shape[0]

    @cached_property
    def leaves_range(self) -> str:
        """A clause on vectors so small or so large that their products have no digits; else empty.

        Vectors that came from float16, bfloat16 or float32 are measured in float64, which holds them.
        """
        largest, (least, most) = float(self.vectors.abs().max()), _RANGES[self.vectors.dtype]
        if largest == 0 or least < largest < most:
            return ""
        dtype = str(self.vectors.dtype).removeprefix("torch.")
        held = f"{dtype} holds products of {least:.0e} to {most:.0e}"
        return f"their largest entry is {largest:.0e}, and {held}"

    @cached_property
    def norms(self) -> Float[Tensor, " C"]:
        """Euclidean norm of each vector."""
        return self.vectors.norm(dim=1)

    @cached_property
    def sampled(self) -> Int[Tensor, " k"]:
        """Indices of the vectors among which pairs are formed: all, or a seeded sample of them."""
        if self.num_vectors <= PAIRWISE_CLASSES:
            return torch.arange(self.num_vectors, device=self.vectors.device)
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(self.num_vectors, generator=generator)[:PAIRWISE_CLASSES]
        return chosen.sort().values.to(self.vectors.device)

    def of_sample(self, rows: Float[Tensor, "C d"]) -> Float[Tensor, "k d"]:
        """Those of one row per vector that belong to the sampled ones; no copy where that is all."""
        return rows if len(self.sampled) == len(rows) else rows[self.sampled]

    @cached_property
    def gram(self) -> Float[Tensor, "k k"]:
        """Inner products of the sampled vectors."""
        return gram(self.of_sample(self.vectors))

    @cached_property
    def squared_distances(self) -> Float[Tensor, "k k"]:
        """Between the sampled vectors; 0 where rounding is all that tells two of them apart."""
        squares = self.gram.diagonal()
        sums = squares[:, None] + squares
        distances = sums - 2 * self.gram
        return distances.masked_fill_(distances < 16 * torch.finfo(sums.dtype).eps * sums, 0)

    @cached_property
    def cosines(self) -> Float[Tensor, "k k"]:
        """Cosines between the sampled vectors; NaN where a vector is zero."""
        norms = self.norms[self.sampled]
        return self.gram / torch.outer(norms, norms)
