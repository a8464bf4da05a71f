"""Hooks on one network: the classifier's input, the network's decisions, pooled layer outputs.

Hooks only store, in the batch that is open; rows enter the statistics when it ends. They return
nothing, keep no graph alive beyond the batch, draw no random numbers, and once training has begun they
raise nothing, so that training does not notice them. Between batches they are away, so that the network
can be exported, except where it is compiled: hooks that come and go would compile it anew.
"""

from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lightning_nc.watch.batch import Batch, Forward
from lightning_nc.watch.choice import Choice, choose, require_linear
from lightning_nc.watch.dropout import DropoutWatch
from lightning_nc.watch.graph import last_maps, product_of
from lightning_nc.watch.heads import (
    find_heads,
    first_rows,
    is_trained,
    is_whole,
    read,
    weight_version,
)
from lightning_nc.watch.hook import Hook, Hooks, as_rows, casts, is_compiled, is_dense, leading_shape
from lightning_nc.watch.parts import PartWatch
from lightning_nc.watch.paths import modules_by_path, without_wrappers
from lightning_nc.watch.places import Forwards, Places
from lightning_nc.watch.pools import find_layers, pooled


class Capture:
    """Hooks on one network.

    Args:
        root: The module whose submodules are named by dotted paths; the wrappers of torch.compile, FSDP
            and activation checkpointing have no place in a path.
        places: What to look at.
        decide: From the network's output to its decision per row.
        choice: The classifier that was found before, which is taken where the network has it.

    Raises:
        ValueError: If a path names no module, or the classifier is not linear.
    """

    def __init__(
        self,
        root: nn.Module,
        places: Places,
        decide: Callable[[Tensor], Tensor],
        choice: Choice | None = None,
    ) -> None:
        known = get_args(Forwards)
        if places.forwards not in known:
            raise ValueError(f"Expected forwards to be one of {known}, but got {places.forwards!r}.")
        self._modules = modules_by_path(root)
        self._policy = places.forwards
        self._decide = decide
        name = places.classifier and without_wrappers(places.classifier)
        if not name and choice is not None and choice.suits(self._modules):
            name = choice.name
        self._heads = find_heads(self._modules, name)
        self.is_settled = name is not None
        self._trained = frozenset(id(p) for p in root.parameters() if p.requires_grad)
        self._pools = find_layers(self._modules, places.layers, places.pool)
        self._hooks = Hooks()
        self._is_sharded = not all(is_whole(module) for module in self._heads.values())
        self._stay = is_compiled(self._modules.values()) or is_compiled(root.modules())
        self.dropout, self.part = DropoutWatch(), PartWatch()
        self.batch: Batch | None = None
        self.has_fired = False
        self.holds_errors = False
        if self._stay:
            self.attach()

    # Hooks

    def attach(self) -> None:
        """Register the hooks; a second call changes nothing."""
        if len(self._hooks):
            self._hooks.wake()
            return
        for name, module in self._heads.items():
            self._hooks.add(module.register_forward_pre_hook, Hook(self, name, Capture._keep_input))
            self._hooks.add(module.register_forward_hook, Hook(self, name, Capture._keep_decisions))
        for name in self._pools:
            hook = Hook(self, name, Capture._keep_pooled)
            self._hooks.add(self._modules[name].register_forward_hook, hook)

    def look_around(self) -> None:
        """For this batch: is the feature a Dropout's output, and the classifier a part of a head."""
        self.dropout.attach(
            self._modules, lambda module: Hook(self, "", self.dropout.note_output(module))
        )
        if self.classifier_name is not None:
            self.part.attach(
                self._modules,
                self.classifier_name,
                lambda name: Hook(self, name, self.part.note_whole),
            )

    def detach(self) -> None:
        """Remove all hooks and let go of what they hold; a second call changes nothing."""
        self.close()
        self._hooks.remove()

    # One batch

    def open(self, batch: Batch) -> None:
        """Until it is taken, the hooks keep in the batch what comes by."""
        self.close()
        self.attach()
        self.batch = batch
        batch.version = self.weight_version

    def note_loss(self, loss: Tensor) -> None:
        """Before a backward: what the loss applies last, and which labels it has."""
        batch = self.batch
        # a rank's share of a weight is another parameter than the one that its forward applies
        if batch is not None and not self._is_sharded and (batch.is_first or not self.is_settled):
            maps = last_maps(loss)
            batch.losses.append(maps)
            batch.hard_labels += maps.labels

    def settle(self, is_trained: bool, is_partial: bool = False) -> None:
        """Find the classifier among the forwards of the open batch, and keep the hooks of it alone.

        Args:
            is_trained: Whether a loss has to have given it a gradient.
            is_partial: Whether further losses may come, so that it may stay open.

        Raises:
            ValueError: If it is not certain.
        """
        batch = self.batch
        assert batch is not None
        assert batch.rows is not None
        given = batch.rows, is_trained, is_partial, self._trained
        name = choose(batch, self._modules, *given)
        if name is None:
            return
        self.require_linear(next(f for f in reversed(batch.forwards) if f.name == name), batch)
        self._hooks.remove()
        self._heads, self.is_settled = {name: self._heads[name]}, True
        self.attach()
        batch.losses.clear()
        batch.forwards = [forward for forward in batch.forwards if forward.name == name]
        if batch.keeps is not None and self.counted is not None:
            batch.keeps.keep(*(self.counted.parameters or read(self._heads[name])))

    def require_linear(self, forward: Forward, batch: Batch) -> None:
        """Raise a ValueError unless the output of a forward was W h + b.

        Args:
            forward: Of what is the classifier, or may be.
            batch: The batch that it belongs to.

        Raises:
            ValueError: If it was something else.
        """
        keeps = batch.keeps if self.is_settled else None
        kept = keeps.parameters if keeps is not None and keeps.is_kept else None
        require_linear(forward, *(forward.parameters or kept or read(self._heads[forward.name])))

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
        counted = batch.forwards if self.is_settled else []
        return {"first": counted[:1], "last": counted[-1:], "all": counted}[self._policy], batch

    def close(self) -> None:
        """Drop the batch."""
        self.batch = None
        self.dropout.detach()
        self.part.detach()
        if not self._stay:
            self._hooks.rest()

    # What is known

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The paths of the measured layers, globs resolved."""
        return tuple(self._pools)

    @property
    def classifier_name(self) -> str | None:
        """The path of the classifier; None before it is known."""
        return next(iter(self._heads)) if self.is_settled else None

    @property
    def classifier(self) -> nn.Linear | None:
        """The last linear layer; None before it is known."""
        return None if self.classifier_name is None else self._heads[self.classifier_name]

    @property
    def choice(self) -> Choice | None:
        """The classifier, for other stages and runs."""
        if self.classifier_name is None or self.classifier is None:
            return None
        return Choice.of(self.classifier_name, self.classifier)

    @property
    def counted(self) -> Forward | None:
        """The forward of this batch that counts so far (with "all": the last), or None."""
        if self.batch is None or not self.batch.forwards or not self.is_settled:
            return None
        return self.batch.forwards[0 if self._policy == "first" else -1]

    @property
    def weight_version(self) -> int | None:
        """Changes with each optimizer step, or None where that cannot be told."""
        whole = self.classifier is not None and is_whole(self.classifier)
        return weight_version(self.classifier) if self.classifier is not None and whole else None

    @property
    def num_rows(self) -> int:
        """The rows of the classifier, also where its weight is sharded."""
        assert self.classifier is not None
        return self.classifier.out_features

    def explain_silence(self) -> str:
        """Why no forward may have been seen, and what to do."""
        name = f"{self.classifier_name!r}" if self.classifier_name else "any nn.Linear"
        return (
            f"Expected the forward of {name} to run in a step, but its hook never fired. Is it "
            "unused, applied as a function (F.linear with its weight), called with its input as a "
            "keyword, or does a copy of the network run in its place (averaged weights)? Was the "
            "network, or another of its class, compiled and run before the Trainer started (call "
            "torch._dynamo.reset() before each run, or set "
            "torch._dynamo.config.skip_nnmodule_hook_guards = False before compiling)? Give the "
            "dotted path of the layer that runs as `classifier`."
        )

    # What the hooks keep

    def _keep_input(self, batch: Batch, name: str, args: tuple[Any, ...], output: Any) -> None:
        x = as_rows(args)
        if x is None:
            return
        module, current = self._heads[name], batch.current
        # where autograd does not keep it, the network may change it in place afterwards
        kept = torch.is_grad_enabled() and is_trained(module) and not casts(x)
        current.features = x.detach() if kept else x.detach().clone()
        current.name, current.leading = name, leading_shape(x)
        if self._is_sharded and batch.keeps is not None:  # afterwards, a rank has but its share of W
            current.parameters = _copied(module)
        self.dropout.note_feature(x)

    def _keep_decisions(self, batch: Batch, name: str, args: tuple[Any, ...], output: Any) -> None:
        current = batch.current
        if current.name != name or current.features is None or not is_dense(output):
            return
        # the decisions only: logits of many classes are large, and may be changed in place
        current.predicted = self._decide(output.detach())
        current.shape, current.shown = output.shape, first_rows(output).clone()
        self._keep_weight(batch, self._heads[name])
        self.part.note_part(current.features, output)
        if not torch.compiler.is_compiling() and (batch.is_first or not self.is_settled):
            current.product = product_of(output)
        self.has_fired = True
        batch.num_forwards += 1
        # only the forwards that can count are held; which layer counts is open in the first batch
        if not self.is_settled or self._policy == "all":
            batch.forwards = [*batch.forwards, current]
        elif self._policy == "last" or not batch.forwards:
            batch.forwards = [current]
        batch.current = Forward(layers={} if self.is_settled else dict(current.layers))

    def _keep_weight(self, batch: Batch, module: nn.Linear) -> None:
        """Copy W as the features have met it: what swaps weights later in the step is too late."""
        current = batch.current
        if torch.compiler.is_compiling():  # in every batch: a graph for each kind of batch costs more
            current.parameters = _copied(module)
        elif batch.keeps is None or self._is_sharded:
            return
        elif not self.is_settled:
            moves = is_trained(module) and torch.is_grad_enabled()
            could = batch.rows is not None and batch.rows.fit(module.out_features)
            current.parameters = _copied(module) if could and moves else None
        elif self._policy != "first" or not batch.forwards:
            batch.keeps.keep(*read(module))

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


def _copied(module: nn.Linear) -> tuple[Tensor, Tensor | None]:
    weight, bias = read(module)
    return weight.detach().clone(), None if bias is None else bias.detach().clone()
