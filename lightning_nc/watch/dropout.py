"""Whether active Dropout directly precedes the features, whose noise then counts as variability."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class DropoutWatch:
    """Hooks on the Dropouts of a network, for one batch only: torch gives up fused kernels for them."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._dropped: Tensor | None = None
        self.precedes_features = False

    def attach(
        self, modules: Mapping[str, nn.Module], hook: Callable[[nn.Module], Callable[..., None]]
    ) -> None:
        """Register a hook on each Dropout.

        Args:
            modules: By path.
            hook: Makes the hook of a module.
        """
        for module in modules.values():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                self._handles.append(module.register_forward_hook(hook(module)))

    def detach(self) -> None:
        """Remove the hooks and let go of what they hold."""
        self._dropped = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def note_output(self, module: Any) -> Callable[..., None]:
        """What the hook of a Dropout does."""

        def note(capture: Any, batch: Any, name: str, args: tuple[Any, ...], output: Any) -> None:
            if module.training and module.p > 0 and not torch.compiler.is_compiling():
                self._dropped = output.detach()

        return note

    def note_feature(self, x: Tensor) -> None:
        """Compare a classifier's input with what the last Dropout has put out."""
        if self._dropped is not None:
            # the same memory, still held here: reshaping between the two does not hide it
            memory = self._dropped.untyped_storage().data_ptr()
            self.precedes_features = x.untyped_storage().data_ptr() == memory
