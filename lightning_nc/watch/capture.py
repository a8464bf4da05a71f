"""Hooks on one network: the classifier's input, the network's decisions, pooled layer outputs.

Hooks only store, in the batch that is open; rows enter the statistics when it ends. They return
nothing, keep no graph alive beyond the batch, draw no random numbers, and once training has begun they
raise nothing, so that training does not notice them. Between batches they are away, so that the network
can be exported, except where it is compiled: hooks that come and go would compile it anew.
"""

from collections.abc import Callable, Collection, Iterable

from torch import Tensor, nn

from lightning_nc.watch import keep
from lightning_nc.watch.batch import Batch, Forward
from lightning_nc.watch.choice import Choice, choose, require_linear
from lightning_nc.watch.chunks import joined
from lightning_nc.watch.depth import Depth
from lightning_nc.watch.dropout import DropoutWatch
from lightning_nc.watch.find_map import find_maps
from lightning_nc.watch.graph import last_maps
from lightning_nc.watch.graph_pools import GRAPH_POOLS
from lightning_nc.watch.hook import Hook, Hooks, is_compiled
from lightning_nc.watch.layers import Layer, by_place, drops, find_layers, place_of
from lightning_nc.watch.linear import LinearMap
from lightning_nc.watch.parts import PartWatch
from lightning_nc.watch.paths import modules_by_path, without_wrappers
from lightning_nc.watch.places import Places
from lightning_nc.watch.pools import ChosenPools
from lightning_nc.watch.stack import find_stack
from lightning_nc.watch.weights import weight_reader


class Capture:
    """Hooks on one network.

    Args:
        root: The module whose submodules are named by dotted paths; the wrappers of torch.compile, FSDP
            and activation checkpointing have no place in a path.
        places: What to look at.
        decide: From the network's output to its decision per row.
        choice: The classifier that was found before, which is taken where the network has it.
        needs: The parts of the evidence that measures rest on.
        announce: Told what was chosen, and which layers are left out.

    Raises:
        ValueError: If a path names no module, or the classifier is not linear.
    """

    def __init__(
        self,
        root: nn.Module,
        places: Places,
        decide: Callable[[Tensor], Tensor],
        choice: Choice | None = None,
        needs: Collection[str] = (),
        announce: Callable[[str], None] = print,
    ) -> None:
        self.modules = modules_by_path(root)
        self.forwards, self.pool = places.forwards, places.pool
        self.decide = decide
        name = places.head and without_wrappers(places.head)
        if not name and choice is not None and choice.suits(self.modules):
            name = choice.name
        has_head = places.classifier is not False
        self.maps = find_maps(self.modules, name) if has_head else {}
        self.feature: Layer | None = None
        if places.features is not None:
            self.feature = place_of(self.modules, places.features, "features", places.pool)
        self.named = name  # by the user, or by an earlier run
        self.is_settled = name is not None or not has_head
        self._trained = frozenset(id(p) for p in root.parameters() if p.requires_grad)
        head = self._linear_head(name, needs) if has_head else []
        named = find_layers(self.modules, places.layers, places.pool)
        self.layers = {each.name: each for each in (*head, *named)}
        self.at_place = by_place(self.layers)
        stack, asked = [each.name for each in head], {each.name for each in named}
        self.depth = Depth(self.layers, stack, announce, {*stack} - asked, self._may_drop())
        self.readers = self._readers(self.layers if "weight" in needs else stack)
        self.pools, self._hooks = ChosenPools(self.modules), Hooks()
        self.is_sharded = not all(each.is_whole for each in self.maps.values())
        self._require_feature()
        self._stay = is_compiled(self.modules.values()) or is_compiled(root.modules())
        self.dropout, self.part = DropoutWatch(), PartWatch()
        self.batch: Batch | None = None
        self.has_fired = self.holds_errors = False
        if self._stay:
            self.attach()

    def _linear_head(self, classifier: str | None, needs: Collection[str]) -> list[Layer]:
        """The layers before the classifier that seem to be a part of its head, where it matters."""
        if "product" in needs:
            return find_stack(self.modules, classifier)
        asks = "linear_head" in needs
        return find_stack(self.modules, classifier, of_one_row=True) if asks else []

    def _may_drop(self) -> list[str]:
        """The layers that hold a Dropout, which in eval mode hands on what it is given."""
        parts = ((n, self.modules[each.path].modules()) for n, each in self.layers.items())
        return [name for name, inside in parts if any(map(drops, inside))]

    def _readers(self, names: Iterable[str]) -> dict[str, Callable[[], Tensor]]:
        """What reads the weights that the inputs of layers meet; of nodes there is a use for all."""
        wanted = set(names)
        layers = [e for n, e in self.layers.items() if n in wanted or e.pool in GRAPH_POOLS]
        found = {each.name: weight_reader(each, self.modules[each.path]) for each in layers}
        return {name: reader for name, reader in found.items() if reader is not None}

    def _require_feature(self) -> None:
        if self.feature is not None:
            if self.linear is not None:
                self.linear.require_readable()
            return
        for name, each in self.maps.items():
            if not each.has_forward:
                raise ValueError(
                    f"Expected features with classifier={name!r}, but got none: {each} is applied as a "
                    "function, where no hook sees its input. Set features to the dotted path of the "
                    "module whose output is the feature."
                )

    # Hooks

    def attach(self) -> None:
        """Register the hooks; a second call changes nothing."""
        if len(self._hooks):
            self._hooks.wake()
            return
        for name in self.readers:  # the forward is complete once the classifier's hooks have run
            self._add_hook(self.layers[name].path, name, False, keep.keep_input_weight)
        if self.feature is not None:
            self._add_hook(
                self.feature.path, self.feature.name, self.feature.of_input, keep.keep_feature
            )
            for name, linear in self.maps.items():
                if linear.has_forward:
                    self._add_hook(name, name, False, keep.keep_applied)
        else:
            for name in self.maps:
                self._add_hook(name, name, True, keep.keep_input)
                self._add_hook(name, name, False, keep.keep_decisions)
        for (path, of_input), names in self.at_place.items():
            self._add_hook(path, names[0], of_input, keep.keep_layers)

    def _add_hook(self, path: str, name: str, before: bool, kept: Callable[..., None]) -> None:
        module = self.modules[path]
        register = module.register_forward_pre_hook if before else module.register_forward_hook
        self._hooks.add(register, Hook(self, name, kept))

    def look_around(self) -> None:
        """For this batch: is the feature a Dropout's output, and the classifier a part of a head."""
        self.dropout.attach(
            self.modules, lambda module: Hook(self, "", self.dropout.note_output(module))
        )
        if self.linear is not None and self.feature is None:
            self.part.attach(
                self.modules, self.linear.name, lambda name: Hook(self, name, self.part.note_whole)
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
        if batch is not None and not self.is_sharded and (batch.is_first or not self.is_settled):
            maps = last_maps(loss)
            batch.losses.append(maps)
            batch.hard_labels += maps.labels
            batch.vector_labels += maps.vectors

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
        name = choose(batch, self.modules, *given)
        if name is None:
            return
        mine = [forward for forward in batch.forwards if forward.name == name]
        for forward in mine:
            keep.read_output(self, batch, forward)
            # what has run after the classifier is no part of its next forward; where all of them count,
            # a layer that has run once counts once
            again = self.forwards in ("all", "concat") and forward is not mine[0]
            later = forward.layers.keys() - mine[0].layers.keys() | (
                forward.carried if again else set()
            )
            forward.layers = {n: rows for n, rows in forward.layers.items() if n not in later}
        self.require_linear(next(f for f in reversed(batch.forwards) if f.name == name), batch)
        self._hooks.remove()
        self.maps, self.is_settled = {name: self.maps[name]}, True
        self.attach()
        batch.losses.clear()
        batch.forwards, batch.before = mine, frozenset(mine[0].layers)
        counted = batch.forwards[0 if self.forwards == "first" else -1]
        if batch.keeps is not None:
            batch.keeps.keep(*(counted.parameters or self.maps[name].read()))

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
        if self.feature is None:
            if self.forwards == "concat":
                forward = batch.forwards[0]
            read = forward.parameters or kept or self.maps[forward.name].read()
            require_linear(forward, *read)

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
        return self._counted(batch) if self.is_settled else [], batch

    def _counted(self, batch: Batch) -> list[Forward]:
        ran = batch.forwards
        if self.forwards == "concat":
            return [joined(ran, batch.label_shape)] if ran else []
        return {"first": ran[:1], "last": ran[-1:], "all": ran}[self.forwards]

    def close(self) -> None:
        """Drop the batch."""
        self.batch = None
        self.dropout.detach()
        self.part.detach()
        if not self._stay:
            self._hooks.rest()

    # What is known

    @property
    def classifier_name(self) -> str | None:
        """The path of the classifier; None before it is known, and where there is none."""
        return None if self.linear is None else self.linear.name

    @property
    def linear(self) -> LinearMap | None:
        """The classifier; None before it is known, and where there is none."""
        return next(iter(self.maps.values()), None) if self.is_settled else None

    @property
    def measured(self) -> str | None:
        """What the features are, in words; None before it is known."""
        if self.feature is None:
            return None if self.linear is None else f"the input of {self.linear.name!r}"
        return f"the {'input' if self.feature.of_input else 'output'} of {self.feature.path!r}"

    @property
    def choice(self) -> Choice | None:
        """The classifier, for other stages and runs."""
        return None if self.linear is None else Choice.of(self.linear)

    @property
    def counted(self) -> Forward | None:
        """The forward of this batch that counts so far (with "all": the last), or None."""
        if self.batch is None or not self.batch.forwards or not self.is_settled:
            return None
        return self._counted(self.batch)[-1]

    @property
    def weight_version(self) -> int | None:
        """Changes with each optimizer step, or None where that cannot be told."""
        return None if self.linear is None else self.linear.version
