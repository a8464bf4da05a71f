r"""Distances of class means and classifier from the geometries of theory, as logged: the race of them.

Each is the root mean square of three distances, of weights, means and logits, at the fitted parameter
where the geometry has one; see :mod:`lightning_nc.functional.imbalance.nearest`. Range ``[0, 2]``, 0
where the network has that geometry. Invariant under rotation, and under scaling of features and of
weights. Counts are those of training, whatever the stage.

Where a class of training has no rows in the stage, or classes are left out by ``min_count``, there are
no distances: the geometry of the others depends on it. Neither are there above 1,500 classes.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.imbalance.nearest import Ranking, ranking
from lightning_nc.functional.spectrum import kept_with_the_value
from lightning_nc.values.errors import NothingToCompare, UndefinedMeasure
from lightning_nc.values.linear_head import LinearHead

AS_THEY_ARE, CENTERED = ("of", "gof", "relu_ce"), ("etf", "gof_centered", "seli")
"""The families that are logged, by the center of the class means; "ce_ufm" where it is asked for."""

# some seconds of one core at the end of each epoch
_MOST_CLASSES, _MOST_IN_PROGRAMS = 1500, 50


@kept_with_the_value
def race_as_they_are(head: LinearHead) -> Ranking:
    """Of the class means as they are, with geometries of heads without a bias.

    Args:
        head: Class means and what a linear head makes of them.

    Returns:
        The ranking of those that are logged.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or do not fit.
    """
    _require(head)
    names = AS_THEY_ARE if head.num_layers == 1 else [n for n in AS_THEY_ARE if n != "relu_ce"]
    return ranking(head, names, is_centered=False)


@kept_with_the_value
def race_centered(head: LinearHead) -> Ranking:
    """Of the class means less the mean of all rows.

    Args:
        head: Class means and what a linear head makes of them.

    Returns:
        The ranking of those that are logged.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or do not fit.
    """
    _require(head)
    return ranking(head, CENTERED, is_centered=True)


def race_of(head: LinearHead) -> Ranking:
    """Of the center that the head has: as they are without a bias, less the mean of all rows with one.

    Args:
        head: Class means and what a linear head makes of them.

    Returns:
        The ranking of those that are logged.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or do not fit.
    """
    return race_as_they_are(head) if head.product.bias is None else race_centered(head)


def etf(head: LinearHead) -> Float[Tensor, ""]:
    """Distance from the simplex ETF, centered by the mean of all rows.

    With equal counts the geometry of cross-entropy, and of the squared error with a free bias; see
    :func:`lightning_nc.functional.frames.etf`. Unlike ``nc2/means_etf_distance`` it looks at weights,
    means and logits together.

    Args:
        head: Class means and what a linear head makes of them.

    Returns:
        The distance, a float64 scalar; NaN where weights or means are zero.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or do not fit.

    Example:
        >>> from lightning_nc import ClassStatistics, LinearClassifier
        >>> stats = ClassStatistics.from_batch(torch.eye(3), torch.arange(3), num_classes=3)
        >>> simplex = LinearClassifier(torch.eye(3) - 1 / 3)
        >>> f"{float(etf(LinearHead(stats, simplex, stats.counts))):.4f}"
        '0.0000'
    """
    return _distance(race_centered(head), "etf")


def of(head: LinearHead) -> Float[Tensor, ""]:
    """Distance from the orthogonal frame, of the class means as they are.

    With equal counts the geometry of the squared error without a bias; see
    :func:`lightning_nc.functional.frames.orthogonal`.

    Args:
        head: Class means and what a linear head makes of them.

    Returns:
        The distance, a float64 scalar; NaN where weights or means are zero.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or do not fit.

    Example:
        >>> from lightning_nc import ClassStatistics, LinearClassifier
        >>> stats = ClassStatistics.from_batch(torch.eye(3), torch.arange(3), num_classes=3)
        >>> of(LinearHead(stats, LinearClassifier(torch.eye(3)), stats.counts))
        tensor(0., dtype=torch.float64)
    """
    return _distance(race_as_they_are(head), "of")


def gof(head: LinearHead) -> Float[Tensor, ""]:
    """Distance from the nearest general orthogonal frame of a head of so many layers, without a center.

    The geometry of the squared error without a bias, for any counts; see
    :func:`lightning_nc.functional.frames.gof_shape`. One parameter is fitted.

    Args:
        head: Class means and what a linear head makes of them.

    Returns:
        The distance, a float64 scalar; NaN where weights or means are zero, or fewer than two classes
        of a deep head live.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or do not fit.
    """
    return _distance(race_as_they_are(head), "gof")


def gof_centered(head: LinearHead) -> Float[Tensor, ""]:
    """Distance from the nearest general orthogonal frame with a free bias, centered by the rows' mean.

    The geometry of the squared error with a bias that is not penalized and features of both signs; see
    :func:`lightning_nc.functional.frames.gof_centered_shape`. One parameter is fitted.

    Args:
        head: Class means and what a linear head makes of them.

    Returns:
        The distance, a float64 scalar; NaN where weights or means are zero.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or do not fit.
    """
    return _distance(race_centered(head), "gof_centered")


def seli(head: LinearHead) -> Float[Tensor, ""]:
    """Distance from SELI, centered by the mean of all rows.

    The limit of cross-entropy under ever weaker regularization, which is approached as slowly as its
    logarithm; see :func:`lightning_nc.functional.frames.seli`.

    Args:
        head: Class means and what a linear head makes of them.

    Returns:
        The distance, a float64 scalar; NaN where weights or means are zero.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or do not fit.
    """
    return _distance(race_centered(head), "seli")


def relu_ce(head: LinearHead) -> Float[Tensor, ""]:
    """Distance from the nearest geometry of cross-entropy with ReLU features, without a center.

    See :func:`lightning_nc.functional.frames.relu_ce_shape`. One parameter is fitted.

    Args:
        head: Class means and what a linear head makes of them.

    Returns:
        The distance, a float64 scalar; NaN where weights or means are zero.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or do not fit.
    """
    _require_single(head)
    return _distance(race_as_they_are(head), "relu_ce")


def ce_ufm(head: LinearHead) -> Float[Tensor, ""]:
    """Distance from the nearest geometry of cross-entropy and features of both signs, without a center.

    See :func:`lightning_nc.functional.frames.ce_ufm`. One parameter is fitted, for which some fifty
    convex programs are solved: a second or two at 50 classes, above which it is left out.

    Args:
        head: Class means and what a linear head makes of them.

    Returns:
        The distance, a float64 scalar; NaN where weights or means are zero.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or do not fit.
    """
    _require(head, _MOST_IN_PROGRAMS)
    _require_single(head)
    return _distance(ranking(head, ["ce_ufm"], is_centered=False), "ce_ufm")


def margin(head: LinearHead) -> Float[Tensor, ""]:
    """How much farther the second geometry is than the nearest: the larger, the clearer.

    Of those that are logged of one center: without a bias of the head those of the means as they are
    (``of``, ``gof``, ``relu_ce``), with one those of the centered means (``etf``, ``gof_centered``,
    ``seli``). Range ``[0, 2]``. It says nothing of whether the nearest one is near.

    Args:
        head: Class means and what a linear head makes of them.

    Returns:
        The difference of their distances, a float64 scalar.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or do not fit; for centered means if
            they are equal, or those of two classes, where all geometries are the same one.
    """
    ranked = race_of(head)
    if math.isnan(ranked.margin) and not math.isnan(ranked.fits[0].rms):
        raise NothingToCompare("two classes, or as many rows in each, have one centered geometry alone")
    return torch.tensor(ranked.margin, dtype=torch.float64)


def _distance(ranked: Ranking, family: str) -> Float[Tensor, ""]:
    return torch.tensor(ranked.of(family).rms, dtype=torch.float64)


def _require_single(head: LinearHead) -> None:
    if head.num_layers > 1:
        raise NothingToCompare("its theory is that of a head of one layer, and this one has several")


def _require(head: LinearHead, most: int = _MOST_CLASSES) -> None:
    num_classes = len(head.require_counts())
    if num_classes > most:
        raise UndefinedMeasure(f"it is found up to {most:,} classes, and there are {num_classes:,}")
