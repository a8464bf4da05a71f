"""All that a stage of a regression leaves behind, of all ranks together."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.evidence import Evidence
from lightning_nc.values.joint import JointMoments, LinearReadout
from lightning_nc.values.sample import FeatureSample

_NEAR_CENTERED = 1e-4


class RegressionTallies(NamedTuple):
    """Counts of rows, kept on the device, in one int64 tensor each.

    Attributes:
        non_finite: Rows left out for a NaN or infinite feature.
        non_finite_targets: Rows left out for a NaN or infinite target.
        zero: Rows whose features are all 0, which have no direction.
        whole: Rows whose targets are whole numbers.
    """

    non_finite: Int[Tensor, ""]
    non_finite_targets: Int[Tensor, ""]
    zero: Int[Tensor, ""]
    whole: Int[Tensor, ""]

    def lost(self) -> dict[str, int]:
        """How many rows were left out for what."""
        return {
            "a NaN or infinite feature": int(self.non_finite),
            "a NaN or infinite target": int(self.non_finite_targets),
        }


class CenteredRows(NamedTuple):
    r"""What stays of centered rows outside of two subspaces: sums over a sample, by what it stands for.

    With :math:`u = (h - \bar h) / \|h - \bar h\|`.

    Attributes:
        weight: Of the rows that differ from the mean.
        outside_directions: Of it, :math:`\|u - P u\|^2`, P on the top directions of the features.
        outside_row_space: Of it, :math:`\|u - Q u\|^2`, Q on the row space of W; 0 without W.
    """

    weight: Float[Tensor, ""]
    outside_directions: Float[Tensor, ""]
    outside_row_space: Float[Tensor, ""]


@dataclass(frozen=True, eq=False)
class LimitTerms:
    r"""What the closed form of the last two layers rests on.

    Attributes:
        target_covariance: :math:`\Sigma` around the mean of the targets where the read-out has a bias,
            around 0 where it has none.
        penalty: :math:`\lambda_W`.
        row_penalty: :math:`\kappa = N \lambda_H`.
        lacks: Why there is no closed form here, a clause; empty where there is one.
    """

    target_covariance: Float[Tensor, "n n"]
    penalty: float
    row_penalty: float
    lacks: str = ""


@dataclass(frozen=True, eq=False)
class RegressionEvidence(Evidence):
    """What a regression leaves.

    Attributes:
        joint: Moments of features and targets.
        head: The last linear map as the stage has kept it, which holds a single row as two; or None.
        sample: A sample of this rank's rows, or None; its labels are 0, and -1 where a row is left out.
        tallies: Counts of rows, or None.
        trains: Whether these rows are of training, whose targets set the closed form.
    """

    joint: JointMoments
    head: LinearClassifier | None = None
    sample: FeatureSample | None = None
    tallies: RegressionTallies | None = None
    trains: bool = True
    parts: ClassVar[tuple[str, ...]] = (
        "joint", "readout", "centered_rows", "limit_terms", "sample", "tallies", "references",
        "penalties", "num_samples",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.head is not None:
            LinearReadout.of(self.head, self.joint.num_targets)  # raises where it does not fit

    @property
    def num_samples(self) -> int:
        """N."""
        return int(self.joint.count)

    @property
    def size(self) -> str:
        """Targets and features."""
        n, d = self.joint.num_targets, self.joint.num_features
        return f"{n:,} target{'' if n == 1 else 's'}, {d:,} features"

    @property
    def lost(self) -> Mapping[str, int]:
        """How many rows were left out for what."""
        return {} if self.tallies is None else self.tallies.lost()

    @property
    def rows_by_kind(self) -> Int[Tensor, " 1"]:
        """N: all rows are of one kind."""
        return self.joint.count[None]

    @property
    def zero(self) -> Float[Tensor, ""]:
        """A zero with the dtype and the device of the means."""
        return self.joint.feature_mean.new_zeros(())

    @cached_property
    def readout(self) -> LinearReadout | None:
        """W and b, one row for each target; None where the features are not those that W meets."""
        return None if self.head is None else LinearReadout.of(self.head, self.joint.num_targets)

    @cached_property
    def centered_rows(self) -> CenteredRows | None:
        """What stays of centered rows outside of two subspaces, where that was counted."""
        counted = self.counts.get("centered_rows")
        return None if counted is None else CenteredRows(*counted)

    @cached_property
    def limit_terms(self) -> LimitTerms | None:
        """What the closed form rests on.

        None unless these are rows of training, and it is known of how many; the penalties of weight and
        features are stated; and the read-out is known.
        """
        penalty, row_penalty = self.penalties.weight, self.row_penalty
        if not self.trains or penalty is None or row_penalty is None or self.readout is None:
            return None
        covariance = self.joint.target_covariance
        if self.readout.bias is None:
            covariance = covariance.addr(self.joint.target_mean, self.joint.target_mean)
        return LimitTerms(covariance, penalty, row_penalty, self._lacks(self.readout))

    def _lacks(self, readout: LinearReadout) -> str:
        """Why the last two layers have no closed form."""
        joint, p = self.joint, self.penalties
        if not (p.weight and p.features):
            return "without a penalty on both weight and features there is no limit"
        if joint.num_features < joint.num_targets:
            return f"{joint.num_targets} targets have their limit in as many features at least"
        # what a bias with a penalty leaves of the mean is one more direction of the targets
        left = p.for_bias / (1 + p.for_bias) * joint.target_mean.square().sum()
        near = left <= _NEAR_CENTERED * joint.target_covariance.trace()
        if readout.bias is None or bool(near):
            return ""
        return (
            "there is no closed form for targets with a mean and a bias with a penalty; center the "
            "targets, or leave the bias free of penalty and state that as penalty={'weight': ..., "
            "'bias': 0}"
        )

    def to(self, device: torch.device | str) -> "RegressionEvidence":
        """The same on another device, less the stages that it refers to."""
        return replace(
            self,
            joint=self.joint.to(device),
            head=self.head and self.head.to(device),
            sample=self.sample and self.sample.to(device),
            tallies=self.tallies and RegressionTallies(*torch.stack(self.tallies).to(device)),
            counts={name: count.to(device) for name, count in self.counts.items()},
            training=self.training and self.training.to(device),
            references={},
        )
