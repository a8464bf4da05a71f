"""One network under observation: hooks on it, and for each stage a recorder of what they bring.

Knows no Trainer. A batch is opened before the network runs, its loss may be noted, and it is closed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nc.stream.sync import Ranks
from lightning_nc.tasks.task import Task
from lightning_nc.values.recorded import Recorded
from lightning_nc.values.stage import Stage
from lightning_nc.watch import explain
from lightning_nc.watch.batch import Batch, Forward
from lightning_nc.watch.capture import Capture
from lightning_nc.watch.census import Census
from lightning_nc.watch.choice import Choice
from lightning_nc.watch.decided import decisions_by
from lightning_nc.watch.labels import labels_of
from lightning_nc.watch.places import Places
from lightning_nc.watch.rows import Rows
from lightning_nc.watch.sense import Sense
from lightning_nc.watch.stages import Stages


class Watch:
    """Joins hooks and recorders.

    Args:
        root: The network.
        places: Where in it, and in its batches, there is something to measure.
        task: What the labels mean.
        say: Told the kind and the text of a warning.
        announce: Told which layer was chosen as the classifier.
        max_rows_per_batch: At most this many rows of a batch enter.
        choice: The classifier that was found before.
        census: What is known of the training data.
    """

    def __init__(
        self,
        root: nn.Module,
        places: Places,
        task: Task,
        say: Callable[[str, str], None],
        announce: Callable[[str], None],
        max_rows_per_batch: int | None = None,
        choice: Choice | None = None,
        census: Census | None = None,
    ) -> None:
        if places.classifier is False and task.names_classes and task.settings.num_classes is None:
            raise ValueError(
                "Expected num_classes with classifier=False, but got none: without a head there are no "
                "rows to count. Set num_classes."
            )
        self._capture = Capture(root, places, task.decide, choice, task.needs, announce)
        self._places = places
        self._task = task
        self._say = say
        self._announce = announce
        self._stages = Stages(task, self._capture, max_rows_per_batch, census or Census(), announce)
        self._has_told = False
        if "weight" in task.needs and places.layers and not self._capture.readers:
            announce(explain.no_weights(self._capture))
        self._seen: set[str] = set()
        self._rehearsed: set[str] = set()  # what ran in the frozen pass before it was found
        self._sense = Sense(self._capture, places, task, root)

    def detach(self) -> None:
        """Remove all hooks."""
        self._capture.detach()

    # One batch

    def open(
        self,
        batch: Any,
        stage: Stage,
        first: bool = False,
        may_choose: bool = True,
        needs_labels: bool = True,
    ) -> None:
        """Find the labels, and keep what comes by until the batch is closed.

        Args:
            batch: What the data loader has yielded.
            stage: The stage.
            first: Whether training has not begun: what is seen once is looked at.
            may_choose: Whether the classifier may be found in this batch.
            needs_labels: Whether to raise where there are none.

        Raises:
            ValueError: If there are no labels, or it is not certain which they are.
        """
        self._capture.take()
        looks = stage.name not in self._seen
        try:
            found = labels_of(batch, self._places, stage.name, self._task, looks)
        except ValueError:
            if needs_labels:
                raise
            return
        self._seen.add(stage.name)
        if found is None or not (may_choose or self._capture.is_settled):
            return
        keeps = self._stages.recorder(stage).classifier
        known = keeps.is_kept and not stage.weights_move
        opened = Batch(
            found.labels, batch, None if known else keeps, is_trained=stage.weights_move,
            is_first=first, label_dims=self._task.label_dims, graph=found.graph,
        )  # fmt: skip
        opened.wanted = self._stages.recorder(stage).wanted(stage.weights_move)
        if not self._capture.is_settled:
            opened.rows = Rows.of(self._task, found.labels)
        self._capture.open(opened)
        if self._capture.feature is not None and not self._has_told:
            self._has_told = True
            self._announce(explain.features(self._capture))
        if first:
            self._capture.look_around()

    def note_loss(self, loss: Tensor) -> None:
        """Before a backward: see what the loss applies last, as long as the classifier is not found."""
        self._capture.note_loss(loss)

    def settle(self, is_trained: bool = True, is_partial: bool = False) -> None:
        """Find the classifier in the open batch, unless it is known.

        Args:
            is_trained: Whether a loss has to have given it a gradient.
            is_partial: Whether the batch may have further losses, so that it may stay open, and all
                else that is trained and could be it is a doubt.

        Raises:
            ValueError: If it is not certain.
        """
        batch = self._capture.batch
        if batch is None or self._capture.is_settled or not batch.forwards:
            return
        self._capture.settle(is_trained, is_partial)
        if not self._capture.is_settled:
            return
        self._require_rehearsed()
        self._announce(
            f"Neural collapse is measured at {self._capture.measured}, {self._capture.linear}. Set "
            "`classifier` to choose another layer."
        )

    def check(self, stage: Stage) -> None:
        """Raise what is wrong with the settings, before the first optimizer step, and add nothing.

        Args:
            stage: The stage.

        Raises:
            RuntimeError: If no forward has ever come by.
            ValueError: If features and labels, or the classifier's output and its weight, do not fit.
        """
        self._require_a_forward()
        batch, counted = self._capture.batch, self._capture.counted
        if batch is not None and counted is not None:
            self._look(counted, batch, stage)
            recorder = self._stages.recorder(stage)
            recorder.check(counted, batch.labels, self._num_rows(batch), batch.graph)
            self._sense.require(counted, batch, stage.name)

    def close(
        self,
        stage: Stage,
        adds: bool = True,
        needs_a_forward: bool = True,
        chooses: bool = False,
        is_rehearsal: bool = False,
        outputs: Any = None,
    ) -> None:
        """Add the batch's features to a stage, or drop them.

        Args:
            stage: The stage.
            adds: Whether to add them.
            needs_a_forward: Whether to raise if no forward has ever come by.
            chooses: Whether to find the classifier without a loss, where it has still to be found.
            is_rehearsal: Whether training, which shows the order of its tokens, is still to come.
            outputs: What the step has returned, by which ``predicted`` decides.

        Raises:
            RuntimeError: If there was a batch, but no forward has ever come by.
            Exception: What went wrong in a hook while errors were held.
        """
        try:
            if needs_a_forward:
                self._require_a_forward()
            if chooses:
                self.settle(is_trained=False)
            if adds:
                self._commit(stage, is_rehearsal, outputs)
            else:
                self._capture.take()
        finally:
            self._capture.close()

    @property
    def has_stepped(self) -> bool:
        """Whether the classifier has changed since the open batch began."""
        version = None if self._capture.batch is None else self._capture.batch.version
        return version is not None and version != self._capture.weight_version

    @property
    def num_classes(self) -> int | None:
        """Of the classifier that runs, a single row as two; None before a forward of an open batch."""
        batch = self._capture.batch
        return None if self._capture.counted is None or batch is None else max(2, self._num_rows(batch))

    @property
    def classifier_name(self) -> str | None:
        """Its path, or None before it is known."""
        return self._capture.classifier_name

    @property
    def choice(self) -> Choice | None:
        """The classifier, for later runs; None before it is known."""
        return self._capture.choice

    @property
    def layers(self) -> Sequence[str]:
        """The names of the measured layers, globs resolved, in the order in which they run."""
        return self._capture.depth.names

    def expect_anew(self) -> None:
        """Another phase of the run has to show a forward of its own."""
        self._capture.has_fired = False

    def hold_errors(self) -> None:
        """From now on, raise what goes wrong in a hook only when the batch is closed."""
        self._capture.holds_errors = True

    def reset(self, *stages: Stage) -> None:
        """Start these stages anew."""
        self._sense.look_again(*(stage.name for stage in stages))
        self._capture.depth.look_again(stage.name for stage in stages)
        for stage in stages:
            self._stages.reset(stage)

    def abandon(self, stage: Stage) -> None:
        """A stage is incomplete: no rank shall tell its values."""
        self._stages.recorder(stage).abandon()

    def count_training(self, device: torch.device, distributed: bool, is_whole: bool) -> None:
        """What the epoch has shown of the training data so far."""
        self._stages.count_training(Ranks(device) if distributed else None, is_whole)

    def end(self, stage: Stage, device: torch.device, distributed: bool, is_whole: bool) -> Recorded:
        """The values of a stage; every rank has to call it.

        Args:
            stage: The stage.
            device: Where the tensors of a rank without batches live.
            distributed: Merge the ranks of the default process group.
            is_whole: Whether the rows are a whole epoch.

        Returns:
            What it has come to.

        Raises:
            RankFailed: On all ranks, if one of them could not take part with its data.
            RanksDiffer: On all ranks, if they measure different things.
        """
        return self._stages.end(stage, Ranks(device) if distributed else None, is_whole)

    def _require_a_forward(self) -> None:
        if self._capture.batch is not None and not self._capture.has_fired:
            raise RuntimeError(explain.silence(self._capture))

    def _look(self, forward: Forward, batch: Batch, stage: Stage) -> None:
        """In the first forward: which of the layers that were found are measured."""
        depth = self._capture.depth
        if depth.has_looked:
            text = depth.unchained(stage.name, forward, batch.weights)
            if text:
                self._say("linear head", text)
            return
        looked_for = list(depth.stack)
        depth.look(forward, batch.label_shape.numel(), batch.weights, stage.name)
        if depth.has_looked and explain.looks_at_head(self._capture, self._task.needs):
            self._announce(explain.head(self._capture, looked_for))

    def _require_rehearsed(self) -> None:
        if self._rehearsed and self.classifier_name not in self._rehearsed:
            raise ValueError(
                f"Expected the classifier {self.classifier_name!r} to run in the frozen pass as in "
                f"training, but there only {', '.join(map(repr, sorted(self._rehearsed)))} did. Set "
                "inference to a method that runs the whole network, such as 'predict_step'."
            )

    def _num_rows(self, batch: Batch) -> int:
        linear, given = self._capture.linear, self._task.settings.num_classes
        return linear.rows if linear is not None else given or self._task.rows_of(batch.labels) or 0

    def _commit(self, stage: Stage, is_rehearsal: bool, outputs: Any) -> None:
        forwards, batch = self._capture.take()
        if batch is None:
            return
        if not self._capture.is_settled:
            self._rehearsed |= {forward.name for forward in batch.forwards if stage.loop == "frozen"}
        recorder = self._stages.recorder(stage)
        recorder.keep_weights(batch.weights)
        for forward in forwards:
            self._look(forward, batch, stage)
            self._sense.require(forward, batch, stage.name, is_rehearsal)
            if self._places.predicted is not None:
                forward.predicted = decisions_by(self._places.predicted, batch, outputs)
            if forward.parameters is not None and batch.keeps is not None:
                batch.keeps.keep(*forward.parameters)
            recorder.add(forward, batch.labels, self._num_rows(batch), batch.graph)
        if not forwards and self._capture.is_settled:
            self._stages.silent.add(stage.name)
        self._sense.doubt(batch, stage, self._say)
