"""What a forward yields: the classifier's input, the network's decisions, pooled layer outputs.

Hooks only store; rows enter the statistics when the batch ends. They return nothing, keep no graph
alive, draw no random numbers, and once training has begun they raise nothing, so that training does not
notice them.
"""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_nc.dotted_path import import_function
from lightning_nc.values.statistics import decide

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
# torch.compile, FSDP and activation checkpointing put a module around another; paths leave them out
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclass
class Forward:
    """What one forward has left.

    Attributes:
        name: Path of the linear layer.
        features: Its input, as it came in.
        predicted: The network's decision per row.
        layers: Pooled outputs of further modules, by path.
        parameters: A copy of its weight and bias, only where they are sharded outside of the forward.
    """

    name: str = ""
    features: Tensor | None = None
    predicted: Tensor | None = None
    layers: dict[str, Tensor] = field(default_factory=dict)
    parameters: tuple[Tensor, Tensor | None] | None = None


class Capture:
    """Hooks on one network.

    Args:
        root: The module whose submodules are named by dotted paths; the wrappers of torch.compile, FSDP
            and activation checkpointing have no place in a path.
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
        # of a wrapper and what it wraps, the latter stays: it comes second
        self._modules = {_without_wrappers(name): module for name, module in root.named_modules()}
        self._policy = forwards
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        classifier = classifier and _without_wrappers(classifier)
        self._candidates = _find_classifiers(self._modules, classifier)
        self._copied = {name for name, module in self._candidates.items() if not _is_whole(module)}
        self._trained = {
            name
            for name, module in self._candidates.items()
            if any(parameter.requires_grad for parameter in module.parameters())
        }
        self._pools = _find_layers(self._modules, layers, pool)
        self.classifier_name = classifier
        self._label_shape: torch.Size | None = None
        self._open = False
        self._keeps_parameters = False
        self._holds_errors = False
        self._error: Exception | None = None
        self._current = Forward()
        self._finished: list[Forward] = []
        self._num_forwards = 0
        self._has_fired = False
        self._dropped: Tensor | None = None
        self._dropout_handles: list[torch.utils.hooks.RemovableHandle] = []
        self._after_dropout = False

    def attach(self) -> None:
        """Register the hooks; a second call changes nothing."""
        if self._handles:
            return
        for name, module in self._candidates.items():
            hooks = _Hook(self, name, Capture._keep_input), _Hook(self, name, Capture._keep_decisions)
            self._handles.append(module.register_forward_pre_hook(hooks[0]))
            self._handles.append(module.register_forward_hook(hooks[1]))
        for name in self._pools:
            hook = _Hook(self, name, Capture._keep_pooled)
            self._handles.append(self._modules[name].register_forward_hook(hook))

    def watch_dropout(self) -> None:
        """For the batch that has begun: notice whether active Dropout directly precedes a feature."""
        # for one batch only: torch gives up fused kernels where a Dropout has hooks
        for name, module in self._modules.items():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                hook = _Hook(self, name, Capture._note_dropout)
                self._dropout_handles.append(module.register_forward_hook(hook))

    def detach(self) -> None:
        """Remove all hooks and let go of what they hold; a second call changes nothing."""
        for handle in (*self._handles, *self._dropout_handles):
            handle.remove()
        self._handles.clear()
        self._close()

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The paths of the measured layers, globs resolved."""
        return tuple(self._pools)

    @property
    def counted(self) -> Forward | None:
        """The forward of this batch that counts so far (with "all": the last), or None."""
        if not self._finished:
            return None
        return self._finished[0 if self._policy == "first" else -1]

    @property
    def has_fired(self) -> bool:
        """Whether any forward has ever come by."""
        return self._has_fired

    @property
    def classifier(self) -> nn.Linear | None:
        """The last linear layer; None before the first forward has shown which it is."""
        return None if self.classifier_name is None else self._candidates[self.classifier_name]

    def begin(self, label_shape: torch.Size, keep_parameters: bool = True) -> None:
        """Start a batch: until it is taken, the hooks keep what comes by.

        Args:
            label_shape: Shape of the batch's labels, by which token-level features are told.
            keep_parameters: Copy weight and bias in the forward where they cannot be read later.
        """
        self._close()
        self._open = True
        self._label_shape = label_shape
        self._keeps_parameters = keep_parameters

    def expect_anew(self) -> None:
        """Forget that a forward has come by: another phase of the run has to show one of its own."""
        self._has_fired = False

    def copy_parameters(self) -> None:
        """From now on, copy weight and bias in the forward: they have changed before they were read."""
        self._copied.update(self._candidates)

    @property
    def weight_version(self) -> int | None:
        """Changes with each optimizer step, or None where that cannot be told."""
        if self.classifier_name is None or self.classifier_name in self._copied:
            return None
        weight = self._candidates[self.classifier_name]._parameters.get("weight")
        return None if weight is None or weight.is_inference() else weight._version

    def hold_errors(self) -> None:
        """From now on, raise what goes wrong in a hook not in the forward but when it is taken."""
        self._holds_errors = True

    def take(self) -> list[Forward]:
        """The forwards of this batch that count, and forget them.

        Returns:
            None, one, or with ``forwards="all"`` several.

        Raises:
            Exception: What went wrong in a hook, after :meth:`hold_errors`.
        """
        finished, error = self._finished, self._error
        self._close()
        if error is not None:
            raise error
        if finished and self.classifier_name is None:
            self._settle(finished[-1].name)
        counted = [forward for forward in finished if forward.name == self.classifier_name]
        return {"first": counted[:1], "last": counted[-1:], "all": counted}[self._policy]

    def _close(self) -> None:
        self._open = False
        self._error = None
        self._current = Forward()
        self._finished = []
        self._num_forwards = 0
        self._dropped = None
        for handle in self._dropout_handles:
            handle.remove()
        self._dropout_handles.clear()

    @property
    def num_rows(self) -> int:
        """The rows of the classifier, also where its weight is sharded."""
        return self._candidates[self._current_name()].out_features

    def weight_and_bias(self) -> tuple[Tensor, Tensor | None]:
        """The classifier's parameters as they are now, not copied.

        Where they are sharded outside of the forward, the copy that the counted forward has kept.
        """
        if self.counted is not None and self.counted.parameters is not None:
            return self.counted.parameters
        return _read(self._candidates[self._current_name()])

    def _current_name(self) -> str:
        """The classifier, or what may turn out to be it."""
        if self.classifier_name is not None:
            return self.classifier_name
        assert self.counted is not None
        return self.counted.name

    @property
    def after_dropout(self) -> bool:
        """Whether active Dropout directly precedes the classifier."""
        return self._after_dropout

    @property
    def num_forwards(self) -> int:
        """Forwards of the classifier in this batch so far, those that do not count included."""
        return self._num_forwards

    def explain_silence(self) -> str:
        """Why no forward may have been seen, and what to do."""
        name = f"{self.classifier_name!r}" if self.classifier_name else "any nn.Linear"
        return (
            f"Expected the forward of {name} to run in a step, but its hook never fired. Is it "
            "unused, applied as a function (F.linear with its weight), or called with its input as a "
            "keyword? Was the network compiled "
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

    def _keep_input(self, name: str, args: tuple[Any, ...], output: Any = None) -> None:
        if not args or args[0].is_nested:  # nested: inside torch's own encoder layers
            return
        x = args[0].detach()
        # where autograd does not keep it, the network may change it in place afterwards
        kept = torch.is_grad_enabled() and name in self._trained
        self._current.features = x if kept else x.clone()
        self._current.name = name
        if name in self._copied and self._keeps_parameters:
            weight, bias = _read(self._candidates[name])
            bias = None if bias is None else bias.detach().clone()
            self._current.parameters = weight.detach().clone(), bias
        if self._dropped is not None:
            # the same memory, still held here: reshaping between the two does not hide it
            memory = self._dropped.untyped_storage().data_ptr()
            self._after_dropout = args[0].untyped_storage().data_ptr() == memory

    def _keep_decisions(self, name: str, args: tuple[Any, ...], output: Any) -> None:
        if self._current.name != name or self._current.features is None:
            return
        settled = self.classifier_name is not None
        # the decisions only: logits of many classes are large, and may be changed in place
        self._current.predicted = decide(output.detach())
        self._has_fired = True
        self._num_forwards += 1
        # only the forwards that can count are held; which layer counts is open in the first batch
        if not settled or self._policy == "all":
            self._finished = [*self._finished, self._current]
        elif self._policy == "last" or not self._finished:
            self._finished = [self._current]
        self._current = Forward(layers={} if settled else dict(self._current.layers))

    def _keep_pooled(self, name: str, args: tuple[Any, ...], output: Any) -> None:
        x = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(x, Tensor):
            raise ValueError(
                f"Expected layer {name!r} to put out a tensor, or a tuple that begins with one, but "
                f"got a {type(output).__name__}. Name a layer inside it."
            )
        # pooled now: the next module may change the output in place
        self._current.layers[name] = self._pooled(name, x.detach())

    def _note_dropout(self, name: str, args: tuple[Any, ...], output: Any) -> None:
        module: Any = self._modules[name]
        if module.training and module.p > 0 and not torch.compiler.is_compiling():
            self._dropped = output.detach()

    def _pooled(self, name: str, x: Tensor) -> Tensor:
        if x.ndim <= 2:
            return x.clone()
        pool = self._pools[name]
        if pool == "auto":
            pool = _choose_pool(name, self._modules[name], x, self._label_shape)
        function = POOLS.get(pool) or import_function(pool, "pool")
        rows = function(x)
        return rows.clone() if rows._is_view() else rows


class _Hook:
    """A hook on one module, that copies and pickles of the module leave behind."""

    def __init__(
        self,
        capture: Capture,
        name: str,
        keep: Callable[[Capture, str, tuple[Any, ...], Any], None],
    ) -> None:
        self._capture = capture
        self._name = name
        self._keep = keep

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
        capture = self._capture
        if not capture._open or _recomputing():
            return
        if torch.compiler.is_compiling() or not capture._holds_errors:
            self._keep(capture, self._name, args, output)
            return
        try:
            self._keep(capture, self._name, args, output)
        except Exception as error:
            capture._error = capture._error or error

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _no_hook

    def __reduce__(self) -> tuple[Any, ...]:
        return _get_no_hook, ()


def _no_hook(module: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
    """What a hook becomes in a copy of its module: a teacher's features are not the student's."""


def _get_no_hook() -> Callable[..., None]:
    return _no_hook


def _without_wrappers(path: str) -> str:
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)


def _is_whole(module: nn.Linear) -> bool:
    """False where a rank keeps a share of the weight outside of the forward (FSDP, ZeRO)."""
    if parametrize.is_parametrized(module, "weight"):  # computed whenever it is read
        return True
    weight = getattr(module, "weight", None)
    shape = (module.out_features, module.in_features)
    return isinstance(weight, Tensor) and weight.shape == shape and not hasattr(weight, "device_mesh")


def _read(module: nn.Linear) -> tuple[Tensor, Tensor | None]:
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
        named = module.named_modules()
        inner = [_without_wrappers(name) for name, m in named if isinstance(m, nn.Linear)]
        hint = f" Did you mean {classifier}.{inner[-1]!s}?" if inner else ""
        raise ValueError(
            f"Expected classifier={classifier!r} to be an nn.Linear, but it is a "
            f"{type(module).__name__}.{hint}"
        )
    return {classifier: module}


def _find_layers(
    modules: Mapping[str, nn.Module], layers: Sequence[str] | Mapping[str, str], pool: str
) -> dict[str, str]:
    if isinstance(layers, str):
        raise ValueError(f"Expected a list of layers, but got the string {layers!r}: [{layers!r}]?")
    wanted = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, pool)
    found: dict[str, str] = {}
    for its_pool in (pool, *wanted.values()):
        if its_pool not in (*POOLS, "auto"):
            _check_pool(its_pool)
    for given, its_pool in wanted.items():
        pattern = _without_wrappers(given)
        names = fnmatch.filter([name for name in modules if name], pattern)
        if not names:
            _require_path(modules, pattern, "layers")
        found.update(dict.fromkeys(names, its_pool))
    return found


def _check_pool(pool: str) -> None:
    if "." not in pool:
        raise ValueError(
            f"Expected pool to be 'auto', one of {', '.join(POOLS)}, or the dotted path of a function, "
            f"but got {pool!r}."
        )
    import_function(pool, "pool")


def _require_path(modules: Mapping[str, nn.Module], path: str, argument: str) -> None:
    if path in modules and path:
        return
    names = [name for name in modules if name]
    near = get_close_matches(path, names, n=3, cutoff=0.5)
    linear = [name for name in names if isinstance(modules[name], nn.Linear)]
    listed = near or (linear if argument == "classifier" else names)[:8]
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
    """True in a forward that is not the step's own: in backward (checkpointing), or under vmap."""
    if torch.compiler.is_compiling():
        return False
    return (
        torch._C._current_graph_task_id() != -1
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
