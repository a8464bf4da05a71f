"""Which linear map a path names."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lightning_nc.watch.heads import CONVOLUTIONS, reading
from lightning_nc.watch.linear import Adapter, LinearMap, Lone, Pointwise, Tied, Weighted
from lightning_nc.watch.paths import require_path, without_wrappers


def _is_pointwise(module: nn.Module) -> bool:
    if not isinstance(module, CONVOLUTIONS) or module.groups != 1:
        return False
    ones = prod((*module.kernel_size, *module.stride)) == 1
    return ones and module.padding in (0, "valid", "same", (0,) * len(module.kernel_size))


def _is_adapter(module: nn.Module) -> bool:
    parts = ("get_delta_weight", "lora_A", "active_adapters")
    return all(hasattr(module, name) for name in parts) and isinstance(_base(module), nn.Linear)


def _require_plain(path: str, module: nn.Module) -> None:
    """Raise a ValueError for adapters of another form than W + B A, such as DoRA, which begin as it."""
    variants = getattr(module, "lora_variant", {})
    others = [name for name in getattr(module, "active_adapters", ()) if name in variants]
    if others:
        raise ValueError(
            f"Expected classifier={path!r} to be W plus a low-rank matrix, but its adapter "
            f"{others[0]!r} is a {type(variants[others[0]]).__name__}. Train the classifier as a whole "
            "(peft: modules_to_save), or merge the adapter before you measure."
        )


def _base(module: nn.Module) -> nn.Module | None:
    return module._modules.get("base_layer")


def _has_matrix(module: nn.Module) -> bool:
    # its own: an adapter hands on the weight of the layer that it adapts
    own: Any = {**module._parameters, **module._buffers}.get("weight")
    if parametrize.is_parametrized(module, "weight"):
        with reading(module):
            own = module.weight
    return isinstance(own, Tensor) and not is_lazy(own) and own.ndim == 2


KINDS: tuple[tuple[Callable[[nn.Module], bool], type[LinearMap]], ...] = (
    (_is_adapter, Adapter),
    (lambda module: isinstance(module, nn.Linear), LinearMap),
    (_is_pointwise, Pointwise),
    (lambda module: isinstance(module, nn.Embedding), Tied),
    (_has_matrix, Weighted),
)
"""What a module has to be, and the map that it is; the first line that fits counts."""


def find_map(modules: Mapping[str, nn.Module], path: str) -> LinearMap:
    """The linear map at a path.

    Args:
        modules: By path.
        path: Of a module, or of a two-dimensional parameter; ".T" after that takes its columns. A
            ``weight`` brings the bias of its module.

    Returns:
        The map.

    Raises:
        ValueError: If there is none at that path.

    Example:
        >>> net = nn.Sequential(nn.Embedding(10, 4), nn.Conv1d(4, 2, 1))
        >>> modules = dict(net.named_modules())
        >>> find_map(modules, "1").width, find_map(modules, "0.weight.T").rows
        (4, 4)
    """
    lone = _lone(modules, path)
    if lone is not None:
        return lone
    require_path({**modules, **dict.fromkeys(_matrices(modules), nn.Module())}, path, "classifier")
    path = _active(modules, path)
    for is_one, kind in KINDS:
        if is_one(modules[path]):
            _require_plain(path, modules[path])
            return kind(path, modules[path])
    raise _not_linear(path, modules[path])


def _lone(modules: Mapping[str, nn.Module], path: str) -> Lone | None:
    holder, _, attribute = path.removesuffix(".T").rpartition(".")
    if path in modules or holder not in modules:
        return None
    with reading(modules[holder]):
        value = getattr(modules[holder], attribute, None)
    if not isinstance(value, Tensor):
        return None
    if value.ndim != 2:
        raise ValueError(
            f"Expected classifier={path!r} to be a two-dimensional parameter, whose rows are W, but it "
            f"has shape {tuple(value.shape)}. Is it a bias, or sharded (FSDP with flat parameters)? "
            "Name the weight of the last linear map."
        )
    return Lone(path, modules[holder], attribute, transposed=path.endswith(".T"))


def _active(modules: Mapping[str, nn.Module], path: str) -> str:
    """Of a module that an adapter trains a copy of (peft's modules_to_save), the copy in use."""
    copies, active = (getattr(modules[path], n, None) for n in ("modules_to_save", "active_adapters"))
    if not isinstance(copies, nn.ModuleDict) or not active or modules[path].disable_adapters:
        return path
    return f"{path}.modules_to_save.{active[0]}"


def _matrices(modules: Mapping[str, nn.Module]) -> list[str]:
    """The paths of two-dimensional parameters."""
    named = (
        (f"{path}.{name}".lstrip("."), parameter)
        for path, module in modules.items()
        for name, parameter in module._parameters.items()
    )
    return [name for name, p in named if p is not None and not is_lazy(p) and p.ndim == 2]


def find_maps(modules: Mapping[str, nn.Module], classifier: str | None) -> dict[str, LinearMap]:
    """What may be the classifier: the named map, or every ``nn.Linear``.

    Args:
        modules: By path.
        classifier: A path, or None.

    Returns:
        Maps by path.

    Raises:
        ValueError: If there is none, or what is named is not linear.
    """
    if classifier is not None:
        found = find_map(modules, classifier)
        return {found.name: found}
    linear = {n: LinearMap(n, m) for n, m in modules.items() if isinstance(m, nn.Linear)}
    if linear:
        return linear
    others = [n for n, m in modules.items() if n and any(is_one(m) for is_one, _ in KINDS)]
    hint = f" Set classifier to one of {', '.join(map(repr, others[-4:]))}?" if others else ""
    raise ValueError(
        "Expected an nn.Linear in the module, as classifier, but there is none. Is the head a "
        f"convolution, another kind of linear map, or a function?{hint} Any linear map or parameter "
        "can be named; where no hook sees its input, name the features as well, and with "
        "classifier=False they are measured without a head."
    )


def _not_linear(path: str, module: nn.Module) -> ValueError:
    named = [(without_wrappers(name), m) for name, m in module.named_modules() if name]
    inner = [name for name, m in named if isinstance(m, nn.Linear) or _is_pointwise(m)]
    several = {m.out_features for _, m in named if isinstance(m, nn.Linear)}
    hint = ""
    if isinstance(module, CONVOLUTIONS):
        hint = (
            f" Kernel {module.kernel_size}, stride {module.stride}, padding {module.padding}, groups "
            f"{module.groups}: it does not map each position by itself."
        )
    elif len(inner) > 1 and hasattr(module, "base_layer"):
        hint = (
            f" Its output is the sum of {', '.join(map(repr, inner))}: an adapter, of which no single "
            "layer is the classifier. Train the classifier as a whole (peft: modules_to_save), or "
            "merge the adapter before you measure."
        )
    elif len(inner) == 1 or len(several) > 1:
        hint = f" Did you mean {path}.{inner[-1]!s}?"
    elif inner:
        hint = f" Inside there are {', '.join(map(repr, inner))}."
    kind = type(module)
    # another package's Linear
    what = f"{kind.__module__}.{kind.__name__}" if "Linear" in kind.__name__ else kind.__name__
    return ValueError(
        f"Expected classifier={path!r} to be a linear map (an nn.Linear, a 1x1 convolution, a module "
        f"with a two-dimensional weight, or the path of a parameter), but it is a {what}.{hint} Of a "
        "head that is none (margin, cosine, several layers), set features to the module whose output "
        "is the feature, and classifier to its last weight, or to False."
    )
