"""Hooks on one network: the classifier's input, the network's decisions, pooled layer outputs.

Hooks only store, in the batch that is open; rows enter the statistics when it ends. They return
nothing, keep no graph alive, draw no random numbers, and once training has begun they raise nothing, so
that training does not notice them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_nc.watch.batch import Batch, Forward
from lightning_nc.watch.dropout import DropoutWatch
from lightning_nc.watch.heads import find_heads, is_trained, is_whole, read, weight_version
from lightning_nc.watch.paths import modules_by_path, without_wrappers
from lightning_nc.watch.pools import find_layers, pooled

Forwards = Literal["first", "last", "all"]


@dataclass(frozen=True)
class Places:
    """Where in a network and in its batches there is something to measure.

    Attributes:
        classifier: Path to the last linear layer; None: the last ``nn.Linear`` to run in the first
            forward.
        layers: Paths or globs of further modules; a mapping gives each its pool.
        pool: A name in :data:`~lightning_nc.watch.pools.POOLS`, a dotted function, or "auto".
        forwards: Which forward of a step counts when there are several.
        target: Where the labels are in a batch.
    """

    classifier: str | None = None
    layers: Sequence[str] | Mapping[str, str] = ()
    pool: str = "auto"
    forwards: Forwards = "last"
    target: str | int | Callable[[Any], Any] | None = None


class Capture:
    """Hooks on one network.

    Args:
        root: The module whose submodules are named by dotted paths; the wrappers of torch.compile, FSDP
            and activation checkpointing have no place in a path.
        places: What to look at.
        decide: From the network's output to its decision per row.

    Raises:
        ValueError: If a path names no module, or the classifier is not linear.
    """

    def __init__(self, root: nn.Module, places: Places, decide: Callable[[Tensor], Tensor]) -> None:
        known = get_args(Forwards)
        if places.forwards not in known:
            raise ValueError(f"Expected forwards to be one of {known}, but got {places.forwards!r}.")
        self._modules = modules_by_path(root)
        self._policy = places.forwards
        self._decide = decide
        self._handles: list[RemovableHandle] = []
        self.classifier_name = places.classifier and without_wrappers(places.classifier)
        self._heads = find_heads(self._modules, self.classifier_name)
        self._copied = {name for name, module in self._heads.items() if not is_whole(module)}
        self._trained = {name for name, module in self._heads.items() if is_trained(module)}
        self._pools = find_layers(self._modules, places.layers, places.pool)
        self.dropout = DropoutWatch()
        self.batch: Batch | None = None
        self.has_fired = False
        self.holds_errors = False

    # Hooks

    def attach(self) -> None:
        """Register the hooks; a second call changes nothing."""
        if self._handles:
            return
        for name, module in self._heads.items():
            hooks = _Hook(self, name, Capture._keep_input), _Hook(self, name, Capture._keep_decisions)
            self._handles.append(module.register_forward_pre_hook(hooks[0]))
            self._handles.append(module.register_forward_hook(hooks[1]))
        for name in self._pools:
            hook = _Hook(self, name, Capture._keep_pooled)
            self._handles.append(self._modules[name].register_forward_hook(hook))

    def watch_dropout(self) -> None:
        """For the batch that has begun: notice whether active Dropout directly precedes a feature."""
        self.dropout.attach(
            self._modules, lambda module: _Hook(self, "", self.dropout.note_output(module))
        )

    def detach(self) -> None:
        """Remove all hooks and let go of what they hold; a second call changes nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.close()

    # One batch

    def open(self, batch: Batch) -> None:
        """Until it is taken, the hooks keep in the batch what comes by."""
        self.close()
        self.batch = batch
        batch.version = self.weight_version

    def take(self) -> tuple[list[Forward], Batch | None]:
        """Close the batch.

        Returns:
            Its forwards that count (none, one, or with ``forwards="all"`` several), and the batch.

        Raises:
            Exception: What went wrong in a hook while errors were held.
        """
        batch = self.batch
        self.close()
        if batch is None:
            return [], None
        if batch.error is not None:
            raise batch.error
        if batch.forwards and self.classifier_name is None:
            self._settle(batch.forwards[-1].name)
        counted = [forward for forward in batch.forwards if forward.name == self.classifier_name]
        return {"first": counted[:1], "last": counted[-1:], "all": counted}[self._policy], batch

    def close(self) -> None:
        """Drop the batch."""
        self.batch = None
        self.dropout.detach()

    def copy_parameters(self) -> None:
        """From now on, copy weight and bias in the forward: they have changed before they were read."""
        self._copied.update(self._heads)

    # What is known

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The paths of the measured layers, globs resolved."""
        return tuple(self._pools)

    @property
    def counted(self) -> Forward | None:
        """The forward of this batch that counts so far (with "all": the last), or None."""
        if self.batch is None or not self.batch.forwards:
            return None
        return self.batch.forwards[0 if self._policy == "first" else -1]

    @property
    def classifier(self) -> nn.Linear | None:
        """The last linear layer; None before the first forward has shown which it is."""
        return None if self.classifier_name is None else self._heads[self.classifier_name]

    @property
    def weight_version(self) -> int | None:
        """Changes with each optimizer step, or None where that cannot be told."""
        if self.classifier_name is None or self.classifier_name in self._copied:
            return None
        return weight_version(self._heads[self.classifier_name])

    @property
    def num_rows(self) -> int:
        """The rows of the classifier, also where its weight is sharded."""
        return self._current_head().out_features

    def weight_and_bias(self) -> tuple[Tensor, Tensor | None]:
        """The classifier's parameters as they are now, not copied.

        Where they cannot be read outside of the forward, the copy that the counted forward has kept.
        """
        if self.counted is not None and self.counted.parameters is not None:
            return self.counted.parameters
        return read(self._current_head())

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

    def _current_head(self) -> nn.Linear:
        """The classifier, or what may turn out to be it."""
        if self.classifier_name is not None:
            return self._heads[self.classifier_name]
        assert self.counted is not None
        return self._heads[self.counted.name]

    def _settle(self, name: str) -> None:
        """Keep the hooks of the one layer that ran last."""
        self.detach()
        self.classifier_name = name
        self._heads = {name: self._heads[name]}
        self.attach()

    # What the hooks keep

    def _keep_input(self, batch: Batch, name: str, args: tuple[Any, ...], output: Any) -> None:
        if not args or args[0].is_nested:  # nested: inside torch's own encoder layers
            return
        x = args[0].detach()
        # where autograd does not keep it, the network may change it in place afterwards
        kept = torch.is_grad_enabled() and name in self._trained
        batch.current.features = x if kept else x.clone()
        batch.current.name = name
        if name in self._copied and batch.copies_weights:
            weight, bias = read(self._heads[name])
            bias = None if bias is None else bias.detach().clone()
            batch.current.parameters = weight.detach().clone(), bias
        self.dropout.note_feature(args[0])

    def _keep_decisions(self, batch: Batch, name: str, args: tuple[Any, ...], output: Any) -> None:
        if batch.current.name != name or batch.current.features is None:
            return
        settled = self.classifier_name is not None
        # the decisions only: logits of many classes are large, and may be changed in place
        batch.current.predicted = self._decide(output.detach())
        self.has_fired = True
        batch.num_forwards += 1
        # only the forwards that can count are held; which layer counts is open in the first batch
        if not settled or self._policy == "all":
            batch.forwards = [*batch.forwards, batch.current]
        elif self._policy == "last" or not batch.forwards:
            batch.forwards = [batch.current]
        batch.current = Forward(layers={} if settled else dict(batch.current.layers))

    def _keep_pooled(self, batch: Batch, name: str, args: tuple[Any, ...], output: Any) -> None:
        x = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(x, Tensor):
            raise ValueError(
                f"Expected layer {name!r} to put out a tensor, or a tuple that begins with one, but "
                f"got a {type(output).__name__}. Name a layer inside it."
            )
        # pooled now: the next module may change the output in place
        module, pool = self._modules[name], self._pools[name]
        batch.current.layers[name] = pooled(name, module, x.detach(), pool, batch.label_shape)


class _Hook:
    """A hook on one module, that copies and pickles of the module leave behind."""

    def __init__(
        self,
        capture: Capture,
        name: str,
        keep: Callable[[Capture, Batch, str, tuple[Any, ...], Any], None],
    ) -> None:
        self._capture = capture
        self._name = name
        self._keep = keep

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
        capture, batch = self._capture, self._capture.batch
        if batch is None or _recomputing():
            return
        if torch.compiler.is_compiling() or not capture.holds_errors:
            self._keep(capture, batch, self._name, args, output)
            return
        try:
            self._keep(capture, batch, self._name, args, output)
        except Exception as error:
            batch.error = batch.error or error

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _no_hook

    def __reduce__(self) -> tuple[Any, ...]:
        return _get_no_hook, ()


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
