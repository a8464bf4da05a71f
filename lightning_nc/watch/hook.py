"""Hooks that are there while a batch is open, and away where the network is copied or exported."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Keep = Callable[[Any, Any, str, tuple[Any, ...], Any], None]


@runtime_checkable
class Keeper(Protocol):
    """Whose hooks they are."""

    batch: Any
    holds_errors: bool


class Hook:
    """A hook on one module, that copies and pickles of the module leave behind.

    Args:
        keeper: Asked for the open batch.
        name: The module's path.
        keep: Called with the keeper, the batch, the path, the inputs and the output.
    """

    def __init__(self, keeper: Keeper, name: str, keep: Keep) -> None:
        self._keeper = keeper
        self._name = name
        self._keep = keep

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
        """Keep what comes by, in the batch that is open; an error is held where that is asked for."""
        keeper, batch = self._keeper, self._keeper.batch
        if batch is None or _recomputing():
            return
        if torch.compiler.is_compiling() or not keeper.holds_errors:
            self._keep(keeper, batch, self._name, args, output)
            return
        try:
            self._keep(keeper, batch, self._name, args, output)
        except Exception as error:
            batch.error = batch.error or error

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _no_hook

    def __reduce__(self) -> tuple[Any, ...]:
        return _get_no_hook, ()


class Hooks:
    """Registered hooks, which come and go with the batches.

    Example:
        >>> net, seen = nn.Linear(1, 1), []
        >>> hooks = Hooks()
        >>> hooks.add(net.register_forward_hook, lambda *_: seen.append(1))
        >>> hooks.rest()
        >>> _ = net(torch.ones(1, 1)); hooks.wake(); _ = net(torch.ones(1, 1)); len(seen)
        1
    """

    def __init__(self) -> None:
        self._registered: list[tuple[RemovableHandle, Callable[..., None]]] = []

    def __len__(self) -> int:
        return len(self._registered)

    def add(self, register: Callable[[Any], RemovableHandle], hook: Callable[..., None]) -> None:
        """Register one."""
        self._registered.append((register(hook), hook))

    def rest(self) -> None:
        """Go away for a while: a network with hooks of another's cannot be scripted."""
        for handle, _ in self._registered:
            handle.remove()

    def wake(self) -> None:
        """Come back, under the same names, for what was compiled with them."""
        for handle, hook in self._registered:
            place = handle.hooks_dict_ref()
            if place is not None:
                place.setdefault(handle.id, hook)

    def remove(self) -> None:
        """Go away for good."""
        self.rest()
        self._registered.clear()


def is_compiled(modules: Iterable[nn.Module]) -> bool:
    """Whether any module is compiled, as far as modules show it."""
    return any(
        type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None
        for module in modules
    )


def as_rows(args: tuple[Any, ...]) -> Tensor | None:
    """The input of a linear map, where it is one that can be read: one dense tensor.

    Nested ones are inside torch's own encoder layers.
    """
    x = args[0] if args else None
    return x if is_dense(x) else None


def is_dense(value: Any) -> bool:
    """Whether it is a tensor of rows: neither sparse nor nested."""
    is_tensor = isinstance(value, Tensor) and not value.is_nested
    return is_tensor and value.layout == torch.strided and value.ndim > 0


def casts(x: Tensor) -> bool:
    """Whether autocast makes another tensor of an input, which autograd keeps in its place."""
    if torch.compiler.is_compiling() or not torch.is_autocast_enabled(x.device.type):
        return False
    return x.dtype != torch.get_autocast_dtype(x.device.type)


def leading_shape(x: Tensor) -> tuple[int, ...]:
    """The leading dimensions of features; of flat ones, those that they had before.

    Example:
        >>> leading_shape(torch.zeros(4, 5, 3).reshape(-1, 3))
        (4, 5)
    """
    whole = x._base if x.ndim == 2 and not torch.compiler.is_compiling() and x._is_view() else None
    # what lies in memory in another order than its own, as of a recurrent layer, was flattened in that
    if whole is None or not whole.is_contiguous() or whole.numel() != x.numel():
        return tuple(x.shape[:-1])
    return tuple(whole.shape[:-1] if whole.shape[-1:] == x.shape[-1:] else x.shape[:-1])


def _no_hook(module: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
    """What a hook becomes in a copy of its module: a teacher's features are not the student's."""


def _get_no_hook() -> Callable[..., None]:
    return _no_hook


def _recomputing() -> bool:
    """True in a forward that is not the step's own: in backward (checkpointing), or under vmap."""
    if torch.compiler.is_compiling():
        return False
    return (
        torch._C._current_graph_task_id() != -1
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
