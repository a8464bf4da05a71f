"""What the hooks keep of a forward: the classifier's input and decisions, features, pooled layers.

Nothing here changes what it sees, keeps a graph alive, or draws a random number.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_nc.watch.batch import Batch, Forward
from lightning_nc.watch.depth import NO_ROWS
from lightning_nc.watch.graph import product_of
from lightning_nc.watch.graph_pools import OF_NODES
from lightning_nc.watch.heads import first_rows
from lightning_nc.watch.hook import as_rows, casts, is_dense, leading_shape
from lightning_nc.watch.layers import Layer
from lightning_nc.watch.linear import LinearMap
from lightning_nc.watch.pools import apply_pool, pooled, positions, require_certain

if TYPE_CHECKING:
    from lightning_nc.watch.capture import Capture


def keep_input(capture: "Capture", batch: Batch, name: str, args: tuple[Any, ...], _: Any) -> None:
    """Before a linear map runs: its input."""
    x = as_rows(args)
    if x is None:
        return
    linear, current = capture.maps[name], batch.current
    # where autograd does not keep it, the network may change it in place afterwards
    kept = batch.is_trained and torch.is_grad_enabled() and linear.saves_input and not casts(x)
    current.features = x.detach() if kept else x.detach().clone()
    current.name, current.leading = name, leading_shape(x)
    if capture.is_sharded and batch.keeps is not None:  # afterwards, a rank has but its share of W
        current.parameters = linear.copied()
    capture.dropout.note_feature(x)
    if not torch.compiler.is_compiling():
        capture.depth.note_feature(name, x, current.layers)


def keep_decisions(
    capture: "Capture", batch: Batch, name: str, args: tuple[Any, ...], output: Any
) -> None:
    """After it has run: its decisions, and W."""
    current = batch.current
    if current.name != name or current.features is None or not is_dense(output):
        return
    linear = capture.maps[name]
    capture.part.note_part(current.features, output)
    if not torch.compiler.is_compiling() and (batch.is_first or not capture.is_settled):
        current.product = product_of(output)
    current.output = output.detach()
    current.rounds = output.dtype
    if not torch.compiler.is_compiling() and torch.is_autocast_enabled(output.device.type):
        current.rounds = torch.get_autocast_dtype(output.device.type)
    if capture.is_settled or not _has_more_rows(capture, batch, linear, current.features):
        read_output(capture, batch, current)
    keep_weight(capture, batch, linear)
    _count(capture, batch)


def keep_feature(
    capture: "Capture", batch: Batch, name: str, args: tuple[Any, ...], output: Any
) -> None:
    """What a module has put out, or is given, where that is the feature; and W."""
    layer = capture.feature
    assert layer is not None
    x = _tensor_of(layer, args, output, f"features={layer.given!r}")
    capture.dropout.note_feature(x)
    current, is_chunk = batch.current, capture.forwards == "concat" and layer.pool == "auto"
    if x.ndim < 3 or is_chunk:
        current.leading = leading_shape(x)
        current.features = x.detach().clone()
    else:
        require_certain(layer, x.shape, batch.label_shape)
        rows = pooled(layer, capture.modules, x.detach(), batch.source, batch.label_shape)
        current.features = rows
        current.leading = positions(layer, x.shape, batch.label_shape) or tuple(rows.shape[:-1])
    current.name = layer.name
    if capture.linear is not None:
        keep_weight(capture, batch, capture.linear)
    _count(capture, batch)


def keep_applied(
    capture: "Capture", batch: Batch, name: str, args: tuple[Any, ...], output: Any
) -> None:
    """After a head has run whose features are a module's output: W once more, as it was applied.

    It may be made anew in front of the head: by a hook (pruning, older weight_norm), or by the step.
    """
    if batch.num_forwards == 1 or capture.forwards != "first":
        keep_weight(capture, batch, capture.maps[name], is_applied=True)


def keep_layers(
    capture: "Capture", batch: Batch, name: str, args: tuple[Any, ...], output: Any
) -> None:
    """What another module has put out, or is given, as rows, by each of the pools that it has."""
    layer, nodes = capture.layers[name], None
    for each in capture.at_place[layer.path, layer.of_input]:
        nodes = _keep_layer(capture, batch, each, args, output, nodes)


def _keep_layer(
    capture: "Capture",
    batch: Batch,
    name: str,
    args: tuple[Any, ...],
    output: Any,
    nodes: Tensor | None,
) -> Tensor | None:
    """By one of them; rows of nodes, which several pools begin with, are copied once."""
    is_later = batch.before is not None and name not in batch.before
    compiles = torch.compiler.is_compiling()  # a graph for what is left out would be one more
    if is_later or (not compiles and name in capture.depth.left_out):
        return nodes  # after the classifier it would be taken for a part of the next forward
    layer = capture.layers[name]
    try:
        x = _tensor_of(layer, args, output, f"layer {layer.given!r}")
        layer = capture.pools.of(layer, x, batch.label_shape, batch.graph)
        # pooled now: the next module may change the output in place
        given = batch.source, batch.label_shape, batch.graph, nodes
        rows = pooled(layer, capture.modules, x.detach(), *given)
    except ValueError:
        if capture.depth.leaves_out(name, NO_ROWS):
            return nodes
        raise
    current = batch.current
    if name in current.layers and name not in current.carried and capture.is_settled:
        batch.repeated.add(name)
    nodes = rows if layer.pool in OF_NODES else nodes
    if not compiles and capture.depth.repeats(name, x, rows, current.layers):
        return nodes
    # a layer that runs once more takes its place anew: the order is that in which they end
    current.layers.pop(name, None)
    current.layers[name], current.carried = rows, current.carried - {name}
    return nodes


def keep_input_weight(
    capture: "Capture", batch: Batch, name: str, args: tuple[Any, ...], output: Any
) -> None:
    """The weight that a layer's input has met: what swaps weights later in the step is too late."""
    is_later = batch.before is not None and name not in batch.before
    first = capture.forwards == "first" and name in batch.weights
    if torch.compiler.is_compiling() or (name in batch.wanted and not is_later and not first):
        batch.weights[name] = capture.readers[name]().detach().clone()


def read_output(capture: "Capture", batch: Batch, forward: Forward) -> None:
    """Bring a map's input and output into rows, one for each label, and look at the decisions.

    Only the decisions are kept: logits of many classes are large, and may be changed in place.

    Args:
        capture: Whose forward it is.
        batch: The open batch.
        forward: With an output, which it is left without.
    """
    x, output = forward.features, forward.output
    if output is None or x is None:
        return
    linear = capture.maps[forward.name]
    if _has_more_rows(capture, batch, linear, x):
        x, output = (apply_pool(capture.pool, each, batch.source) for each in (x, output))
        forward.features, forward.leading = x, tuple(x.shape[:-1])
    else:
        forward.features, output = linear.channels_last(x), linear.channels_last(output)
        if forward.features is not x:
            forward.leading = tuple(forward.features.shape[:-1])
    forward.predicted = capture.decide(output)
    forward.shape, forward.shown = tuple(output.shape), first_rows(output).clone()
    forward.output = None


def keep_weight(capture: "Capture", batch: Batch, linear: LinearMap, is_applied: bool = False) -> None:
    """Copy W as the features have met it: what swaps weights later in the step is too late."""
    current = batch.forwards[-1] if is_applied and batch.forwards else batch.current
    if torch.compiler.is_compiling():  # in every batch: a graph for each kind of batch costs more
        current.parameters = linear.copied()
    elif batch.keeps is None or (capture.is_sharded and capture.feature is None):
        return
    elif not capture.is_settled:
        moves = linear.is_trained and torch.is_grad_enabled()
        could = batch.rows is not None and batch.rows.fit(linear.rows)
        current.parameters = linear.copied() if could and moves else None
    elif is_applied or capture.forwards != "first" or not batch.forwards:
        batch.keeps.keep(*linear.read())


def _has_more_rows(capture: "Capture", batch: Batch, linear: LinearMap, x: Tensor) -> bool:
    """Whether an input has several positions for each label, and it was said how they become one."""
    if capture.pool == "auto" or capture.forwards == "concat" or x.ndim < 3:
        return False
    return linear.channels_last(x).shape[:-1].numel() > batch.label_shape.numel()


def _count(capture: "Capture", batch: Batch) -> None:
    """The forward is complete; only those that can count are held, in the first batch all."""
    current = batch.current
    capture.has_fired = True
    batch.num_forwards += 1
    if capture.is_settled and batch.before is None:
        batch.before = frozenset(current.layers)
    if not capture.is_settled or capture.forwards in ("all", "concat"):
        batch.forwards = [*batch.forwards, current]
    elif capture.forwards == "last" or not batch.forwards:
        batch.forwards = [current]
    # a layer that runs once may have several forwards of the classifier behind it
    carries = not capture.is_settled or capture.forwards == "last"
    layers = dict(current.layers) if carries else {}
    batch.current = Forward(layers=layers, carried=frozenset(layers))


def _tensor_of(layer: Layer, args: tuple[Any, ...], output: Any, what: str) -> Tensor:
    value = (args[0] if args else None) if layer.of_input else output
    x = value[0] if isinstance(value, tuple | list) and value else value
    if not isinstance(x, Tensor):
        side = "be given a tensor as its first argument" if layer.of_input else (
            "put out a tensor, or a tuple that begins with one"
        )  # fmt: skip
        raise ValueError(
            f"Expected {what} to {side}, but got a {type(x).__name__}. "
            + ("Is it passed as a keyword? " if layer.of_input else "")
            + "Name a layer inside it."
        )
    if not x.is_floating_point():
        raise ValueError(
            f"Expected {what} to be features, but it holds {str(x.dtype).removeprefix('torch.')}. Are "
            "these token ids, or a mask? Name what the embedding puts out."
        )
    if not is_dense(x):
        raise ValueError(
            f"Expected {what} to be a dense tensor, but it is {'nested' if x.is_nested else x.layout}. "
            "torch's encoder makes its tokens so in eval mode where padding is masked: give "
            "nn.TransformerEncoder enable_nested_tensor=False, or measure a layer outside of it."
        )
    return x
