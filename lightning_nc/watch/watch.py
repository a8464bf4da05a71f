"""One network under observation: hooks on it, and for each stage a recorder of what they bring.

Knows no Trainer: a batch begins, the network runs, the batch is committed, the stage is closed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nc.stream.moments import Scratch
from lightning_nc.watch.capture import Capture, Forward
from lightning_nc.watch.labels import find_target
from lightning_nc.watch.recorder import Recorded, Recorder


class Observation:
    """Joins the hooks with the recorders.

    Args:
        root: The network.
        target: Where the labels are in a batch.
        capture: Settings of :class:`~lightning_nc.watch.capture.Capture`.
        recorder: Settings of :class:`~lightning_nc.watch.recorder.Recorder`.
        say: Told the kind and the text of a warning.
        announce: Told which layer was chosen as the classifier.
    """

    def __init__(
        self,
        root: nn.Module,
        target: str | int | Callable[[Any], Any] | None,
        capture: Mapping[str, Any],
        recorder: Mapping[str, Any],
        say: Callable[[str, str], None],
        announce: Callable[[str], None],
    ) -> None:
        self.capture = Capture(root, **capture)
        self._target = target
        self._settings = {**recorder, "scratch": Scratch()}
        self._says_several = capture.get("forwards") == "last"
        self._say = say
        self._announce = announce
        self._recorders: dict[str, Recorder] = {}
        self._labels: Tensor | None = None
        self._kept_for: Forward | None = None
        self._version: int | None = None
        self._silent: set[str] = set()
        self.capture.attach()

    def detach(self) -> None:
        """Remove all hooks."""
        self.capture.detach()

    # One batch

    def begin(self, batch: Any, weights_move: bool = True, stage: str = "") -> None:
        """Find the labels, and keep what comes by until the batch is committed or dropped.

        Args:
            batch: What the data loader has yielded.
            weights_move: False where the classifier stands still during the stage: it is copied once.
            stage: The stage, where the weights stand still.
        """
        self.drop()
        self._labels = find_target(batch, self._target)
        if self._labels is not None:
            keeps = weights_move or not self._recorder(stage).keeps_classifier
            self.capture.begin(self._labels.shape, keep_parameters=keeps)
        self._version = self.capture.weight_version

    @property
    def has_stepped(self) -> bool:
        """Whether the classifier has changed since the batch began."""
        return self._version is not None and self._version != self.capture.weight_version

    def drop(self) -> None:
        """Forget the batch."""
        self._labels = self._kept_for = None
        self.capture.take()

    def check(self, stage: str) -> None:
        """Raise what is wrong with the settings, without adding anything."""
        if self._labels is None:
            return
        self.require_a_forward()
        if self.capture.counted is not None:
            rows = self.capture.num_rows
            self._recorder(stage).check(self.capture.counted, self._labels, rows)

    def require_a_forward(self) -> None:
        """Raise if there was a batch, but no forward has ever come by."""
        if self._labels is not None and not self.capture.has_fired:
            raise RuntimeError(self.capture.explain_silence())

    def keep_classifier(self, stage: str, is_over: bool = False) -> None:
        """Copy the classifier, once per forward: a later optimizer step changes it.

        Args:
            stage: The stage.
            is_over: Whether the batch is over: an optimizer may have stepped without telling.
        """
        counted = self.capture.counted
        if counted is None or counted is self._kept_for:
            return
        if is_over and counted.parameters is None and self.has_stepped:
            # this W is not the one that the features met: from now on, it is copied there
            self.capture.copy_parameters()
            return
        self._recorder(stage).keep_classifier(*self.capture.weight_and_bias())
        self._kept_for = counted

    def commit(self, stage: str, weights_move: bool = True) -> None:
        """Add the batch's features to a stage.

        Args:
            stage: The stage.
            weights_move: False where the classifier stands still during the stage: it is copied once.
        """
        if weights_move or not self._recorder(stage).keeps_classifier:
            self.keep_classifier(stage, is_over=True)
        labels, capture = self._labels, self.capture
        chosen_before, num_forwards = capture.classifier_name, capture.num_forwards
        self._labels = self._kept_for = None
        forwards = capture.take()
        if forwards and chosen_before is None:
            self._announce(
                f"NeuralCollapseCallback measures the input of {capture.classifier_name!r}, "
                f"{capture.classifier}. Set `classifier` to choose another layer."
            )
        if labels is not None:
            for forward in forwards:
                self._recorder(stage).add(forward, labels, capture.num_rows)
            if not forwards:
                self._silent.add(stage)
        if num_forwards > 1 and chosen_before is not None and self._says_several:
            self._say(
                "several forwards",
                f"{num_forwards} forwards of the classifier ran in one step, and the last one is "
                "measured with the batch's labels. Set forwards to 'first' or 'all' if others of "
                "them belong to the labels.",
            )
        if weights_move and capture.after_dropout:
            self._say(
                "dropout",
                "Active Dropout directly precedes the feature, the input of "
                f"{capture.classifier_name!r}: the noise that it adds counts as within-class "
                f"variability in {stage}. For the features that the network decides by, look at "
                "val, or at train with frozen_every_n_epochs.",
            )

    # One stage

    def reset(self, *stages: str) -> None:
        """Start these stages anew."""
        for stage in stages:
            self._silent.discard(stage)
            self._recorder(stage).reset()

    def abandon(self, stage: str) -> None:
        """A stage is incomplete: no rank shall tell its values."""
        self._recorder(stage).abandon()

    def close(self, stage: str, device: torch.device, distributed: bool) -> Recorded:
        """The values of a stage; every rank has to call it."""
        recorded = self._recorder(stage).close(device, distributed)
        if "empty" in recorded.notices and stage in self._silent:  # there were labels
            recorded.notices["empty"] = self.capture.explain_silence()
        return recorded

    def _recorder(self, stage: str) -> Recorder:
        if stage not in self._recorders:
            self._recorders[stage] = Recorder(self.capture.layer_names, **self._settings)
        return self._recorders[stage]
