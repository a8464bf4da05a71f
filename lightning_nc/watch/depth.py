"""Which of the layers that nobody has named are measured, and in which order they run."""

import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lightning_nc.watch.batch import Forward
from lightning_nc.watch.graph_pools import NEIGHBORHOOD_MEAN
from lightning_nc.watch.paths import Layer
from lightning_nc.watch.stack import is_chained

NO_ROWS = "of which it is not certain how they become rows"
OTHER_ROWS = "with other rows than there are labels"
_NOT_BEFORE = "that did not run before the classifier, or hold it"
_REPEATS = "that put out what a part of them has put out"
_HANDS_DOWN = "that are given what a part of them is given"
_IS_THE_FEATURE = "that put out, or are given, what the classifier is given"
_BEFORE_THE_HEAD = "whose product is not what the next layer of the linear head is given"


class Depth:
    """The layers of a network, those that ``**`` has found looked at once: in the first forward.

    Args:
        layers: By name.
        stack: Those that seem to make up a linear head with the classifier, in their order.
        announce: Told what is left out.
        only_in_stack: Those that nobody has asked for otherwise.
        may_drop: Those that hand on what a part of them has put out in eval mode alone.

    Example:
        >>> depth = Depth({"a": Layer("a", "a", "auto", is_found=True)}, (), print)
        >>> depth.look(Forward(features=torch.ones(2, 3)), 2, {})
        Not measured of the layers found: 1 that did not run before the classifier, or hold it ('a').
        >>> depth.names
        ()
    """

    def __init__(
        self,
        layers: Mapping[str, Layer],
        stack: Sequence[str],
        announce: Callable[[str], None],
        only_in_stack: Collection[str] = (),
        may_drop: Collection[str] = (),
    ) -> None:
        self._layers = layers
        self._only_in_stack = frozenset(only_in_stack)
        self.found = frozenset(name for name, layer in layers.items() if layer.is_found)
        self._may_be_left_out = set(self.found)
        self.stack = list(stack)
        self.left_out: dict[str, str] = {}
        self._order: list[str] = []
        self._may_drop = frozenset(may_drop)
        self._chained: set[str] = set()
        self._entering: dict[str, list[str]] = {}
        self._seen: dict[str, tuple[weakref.ref[Tensor], int | None]] = {}
        self.has_looked = False
        self._announce = announce

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are measured, in the order in which they ran; as they were given before that."""
        ran = [*self._order, *(name for name in self._layers if name not in self._order)]
        return tuple(name for name in ran if name not in self.left_out)

    def leaves_out(self, name: str, why: str) -> bool:
        """Leave a layer out, if it was found and not named.

        Args:
            name: The layer.
            why: A clause.

        Returns:
            Whether it is left out.
        """
        if name in self._may_be_left_out:
            self.left_out[name] = why
        return name in self.left_out

    def repeats(self, name: str, x: Tensor, rows: Tensor, before: Mapping[str, Tensor]) -> bool:
        """Leave a layer out that puts out, or is given, the very tensor that a part of it is.

        Equal values alone say nothing: at first a block may add zeros to what it is given.

        Args:
            name: The layer.
            x: What it has put out, or is given.
            rows: What was made of that.
            before: Those of the layers that have run.

        Returns:
            Whether it is left out.
        """
        if self.has_looked:
            return False
        layer, version = self._layers[name], None if x.is_inference() else x._version
        for other, (reference, then) in self._seen.items():
            same = reference() is x and version == then
            # in inference mode, a change in place is seen by its values alone
            if not same or (version is None and not torch.equal(rows, before.get(other, rows[:0]))):
                continue
            there = self._layers[other]
            if layer.of_input and there.of_input and layer.path.startswith(there.path + "."):
                self.leaves_out(other, _HANDS_DOWN)  # the part has the weight
            is_part = not there.of_input and there.path.startswith(layer.path + ".")
            if not layer.of_input and is_part and name not in self._may_drop:
                return self.leaves_out(name, _REPEATS)
        self._seen[name] = weakref.ref(x), version
        return False

    def note_feature(self, classifier: str, x: Tensor, before: Mapping[str, Tensor]) -> None:
        """Note which layers are the very tensor that enters what may be the classifier.

        Args:
            classifier: Its path.
            x: Its input.
            before: The rows of the layers that have run.
        """
        if self.has_looked:
            return
        version = None if x.is_inference() else x._version
        seen = {n: of for n, of in self._seen.items() if self._layers[n].pool != NEIGHBORHOOD_MEAN}
        same = [name for name, (of, then) in seen.items() if of() is x and version == then]
        # in inference mode, a change in place is seen by its values alone
        is_same = {n: version is not None or torch.equal(before[n], x) for n in same if n in before}
        self._entering[classifier] = [name for name, holds in is_same.items() if holds]

    def look(
        self, forward: Forward, num_rows: int, weights: Mapping[str, Tensor], stage: str = ""
    ) -> None:
        """Settle it by the first forward that counts; later ones change nothing. Waits for the device.

        Args:
            forward: What the forward has left.
            num_rows: Of its batch, as many as there are labels.
            weights: What the inputs of layers have met.
            stage: Whose forward it is.
        """
        if self.has_looked or num_rows == 0:
            return
        self.has_looked = True
        self._chained.add(stage)
        self._seen.clear()
        self._order = [name for name in forward.layers if name in self._layers]
        own = (n for n, each in self._layers.items() if each.of_input and each.path == forward.name)
        for name in (*self._entering.get(forward.name, ()), *own):
            self.leaves_out(name, _IS_THE_FEATURE)
        for name in sorted(self._may_be_left_out - self.left_out.keys()):
            rows = forward.layers.get(name)
            if rows is None:
                self.left_out[name] = _NOT_BEFORE
            elif rows.shape[:-1].numel() != num_rows:
                self.left_out[name] = OTHER_ROWS
        self._leave_unchained(forward, weights)
        self._may_be_left_out.clear()
        if self.left_out:
            listed = "; ".join(_listed(self.left_out))
            self._announce(f"Not measured of the layers found: {listed}.")

    def _leave_unchained(self, forward: Forward, weights: Mapping[str, Tensor]) -> None:
        """Of what seems to be a linear head, what is one ends in the classifier."""
        end = self._unchained(forward, weights)
        for name in self.stack[:end]:
            if name in self._only_in_stack:
                self.leaves_out(name, _BEFORE_THE_HEAD)
        del self.stack[:end]

    def _unchained(self, forward: Forward, weights: Mapping[str, Tensor]) -> int:
        """How many layers of the head lie before the last one that something comes after."""
        following = forward.features
        for i, name in reversed(list(enumerate(self.stack))):
            h, weight = forward.layers.get(name), weights.get(name)
            if h is None or weight is None or following is None:
                return i + 1
            if not is_chained(h, weight, following, forward.rounds):
                return i + 1
            following = h
        return 0

    def look_again(self, stages: Iterable[str]) -> None:
        """These stages begin anew: what was the identity between two layers may have changed."""
        self._chained.difference_update(stages)

    def unchained(self, stage: str, forward: Forward, weights: Mapping[str, Tensor]) -> str:
        """Shorten the head where a part of it is no part of it any more; waits for the device.

        Args:
            stage: In the first batch of which it is looked at.
            forward: One that counts.
            weights: What the inputs of layers have met in its batch.

        Returns:
            What to say; empty where the head is as it was.
        """
        if stage in self._chained or not all(name in weights for name in self.stack):
            return ""
        self._chained.add(stage)
        end = self._unchained(forward, weights)
        if not end:
            return ""
        lost = self.stack[end - 1]
        del self.stack[:end]
        return (
            f"Expected what enters the layer after {lost!r} to be its product W h, as it was at first, "
            "but it is not: the linear head begins after it, and linear/* of what comes before is NaN. "
            "Does a function between them have parameters that began as the identity?"
        )


def _listed(left_out: Mapping[str, str]) -> Iterable[str]:
    for why in dict.fromkeys(left_out.values()):
        names = [name for name, reason in left_out.items() if reason == why]
        more = ", ..." if len(names) > 3 else ""
        yield f"{len(names)} {why} ({', '.join(map(repr, names[:3]))}{more})"
