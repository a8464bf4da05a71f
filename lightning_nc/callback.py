"""`NeuralCollapseCallback`: what happens at which event of the Trainer, and nothing else."""

from collections.abc import Callable
from typing import Any

from lightning_nc.plan import plan_of
from lightning_nc.report.reporter import refuse_shared_keys
from lightning_nc.report.saved import entries, left_aside
from lightning_nc.run.strategies import doubt, refuse_frozen_pass, refuse_hidden_batches
from lightning_nc.run.twins import Callback
from lightning_nc.session import Session
from lightning_nc.values import ClassStatistics, History
from lightning_nc.values.covariance import CovarianceSetting
from lightning_nc.watch.census import Census
from lightning_nc.watch.choice import Choice
from lightning_nc.watch.places import Forwards, Place

# a mapping holds no functions but by their paths, so that a config that was saved can be read again
Given = Place | dict[str, str | int | None] | None


class NeuralCollapseCallback(Callback):
    """Measures neural collapse (NC1 to NC4) while a LightningModule trains.

    At the end of an epoch the measures are logged as ``{measure}/{stage}``, to every logger and for
    EarlyStopping and ModelCheckpoint. Stages: ``train_online`` (the features of the training
    forwards), ``train`` (an extra pass in eval mode, if asked for), ``val``, ``test``; ``val_1`` for a
    second loader. The table of keys is :data:`lightning_nc.functional.MEASURES`. After an epoch,
    ``statistics["val"]`` and ``history`` hold them and what they were computed from.

    Training is bit-identical with and without the callback.

    Args:
        classifier: Dotted path to the last linear map (an nn.Linear, a 1x1 convolution, a module with
            a two-dimensional weight, an adapter), whose input is the feature; or to a parameter, whose
            rows are W ("head.T": its columns). None: the one that the training loss applies last;
            anything doubtful (a second head, a teacher, a weight applied as a function) is refused.
            False: features without a head.
        features: Dotted path to the module whose output is the feature ("name:in": its input), where
            the classifier's input cannot be seen, or is not it (fused or chunked losses, margin heads).
        layers: More modules, by dotted path or glob ("*" stops at dots, "**" crosses them), whose
            outputs are measured as features; "name:in": their inputs. A mapping: each its pools.
        pool: How an output with more than two dimensions becomes rows: "spatial_mean" (channels
            first), "token_mean" (channels last), "flatten", "first", "last", "last_token" (of those
            that attention_mask marks), "tokens" or "pixels" (every position a row; channels last or
            first), or a dotted function of the output, or of it and the batch. "auto": every position
            where each has a label, else by the module's type. A named pool takes the classifier's input
            as well, where that has more positions than there are labels; features ask for a name. Of
            layers of graphs: "nodes", "neighborhood_mean" (over a node's neighbors), "graph_mean".
        target: Where the labels are in a batch: a position, a key or attribute, several of them joined
            by dots, or a function by dotted path, which returns None for a batch that is not to be
            measured. None: "target", "targets", "label", "labels", "y", else the second item of a
            sequence, where no other item holds integers. A mapping gives each stage its own.
        mask: Likewise, which rows count: booleans (zeros and ones for tokens), or numbers of rows.
        predicted: Dotted path of a function of the batch and of what the step has returned, to a class
            number for each label, where the classifier's output is not what the network decides by.
        target_shift: 1: the label of a position is the next token's, as in causal language models
            whose labels are their inputs.
        task: What a label is: "multiclass", "binary", "multilabel" or "regression" (docs/labels.md).
        num_classes: Number of classes; classes need it with classifier=False. None: those of W's rows.
        min_count: Classes with fewer rows are left out of every formula.
        online: Measure the features of the training forwards themselves, at no extra pass; the
            weights move during the epoch, and BatchNorm, Dropout and augmentation are on.
        frozen_every_n_epochs: Every so many epochs, and after the last, one extra inference pass over
            the training data in eval mode, as in the papers. 0: never.
        inference: How the frozen pass runs the network on a batch: the name of a method that takes the
            batch and its index ("predict_step"), or a function of the module and the batch by dotted
            path. None: forward on the inputs, else predict_step where it is overridden. Weights,
            buffers, modes, torchmetrics inside the module, loggers and global random states are put
            back; what else it changes stays: lists that a validation_step fills, generators.
        frozen_num_workers: At least so many worker processes load the data of the frozen pass. 0: this
            process does, for data sets that do not survive a fork (thread pools, locks, connections).
        penalty: Lambda of W and b in the objective (docs/imbalance.md), for mse/*; a mapping gives
            "weight" and "bias" their own. None: not known, and never inferred. Own functions get both.
        feature_penalty: That of the features, for tags/scale_2_predicted; both: nrc3/limit_distance.
        class_counts: Rows of each class in training, for imbalance/*. None: of the measured epoch.
        shots: Classes with fewer rows in training are few-shot, with more than the second many-shot.
        threshold: Of the sigmoid of a tag's score. None: as many tags as a row has, by their scores.
        every_n_epochs: How often the other stages are measured; the first epoch always, and the last
            one where it is known beforehand (``max_epochs``).
        every_n_steps: Measure training in windows of so many optimizer steps in the place of epochs,
            for runs of few, long epochs. A window may span epochs; the first one ends with the first
            epoch at the latest, so that there is a value to monitor. None: no windows.
        forwards: Which forward of a step counts when there are several; "concat": together they are
            those of the batch, in chunks.
        covariance: Of the within-class scatter: pooled, per class (num_classes times the memory), none
            (traces only), or "auto": pooled up to 1 GiB of it for each stage and module, none beyond.
            A dict gives layers, by path or glob, their own, and "" the classifier's features; a later
            line counts, and what it does not name is "auto".
        measures: A list of keys, globs, families ("layer": all of ``layer/*``), "default", or
            functions by dotted path, which are logged under ``custom/``; their parameters are named
            like ``parts`` of the evidence, such as :class:`lightning_nc.functional.ClassEvidence`.
        ignore_index: Label of rows to leave out, or None.
        max_rows_per_batch: At most this many rows of a batch enter, a uniform random subset; for
            token-level features.
        figures_every_n_epochs: How often pictures go to the loggers, and in the last epoch where it is
            known. 0: never. None: every 10 epochs, where they take no more than a tenth of the time.
        class_names: Names of the classes, for the pictures.
        prog_bar: Show one value each for NC1 to NC4 (or the task's own) in the progress bar.
        prefix: Put before every key as it is, so let it end in "/"; equal keys are refused.
        stage_names: Names of the validation loaders, such as ["train", "val"].
        seed: Of the sample, of random subsets and of the frozen pass; no global one is ever touched.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> callback = NeuralCollapseCallback(frozen_every_n_epochs=10)
        >>> list(callback.history)
        []
    """

    def __init__(
        self,
        classifier: str | bool | None = None,
        features: str | None = None,
        layers: list[str] | dict[str, str | list[str]] = [],  # noqa: B006 - never changed; jsonargparse shows it
        pool: str = "auto",
        target: Given = None,
        mask: Given = None,
        target_shift: int = 0,
        predicted: str | Callable[[Any, Any], Any] | None = None,
        task: str = "multiclass",
        num_classes: int | None = None,
        min_count: int = 1,
        online: bool = True,
        frozen_every_n_epochs: int = 0,
        inference: str | Callable[[Any, Any], Any] | None = None,
        frozen_num_workers: int = 1,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        forwards: Forwards = "last",
        covariance: CovarianceSetting | dict[str, CovarianceSetting] = "auto",
        measures: list[str] = ["default"],  # noqa: B006
        ignore_index: int | None = -100,
        max_rows_per_batch: int | None = None,
        penalty: float | dict[str, float] | None = None,
        feature_penalty: float | None = None,
        class_counts: list[int] | None = None,
        shots: list[int] = [20, 100],  # noqa: B006
        threshold: float | None = None,
        figures_every_n_epochs: int | None = None,
        class_names: list[str] | None = None,
        prog_bar: bool = False,
        prefix: str = "",
        stage_names: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self._plan = plan_of(given)
        self._running: Session | None = None
        self._found: Choice | None = None
        self._census = Census()
        self._phase = "fit"
        self._state_key = self._generate_state_key(
            prefix=prefix, classifier=classifier, layers=layers, measures=measures
        )

    @property
    def history(self) -> History:
        """The logged values of the run."""
        return self._plan.reporter.history

    @property
    def statistics(self) -> dict[str, ClassStatistics]:
        """The latest statistics, by stage ("val") or stage and layer ("val/backbone")."""
        return self._plan.reporter.statistics

    @property
    def state_key(self) -> str:
        """Tells two instances in one checkpoint apart."""
        return self._state_key  # Lightning asks for it before each of its calls

    def state_dict(self) -> dict[str, Any]:
        """The history, when what was measured last, the classifier, and the classes of training."""
        found = self._choice
        return {
            "history": self.history.state_dict(),
            "schedule": self._plan.schedule.state_dict(),
            "classifier": {} if found is None else found.state_dict(),
            "training": self._census.state_dict(),
        }

    def load_state_dict(self, state_dict: Any) -> None:
        """Go on with the history of a checkpoint; one that is only tested leaves the run's own."""
        with left_aside(self._plan.voice.say):
            state = entries(state_dict, self.state_dict().keys(), self._plan.voice.say)
            history = History.from_state_dict(state.get("history", {}), self.history.prefix)
            found = Choice.from_state_dict(state.get("classifier", {}))
            census = Census.from_state_dict(state.get("training", {}))
            if self._phase == "fit":
                self._plan.schedule.load_state_dict(state.get("schedule", {}))
                self._plan.reporter.history = history
            self._found, self._census = found or self._found, census or self._census

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse settings that cannot work, before anything runs."""
        self._phase = stage
        if stage == "fit":
            self._found, self._census = None, Census()
            if getattr(trainer, "ckpt_path", None):
                # the checkpoint's comes next, if it has one
                self._plan.reporter.history = History(prefix=self.history.prefix)
        ours = (each for each in trainer.callbacks if isinstance(each, NeuralCollapseCallback))
        for other in ours:
            if other is not self:
                refuse_shared_keys(self._plan.reporter, other._plan.reporter)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the hooks: before the sanity check, and after the tuner has run."""
        self._detach()
        self._plan.voice.forget()
        self.statistics.clear()
        if self._plan.frozen_every:
            refuse_frozen_pass(trainer.strategy)
        if self._plan.online:
            refuse_hidden_batches(pl_module)
        self._attach(trainer, pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Remove the hooks."""
        self._detach()
        self._plan.schedule.forget()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Remove the hooks: teardown is not called after an exception."""
        self._detach()
        self._plan.schedule.forget()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the frozen pass on one batch, before the first optimizer step."""
        self._session.start_training(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the epoch's statistics; a window of steps goes on."""
        if not self._plan.schedule.has_windows:
            self._session.start_epoch(trainer)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Open the batch."""
        self._session.open_training_batch(trainer, batch)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """Note what the loss is made of, as long as the classifier has still to be found."""
        self._session.before_backward(trainer, loss)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Find the classifier: before the first optimizer step."""
        self._session.after_backward(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Before the first step, check what came by."""
        self._session.before_step(pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Close the batch."""
        self._session.close_training_batch(trainer, pl_module, outputs)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the epoch's measures, and run the frozen pass where it is due."""
        self._session.end_training_epoch(trainer, pl_module)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the hooks where there was no fit to do it."""
        self._attach(trainer, pl_module)
        self._session.start_loop(trainer)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the statistics of each loader."""
        self._session.start_loaders(trainer)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Open the batch."""
        self._session.open_batch(trainer, batch, dataloader_idx)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Close the batch."""
        self._session.close_batch(trainer, outputs, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the measures of each loader."""
        self._session.end_loaders(trainer, pl_module)

    on_test_start = on_validation_start
    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    @property
    def _choice(self) -> Choice | None:
        """That of this run, or of an earlier one."""
        return self._found if self._running is None else self._running.choice or self._found

    @property
    def _session(self) -> Session:
        assert self._running is not None
        return self._running

    def _attach(self, trainer: Any, pl_module: Any) -> None:
        if self._running is not None:
            return
        doubtful = doubt(trainer.strategy)
        if doubtful and trainer.is_global_zero:
            self._plan.voice.say("strategy", doubtful)
        self._running = Session(self._plan, pl_module, self._found, self._census)

    def _detach(self) -> None:
        self._found = self._choice
        if self._running is not None:
            self._running.detach()
        self._running = None
