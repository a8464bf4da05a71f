"""`NeuralCollapseCallback`: what happens at which event of the Trainer, and nothing else."""

import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback as _LightningCallback
from lightning.pytorch.utilities import rank_zero_info
from lightning_utilities.core import rank_zero
from torch import Tensor

from lightning_nc.capture import Capture, Forward, find_target
from lightning_nc.frozen_pass import frozen_loader, frozen_pass
from lightning_nc.functional.measures import select
from lightning_nc.loggers import spare_second_sync
from lightning_nc.notices import NeuralCollapseWarning
from lightning_nc.recorder import HEAD, Recorded, Recorder
from lightning_nc.values import ClassStatistics, History, check_covariance

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
        target: Where the labels are in a batch: a position, a key or attribute, or a function by
            dotted path, which returns None for a batch that is not to be measured. None: second item
            of a sequence; "target", "targets", "label", "labels", "y".
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
        forwards: Which forward of a step counts when there are several: "first", "last" or "all".
        covariance: "pooled", "per_class" (num_classes times the memory) or "none" (traces only, for
            very wide layers).
        measures: Keys, globs, "default", or functions by dotted path.
        ignore_index: Label of rows to leave out, or None.
        max_rows_per_batch: At most this many rows of a batch enter, a uniform random subset; for
            token-level features.
        prefix: Put before every key as it is, so let it end in "/"; two instances with equal keys are
            refused.
        seed: For the sample, random subsets and the frozen pass; the global random state is never
            touched.

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
        forwards: str = "last",
        covariance: str = "pooled",
        measures: list[str] = ["default"],  # noqa: B006
        ignore_index: int | None = -100,
        max_rows_per_batch: int | None = None,
        prefix: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"Expected task to be one of {TASKS}, but got {task!r}.")
        _require_at_least("every_n_epochs", every_n_epochs, 1)
        _require_at_least("frozen_every_n_epochs", frozen_every_n_epochs, 0)
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
        self._every = every_n_epochs
        self._prefix = prefix
        self._seed = seed
        self.history = History()
        self.statistics: dict[str, ClassStatistics] = {}
        self._said: set[str] = set()
        self._forget_run()

    def _forget_run(self) -> None:
        self._capture: Capture | None = None
        self._recorders: dict[str, Recorder] = {}
        self._labels: Tensor | None = None
        self._kept_for: Forward | None = None
        self._stepped = False
        self._measured_in: dict[str, int] = {}
        self._measures_online = self._measures_val = False

    @property
    def state_key(self) -> str:
        """Tells two instances in one checkpoint apart."""
        return self._generate_state_key(
            prefix=self._prefix,
            classifier=self._capture_settings["classifier"],
            layers=self._capture_settings["layers"],
            measures=self._recorder_settings["measures"],
        )

    def state_dict(self) -> dict[str, Any]:
        """The logged history, in primitives."""
        return {"history": self.history.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history of a checkpoint."""
        self.history = History.from_state_dict(state_dict["history"])

    # Setting up and clearing away

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse settings that cannot work, before anything runs."""
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
        self._attach(pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Remove the hooks."""
        self._detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Remove the hooks: teardown is not called after an exception."""
        self._detach()

    def _attach(self, pl_module: Any) -> Capture:
        if self._capture is None:
            self._capture = Capture(pl_module, **self._capture_settings)
            self._capture.attach()
        return self._capture

    def _detach(self) -> None:
        if self._capture is not None:
            self._capture.detach()
        self._forget_run()

    # Training, measured online

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the frozen pass on one batch, before the first optimizer step."""
        self._start_epoch(trainer)
        if self._frozen_every:
            self._run_frozen_pass(trainer, pl_module, max_batches=1)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the epoch's statistics."""
        self._start_epoch(trainer)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Find the labels, so that a batch without them is refused before it is trained on."""
        if self._measures_online or not self._stepped:
            with self._harmless(trainer, f"A batch of {ONLINE}"):
                self._begin(batch)
                if self._online and not self._stepped and self._capture is not None:
                    self._capture.watch_dropout()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Keep the classifier that the features met; before the first step, check the forward."""
        if not self._stepped and pl_module.automatic_optimization:
            self._check_first_forward()
            self._stepped = True
        if self._measures_online:
            self._keep_classifier(ONLINE)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch's features."""
        manual = not pl_module.automatic_optimization
        with self._harmless(trainer, f"A batch of {ONLINE}"):
            if not self._stepped and (outputs or manual):
                self._require_a_forward()
            if self._measures_online:
                self._keep_classifier(ONLINE)
                self._commit(ONLINE)
        if self._capture is not None:
            self._capture.take()
        self._stepped = self._stepped or manual

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the epoch's measures, and run the frozen pass where it is due."""
        if self._measures_online:
            self._finish(trainer, pl_module, ONLINE)
        if self._frozen_every and self._is_due(trainer, FROZEN, self._frozen_every):
            complete = False
            with self._harmless(trainer, "The frozen pass"):
                self._run_frozen_pass(trainer, pl_module)
                complete = True
            if not complete:
                self._reset(FROZEN)
                self._said.add(f"{FROZEN}: empty")
            self._finish(trainer, pl_module, FROZEN)

    # Validation and test

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the hooks where there was no fit to do it."""
        self._attach(pl_module)
        self._measures_val = trainer.state.fn != "fit" or self._is_due(trainer, "val", self._every)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the hooks: there was no fit to do it."""
        self._attach(pl_module)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the statistics of each validation loader."""
        self._reset(*_stages("val", trainer.num_val_batches))

    def on_test_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the statistics of each test loader."""
        self._reset(*_stages("test", trainer.num_test_batches))

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Find the labels."""
        if self._measures_val:
            with self._harmless(trainer, "A batch of val"):
                self._begin(batch)

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Find the labels."""
        self._begin(batch)

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
                self._commit_frozen_weights(stage)

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
        self._commit_frozen_weights(_stage("test", dataloader_idx))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the measures of each validation loader."""
        if self._measures_val and not trainer.sanity_checking:
            for stage in _stages("val", trainer.num_val_batches):
                self._finish(trainer, pl_module, stage)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the measures of each test loader."""
        for stage in _stages("test", trainer.num_test_batches):
            self._finish(trainer, pl_module, stage)

    # One batch

    def _begin(self, batch: Any) -> None:
        assert self._capture is not None
        self._labels = self._kept_for = None
        self._capture.take()
        self._labels = find_target(batch, self._target)
        if self._labels is not None:
            self._capture.begin(self._labels.shape)

    def _check_first_forward(self) -> None:
        """Raise what is wrong with the settings while the weights are still untouched."""
        if self._capture is None or self._labels is None:
            return
        self._require_a_forward()
        if self._capture.counted is not None:
            self._recorder(ONLINE).check(self._capture.counted, self._labels, self._num_rows())

    def _require_a_forward(self) -> None:
        capture = self._capture
        if capture is not None and self._labels is not None and not capture.has_fired:
            raise RuntimeError(capture.explain_silence())

    def _keep_classifier(self, stage: str) -> None:
        """Copy the classifier, once per forward: a later optimizer step changes it."""
        assert self._capture is not None
        counted, parameters = self._capture.counted, self._capture.weight_and_bias()
        if counted is not None and counted is not self._kept_for and parameters is not None:
            self._recorder(stage).keep_classifier(*parameters)
            self._kept_for = counted

    def _commit_frozen_weights(self, stage: str) -> None:
        """Add a forward of a stage in which the weights stand still: they are copied once."""
        self._require_a_forward()
        if not self._recorder(stage).keeps_classifier:
            self._keep_classifier(stage)
        self._commit(stage)

    def _commit(self, stage: str) -> None:
        capture, labels = self._capture, self._labels
        assert capture is not None
        chosen_before, num_forwards = capture.classifier_name, capture.num_forwards
        forwards: list[Forward] = capture.take()
        self._labels = self._kept_for = None
        if forwards and chosen_before is None:
            rank_zero_info(
                f"NeuralCollapseCallback measures the input of {capture.classifier_name!r}, "
                f"{capture.classifier}. Set `classifier` to choose another layer."
            )
        if labels is not None:
            for forward in forwards:
                self._recorder(stage).add(forward, labels, self._num_rows())
        if num_forwards > 1 and chosen_before is not None:
            self._tell_several_forwards(num_forwards)
        if stage == ONLINE and capture.after_dropout:
            self._say(
                "dropout",
                "Active Dropout directly precedes the feature, the input of "
                f"{capture.classifier_name!r}: the noise that it adds counts as within-class "
                f"variability in {ONLINE}. For the features that the network decides by, look at "
                "val, or at train with frozen_every_n_epochs.",
            )

    def _tell_several_forwards(self, num_forwards: int) -> None:
        if self._capture_settings["forwards"] == "last":
            self._say(
                "several forwards",
                f"{num_forwards} forwards of the classifier ran in one step, and the last one is "
                "measured with the batch's labels. Set forwards to 'first' or 'all' if others of "
                "them belong to the labels.",
            )

    def _num_rows(self) -> int:
        assert self._capture is not None
        parameters = self._capture.weight_and_bias()
        assert parameters is not None
        return len(parameters[0])

    # One stage

    def _recorder(self, stage: str) -> Recorder:
        if stage not in self._recorders:
            layers = self._capture.layer_names if self._capture else ()
            self._recorders[stage] = Recorder(layers, **self._recorder_settings)
        return self._recorders[stage]

    def _reset(self, *stages: str) -> None:
        for stage in stages:
            self._recorder(stage).reset()

    def _start_epoch(self, trainer: Any) -> None:
        self._reset(ONLINE)
        self._measures_online = self._online and self._is_due(trainer, ONLINE, self._every)

    def _is_due(self, trainer: Any, stage: str, every: int) -> bool:
        """The first time, every so many epochs, and in the last epoch where it is known to be that."""
        epoch, before = trainer.current_epoch, self._measured_in.get(stage)
        is_last = (
            epoch + 1 == trainer.max_epochs
            or trainer.should_stop
            or 0 <= trainer.max_steps <= trainer.global_step
        )
        return before is None or before == epoch or epoch - before >= every or is_last

    def _run_frozen_pass(self, trainer: Any, pl_module: Any, max_batches: int | None = None) -> None:
        self._reset(FROZEN)
        loader = frozen_loader(
            trainer.train_dataloader,
            trainer.num_training_batches,
            self._seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
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
            before=self._begin,
            after=lambda batch: self._commit_frozen_weights(FROZEN),
            inference=self._inference,
            max_batches=max_batches,
        )

    def _finish(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Compute and log the values of a stage: on every rank, whatever its data."""
        with self._harmless(trainer, f"Stage {stage}"):
            self._compute_and_log(trainer, pl_module, stage)

    def _compute_and_log(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if not trainer.sanity_checking:
            self._measured_in[stage] = trainer.current_epoch
        distributed = trainer.world_size > 1
        recorded = self._recorder(stage).close(trainer.strategy.root_device, distributed)
        for kind, text in recorded.notices.items():
            if trainer.is_global_zero:
                self._say(f"{stage}: {kind}", f"Stage {stage}: {text}{self._doubt(kind)}")
        values = {self._key(key, stage): value for key, value in recorded.values.items()}
        if distributed:
            spare_second_sync(trainer, values)
        for key, value in values.items():
            pl_module.log(
                key,
                value,
                on_step=False,
                on_epoch=True,
                # a mean over one value that every rank has: the value itself
                batch_size=1,
                add_dataloader_idx=False,
            )
        self._remember(trainer, stage, recorded, values)

    def _remember(
        self, trainer: Any, stage: str, recorded: Recorded, values: Mapping[str, Tensor]
    ) -> None:
        for name, accumulated in recorded.accumulated.items():
            place = stage if name == HEAD else f"{stage}/{name}"
            self.statistics[place] = accumulated.statistics.to("cpu")
        numbers = torch.stack(list(values.values())).tolist() if values else []
        self.history = self.history.extended(
            trainer.current_epoch, trainer.global_step, dict(zip(values, numbers, strict=True))
        )

    def _key(self, key: str, stage: str) -> str:
        """``nc1/cdnv`` and ``nc1/cdnv/backbone`` become ``nc1/cdnv/val``, ``.../val/backbone``."""
        group, measure, *layer = key.split("/", 2)
        return self._prefix + "/".join([group, measure, stage, *layer])

    # Talking

    def _doubt(self, kind: str) -> str:
        """Where the classes do not fit, the layer that was chosen may be the wrong one."""
        automatic = self._capture_settings["classifier"] is None and self._capture is not None
        if kind not in ("absent", "out_of_range") or not automatic:
            return ""
        name = self._capture.classifier_name if self._capture else None
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
        except Exception:
            if trainer.state.fn != "fit" or not self._stepped:
                raise
            self._say(
                f"failed: {what}",
                f"{what} could not be measured and is left out; training goes on. This is said "
                f"once.\n{traceback.format_exc()}",
            )


def _stage(name: str, dataloader_idx: int) -> str:
    return name if dataloader_idx == 0 else f"{name}_{dataloader_idx}"


def _stages(name: str, num_batches: list[Any]) -> list[str]:
    return [_stage(name, i) for i in range(len(num_batches))]


def _require_at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ValueError(f"Expected {name} to be at least {least}, but got {value}.")
