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
        For the input of an ``nn.Linear``, with LoRA or without, W; for that of a convolution its
        kernel, each of its positions with rows of its own. None for any other place, for a class with
        a forward of its own, which may apply another weight, and for adapters of another form.

    Example:
        >>> layer = Layer("conv.in", "conv", "auto", of_input=True)
        >>> weight_reader(layer, nn.Conv2d(3, 8, 5))().shape
        torch.Size([200, 3])
    """
    if not layer.of_input:
        return None
    if isinstance(module, CONVOLUTIONS):  # of a grouped one, an output meets a part of the input
        is_plain = _is_own(module, CONVOLUTIONS) and module.groups == 1
        return (lambda: _unfolded(read(module)[0])) if is_plain else None
    kind = next((kind for is_one, kind in KINDS if is_one(module)), None)
    if kind is None or kind not in (LinearMap, Adapter):
        return None
    is_plain = _is_own(module, (nn.Linear,)) if kind is LinearMap else not _is_variant(module)
    if not is_plain:
        return None
    linear = kind(layer.path, module)
    return lambda: linear.read()[0]


def _is_variant(adapter: nn.Module) -> bool:
    """Whether it is of another form than W + B A, such as DoRA, which begins as it."""
    return bool(getattr(adapter, "lora_variant", None))


def _is_own(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module's forward is that of one of these classes."""
    return any(type(module).forward is kind.forward for kind in kinds)


def _unfolded(kernel: Tensor) -> Tensor:
    return kernel.movedim(1, -1).flatten(0, -2)
