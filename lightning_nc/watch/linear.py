"""Linear maps: what a network computes W h + b with, however it holds W."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lightning_nc.watch.heads import is_whole, read, reading, weight_version

Parameters = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, eq=False)
class LinearMap:
    """An ``nn.Linear``, and what other kinds of map do otherwise.

    Attributes:
        name: Its path.
        module: Whose forward it is, or who holds the parameter.
    """

    name: str
    module: Any
    has_forward: ClassVar[bool] = True  # whether its forward puts out W h + b
    is_batch_first: ClassVar[bool] = False  # whether its input certainly is

    @property
    def rows(self) -> int:
        """C, also where the weight is sharded."""
        return self.module.out_features

    @property
    def width(self) -> int:
        """The width of the features."""
        return self.module.in_features

    @property
    def parameter(self) -> Tensor:
        """What W is made of, as it is held."""
        return self.module.weight

    def read(self) -> Parameters:
        """W and b as they are now."""
        return read(self.module)

    def copied(self) -> Parameters:
        """W and b as they are now, in memory of their own."""
        weight, bias = self.read()
        return weight.detach().clone(), None if bias is None else bias.detach().clone()

    def channels_last(self, x: Tensor) -> Tensor:
        """An input or output with its features, or classes, last."""
        return x

    @property
    def is_whole(self) -> bool:
        """False where a rank keeps a share of the weight outside of the forward (FSDP, ZeRO)."""
        return is_whole(self.module)

    def require_readable(self) -> None:
        """Raise a ValueError where no rank can read W outside of its own forward (FSDP1, ZeRO)."""
        if not self.is_whole and not hasattr(self.parameter, "full_tensor"):
            raise ValueError(
                f"Expected the weight of {self.name!r} to be whole, or sharded by FSDP2, with "
                "features, but it is sharded by FSDP1 or ZeRO, where it is whole inside its own "
                "forward alone. Use ModelParallelStrategy (FSDP2), or set no features where the "
                "classifier runs as a module."
            )

    @property
    def version(self) -> int | None:
        """Changes with each optimizer step, or None where that cannot be told."""
        return weight_version(self.module) if self.is_whole else None

    @property
    def is_trained(self) -> bool:
        """Whether any of its parameters takes a gradient."""
        return any(parameter.requires_grad for parameter in self.module.parameters())

    @property
    def saves_input(self) -> bool:
        """Whether autograd keeps its input for a gradient of W, so that nothing may change it."""
        weight = self.module._parameters.get("weight")
        return weight is not None and weight.requires_grad

    def __str__(self) -> str:
        return f"{self.module}"


@dataclass(frozen=True, eq=False)
class Pointwise(LinearMap):
    """A convolution that maps each position by itself.

    Example:
        >>> head = Pointwise("head", nn.Conv2d(8, 3, 1))
        >>> head.read()[0].shape, head.channels_last(torch.zeros(2, 8, 5, 4)).shape
        (torch.Size([3, 8]), torch.Size([2, 5, 4, 8]))
    """

    is_batch_first: ClassVar[bool] = True

    @property
    def rows(self) -> int:
        """Its output channels."""
        return self.module.out_channels

    @property
    def width(self) -> int:
        """Its input channels."""
        return self.module.in_channels

    def read(self) -> Parameters:
        """The kernel as a matrix, and the bias."""
        weight, bias = read(self.module)
        return weight.flatten(1), bias

    def channels_last(self, x: Tensor) -> Tensor:
        """Positions are rows."""
        return x.movedim(-1 - len(self.module.kernel_size), -1)

    @property
    def is_whole(self) -> bool:
        """False where a rank keeps a share of the kernel outside of the forward."""
        return _is_whole(self.module.weight, self.rows * self.width)


@dataclass(frozen=True, eq=False)
class Weighted(LinearMap):
    """A module with a two-dimensional ``weight``, and maybe a ``bias``, that is no ``nn.Linear``."""

    @property
    def rows(self) -> int:
        """The rows of its weight."""
        return self.read()[0].shape[0]

    @property
    def width(self) -> int:
        """The columns of its weight."""
        return self.read()[0].shape[1]

    def read(self) -> Parameters:
        """Its weight, and its bias where that has one entry for each row."""
        with reading(self.module):
            weight = self.module.weight
            return weight, _bias(self.module, weight)

    @property
    def is_whole(self) -> bool:
        """False where a rank keeps a share of the weight outside of the forward."""
        weight = self.read()[0]
        return _is_whole(weight, weight.numel())


@dataclass(frozen=True, eq=False)
class Tied(Weighted):
    """An embedding, whose rows are W where its weight is applied as a function."""

    has_forward: ClassVar[bool] = False


@dataclass(frozen=True, eq=False)
class Adapter(LinearMap):
    """A linear layer with low-rank adapters beside it, as peft's: W is their sum."""

    @property
    def rows(self) -> int:
        """Those of the layer below."""
        return self.module.base_layer.out_features

    @property
    def width(self) -> int:
        """That of the layer below."""
        return self.module.base_layer.in_features

    @property
    def parameter(self) -> Tensor:
        """That of the layer below."""
        return self.module.base_layer.weight

    def read(self) -> Parameters:
        """W and b of the layer below, with what its active adapters add."""
        module = self.module
        with torch.no_grad():
            weight, bias = read(module.base_layer)
            if module.merged or module.disable_adapters:
                return weight, bias
            for name in module.active_adapters:
                if name in module.lora_A:
                    weight = weight + module.get_delta_weight(name).to(weight)
                    own = getattr(module.lora_B[name], "bias", None)
                    if own is not None:
                        bias = own * module.scaling[name] + (0 if bias is None else bias)
            return weight, bias

    @property
    def is_whole(self) -> bool:
        """False where a rank keeps a share of any part of it."""
        return all(is_whole(each) for each in self.module.modules() if isinstance(each, nn.Linear))

    @property
    def version(self) -> int | None:
        """Changes with each optimizer step that changes any part of it."""
        parts = list(self.module.parameters())
        return None if any(p.is_inference() for p in parts) else sum(p._version for p in parts)

    @property
    def saves_input(self) -> bool:
        """Not in a way that one could rely on: a Dropout may come first."""
        return False


@dataclass(frozen=True, eq=False)
class Lone(Weighted):
    """A two-dimensional parameter or buffer by its path, whose rows are W; with ".T", its columns.

    Example:
        >>> net = nn.Linear(8, 3)
        >>> Lone("weight", net, "weight").rows, Lone("weight.T", net, "weight", transposed=True).rows
        (3, 8)
    """

    attribute: str = "weight"
    transposed: bool = False
    has_forward: ClassVar[bool] = False

    @property
    def parameter(self) -> Tensor:
        """As it is held, or as parametrizations make it."""
        with reading(self.module):
            return getattr(self.module, self.attribute)

    def read(self) -> Parameters:
        """The parameter; with a ``weight`` its module's bias, where that has an entry for each row."""
        weight = self.parameter.T if self.transposed else self.parameter
        return weight, _bias(self.module, weight) if self.attribute == "weight" else None

    @property
    def is_whole(self) -> bool:
        """False where a rank keeps a share of it."""
        return not hasattr(self.parameter, "device_mesh")

    @property
    def version(self) -> int | None:
        """Changes with each optimizer step, or None where that cannot be told."""
        if parametrize.is_parametrized(self.module, self.attribute) or self.parameter.is_inference():
            return None
        return self.parameter._version

    @property
    def is_trained(self) -> bool:
        """Whether it takes a gradient."""
        return self.parameter.requires_grad

    def __str__(self) -> str:
        return f"a parameter of shape {tuple(self.parameter.shape)}"


def _bias(module: nn.Module, weight: Tensor) -> Tensor | None:
    """That of a module, where it has one entry for each row."""
    bias = getattr(module, "bias", None)
    return bias.reshape(-1) if isinstance(bias, Tensor) and bias.numel() == len(weight) else None


def _is_whole(weight: Tensor, size: int) -> bool:
    # all of a flat weight may be on one rank; the others have to see it alike
    in_shape = weight.ndim > 1 and weight.numel() == size
    return is_lazy(weight) or (in_shape and not hasattr(weight, "device_mesh"))
