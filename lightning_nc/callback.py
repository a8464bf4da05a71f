"""`NeuralCollapseCallback`: what happens at which event of the Trainer, and nothing else."""

import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from math import nan
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback as _LightningCallback
from lightning.pytorch.utilities import rank_zero_info
from lightning_utilities.core import rank_zero
from torch import Tensor

from lightning_nc.functional.table import select
from lightning_nc.report.album import check_names
from lightning_nc.report.dashboard import headlines
from lightning_nc.report.gallery import Gallery
from lightning_nc.report.writers import axis, numbers, publish, spare_second_sync, takes_figures
from lightning_nc.run.frozen_pass import frozen_loader, frozen_pass
from lightning_nc.run.schedule import Schedule
from lightning_nc.run.strategies import doubt, refuse_frozen_pass
from lightning_nc.stream.sync import OutOfStep
from lightning_nc.tasks.notices import NeuralCollapseWarning
from lightning_nc.values.history import History
from lightning_nc.values.statistics import ClassStatistics, check_covariance
from lightning_nc.watch.recorder import HEAD, Recorded
from lightning_nc.watch.watch import Observation

if TYPE_CHECKING:
    _Callback = _LightningCallback
else:
    # `lightning` and `pytorch_lightning` have a Callback each and refuse the other's
    _log = rank_zero.log
    try:
        from pytorch_lightning import Callback as _TwinCallback
    except ImportError:
        _Callback = _LightningCallback
    else:
        _Callback = type("_Callback", (_LightningCallback, _TwinCallback), {})
    # importing the one turns the other's messages over to its own logger
    rank_zero.log = _log

TASKS = ("multiclass", "binary")
ONLINE, FROZEN = "train_online", "train"
PICTURES = "pictures"


class NeuralCollapseCallback(_Callback):
    """Measures neural collapse (NC1 to NC4) while a LightningModule trains.

    At the end of an epoch the measures are logged as ``{measure}/{stage}``, to every logger and for
    EarlyStopping and ModelCheckpoint. Stages: ``train_online`` (the features of the training
    forwards), ``train`` (an extra pass in eval mode, if asked for), ``val``, ``test``; ``val_1`` for a
    second loader. The table of keys is :data:`lightning_nc.functional.MEASURES`. After an epoch,
    ``statistics["val"]`` and ``history`` hold them and what they were computed from.

    Training is bit-identical with and without the callback.

    Args:
        classifier: Dotted path to the last linear layer: its input is the feature, its weight and
            bias the classifier. None: the last ``nn.Linear`` to run in the first forward.
        layers: More modules, by dotted path or glob, whose outputs are measured as features. A
            mapping gives each its pool.
        pool: How an output with more than two dimensions becomes rows: "spatial_mean" (channels
            first), "token_mean" (channels last), "flatten", "first", "last", "tokens" (every position
            a row), or a dotted function. "auto": tokens where the labels have the leading dimensions,
            else by the module's type.
        target: Where the labels are in a batch: a position, a key or attribute, several of them joined
            by dots, or a function by dotted path, which returns None for a batch that is not to be
            measured. None: second item of a sequence; "target", "targets", "label", "labels", "y".
        task: "multiclass" or "binary".
        num_classes: Number of classes. None: the classifier's rows.
        online: Measure the features of the training forwards themselves, at no extra pass; the
            weights move during the epoch, and BatchNorm, Dropout and augmentation are on.
        frozen_every_n_epochs: Every so many epochs, and after the last, one extra inference pass over
            the training data in eval mode, as in the papers. 0: never.
        inference: How the frozen pass runs the network on a batch: None (forward on the inputs), the
            name of a method that takes the batch and its index ("predict_step"), or a function of the
            module and the batch by dotted path.
        every_n_epochs: How often the other stages are measured; the first epoch always, and the last
            one where it is known beforehand (``max_epochs``).
        every_n_steps: Measure training in windows of so many optimizer steps in the place of epochs,
            for runs of few, long epochs. A window may span epochs; the first one ends with the first
            epoch at the latest, so that there is a value to monitor. None: no windows.
        forwards: Which forward of a step counts when there are several: "first", "last" or "all".
        covariance: "pooled", "per_class" (num_classes times the memory) or "none" (traces only, for
            very wide layers).
        measures: A list of keys, globs, "default", or functions by dotted path, which are logged under
            ``custom/``; their parameters are named like the attributes of
            :class:`lightning_nc.functional.table.Evidence`.
        ignore_index: Label of rows to leave out, or None.
        max_rows_per_batch: At most this many rows of a batch enter, a uniform random subset; for
            token-level features.
        figures_every_n_epochs: How often pictures go to the loggers, of the stages measured then; the
            last epoch always, where it is known beforehand; less often where epochs are so short that
            drawing would take more than a tenth of the time. 0: never.
        class_names: Names of the classes, for the pictures.
        prog_bar: Show one value each for NC1 to NC4 in the progress bar.
        prefix: Put before every key as it is, so let it end in "/"; two instances with equal keys are
            refused.
        seed: Seed of the sample, of random subsets and of the frozen pass; the global random state is
            never touched.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> from lightning_nc import NeuralCollapseCallback
        >>> callback = NeuralCollapseCallback(frozen_every_n_epochs=10)
        >>> callback.history.keys()
        []
    """

    def __init__(
        self,
        classifier: str | None = None,
        layers: list[str] | dict[str, str] = [],  # noqa: B006 - never changed; jsonargparse shows it
        pool: str = "auto",
        target: str | int | Callable[[Any], Any] | None = None,
        task: str = "multiclass",
        num_classes: int | None = None,
        online: bool = True,
        frozen_every_n_epochs: int = 0,
        inference: str | Callable[[Any, Any], Any] | None = None,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        forwards: str = "last",
        covariance: str = "pooled",
        measures: list[str] = ["default"],  # noqa: B006
        ignore_index: int | None = -100,
        max_rows_per_batch: int | None = None,
        figures_every_n_epochs: int = 10,
        class_names: list[str] | None = None,
        prog_bar: bool = False,
        prefix: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"Expected task to be one of {TASKS}, but got {task!r}.")
        _require_at_least("every_n_epochs", every_n_epochs, 1)
        _require_at_least("every_n_steps", every_n_steps, 1)
        _require_at_least("frozen_every_n_epochs", frozen_every_n_epochs, 0)
        _require_at_least("figures_every_n_epochs", figures_every_n_epochs, 0)
        _require_at_least("num_classes", num_classes, 2)
        _require_at_least("max_rows_per_batch", max_rows_per_batch, 1)
        _require_at_least("seed", seed, 0)
        if task == "binary" and num_classes not in (None, 2):
            raise ValueError(f"Expected num_classes to be 2 for task='binary', but got {num_classes}.")
        check_covariance(covariance)
        self._keys = {measure.key for measure in select(measures)}
        self._capture_settings: dict[str, Any] = {
            "classifier": classifier, "layers": layers, "pool": pool, "forwards": forwards,
        }  # fmt: skip
        self._recorder_settings: dict[str, Any] = {
            "num_classes": 2 if task == "binary" else num_classes,
            "covariance": covariance,
            "measures": measures,
            "ignore_index": ignore_index,
            "max_rows_per_batch": max_rows_per_batch,
            "seed": seed,
        }
        self._target = target
        self._online = online
        self._frozen_every = frozen_every_n_epochs
        self._inference = inference
        how_often = {FROZEN: frozen_every_n_epochs, PICTURES: figures_every_n_epochs}
        self._schedule = Schedule(how_often, every_n_epochs, every_n_steps)
        self._figures_every = figures_every_n_epochs
        self._class_names = class_names
        self._prog_bar = prog_bar
        self._prefix = prefix
        self._seed = seed
        self.history = History()
        self.statistics: dict[str, ClassStatistics] = {}
        self._said: set[str] = set()
        self._phase = "fit"
        self._state_key = self._generate_state_key(
            prefix=prefix, classifier=classifier, layers=layers, measures=measures
        )
        self._forget_run()

    def _forget_run(self) -> None:
        self._observed: Observation | None = None
        self._gallery = Gallery(self._keys, self._prefix, self._class_names, self._say)
        self._stepped = False
        self._measures_online = self._measures_val = False

    @property
    def state_key(self) -> str:
        """Tells two instances in one checkpoint apart."""
        return self._state_key  # Lightning asks for it before each of its calls

    def state_dict(self) -> dict[str, Any]:
        """The logged history and the epochs of the last measurements, in primitives."""
        return {"history": self.history.state_dict(), "schedule": self._schedule.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history of a checkpoint; one that is only tested leaves the run's own."""
        if self._phase == "fit":
            self.history = History.from_state_dict(state_dict.get("history", {}))
            self._schedule.load_state_dict(state_dict.get("schedule", {}))

    # Setting up and clearing away

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse settings that cannot work, before anything runs."""
        self._phase = stage
        if stage == "fit" and getattr(trainer, "ckpt_path", None):
            self.history = History()  # that of the checkpoint comes next, if it has one
        for other in trainer.callbacks:
            if not isinstance(other, NeuralCollapseCallback) or other is self:
                continue
            shared = sorted(self._keys & other._keys)
            if shared and other._prefix == self._prefix:
                raise ValueError(
                    "Expected the NeuralCollapseCallbacks of a Trainer to log different keys, but "
                    f"two of them log {shared[0]} and {len(shared) - 1} more with the prefix "
                    f"{self._prefix!r}. Give one of them another prefix."
                )

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the hooks: before the sanity check, and after the tuner has run."""
        self._detach()
        self._said.clear()
        self.statistics.clear()
        if self._frozen_every:
            refuse_frozen_pass(trainer.strategy)
        if self._online and "dataloader_iter" in signature(pl_module.training_step).parameters:
            raise ValueError(
                "Expected a training_step that takes a batch, but got one that takes "
                "`dataloader_iter`, whose batches nobody else sees. Set online=False to measure "
                "validation only."
            )
        self._attach(trainer, pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Remove the hooks."""
        self._detach()
        self._schedule.forget()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Remove the hooks: teardown is not called after an exception."""
        self._detach()
        self._schedule.forget()

    def _attach(self, trainer: Any, pl_module: Any) -> None:
        if self._observed is not None:
            return
        doubtful = doubt(trainer.strategy)
        if doubtful and trainer.is_global_zero:
            self._say("strategy", doubtful)
        self._observed = Observation(
            pl_module, self._target, self._capture_settings, self._recorder_settings,
            say=self._say, announce=rank_zero_info,
        )  # fmt: skip

    def _detach(self) -> None:
        if self._observed is not None:
            self._observed.detach()
        self._forget_run()

    # Training, measured online

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the frozen pass on one batch, before the first optimizer step."""
        # what a run before this one has logged beyond the step where this one starts is not its past
        self.history = self.history.until(trainer.global_step)
        # a monitor looks at every epoch's end, and a resumed run may have nothing to measure there yet
        for key in self.history:
            known = torch.tensor(self.history[key][-1].value)
            trainer.callback_metrics.setdefault(key, known)
        self._watched.capture.expect_anew()
        self._start_epoch(trainer)
        if self._frozen_every:
            self._run_frozen_pass(trainer, pl_module, max_batches=1)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the epoch's statistics."""
        if not self._schedule.has_windows:
            self._start_epoch(trainer)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Find the labels, so that a batch without them is refused before it is trained on."""
        if self._online and (self._measures_online or not self._stepped):
            with self._harmless(trainer, f"A batch of {ONLINE}"):
                self._watched.begin(batch)
                if not self._stepped:
                    self._watched.capture.watch_dropout()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Keep the classifier that the features met; before the first step, check the forward."""
        if not self._stepped and pl_module.automatic_optimization:
            self._watched.check(ONLINE)
            if self._watched.capture.counted is not None:
                check_names(self._class_names, max(2, self._watched.capture.num_rows))
            self._note_first_step()
        if self._measures_online:
            with self._harmless(trainer, f"A batch of {ONLINE}"):
                self._watched.keep_classifier(ONLINE)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch's features."""
        manual = not pl_module.automatic_optimization
        with self._harmless(trainer, f"A batch of {ONLINE}"):
            if not self._stepped and (outputs or manual):
                self._watched.require_a_forward()
            if self._measures_online:
                self._watched.commit(ONLINE)
        if not self._stepped and (manual or self._watched.has_stepped):
            self._note_first_step()
        with self._harmless(trainer, f"A batch of {ONLINE}"):
            self._watched.drop()
        if self._schedule.ends_window(trainer.global_step) and self._measures_online:
            self._finish(trainer, pl_module, ONLINE, at_once=True)
            self._start_epoch(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the epoch's measures, and run the frozen pass where it is due."""
        windows = self._schedule.has_windows
        if self._measures_online and not (windows and self._schedule.was_measured(ONLINE)):
            self._finish(trainer, pl_module, ONLINE)
            if windows:
                self._start_epoch(trainer)
        if self._frozen_every and self._is_due(trainer, FROZEN):
            complete = False
            with self._harmless(trainer, "The frozen pass"):
                self._run_frozen_pass(trainer, pl_module)
                complete = True
            if not complete:
                self._watched.abandon(FROZEN)
                self._said.add(f"failed: Stage {FROZEN}")  # this rank has just said it
            self._finish(trainer, pl_module, FROZEN)
        self._show_run(trainer)

    def _note_first_step(self) -> None:
        """From here on, nothing that goes wrong in measuring is raised."""
        self._stepped = True
        self._watched.capture.hold_errors()

    # Validation and test

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the hooks where there was no fit to do it."""
        self._attach(trainer, pl_module)
        self._measures_val = trainer.state.fn != "fit" or self._is_due(trainer, "val")

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the hooks: there was no fit to do it."""
        self._attach(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the statistics of each validation loader."""
        self._watched.reset(*_stages("val", trainer.num_val_batches))

    def on_test_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the statistics of each test loader."""
        self._watched.reset(*_stages("test", trainer.num_test_batches))

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Find the labels."""
        if self._measures_val:
            stage = _stage("val", dataloader_idx)
            with self._harmless(trainer, f"A batch of {stage}"):
                self._watched.begin(batch, weights_move=False, stage=stage)

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Find the labels."""
        self._watched.begin(batch, weights_move=False, stage=_stage("test", dataloader_idx))

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the batch's features."""
        if self._measures_val:
            stage = _stage("val", dataloader_idx)
            with self._harmless(trainer, f"A batch of {stage}"):
                self._commit(stage)

    def on_test_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the batch's features."""
        self._commit(_stage("test", dataloader_idx))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the measures of each validation loader."""
        if self._measures_val and not trainer.sanity_checking:
            for stage in _stages("val", trainer.num_val_batches):
                self._finish(trainer, pl_module, stage)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the measures of each test loader."""
        for stage in _stages("test", trainer.num_test_batches):
            self._finish(trainer, pl_module, stage)

    def _commit(self, stage: str) -> None:
        self._watched.require_a_forward()
        self._watched.commit(stage, weights_move=False)

    # One stage

    @property
    def _watched(self) -> Observation:
        assert self._observed is not None
        return self._observed

    def _start_epoch(self, trainer: Any) -> None:
        self._watched.reset(ONLINE)
        self._schedule.start_window(trainer.global_step)
        due = self._schedule.has_windows or self._is_due(trainer, ONLINE)
        self._measures_online = self._online and due

    def _is_due(self, trainer: Any, stage: str) -> bool:
        return self._schedule.is_due(stage, trainer.current_epoch, self._is_last(trainer))

    def _is_last(self, trainer: Any) -> bool:
        """Whether this epoch is known to be the last."""
        return (
            trainer.current_epoch + 1 == trainer.max_epochs
            or (trainer.should_stop and self._may_stop(trainer))
            or 0 <= trainer.max_steps <= trainer.global_step
        )

    @staticmethod
    def _may_stop(trainer: Any) -> bool:
        """Whether a wish to stop is granted: not before the least number of epochs and steps."""
        enough_epochs = trainer.current_epoch + 1 >= (trainer.min_epochs or 0)
        return enough_epochs and trainer.global_step >= (trainer.min_steps or 0)

    def _run_frozen_pass(self, trainer: Any, pl_module: Any, max_batches: int | None = None) -> None:
        self._watched.reset(FROZEN)
        source = trainer.train_dataloader, trainer.num_training_batches, self._seed
        loader, longest = (
            frozen_loader(*source, rank=rank, world_size=trainer.world_size)
            for rank in (trainer.global_rank, 0)
        )
        full = len(trainer.train_dataloader)
        if trainer.num_training_batches < full:
            self._say(
                "limit",
                f"The frozen pass measures as many batches as training runs, "
                f"{trainer.num_training_batches} of {full} (limit_train_batches, overfit_batches).",
            )
        frozen_pass(
            trainer,
            pl_module,
            loader,
            before=lambda batch: self._watched.begin(batch, weights_move=False, stage=FROZEN),
            after=lambda batch: self._commit(FROZEN),
            inference=self._inference,
            max_batches=max_batches,
            num_forwards=len(longest),
        )

    def _finish(self, trainer: Any, pl_module: Any, stage: str, at_once: bool = False) -> None:
        """Compute and log the values of a stage: on every rank, whatever its data."""
        recorded: Recorded | None = None
        with self._harmless(trainer, f"Stage {stage}"):
            device, distributed = trainer.strategy.root_device, trainer.world_size > 1
            recorded = self._watched.close(stage, device, distributed)
        if recorded is not None:
            for kind, text in recorded.notices.items():
                if trainer.is_global_zero:
                    self._say(f"{stage}: {kind}", f"Stage {stage}: {text}{self._doubt(kind)}")
            values = {self._key(key, stage): value for key, value in recorded.values.items()}
        else:
            values = dict.fromkeys(self._keys_of(stage), torch.tensor(nan))
        with self._harmless(trainer, f"Logging stage {stage}"):
            step = axis(trainer, epoch_is_over=stage in (ONLINE, FROZEN) and not at_once)
            told = numbers(values)
            self._log(trainer, pl_module, values, told, step)
            self._remember(trainer, stage, recorded, told)
        if recorded is not None:
            self._show_stage(trainer, stage, recorded)

    def _keys_of(self, stage: str) -> list[str]:
        """What the stage has logged before, or where it has not, what it may log."""
        candidates = [self._key(key, stage) for key in sorted(self._keys)]
        layered = tuple(f"{key}/" for key in candidates)
        before = [key for key in self.history if key in candidates or key.startswith(layered)]
        return before or candidates

    def _log(
        self,
        trainer: Any,
        pl_module: Any,
        values: Mapping[str, Tensor],
        told: Mapping[str, float],
        step: int,
    ) -> None:
        if trainer.barebones:  # a Trainer that was asked to log nothing
            return
        short = headlines(told, self._prefix) if self._prog_bar else {}
        if trainer.state.fn == "fit":
            publish(trainer, values, told, short, step, self._say)
            return
        # what validate() and test() return comes from Lightning's own log
        spare_second_sync(trainer, (*values, *short))
        for key, value in {**values, **short}.items():
            pl_module.log(
                key,
                value,
                prog_bar=key in short,
                logger=False if key in short else None,
                on_epoch=True,
                # a mean over one value that every rank has: the value itself
                batch_size=1,
                add_dataloader_idx=False,
            )

    # Pictures

    def _draws(self, trainer: Any) -> bool:
        if not self._figures_every or not takes_figures(trainer):
            return False
        due = trainer.state.fn != "fit" or self._is_due(trainer, PICTURES)
        return due and self._gallery.affords(trainer.current_epoch, self._is_last(trainer))

    def _show_stage(self, trainer: Any, stage: str, recorded: Recorded) -> None:
        self._gallery.hang(trainer)
        if stage == ONLINE and self._frozen_every:
            return  # the frozen pass shows the same data, without the noise of training
        if HEAD in recorded.accumulated and recorded.values and self._draws(trainer):
            with self._harmless(trainer, f"Drawing stage {stage}"):
                accumulated = recorded.accumulated[HEAD]
                self._gallery.show_stage(trainer, stage, accumulated, stage in (ONLINE, FROZEN))

    def _show_run(self, trainer: Any) -> None:
        if self._draws(trainer):
            with self._harmless(trainer, "Drawing the run"):
                layers, is_last = self._watched.capture.layer_names, self._is_last(trainer)
                self._gallery.show_run(trainer, self.history, layers, is_last)
            self._schedule.measured(PICTURES, trainer.current_epoch)

    def _remember(
        self, trainer: Any, stage: str, recorded: Recorded | None, told: Mapping[str, float]
    ) -> None:
        self._schedule.measured(stage, trainer.current_epoch)
        for name, accumulated in (recorded.accumulated if recorded else {}).items():
            place = stage if name == HEAD else f"{stage}/{name}"
            self.statistics[place] = accumulated.statistics.to("cpu")
        self.history = self.history.extended(trainer.current_epoch, trainer.global_step, told)

    def _key(self, key: str, stage: str) -> str:
        """``nc1/cdnv`` and ``nc1/cdnv/backbone`` become ``nc1/cdnv/val``, ``.../val/backbone``."""
        group, measure, *layer = key.split("/", 2)
        return self._prefix + "/".join([group, measure, stage, *layer])

    # Talking

    def _doubt(self, kind: str) -> str:
        """Where the classes do not fit, the layer that was chosen may be the wrong one."""
        automatic = self._capture_settings["classifier"] is None
        if kind not in ("absent", "out_of_range") or not automatic:
            return ""
        name = self._watched.capture.classifier_name
        return (
            f" Or is {name!r}, chosen as the last nn.Linear that ran, not the classifier? Set "
            "`classifier`."
        )

    def _say(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(text, NeuralCollapseWarning, stacklevel=2)

    @contextmanager
    def _harmless(self, trainer: Any, what: str) -> Iterator[None]:
        """Before the first step an error is raised; after it, told once, and training goes on."""
        try:
            yield
        except OutOfStep:  # going on would hang the other ranks, or mix up their gradients
            raise
        except Exception:
            if trainer.state.fn != "fit" or not self._stepped:
                raise
            self._say(
                f"failed: {what}",
                f"{what} could not be measured and is left out (a stage: its values are NaN); training "
                f"goes on. This is said once.\n{traceback.format_exc()}",
            )


def _stage(name: str, dataloader_idx: int) -> str:
    return name if dataloader_idx == 0 else f"{name}_{dataloader_idx}"


def _stages(name: str, num_batches: list[Any]) -> list[str]:
    return [_stage(name, i) for i in range(len(num_batches))]


def _require_at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ValueError(f"Expected {name} to be at least {least}, but got {value}.")
