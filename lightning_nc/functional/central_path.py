r"""The central path of the squared error: how far the classifier is from the best one for its features.

With one-hot labels :math:`e_k` the objective, its penalties on W and b included, is

.. math:: L = \frac{1}{2N} \sum_i \|W h_i + b - e_{y_i}\|^2 + \frac{\lambda_W}{2} \|W\|_F^2
    + \frac{\lambda_b}{2} \|b\|^2

For given features it is least at :math:`W_{LS}, b_{LS}` (:func:`least_squares`), and splits into what
the spread inside the classes costs there (:func:`loss_nc1`), what the class means cost
(:func:`loss_nc23`), and the distance of W and b from there (:func:`loss_perp`):

.. math:: L = L_{NC1} + L_{NC2/3} + L_\perp

Each is computed as a sum of squares, never as a difference.

Conventions: any counts, with p = n / N; Han, Papyan and Donoho (2022) have equal ones. The penalties
are those of this objective, with ``nn.MSELoss()`` K/2 times the weight decay: see
:class:`~lightning_nc.values.penalties.Penalties`. One that is not stated is 0 in what depends on the
features alone, and :math:`L_\perp` has no value. Classes without rows are left out, and so are their
rows of W. Invariant under rotation of the features with W.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.noise import least_squares_weight, shares_and_mean
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.penalties import Penalties
from lightning_nc.values.statistics import ClassStatistics

_ERRORS = 2**24  # of class means, at a time


class LeastSquares(NamedTuple):
    """The linear classifier with the least squared error, penalties included.

    Attributes:
        weight: A row for each class seen.
        bias: None where it has none.
    """

    weight: Float[Tensor, "K d"]
    bias: Float[Tensor, " K"] | None


def least_squares(statistics: ClassStatistics, penalties: Penalties, has_bias: bool) -> LeastSquares:
    r"""The classifier that minimizes the squared error of its penalties on these features.

    With :math:`m = \sum_k p_k \mu_k`, :math:`\bar\mu_k = \mu_k - m` and :math:`\kappa = \lambda_b /
    (1 + \lambda_b)`, or :math:`\kappa = 1` without a bias:

    .. math:: W_{LS} &= \operatorname{diag}(p) (\bar\mu + \kappa\, 1 m^\top) A^{-1}, \qquad
            b_{LS} = (1 - \kappa)(p - W_{LS}\, m) \\
        A &= \Sigma_W + \sum_k p_k \bar\mu_k \bar\mu_k^\top + \kappa\, m m^\top + \lambda_W I

    A penalty that is not stated is 0. Where A is then singular, as with fewer rows than features, there
    are many such classifiers, all with the same errors on these rows: it is the one whose W has the
    least norm. Directions in which rows vary no more than float32 rounds off do not count there.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.
        penalties: Of the weight and the bias.
        has_bias: Whether there is a bias.

    Returns:
        Weight and bias in float64, kept with the statistics for whoever asks next.

    Raises:
        UndefinedMeasure: If the covariance was not kept.
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[-1.0], [1.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 1]), num_classes=2)
        >>> least_squares(stats, Penalties(weight=1.0, bias=1.0), has_bias=True)
        LeastSquares(weight=tensor([[-0.2500],
                [ 0.2500]], dtype=torch.float64), bias=tensor([0.2500, 0.2500], dtype=torch.float64))

    References:
        Han, Papyan & Donoho (2022), "Neural collapse under MSE loss: proximity to and dynamics on the
        central path".
    """
    penalty, of_bias = penalties.for_weight, penalties.for_bias
    mean_share = of_bias / (1 + of_bias) if has_bias else 1.0
    kept = vars(statistics).setdefault("least_squares", {})
    asked = penalty, mean_share, has_bias
    if asked not in kept:
        shares, mean = shares_and_mean(statistics)
        weight = least_squares_weight(statistics, penalty, mean_share)
        bias = (1 - mean_share) * (shares - weight @ mean) if has_bias else None
        kept[asked] = LeastSquares(weight, bias)
    return kept[asked]


def loss(
    statistics: ClassStatistics, classifier: LinearClassifier, penalties: Penalties
) -> Float[Tensor, ""]:
    r"""The objective L itself, of the classifier as it is.

    Without the penalty of the features. Range ``[0, inf)``. It is what was trained only if the data
    loss was the squared error of one-hot labels.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.
        classifier: W and b, of the same classes.
        penalties: Of the weight and the bias.

    Returns:
        The objective, a float64 scalar.

    Raises:
        UndefinedMeasure: If the penalty is not stated, or the covariance was not kept.
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> stats = ClassStatistics.from_batch(torch.eye(2), torch.arange(2), num_classes=2)
        >>> loss(stats, LinearClassifier(torch.zeros(2, 2)), Penalties(weight=0.1))  # half of 1
        tensor(0.5000, dtype=torch.float64)
    """
    _require_stated(penalties, classifier)
    given = _as_trained(statistics, classifier)
    return _of_spread(statistics, given, penalties) + _of_means(statistics, given)


def loss_nc1(
    statistics: ClassStatistics, classifier: LinearClassifier, penalties: Penalties
) -> Float[Tensor, ""]:
    r"""What the spread inside the classes, and the penalties, cost the best classifier.

    .. math:: L_{NC1} = \tfrac12 \left[ \operatorname{tr} W_{LS} (\Sigma_W + \lambda_W I) W_{LS}^\top
        + \lambda_b \|b_{LS}\|^2 \right]

    A penalty that is not stated is 0. Range ``[0, 1/2]``; without penalties 0 at collapse.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.
        classifier: Read for whether it has a bias.
        penalties: Of the weight and the bias.

    Returns:
        The part of the loss, a float64 scalar.

    Raises:
        UndefinedMeasure: If the covariance was not kept.
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> stats = ClassStatistics.from_batch(torch.eye(2), torch.arange(2), num_classes=2)
        >>> loss_nc1(stats, LinearClassifier(torch.zeros(2, 2)), Penalties(weight=0.5))
        tensor(0.1250, dtype=torch.float64)

    References:
        Han, Papyan & Donoho (2022), "Neural collapse under MSE loss: proximity to and dynamics on the
        central path".
    """
    return _of_spread(statistics, _best(statistics, classifier, penalties), penalties)


def loss_nc23(
    statistics: ClassStatistics, classifier: LinearClassifier, penalties: Penalties
) -> Float[Tensor, ""]:
    r"""By how much the best classifier misses the labels at the class means.

    .. math:: L_{NC2/3} = \tfrac12 \sum_k p_k \|W_{LS}\, \mu_k + b_{LS} - e_k\|^2

    A penalty that is not stated is 0. Range ``[0, 1/2]``; without penalties 0 at collapse.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.
        classifier: Read for whether it has a bias.
        penalties: Of the weight and the bias.

    Returns:
        The part of the loss, a float64 scalar.

    Raises:
        UndefinedMeasure: If the covariance was not kept.
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> stats = ClassStatistics.from_batch(torch.eye(2), torch.arange(2), num_classes=2)
        >>> loss_nc23(stats, LinearClassifier(torch.zeros(2, 2)), Penalties(weight=0.5))
        tensor(0.1250, dtype=torch.float64)
    """
    return _of_means(statistics, _best(statistics, classifier, penalties))


def loss_least_squares(
    statistics: ClassStatistics, classifier: LinearClassifier, penalties: Penalties
) -> Float[Tensor, ""]:
    r"""The least loss for these features: :math:`L_{LS} = L_{NC1} + L_{NC2/3}`.

    A penalty that is not stated is 0. Range ``[0, 1/2]``; without penalties 0 at collapse.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.
        classifier: Read for whether it has a bias.
        penalties: Of the weight and the bias.

    Returns:
        The loss, a float64 scalar.

    Raises:
        UndefinedMeasure: If the covariance was not kept.
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> stats = ClassStatistics.from_batch(torch.eye(2), torch.arange(2), num_classes=2)
        >>> loss_least_squares(stats, LinearClassifier(torch.zeros(2, 2)), Penalties(weight=0.5))
        tensor(0.2500, dtype=torch.float64)
    """
    best = _best(statistics, classifier, penalties)
    return _of_spread(statistics, best, penalties) + _of_means(statistics, best)


def loss_perp(
    statistics: ClassStatistics, classifier: LinearClassifier, penalties: Penalties
) -> Float[Tensor, ""]:
    r"""How far the classifier is from the best one, in units of the loss.

    .. math:: L_\perp = \tfrac12 \left[ \operatorname{tr} \Delta (\Sigma_W + \lambda_W I) \Delta^\top
        + \sum_k p_k \|\Delta \mu_k + \delta\|^2 + \lambda_b \|\delta\|^2 \right]

    Range ``[0, inf)``, 0 on the central path. The penalty has to be that of the objective that was
    trained. A converged network, with 1.6e-6 of its loss off the path, showed .22 of it off the path
    with a tenth of its penalty, and .55 with ten times as much.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.
        classifier: W and b, of the same classes.
        penalties: Of the weight and the bias.

    Returns:
        The part of the loss, a float64 scalar.

    Raises:
        UndefinedMeasure: If the penalty is not stated, or the covariance was not kept.
        ValueError: If a class has no sample, or the shapes differ.

    Example:
        >>> stats = ClassStatistics.from_batch(torch.eye(2), torch.arange(2), num_classes=2)
        >>> loss_perp(stats, LinearClassifier(torch.zeros(2, 2)), Penalties(weight=0.5))
        tensor(0.2500, dtype=torch.float64)

    References:
        Han, Papyan & Donoho (2022), "Neural collapse under MSE loss: proximity to and dynamics on the
        central path".
    """
    _require_stated(penalties, classifier)
    given, best = _as_trained(statistics, classifier), _best(statistics, classifier, penalties)
    shares, mean = shares_and_mean(statistics)
    weight, at_mean = given.weight - best.weight, (given.weight - best.weight) @ mean
    bias = None
    if given.bias is not None and best.bias is not None:
        bias = given.bias - best.bias
        at_mean = at_mean + bias
    around = (statistics.means - mean) * shares.sqrt()[:, None]
    if len(around) > statistics.num_features:
        around = torch.linalg.qr(around, mode="r").R  # the same products, of a d x d matrix
    of_means = (weight @ around.T).square().sum() + at_mean.square().sum()
    return _of_spread(statistics, LeastSquares(weight, bias), penalties) + of_means / 2


def _best(
    statistics: ClassStatistics, classifier: LinearClassifier, penalties: Penalties
) -> LeastSquares:
    _require_shape(statistics, classifier)
    return least_squares(statistics, penalties, classifier.bias is not None)


def _as_trained(statistics: ClassStatistics, classifier: LinearClassifier) -> LeastSquares:
    _require_shape(statistics, classifier)
    bias, like = classifier.bias, statistics.means
    return LeastSquares(classifier.weight.to(like), None if bias is None else bias.to(like))


def _of_spread(
    statistics: ClassStatistics, of: LeastSquares, penalties: Penalties
) -> Float[Tensor, ""]:
    """Half of what noise and penalties add to the squared error."""
    spread = ((of.weight @ statistics.within_covariance) * of.weight).sum().clamp(min=0)
    spread = spread + penalties.for_weight * of.weight.square().sum()
    if of.bias is not None:
        spread = spread + penalties.for_bias * of.bias.square().sum()
    return spread / 2


def _of_means(statistics: ClassStatistics, of: LeastSquares) -> Float[Tensor, ""]:
    """Half the squared error at the class means: around the mean of all rows, and of that mean."""
    shares, mean = shares_and_mean(statistics)
    at_mean = of.weight @ mean - shares
    if of.bias is not None:
        at_mean = at_mean + of.bias
    total, classes = at_mean.square().sum(), torch.arange(len(shares), device=shares.device)
    for part in classes.split(max(1, _ERRORS // len(shares))):
        errors = (statistics.means[part] - mean) @ of.weight.T + shares
        errors[classes[: len(part)], part] -= 1
        total = total + shares[part] @ errors.square().sum(1)
    return total / 2


def _require_stated(penalties: Penalties, classifier: LinearClassifier) -> None:
    if classifier.is_single_row:
        raise UndefinedMeasure("the classifier has a single row, which has a target of its own")
    if penalties.weight is None:
        missing = "it depends on the penalty of W in the objective that was trained"
        raise UndefinedMeasure(f"{missing}, which is not stated; set `penalty`")


def _require_shape(statistics: ClassStatistics, classifier: LinearClassifier) -> None:
    if classifier.weight.shape != statistics.means.shape:
        raise ValueError(
            f"Expected a classifier of the shape of the class means, {tuple(statistics.means.shape)}, "
            f"but got {tuple(classifier.weight.shape)}. Are the features the input of this layer?"
        )
