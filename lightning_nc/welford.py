r"""One pass, exact: what a batch adds to the class means and to the pooled scatter.

Late in training the spread inside a class is 1e-4 of its mean and less. Sums of squares are then
wrong by orders of magnitude in float32, and a second pass over the data doubles the cost. Grouped
Welford does neither: each row is measured from the running mean of its class, in float64, and what is
left over is small enough for one float32 product.

For a batch with labels y, running means mu and counts n, and :math:`k_c` rows of class c in the batch:

.. math::
    r_i &= x_i - \mu_{y_i} \\
    e_c &= \tfrac{1}{n_c + k_c} \sum_{i: y_i = c} r_i \\
    S &\leftarrow S + \sum_i r_i (r_i - e_{y_i})^\top, \quad
    \mu_c \leftarrow \mu_c + e_c, \quad n_c \leftarrow n_c + k_c

A class that has no sample yet is measured from its first row in place of its mean, which changes
nothing in S: the sum of :math:`r_i - e_{y_i}` over a class of the batch is 0 then. So r is small from
the first row on, and only the subtraction itself needs float64: the rest is computed in the dtype of
the product. Nothing here waits for the device, and nothing of the size C x d is allocated.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_CHUNK_ENTRIES = 2**21
_OUTER_ENTRIES = 2**24


class Moments(NamedTuple):
    """The running moments, updated in place.

    Attributes:
        counts: n.
        means: mu, float64.
        sums_of_squares: Per class, the trace of its scatter.
        scatter: S, pooled over the classes; its dtype is the dtype of the product. None: not kept.
        class_scatter: S of each class, float64. None: not kept.
    """

    counts: Int[Tensor, " C"]
    means: Float[Tensor, "C d"]
    sums_of_squares: Float[Tensor, " C"]
    scatter: Float[Tensor, "d d"] | None
    class_scatter: Float[Tensor, "C d d"] | None


class Scratch:
    """Memory for the intermediate results of a batch, used again for the next one.

    Fresh memory of this size costs more than the arithmetic on it, on a CPU.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def __getstate__(self) -> dict[str, dict[str, Tensor]]:
        return {"_buffers": {}}  # nothing worth a place in a pickle or a copy

    def __call__(self, name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor of the shape of ``like``, with arbitrary contents.

        Args:
            name: What it is for; one name, one memory.
            like: Its shape and device.
            dtype: Its dtype.

        Returns:
            The tensor, contiguous.
        """
        buffer = self._buffers.get(name)
        size = like.numel()
        if (
            buffer is None
            or len(buffer) < size
            or (buffer.dtype, buffer.device) != (dtype, like.device)
        ):
            buffer = torch.empty(size, dtype=dtype, device=like.device)
            self._buffers[name] = buffer
        return buffer[:size].view(like.shape)


def add_rows_(
    moments: Moments,
    features: Float[Tensor, "B d"],
    target: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"],
    scratch: Scratch | None = None,
) -> int:
    """Add a batch to the running moments, in place.

    Args:
        moments: What to add to.
        features: One feature per row, of any float dtype.
        target: Labels; those of valid rows lie in [0, C), the others are 0.
        valid: False for the rows to leave out, whatever they hold.
        scratch: Memory to use again in the next batch.

    Returns:
        How many products were added to the scatter.
    """
    rows = max(1, _CHUNK_ENTRIES // max(1, features.shape[1]))
    scratch = scratch or Scratch()
    for chunk in zip(features.split(rows), target.split(rows), valid.split(rows), strict=True):
        _add_chunk_(moments, *chunk, scratch)
    return -(-len(features) // rows)


def _add_chunk_(
    moments: Moments,
    x: Float[Tensor, "B d"],
    y: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"],
    scratch: Scratch,
) -> None:
    n, mu = moments.counts, moments.means
    dtype = mu.dtype if x.dtype == mu.dtype else torch.float32
    group = _first_row_of_class(y, valid, num_classes=len(n))
    # not a product: 0 times NaN is NaN
    x = torch.where(valid[:, None], x, x.new_zeros(()), out=scratch("x", x, x.dtype))

    # a new class starts at its first row
    is_first = (group == torch.arange(len(y), device=y.device)) & valid & (n[y] == 0)
    wide = torch.mul(x, is_first[:, None], out=scratch("wide", x, mu.dtype))
    mu.index_add_(0, y, wide)

    torch.index_select(mu, 0, y, out=wide)
    torch.sub(x, wide, out=wide)
    r = torch.mul(wide, valid[:, None], out=scratch("r", x, dtype))

    n.index_add_(0, y, valid.to(n.dtype))
    steps = scratch("steps", x, dtype).zero_().index_add_(0, group, r)
    steps /= n[y].clamp(min=1)[:, None]
    mu.index_add_(0, y, wide.copy_(steps))

    # a row that is left out is its own group, whose step is 0
    r_new = torch.index_select(steps, 0, group, out=scratch("r_new", x, dtype))
    torch.sub(r, r_new, out=r_new)
    squares = torch.mul(r, r_new, out=steps).sum(1, dtype=mu.dtype)
    moments.sums_of_squares.index_add_(0, y, squares)
    if moments.scatter is not None:
        add_product_(moments.scatter, r, r_new)
    if moments.class_scatter is not None:
        _add_outer_products_(moments.class_scatter, y, r.to(mu.dtype), r_new.to(mu.dtype))


def _first_row_of_class(
    y: Int[Tensor, " B"], valid: Bool[Tensor, " B"], num_classes: int
) -> Int[Tensor, " B"]:
    """For each row the first row of its class, which stands for the class inside the batch."""
    row = torch.arange(len(y), device=y.device)
    beyond = torch.full_like(row, len(y))
    first = row.new_full((num_classes,), len(y))
    first.scatter_reduce_(0, y, torch.where(valid, row, beyond), "amin")
    return torch.where(valid, first[y], row)


def _add_outer_products_(
    out: Float[Tensor, "C d d"],
    y: Int[Tensor, " B"],
    a: Float[Tensor, "B d"],
    b: Float[Tensor, "B d"],
) -> None:
    rows = max(1, _OUTER_ENTRIES // max(1, a.shape[1] ** 2))
    for labels, left, right in zip(y.split(rows), a.split(rows), b.split(rows), strict=True):
        out.index_add_(0, labels, left[:, :, None] * right[:, None, :])


def add_product_(out: Float[Tensor, "d d"], a: Float[Tensor, "B d"], b: Float[Tensor, "B d"]) -> None:
    """``out += a.T @ b`` in the precision of its dtype, whatever the user allows for products.

    Where float32 products may be computed in TF32 or bfloat16, each factor is split into three
    parts of 8 bits, which both hold exactly, and the six products that matter are added up.

    Args:
        out: Added to in place.
        a: Left factor.
        b: Right factor.

    Example:
        >>> out = torch.zeros(1, 1)
        >>> add_product_(out, torch.full((2, 1), 3.0), torch.full((2, 1), 4.0))
        >>> out
        tensor([[24.]])
    """
    if out.dtype == torch.float32 and not float32_products_are_exact(out.device):
        a1, a2, a3 = _bfloat16_parts(a)
        b1, b2, b3 = _bfloat16_parts(b)
        a, b = torch.cat([a3, a1, a2, a2, a1, a1]), torch.cat([b1, b3, b2, b1, b2, b1])
    out.addmm_(a.T, b)


def float32_products_are_exact(device: torch.device) -> bool:
    """False where ``set_float32_matmul_precision`` or its successors allow TF32 or bfloat16."""
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    # `fp32_precision` can always be read; `allow_tf32` raises once the newer setting was used
    own = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    if own is None:
        return torch.get_float32_matmul_precision() == "highest"
    return own in ("ieee", "none")


def _bfloat16_parts(
    x: Float[Tensor, "B d"],
) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B d"], Float[Tensor, "B d"]]:
    """Three float32 tensors with 8 significant bits each, whose sum is x."""
    high = x.to(torch.bfloat16).to(x.dtype)
    middle = (x - high).to(torch.bfloat16).to(x.dtype)
    return high, middle, x - high - middle
