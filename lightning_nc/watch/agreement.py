"""Whether the labels that were found are those of the classifier's loss."""

from collections.abc import Callable
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from lightning_nc.watch.batch import Batch, Forward
from lightning_nc.watch.chunks import along
from lightning_nc.watch.graph import HardLabels, VectorLabels


def require_same_labels(batch: Batch, ignored: int | float | None, forwards: str = "last") -> None:
    """Raise a ValueError unless a cross-entropy of the classifier is of the batch's labels, in order.

    Looks once, at what the losses of the batch have left, and waits for the device then.

    Args:
        batch: Its forwards are the classifier's.
        ignored: The label of rows to leave out.
        forwards: Which forward counts; chunks have the labels of the batch together.

    Raises:
        ValueError: If there are cross-entropies of the classifier, and all of them are of others.

    Example:
        >>> import torch
        >>> require_same_labels(Batch(torch.tensor([1, 0, 2])), ignored=-100)
    """
    ours = _of_chunks(batch) if forwards == "concat" else _of_forwards(batch)
    batch.hard_labels.clear()
    if not ours:
        return
    found = _kept(batch.labels.reshape(-1), ignored)
    seen = [_kept(loss.target.reshape(-1), loss.ignored) for loss in ours]
    if any(_equal(each, found) for each in seen):
        return
    for loss, each in zip(ours, seen, strict=True):
        if _equal(each, _kept(found, loss.ignored)):
            raise ValueError(
                f"Expected ignore_index to be what the loss leaves out, but the loss leaves out label "
                f"{loss.ignored}, and ignore_index is {ignored}. Set ignore_index={loss.ignored}."
            )
    fewer = len(seen[0]) < len(found)
    some = "Does it take some rows alone? Set mask to where the batch tells which. " if fewer else ""
    raise ValueError(
        "Expected the labels in the batch to be those of the classifier's loss, but that has "
        f"{_shown(seen[0])}, and the batch {_shown(found)}. {some}Does the step reorder, mask, shift "
        "or change them, or take them from another place? Set target to the dotted path of a function "
        "of the batch that gives each row of the features its label, and ignore_index to those "
        "without; online=False measures validation alone."
    )


def _of_forwards(batch: Batch) -> list[HardLabels]:
    """Those of the classifier's outputs; where these are not looked at, the only ones, row for row.

    A contrastive loss may be a cross-entropy as well, of other rows and numbers.
    """
    products = {forward.product for forward in batch.forwards}
    if products == {None}:
        rows = batch.labels.numel()
        found = [loss for loss in batch.hard_labels if loss.target.numel() == rows]
        return found if len(batch.hard_labels) == 1 else []
    return [loss for loss in batch.hard_labels if loss.products and loss.products <= products]


def _of_chunks(batch: Batch) -> list[HardLabels]:
    """Those of all chunks together, where each of them has its own."""
    of_each = [[x for x in batch.hard_labels if x.products == {f.product}] for f in batch.forwards]
    if not of_each or any(len(found) != 1 for found in of_each):
        return []
    shapes = [tuple(f.features.shape[:-1]) for f in batch.forwards if f.features is not None]
    parts = [found[0].target for found in of_each]
    if any(part.numel() != prod(shape) for part, shape in zip(parts, shapes, strict=True)):
        return []
    rows = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    whole = torch.cat(rows, along(shapes, batch.label_shape))
    return [replace(of_each[0][0], target=whole)]


def _kept(labels: Tensor, ignored: int | float | None) -> Tensor:
    return labels if ignored is None else labels[labels != ignored]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _shown(labels: Tensor) -> str:
    first = ", ".join(f"{value:g}" for value in labels[:6].tolist())
    return f"{len(labels)} labels ({first}{', ...' if len(labels) > 6 else ''})"


def require_same_vectors(batch: Batch, ignored: float | int | None, as_they_are: bool) -> None:
    """Raise a ValueError unless a loss of the classifier's output is of the batch's labels, in order.

    Looks once, at what squared errors and binary cross-entropies of the batch have left, and waits for
    the device then. Other losses do not tell.

    Args:
        batch: Its forwards are the classifier's.
        ignored: What stands for the label of a row that does not count.
        as_they_are: Whether the output itself is to be the label, so that nothing may lie between.

    Raises:
        ValueError: If there are such losses of the classifier, and all of them are of other labels; or
            if something is applied to its output before it is compared with them.

    Example:
        >>> import torch
        >>> require_same_vectors(Batch(torch.ones(3, 2), label_dims=1), ignored=-100, as_they_are=True)
    """
    products = {forward.product for forward in batch.forwards} - {None}
    ours = [loss for loss in batch.vector_labels if loss.products and loss.products <= products]
    batch.vector_labels.clear()
    if not ours:
        return
    labels = batch.labels.reshape(-1, batch.labels.shape[-1])
    rows = torch.ones_like(labels[:, 0], dtype=torch.bool)
    if ignored is not None:
        rows = (labels != ignored).any(1)
    alike = [loss for loss in ours if _same_entries(labels, rows, loss.target)]
    if not alike:
        raise ValueError(
            "Expected the labels in the batch to be those of the classifier's loss, but that has "
            f"{_shown(ours[0].target.flatten())}, and the batch {_shown(labels.flatten())}. Does the "
            "step scale, smooth, reorder or choose them, or take them from another place? Set target "
            "to the dotted path of a function of the batch that gives them as the loss has them, or to "
            "where the batch has them if these are meant; online=False measures validation alone."
        )
    if as_they_are and len(batch.forwards) == 1 and not any(map(_takes(batch.forwards[0]), alike)):
        raise ValueError(
            "Expected the loss to compare the output of the head, W h + b, with the labels, but "
            "something lies between: a link (exp, softplus), an input that is added, or a scale. The "
            "theory is of W h + b: set target to the dotted path of a function of the batch that gives "
            "what W h + b itself has to be."
        )


def _same_entries(labels: Tensor, rows: Tensor, target: Tensor) -> bool:
    """Whether a loss has these labels: of all rows, or of those that count."""
    kept = labels[rows]
    if target.numel() == labels.numel():
        target = target.reshape(labels.shape)[rows]
    if target.numel() != kept.numel():
        return False
    mine, theirs = kept.to(target.dtype), target.reshape(kept.shape)
    return bool(((mine == theirs) | (mine.isnan() & theirs.isnan())).all())


def _takes(forward: Forward) -> Callable[[VectorLabels], bool]:
    """Whether a loss is given what a forward has put out."""

    def takes(loss: VectorLabels) -> bool:
        shown = forward.shown
        if shown is None or loss.given.numel() % shown.shape[-1]:
            return True
        given = loss.given.reshape(-1, shown.shape[-1])[: len(shown)].to(shown.dtype)
        return given.shape != shown.shape or torch.allclose(given, shown, rtol=1e-3, atol=1e-6)

    return takes
