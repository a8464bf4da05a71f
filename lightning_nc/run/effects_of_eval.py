"""What a module's own ``train`` or ``eval`` does beyond modes, such as merging LoRA's weights."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_nc.run.frozen_loader import ALTERNATIVE

Attributes = list[tuple[nn.Module, dict[str, Any]]]
"""Modules, each with those of its attributes that are numbers, strings or None."""


def plain_attributes(module: nn.Module) -> Attributes:
    """The plain attributes of each module that a ``train`` or ``eval`` of somebody's own reaches."""
    reached = {id(m): m for _, top in _with_their_own(module) for m in top.modules()}
    return [(m, _plain(m)) for m in reached.values()]


def put_back(attributes: Attributes) -> None:
    """Make the plain attributes what they were."""
    for m, before in attributes:
        for name in _plain(m).keys() - before.keys():
            del vars(m)[name]
        vars(m).update(before)


def switch_to_eval(module: nn.Module) -> None:
    """Call ``eval()``, which must not change a parameter.

    Args:
        module: The network.

    Raises:
        ValueError: If it does; the parameters are put back before.
    """
    # copies of weights, but only where there is a doubt, and only for as long as this call takes
    kept = list(_kept_weights(module))
    changed: list[_Kept] = []
    try:
        module.eval()
    finally:
        changed += [each for each in kept if not each.is_unchanged()]
        for each in changed:
            each.put_back()
    if changed:
        raise ValueError(
            "Expected the weights to stay as they are in eval mode, but the eval() of "
            f"{changed[0].by} has changed the parameter {changed[0].name!r}. Are weights merged there, "
            "such as those of LoRA? They were put back, since training would go on with the merged "
            f"ones. Turn merging off (merge_weights=False), or: {ALTERNATIVE}"
        )


class _Kept(NamedTuple):
    """A parameter before ``eval()``: where it was, in which memory, and what it held."""

    by: str
    name: str
    owner: nn.Module
    key: str
    parameter: nn.Parameter
    memory: Tensor
    content: Tensor

    def is_unchanged(self) -> bool:
        now = self.owner._parameters.get(self.key)
        return now is self.parameter and torch.equal(_bytes(now), _bytes(self.content))

    def put_back(self) -> None:
        self.owner._parameters[self.key] = self.parameter
        self.parameter.data = self.memory.copy_(self.content)


def _kept_weights(module: nn.Module) -> Iterator[_Kept]:
    """The parameters below each module with a ``train`` of its own, by the innermost of these."""
    places = {}
    for path, top in _with_their_own(module):
        by = f"{type(top).__name__} {path!r}" if path else type(top).__name__
        for name, owner in top.named_modules(prefix=path):
            for key, parameter in owner._parameters.items():
                if parameter is not None and _is_plain(parameter):
                    places[id(owner), key] = by, f"{name}.{key}".lstrip("."), owner, key, parameter
    for place in places.values():
        yield _Kept(*place, memory=place[-1].data, content=place[-1].detach().clone())


def _with_their_own(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, m in module.named_modules():
        if type(m).train is not nn.Module.train or type(m).eval is not nn.Module.eval:
            yield path, m


def _is_plain(parameter: nn.Parameter) -> bool:
    """Whether its bytes can be compared."""
    is_dense = not is_lazy(parameter) and parameter.layout == torch.strided
    return is_dense and type(parameter.data) is Tensor


def _plain(module: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if v is None or type(v) in (bool, int, float, str)}


def _bytes(tensor: Tensor) -> Tensor:
    # NaN equals NaN here: a run that has diverged is no reason to refuse
    return tensor.detach().reshape(-1).view(torch.uint8)
