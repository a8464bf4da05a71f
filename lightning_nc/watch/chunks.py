"""Several forwards on parts of one batch, put together."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_nc.watch.batch import Forward


def joined(forwards: Sequence[Forward], labels: Sequence[int]) -> Forward:
    """One forward of several that were each given a part of the batch, in their order.

    Args:
        forwards: Of the classifier, each on a chunk of the rows or of the positions.
        labels: The shape of the batch's labels.

    Returns:
        What a single forward would have left.

    Raises:
        ValueError: If the chunks do not add up to the labels.

    Example:
        >>> chunks = [Forward("head", torch.zeros(2, 5)), Forward("head", torch.ones(1, 5))]
        >>> joined(chunks, (3,)).features.shape
        torch.Size([3, 5])
    """
    first, *others = forwards
    if not others:
        return first
    shapes = [tuple(f.features.shape[:-1]) for f in forwards if f.features is not None]
    dim = along(shapes, labels)
    features = torch.cat([f.features for f in forwards if f.features is not None], dim)
    return replace(
        first,
        features=features,
        predicted=_decisions(forwards, shapes, dim),
        layers=_layers(forwards, dim),
        leading=tuple(features.shape[:-1]),
        shape=(*features.shape[:-1], *first.shape[-1:]),
        product=None,
    )


def along(shapes: Sequence[tuple[int, ...]], labels: Sequence[int]) -> int:
    """The dimension in which chunks add up to the labels.

    Args:
        shapes: Leading dimensions of each.
        labels: The shape of the batch's labels.

    Returns:
        The dimension.

    Raises:
        ValueError: If they do not add up.

    Example:
        >>> along([(4, 3), (4, 5)], (4, 8))
        1
    """
    for whole in (tuple(labels), (_size(labels),)):
        for i in range(len(whole)):
            if all(len(s) == len(whole) for s in shapes) and _adds_up(shapes, whole, i):
                return i
    listed = ", ".join(map(str, shapes[:6])) + (", ..." if len(shapes) > 6 else "")
    raise ValueError(
        f"Expected chunks that add up to the labels, of shape {tuple(labels)}, but got {len(shapes)} "
        f"forwards, on {listed}. Does the step leave out positions (padding, a shift by one), or run "
        "the classifier on something else as well? Set target to a function that gives the labels of "
        "the rows that the chunks hold, or forwards to 'first', 'last' or 'all'."
    )


def _adds_up(shapes: Sequence[tuple[int, ...]], whole: tuple[int, ...], dim: int) -> bool:
    others = {(*shape[:dim], *shape[dim + 1 :]) for shape in shapes}
    is_slice = others == {(*whole[:dim], *whole[dim + 1 :])}
    return is_slice and sum(shape[dim] for shape in shapes) == whole[dim]


def _size(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()


def _decisions(
    forwards: Sequence[Forward], shapes: Sequence[tuple[int, ...]], dim: int
) -> Tensor | None:
    known = [f.predicted for f in forwards if f.predicted is not None]
    if len(known) < len(forwards):
        return None
    inner = known[0].shape[1:]
    each = (p.reshape(*shape, *inner) for p, shape in zip(known, shapes, strict=True))
    return torch.cat(list(each), dim).reshape(-1, *inner)


def _layers(forwards: Sequence[Forward], dim: int) -> dict[str, Tensor]:
    """A layer that runs once, before the chunks, is in the first; one in each chunk is put together."""
    found: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for forward in forwards for name in forward.layers):
        rows = [forward.layers[name] for forward in forwards if name in forward.layers]
        parts = list({id(each): each for each in rows}.values())
        if len(parts) > 1 and dim != 0:
            raise ValueError(
                f"Expected layer {name!r} to run once before the chunks, or the chunks to be parts of "
                "the batch, but it runs in each of them and they are parts of the sequence, where rows "
                "lose their order. Measure a layer in front of the chunks."
            )
        found[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return found
