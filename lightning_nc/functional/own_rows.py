"""A rank's own rows once all ranks' moments are known: those that count, their nearest centers."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_nc.functional.nearest_center import nearest_class_center
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.evidence import ClassEvidence
from lightning_nc.values.sample import FeatureSample

_MULTIPLY_ADDS, _LEAST_ROWS = 2**35, 256
"""Multiply-adds that the distances of a sample to all class means may take, but for so few rows.

Two or three seconds of one CPU core, whatever the device: a value must not depend on where it is
computed. With 50,257 classes in 768 dimensions it allows for 890 rows, whose shares have a standard
error of at most 0.017. Fewer than 256 rows (0.03) would tell too little.
"""


def sample_that_counts(
    own: ClassEvidence, merged: ClassEvidence
) -> tuple[FeatureSample, Float[Tensor, ""]]:
    """This rank's sample: its rows of classes that count, so many of them as may meet all classes.

    Args:
        own: What this rank has accumulated, with its sample.
        merged: What all ranks have accumulated.

    Returns:
        The rows with the network's decisions, which are those of W h + b where nobody saw them and W
        stood still; and how many rows they stand for.
    """
    assert own.sample is not None
    seen, counts = merged.all_classes.seen, own.all_classes.counts
    sample = _within_reach(_of_classes(own.sample.valid(), seen), num_classes=int(seen.sum()))
    head = decides(merged)
    if head is not None:
        sample = replace(sample, predicted=head.decide(sample.features))
    return sample, (counts * seen).sum().to(merged.all_classes.means.dtype)


def decides(merged: ClassEvidence) -> LinearClassifier | None:
    """The classifier, where nobody saw a decision of the network and it is taken to decide."""
    unseen = merged.tallies is not None and bool(merged.tallies.predicted == 0)
    return merged.head if merged.by_head and unseen else None


def decided_by_centers(
    own: ClassEvidence, merged: ClassEvidence
) -> tuple[FeatureSample, Int[Tensor, " R"], Float[Tensor, ""]]:
    """This rank's sample, its nearest class centers, and the rows that it stands for; found once."""
    memory = vars(merged)
    if memory.get("decided_by_centers", (None,))[0] is not own:
        sample, rows = sample_that_counts(own, merged)
        center = sample.target
        if len(center):
            center = nearest_class_center(sample.features, merged.all_classes, guess=center)
        memory["decided_by_centers"] = own, (sample, center, rows)
    return memory["decided_by_centers"][1]


def _of_classes(sample: FeatureSample, seen: Bool[Tensor, " C"]) -> FeatureSample:
    """Its rows of the classes that count."""
    keep = seen[sample.target]
    if bool(keep.all()):
        return sample
    return _rows_of(sample, keep)


def _within_reach(sample: FeatureSample, num_classes: int) -> FeatureSample:
    """So many of its rows as may meet the means of all classes; itself where these are all."""
    num_rows, num_features = sample.features.shape
    most = max(_LEAST_ROWS, _MULTIPLY_ADDS // max(1, num_classes * num_features))
    if num_rows <= most:
        return sample
    # the first rows of a reservoir are no uniform sample: they stay longest
    chosen = torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))[:most]
    return _rows_of(sample, chosen.to(sample.target.device))


def _rows_of(sample: FeatureSample, rows: Bool[Tensor, " R"] | Int[Tensor, " k"]) -> FeatureSample:
    predicted = None if sample.predicted is None else sample.predicted[rows]
    return FeatureSample(sample.features[rows], sample.target[rows], predicted, sample.seen)


def share(part: Float[Tensor, ""], whole: Float[Tensor, ""], missing: str) -> Float[Tensor, ""]:
    """A part of what was counted.

    Args:
        part: What counts.
        whole: Of so many.
        missing: What is said where there are none.

    Returns:
        The share.

    Raises:
        UndefinedMeasure: If there are none.

    Example:
        >>> share(torch.tensor(1.0), torch.tensor(4.0), "no row was sampled")
        tensor(0.2500)
    """
    if bool(whole == 0):  # but not where it is NaN: a rank could not count
        raise UndefinedMeasure(missing)
    return part / whole
