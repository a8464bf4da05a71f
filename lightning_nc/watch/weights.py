"""The weight that a layer's input meets, as a matrix whose columns are the input's features."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lightning_nc.watch.find_map import KINDS
from lightning_nc.watch.heads import CONVOLUTIONS, read
from lightning_nc.watch.linear import Adapter, LinearMap
from lightning_nc.watch.paths import Layer


def weight_reader(layer: Layer, module: Any) -> Callable[[], Tensor] | None:
    """What reads the weight, as it is when it is called.

    Args:
        layer: A place in the network.
        module: Its module.

    Returns:
        For the input of an ``nn.Linear``, with adapters or without, W; for that of a convolution its
        kernel, each of its positions with rows of its own. None for any other place.

    Example:
        >>> layer = Layer("conv.in", "conv", "auto", of_input=True)
        >>> weight_reader(layer, nn.Conv2d(3, 8, 5))().shape
        torch.Size([200, 3])
    """
    if not layer.of_input:
        return None
    if isinstance(module, CONVOLUTIONS):  # of a grouped one, an output meets a part of the input
        return None if module.groups > 1 else lambda: _unfolded(read(module)[0])
    kind = next((kind for is_one, kind in KINDS if is_one(module)), None)
    if kind not in (LinearMap, Adapter):
        return None
    linear = kind(layer.path, module)
    return lambda: linear.read()[0]


def _unfolded(kernel: Tensor) -> Tensor:
    return kernel.movedim(1, -1).flatten(0, -2)


def has_weight(layer: Layer, module: nn.Module) -> bool:
    """Whether the input of a layer meets a weight that can be read."""
    return weight_reader(layer, module) is not None
