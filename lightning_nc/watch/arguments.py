"""What the forward of a network is given of a batch, where nobody has said it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_nc.watch.graph_batch import find_graph

Arguments = tuple[list[Any], dict[str, Any], str]
"""Positional ones, keywords, and a clause on why it is not certain that it is these; else empty."""

_ARGS, _KEYWORDS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def signature_of(model: nn.Module) -> inspect.Signature:
    """What the forward takes; a wrapper that takes anything hands it on to what it wraps.

    Example:
        >>> list(signature_of(nn.Linear(1, 1)).parameters)
        ['input']
    """
    takes, inner = inspect.signature(model.forward), list(model.children())
    kinds = {p.kind for p in takes.parameters.values()}
    return signature_of(inner[0]) if kinds == {_ARGS, _KEYWORDS} and len(inner) == 1 else takes


def arguments_of(batch: Any, takes: inspect.Signature, asides: Sequence[Any]) -> Arguments:
    """Arguments for a batch.

    The batch, or of a sequence its first item, as the only argument; a mapping's items by name, and so
    the attributes of a graph where the forward takes several.

    Args:
        batch: What the data loader gave.
        takes: What the forward takes.
        asides: What the batch has beside the inputs: labels and mask.

    Returns:
        The arguments, and a doubt.

    Example:
        >>> import torch
        >>> x, y = torch.ones(2, 1), torch.ones(2)
        >>> arguments_of([x, y], signature_of(nn.Linear(1, 1)), [y])[0][0] is x
        True
    """
    items = [batch]
    if isinstance(batch, list | tuple):
        # the first one is the input, unless it is the labels themselves
        aside = [any(batch[0] is each for each in asides), *(_holds(v, asides) for v in batch[1:])]
        items = [item for item, is_aside in zip(batch, aside, strict=True) if not is_aside] or [batch]
    first, kinds = items[0], [p.kind for p in takes.parameters.values()]
    args, keywords = [first], dict[str, Any]()
    if isinstance(first, Mapping):
        known = dict(first) if _KEYWORDS in kinds else takes.parameters
        keywords = {k: v for k, v in first.items() if k in known or not _holds(v, asides)}
        args.clear()
        unknown = [key for key in keywords if key not in known]
        if unknown:
            return args, keywords, f"it does not take {', '.join(map(repr, unknown))}"
    try:
        takes.bind(*args, **keywords)
    except TypeError as error:
        return _of_graph(first, takes) or (args, keywords, f"a call with it fails ({error})")
    places = [kind for kind in kinds if kind not in {_KEYWORDS, inspect.Parameter.KEYWORD_ONLY}]
    is_one = len(places) == 1 and places != [_ARGS]
    if is_one or (len(items) == 1 and isinstance(first, Tensor | Mapping)):
        return args, keywords, ""
    return args, keywords, "it could take more than one argument"


def _of_graph(graph: Any, takes: inspect.Signature) -> Arguments | None:
    """The attributes of a graph that a forward has to be given, such as x and edge_index, by name."""
    found = find_graph(graph)
    named = {name: p for name, p in takes.parameters.items() if p.kind not in {_ARGS, _KEYWORDS}}
    known = {name for name in named if getattr(graph, name, None) is not None}
    wanted = {name for name, p in named.items() if p.default is p.empty}
    if found is None or not wanted <= known or any(p.kind is p.POSITIONAL_ONLY for p in named.values()):
        return None
    # which graph a node is of says nothing of a single one, and how many there are nothing at all
    says_nothing = {"batch_size", "num_nodes"} | ({"batch"} if found.num_graphs == 1 else set())
    others = sorted(known - wanted - says_nothing)
    doubt = f"it may take {' and '.join(map(repr, others))} of it as well" if others else ""
    return [], {name: getattr(graph, name) for name in named if name in wanted}, doubt


def _holds(value: Any, asides: Sequence[Any]) -> bool:
    nested = value.values() if isinstance(value, Mapping) else value
    inner = nested if isinstance(value, Mapping | list | tuple) else ()
    return any(value is each for each in asides) or any(_holds(item, asides) for item in inner)
