"""One run of a Trainer under observation: when a stage is opened, measured, closed and reported."""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_nc.plan import PICTURES, Plan
from lightning_nc.report.album import check_names
from lightning_nc.report.gallery import Gallery
from lightning_nc.report.scalars import takes_figures
from lightning_nc.report.voice import Lost
from lightning_nc.run.schedule import is_last_epoch
from lightning_nc.values import HEAD, Recorded, Stage, stage_of
from lightning_nc.watch.census import Census
from lightning_nc.watch.choice import Choice
from lightning_nc.watch.watch import Watch


class Session:
    """Joins what watches the network, what runs it and what reports.

    Args:
        plan: What to do.
        network: The LightningModule.
        choice: The classifier that was found before.
        census: What is known of the training data.
    """

    def __init__(
        self,
        plan: Plan,
        network: nn.Module,
        choice: Choice | None = None,
        census: Census | None = None,
    ) -> None:
        self._plan = plan
        self._schedule, self._voice, self._reporter = plan.schedule, plan.voice, plan.reporter
        self._watch = Watch(
            network,
            plan.places,
            plan.task,
            self._voice.say,
            rank_zero_info,
            plan.max_rows_per_batch,
            choice,
            census,
        )
        self._gallery = Gallery(
            {m.key for m in plan.task.measures}, plan.prefix, plan.class_names, self._voice.say
        )
        self._stepped, self._batches = False, 0
        self._measures_online = self._measures_loop = False

    def detach(self) -> None:
        """Remove all hooks."""
        self._watch.detach()

    @property
    def choice(self) -> Choice | None:
        """The classifier, for later runs; None before it is known."""
        return self._watch.choice

    # Training, measured online

    def start_training(self, trainer: Any, pl_module: Any) -> None:
        """Take up the history, and check the frozen pass on one batch."""
        self._plan.places.require_stages(stage.name for stage in self._stages_of_loop(trainer))
        self._reporter.resume_at(trainer, self._watch.layers)
        self._watch.expect_anew()
        self.start_epoch(trainer)
        if self._plan.frozen_every:
            self._run_frozen_pass(trainer, pl_module, max_batches=1)

    def start_epoch(self, trainer: Any) -> None:
        """Start the statistics of the training forwards."""
        online = stage_of("fit")
        self._watch.reset(online)
        self._batches = 0  # since then
        self._schedule.start_window(trainer.global_step)
        due = self._schedule.has_windows or self._is_due(trainer, online)
        self._measures_online = self._plan.online and due

    def open_training_batch(self, trainer: Any, batch: Any) -> None:
        """Find the labels, so that a batch without them is refused before it is trained on."""
        online = stage_of("fit")
        if self._measures_online or not self._stepped:
            with self._harmless_batch(trainer, online):
                self._watch.open(batch, online, not self._stepped, needs_labels=self._plan.online)

    def before_backward(self, trainer: Any, loss: Tensor) -> None:
        """See what the loss applies last, as long as the classifier has still to be found."""
        with self._harmless_batch(trainer, stage_of("fit")):
            self._watch.note_loss(loss)

    def after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Find the classifier; where a step has several losses, once all of them are in."""
        if pl_module.automatic_optimization:
            with self._harmless_batch(trainer, stage_of("fit")):
                self._watch.settle()

    def before_step(self, pl_module: Any) -> None:
        """Before the first step, check the forward."""
        if not self._stepped and not pl_module.automatic_optimization:
            self._watch.settle(is_partial=True)
        elif not self._stepped:
            if self._plan.online:
                self._watch.check(stage_of("fit"))
            if self._watch.num_classes is not None:
                check_names(self._plan.class_names, self._watch.num_classes)
            self._note_first_step()

    def close_training_batch(self, trainer: Any, pl_module: Any, outputs: Any) -> None:
        """Add the batch's features; where a window of steps ends, log its measures."""
        self._batches += 1
        online, manual = stage_of("fit"), not pl_module.automatic_optimization
        has_stepped = manual or self._watch.has_stepped
        with self._harmless_batch(trainer, online):
            looks = not self._stepped and bool(outputs or manual)
            if manual:
                self._watch.settle()
            self._watch.close(
                online, self._measures_online, looks and self._plan.online, outputs=outputs
            )
        if not self._stepped and has_stepped:
            self._note_first_step()
        if self._schedule.ends_window(trainer.global_step) and self._measures_online:
            self._finish(trainer, pl_module, replace(online, ends_epoch=False))
            self.start_epoch(trainer)

    def end_training_epoch(self, trainer: Any, pl_module: Any) -> None:
        """Log the epoch's measures, run the frozen pass where it is due, and draw the run."""
        online, frozen = stage_of("fit"), stage_of("frozen")
        windows = self._schedule.has_windows
        self._end_skipped_loaders(trainer, pl_module)
        if self._measures_online and not (windows and self._schedule.was_measured(online.name)):
            self._finish(trainer, pl_module, online)
            if windows:
                self.start_epoch(trainer)
        if self._plan.frozen_every and self._is_due(trainer, frozen):
            self._measure_frozen(trainer, pl_module)
        if self._draws(trainer):
            with self._harmless(trainer, "Drawing the run", Lost.PICTURES):
                layers, is_last = self._watch.layers, is_last_epoch(trainer)
                self._gallery.show_run(trainer, self._reporter.history, layers, is_last)
            self._schedule.measured(PICTURES, trainer.current_epoch)

    # Validation and test: a loop over loaders, each of them a stage

    def start_loop(self, trainer: Any) -> None:
        """Decide whether to measure a loop."""
        fitting = trainer.state.fn == "fit"
        self._measures_loop = not fitting or self._is_due(trainer, stage_of(_loop(trainer)))

    def start_loaders(self, trainer: Any) -> None:
        """Start the statistics of each loader."""
        self._watch.reset(*self._stages_of_loop(trainer))

    def open_batch(self, trainer: Any, batch: Any, loader: int) -> None:
        """Find the labels."""
        if self._measures_loop:
            stage = self._plan.stage_of_loader(_loop(trainer), loader)
            with self._harmless_batch(trainer, stage):
                self._watch.open(batch, stage, may_choose=not trainer.sanity_checking)

    def close_batch(self, trainer: Any, outputs: Any, loader: int) -> None:
        """Add the batch's features."""
        if self._measures_loop:
            stage = self._plan.stage_of_loader(_loop(trainer), loader)
            rehearses = trainer.sanity_checking
            with self._harmless_batch(trainer, stage):
                # validation may run a copy of the network, of averaged weights; training tells
                self._watch.close(
                    stage,
                    needs_a_forward=not rehearses,
                    chooses=not rehearses,
                    is_rehearsal=rehearses,
                    outputs=outputs,
                )

    def end_loaders(self, trainer: Any, pl_module: Any) -> None:
        """Log the measures of each loader."""
        if self._measures_loop and not trainer.sanity_checking:
            for stage in self._stages_of_loop(trainer):
                self._finish(trainer, pl_module, stage)
            self._schedule.measured(stage_of(_loop(trainer)).name, trainer.current_epoch)

    def _stages_of_loop(self, trainer: Any) -> list[Stage]:
        loaders = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
        return self._plan.stages_of(_loop(trainer), len(loaders))

    def _end_skipped_loaders(self, trainer: Any, pl_module: Any) -> None:
        """Where all loaders are empty, Lightning skips the loop and all that it would have called."""
        are_empty = trainer.num_val_batches and not any(trainer.num_val_batches)
        every = trainer.check_val_every_n_epoch
        validates = trainer.enable_validation and every and (trainer.current_epoch + 1) % every == 0
        # other ranks may have batches, and then they validate in just these epochs
        several = trainer.world_size > 1
        due = validates if several else self._schedule.was_measured(stage_of("validate").name)
        if are_empty and due:
            self.start_loop(trainer)
            self.start_loaders(trainer)
            self.end_loaders(trainer, pl_module)

    # One stage

    def _is_due(self, trainer: Any, stage: Stage) -> bool:
        return self._schedule.is_due(stage.name, trainer.current_epoch, is_last_epoch(trainer))

    def _is_whole(self, trainer: Any, stage: Stage) -> bool:
        """Whether what was measured of training is an epoch, with all batches that there are."""
        limit = trainer.limit_train_batches
        is_limited = trainer.overfit_batches or not (limit is None or repr(limit) == "1.0")
        if stage.loop != "fit" or is_limited:
            return not is_limited
        # an epoch that was resumed in its middle, or is cut short, has fewer
        progress = trainer.fit_loop.epoch_loop.batch_progress
        all_seen = progress.is_last_batch and progress.current.ready == self._batches
        return bool(all_seen) and not self._schedule.has_windows

    def _note_first_step(self) -> None:
        """From here on, nothing that goes wrong in measuring is raised."""
        self._stepped = True
        self._watch.hold_errors()

    def _run_frozen_pass(self, trainer: Any, pl_module: Any, max_batches: int | None = None) -> None:
        frozen = stage_of("frozen")
        self._watch.reset(frozen)
        self._plan.frozen_pass.run(
            trainer,
            pl_module,
            before=lambda batch: self._watch.open(batch, frozen),
            after=lambda batch, outputs: self._watch.close(frozen, outputs=outputs),
            max_batches=max_batches,
        )

    def _measure_frozen(self, trainer: Any, pl_module: Any) -> None:
        frozen, complete = stage_of("frozen"), False
        with self._harmless(trainer, "The frozen pass"):
            self._run_frozen_pass(trainer, pl_module)
            complete = True
        if not complete:
            self._watch.abandon(frozen)
            self._voice.has_failed(f"Stage {frozen.name}")
        self._finish(trainer, pl_module, frozen)

    def _finish(self, trainer: Any, pl_module: Any, stage: Stage) -> None:
        """Compute and log the values of a stage: on every rank, whatever its data."""
        recorded: Recorded | None = None
        with self._harmless(trainer, f"Stage {stage.name}"):
            device, distributed = trainer.strategy.root_device, trainer.world_size > 1
            if trainer.state.fn == "fit" and self._measures_online and not stage.trains:
                self._watch.count_training(
                    device, distributed, self._is_whole(trainer, stage_of("fit"))
                )
            recorded = self._watch.end(stage, device, distributed, self._is_whole(trainer, stage))
        if recorded is not None and trainer.is_global_zero:
            self._reporter.tell(stage, recorded, self._doubt())
        with self._harmless(trainer, f"Logging stage {stage.name}", Lost.LOG):
            self._reporter.log(trainer, pl_module, stage, recorded, self._watch.layers)
            self._schedule.measured(stage.name, trainer.current_epoch)
        if recorded is not None:
            self._show(trainer, stage, recorded)

    def _show(self, trainer: Any, stage: Stage, recorded: Recorded) -> None:
        self._gallery.hang(trainer, self._reporter.history)
        if stage.loop == "fit" and self._plan.frozen_every:
            return  # the frozen pass shows the same data, without the noise of training
        if recorded.outcomes.get(HEAD) and self._draws(trainer):
            with self._harmless(trainer, f"Drawing stage {stage.name}", Lost.PICTURES):
                self._gallery.show_stage(trainer, stage, recorded.evidence[HEAD])

    def _draws(self, trainer: Any) -> bool:
        if self._plan.figures_every == 0 or not takes_figures(trainer):
            return False
        epoch, is_last = trainer.current_epoch, is_last_epoch(trainer)
        due = trainer.state.fn != "fit" or self._schedule.is_due(PICTURES, epoch, is_last)
        asked_for = self._plan.figures_every is not None
        return due and (asked_for or self._gallery.affords(epoch, is_last))

    def _doubt(self) -> str:
        """Where the classes do not fit, the layer that was chosen may be the wrong one."""
        if self._plan.places.classifier is not None:
            return ""
        return (
            f" Or is {self._watch.classifier_name!r}, which was found by itself, not the classifier? "
            "Set `classifier`."
        )

    def _harmless_batch(self, trainer: Any, stage: Stage) -> AbstractContextManager[None]:
        return self._harmless(trainer, f"A batch of {stage.name}", Lost.BATCH)

    def _harmless(
        self, trainer: Any, what: str, lost: Lost = Lost.VALUES
    ) -> AbstractContextManager[None]:
        """Before the first step an error is raised; after it, told once, and the run goes on."""
        fitting, has_measured = trainer.state.fn == "fit", bool(self._reporter.history.keys())
        begun = self._stepped if fitting else has_measured
        return self._voice.harmless(what, raises=not begun, lost=lost)


def _loop(trainer: Any) -> str:
    return "test" if trainer.testing else "validate"
