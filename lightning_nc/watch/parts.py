"""Whether a named classifier is but a part of a head: the base of an adapter, whose sum decides."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_nc.watch.heads import makes_weight, matrices
from lightning_nc.watch.hook import Hooks

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


class PartWatch:
    """A hook on the module around a classifier, for one batch only, where it has other such maps.

    It is a part where that module maps the same shapes, and puts out something else.
    """

    def __init__(self) -> None:
        self._hooks = Hooks()
        self._part: tuple[Any, ...] = ()
        self.whole: str | None = None

    def attach(
        self,
        modules: Mapping[str, nn.Module],
        name: str,
        hook: Callable[[str], Callable[..., None]],
    ) -> None:
        """Look at the nearest module around the classifier that runs by itself.

        Args:
            modules: By path.
            name: The classifier's path.
            hook: Makes the hook of a module, by its path.
        """
        head = modules[name]
        above = [name.rpartition(".")[0]]
        while above[-1] and isinstance(modules.get(above[-1]), _CONTAINERS):
            above.append(above[-1].rpartition(".")[0])
        around = modules.get(above[-1])
        if not above[-1] or around is None or not isinstance(head, nn.Linear):
            return
        own = {id(w) for w in makes_weight(head)}
        inside = matrices(dict(around.named_modules()))
        others = (m for m in inside if id(m.parameter) not in own)
        if any(head.out_features in m.sides for m in others):
            self._hooks.add(around.register_forward_hook, hook(above[-1]))

    def detach(self) -> None:
        """Remove the hook and let go of what it holds."""
        self._part = ()
        self._hooks.remove()

    def note_part(self, x: Tensor, output: Tensor) -> None:
        """What the classifier was given and has put out."""
        if len(self._hooks):
            self._part = x.shape, output, output._version

    def note_whole(
        self, capture: Any, batch: Any, name: str, args: tuple[Any, ...], output: Any
    ) -> None:
        """What the hook of the module around it does."""
        if not self._part or not isinstance(output, Tensor):
            return
        shape, part, version = self._part
        x = args[0] if args else None  # it may come as a keyword
        if output.shape != part.shape or (isinstance(x, Tensor) and x.shape != shape):
            return
        if output is not part or output._version != version:
            self.whole = name

    def require_none(self, name: str) -> None:
        """Raise a ValueError if the classifier is but a part.

        Args:
            name: The classifier's path.

        Raises:
            ValueError: If it is.
        """
        if self.whole is not None:
            raise ValueError(
                f"Expected the classifier {name!r} to be a whole head, but {self.whole!r} around it "
                "puts out something else than it does, and has another linear map of as many rows: an "
                "adapter, whose sum decides? Merge it before you measure, train the classifier as a "
                "whole (peft: modules_to_save), or set classifier to a layer that decides alone."
            )
