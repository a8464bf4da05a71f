r"""The closed-form probe: how well the best linear classifier of the squared error tells classes apart.

It is the ridge classifier of :func:`.central_path.least_squares`, with a bias, fitted to the statistics
of all rows of a stage and tried on a sample of the **same** rows. So its accuracy is a training
accuracy, of that stage: of validation rows it says how well they could be told apart by a classifier
that has seen them, not how well a classifier of the training rows does on them. Without a penalty and
with more features than rows the probe fits its rows exactly, whatever they are, and the accuracy is 1.

Its penalties are those that are stated of the objective, 0 where none is.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.functional.central_path import least_squares
from lightning_nc.functional.noise import shares_and_mean
from lightning_nc.functional.own_rows import sample_that_counts, share
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.evidence import ClassEvidence
from lightning_nc.values.sample import ProbeDecisions

_OUTPUTS = 2**22  # at a time
_NO_PROBE = "no probe could be fitted and tried: there is no within-class covariance, or no sampled row"


def probe_of_own_rows(own: ClassEvidence, merged: ClassEvidence) -> Float[Tensor, " 4"]:
    """Count how the probe of all ranks' rows decides on this rank's sample.

    On its rows of the classes seen, weighted by the rows that they stand for; of many classes with many
    features on a uniform subset of them, as NC4 is.

    Args:
        own: What this rank has accumulated, with its sample.
        merged: What all ranks have accumulated.

    Returns:
        :class:`ProbeDecisions` as a vector, whose sum over the ranks is that of all rows; zeros where
        the covariance was not kept, NaN where no probe can be computed.

    Example:
        >>> from lightning_nc import ClassStatistics, FeatureSample
        >>> h, y = torch.tensor([[1.0], [3.0], [9.0], [4.0]]), torch.tensor([0, 0, 1, 1])
        >>> sample = FeatureSample(h, y, predicted=torch.tensor([0, 1, 1, 1]), seen=4)
        >>> stage = ClassEvidence(ClassStatistics.from_batch(h, y, 2), None, sample)
        >>> probe_of_own_rows(stage, stage)  # the last one is on the wrong side
        tensor([4., 3., 4., 2.], dtype=torch.float64)
    """
    sample, rows = sample_that_counts(own, merged)
    counts = merged.all_classes.means.new_zeros(4)
    num_rows = len(sample.target)
    if not num_rows or merged.statistics.scatter is None:
        return counts
    try:
        decided = _decide(sample.features, merged)
    except torch.linalg.LinAlgError:  # features leave the range of the numbers
        return counts + torch.nan
    counts[0], counts[1] = num_rows, (decided == sample.target).sum()
    if sample.predicted is not None:
        known = sample.predicted >= 0
        counts[2], counts[3] = known.sum(), (known & (decided == sample.predicted)).sum()
    return counts * (rows / num_rows)


def probe_accuracy(decisions: ProbeDecisions) -> Float[Tensor, ""]:
    """Accuracy of the closed-form probe on the stage's own rows, to which it was fitted.

    An estimate from the sample, with the standard error of ``nc4/ncc_accuracy``. Range ``[0, 1]``; 1 at
    collapse, and wherever there are more features than rows and no penalty. Invariant under rotation of
    the features; without a penalty under any invertible affine map.

    Args:
        decisions: Counted decisions of the probe.

    Returns:
        The accuracy, a float64 scalar.

    Raises:
        UndefinedMeasure: If no row was sampled, or no probe could be fitted.

    Example:
        >>> probe_accuracy(ProbeDecisions(*torch.tensor([4.0, 3.0, 4.0, 2.0])))
        tensor(0.7500)

    References:
        Han, Papyan & Donoho (2022), "Neural collapse under MSE loss: proximity to and dynamics on the
        central path".
    """
    return share(decisions.correct, decisions.sampled, _NO_PROBE)


def probe_agreement(decisions: ProbeDecisions) -> Float[Tensor, ""]:
    """Share of rows on which the network decides like the closed-form probe.

    Of the sampled rows of which the network's decision is known; a network on the central path decides
    like a probe with its penalties. Range ``[0, 1]``, 1 at collapse.

    Args:
        decisions: Counted decisions of the probe.

    Returns:
        The share, a float64 scalar.

    Raises:
        UndefinedMeasure: If no decision of the network is known, or no probe could be fitted.

    Example:
        >>> probe_agreement(ProbeDecisions(*torch.tensor([4.0, 3.0, 4.0, 2.0])))
        tensor(0.5000)
    """
    if bool(decisions.sampled == 0):
        raise UndefinedMeasure(_NO_PROBE)
    return share(decisions.agreed, decisions.compared, "the network's decisions are not known")


def _decide(features: Float[Tensor, "R d"], merged: ClassEvidence) -> Int[Tensor, " R"]:
    """The probe's decision for each row, among the numbers of all classes."""
    statistics = merged.statistics
    weight, bias = least_squares(statistics, merged.penalties, has_bias=True)
    assert bias is not None
    _, mean = shares_and_mean(statistics)
    at_mean, rows = weight @ mean + bias, max(1, _OUTPUTS // max(weight.shape))
    # around the mean, from where no offset of the features costs digits
    chosen = [((h - mean) @ weight.T + at_mean).argmax(1) for h in features.split(rows)]
    return merged.all_classes.seen.nonzero().flatten()[torch.cat(chosen)]
