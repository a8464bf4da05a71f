"""Linear maps among the modules and parameters of a network: found, and read."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lightning_nc.values.precision import FLOAT32_EPS, accumulator_dtype, float32_products_are_exact
from lightning_nc.watch.paths import without_wrappers

_SHOWN_ROWS, _SHOWN_CLASSES = 16, 512
_ROWS_FIRST = (nn.Linear, nn.Embedding, nn.EmbeddingBag, nn.Bilinear)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Whose kernel may be that of a single position."""
# whose matrices have no forward of their own, and never end a network
_INSIDE = (
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.LayerNorm,
)


@dataclass(frozen=True, eq=False)
class Matrix:
    """A parameter that could be W.

    Attributes:
        name: Its path.
        parameter: The parameter.
        owner: The path of its module; of a parametrized one, of the module whose weight it makes.
        module: The module.
        sides: Its rows; also its columns, where the module does not tell which of them are classes.
    """

    name: str
    parameter: Tensor
    owner: str
    module: nn.Module
    sides: tuple[int, ...]

    @property
    def is_spread(self) -> bool:
        """Whether it has a dimension in front for that of a batch, as positions have."""
        return self.parameter.ndim == 3 and self.parameter.shape[0] == 1

    @property
    def is_pointwise(self) -> bool:
        """Whether it maps each position by itself: not a kernel of several pixels."""
        return self.parameter[0, 0].numel() == 1


def matrices(modules: Mapping[str, nn.Module]) -> list[Matrix]:
    """The parameters that could be W, each once; what makes up attention and recurrence is none.

    Nor is what an adapter has set aside, whose copy is trained in its place (peft's modules_to_save).

    Args:
        modules: By path.

    Returns:
        The matrices, in the order of the modules.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 5), nn.Conv2d(3, 8, 1))
        >>> [(m.name, m.sides) for m in matrices(dict(net.named_modules()))]
        [('0.weight', (4,)), ('2.weight', (8,))]
    """
    inside: list[Any] = [m for m in modules.values() if isinstance(m, _INSIDE)]
    wrappers = (m._modules for m in modules.values() if "modules_to_save" in m._modules)
    inside += [parts["original_module"] for parts in wrappers if parts.get("original_module")]
    inner = {id(child) for m in inside for child in m.modules()}
    found: dict[int, Matrix] = {}
    for path, module in modules.items():
        owner = re.sub(r"\.?parametrizations\..*", "", path)
        home = modules.get(owner, module)
        for name, parameter in () if id(home) in inner else module._parameters.items():
            if parameter is not None and not is_lazy(parameter) and parameter.ndim > 1:
                full = without_wrappers(f"{path}.{name}".lstrip("."))
                matrix = Matrix(full, parameter, owner, home, _sides(home, parameter))
                found.setdefault(id(parameter), matrix)
    return list(found.values())


def _sides(module: nn.Module, parameter: Tensor) -> tuple[int, ...]:
    first = isinstance(module, (*_ROWS_FIRST, *CONVOLUTIONS))
    return (parameter.shape[0],) if first else tuple(parameter.shape[:2])


def makes_weight(module: nn.Module) -> Iterator[Tensor]:
    """The matrices that a linear layer's weight consists of: it, or what it is computed from."""
    weight = module._parameters.get("weight")
    if weight is not None:
        yield weight
    elif parametrize.is_parametrized(module, "weight"):
        parts: Any = module.parametrizations
        yield from parts["weight"].parameters()
    else:  # the older weight_norm
        yield from (
            p for n, p in module._parameters.items() if p is not None and n.startswith("weight")
        )


def is_whole(module: nn.Linear) -> bool:
    """False where a rank keeps a share of the weight outside of the forward (FSDP, ZeRO)."""
    if parametrize.is_parametrized(module, "weight"):  # computed whenever it is read
        return True
    weight = getattr(module, "weight", None)
    shape = (module.out_features, module.in_features)
    if isinstance(weight, Tensor) and is_lazy(weight):
        return True
    return isinstance(weight, Tensor) and weight.shape == shape and not hasattr(weight, "device_mesh")


@contextmanager
def reading(module: nn.Module) -> Iterator[None]:
    """While a parametrized weight is read, nothing that the network computes with is changed.

    spectral_norm makes a step of its iteration whenever it is read in training mode, and a cache of
    parametrizations would keep what was read without a gradient.
    """
    if not parametrize.is_parametrized(module):
        yield
        return
    parts: Any = module.parametrizations
    modes, caches = [(part, part.training) for part in parts.modules()], parametrize._cache_enabled
    parts.eval()
    parametrize._cache_enabled = 0
    try:
        with torch.no_grad():
            yield
    finally:
        parametrize._cache_enabled = caches
        for part, mode in modes:
            part.training = mode


def read(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias."""
    with reading(module):
        return module.weight, module.bias


def first_rows(x: Tensor) -> Tensor:
    """Of a tensor with its features last, what tells a head of another kind.

    Example:
        >>> first_rows(torch.zeros(4, 8, 3)).shape
        torch.Size([16, 3])
    """
    x = x.detach()
    while x.ndim > 2 and x[0].numel() >= _SHOWN_ROWS * x.shape[-1]:  # a reshape may copy all of it
        x = x[0]
    return x.reshape(-1, x.shape[-1])[:_SHOWN_ROWS]


def gap(x: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor) -> Tensor:
    """How far an output is from W h + b: the largest difference, in shares of the sum of its terms.

    Args:
        x: Rows of input.
        weight: W.
        bias: b, or None.
        output: Rows of output.

    Returns:
        A scalar.

    Example:
        >>> head, h = nn.Linear(3, 2), torch.ones(5, 3)
        >>> float(gap(h, head.weight, head.bias, head(h))) < 1e-6
        True
    """
    dtype = accumulator_dtype(x.device)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        w = weight.detach()[:_SHOWN_CLASSES].to(dtype)
        h, z = x.to(dtype), output[:, :_SHOWN_CLASSES].to(dtype)
        b = z.new_zeros(()) if bias is None else bias.detach()[:_SHOWN_CLASSES].to(dtype)
        terms = h.abs() @ w.abs().T + b.abs()
        shares = (z - (h @ w.T + b)).abs() / terms.clamp(min=torch.finfo(dtype).tiny)
        return shares.max() if shares.numel() else z.new_zeros(())


def largest_gap(output: torch.dtype, device: torch.device) -> float:
    """What rounding can make of the :func:`gap` of W h + b.

    Example:
        >>> largest_gap(torch.float32, torch.device("cpu")) < 1e-5
        True
    """
    coarse = output == torch.float32 and not float32_products_are_exact(device)
    return max(4 * torch.finfo(torch.bfloat16 if coarse else output).eps, 64 * FLOAT32_EPS)


def weight_version(module: nn.Module) -> int | None:
    """Changes with each optimizer step, or None where that cannot be told."""
    weight = module._parameters.get("weight")
    lost = weight is None or is_lazy(weight) or weight.is_inference()
    return None if lost or weight is None else weight._version
