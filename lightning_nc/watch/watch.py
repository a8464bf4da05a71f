"""One network under observation: hooks on it, and for each stage a recorder of what they bring.

Knows no Trainer. A batch has three verbs: it is opened before the network runs, it may be asked before
the optimizer steps, and it is closed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from lightning_nc.stream.sync import Ranks
from lightning_nc.tasks.task import Task
from lightning_nc.values.evidence import Evidence
from lightning_nc.values.recorded import Recorded
from lightning_nc.values.stage import STAGES, Stage
from lightning_nc.watch.batch import Batch
from lightning_nc.watch.capture import Capture, Places
from lightning_nc.watch.labels import find_target
from lightning_nc.watch.recorder import Recorder


class Watch:
    """Joins the hooks with the recorders.

    Args:
        root: The network.
        places: Where in it, and in its batches, there is something to measure.
        task: What the labels mean.
        say: Told the kind and the text of a warning.
        announce: Told which layer was chosen as the classifier.
        max_rows_per_batch: At most this many rows of a batch enter.
    """

    def __init__(
        self,
        root: nn.Module,
        places: Places,
        task: Task,
        say: Callable[[str, str], None],
        announce: Callable[[str], None],
        max_rows_per_batch: int | None = None,
    ) -> None:
        self._capture = Capture(root, places, task.decide)
        self._places = places
        self._task = task
        self._say = say
        self._announce = announce
        self._max_rows = max_rows_per_batch
        self._recorders: dict[str, Recorder] = {}
        self._evidence: dict[str, dict[str, Evidence]] = {}
        self._silent: set[str] = set()
        self._capture.attach()

    def detach(self) -> None:
        """Remove all hooks."""
        self._capture.detach()

    # One batch

    def open(self, batch: Any, stage: Stage, first: bool = False) -> None:
        """Find the labels, and keep what comes by until the batch is closed.

        Args:
            batch: What the data loader has yielded.
            stage: The stage.
            first: Whether training has not begun: what is seen once is looked at.
        """
        self._capture.take()
        labels = find_target(batch, self._places.target)
        if labels is not None:
            copies = stage.weights_move or not self._recorder(stage).classifier.is_kept
            self._capture.open(Batch(labels, stage.weights_move, copies_weights=copies))
        if first:
            self._capture.watch_dropout()

    def ask(self, stage: Stage, first: bool = False) -> None:
        """Before an optimizer step: keep the classifier that the features met.

        Args:
            stage: The stage.
            first: Raise what is wrong with the settings, and add nothing.

        Raises:
            RuntimeError: If it is the first step, and no forward has ever come by.
            ValueError: If it is the first step, and features and labels do not fit.
        """
        if not first:
            self._keep_classifier(stage)
            return
        self._require_a_forward()
        batch, counted = self._capture.batch, self._capture.counted
        if batch is not None and counted is not None:
            self._recorder(stage).check(counted, batch.labels, self._capture.num_rows)

    def close(self, stage: Stage, adds: bool = True, needs_a_forward: bool = True) -> None:
        """Add the batch's features to a stage, or drop them.

        Args:
            stage: The stage.
            adds: Whether to add them.
            needs_a_forward: Whether to raise if no forward has ever come by.

        Raises:
            RuntimeError: If there was a batch, but no forward has ever come by.
            Exception: What went wrong in a hook while errors were held.
        """
        try:
            if needs_a_forward:
                self._require_a_forward()
            if adds:
                self._commit(stage)
            else:
                self._capture.take()
        finally:
            self._capture.close()

    @property
    def has_stepped(self) -> bool:
        """Whether the classifier has changed since the open batch began."""
        batch = self._capture.batch
        return (
            batch is not None
            and batch.version is not None
            and batch.version != self._capture.weight_version
        )

    # What is known

    @property
    def num_classes(self) -> int | None:
        """Of the classifier that runs, a single row as two; None before a forward of an open batch."""
        return None if self._capture.counted is None else max(2, self._capture.num_rows)

    @property
    def classifier_name(self) -> str | None:
        """Its path, or None before it is known."""
        return self._capture.classifier_name

    @property
    def layers(self) -> Sequence[str]:
        """The paths of the measured layers, globs resolved."""
        return self._capture.layer_names

    def expect_anew(self) -> None:
        """Another phase of the run has to show a forward of its own."""
        self._capture.has_fired = False

    def hold_errors(self) -> None:
        """From now on, raise what goes wrong in a hook only when the batch is closed."""
        self._capture.holds_errors = True

    # One stage

    def reset(self, *stages: Stage) -> None:
        """Start these stages anew."""
        for stage in stages:
            self._silent.discard(stage.name)
            self._recorder(stage).reset()

    def abandon(self, stage: Stage) -> None:
        """A stage is incomplete: no rank shall tell its values."""
        self._recorder(stage).abandon()

    def end(self, stage: Stage, device: torch.device, distributed: bool) -> Recorded:
        """The values of a stage; every rank has to call it.

        Args:
            stage: The stage.
            device: Where the tensors of a rank without batches live.
            distributed: Merge the ranks of the default process group.

        Returns:
            What it has come to.

        Raises:
            RankFailed: On all ranks, if one of them could not take part with its data.
        """
        known = {name: self._evidence[name] for name in stage.references if name in self._evidence}
        recorded = self._recorder(stage).close(Ranks(device) if distributed else None, known)
        if any(stage.name in other.references for other in STAGES):
            self._evidence[stage.name] = recorded.evidence
        for kind, module in recorded.notices:
            if kind == "empty" and stage.name in self._silent:  # there were labels
                recorded.notices[kind, module] = self._capture.explain_silence()
        return recorded

    def _recorder(self, stage: Stage) -> Recorder:
        if stage.name not in self._recorders:
            self._recorders[stage.name] = Recorder(self._task, self.layers, self._max_rows)
        return self._recorders[stage.name]

    def _require_a_forward(self) -> None:
        if self._capture.batch is not None and not self._capture.has_fired:
            raise RuntimeError(self._capture.explain_silence())

    def _keep_classifier(self, stage: Stage, is_over: bool = False) -> None:
        """Copy the classifier, once per forward: a later optimizer step changes it."""
        batch, counted = self._capture.batch, self._capture.counted
        if batch is None or counted is None or counted is batch.kept:
            return
        if is_over and counted.parameters is None and self.has_stepped:
            # this W is not the one that the features met: from now on, it is copied there
            self._capture.copy_parameters()
            return
        self._recorder(stage).classifier.keep(*self._capture.weight_and_bias())
        batch.kept = counted

    def _commit(self, stage: Stage) -> None:
        if stage.weights_move or not self._recorder(stage).classifier.is_kept:
            self._keep_classifier(stage, is_over=True)
        chosen_before = self.classifier_name
        forwards, batch = self._capture.take()
        if batch is None:
            return
        if forwards and chosen_before is None:
            self._announce(
                f"NeuralCollapseCallback measures the input of {self.classifier_name!r}, "
                f"{self._capture.classifier}. Set `classifier` to choose another layer."
            )
        for forward in forwards:
            self._recorder(stage).add(forward, batch.labels, self._capture.num_rows)
        if not forwards:
            self._silent.add(stage.name)
        self._doubt_forwards(batch, stage, known=chosen_before is not None)

    def _doubt_forwards(self, batch: Batch, stage: Stage, known: bool) -> None:
        if batch.num_forwards > 1 and known and self._places.forwards == "last":
            self._say(
                "several forwards",
                f"{batch.num_forwards} forwards of the classifier ran in one step, and the last one is "
                "measured with the batch's labels. Set forwards to 'first' or 'all' if others of "
                "them belong to the labels.",
            )
        if stage.weights_move and self._capture.dropout.precedes_features:
            self._say(
                "dropout",
                "Active Dropout directly precedes the feature, the input of "
                f"{self.classifier_name!r}: the noise that it adds counts as within-class "
                f"variability in {stage.name}. For the features that the network decides by, look at "
                "val, or at train with frozen_every_n_epochs.",
            )
