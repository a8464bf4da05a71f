"""One stage of one data loader: an accumulator for each measured module, and the values at its end."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_nc.stream.accumulator import Accumulator
from lightning_nc.stream.kept_classifier import KeptClassifier
from lightning_nc.stream.reservoir import to_device
from lightning_nc.stream.sync import Ranks
from lightning_nc.tasks.merging import References, evidence_of
from lightning_nc.tasks.task import Task
from lightning_nc.values.recorded import HEAD, Recorded
from lightning_nc.watch.batch import Forward


class Recorder:
    """Collects the forwards of one stage.

    Args:
        task: What the labels mean.
        layers: Names of the measured modules besides the classifier.
        max_rows_per_batch: At most this many rows of a batch enter, a uniform random subset.
    """

    def __init__(
        self, task: Task, layers: Sequence[str] = (), max_rows_per_batch: int | None = None
    ) -> None:
        self.classifier = KeptClassifier()
        self._task = task
        self._names = (HEAD, *layers)
        self._max_rows = max_rows_per_batch
        self._accumulators: dict[str, Accumulator] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the stage, and keep its memory for the next one."""
        for accumulator in self._accumulators.values():
            accumulator.reset()
        self.classifier.reset()
        self._with_rows: set[str] = set()
        self._is_abandoned = False
        self._subsets = np.random.default_rng(self._task.settings.seed)

    def abandon(self) -> None:
        """This stage is incomplete: on all ranks, :meth:`close` shall raise and not tell values."""
        self._is_abandoned = True

    def check(self, forward: Forward, target: Tensor, num_rows: int) -> None:
        """Raise what :meth:`add` would raise, without adding anything.

        Args:
            forward: What a forward has left.
            target: The batch's labels.
            num_rows: The rows of the classifier.

        Raises:
            ValueError: If features and labels, or classifier and classes, do not fit.
        """
        for name, features in self._parts(forward):
            self._accumulator(name, features, num_rows).check(features, target)

    def add(self, forward: Forward, target: Tensor, num_rows: int) -> None:
        """Add one forward.

        Args:
            forward: What it has left.
            target: The batch's labels.
            num_rows: The rows of the classifier.

        Raises:
            ValueError: If features and labels, or classifier and classes, do not fit.
        """
        predicted = forward.predicted
        parts = [(name, self._accumulator(name, h, num_rows), h) for name, h in self._parts(forward)]
        # all of them are checked before the first is changed: all of the batch or nothing
        checked = [(name, each, *each.check(h, target)) for name, each, h in parts]
        for name, accumulator, h, y in checked:
            # a layer pooled to other rows than the classifier's has no decisions of its own
            known = None if predicted is None or predicted.numel() != len(y) else predicted
            chosen = self._subset(len(y), y.device)
            if chosen is not None:
                h, y, known = h[chosen], y[chosen], None if known is None else known[chosen]
            accumulator.add(h, y, known)
            self._with_rows.add(name)

    def close(
        self,
        ranks: Ranks | None = None,
        references: References | None = None,
        measured: str | None = None,
        by_head: bool = False,
    ) -> Recorded:
        """The values of the stage; every rank has to call it.

        Args:
            ranks: Who merges; None: this rank alone.
            references: The evidence of other stages, by stage and module.
            measured: What the features are, which is the same on all ranks.
            by_head: Whether decisions that nobody saw are those of W h + b: W has not moved.

        Returns:
            What the stage has come to.

        Raises:
            RankFailed: On all ranks, if one of them could not take part with its data.
            RanksDiffer: On all ranks, if they measure different things.
        """
        mine = {n: self._accumulators[n] if n in self._with_rows else None for n in self._names}
        names = "" if measured is None else ", ".join((measured, *self._names[1:]))
        self.classifier.gather()
        evidence = evidence_of(
            self._task, mine, self.classifier, ranks, references, self._is_abandoned, names, by_head
        )
        some = {name: each for name, each in evidence.items() if each.num_samples}
        outcomes = {
            name: self._task.evaluate(each, of_layer=name != HEAD) for name, each in some.items()
        }
        said = {
            (kind, name): (f"Layer {name!r}: " if name else "") + text
            for name, each in some.items()
            for kind, text in self._task.notices(each, outcomes[name]).items()
        }
        silent = [name for name in self._names if name not in evidence]
        if silent and evidence:
            said["silent", HEAD] = _silent_layers(silent)
        if not any(outcomes.values()):
            said["empty", HEAD] = (
                "Expected at least one row with a label that counts, but got none: nothing is "
                "logged. Is the data loader empty, or is every label ignore_index?"
            )
        return Recorded(evidence, outcomes, said)

    def _parts(self, forward: Forward) -> list[tuple[str, Tensor]]:
        assert forward.features is not None
        parts = {HEAD: forward.features, **forward.layers}
        return [(name, parts[name]) for name in self._names if name in parts]

    def _accumulator(self, name: str, features: Tensor, num_rows: int) -> Accumulator:
        if name not in self._accumulators:
            sizes = self._task.sizes(features.shape[-1], num_rows)
            self._accumulators[name] = self._task.accumulator(sizes, features.device)
        return self._accumulators[name]

    def _subset(self, num_rows: int, device: torch.device) -> Tensor | None:
        if self._max_rows is None or num_rows <= self._max_rows:
            return None
        chosen = self._subsets.permutation(num_rows)[: self._max_rows]
        return to_device(np.sort(chosen), device)


def _silent_layers(names: Iterable[str]) -> str:
    return (
        f"Expected the layers {', '.join(map(repr, names))} to run in each forward before the "
        "classifier does, but they did not: nothing is logged of them. Are they unused, or "
        "used after the classifier?"
    )
