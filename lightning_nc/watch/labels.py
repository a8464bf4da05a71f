"""The labels in a batch, wherever a data loader puts them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_nc.dotted_path import import_function
from lightning_nc.tasks.task import Task
from lightning_nc.watch.graph_batch import GraphBatch, find_graph
from lightning_nc.watch.mask import is_whole_numbers, masked, roomy
from lightning_nc.watch.places import Place, Places, of_stage

TARGET_NAMES = ("target", "targets", "label", "labels", "y")


def find_target(
    batch: Any, where: Place | None = None, apart: Any = None,
    read: Callable[[Any], Any] | None = None, names_classes: bool = True,
) -> Any:  # fmt: skip
    """The labels in a batch.

    Names come before positions.

    Args:
        batch: Whatever the data loader yields.
        where: A position, a key or attribute, several of them joined by dots ("labels.fine"), or a
            function of the batch (also by dotted path). None: a key, field or attribute in
            :data:`TARGET_NAMES`, else the second item of a sequence.
        apart: What is known not to be the labels: a mask.
        read: Tells what else than a tensor can be labels: gives None of what can not.
        names_classes: Whether they are class numbers, which are told from other tensors by being whole.

    Returns:
        The labels as they are there; None if a function says that this batch has none.

    Raises:
        ValueError: If there are none at that place; without one, if there are several that could be.

    Example:
        >>> import torch
        >>> find_target([torch.zeros(2, 3), torch.tensor([0, 1])])
        tensor([0, 1])
        >>> find_target({"x": torch.zeros(2, 3), "class": torch.tensor([0, 1])}, where="class")
        tensor([0, 1])
    """
    if where is None:
        found = _usual_target(batch, apart, names_classes)
    elif callable(where):
        found = where(batch)
        if found is None:
            return None
    else:
        found = _look_up(batch, where)
    if not (isinstance(found, Tensor) if read is None else read(found) is not None):
        raise ValueError(
            f"Expected labels as a tensor in the batch, but got {_describe(batch)}"
            + ("" if where is None else f", where target={where!r} gives {_describe(found)}")
            + ". Set target to a position (1), a key or attribute ('label'), several joined by dots "
            "('second.1'), or the dotted path of a function that takes the batch and returns the "
            "labels, or None for a batch without."
        )
    return found


def find_mask(batch: Any, where: Place) -> Any:
    """Which rows of a batch count.

    Args:
        batch: Whatever the data loader yields.
        where: As for :func:`find_target`.

    Returns:
        What is there.

    Raises:
        ValueError: If nothing is.

    Example:
        >>> find_mask({"keep": torch.tensor([True])}, "keep")
        tensor([True])
    """
    found = where(batch) if callable(where) else _look_up(batch, where, "mask")
    if found is None:
        raise ValueError(
            f"Expected a mask in the batch, but mask={where!r} names nothing in "
            f"{_describe(batch)}. Set mask to a position, a key or attribute, several joined by dots, "
            "or a function of the batch."
        )
    return found


def shifted(labels: Tensor, by: int, ignored: int | float) -> Tensor:
    """Labels of later positions: that of a token is the next one's, in a causal language model.

    Args:
        labels: The last dimension is the sequence.
        by: How many positions later.
        ignored: The label of the last positions, which have none.

    Returns:
        The labels, in memory of their own.

    Example:
        >>> import torch
        >>> shifted(torch.tensor([[3, 4, 5]]), by=1, ignored=-100)
        tensor([[   4,    5, -100]])
    """
    labels = roomy(labels)
    late = labels.new_full(labels.shape, ignored)
    late[..., : max(0, labels.shape[-1] - by)] = labels[..., by:]
    return late


def refuse_inputs(batch: Any, labels: Tensor, ignored: int | float | None) -> None:
    """Raise a ValueError where the labels are an input as well; waits for the device.

    Args:
        batch: Whatever the data loader yields.
        labels: What was found in it.
        ignored: A label that says nothing.

    Raises:
        ValueError: If an integer input of the same shape holds the labels.
    """
    if labels.ndim < 2 or not is_whole_numbers(labels):
        return
    alike = [t for t in _tensors(batch) if t.shape == labels.shape and is_whole_numbers(t)]
    others = [t for t in alike if t is not labels] + [labels] * (sum(t is labels for t in alike) > 1)
    counts = torch.ones_like(labels, dtype=torch.bool) if ignored is None else labels != ignored
    if any(bool(counts.any() & ((t == labels) | ~counts).all()) for t in others):
        raise ValueError(
            "Expected labels that are not the inputs, but an input of shape "
            f"{tuple(labels.shape)} holds the same numbers. Does the network shift them, as causal "
            "language models do? Set target_shift=1: the label of a position is the next token's. "
            "If they are meant as they are, set target to where they are."
        )


class Labeled(NamedTuple):
    """What the labels of a batch are.

    Attributes:
        labels: One for each row; of those that do not count, the ignored one.
        graph: The graph, or the graphs, in the batch; None where there is none.
    """

    labels: Tensor
    graph: GraphBatch | None = None


def labels_of(batch: Any, places: Places, stage: str, task: Task, looks: bool) -> Labeled | None:
    """The labels of the classifier's rows; of those that a mask leaves out, the ignored one.

    Of a sampled neighborhood only the nodes count that it was sampled for.

    Args:
        batch: Whatever the data loader yields.
        places: Where they are, and how far ahead.
        stage: The name of the stage.
        task: What a label is.
        looks: Whether to look if they are inputs, and at the mask; waits for the device.

    Returns:
        The labels; None if a function says that this batch has none.

    Raises:
        ValueError: If there are none, or it is not certain which they are.
    """
    shift, ignored, dims = places.target_shift, task.ignored, task.label_dims
    place = of_stage(places.target, stage, "target")
    where = of_stage(places.mask, stage, "mask")
    given = None if place is None else find_target(batch, place, read=task.read)
    if place is not None and given is None:
        return None  # and there need be no mask
    mask = None if where is None else find_mask(batch, where)
    if given is None:
        given = find_target(batch, None, mask, task.read, task.names_classes)
    labels = task.read(given)
    assert labels is not None
    if places.target is None and not shift and looks and task.names_classes:
        refuse_inputs(batch, labels, ignored)
    asked, apart = places.names_graphs, task.tells_graphs_apart
    graph = find_graph(batch, given if isinstance(given, Tensor) else labels, dims, asked)
    if graph is not None:
        graph = graph.with_labels(labels.shape[: labels.ndim - dims].numel(), apart, asked)
        graph.require_mask(mask)
        if looks and asked and graph.has_labels:
            graph.require_edges()
        labels = _of_seeds(labels, graph, ignored, dims)
    if shift or mask is not None:
        labels = _of_rows_that_count(labels, mask, shift, ignored, looks, dims)
    if looks:
        task.require(labels.flatten(0, labels.ndim - dims - 1) if labels.ndim > dims else labels)
    return Labeled(labels, graph)


def _of_seeds(labels: Tensor, graph: GraphBatch, ignored: int | float | None, dims: int) -> Tensor:
    """Labels of a sampled neighborhood in which those of the nodes around its seeds say nothing."""
    if graph.num_seeds is None or len(labels) <= graph.num_seeds:
        return labels
    seeds = torch.arange(len(labels), device=labels.device) < graph.num_seeds
    shape = labels.shape[: labels.ndim - dims]
    seeds = seeds.view(-1, *[1] * (len(shape) - 1)).expand(shape)
    return _of_rows_that_count(labels, seeds, 0, ignored, looks=False, dims=dims)


def _of_rows_that_count(
    labels: Tensor, mask: Any, shift: int, ignored: int | float | None, looks: bool, dims: int
) -> Tensor:
    """Labels in which those of rows without one say nothing."""
    if ignored is None:
        raise ValueError(
            f"Expected an ignore_index with {'target_shift' if mask is None else 'mask'}, for "
            "the rows that have no label, but got None. Set ignore_index to a number that is no label, "
            "such as -100."
        )
    if mask is not None:
        labels = masked(labels, mask, ignored, looks, dims)
    if not shift:
        return labels
    labels = shifted(labels, shift, ignored)
    # neither a row that does not count, nor the label of one
    return labels if mask is None else masked(labels, mask, ignored, looks=False)


def _usual_target(batch: Any, apart: Any, names_classes: bool) -> Any:
    named = _named(batch)
    if named:
        found = list({id(value): value for value in named.values()}.values())
        rivals = [name for name in _rivals_of_y(batch, named) if _item(batch, name) is not apart]
        if len(found) > 1 or rivals:
            raise _several(batch, [*named, *rivals])
        return found[0]
    if not isinstance(batch, Sequence) or isinstance(batch, str):
        return None
    rest = list(batch[1:])
    may_be = _may_be_labels if names_classes else _is_tensor
    whole = [i for i, value in enumerate(rest, 1) if may_be(value) and value is not apart]
    if len(rest) > 1 and whole not in ([], [1]):
        raise _several(batch, sorted({1, *whole}))
    return rest[0] if rest else None


def _named(batch: Any) -> dict[str, Any]:
    """What goes by a usual name: a key, a field, or an attribute."""
    if isinstance(batch, Sequence) and not hasattr(batch, "_fields"):
        return {}
    found = {name: _item(batch, name) for name in TARGET_NAMES}
    return {name: value for name, value in found.items() if value is not None}


def _rivals_of_y(batch: Any, named: Mapping[str, Any]) -> list[str]:
    """What a mapping has beside "y", which says little, that could be the labels as well."""
    y = named.get("y")
    if list(named) != ["y"] or not isinstance(batch, Mapping) or not isinstance(y, Tensor):
        return []
    others = ((name, value) for name, value in batch.items() if name != "y")
    return [name for name, v in others if _may_be_labels(v) and v.shape == y.shape]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _may_be_labels(value: Any) -> bool:
    """Whether it may be the labels as well; what is true or false is a mask."""
    return is_whole_numbers(value) and value.dtype != torch.bool


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _several(batch: Any, places: Sequence[Any]) -> ValueError:
    return ValueError(
        f"Expected to be certain which of a batch are the labels, but got {_describe(batch)}, "
        f"where {' and '.join(map(repr, places))} could be. Set target to one of these places."
    )


def _look_up(batch: Any, where: str | int, argument: str = "target") -> Any:
    steps = [where] if isinstance(where, int) else where.split(".")
    found = batch
    for step in steps:
        found = None if found is None else _item(found, step)
    if found is None and len(steps) > 1:
        return import_function(str(where), argument)(batch)
    return found


def _item(value: Any, step: str | int) -> Any:
    if isinstance(value, Tensor):  # its rows are inputs
        return None
    if isinstance(step, int) or step.lstrip("-").isdigit():
        try:
            return value[int(step)]
        except (IndexError, KeyError, TypeError):
            return None
    if isinstance(value, Mapping) and step in value:
        return value[step]
    return getattr(value, step, None)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {list(value)}"
    if isinstance(value, list | tuple):
        items = ", ".join(_describe(item) for item in value[:4])
        return f"a {type(value).__name__} of {len(value)}: {items}"
    return f"a {type(value).__name__}"
