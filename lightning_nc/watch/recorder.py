"""One stage of one data loader: a metric for each measured module, and the values at its end.

Knows no Trainer: a plain loop can use it as it is.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_nc.functional.table import Evidence, evaluate, select
from lightning_nc.metric import NeuralCollapse
from lightning_nc.stream.moments import Scratch
from lightning_nc.stream.sync import RankFailed, count_own_decisions, merge_ranks
from lightning_nc.tasks.notices import notices
from lightning_nc.values.statistics import Accumulated, LinearClassifier, to_device
from lightning_nc.watch.capture import Forward

HEAD = ""
"""Name of the measured module whose features are the classifier's input."""


@dataclass(frozen=True)
class Recorded:
    """What a stage has come to.

    Attributes:
        values: Scalars by key; those of a layer end in ``/`` and its name.
        accumulated: What they were computed from, by module; :data:`HEAD` is the classifier's input.
            Their samples are lent: good until the next batch or reset of the stage.
        notices: What to tell the user, by kind.
    """

    values: dict[str, Tensor]
    accumulated: dict[str, Accumulated]
    notices: dict[str, str]


class Recorder:
    """Collects the forwards of one stage.

    Args:
        layers: Names of the measured modules besides the classifier.
        num_classes: C; None: the rows of the classifier.
        covariance: "pooled", "per_class" or "none".
        measures: Keys, globs, "default" or functions by dotted path.
        ignore_index: Label of rows to leave out.
        max_rows_per_batch: At most this many rows of a batch enter, a uniform random subset.
        seed: For the sample and the subsets.
        scratch: Memory for intermediate results, which recorders that take turns can share.
    """

    def __init__(
        self,
        layers: Sequence[str] = (),
        num_classes: int | None = None,
        covariance: str = "pooled",
        measures: Sequence[str] = ("default",),
        ignore_index: int | None = -100,
        max_rows_per_batch: int | None = None,
        seed: int = 0,
        scratch: Scratch | None = None,
    ) -> None:
        self._names = (HEAD, *layers)
        self._num_classes = num_classes
        self._covariance = covariance
        self._measures = tuple(measures)
        self._ignore_index = ignore_index
        self._max_rows = max_rows_per_batch
        self._seed = seed
        self._scratch = scratch or Scratch()
        self._metrics: dict[str, NeuralCollapse] = {}
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the stage, and keep its memory for the next one."""
        for metric in self._metrics.values():
            metric.reset()
        self._weight_is_kept = False
        self._abandoned = False
        self._subsets = np.random.default_rng(self._seed)

    def abandon(self) -> None:
        """This stage is incomplete: on all ranks, :meth:`close` shall raise and not tell values."""
        self._abandoned = True

    @property
    def keeps_classifier(self) -> bool:
        """Whether the classifier of this stage has been copied."""
        return self._weight_is_kept

    def keep_classifier(self, weight: Tensor, bias: Tensor | None) -> None:
        """Copy the classifier as it is now, into memory that is used again.

        Args:
            weight: W; one row is a binary head.
            bias: b, or None.
        """
        with torch.inference_mode(False), torch.no_grad():
            if self._weight is None or self._weight.shape != weight.shape:
                self._weight = torch.empty_like(weight)
                self._bias = None if bias is None else torch.empty_like(bias)
            self._weight.copy_(weight)
            if self._bias is not None and bias is not None:
                self._bias.copy_(bias)
        self._weight_is_kept = True

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
            self._metric(name, features, num_rows).check(features, target)

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
        parts = [(self._metric(name, h, num_rows), h) for name, h in self._parts(forward)]
        # all of them are checked before the first is changed: all of the batch or nothing
        checked = [(metric, *metric.check(features, target)) for metric, features in parts]
        for metric, h, y in checked:
            # a layer pooled to other rows than the classifier's has no decisions of its own
            known = None if predicted is None or predicted.numel() != len(y) else predicted
            chosen = self._subset(len(y), y.device)
            if chosen is not None:
                h, y, known = h[chosen], y[chosen], None if known is None else known[chosen]
            metric.update(h, y, predicted=known)

    def close(self, device: torch.device | str, distributed: bool = False) -> Recorded:
        """The values of the stage; every rank has to call it.

        Args:
            device: Where the tensors of a rank without batches live.
            distributed: Merge the ranks of the default process group.

        Returns:
            The values, what they rest on, and what to say about it.

        Raises:
            RankFailed: On all ranks, if one of them could not take part with its data.
        """
        merged = self._merged(device, distributed)
        values: dict[str, Tensor] = {}
        said: dict[str, str] = {}
        found = {n: a for n, a in zip(self._names, merged, strict=True) if a is not None}
        for name, accumulated in found.items():
            if int(accumulated.statistics.num_samples) == 0:
                continue
            its_values, reasons = self._evaluate(name, accumulated)
            suffix = f"/{name}" if name else ""
            values.update((key + suffix, value) for key, value in its_values.items())
            where = f"Layer {name!r}: " if name else ""
            for kind, text in notices(accumulated, reasons).items():
                said[kind + suffix] = where + text
        silent = [name for name in self._names if name not in found]
        if silent and found:
            said["silent"] = (
                f"Expected the layers {', '.join(map(repr, silent))} to run in each forward before the "
                "classifier does, but they did not: nothing is logged of them. Are they unused, or "
                "used after the classifier?"
            )
        if not values:
            said["empty"] = (
                "Expected at least one row with a label that counts, but got none: nothing is "
                "logged. Is the data loader empty, or is every label ignore_index?"
            )
        return Recorded(values, found, said)

    def _merged(self, device: torch.device | str, distributed: bool) -> list[Accumulated | None]:
        """What all ranks have accumulated, by module; a rank that fails tells the others first."""
        error: Exception | None = None
        states: list[Accumulated | None] = [None] * len(self._names)
        try:
            states = [self._accumulated(name) for name in self._names]
        except Exception as failure:
            error = failure
        failed = error is not None or self._abandoned
        if not distributed and not failed:
            return [state and count_own_decisions(state) for state in states]
        try:
            return merge_ranks(states, self._covariance, device=device, failed=failed)
        except RankFailed as told:
            raise told from error

    def _evaluate(
        self, name: str, accumulated: Accumulated
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        evidence = Evidence.of(accumulated.statistics, accumulated.classifier, accumulated.decisions)
        measures = select(self._measures)
        if name != HEAD:  # the network's own accuracy and sample count are the classifier's
            measures = tuple(m for m in measures if not m.key.startswith("nc0/"))
        return evaluate(measures, evidence)

    def _accumulated(self, name: str) -> Accumulated | None:
        metric = self._metrics.get(name)
        if metric is None or not metric.update_called:
            return None
        accumulated = metric.accumulated(lend_sample=True)
        if name != HEAD or not self._weight_is_kept or self._weight is None:
            return accumulated
        classifier = LinearClassifier(self._weight, self._bias).snapshot()
        return dataclasses.replace(accumulated, classifier=classifier)

    def _parts(self, forward: Forward) -> list[tuple[str, Tensor]]:
        assert forward.features is not None
        parts = {HEAD: forward.features, **forward.layers}
        return [(name, parts[name]) for name in self._names if name in parts]

    def _metric(self, name: str, features: Tensor, num_rows: int) -> NeuralCollapse:
        if name not in self._metrics:
            rows = max(2, num_rows)
            num_classes = self._num_classes or rows
            if num_classes != rows:
                raise ValueError(
                    f"Expected a classifier with num_classes = {num_classes} rows, but got "
                    f"{num_rows}. Leave num_classes out to take the classifier's rows, or name "
                    "another layer as `classifier`."
                )
            with torch.inference_mode(False), torch.device(features.device):
                self._metrics[name] = NeuralCollapse(
                    num_classes,
                    features.shape[-1],
                    covariance=self._covariance,
                    ignore_index=self._ignore_index,
                    seed=self._seed,
                    sync_on_compute=False,
                )
            self._metrics[name].work_in(self._scratch)
        return self._metrics[name]

    def _subset(self, num_rows: int, device: torch.device) -> Tensor | None:
        if self._max_rows is None or num_rows <= self._max_rows:
            return None
        chosen = self._subsets.permutation(num_rows)[: self._max_rows]
        return to_device(np.sort(chosen), device)
