"""Targets that are numbers: one or several for each row."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_nc.functional.regression import spectrum, surviving_directions
from lightning_nc.stream.accumulator import Encoded
from lightning_nc.stream.backlog import UNKNOWN
from lightning_nc.stream.joint import JointAccumulator, joint_bytes
from lightning_nc.tasks.notices import about_non_finite, about_outcomes, about_rows_of_training, rows
from lightning_nc.tasks.task import Around, Task
from lightning_nc.values.covariance import AUTO_BYTES
from lightning_nc.values.errors import UndefinedMeasure, summarize
from lightning_nc.values.evidence import Evidence
from lightning_nc.values.joint import JointMoments, wrong_head
from lightning_nc.values.outcome import Outcome
from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.regression import RegressionEvidence, RegressionTallies

IGNORED = -1.5 * 2.0**127
"""Stands for all targets of a row that does not count: a number, as NaN is a fault that is told.

So large that no target is it, and the same in every dtype of targets.
"""

_EXACT_BYTES = 2  # of integers that float32 holds
_FEW_LEVELS, _ROWS_PER_LEVEL = 20, 2


@dataclass(frozen=True)
class Regression(Task):
    """Real numbers: for each row as many as the head has rows.

    Example:
        >>> encoded = Regression().encode(torch.tensor([[0.5], [torch.nan], [IGNORED]]))
        >>> encoded.counts.tolist(), encoded.wanted.tolist()
        ([True, False, False], [True, True, False])
    """

    evidence: ClassVar = RegressionEvidence
    label_dims: ClassVar[int] = 1
    names_classes: ClassVar[bool] = False
    predicts_labels: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = (
        "num_classes", "class_names", "predicted", "target_shift", "class_counts", "min_count",
        "threshold", "ignore_index", "shots",
    )  # fmt: skip

    @property
    def ignored(self) -> float:
        """What all targets of a row are that does not count."""
        return IGNORED

    def read(self, found: Any) -> Float[Tensor, "... n"] | None:
        """Targets, the numbers of a row last.

        Args:
            found: A tensor; of one dimension it holds a single number for each row.

        Returns:
            Targets of at least float32; None where these can be none. Integers that float32 would
            round, such as times in seconds, are float64.

        Example:
            >>> Regression().read(torch.tensor([16_777_217, 5]))
            tensor([[1.6777e+07],
                    [5.0000e+00]], dtype=torch.float64)
        """
        if not isinstance(found, Tensor) or not found.ndim or found.is_complex():
            return None
        target = found[:, None] if found.ndim == 1 else found
        if not target.is_floating_point() and target.element_size() > _EXACT_BYTES:
            return target.to(accumulator_dtype(target.device))
        return target.to(torch.promote_types(target.dtype, torch.float32))

    def rows_of(self, target: Shaped[Tensor, "... n"]) -> int:
        """As many as a row has targets."""
        return target.shape[-1]

    def sizes(self, num_features: int, num_rows: int) -> tuple[int, int]:
        """Numbers of targets and features: n and d.

        Args:
            num_features: d.
            num_rows: The rows of the head, one for each target.

        Returns:
            The sizes of an accumulator.

        Raises:
            ValueError: If the settings do not go with these.
        """
        given, covariance = self.settings.num_classes, self.settings.covariance
        if given not in (None, num_rows):
            raise wrong_head(num_rows, given)
        if covariance in ("none", "per_class"):
            raise ValueError(
                "Expected covariance to be 'auto' or 'pooled' with task='regression', but got "
                f"{covariance!r}. NRC1 and NRC2 are read from the covariance of the features; leave "
                "out a layer that is too wide for it."
            )
        needed = joint_bytes(num_rows, num_features)
        if covariance == "auto" and needed > AUTO_BYTES:
            raise ValueError(
                f"Expected centered products that take at most {AUTO_BYTES:,} bytes, but of "
                f"{num_features:,} features and {num_rows:,} targets they take {needed:,}. If memory "
                "allows, set covariance='pooled'; else measure a narrower layer, or pool it to fewer "
                "features."
            )
        return num_rows, num_features

    def accumulator(self, sizes: tuple[int, ...], device: torch.device | str) -> JointAccumulator:
        """A blank accumulator of targets and features."""
        num_targets, num_features = sizes[:2]
        s = self.settings
        return JointAccumulator(
            num_targets, num_features, self, s.covariance, s.sample_rows, s.seed, device
        )

    def complete(self, evidence: Evidence, around: Around | None = None) -> Evidence:
        """With what the user has stated, and what is known of training.

        Args:
            evidence: Of all ranks.
            around: What else is known where the stage ends.

        Returns:
            The evidence.
        """
        assert isinstance(evidence, RegressionEvidence)
        around = around or Around()
        penalties = self.settings.penalties
        return replace(evidence, training=around.training, trains=around.trains, penalties=penalties)

    def encode(self, target: Shaped[Tensor, "B n"]) -> Encoded:
        """Which rows count; left out are those with a NaN or infinite target.

        Args:
            target: Targets of any dtype.

        Returns:
            The rows, all of one class.
        """
        wanted = (target != IGNORED).any(1)
        finite = target.isfinite().all(1)
        counts = wanted & finite
        return Encoded(torch.zeros_like(counts, dtype=torch.int64), counts, wanted, (wanted & ~finite,))

    def decide(self, output: Float[Tensor, "..."]) -> Int[Tensor, " B"]:
        """Nothing: no measure rests on what the network puts out."""
        return torch.full((output.shape[:-1].numel(),), UNKNOWN, device=output.device)

    def notices(self, evidence: Evidence, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
        """Rows that are missing, targets that tell little, and keys that have no value."""
        assert isinstance(evidence, RegressionEvidence)
        texts = {} if evidence.tallies is None else _about_rows(evidence.tallies)
        texts |= _about_targets(evidence.joint) | _about_classes(evidence) | _about_rank(evidence)
        texts |= about_rows_of_training(evidence, self.measures)
        if evidence.zero.dtype == torch.float32:
            texts["float32"] = (
                "This device has no float64: moments are kept in float32, and NRC1 and NRC2 lose "
                "digits near collapse. For exact values there, measure on another device."
            )
        return texts | about_outcomes(outcomes)


def _about_rows(tallies: RegressionTallies) -> dict[str, str]:
    texts = {}
    if tallies.non_finite:
        texts["non_finite"] = about_non_finite(tallies.non_finite)
    if tallies.non_finite_targets:
        texts["non_finite_targets"] = (
            f"{rows(tallies.non_finite_targets)} with a NaN or infinite target left out. Are targets "
            "missing? To leave such rows out without this, say which rows count by `mask`."
        )
    if tallies.zero:
        texts["zero"] = (
            f"{rows(tallies.zero)} with features that are all 0: they have no direction, and NRC1 "
            "and NRC2 rest on the others. Are all units of a ReLU dead there?"
        )
    return texts


def _about_targets(joint: JointMoments) -> dict[str, str]:
    """Of constant targets, and of those that depend on each other."""
    constant = spectrum.constant_targets(joint).nonzero().flatten().tolist()
    if len(constant) == joint.num_targets:
        return {}  # keys that are left out say it
    if constant:
        are = "is" if len(constant) == 1 else "are"
        return {
            "constant": (
                f"{summarize(constant, 'target', 'targets').capitalize()} (from 0) {are} the same in "
                "all rows: W has nothing to learn there, and of nrc3/gamma only 0 is left. Is it a "
                "filler, or are the data cut short (limit_train_batches, limit_val_batches)?"
            )
        }
    if joint.num_targets > 1 and bool(spectrum.target_roots(joint).least == 0):
        return {
            "collinear": (
                "One target is a linear map of the others in these rows: their covariance is singular, "
                "and of nrc3/gamma only 0 is left. Are there fewer rows than targets, is one the sum "
                "of others, or is an offset so large that their differences are rounding? Then center "
                "the targets."
            )
        }
    return {}


def _about_classes(evidence: RegressionEvidence) -> dict[str, str]:
    """Of targets that look like the numbers of classes."""
    joint, tallies = evidence.joint, evidence.tallies
    if joint.num_targets != 1 or tallies is None or not bool(tallies.whole == joint.count):
        return {}
    # as many levels as numbers that are drawn alike have this variance
    levels = float((12 * joint.target_covariance[0, 0] + 1).sqrt())
    few = 1 < round(levels) <= _FEW_LEVELS and int(joint.count) >= _ROWS_PER_LEVEL * levels
    if not few:
        return {}
    return {
        "classes": (
            "All targets are whole numbers, and only a few different ones: are these class indices? "
            "Then set task='multiclass', or 'binary' for two classes. If they are amounts (counts, "
            "ratings), all is well."
        )
    }


def _about_rank(evidence: RegressionEvidence) -> dict[str, str]:
    """Of directions of the targets that W does not hold, so that NRC3 cannot reach 0."""
    n, terms = evidence.joint.num_targets, evidence.limit_terms
    if n == 1 or evidence.readout is None:
        return {}
    try:
        rank = spectrum.row_space_basis(evidence.readout).shape[1]
        survivors = n if terms is None or terms.lacks else int(surviving_directions(terms))
    except UndefinedMeasure:
        return {}
    if survivors < n:
        return {
            "vanish": (
                f"{survivors} of {n} directions of the targets survive the stated penalties: W loses "
                "the others, and nrc3/gram_distance cannot reach 0. nrc3/limit_distance can. For "
                "smaller penalties more of them survive."
            )
        }
    if rank < n:
        return {
            "rank": (
                f"W has rank {rank} for {n} targets: a direction of the targets has vanished, and "
                "nrc3/gram_distance cannot reach 0. Is the weight decay too strong, or are there fewer "
                "features than targets?"
            )
        }
    return {}
