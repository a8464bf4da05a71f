"""`NeuralCollapse`, a torchmetrics metric: one accumulator of one stage of one module."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torchmetrics import Metric

from lightning_nc.functional.evaluate import values_of
from lightning_nc.stream.class_accumulator import ClassAccumulator
from lightning_nc.stream.kept_classifier import KeptClassifier
from lightning_nc.stream.sync import Ranks
from lightning_nc.tasks import Multiclass, Settings
from lightning_nc.tasks.merging import Modules, evidence_of
from lightning_nc.tasks.notices import rows_left_out
from lightning_nc.tasks.task import Around
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.covariance import CovarianceSetting
from lightning_nc.values.errors import NeuralCollapseWarning
from lightning_nc.values.evidence import ClassEvidence
from lightning_nc.values.recorded import HEAD
from lightning_nc.values.sample import FeatureSample
from lightning_nc.values.statistics import ClassStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class NeuralCollapse(Metric):
    r"""NC1 to NC4 of the features of a classifier, accumulated in one exact pass.

    The state is the size of the class means plus d x d, whatever the number of samples; the scatter is
    centered from the first row on, so that it stays exact when the classes have collapsed to 1e-7 of
    their means. No update waits for the device. Ranks are merged exactly in packed all-reduces.

    Args:
        num_classes: C, at least 1.
        num_features: d, the width of the features.
        covariance: What is kept of the within-class scatter: "pooled", "per_class" (C d^2 memory),
            "none" (traces only: keys that need a covariance are left out), or "auto": "pooled" while
            its 8 d^2 bytes are at most 1 GiB, "none" beyond.
        ignore_index: Label of rows to leave out, or None.
        sample_rows: Rows kept for NC4 and the pictures, a uniform sample; at most what 64 MiB hold.
        measures: Keys, globs, "default", or functions by dotted path.
        seed: For the sample; the global random state is never touched.
        **kwargs: See :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of its range, or scatters asked for do not fit into memory.

    Example:
        >>> import torch
        >>> from lightning_nc import LinearClassifier, NeuralCollapse
        >>> head = torch.nn.Linear(4, 3)
        >>> metric = NeuralCollapse(num_classes=3, num_features=4)
        >>> for _ in range(5):
        ...     target = torch.randint(3, (32,))
        ...     features = torch.randn(32, 4) + 5 * torch.eye(3, 4)[target]
        ...     logits = head(features)
        ...     metric.update(features, target, logits, LinearClassifier(head.weight, head.bias))
        >>> values = metric.compute()
        >>> values["nc0/num_samples"]
        tensor(160., dtype=torch.float64)
        >>> "nc1/within_between_pinv" in values and "nc4/ncc_mismatch" in values
        True
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        covariance: CovarianceSetting = "auto",
        ignore_index: int | None = -100,
        sample_rows: int = 8192,
        measures: Sequence[str] = ("default",),
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("num_classes", num_classes), ("num_features", num_features)):
            if value < 1:
                raise ValueError(f"Expected {name} to be at least 1, but got {value}.")
        self.task = Multiclass(
            Settings(num_classes, covariance, ignore_index, tuple(measures), sample_rows, seed)
        )
        self.measures = self.task.measures
        self.covariance, self.ignore_index = covariance, ignore_index
        self.num_classes, self.num_features = sizes = num_classes, num_features
        self._accumulator: ClassAccumulator = self.task.accumulator(sizes, self.device)
        self._classifier: LinearClassifier | None = None
        self._merged: ClassEvidence | None = None
        self._said = set[str]()
        for name in ("unshared", *self._accumulator.states()):
            self.add_state(name, torch.zeros(0))
            delattr(self, name)  # found in the accumulator, see __getattr__
        # NaN is equal to nothing: a MetricCollection must not let two metrics share their states;
        # in front, because older torchmetrics compare the first state only
        self.unshared = torch.tensor(torch.nan)

    def __getattr__(self, name: str) -> Any:
        # `_defaults` are the names that torchmetrics knows the accumulator's states by
        if name in self.__dict__.get("_defaults", ()):
            return self._accumulator.states()[name]
        return super().__getattr__(name)

    __hash__ = torch.nn.Module.__hash__  # states are made when they are read, and would differ

    def update(
        self,
        features: Float[Tensor, "*rows d"],
        target: Shaped[Tensor, "..."],
        logits: Float[Tensor, "..."] | None = None,
        classifier: LinearClassifier | None = None,
        *,
        predicted: Int[Tensor, "..."] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            features: The classifier's input, one row per label; more leading dimensions than one
                (tokens) are rows too.
            target: Integer labels. Rows whose label is ``ignore_index``, lies outside [0, C), or
                whose feature is not finite are left out; the latter two are counted and reported.
            logits: The classifier's output on the rows; one column is a binary head.
            classifier: Kept by reference, read at ``compute``.
            predicted: The network's decisions, in the place of ``logits``; -1 where unknown.

        Raises:
            ValueError: If shapes, lengths or dtypes do not fit.
        """
        h, y = self._accumulator.check(features, target)
        if classifier is not None and classifier is not self._classifier:
            self._check_classifier(classifier)
            self._classifier = classifier
        if predicted is None and logits is not None:
            predicted = self.task.decide(logits)
        if predicted is not None and predicted.numel() != y.shape[0]:
            raise ValueError(
                f"Expected one decision per label, but got logits for {predicted.numel()} rows and "
                f"{len(y)} labels. Do logits, features and labels come from the same forward?"
            )
        known = None if predicted is None else predicted.reshape(-1).long()
        self._accumulator.add(h, y, known)

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """The measures, over all ranks.

        Returns:
            Scalars by key; what has no meaning on these data is left out, with one warning.

        Raises:
            RuntimeError: If no sample was seen.
        """
        evidence = self._merged or self.evidence()
        _require_rows(evidence)
        outcomes = self.task.evaluate(evidence)
        for kind, text in self.task.notices(evidence, outcomes).items():
            if kind not in self._said:
                self._said.add(kind)
                warnings.warn(text, NeuralCollapseWarning, stacklevel=3)
        return values_of(outcomes)

    def statistics(self) -> ClassStatistics:
        """Counts, means and scatters of this rank, or of all ranks within ``sync_context``."""
        return self._merged.all_classes if self._merged else self._accumulator.statistics()

    def sample(self) -> FeatureSample:
        """The sampled rows of this rank that count."""
        return self._accumulator.sample_value().valid()

    def evidence(self) -> ClassEvidence:
        """All that the measures are computed from; later updates do not change it."""
        return self._merged or self._evidence(None)

    def plot(
        self, val: Any = None, ax: "Axes | None" = None, picture: str = "cosines"
    ) -> "tuple[Figure, Axes | Sequence[Axes]]":
        """Draw what was accumulated; in a notebook, the picture is shown at the end of the cell.

        Args:
            val: Not used; the pictures need more than the values.
            ax: Draw into these, where a picture has a single axes ("cosines": the class means alone).
            picture: One of a stage in :data:`lightning_nc.figures.PICTURES`, such as "spectra".

        Returns:
            The figure and its axes.

        Raises:
            RuntimeError: If no sample was seen.
            ValueError: If there is no such picture.
        """
        from lightning_nc import figures

        with self.sync_context():
            evidence = self.evidence()
        _require_rows(evidence)
        drawn = figures.draw(picture, evidence, ax=ax)
        return figures.shown(drawn) if ax is None else drawn  # given axes are shown by who made them

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Add a batch and return the measures of that batch alone; none if no row of it counts."""
        self.update(*args, **kwargs)
        s = self.task.settings
        alone = NeuralCollapse(
            self.num_classes, self.num_features, s.covariance, s.ignore_index, s.sample_rows,
            s.measures, s.seed,
            process_group=self.process_group, sync_on_compute=self.dist_sync_on_step,
        ).to(self.device)  # fmt: skip
        alone._said = self._said
        alone.update(*args, **kwargs)
        with alone.sync_context(should_sync=self.dist_sync_on_step):
            some = int(alone.statistics().num_samples) > 0
        values = alone.compute() if some else {}
        self._forward_cache = values  # type: ignore[assignment]
        return values

    @contextmanager
    def sync_context(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """State of all ranks inside, this rank's own after it, whatever happens in between."""
        should_unsync = kwargs.pop("should_unsync", True)
        self.sync(*args, **kwargs)
        try:
            yield
        finally:
            self.unsync(should_unsync=self._is_synced and should_unsync)

    def unsync(self, should_unsync: bool = True) -> None:
        """Return from the state of all ranks to this rank's own."""
        super().unsync(should_unsync)
        if should_unsync:
            self._merged = None

    def merge_state(self, incoming_state: "dict[str, Any] | Metric") -> None:
        """Add what another metric has accumulated, for instance over another shard of the data.

        Args:
            incoming_state: Another `NeuralCollapse` of the same settings.

        Raises:
            ValueError: If it is anything else.
        """
        if not isinstance(incoming_state, NeuralCollapse):
            raise ValueError(
                "Expected a NeuralCollapse to merge, but got "
                f"{type(incoming_state).__name__}. Pass the other metric itself, not its state."
            )
        self._accumulator.merge(incoming_state._accumulator)
        self._classifier = self._classifier or incoming_state._classifier
        self._computed = None
        self._update_count += incoming_state._update_count

    def reset(self) -> None:
        """Forget all batches."""
        self._update_count = 0
        self._computed = self._forward_cache = self._cache = self._merged = None
        self._is_synced = False
        self._classifier = None
        self._accumulator.reset()

    def _move_list_states_to_cpu(self) -> None:
        """No state is a list, and to look for one would bring all of them up to date."""

    def set_dtype(self, dst_type: str | torch.dtype) -> "NeuralCollapse":
        """Ignored: means and sums stay in float64, counts in int64."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        """Follow moves between devices and ignore casts, ``.to(torch.bfloat16)`` included."""
        device = fn(torch.zeros(0, device=self.device)).device
        if device != self.device:
            self._accumulator.move(device)
            self.unshared, self._device = torch.tensor(torch.nan, device=device), device
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # older versions wrote states that nothing was kept in, too
        older = {"unshared", "scatter", "scatter_float32", "class_scatter"}
        names = self._accumulator.states().keys()
        given = {n: state_dict.pop(prefix + n) for n in names | older if prefix + n in state_dict}
        if "counts" in given:
            self._accumulator.load(given)
            self._update_count = max(self._update_count, self._accumulator.sample.seen > 0)
        torch.nn.Module._load_from_state_dict(self, state_dict, prefix, *args)

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        self._merged = self._evidence(Ranks(self.device, process_group or self.process_group))

    def _copy_state_dict(self) -> dict[str, Any]:
        # syncing leaves the states as they are, so there is nothing to restore
        return {}

    def _evidence(self, ranks: Ranks | None) -> ClassEvidence:
        kept = KeptClassifier.of(self._classifier)
        modules = Modules({HEAD: self._accumulator}, kept, {HEAD: self.task})
        return evidence_of(modules, ranks, Around(joins=False))[HEAD]  # type: ignore[return-value]

    def _check_classifier(self, classifier: LinearClassifier) -> None:
        expected = (self.num_classes, self.num_features)
        if tuple(classifier.weight.shape) != expected:
            raise ValueError(
                f"Expected a classifier of shape {expected}, but got {tuple(classifier.weight.shape)}. "
                "Are the features its input, and num_classes the number of its rows?"
            )


def _require_rows(evidence: ClassEvidence) -> None:
    if evidence.num_samples == 0 and evidence.tallies is not None:
        raise RuntimeError(
            "Expected at least one sample before compute(), but got none"
            f"{rows_left_out(evidence.lost)}. Was update() called since the last reset()?"
        )
