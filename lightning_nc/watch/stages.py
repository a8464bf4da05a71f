"""The stages of one network: for each a recorder, and what it has come to."""

from collections.abc import Callable
from dataclasses import replace

from lightning_nc.stream.sync import Ranks
from lightning_nc.tasks.graph_notices import several
from lightning_nc.tasks.task import Task
from lightning_nc.values.evidence import Evidence
from lightning_nc.values.graphs import GraphEvidence
from lightning_nc.values.recorded import HEAD, Recorded
from lightning_nc.values.stage import STAGES, Stage, stage_of
from lightning_nc.watch import explain
from lightning_nc.watch.capture import Capture
from lightning_nc.watch.census import Census
from lightning_nc.watch.graph_batch import NEIGHBORHOOD_MEAN
from lightning_nc.watch.layers import covariances_of
from lightning_nc.watch.recorder import Recorder


class Stages:
    """Recorders by stage, made when they are asked for.

    Args:
        task: What the labels mean.
        capture: Hooks on the network.
        max_rows_per_batch: At most this many rows of a batch enter.
        census: What is known of the training data.
        announce: Told what is measured where it is not the ordinary keys.

    Raises:
        ValueError: If a covariance is given for what is not measured.
    """

    def __init__(
        self,
        task: Task,
        capture: Capture,
        max_rows_per_batch: int | None,
        census: Census,
        announce: Callable[[str], None] = print,
    ) -> None:
        self._task = task
        self._capture = capture
        self._max_rows = max_rows_per_batch
        self._covariances = covariances_of(capture.layers.values(), task.settings.own_covariances)
        self._recorders: dict[str, Recorder] = {}
        self._evidence: dict[str, dict[str, Evidence]] = {}
        self.census, self._announce = census, announce
        self._announced: set[str] = set()
        self.silent: set[str] = set()  # there were labels, but no forward

    def recorder(self, stage: Stage) -> Recorder:
        """That of a stage."""
        if stage.name not in self._recorders:
            depth, layers = self._capture.depth, self._capture.layers
            near = [name for name, each in layers.items() if each.pool == NEIGHBORHOOD_MEAN]
            self._recorders[stage.name] = Recorder(
                self._task, tuple(layers), self._max_rows, self._covariances,
                tuple(self._capture.readers), depth.stack, depth.left_out, depth.found, near,
            )  # fmt: skip
        return self._recorders[stage.name]

    def reset(self, stage: Stage) -> None:
        """Start a stage anew."""
        self.silent.discard(stage.name)
        self.recorder(stage).reset()

    def count_training(self, ranks: Ranks | None, is_whole: bool) -> None:
        """Where nothing is known of the training data yet: what this epoch has shown of them.

        Every rank has to call it.

        Args:
            ranks: Who merges; None: this rank alone.
            is_whole: Whether the epoch is complete.
        """
        stated = self._task.settings.class_counts is not None
        if self.census.training.counts is None and not stated:
            online = self.recorder(stage_of("fit"))
            self.census.glimpse = online.training_so_far(ranks, is_whole)

    def end(self, stage: Stage, ranks: Ranks | None, is_whole: bool = True) -> Recorded:
        """The values of a stage, its layers in the order in which they run; every rank has to call it.

        Args:
            stage: The stage.
            ranks: Who merges; None: this rank alone.
            is_whole: Whether its rows are a whole epoch.

        Returns:
            What it has come to.

        Raises:
            RankFailed: On all ranks, if one of them could not take part with its data.
            RanksDiffer: On all ranks, if they measure different things.
        """
        known = {name: self._evidence[name] for name in stage.references if name in self._evidence}
        around = self.census.around(stage, known, is_whole)
        doubt = explain.doubt_of_head(self._capture, self._task.needs)
        recorded = self.recorder(stage).close(ranks, around, self._capture.measured, doubt)
        self.census.note(stage, recorded)
        head = recorded.evidence.get(HEAD)
        if isinstance(head, GraphEvidence) and stage.name not in self._announced:
            self._announced.add(stage.name)
            self._announce(f"Stage {stage.name}: {several(head)}")
        if any(stage.name in other.references for other in STAGES):
            self._evidence[stage.name] = recorded.evidence
        for kind, module in recorded.notices:
            if kind == "empty" and stage.name in self.silent:
                recorded.notices[kind, module] = explain.silence(self._capture)
        order = (HEAD, *self._capture.depth.names)
        return replace(
            recorded,
            evidence={name: recorded.evidence[name] for name in order if name in recorded.evidence},
            outcomes={name: recorded.outcomes[name] for name in order if name in recorded.outcomes},
        )
