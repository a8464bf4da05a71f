"""One stage of one data loader: an accumulator for each measured module, and the values at its end."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_nc.stream.accumulator import Accumulator
from lightning_nc.stream.graph_totals import GraphTotals
from lightning_nc.stream.kept_classifier import KeptClassifier, KeptMap
from lightning_nc.stream.reservoir import to_device
from lightning_nc.stream.row_sample import shared_rows
from lightning_nc.stream.sync import Ranks
from lightning_nc.tasks.merging import Modules, evidence_of
from lightning_nc.tasks.task import Around, Task
from lightning_nc.values.covariance import CovarianceSetting
from lightning_nc.values.recorded import HEAD, Recorded
from lightning_nc.values.training import Training
from lightning_nc.watch import explain
from lightning_nc.watch.batch import Forward
from lightning_nc.watch.depth import OTHER_ROWS
from lightning_nc.watch.graph_batch import GraphBatch
from lightning_nc.watch.node_record import NodeRecord, rows_of_nodes

_Checked = TypeVar("_Checked")


class Recorder:
    """Collects the forwards of one stage.

    Args:
        task: What the labels mean.
        layers: Names of the measured modules besides the classifier.
        max_rows_per_batch: At most this many rows of a batch enter, a uniform random subset.
        covariances: What is kept of the scatter of modules, where it is not what the task says.
        weights: The layers of which the weight is kept that their features meet.
        stack: Those of them that make up a linear head with the classifier, in their order.
        left_out: Layers that are not measured after all, and why; others may join.
        found: Layers that nobody has named, so that they may join.
        near: Layers of which the means over a node's neighbors are measured.
    """

    def __init__(
        self,
        task: Task,
        layers: Sequence[str] = (),
        max_rows_per_batch: int | None = None,
        covariances: Mapping[str, CovarianceSetting] | None = None,
        weights: Sequence[str] = (),
        stack: Sequence[str] = (),
        left_out: dict[str, str] | None = None,
        found: Collection[str] = (),
        near: Collection[str] = (),
    ) -> None:
        self.classifier = KeptClassifier()
        self.weights = {name: KeptMap() for name in weights}
        self._task = task
        default, rows = task.settings.covariance, task.settings.sample_rows
        own = covariances or {}
        self._tasks = {n: task.of_module(own.get(n, default), rows) for n in (HEAD, *layers)}
        self._max_rows = max_rows_per_batch
        self._stack, self._found = stack, frozenset(found)
        self._nodes = NodeRecord(frozenset(near), task.ignored)
        self._left_out = {} if left_out is None else left_out
        self._accumulators: dict[str, Accumulator] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the stage, and keep its memory for the next one."""
        for accumulator in self._accumulators.values():
            accumulator.reset()
        for kept in (self.classifier, *self.weights.values()):
            kept.reset()
        self._batches: Counter[str] = Counter()  # those with rows, by module
        self._nodes.reset()
        self._is_abandoned = False
        self._subsets: dict[int, np.random.Generator] = {}

    def abandon(self) -> None:
        """This stage is incomplete: on all ranks, :meth:`close` shall raise and not tell values."""
        self._is_abandoned = True

    def check(
        self, forward: Forward, target: Tensor, num_rows: int, nodes: GraphBatch | None = None
    ) -> None:
        """Raise what :meth:`add` would raise, without adding anything.

        Args:
            forward: What a forward has left.
            target: The batch's labels.
            num_rows: The rows of the classifier.
            nodes: The graphs of whose nodes they are.

        Raises:
            ValueError: If features and labels, or classifier and classes, do not fit.
        """
        nodes = self._nodes.nodes_of(nodes)
        parts = self._nodes.with_means(self._parts(forward), nodes)
        self._prepare(parts, num_rows)
        self._checked(parts, target, nodes)

    def add(
        self, forward: Forward, target: Tensor, num_rows: int, nodes: GraphBatch | None = None
    ) -> None:
        """Add one forward.

        Args:
            forward: What it has left.
            target: The batch's labels.
            num_rows: The rows of the classifier.
            nodes: The graphs of whose nodes they are.

        Raises:
            ValueError: If features and labels, or classifier and classes, do not fit.
        """
        predicted, parts = forward.predicted, self._parts(forward)
        nodes = self._nodes.nodes_of(nodes)
        if nodes is not None and nodes.num_seeds is None and self._task.tells_graphs_apart:
            parts = self._fitting(parts, lambda _, h: rows_of_nodes(h, target))
            self._nodes.add(nodes, target, parts, predicted, *self._around(parts, num_rows))
        if self._nodes.are_of_several:
            self._batches.update(parts.keys())
            return
        parts = self._nodes.with_means(parts, nodes)
        self._nodes.note(nodes)
        self._prepare(parts, num_rows)
        # all of them are checked before the first is changed: all of the batch or nothing
        checked, subsets = self._checked(parts, target, nodes), dict[int, Tensor | None]()
        for name, (h, y) in checked.items():
            # a layer pooled to other rows than the classifier's has no decisions of its own
            known = None if predicted is None or len(predicted) != len(y) else predicted
            if len(y) not in subsets:  # modules of as many rows keep the same ones
                subsets[len(y)] = self._subset(len(y), y.device, of_head=name == HEAD)
            chosen = subsets[len(y)]
            if chosen is not None:
                h, y, known = h[chosen], y[chosen], None if known is None else known[chosen]
            self._accumulators[name].add(h, y, known)
            self._batches[name] += 1

    def wanted(self, moves: bool) -> frozenset[str]:
        """The layers whose weight is not known yet, or moves."""
        return frozenset(name for name, kept in self.weights.items() if moves or not kept.is_kept)

    def keep_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Keep what the inputs of layers have met.

        Args:
            weights: By layer.
        """
        for name, weight in weights.items():
            self.weights[name].keep(weight, None)

    def close(
        self,
        ranks: Ranks | None = None,
        around: Around | None = None,
        measured: str | None = None,
        doubt: str = "",
    ) -> Recorded:
        """The values of the stage; every rank has to call it.

        Args:
            ranks: Who merges; None: this rank alone.
            around: What else is known where the stage ends.
            measured: What the features are, which is the same on all ranks.
            doubt: Why it is not certain what the head is, a clause.

        Returns:
            What the stage has come to.

        Raises:
            RankFailed: On all ranks, if one of them could not take part with its data.
            RanksDiffer: On all ranks, if they measure different things.
        """
        names = "" if measured is None else ", ".join((measured, *list(self._tasks)[1:]))
        for kept in (self.classifier, *self.weights.values()):
            kept.gather()
        modules = Modules(
            {n: self._accumulators[n] if self._has_rows(n) else None for n in self._tasks},
            self.classifier, self._tasks, self.weights, tuple(self._stack), names, doubt,
            self._nodes.totals, self._nodes.has_several,
        )  # fmt: skip
        evidence = evidence_of(modules, ranks, around, self._is_abandoned)
        self._nodes.decide(evidence.get(HEAD))
        some = {name: each for name, each in evidence.items() if each.num_samples}
        outcomes = {
            name: self._tasks[name].evaluate(each, of_layer=name != HEAD) for name, each in some.items()
        }
        said = {
            (kind, name): text
            for name, each in some.items()
            for kind, text in self._tasks[name].notices(each, outcomes[name]).items()
        }
        said |= self._said_of_batches() | self._nodes.notices()
        silent = [n for n in self._tasks if n not in evidence and n not in self._left_out]
        if silent and evidence:
            said["silent", HEAD] = explain.silent_layers(silent)
        if not some or not any((*outcomes.values(), *said)):
            said["empty", HEAD] = explain.NO_KEYS if some else explain.NO_ROWS
        return Recorded(evidence, outcomes, said)

    def training_so_far(self, ranks: Ranks | None, is_whole: bool) -> Training:
        """Rows of each class so far; every rank has to call it, and the stage goes on.

        Args:
            ranks: Who merges; None: this rank alone.
            is_whole: Whether the epoch is complete.

        Returns:
            The counts, none where there is no row.
        """
        each = self._accumulators[HEAD] if self._has_rows(HEAD) else None
        if self._nodes.totals is not None and ranks is not None and ranks.several:
            each = None  # other ranks may have other graphs
        modules = Modules({HEAD: each}, KeptClassifier(), {HEAD: self._tasks[HEAD]})
        around = Around(is_whole=is_whole)
        evidence = evidence_of(modules, ranks, around, self._is_abandoned, counts_rows=False)
        found = evidence.get(HEAD)
        return (found and found.training) or Training()

    def _has_rows(self, name: str) -> bool:
        """Whether statistics of its rows are kept: of several graphs each has its own."""
        return self._batches[name] > 0 and not self._nodes.are_of_several

    def _around(
        self, parts: Mapping[str, Tensor], num_rows: int
    ) -> tuple[dict[str, Tensor], Callable[[], GraphTotals | None]]:
        """What features enter, as it was in this batch; and what makes blank sums over graphs."""
        maps = {HEAD: self.classifier, **self.weights}
        known = {n: kept.parameters[0] for n, kept in maps.items() if n in parts and kept.is_kept}
        met = {n: w for n, w in known.items() if w.shape[1] == parts[n].shape[1]}
        h, modules = parts[HEAD], tuple(self._tasks)
        return met, lambda: self._task.graph_totals(
            self._tasks[HEAD].sizes(h.shape[1], num_rows)[0], modules, h.device
        )

    def _parts(self, forward: Forward) -> dict[str, Tensor]:
        assert forward.features is not None
        parts = {HEAD: forward.features, **forward.layers}
        return {n: parts[n] for n in self._tasks if n in parts and n not in self._left_out}

    def _prepare(self, parts: Mapping[str, Tensor], num_rows: int) -> None:
        """Make the accumulators that are missing; all layers keep the same rows as their sample."""
        new = {name: h for name, h in parts.items() if name not in self._accumulators}
        widths = [h.shape[-1] for name, h in new.items() if name != HEAD]
        rows = shared_rows(widths, self._task.settings.sample_rows)
        for name, h in new.items():
            task = self._tasks[name]
            if name != HEAD:
                task = task.of_module(task.settings.covariance, rows)
            try:
                sizes = task.sizes(h.shape[-1], num_rows)
                self._accumulators[name] = task.accumulator(sizes, h.device)
            except ValueError as error:
                raise _of_layer(name, error) from error

    def _checked(
        self, parts: Mapping[str, Tensor], target: Tensor, nodes: GraphBatch | None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Rows and labels by module; one that was found and does not fit is left out from here on."""

        def check(name: str, h: Tensor) -> tuple[Tensor, Tensor]:
            rows = self._nodes.rows_and_labels(name, h, target, nodes)
            return self._accumulators[name].check(*rows)

        return self._fitting(parts, check)

    def _fitting(
        self, parts: Mapping[str, Tensor], check: Callable[[str, Tensor], _Checked]
    ) -> dict[str, _Checked]:
        checked = {}
        for name, h in parts.items():
            try:
                checked[name] = check(name, h)
            except ValueError as error:
                if name not in self._found:
                    raise _of_layer(name, error) from error
                self._left_out[name] = OTHER_ROWS
                self._batches.pop(name, None)
        return checked

    def _said_of_batches(self) -> dict[tuple[str, str], str]:
        """Of layers that do not run for each forward, and of those that were left out on the way."""
        whole = self._batches[HEAD]
        said = {
            ("seldom", name): f"It ran before {ran} of {whole} forwards, on which its values rest."
            for name, ran in self._batches.items()
            if ran < whole
        }
        for name in self._accumulators.keys() & self._left_out.keys():
            said["left out", name] = (
                "It has other rows than there are labels in some batches, and is measured no more."
            )
        return said

    def _subset(self, num_rows: int, device: torch.device, of_head: bool) -> Tensor | None:
        if self._max_rows is None or num_rows <= self._max_rows:
            return None
        place, seed = 0 if of_head else num_rows, self._task.settings.seed
        if place not in self._subsets:  # so that layers do not change the rows of the classifier
            self._subsets[place] = np.random.default_rng([seed, place] if place else seed)
        chosen = self._subsets[place].permutation(num_rows)[: self._max_rows]
        return to_device(np.sort(chosen), device)


def _of_layer(name: str, error: ValueError) -> ValueError:
    return ValueError(f"Layer {name!r}: {error}" if name else str(error))
