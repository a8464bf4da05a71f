"""Which dimension of what a module puts out, or takes in, holds the channels.

The types inside the module tell it where they agree, and the dimension that is as wide as one of them.
Of what has no channels of its own (an activation, a Dropout) the nearest module around it tells, if it
does. The channels of a linear map are its units, also where it mixes tokens.
"""

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_nc.watch.paths import Layer

# by the number of dimensions of what comes out: a convolution over images says nothing of tokens
_CHANNELS_FIRST: dict[int, tuple[type[nn.Module], ...]] = {
    3: (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d),
    4: (
        nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d,
        nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
    ),
    5: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.InstanceNorm3d),
}  # fmt: skip
_ALWAYS_FIRST = (nn.GroupNorm, nn.SyncBatchNorm)
_CHANNELS_LAST = (
    nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.MultiheadAttention, nn.RNN, nn.LSTM, nn.GRU,
)  # fmt: skip
_KNOWN = (
    *_ALWAYS_FIRST,
    *_CHANNELS_LAST,
    *(kind for kinds in _CHANNELS_FIRST.values() for kind in kinds),
)
_WIDTH_OUT = (
    "out_features", "out_channels", "num_features", "num_channels", "embedding_dim", "embed_dim",
)  # fmt: skip
_WIDTH_IN = ("in_features", "in_channels", "num_features", "num_channels", "input_size", "embed_dim")

_Evidence = tuple[set[str], set[int]]
# a walk through a large network takes milliseconds, and each batch asks again
_SEEN: WeakKeyDictionary[nn.Module, dict[tuple[int, tuple[str, ...]], _Evidence]] = WeakKeyDictionary()


def channel_axis(layer: Layer, modules: Mapping[str, nn.Module], x: Tensor) -> int | None:
    """The dimension that holds the channels.

    Args:
        layer: The place in the network.
        modules: By path.
        x: What was seen there, with more than two dimensions.

    Returns:
        1, -1, or None where that is not certain.

    Example:
        >>> modules = {"": nn.ModuleDict(), "conv": nn.Conv2d(3, 4, 1), "act": nn.ReLU()}
        >>> channel_axis(Layer("conv", "conv", "auto"), modules, torch.ones(2, 4, 5, 5))
        1
        >>> channel_axis(Layer("act", "act", "auto"), modules, torch.ones(2, 4, 5, 5)) is None
        True
    """
    path = layer.path
    layouts, widths = _evidence(modules[path], x.ndim, _WIDTH_IN if layer.of_input else _WIDTH_OUT)
    if layouts or widths:
        # where nothing fits, branches may have been put side by side
        fits = layouts == {"first"} and not _as_wide(x, widths)
        return 1 if fits else _certain_axis(x, layouts, widths, _has_parts(modules[path]))
    while path and not layouts and not widths:
        path = path.rpartition(".")[0]
        layouts, widths = _evidence(modules[path], x.ndim, (*_WIDTH_IN, *_WIDTH_OUT))
    axis = _certain_axis(x, layouts, widths, has_parts=True)
    # what has no channels of its own may be attention scores (B, heads, T, T)
    return None if axis == -1 and x.ndim > 3 else axis


def _evidence(module: nn.Module, ndim: int, names: tuple[str, ...]) -> _Evidence:
    """Where the types inside a module have their channels, "first" or "last", and how many."""
    if torch.compiler.is_compiling():  # once for each graph
        return _gather(module, ndim, names)
    known = _SEEN.setdefault(module, {})
    if (ndim, names) not in known:
        known[ndim, names] = _gather(module, ndim, names)
    return known[ndim, names]


def _gather(module: nn.Module, ndim: int, names: tuple[str, ...]) -> _Evidence:
    layouts: set[str] = set()
    widths: set[int] = set()
    for each in module.modules():
        layouts.update(_layout(each, ndim))
        widths.update(_widths(each, names))
    return layouts, widths - {1}


def _certain_axis(x: Tensor, layouts: set[str], widths: set[int], has_parts: bool) -> int | None:
    axes, last = _as_wide(x, widths), x.ndim - 1
    if layouts == {"last"}:
        return -1 if last in axes else None
    if layouts == {"first"}:
        # between two transpositions, convolutions may be a part of what is (B, T, d)
        return None if 1 not in axes or (has_parts and axes == [1, 2] and last == 2) else 1
    if axes == [last]:
        return -1
    # in (B, T, d) a width may be that of a map over tokens
    return 1 if axes == [1] and (layouts or x.ndim > 3) else None


def _as_wide(x: Tensor, widths: set[int]) -> list[int]:
    return [axis for axis in range(1, x.ndim) if x.shape[axis] in widths]


def _layout(module: nn.Module, ndim: int) -> tuple[str, ...]:
    """Where a type has its channels, "first" or "last"; nothing where it does not tell."""
    if isinstance(module, (*_ALWAYS_FIRST, *_CHANNELS_FIRST.get(ndim, ()))):
        return ("first",)
    if len(getattr(module, "normalized_shape", (1,))) > 1:  # over all of (C, H, W)
        return ()
    for kind in _CHANNELS_LAST:
        # another forward may permute, as that of a LayerNorm2d
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return ("last",)
    return ()


def _widths(module: nn.Module, names: tuple[str, ...]) -> Sequence[int]:
    """The channels of what a module puts out or takes in; of one with parts, each part has its own."""
    if _has_parts(module) and not isinstance(module, _KNOWN):
        return ()
    shape = getattr(module, "normalized_shape", ())
    if shape:
        return tuple(shape) if len(shape) == 1 else ()
    named = [getattr(module, name, None) for name in names]
    if isinstance(module, nn.RNNBase) and "out_features" in names:
        width = module.proj_size or module.hidden_size
        named.append(2 * width if module.bidirectional else width)
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return [width for width in named if isinstance(width, int)] or [len(p) for p in own if p.ndim == 1]


def _has_parts(module: nn.Module) -> bool:
    return next(module.children(), None) is not None
