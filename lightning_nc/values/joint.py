r"""Features and targets of a regression, around their means, and the linear map between them.

Notation: N rows, d features, n targets; :math:`h_i` a feature, :math:`y_i` its target,
:math:`\tilde h_i = h_i / \|h_i\|`. Covariances are the population's: sums over rows, divided by N.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.precision import accumulator_dtype


@dataclass(frozen=True, eq=False)
class JointMoments:
    r"""Means and centered products of features, targets, and features of length 1.

    ``merge`` is a commutative monoid up to rounding. No method changes or aliases its inputs.

    Attributes:
        count: N.
        feature_mean: The mean of h.
        target_mean: The mean of y.
        feature_scatter: :math:`\sum_i (h_i - \bar h)(h_i - \bar h)^\top`.
        cross_scatter: :math:`\sum_i (h_i - \bar h)(y_i - \bar y)^\top`.
        target_scatter: :math:`\sum_i (y_i - \bar y)(y_i - \bar y)^\top`.
        unit_count: How many rows have a length; features that are 0 have no direction.
        unit_mean: The mean of :math:`\tilde h` over these.
        unit_scatter: Likewise their centered products.

    Example:
        >>> h, y = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0], [4.0]])
        >>> joint = JointMoments.from_batch(h, y)
        >>> joint.target_covariance
        tensor([[1.]], dtype=torch.float64)
        >>> joint.unit_second_moment.diag()
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    count: Int[Tensor, ""]
    feature_mean: Float[Tensor, " d"]
    target_mean: Float[Tensor, " n"]
    feature_scatter: Float[Tensor, "d d"]
    cross_scatter: Float[Tensor, "d n"]
    target_scatter: Float[Tensor, "n n"]
    unit_count: Int[Tensor, ""]
    unit_mean: Float[Tensor, " d"]
    unit_scatter: Float[Tensor, "d d"]

    @classmethod
    def from_batch(
        cls, features: Float[Tensor, "B d"], targets: Float[Tensor, "B n"]
    ) -> "JointMoments":
        """Of one batch, by two passes over it in float64.

        Args:
            features: One feature per row, finite.
            targets: Its targets, finite.

        Returns:
            The moments, on the device of the features.

        Raises:
            ValueError: If there is not one row of targets for each feature.
        """
        if len(features) != len(targets):
            raise ValueError(
                f"Expected one row of targets per feature, but got {len(features)} features and "
                f"{len(targets)} rows of targets. Do both come from the same batch?"
            )
        dtype = accumulator_dtype(features.device)
        h, y = features.detach().to(dtype), targets.detach().to(features.device, dtype)
        unit = unit_rows(h)
        unit = unit[(unit != 0).any(1)]
        h_mean, y_mean, unit_mean = _mean(h), _mean(y), _mean(unit)
        x, z, u = h - h_mean, y - y_mean, unit - unit_mean
        return cls(
            count=_number(h), feature_mean=h_mean, target_mean=y_mean,
            feature_scatter=x.T @ x, cross_scatter=x.T @ z, target_scatter=z.T @ z,
            unit_count=_number(unit), unit_mean=unit_mean, unit_scatter=u.T @ u,
        )  # fmt: skip

    @property
    def num_features(self) -> int:
        """How many features: d."""
        return self.feature_mean.shape[0]

    @property
    def num_targets(self) -> int:
        """How many targets: n."""
        return self.target_mean.shape[0]

    @property
    def feature_covariance(self) -> Float[Tensor, "d d"]:
        """Of h."""
        return self.feature_scatter / self.count.clamp(min=1)

    @property
    def cross_covariance(self) -> Float[Tensor, "d n"]:
        """Of h with y."""
        return self.cross_scatter / self.count.clamp(min=1)

    @property
    def target_covariance(self) -> Float[Tensor, "n n"]:
        """Of y: Sigma."""
        return self.target_scatter / self.count.clamp(min=1)

    @property
    def unit_second_moment(self) -> Float[Tensor, "d d"]:
        r"""G, the mean of :math:`\tilde h \tilde h^\top`, not centered; its trace is 1."""
        centered = self.unit_scatter / self.unit_count.clamp(min=1)
        return centered.addr(self.unit_mean, self.unit_mean)

    def merge(self, other: "JointMoments") -> "JointMoments":
        """Of the rows of both (Chan, Golub & LeVeque 1979).

        Args:
            other: Of other rows, with the same features and targets.

        Returns:
            New moments; neither input is changed or referenced.

        Raises:
            ValueError: If the two differ in their numbers of features or targets.
        """
        mine, theirs = (self.num_targets, self.num_features), (other.num_targets, other.num_features)
        if mine != theirs:
            raise ValueError(
                f"Expected moments of the same (targets, features) to merge, but got {mine} and "
                f"{theirs}. Do they come from different layers?"
            )
        share, weight = _chan(self.count, other.count, self.feature_mean.dtype)
        h, y = other.feature_mean - self.feature_mean, other.target_mean - self.target_mean
        unit_share, unit_weight = _chan(self.unit_count, other.unit_count, h.dtype)
        u = other.unit_mean - self.unit_mean

        def joined(name: str, left: Tensor, right: Tensor, weight: Tensor) -> Tensor:
            return (getattr(self, name) + getattr(other, name)).addr_(left * weight, right)

        return JointMoments(
            count=self.count + other.count,
            feature_mean=self.feature_mean + share * h,
            target_mean=self.target_mean + share * y,
            feature_scatter=joined("feature_scatter", h, h, weight),
            cross_scatter=joined("cross_scatter", h, y, weight),
            target_scatter=joined("target_scatter", y, y, weight),
            unit_count=self.unit_count + other.unit_count,
            unit_mean=self.unit_mean + unit_share * u,
            unit_scatter=joined("unit_scatter", u, u, unit_weight),
        )

    def to(self, device: torch.device | str) -> "JointMoments":
        """The same on another device."""
        return JointMoments(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True, eq=False)
class LinearReadout:
    """The last linear layer of a regression, W h + b as it is: one target has one row.

    Attributes:
        weight: W, row j gives target j.
        bias: b, or None.

    Example:
        >>> head = LinearClassifier(torch.tensor([[2.0, 4.0]]), torch.tensor([1.0]))
        >>> readout = LinearReadout.of(head, num_targets=1)
        >>> readout.weight, readout.bias
        (tensor([[2., 4.]]), tensor([1.]))
    """

    weight: Float[Tensor, "n d"]
    bias: Float[Tensor, " n"] | None = None

    @classmethod
    def of(cls, head: LinearClassifier, num_targets: int) -> "LinearReadout":
        """What a stage has kept of the head, where a single row is held as two.

        Args:
            head: The last linear map.
            num_targets: n.

        Returns:
            The read-out.

        Raises:
            ValueError: If the head has other rows than there are targets.
        """
        weight, bias = head.weight, head.bias
        # whether a single row was given is not told by what has come from another rank
        if num_targets == 1 and len(weight) == 2:
            weight, bias = weight[1:] - weight[:1], None if bias is None else bias[1:] - bias[:1]
        if len(weight) != num_targets:
            raise wrong_head(len(weight), num_targets)
        return cls(weight, bias)


_MORE = (
    "more than the targets (means and variances, quantiles)? Make the map of the means a layer of its "
    "own, or set classifier=False and `features`."
)


def wrong_head(num_rows: int, num_targets: int) -> ValueError:
    """What is raised where a head does not put out a number for each target.

    Args:
        num_rows: Of the head.
        num_targets: n.

    Returns:
        The error.
    """
    if num_targets == 1:
        likely = (
            "Are the targets class indices, and the head's outputs logits? Use task='multiclass'. Does "
            f"the head put out {_MORE} Or is the head another layer, or the target of a row a vector? "
            "Name them as `classifier` and `target`."
        )
    elif num_rows == 1:
        likely = (
            "Is it one number for each position of a sequence, in targets of shape (B, T)? Return "
            "target.unsqueeze(-1) by a `target` function. Or is another layer the head? Name it as "
            "`classifier`."
        )
    else:
        likely = (
            "Is another layer the head? Name a map of one row for each target as `classifier`. Does "
            f"the head put out {_MORE} Are the targets one-hot or multi-hot labels? Use "
            "task='multiclass' or 'multilabel'."
        )
    return ValueError(
        f"Expected a head of {_rows(num_targets)}, one for each target, but got {_rows(num_rows)}. "
        f"{likely}"
    )


def unit_rows(features: Float[Tensor, "B d"]) -> Float[Tensor, "B d"]:
    """Rows of length 1, less those that are 0 and stay so.

    Each is first divided by its largest entry, so that no square leaves the range of the numbers.

    Args:
        features: Rows.

    Returns:
        Others, in the same direction.

    Example:
        >>> unit_rows(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    largest = torch.maximum(features.amax(1), -features.amin(1))[:, None]
    scaled = features / torch.where(largest == 0, 1, largest)
    length = scaled.square().sum(1, keepdim=True).sqrt()
    return scaled / torch.where(length == 0, 1, length)


def _rows(count: int) -> str:
    return f"{count} row" + ("" if count == 1 else "s")


def _mean(rows: Tensor) -> Tensor:
    return rows.sum(0) / max(1, len(rows))


def _number(rows: Tensor) -> Tensor:
    return torch.tensor(len(rows), device=rows.device)


def _chan(mine: Tensor, theirs: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """How far the mean moves to theirs, and the weight of what the means are apart."""
    share = theirs.to(dtype) / (mine + theirs).clamp(min=1)
    return share, mine * share
