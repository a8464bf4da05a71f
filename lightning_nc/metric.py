"""`NeuralCollapse`, a torchmetrics metric: streaming state of one stage of one module."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torchmetrics import Metric

from lightning_nc.functional.table import Evidence, evaluate, select
from lightning_nc.stream.backlog import UNKNOWN, Backlog, Rows
from lightning_nc.stream.moments import Moments, Scratch, add_rows_
from lightning_nc.stream.products import fold_, symmetric
from lightning_nc.stream.reservoir import Reservoir
from lightning_nc.stream.sync import count_own_decisions, merge_ranks
from lightning_nc.tasks.notices import NeuralCollapseWarning, notices, rows_left_out
from lightning_nc.values.statistics import (
    Accumulated,
    ClassStatistics,
    FeatureSample,
    LinearClassifier,
    Tallies,
    accumulator_dtype,
    check_covariance,
    decide,
    to_device,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SAMPLE_BYTES = 64 * 2**20
# float32 products of this many rows keep the error of their sum below 1e-6, over any number of batches
_ROWS_PER_FOLD = 4096
# products of features so narrow cost nothing in float64, and float32 sums over their rows are coarse
_NARROW = 64


class NeuralCollapse(Metric):
    r"""NC1 to NC4 of the features of a classifier, accumulated in one exact pass.

    The state is the size of the class means plus d x d, whatever the number of samples; the scatter is
    centered from the first row on, so that it stays exact when the classes have collapsed to 1e-7 of
    their means. No update waits for the device. Ranks are merged exactly in two packed all-reduces.

    Args:
        num_classes: C, at least 1.
        num_features: d, the width of the features.
        covariance: What is kept of the within-class scatter: "pooled", "per_class" (C d^2 memory) or
            "none" (traces only, for very wide layers: the keys that need a covariance are left out).
        ignore_index: Label of rows to leave out, or None.
        sample_rows: Rows kept for NC4 and the pictures, a uniform sample; at most what 64 MiB hold.
        measures: Keys, globs, "default", or functions by dotted path.
        seed: For the sample; the global random state is never touched.
        **kwargs: See :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of its range, or "per_class" does not fit into memory.

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

    counts: Tensor
    means: Tensor
    scatter: Tensor
    scatter_float32: Tensor
    sums_of_squares: Tensor
    class_scatter: Tensor
    tallies: Tensor
    sample_features: Tensor
    sample_target: Tensor
    sample_predicted: Tensor
    rows_seen: Tensor
    unshared: Tensor

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        covariance: str = "pooled",
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
        check_covariance(covariance)
        self.num_classes = num_classes
        self.num_features = num_features
        self.covariance = covariance
        self.ignore_index = ignore_index
        self.measures = select(measures)
        capacity = max(1, min(sample_rows, _SAMPLE_BYTES // (4 * num_features)))
        self._reservoir = Reservoir(capacity, seed)
        self._classifier: LinearClassifier | None = None
        self._knows_predictions = False
        self._labels_are_whole = False
        self._unfolded_rows = 0
        self._merged: Accumulated | None = None
        self._scratch = Scratch()
        self._backlog = Backlog(num_features)
        self._said: set[str] = set()
        self._settings: dict[str, Any] = {
            "num_classes": num_classes,
            "num_features": num_features,
            "covariance": covariance,
            "ignore_index": ignore_index,
            "sample_rows": sample_rows,
            "measures": list(measures),
            "seed": seed,
        }
        with torch.inference_mode(False):
            for name, state in self._blank_states(self.device).items():
                # torchmetrics would keep a second copy of each state as its default: `reset` zeroes
                self.add_state(name, state.new_zeros(0))
                setattr(self, name, state)

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
        h, y = self.check(features, target)
        if classifier is not None and classifier is not self._classifier:
            self._check_classifier(classifier)
            self._classifier = classifier
        if predicted is None and logits is not None:
            predicted = decide(logits)
        if predicted is None:
            predicted = torch.full_like(y, UNKNOWN, dtype=torch.int64)
        elif predicted.numel() != y.shape[0]:
            raise ValueError(
                f"Expected one decision per label, but got logits for {predicted.numel()} rows and "
                f"{len(y)} labels. Do logits, features and labels come from the same forward?"
            )
        elif not self._knows_predictions:
            self._knows_predictions = True
        if y.shape[0] == 0:
            return
        self._leave_inference_mode()
        rows = Rows(h.detach(), y, predicted.detach().reshape(-1).long())
        if self._backlog.add(rows):
            return
        with self._own_mode():
            self._catch_up()
            if not self._backlog.add(rows):
                self._add(rows)

    def check(
        self, features: Float[Tensor, "*rows d"], target: Shaped[Tensor, "..."]
    ) -> tuple[Float[Tensor, "B d"], Shaped[Tensor, " B"]]:
        """Features and labels as rows, after a check that they fit; nothing is added.

        Args:
            features: As in :meth:`update`.
            target: As in :meth:`update`.

        Returns:
            The same, with one leading dimension.

        Raises:
            ValueError: If shapes, lengths or dtypes do not fit.
        """
        if features.ndim < 2 or features.shape[-1] != self.num_features:
            raise ValueError(
                f"Expected features of shape (B, {self.num_features}), but got "
                f"{tuple(features.shape)}. Are they the classifier's input?"
            )
        if features.device != self.counts.device:
            raise ValueError(
                f"Expected features on {self.counts.device}, where the metric is, but got them on "
                f"{features.device}. Move the metric with .to(features.device)."
            )
        h = features.reshape(-1, self.num_features)
        if target.numel() != h.shape[0]:
            likely = (
                "These look like one-hot or soft labels (mixup?): pass hard labels, in the callback "
                "by a `target` function."
                if target.ndim == 2 and len(target) == len(h)
                else "Do they come from the same forward, or does the batch hold several views?"
            )
            raise ValueError(
                f"Expected one label per feature, but got {len(h)} features and labels of shape "
                f"{tuple(target.shape)}. {likely}"
            )
        y = target.detach().reshape(-1).to(h.device)
        if self._labels_are_whole:
            return h, y
        if y.is_floating_point() and not _whole(y):
            raise ValueError(
                "Expected integer class labels, but got floats that are not whole numbers, such as "
                f"{_first_fraction(y)}. Are these soft labels (mixup?) or regression targets? Pass "
                "hard labels, in the callback by a `target` function."
            )
        self._labels_are_whole = True
        return h, y

    def work_in(self, scratch: Scratch) -> None:
        """Keep intermediate results there, where other metrics keep theirs when it is their turn.

        Args:
            scratch: Memory that no other thread uses.
        """
        self._scratch = scratch

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """The measures, over all ranks.

        Returns:
            Scalars by key; what has no meaning on these data is left out, with one warning.

        Raises:
            RuntimeError: If no sample was seen.
        """
        accumulated = self._all_ranks()
        _require_rows(accumulated)
        evidence = Evidence.of(accumulated.statistics, accumulated.classifier, accumulated.decisions)
        values, reasons = evaluate(self.measures, evidence)
        for kind, text in notices(accumulated, reasons).items():
            if kind not in self._said:
                self._said.add(kind)
                warnings.warn(text, NeuralCollapseWarning, stacklevel=3)
        return values

    def statistics(self) -> ClassStatistics:
        """Counts, means and scatters of this rank, or of all ranks within ``sync_context``."""
        return (self._merged or self.accumulated(lend_sample=True)).statistics

    def sample(self) -> FeatureSample:
        """The sampled rows of this rank that count."""
        return self.accumulated().sample.valid()

    def accumulated(self, lend_sample: bool = False) -> Accumulated:
        """All that this rank has accumulated, as values that later updates do not change.

        Args:
            lend_sample: Do not copy the sample, up to 64 MiB: it is good until the next update, merge
                or reset.

        Returns:
            The values.
        """
        self._settle()
        size = self._reservoir.size
        sample = FeatureSample(
            features=self.sample_features[:size],
            target=self.sample_target[:size],
            predicted=self.sample_predicted[:size] if self._knows_predictions else None,
            seen=self._reservoir.seen,
        )
        kept = self.covariance != "none"
        return Accumulated(
            statistics=ClassStatistics(
                counts=self.counts.clone(),
                means=self.means.clone(),
                scatter=symmetric(self.scatter) if kept else None,
                sums_of_squares=self.sums_of_squares.clone(),
                class_scatter=self.class_scatter.clone() if self.class_scatter.numel() else None,
            ),
            sample=sample if lend_sample else sample.copy(),
            tallies=Tallies(*self.tallies.clone()),
            classifier=self._classifier and self._classifier.snapshot(),
        )

    def plot(
        self, val: Any = None, ax: "Axes | None" = None, picture: str = "cosines"
    ) -> "tuple[Figure, Axes | Sequence[Axes]]":
        """Draw what was accumulated.

        Args:
            val: Not used; the pictures need more than the values.
            ax: Draw into these axes ("cosines": the class means' alone; not for "classes").
            picture: "cosines" (of class means and classifier rows, beside the simplex ETF's), "spectra"
                or "classes", as in :mod:`lightning_nc.figures`.

        Returns:
            The figure and its axes.

        Raises:
            RuntimeError: If no sample was seen.
            ValueError: If there is no such picture.
        """
        from lightning_nc import figures

        with self.sync_context():
            accumulated = self._all_ranks()
        _require_rows(accumulated)
        evidence = Evidence.of(accumulated.statistics, accumulated.classifier)
        if picture == "cosines":
            return figures.cosine_matrices(evidence.means_frame, evidence.weights_frame, ax=ax)
        if picture == "spectra":
            return figures.spectra(evidence.statistics, ax=ax)
        if picture == "classes" and ax is None:
            return figures.class_profile(evidence.statistics, evidence.classifier)
        raise ValueError(
            "Expected picture to be 'cosines', 'spectra' or, without ax, 'classes', but got "
            f"{picture!r}."
        )

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Add a batch and return the measures of that batch alone; none if no row of it counts."""
        self.update(*args, **kwargs)
        alone = NeuralCollapse(
            **self._settings, process_group=self.process_group, sync_on_compute=self.dist_sync_on_step
        ).to(self.device)
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
        mine, other = (each.accumulated(lend_sample=True) for each in (self, incoming_state))
        joined = mine.statistics.merge(other.statistics.to(self.device))
        with self._own_mode():
            self.counts.copy_(joined.counts)
            self.means.copy_(joined.means)
            self.sums_of_squares.copy_(joined.sums_of_squares)
            for name in ("scatter", "class_scatter"):
                merged = getattr(joined, name)
                if merged is not None:
                    getattr(self, name).copy_(merged)
            self.tallies += incoming_state.tallies.to(self.device)
            self._merge_samples(incoming_state)
        self._classifier = self._classifier or incoming_state._classifier
        self._computed = None
        self._update_count += incoming_state._update_count

    def reset(self) -> None:
        """Forget all batches."""
        self._update_count = 0
        self._computed = self._forward_cache = self._cache = self._merged = None
        self._is_synced = False
        self._classifier = None
        self._knows_predictions = False
        self._unfolded_rows = 0
        self._backlog.clear()
        self._reservoir.reset()
        with self._own_mode():
            for name in self._defaults:
                if name != "unshared":
                    getattr(self, name).zero_()

    def state_dict(  # type: ignore[override]  # as in torchmetrics
        self, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """The states that were made persistent; none by default."""
        self._settle()
        self.rows_seen = torch.full_like(self.rows_seen, self._reservoir.seen)
        return super().state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        for name in self._defaults:  # updates happen in place: not in the checkpoint's own tensors
            setattr(self, name, getattr(self, name).clone())
        self._backlog.clear()
        self._reservoir.seen = int(self.rows_seen)
        self._knows_predictions = bool((self.sample_predicted >= 0).any())
        self._update_count = max(self._update_count, self._reservoir.seen > 0)

    def set_dtype(self, dst_type: str | torch.dtype) -> "NeuralCollapse":
        """Ignored: means and sums stay in float64, counts in int64."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        """Follow moves between devices and ignore casts, ``.to(torch.bfloat16)`` included."""
        device = fn(torch.zeros(0, device=self.device)).device
        if device != self.device:
            self._settle()
            dtype = accumulator_dtype(device)
            for name in self._defaults:
                state = getattr(self, name)
                kept = dtype if state.dtype == torch.float64 else state.dtype
                setattr(self, name, state.to(device=device, dtype=kept))
            self._device = device
        return self

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        group = process_group or self.process_group
        own = self.accumulated(lend_sample=True)
        [self._merged] = merge_ranks([own], self.covariance, group, self.device)

    def _copy_state_dict(self) -> dict[str, Any]:
        # syncing leaves the states as they are, so there is nothing to restore
        return {}

    def unsync(self, should_unsync: bool = True) -> None:
        """Return from the state of all ranks to this rank's own."""
        super().unsync(should_unsync)
        if should_unsync:
            self._merged = None

    def _all_ranks(self) -> Accumulated:
        return self._merged or count_own_decisions(self.accumulated(lend_sample=True))

    def _blank_states(self, device: torch.device) -> dict[str, Tensor]:
        classes, width = self.num_classes, self.num_features
        per_class = classes if self.covariance == "per_class" else 0
        square = 0 if self.covariance == "none" else width
        dtype = accumulator_dtype(device)
        _require_memory(per_class * width * width * dtype.itemsize, device, classes, width)

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return {
            # NaN is equal to nothing: a MetricCollection must not let two metrics share their states;
            # in front, because older torchmetrics compare the first state only
            "unshared": zeros() * torch.nan,
            "counts": zeros(classes, dtype=torch.int64),
            "means": zeros(classes, width),
            "scatter": zeros(square, square),
            "scatter_float32": zeros(square, square, dtype=torch.float32),
            "sums_of_squares": zeros(classes),
            "class_scatter": zeros(per_class, width, width),
            "tallies": zeros(len(Tallies._fields), dtype=torch.int64),
            "sample_features": zeros(0, width, dtype=torch.float32),
            "sample_target": zeros(0, dtype=torch.int64),
            "sample_predicted": zeros(0, dtype=torch.int64),
            "rows_seen": zeros(dtype=torch.int64),
        }

    def _check_classifier(self, classifier: LinearClassifier) -> None:
        expected = (self.num_classes, self.num_features)
        if tuple(classifier.weight.shape) != expected:
            raise ValueError(
                f"Expected a classifier of shape {expected}, but got "
                f"{tuple(classifier.weight.shape)}. Are the features its input, and num_classes the "
                "number of its rows?"
            )

    @contextmanager
    def _own_mode(self) -> Iterator[None]:
        """Neither gradients, nor autocast, nor inference mode, in which states could not be changed."""
        autocast = torch.autocast(device_type=self.counts.device.type, enabled=False)
        self._leave_inference_mode()
        with torch.inference_mode(False), torch.no_grad(), autocast:
            yield

    def _settle(self) -> None:
        """Bring the states up to date."""
        with self._own_mode():
            self._catch_up()
            self._fold()

    def _catch_up(self) -> None:
        if len(self._backlog):
            self._add(self._backlog.take())

    def _add(self, rows: Rows) -> None:
        h, predicted = rows.features, rows.predicted
        label, valid, left_out = self._select_rows(h, rows.target)
        moments = Moments(
            counts=self.counts,
            means=self.means,
            sums_of_squares=self.sums_of_squares,
            scatter=self._product_target(h.dtype),
            class_scatter=self.class_scatter if self.class_scatter.numel() else None,
        )
        add_rows_(moments, h, label, valid, self._scratch, rows_before=self._reservoir.seen)
        self._unfolded_rows += len(h)
        if self._unfolded_rows >= _ROWS_PER_FOLD:
            self._fold()
        known, correct = valid & (predicted >= 0), valid & (predicted == label)
        self.tallies += torch.stack([known, correct, *left_out]).sum(1)
        self._add_to_sample(h, torch.where(valid, label, -1), predicted)

    def _leave_inference_mode(self) -> None:
        """States that were copied in inference mode can only be changed there: copy them once more."""
        if not self.means.is_inference():
            return
        with torch.inference_mode(False), torch.no_grad():
            self._scratch = Scratch()
            self._backlog.leave_inference_mode()
            for name in self._defaults:
                setattr(self, name, getattr(self, name).clone())

    def _product_target(self, dtype: torch.dtype) -> Tensor | None:
        if self.covariance == "none":
            return None
        in_float64 = dtype == self.means.dtype or self.num_features <= _NARROW
        return self.scatter if in_float64 else self.scatter_float32

    def _select_rows(
        self, h: Float[Tensor, "B d"], y: Shaped[Tensor, " B"]
    ) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"], tuple[Bool[Tensor, " B"], ...]]:
        """Labels, 0 where a row is left out; which rows count; and why others do not, by tally."""
        label = y.long()
        whole = label == y
        in_range = (label >= 0) & (label < self.num_classes)
        finite = (h.amax(1) < torch.inf) & (h.amin(1) > -torch.inf)  # False for NaN
        wanted = torch.ones_like(whole) if self.ignore_index is None else label != self.ignore_index
        valid = wanted & whole & in_range & finite
        left_out = (wanted & ~finite, wanted & whole & ~in_range, wanted & ~whole)
        return torch.where(valid, label, 0), valid, left_out

    def _add_to_sample(
        self, h: Float[Tensor, "B d"], label: Int[Tensor, " B"], predicted: Int[Tensor, " B"]
    ) -> None:
        used = self._reservoir.size
        placement = self._reservoir.place(len(h))
        self._grow_sample(self._reservoir.size, h.dtype)
        rows = slots = None
        if len(placement.rows):
            rows, slots = (
                to_device(placement.rows, h.device),
                to_device(placement.slots, h.device),
            )
        for state, new in (
            (self.sample_features, h.to(self.sample_features.dtype)),
            (self.sample_target, label),
            (self.sample_predicted, predicted),
        ):
            state[used : used + placement.fill] = new[: placement.fill]
            if rows is not None and slots is not None:
                state.index_copy_(0, slots, new.index_select(0, rows))

    def _grow_sample(self, size: int, dtype: torch.dtype) -> None:
        """Make room for more rows, and for features of more digits than those so far."""
        capacity = len(self.sample_target)
        if size > capacity:
            capacity = min(self._reservoir.capacity, max(size, 2 * capacity))
        for name in ("sample_features", "sample_target", "sample_predicted"):
            old = getattr(self, name)
            kept = torch.promote_types(old.dtype, dtype) if name == "sample_features" else old.dtype
            if len(old) < capacity or old.dtype != kept:
                grown = old.new_zeros(capacity, *old.shape[1:], dtype=kept)
                grown[: len(old)] = old
                setattr(self, name, grown)

    def _merge_samples(self, other: "NeuralCollapse") -> None:
        mine, theirs = self._reservoir.size, other._reservoir.size
        kept, taken = self._reservoir.merge(other._reservoir)
        self._grow_sample(len(kept) + len(taken), other.sample_features.dtype)
        for name in ("sample_features", "sample_target", "sample_predicted"):
            state, added = getattr(self, name), getattr(other, name)[:theirs]
            joined = [state[:mine][kept], added[taken].to(state)]
            state[: len(kept) + len(taken)] = torch.cat(joined)
        self._knows_predictions = self._knows_predictions or other._knows_predictions

    def _fold(self) -> None:
        """Move the float32 products into the float64 scatter, before rounding adds up."""
        if self._unfolded_rows and self.covariance != "none":
            fold_(self.scatter, self.scatter_float32)
        self._unfolded_rows = 0


def _require_rows(accumulated: Accumulated) -> None:
    if int(accumulated.statistics.num_samples) == 0:
        raise RuntimeError(
            "Expected at least one sample before compute(), but got none"
            f"{rows_left_out(accumulated.tallies)}. Was update() called since the last reset()?"
        )


def _whole(y: Float[Tensor, " B"]) -> bool:
    return bool((y == y.round()).all())  # sync ok: the first batch of float labels only


def _first_fraction(y: Float[Tensor, " B"]) -> float:
    return float(y[y != y.round()][0])


def _require_memory(needed: int, device: torch.device, classes: int, width: int) -> None:
    free = _free_bytes(device)
    if free is not None and needed > free:
        raise ValueError(
            f"Expected covariance='per_class' to fit into memory, but {classes} matrices of "
            f"{width} x {width} need {needed:,} bytes and {free:,} are free on {device}. "
            "Use covariance='pooled', which all logged keys are computed from."
        )


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
