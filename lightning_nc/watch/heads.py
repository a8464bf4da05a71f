"""The last linear map: found among the modules, and read."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_nc.watch.paths import require_path, without_wrappers


def find_heads(modules: Mapping[str, nn.Module], classifier: str | None) -> dict[str, nn.Linear]:
    """What may be the classifier: the named module, or every ``nn.Linear``.

    Args:
        modules: By path.
        classifier: A path, or None.

    Returns:
        Modules by path.

    Raises:
        ValueError: If there is none, or the named one is not linear.
    """
    if classifier is None:
        found = {name: m for name, m in modules.items() if isinstance(m, nn.Linear)}
        if not found:
            raise ValueError(
                "Expected an nn.Linear in the module, as classifier, but there is none. Is the head "
                "a convolution or a function? Make it an nn.Linear, or measure its features with "
                "NeuralCollapse in a loop of your own."
            )
        return found
    require_path(modules, classifier, "classifier")
    module = modules[classifier]
    if not isinstance(module, nn.Linear):
        named = module.named_modules()
        inner = [without_wrappers(name) for name, m in named if isinstance(m, nn.Linear)]
        hint = f" Did you mean {classifier}.{inner[-1]!s}?" if inner else ""
        raise ValueError(
            f"Expected classifier={classifier!r} to be an nn.Linear, but it is a "
            f"{type(module).__name__}.{hint}"
        )
    return {classifier: module}


def is_whole(module: nn.Linear) -> bool:
    """False where a rank keeps a share of the weight outside of the forward (FSDP, ZeRO)."""
    if parametrize.is_parametrized(module, "weight"):  # computed whenever it is read
        return True
    weight = getattr(module, "weight", None)
    shape = (module.out_features, module.in_features)
    return isinstance(weight, Tensor) and weight.shape == shape and not hasattr(weight, "device_mesh")


def read(module: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight and bias; reading a parametrized weight must not change it, as spectral_norm does."""
    if not parametrize.is_parametrized(module):
        return module.weight, module.bias
    parts: Any = module.parametrizations
    modes = [(part, part.training) for part in parts.modules()]
    parts.eval()
    try:
        with torch.no_grad():
            return module.weight, module.bias
    finally:
        for part, mode in modes:
            part.training = mode


def is_trained(module: nn.Module) -> bool:
    """Whether any of its parameters takes a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


def weight_version(module: nn.Linear) -> int | None:
    """Changes with each optimizer step, or None where that cannot be told."""
    weight = module._parameters.get("weight")
    return None if weight is None or weight.is_inference() else weight._version
