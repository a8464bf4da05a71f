"""How what has more than two dimensions becomes rows."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nc.dotted_path import import_function
from lightning_nc.watch.channels import channel_axis
from lightning_nc.watch.graph_batch import GraphBatch
from lightning_nc.watch.graph_pools import GRAPH_POOLS, of_graph
from lightning_nc.watch.paths import Layer

_SHAPES = 1024  # for which the pools of layers are kept


def last_token(x: Tensor, batch: Any) -> Tensor:
    """Of each sequence the last token that the batch's ``attention_mask`` marks.

    Padding may be on either side. A sequence without a marked token gives its first one, as in
    transformers' models for sequence classification. Does not wait for the device.

    Args:
        x: Features ``(B, T, d)``.
        batch: What the data loader gave; ``attention_mask`` is a key or an attribute of it.

    Returns:
        Rows ``(B, d)``.

    Raises:
        ValueError: If there is no mask, or it is not that of these tokens.

    Example:
        >>> x = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]])
        >>> last_token(x, {"attention_mask": torch.tensor([[1, 1, 0], [0, 1, 1]])})
        tensor([[2.],
                [6.]])
    """
    named = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    mask = getattr(batch, "attention_mask", None) if named is None else named
    if not isinstance(mask, Tensor):
        raise ValueError(
            "Expected an attention_mask in the batch, as a key or an attribute, for "
            f"pool='last_token', but got a {type(batch).__name__} without. Set pool='last' where "
            "nothing is padded, or the dotted path of a function of (x, batch)."
        )
    if x.ndim != 3 or mask.shape != x.shape[:2]:
        raise ValueError(
            "Expected features of shape (B, T, d) and an attention_mask of shape (B, T) for "
            f"pool='last_token', but got {tuple(x.shape)} and {tuple(mask.shape)}. Are these the "
            "tokens that the mask is for? Set pool to the dotted path of a function of (x, batch)."
        )
    places = torch.arange(x.shape[1], device=x.device)
    last = torch.where(mask != 0, places, 0).amax(1)
    return x.gather(1, last[:, None, None].expand(-1, 1, x.shape[2])).squeeze(1)


POOLS: dict[str, Callable[..., Tensor]] = {
    "spatial_mean": lambda x: x.flatten(2).mean(2),
    "token_mean": lambda x: x.flatten(1, -2).mean(1),
    "flatten": lambda x: x.flatten(1),
    "first": lambda x: x[:, 0],
    "last": lambda x: x[:, -1],
    "last_token": last_token,
    "tokens": lambda x: x.flatten(0, -2),
    "pixels": lambda x: x.movedim(1, -1).flatten(0, -2),
}
"""How an output with more than two dimensions becomes rows, by the name of the setting; a function of
the output, or of the output and the batch."""


def require_pool(pool: str) -> None:
    """Raise a ValueError unless this names a pool.

    Args:
        pool: "auto", a name in :data:`POOLS`, or the dotted path of a function.

    Raises:
        ValueError: If it is none of them.

    Example:
        >>> require_pool("token_mean")
    """
    if pool in GRAPH_POOLS:
        return
    if pool not in (*POOLS, "auto") and "." not in pool:
        raise ValueError(
            f"Expected pool to be 'auto', one of {', '.join((*POOLS, *GRAPH_POOLS))}, or the dotted "
            f"path of a function, but got {pool!r}."
        )
    for name in POOLS if pool == "auto" else (pool,):
        function, _ = _pool_of(name)
        if _num_required(function) > 2:
            raise ValueError(
                f"Expected pool to name a function of (x) or (x, batch), but {name!r} takes "
                f"{inspect.signature(function)}. Give the others defaults?"
            )


def apply_pool(pool: str, x: Tensor, batch: Any) -> Tensor:
    """Rows by a named or a dotted function, which gets the batch where it asks for it.

    Args:
        pool: A name in :data:`POOLS`, or the dotted path of a function.
        x: With more than two dimensions.
        batch: What the data loader gave.

    Returns:
        What the function returns.

    Example:
        >>> apply_pool("first", torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), batch=None)
        tensor([[1., 2.]])
    """
    function, takes_batch = _pool_of(pool)
    return function(x, batch) if takes_batch else function(x)


def _pool_of(pool: str) -> tuple[Callable[..., Any], bool]:
    """The function of a pool, and whether it asks for the batch; looked for once in a process."""
    function = POOLS.get(pool)
    key = pool if function is None else function
    if key not in _FOUND:
        function = function or import_function(pool, "pool")
        _FOUND[key] = function, _num_required(function) == 2
    return _FOUND[key]


_FOUND: dict[str | Callable[..., Any], tuple[Callable[..., Any], bool]] = {}


def _num_required(function: Callable[..., Any]) -> int:
    """How many positional arguments a function has to be given; 1 where that cannot be told."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # one written in C
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in positional and each.default is each.empty for each in parameters)


def pooled(
    layer: Layer,
    modules: Mapping[str, nn.Module],
    x: Tensor,
    batch: Any,
    label_shape: torch.Size | None,
    graph: GraphBatch | None = None,
    nodes: Tensor | None = None,
) -> Tensor:
    """What a module puts out, or takes in, as rows in memory of their own.

    What has two dimensions is rows already, but of nodes for a pool of graphs, or a function of one's
    own.

    Args:
        layer: The place in the network, and its pool.
        modules: By path.
        x: What was seen there.
        batch: What the data loader gave.
        label_shape: Shape of the batch's labels, by which token-level features are told.
        graph: The graph, or the graphs, in the batch.
        nodes: A copy of it as rows of nodes, if there is one.

    Returns:
        Rows; for "neighborhood_mean" those of the nodes, of which the recorder takes the means.

    Raises:
        ValueError: If "auto" cannot tell where the channels are.

    Example:
        >>> layer = Layer("conv", "conv", "auto")
        >>> pooled(layer, {"conv": nn.Conv2d(3, 4, 1)}, torch.ones(2, 4, 5, 5), None, None).shape
        torch.Size([2, 4])
    """
    if layer.pool in GRAPH_POOLS:
        return of_graph(layer, x, graph, batch, nodes)
    if x.ndim <= 2 and (graph is None or layer.pool == "auto" or layer.pool in POOLS):
        return x.clone()
    pool = choose_pool(layer, modules, x, label_shape) if layer.pool == "auto" else layer.pool
    rows = apply_pool(pool, x, batch)
    # of a compiled graph, and in inference mode, a view cannot be told
    is_new = not torch.compiler.is_compiling() and not rows.is_inference() and not rows._is_view()
    return rows if is_new else rows.clone()


def choose_pool(
    layer: Layer, modules: Mapping[str, nn.Module], x: Tensor, label_shape: torch.Size | None
) -> str:
    """Tokens, or pixels, where each position has a label, else the mean over all but the channels.

    Args:
        layer: The place in the network.
        modules: By path.
        x: What was seen there.
        label_shape: Shape of the batch's labels.

    Returns:
        A name in :data:`POOLS`.

    Raises:
        ValueError: If it is not certain where the channels are.

    Example:
        >>> layer = Layer("fc", "fc", "auto")
        >>> choose_pool(layer, {"fc": nn.Linear(3, 4)}, torch.ones(2, 5, 4), torch.Size([2]))
        'token_mean'
    """
    axis, module = channel_axis(layer, modules, x), modules[layer.path]
    if label_shape is not None and len(label_shape) > 1 and x.shape[:-1] == label_shape and axis != 1:
        return "tokens"
    if axis == 1 and label_shape is not None and (x.shape[0], *x.shape[2:]) == tuple(label_shape):
        return "pixels"
    around = modules.get(layer.path.rpartition(".")[0] or layer.path, module)
    if axis is None or any(_is_sequence_first(each, x, label_shape) for each in (module, around)):
        raise ValueError(
            f"Expected a pool for layer {layer.name!r}, a {type(module).__name__} whose "
            f"{'input' if layer.of_input else 'output'} has shape {tuple(x.shape)}: it is not certain "
            f"which dimension holds its channels. Set pool, or layers={{{layer.given!r}: pool}}, to "
            f"one of {', '.join(POOLS)}, or a dotted function."
        )
    return "spatial_mean" if axis == 1 else "token_mean"


class ChosenPools:
    """What "auto" comes to for layers, found once for each shape.

    Args:
        modules: By path.

    Example:
        >>> pools = ChosenPools({"conv": nn.Conv2d(3, 4, 1)})
        >>> pools.of(Layer("conv", "conv", "auto"), torch.ones(2, 4, 5, 5), torch.Size([2])).pool
        'spatial_mean'
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._known: dict[tuple[Any, ...], Layer] = {}

    def of(
        self, layer: Layer, x: Tensor, label_shape: torch.Size, graph: GraphBatch | None = None
    ) -> Layer:
        """A layer with its pool; raises a ValueError where it is not certain where the channels are."""
        if layer.pool != "auto" or torch.compiler.is_compiling():
            return layer
        if x.ndim <= 2:
            of_nodes = graph is not None and graph.has_more_nodes(len(x), label_shape.numel())
            return replace(layer, pool="graph_mean") if of_nodes else layer
        key = layer.name, x.shape, label_shape
        if key not in self._known:
            if len(self._known) >= _SHAPES:  # sequences of any length
                self._known.clear()
            self._known[key] = replace(layer, pool=choose_pool(layer, self._modules, x, label_shape))
        return self._known[key]


def positions(layer: Layer, shape: Sequence[int], label_shape: Sequence[int]) -> tuple[int, ...] | None:
    """The leading dimensions of rows that are all positions of what was pooled; else None.

    Args:
        layer: The place in the network, and its pool.
        shape: Of what was seen there.
        label_shape: Of the batch's labels: "auto" takes all positions only where it is theirs.

    Returns:
        The dimensions, in the order of the rows.

    Example:
        >>> positions(Layer("conv", "conv", "pixels"), (2, 6, 5, 4), (2, 5, 4))
        (2, 5, 4)
    """
    of_each = {"tokens": tuple(shape[:-1]), "pixels": (shape[0], *shape[2:])}
    if layer.pool == "auto":
        return next((p for p in of_each.values() if p == tuple(label_shape)), None)
    return of_each.get(layer.pool)


def require_certain(layer: Layer, shape: Sequence[int], label_shape: Sequence[int]) -> None:
    """Raise a ValueError where a feature has more positions than labels, and no pool was named.

    What makes one row of them, nobody but the head knows; of a further layer it is a choice.

    Args:
        layer: The place of the feature, and its pool.
        shape: Of what was seen there.
        label_shape: Of the batch's labels.

    Raises:
        ValueError: If it is not certain.

    Example:
        >>> require_certain(Layer("body", "body", "auto"), (2, 5, 4), (2, 5))
    """
    if layer.pool == "auto" and positions(layer, shape, label_shape) is None:
        raise ValueError(
            f"Expected a pool for features={layer.given!r}, which has shape {tuple(shape)} where the "
            f"labels have {tuple(label_shape)}: what makes a row of its positions is what the head "
            f"takes of them. Set pool to one of {', '.join(POOLS)}, or a dotted function."
        )


def _is_sequence_first(module: nn.Module, x: Tensor, label_shape: torch.Size | None) -> bool:
    """Whether the batch seems to be the second dimension, as it is in recurrent layers by default."""
    return (
        label_shape is not None
        and x.ndim == 3
        and x.shape[1:2] == label_shape[:1]
        and any(getattr(each, "batch_first", True) is False for each in module.modules())
    )
