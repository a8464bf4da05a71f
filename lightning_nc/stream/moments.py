r"""One pass, exact: what a batch adds to the class means and to the pooled scatter.

Late in training the spread inside a class is 1e-4 of its mean and less. Sums of squares are then
wrong by orders of magnitude in float32, and a second pass over the data doubles the cost. Grouped
Welford does neither: each row is measured from the running mean of its class, which is kept in float64,
and what is left over is small enough for one float32 product.

For a batch with labels y, running means mu and counts n, and :math:`k_c` rows of class c in the batch:

.. math::
    r_i &= x_i - \mu_{y_i} \\
    e_c &= \tfrac{1}{n_c + k_c} \sum_{i: y_i = c} r_i \\
    q_i &= r_i - e_{y_i} \big/ \big(1 + \sqrt{n_c / (n_c + k_c)}\big) \\
    S &\leftarrow S + \sum_i q_i q_i^\top, \quad
    \mu_c \leftarrow \mu_c + e_c, \quad n_c \leftarrow n_c + k_c

Welford's own sum is

.. math:: \sum_i r_i (r_i - e_{y_i})^\top = \sum_i r_i r_i^\top - \sum_c (n_c + k_c) e_c e_c^\top

and so is this one: the weight w of e solves :math:`k w^2 - 2 (n + k) w + (n + k) = 0`. But it needs one
factor in the place of two, is symmetric, and cannot be negative.

A class that has no sample yet is measured from its first row in place of its mean, which changes
nothing: its q are the rows less their own mean. So r is small from the first row on, and float32 will
do for all that is done with rows; their products are taken in a unit that goes with the largest r, so
that float32 holds the squares of rows of any size. Nothing here waits for the device, and nothing of
the size C x d is allocated.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_nc.stream.memory import Scratch, entries_at_once, shared_scratch
from lightning_nc.stream.products import Products, add_symmetric_product_, unit_of

_OUTER_ENTRIES = 2**24
_WIDE_ENTRIES = 2**19  # of rows in float64, which stay in a cache
_FIRST_ROWS, _GROWTH = 16, 15


class Moments(NamedTuple):
    """The running moments, updated in place.

    Attributes:
        counts: n.
        means: mu, float64.
        sums_of_squares: Per class, the trace of its scatter.
        scatter: S, pooled over the classes, on and above the diagonal, float64. None: not kept.
        class_scatter: S of each class, float64. None: not kept.
    """

    counts: Int[Tensor, " C"]
    means: Float[Tensor, "C d"]
    sums_of_squares: Float[Tensor, " C"]
    scatter: Float[Tensor, "d d"] | None
    class_scatter: Float[Tensor, "C d d"] | None


def add_rows_(
    moments: Moments,
    features: Float[Tensor, "B d"],
    target: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"],
    rows_before: int = 0,
    products: Products | None = None,
) -> None:
    """Add a batch to the running moments, in place.

    Args:
        moments: What to add to.
        features: One feature per row, of any float dtype.
        target: Labels; those of valid rows lie in [0, C), the others are 0.
        valid: False for the rows to leave out, whatever they hold.
        rows_before: About how many rows have been added before.
        products: What to add the products of float32 rows to in the place of the scatter.
    """
    scratch = shared_scratch()
    most = max(1, entries_at_once(features.device) // max(1, features.shape[1]))
    start = 0
    while start < len(features):
        # a mean of few rows is far from that of many: at first, what is measured from it stays few
        stop = start + min(most, max(_FIRST_ROWS, _GROWTH * (rows_before + start)))
        rows = slice(start, stop)
        _add_chunk_(moments, features[rows], target[rows], valid[rows], scratch, products)
        start = stop


def add_rows_plainly_(
    moments: Moments,
    features: Float[Tensor, "B d"],
    target: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"],
) -> None:
    """What :func:`add_rows_` does, as the equations have it: all of it in float64, in one piece.

    As exact, and 1.3 to 2.4 times the arithmetic; the fast form is held against it.

    Args:
        moments: What to add to; a scatter is added to as a whole.
        features: One feature per row.
        target: Labels; those of valid rows lie in [0, C), the others are 0.
        valid: False for the rows to leave out.
    """
    n, mu = moments.counts.clone(), moments.means
    moments.counts.index_add_(0, target, valid.to(n.dtype))
    total = moments.counts.clamp(min=1).to(mu.dtype)
    r = torch.where(valid[:, None], features.to(mu.dtype), mu[target]) - mu[target]
    e = torch.zeros_like(mu).index_add_(0, target, r) / total[:, None]
    share = 1 / (1 + (n / total).sqrt())
    q = torch.where(valid[:, None], r - (share[:, None] * e)[target], 0)
    mu += e
    moments.sums_of_squares.index_add_(0, target, q.square().sum(1))
    if moments.scatter is not None:
        moments.scatter.add_((q.T @ q).to(moments.scatter.dtype))
    if moments.class_scatter is not None:
        moments.class_scatter.index_add_(0, target, q[:, :, None] * q[:, None, :])


def _add_chunk_(
    moments: Moments,
    x: Float[Tensor, "B d"],
    y: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"],
    scratch: Scratch,
    products: Products | None,
) -> None:
    n, mu = moments.counts, moments.means
    dtype = mu.dtype if x.dtype == mu.dtype else torch.float32
    slots = _slots(y, valid, num_classes=len(n))
    before = n[slots.label]
    n.index_add_(0, y, valid.to(n.dtype))
    after = n[slots.label]

    first = _first_rows_of_new_classes(x, slots, before, dtype, scratch)
    step = scratch("step", first, mu.dtype).copy_(first)
    start = torch.index_select(mu, 0, slots.label, out=scratch("start", first, mu.dtype)).add_(step)

    # rows are measured from a number of their own dtype near the mean, which leaves the rest of it
    near = scratch("near", first, dtype).copy_(start)
    e = scratch("e", first, mu.dtype)
    rest = start.sub_(e.copy_(near))
    r = torch.index_select(near, 0, slots.of_row, out=scratch("r", x, dtype))
    r = keep_rows_(torch.sub(x, r, out=r), valid)

    old, total = before.to(mu.dtype)[:, None], after.clamp(min=1).to(mu.dtype)[:, None]
    _add_rows_by_slot_(e.zero_(), slots.of_row, r, scratch)
    e.addcmul_(rest, (total - old) * slots.used[:, None], value=-1).div_(total)
    mu.index_add_(0, slots.label, step.add_(e))

    unit = _unit(r, products)
    share = 1 / (1 + (old / total).sqrt())
    shift = rest.addcmul_(e, share).div_(unit).neg_()
    shift = keep_rows_(near.copy_(shift), slots.used)
    q = torch.index_select(shift, 0, slots.of_row, out=scratch("q", x, dtype))
    q.addcmul_(r, 1 / unit)
    _add_products_(moments, y, q, unit.to(mu.dtype), products, memory=r)


def _first_rows_of_new_classes(
    x: Float[Tensor, "B d"],
    slots: "_Slots",
    before: Int[Tensor, " K"],
    dtype: torch.dtype,
    scratch: Scratch,
) -> Float[Tensor, "K d"]:
    """A new class starts at its first row; 0 for the others."""
    is_new = slots.used & (before == 0)
    first = torch.index_select(x, 0, slots.first, out=scratch("first", x[: len(is_new)], x.dtype))
    return keep_rows_(first.to(dtype), is_new)


def _unit(r: Float[Tensor, "B d"], products: Products | None) -> Float[Tensor, ""]:
    """What rows are divided by, so that float32 holds their squares; float64 needs nothing of it."""
    if r.dtype != torch.float32:
        return r.new_ones(())
    unit = unit_of(r)
    return unit if products is None else products.in_unit(unit)


def _add_products_(
    moments: Moments,
    y: Int[Tensor, " B"],
    q: Float[Tensor, "B d"],
    unit: Float[Tensor, ""],
    products: Products | None,
    memory: Float[Tensor, "B d"],
) -> None:
    squares = torch.mul(q, q, out=memory).sum(1)  # a norm would add up one by one
    moments.sums_of_squares.index_add_(0, y, squares.to(unit.dtype) * unit.square())
    if products is not None:
        products.add(q)
    if moments.class_scatter is None and (moments.scatter is None or products is not None):
        return
    whole = q.to(unit.dtype).mul_(unit)
    if moments.scatter is not None and products is None:
        add_symmetric_product_(moments.scatter, whole)
    if moments.class_scatter is not None:
        _add_outer_products_(moments.class_scatter, y, whole)


def _add_rows_by_slot_(
    sums: Float[Tensor, "K d"], of_row: Int[Tensor, " B"], r: Float[Tensor, "B d"], scratch: Scratch
) -> None:
    rows = max(1, _WIDE_ENTRIES // max(1, r.shape[1]))
    for slots, part in zip(of_row.split(rows), r.split(rows), strict=True):
        sums.index_add_(0, slots, scratch("wide rows", part, sums.dtype).copy_(part))


class _Slots(NamedTuple):
    """The rows of a batch by class: never more slots than rows, and nothing of the size C x d.

    Attributes:
        of_row: The slot of each row; that of a row that is left out is not used.
        label: The class of each slot.
        first: The first row of each slot.
        used: Whether the slot has rows that count.
    """

    of_row: Int[Tensor, " B"]
    label: Int[Tensor, " K"]
    first: Int[Tensor, " K"]
    used: Bool[Tensor, " K"]


def _slots(y: Int[Tensor, " B"], valid: Bool[Tensor, " B"], num_classes: int) -> _Slots:
    row = torch.arange(len(y), device=y.device)
    beyond = torch.full_like(row, len(y))
    first = row.new_full((num_classes + 1,), len(y))
    first.scatter_reduce_(0, y, torch.where(valid, row, beyond), "amin")
    if num_classes < len(y):  # each class has its slot, and one more is for rows that are left out
        label = torch.arange(num_classes + 1, device=y.device)
        of_row = torch.where(valid, y, num_classes)
        return _Slots(of_row, label % num_classes, first.clamp(max=len(y) - 1), first < len(y))
    of_row = torch.where(valid, first[y], row)  # its first row is the slot of a class
    return _Slots(of_row, y, row, valid & (of_row == row))


def keep_rows_(x: Float[Tensor, "B d"], kept: Bool[Tensor, " B"]) -> Float[Tensor, "B d"]:
    """Set the other rows to 0 in place, whatever they hold.

    A product would leave NaN, as 0 times NaN is NaN, and ``torch.where`` takes five times as long: the
    bits are masked.

    Args:
        x: Rows of float32 or float64.
        kept: False for the rows to set to 0.

    Returns:
        The same tensor.

    Example:
        >>> keep_rows_(torch.tensor([[1.0], [torch.nan]]), torch.tensor([True, False]))
        tensor([[1.],
                [0.]])
    """
    integers = torch.int64 if x.dtype == torch.float64 else torch.int32
    x.view(integers).bitwise_and_(-kept[:, None].to(integers))
    return x


def _add_outer_products_(
    out: Float[Tensor, "C d d"], y: Int[Tensor, " B"], q: Float[Tensor, "B d"]
) -> None:
    rows = max(1, _OUTER_ENTRIES // max(1, q.shape[1] ** 2))
    for labels, part in zip(y.split(rows), q.split(rows), strict=True):
        out.index_add_(0, labels, part[:, :, None] * part[:, None, :])
