"""What a forward yields: the classifier's input, the network's decisions, pooled layer outputs.

Hooks only store; rows enter the statistics when the batch ends. They return nothing, keep no graph
alive and draw no random numbers, so that training does not notice them.
"""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nc.dotted_path import import_function
from lightning_nc.values import decide

TARGET_NAMES = ("target", "targets", "label", "labels", "y")
FORWARDS = ("first", "last", "all")
POOLS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "spatial_mean": lambda x: x.flatten(2).mean(2),
    "token_mean": lambda x: x.flatten(1, -2).mean(1),
    "flatten": lambda x: x.flatten(1),
    "first": lambda x: x[:, 0],
    "last": lambda x: x[:, -1],
    "tokens": lambda x: x.flatten(0, -2),
}
"""How an output with more than two dimensions becomes rows, by the name of the setting."""

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)


@dataclass
class Forward:
    """What one forward has left.

    Attributes:
        name: Path of the linear layer.
        features: Its input, as it came in.
        predicted: The network's decision per row.
        layers: Pooled outputs of further modules, by path.
    """

    name: str = ""
    features: Tensor | None = None
    predicted: Tensor | None = None
    layers: dict[str, Tensor] = field(default_factory=dict)


class Capture:
    """Hooks on one network.

    Args:
        root: The module whose submodules are named by dotted paths.
        classifier: Path to the last linear layer; None: the last ``nn.Linear`` to run in the first
            forward.
        layers: Paths or globs of further modules; a mapping gives each its pool.
        pool: A name in :data:`POOLS`, a dotted function, or "auto".
        forwards: Which forward of a step counts when there are several: "first", "last" or "all".

    Raises:
        ValueError: If a path names no module, or the classifier is not linear.
    """

    def __init__(
        self,
        root: nn.Module,
        classifier: str | None = None,
        layers: Sequence[str] | Mapping[str, str] = (),
        pool: str = "auto",
        forwards: str = "last",
    ) -> None:
        if forwards not in FORWARDS:
            raise ValueError(f"Expected forwards to be one of {FORWARDS}, but got {forwards!r}.")
        self._modules = dict(root.named_modules())
        self._policy = forwards
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._candidates = _find_classifiers(self._modules, classifier)
        self._pools = _find_layers(self._modules, layers, pool)
        self.classifier_name = classifier
        self._label_shape: torch.Size | None = None
        self._current = Forward()
        self._finished: list[Forward] = []
        self._has_fired = False
        self._dropped: Tensor | None = None
        self._after_dropout: set[str] = set()

    def attach(self) -> None:
        """Register the hooks; a second call changes nothing."""
        if self._handles:
            return
        for name, module in self._candidates.items():
            self._handles.append(module.register_forward_pre_hook(self._input_hook(name)))
            self._handles.append(module.register_forward_hook(self._output_hook(name)))
        for name in self._pools:
            self._handles.append(self._modules[name].register_forward_hook(self._layer_hook(name)))
        for module in self._modules.values():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                self._handles.append(module.register_forward_hook(self._dropout_hook))

    def detach(self) -> None:
        """Remove all hooks and let go of what they hold; a second call changes nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.begin(None)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The paths of the measured layers, globs resolved."""
        return tuple(self._pools)

    @property
    def latest(self) -> Forward | None:
        """The last forward since :meth:`begin`, or None."""
        return self._finished[-1] if self._finished else None

    @property
    def has_fired(self) -> bool:
        """Whether any forward has ever come by."""
        return self._has_fired

    @property
    def classifier(self) -> nn.Linear | None:
        """The last linear layer; None before the first forward has shown which it is."""
        return None if self.classifier_name is None else self._candidates[self.classifier_name]

    def begin(self, label_shape: torch.Size | None) -> None:
        """Start a batch, and forget what an unfinished one has left.

        Args:
            label_shape: Shape of the batch's labels, by which token-level features are told.
        """
        self._label_shape = label_shape
        self._current = Forward()
        self._finished = []
        self._dropped = None

    def take(self) -> list[Forward]:
        """The forwards of this batch that count, and forget them.

        Returns:
            None, one, or with ``forwards="all"`` several.
        """
        finished = self._finished
        self.begin(None)
        if finished and self.classifier_name is None:
            self._settle(finished[-1].name)
        counted = [forward for forward in finished if forward.name == self.classifier_name]
        return {"first": counted[:1], "last": counted[-1:], "all": counted}[self._policy]

    def weight_and_bias(self) -> tuple[Tensor, Tensor | None] | None:
        """The classifier's parameters as they are now, not copied; None before the first forward."""
        name = self.classifier_name
        if name is None:
            if self.latest is None:
                return None
            name = self.latest.name
        module = self._candidates[name]
        return module.weight, module.bias

    @property
    def after_dropout(self) -> bool:
        """Whether active Dropout directly precedes the classifier."""
        return self.classifier_name in self._after_dropout

    def explain_silence(self) -> str:
        """Why no forward may have been seen, and what to do."""
        name = f"{self.classifier_name!r}" if self.classifier_name else "any nn.Linear"
        return (
            f"Expected the forward of {name} to run in a step, but its hook never fired. Is it "
            "unused, or applied as a function (F.linear with its weight)? Was the network compiled "
            "and run before the Trainer started (set "
            "torch._dynamo.config.skip_nnmodule_hook_guards = False before compiling)? Give the "
            "dotted path of the layer that runs as `classifier`."
        )

    def _settle(self, name: str) -> None:
        """Keep the hooks of the one layer that ran last."""
        self.detach()
        self.classifier_name = name
        self._candidates = {name: self._candidates[name]}
        self.attach()

    def _input_hook(self, name: str) -> Callable[..., None]:
        def keep_input(module: nn.Module, args: tuple[Any, ...]) -> None:
            if _recomputing() or not args:
                return
            self._current.name = name
            self._current.features = args[0].detach()
            self._look_for_dropout(args[0])

        return keep_input

    def _output_hook(self, name: str) -> Callable[..., None]:
        def keep_decisions(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if _recomputing() or self._current.name != name:
                return
            # the decisions only: logits of many classes are large, and may be changed in place
            self._current.predicted = decide(output.detach())
            self._finish_forward()

        return keep_decisions

    def _layer_hook(self, name: str) -> Callable[..., None]:
        def keep_pooled(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not _recomputing():
                x = output[0] if isinstance(output, tuple | list) else output
                # pooled now: the next module may change the output in place
                self._current.layers[name] = self._pooled(name, x.detach())

        return keep_pooled

    def _dropout_hook(self, module: Any, args: tuple[Any, ...], output: Tensor) -> None:
        if module.training and module.p > 0 and not torch.compiler.is_compiling():
            self._dropped = output

    def _look_for_dropout(self, feature: Tensor) -> None:
        if self._dropped is None or torch.compiler.is_compiling():
            return
        # the same memory: reshaping between the two does not hide it
        if feature.untyped_storage().data_ptr() == self._dropped.untyped_storage().data_ptr():
            self._after_dropout.add(self._current.name)

    def _finish_forward(self) -> None:
        self._has_fired = True
        # only the forwards that can count are held; which layer counts is open in the first batch
        replaces = self._policy == "last" and self.classifier_name is not None
        self._finished = [self._current] if replaces else [*self._finished, self._current]
        self._current = Forward(layers=dict(self._current.layers))

    def _pooled(self, name: str, x: Tensor) -> Tensor:
        if x.ndim <= 2:
            return x.clone()
        pool = self._pools[name]
        if pool == "auto":
            pool = _choose_pool(name, self._modules[name], x, self._label_shape)
        function = POOLS.get(pool) or import_function(pool, "pool")
        rows = function(x)
        return rows.clone() if rows._is_view() else rows


def find_target(batch: Any, where: str | int | Callable[[Any], Any] | None = None) -> Tensor:
    """The labels in a batch.

    Args:
        batch: Whatever the data loader yields.
        where: A position, a key or attribute, or a function of the batch (also by dotted path).
            None: the second item of a sequence, or a key or attribute in :data:`TARGET_NAMES`.

    Returns:
        The labels as a tensor.

    Raises:
        ValueError: If there are none at that place.

    Example:
        >>> find_target([torch.zeros(2, 3), torch.tensor([0, 1])])
        tensor([0, 1])
        >>> find_target({"x": torch.zeros(2, 3), "class": torch.tensor([0, 1])}, where="class")
        tensor([0, 1])
    """
    if where is None:
        found = _usual_target(batch)
    elif callable(where):
        found = where(batch)
    else:
        found = _look_up(batch, where)
    if not isinstance(found, Tensor):
        raise ValueError(
            f"Expected labels as a tensor in the batch, but got {_describe(batch)}"
            + ("" if where is None else f", where target={where!r} gives {_describe(found)}")
            + ". Set target to a position (1), a key or attribute ('label'), or the dotted path of "
            "a function that takes the batch and returns the labels."
        )
    return found


def _usual_target(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return next((batch[name] for name in TARGET_NAMES if name in batch), None)
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return batch[1] if len(batch) > 1 else None
    return next((getattr(batch, name) for name in TARGET_NAMES if hasattr(batch, name)), None)


def _look_up(batch: Any, where: str | int) -> Any:
    if isinstance(where, int) or where.lstrip("-").isdigit():
        try:
            return batch[int(where)]
        except (IndexError, KeyError, TypeError):
            return None
    if isinstance(batch, Mapping) and where in batch:
        return batch[where]
    if hasattr(batch, where):
        return getattr(batch, where)
    return import_function(where, "target")(batch) if "." in where else None


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {list(value)}"
    if isinstance(value, list | tuple):
        items = ", ".join(_describe(item) for item in value[:4])
        return f"a {type(value).__name__} of {len(value)}: {items}"
    return f"a {type(value).__name__}"


def _find_classifiers(modules: Mapping[str, nn.Module], classifier: str | None) -> dict[str, nn.Linear]:
    if classifier is None:
        found = {name: m for name, m in modules.items() if isinstance(m, nn.Linear)}
        if not found:
            raise ValueError(
                "Expected an nn.Linear in the module, as classifier, but there is none. Is the head "
                "a convolution or a function? Make it an nn.Linear, or measure its features with "
                "NeuralCollapse in a loop of your own."
            )
        return found
    _require_path(modules, classifier, "classifier")
    module = modules[classifier]
    if not isinstance(module, nn.Linear):
        inner = [name for name, m in module.named_modules() if isinstance(m, nn.Linear)]
        hint = f" Did you mean {classifier}.{inner[-1]!s}?" if inner else ""
        raise ValueError(
            f"Expected classifier={classifier!r} to be an nn.Linear, but it is a "
            f"{type(module).__name__}.{hint}"
        )
    return {classifier: module}


def _find_layers(
    modules: Mapping[str, nn.Module], layers: Sequence[str] | Mapping[str, str], pool: str
) -> dict[str, str]:
    wanted = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, pool)
    found: dict[str, str] = {}
    for pattern, its_pool in wanted.items():
        if its_pool not in (*POOLS, "auto"):
            import_function(its_pool, "pool")
        names = fnmatch.filter([name for name in modules if name], pattern)
        if not names:
            _require_path(modules, pattern, "layers")
        found.update(dict.fromkeys(names, its_pool))
    return found


def _require_path(modules: Mapping[str, nn.Module], path: str, argument: str) -> None:
    if path in modules and path:
        return
    names = [name for name in modules if name]
    near = get_close_matches(path, names, n=3, cutoff=0.5)
    listed = near or names[:8]
    raise ValueError(
        f"Expected {argument} to be the dotted path of a submodule, but there is no {path!r}. "
        + ("Did you mean " if near else "There are ")
        + f"{', '.join(map(repr, listed))}{'?' if near else ', ...'}"
    )


def _choose_pool(name: str, module: nn.Module, x: Tensor, label_shape: torch.Size | None) -> str:
    if label_shape is not None and len(label_shape) > 1 and x.shape[:-1] == label_shape:
        return "tokens"
    leaves = [m for m in module.modules() if next(m.children(), None) is None]
    first = any(isinstance(m, _CHANNELS_FIRST) for m in leaves)
    last = any(isinstance(m, _CHANNELS_LAST) for m in module.modules())
    if first != last:
        return "spatial_mean" if first else "token_mean"
    raise ValueError(
        f"Expected a pool for layer {name!r}, a {type(module).__name__} whose output has shape "
        f"{tuple(x.shape)} and whose type does not tell where its channels are. Set pool, or "
        f"layers={{{name!r}: pool}}, to one of {', '.join(POOLS)}, or a dotted function."
    )


def _recomputing() -> bool:
    """True inside backward, where activation checkpointing runs the forward once more."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
