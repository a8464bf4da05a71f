"""Whether what came by can be what it is taken for: W h + b, of the labels, in their order."""

from collections.abc import Callable

from torch import nn

from lightning_nc.tasks.task import Task
from lightning_nc.values.stage import Stage
from lightning_nc.watch.agreement import require_same_labels, require_same_vectors
from lightning_nc.watch.batch import Batch, Forward
from lightning_nc.watch.capture import Capture
from lightning_nc.watch.order import Order
from lightning_nc.watch.places import Places


class Sense:
    """Looks once at what holds for a whole run, and in each batch at what a batch can change.

    Args:
        capture: Hooks on the network.
        places: Where there is something to measure.
        task: What a label is.
        root: The network.
    """

    def __init__(self, capture: Capture, places: Places, task: Task, root: nn.Module) -> None:
        self._capture = capture
        self._places = places
        self._task = task
        self._order = Order(root.modules(), is_known=places.target is not None)
        self._linear_in: set[str] = set()

    def look_again(self, *stages: str) -> None:
        """These stages begin anew: what was W h + b at first, as an adapter is, may have changed."""
        self._linear_in.difference_update(stages)

    def require(self, forward: Forward, batch: Batch, stage: str, is_rehearsal: bool = False) -> None:
        """Raise a ValueError where it cannot be.

        Args:
            forward: One that counts.
            batch: The batch that it belongs to.
            stage: The name of the stage.
            is_rehearsal: Whether training, which shows the order of its tokens, is still to come.

        Raises:
            ValueError: If the output was not W h + b, or labels and rows do not belong together.
        """
        if stage not in self._linear_in:
            self._capture.require_linear(forward, batch)
            self._require_same_width(forward)
            self._linear_in.add(stage)
        self._capture.part.require_none(forward.name)
        linear, same = self._capture.linear, forward.leading == tuple(batch.label_shape)
        is_known = linear is not None and linear.is_batch_first and same
        if not is_rehearsal and not is_known:
            self._order.require(forward.leading, batch.label_shape)
        if self._places.target is None and linear is not None:
            ignored = self._task.ignored
            if self._task.names_classes:
                require_same_labels(batch, ignored, self._places.forwards)
            else:
                require_same_vectors(batch, ignored, self._task.predicts_labels)

    def _require_same_width(self, forward: Forward) -> None:
        linear, features = self._capture.linear, forward.features
        if linear is not None and features is not None and features.shape[-1] != linear.width:
            raise ValueError(
                f"Expected features of the width of {linear.name!r}, {linear.width}, but "
                f"{self._capture.measured} has {features.shape[-1]}, in shape {tuple(features.shape)}. "
                "Is it another layer's, does another pool make it rows, or are the classes the "
                f"parameter's columns ({linear.name + '.T'!r})?"
            )

    def doubt(self, batch: Batch, stage: Stage, say: Callable[[str, str], None]) -> None:
        """Say what may not be meant.

        Args:
            batch: That is closed.
            stage: The stage.
            say: Told the kind and the text of a warning.
        """
        known = batch.rows is None
        if batch.num_forwards > 1 and known and self._places.forwards == "last":
            say(
                "several forwards",
                f"{batch.num_forwards} forwards of the classifier ran in one step, and the last one is "
                "measured with the batch's labels. Set forwards to 'first' or 'all' if others of "
                "them belong to the labels, or to 'concat' if each of them is a part of the batch.",
            )
        if batch.repeated:
            say(
                "repeated layers",
                f"Layers {', '.join(map(repr, sorted(batch.repeated)))} ran several times before the "
                "classifier did, and the last of it is measured with the batch's labels.",
            )
        if stage.weights_move and self._capture.dropout.precedes_features:
            say(
                "dropout",
                f"Active Dropout directly precedes the feature, {self._capture.measured}: the noise "
                "that it adds counts as within-class "
                f"variability in {stage.name}. For the features that the network decides by, look at "
                "val, or at train with frozen_every_n_epochs.",
            )
