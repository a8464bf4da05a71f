"""What a pass over a network must leave as it was: random states, buffers, weights and modes."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@contextmanager
def same_random_states(*devices: torch.device) -> Iterator[None]:
    """Put Python's, NumPy's and torch's global random states back afterwards, whatever happens.

    Args:
        *devices: Those that the network is on.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def same_buffers(module: nn.Module) -> Iterator[None]:
    """Put the buffers back afterwards, in their own memory, whatever changes them in eval mode."""
    kept = [_KeptBuffers.of(m) for m in module.modules() if m._buffers]
    try:
        yield
    finally:
        for each in kept:
            each.put_back()


@contextmanager
def eval_mode(module: nn.Module, remedy: str) -> Iterator[None]:
    """Eval mode, and afterwards each module's own: a frozen BatchNorm stays frozen.

    What a module's own ``eval()`` does besides is taken back by its own ``train()``; neither leaves a
    weight, a ``requires_grad`` or an attribute other than it was. Where all are in eval mode already,
    nothing is called.

    Args:
        module: The network.
        remedy: What to do where its ``eval()`` changes weights, for the message.

    Raises:
        ValueError: If it does, such as where LoRA's are merged; all is put back before.
    """
    modes = [(m, m.training) for m in module.modules()]
    if not any(trains for _, trains in modes):
        yield
        return
    own = [m for _, m in _with_their_own(module) if m.training]
    try:
        with _same_attributes(module):
            try:
                _switch_to_eval(module, remedy)
                yield
            finally:
                _switch_back(module, own)
    finally:
        for m, mode in modes:
            m.training = mode


def is_plain(tensor: Tensor) -> bool:
    """Whether the bytes of a tensor can be compared and written to.

    Not those of an expanded one, which nobody can write to, nor of a sparse or quantized one.
    """
    if is_lazy(tensor) or type(tensor.data) is not Tensor:
        return False
    is_dense = tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized)
    return is_dense and not (tensor.is_conj() or tensor.is_neg()) and 0 not in tensor.stride()


class _Kept(NamedTuple):
    """A tensor, in which memory it is, and what it holds."""

    tensor: Tensor
    memory: Tensor
    content: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> "_Kept":
        return cls(tensor, tensor.data, tensor.detach().clone())

    def is_unchanged(self) -> bool:
        now, then = self.tensor.detach(), self.content
        is_alike = (now.shape, now.dtype, now.device) == (then.shape, then.dtype, then.device)
        return is_alike and torch.equal(_bytes(now), _bytes(then))

    def put_back(self) -> None:
        self.tensor.data = self.memory.copy_(self.content)


class _KeptWeight(NamedTuple):
    """A parameter, where it is, and whose ``eval`` may change it."""

    by: str
    name: str
    owner: nn.Module
    key: str
    parameter: nn.Parameter
    kept: _Kept

    def is_unchanged(self) -> bool:
        now = dict(self.owner._parameters.items()).get(self.key)
        return now is self.parameter and self.kept.is_unchanged()

    def put_back(self) -> None:
        self.owner._parameters[self.key] = self.parameter
        self.kept.put_back()


class _KeptBuffers(NamedTuple):
    """The buffers of a module, and its attributes."""

    owner: nn.Module
    attributes: dict[str, Any]
    buffers: dict[str, Tensor | None]
    contents: list[_Kept]

    @classmethod
    def of(cls, m: nn.Module) -> "_KeptBuffers":
        contents = [_Kept.of(buffer) for buffer in m.buffers(recurse=False) if is_plain(buffer)]
        buffers = {} if isinstance(m, torch.jit.ScriptModule) else dict(m._buffers)
        return cls(m, dict(vars(m)), buffers, contents)

    def put_back(self) -> None:
        now = self.owner._buffers
        if any(now.get(name) is not buffer for name, buffer in self.buffers.items()):
            # another one in its place: an attribute may say what that is valid for
            _put_back(now, self.buffers)
            _put_back(vars(self.owner), self.attributes)
        for each in self.contents:
            if not each.is_unchanged():
                each.put_back()


def _switch_to_eval(module: nn.Module, remedy: str) -> None:
    with _same_weights(module) as changed:
        module.eval()
    if changed:
        raise ValueError(
            "Expected the weights to stay as they are in eval mode, but the eval() of "
            f"{changed[0].by} has changed the parameter {changed[0].name!r}. Are weights merged there, "
            "such as those of LoRA, or averages swapped in? They were put back, since training would "
            f"go on with the others. Turn merging off (merge_weights=False), or: {remedy}"
        )


def _switch_back(module: nn.Module, own: list[nn.Module]) -> None:
    if own:
        # a weight that was merged and put back is not to be taken apart once more
        with _same_weights(module):
            for m in own:
                if not m.training:  # else one around it has done so
                    m.train()


@contextmanager
def _same_attributes(module: nn.Module) -> Iterator[None]:
    """For the modules that a ``train`` or ``eval`` of somebody's own reaches.

    All attributes, and not only numbers: a cache and the size that it is valid for belong together.
    """
    reached = {id(m): m for _, top in _with_their_own(module) for m in top.modules()}
    places = [place for m in reached.values() for place in _dictionaries(m)]
    before = [dict(place) for place in places]
    gradients = [(p, p.requires_grad) for p in module.parameters()]
    try:
        yield
    finally:
        for place, content in zip(places, before, strict=True):
            _put_back(place, content)
        for parameter, requires_grad in gradients:
            if parameter.requires_grad is not requires_grad:
                parameter.requires_grad_(requires_grad)


@contextmanager
def _same_weights(module: nn.Module) -> Iterator[list[_KeptWeight]]:
    """Put weights back that change inside; they are listed in what is given."""
    # copies, but only where there is a doubt, and only for as long as a call of eval or train takes
    kept, changed = list(_kept_weights(module)), list[_KeptWeight]()
    try:
        yield changed
    finally:
        changed += [each for each in kept if not each.is_unchanged()]
        for each in changed:
            each.put_back()


def _kept_weights(module: nn.Module) -> Iterator[_KeptWeight]:
    """The parameters below each module with a ``train`` of its own, by the innermost of these."""
    places = {}
    for path, top in _with_their_own(module):
        by = f"{type(top).__name__} {path!r}" if path else type(top).__name__
        for name, owner in top.named_modules(prefix=path):
            for key, parameter in owner._parameters.items():
                if parameter is not None and is_plain(parameter):
                    places[id(owner), key] = by, f"{name}.{key}".lstrip("."), owner, key, parameter
    for place in places.values():
        yield _KeptWeight(*place, _Kept.of(place[-1]))


def _with_their_own(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, m in module.named_modules():
        if type(m).train is not nn.Module.train or type(m).eval is not nn.Module.eval:
            yield path, m


def _dictionaries(m: nn.Module) -> list[dict[str, Any]]:
    """Those in which a module holds what it has."""
    own = (*m.parameters(recurse=False), *m.buffers(recurse=False))
    # a scripted module holds nothing in Python, and a lazy one becomes another when it first runs
    if isinstance(m, torch.jit.ScriptModule) or any(is_lazy(tensor) for tensor in own):
        return []
    return [vars(m), m._parameters, m._buffers, m._modules]


def _put_back(now: dict[str, Any], before: dict[str, Any]) -> None:
    if list(now) != list(before) or any(now[name] is not value for name, value in before.items()):
        now.clear()  # the order, too: an optimizer's state goes by it
        now.update(before)


def _bytes(tensor: Tensor) -> Tensor:
    # NaN equals NaN here: a run that has diverged is no reason to refuse
    return tensor.reshape(-1).view(torch.uint8)
