r"""Which geometry class means and classifier are nearest to, and whether it is near enough to say so.

Two triples are compared, each with the geometries whose theory has its center:

- the class means as they are, with those of a head without a bias: the orthogonal frame (``of``), the
  general one (``gof``), the one of cross-entropy with ReLU features (``relu_ce``) and others;
- the class means less the mean of all rows (weighted by counts), with those of a head with a free bias,
  or of simplex logits: ``etf``, ``gof_centered`` and ``seli``. Every geometry is centered likewise, so
  that means which form it up to a common shift have no distance from it.

The verdict is the nearest one where its distance is at most the tolerance and the features have
collapsed, and "none" else. Under plain weight decay, without a penalty of the features, it is "none" in
the networks that were tried: their features keep a large common mean.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_nc.functional import variability
from lightning_nc.functional.frames.triple import Triple, gram_triple
from lightning_nc.functional.imbalance.candidates import (
    AS_THEY_ARE,
    CENTERED,
    Problem,
    family,
    stand_for_themselves,
)
from lightning_nc.functional.imbalance.families import Fit
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.linear_head import LinearHead
from lightning_nc.values.statistics import ClassStatistics

NONE = "none"
TOLERANCE, COLLAPSED = 0.1, 0.05
"""Of the distance, and of tr Sw / tr Sb: above either, the verdict is "none"."""

_DEAD = 0.05  # of the largest logit of a class's own mean: a class that did not come to life
_NEITHER = (math.nan, math.nan, math.nan)
_CHEAP = [tuple(n for n in table if n != "ce_ufm") for table in (AS_THEY_ARE, CENTERED)]


@dataclass(frozen=True)
class Ranking:
    """Geometries by their distance from one triple.

    Attributes:
        fits: The nearest first; those of no distance come last.
        verdict: The nearest one, or "none".
        reason: Why it is none, a clause; empty where it is not.
        margin: How much farther the second one is than the nearest, of those that differ; NaN with
            fewer than two.
    """

    fits: tuple[Fit, ...]
    verdict: str
    reason: str = ""
    margin: float = math.nan

    def of(self, name: str) -> Fit:
        """The fit of a family.

        Raises:
            KeyError: If it was not tried.
        """
        return {fit.family: fit for fit in self.fits}[name]

    @property
    def told(self) -> str:
        """The verdict, and why it is none."""
        return f"{self.verdict} ({self.reason})" if self.reason else self.verdict

    def __str__(self) -> str:
        return "\n".join([self.told, *map(_line, self.fits)])


@dataclass(frozen=True)
class Nearest:
    """Two rankings.

    Attributes:
        as_they_are: By the class means as they are.
        centered: By the class means less the mean of all rows.
    """

    as_they_are: Ranking
    centered: Ranking

    def __str__(self) -> str:
        return (
            f"Class means as they are: {self.as_they_are}\nLess the mean of all rows: {self.centered}"
        )


def nearest_geometry(
    statistics: ClassStatistics,
    classifier: LinearClassifier,
    num_layers: int = 1,
    layer: int = 1,
    counts: Int[Tensor, " K"] | Sequence[int] | None = None,
    as_they_are: Sequence[str] = _CHEAP[0],
    centered: Sequence[str] = _CHEAP[1],
    tolerance: float = TOLERANCE,
) -> Nearest:
    r"""The geometries by their distance from class means and classifier, a verdict for each center.

    No penalty has to be known: shapes depend on one number at most, which is fitted. Where counts are
    equal, geometries that differ in their lengths alone are the same, and are reported once.

    Args:
        statistics: Of the features, of every class.
        classifier: W, or at layer j of a linear head :math:`W_M \cdots W_j`; its bias is not used.
        num_layers: M, of the linear head.
        layer: j, of which the input is measured.
        counts: Rows of each class in training. None: those of the statistics.
        as_they_are: Names in :data:`~lightning_nc.functional.imbalance.candidates.AS_THEY_ARE`;
            "ce_ufm" solves dozens of convex programs.
        centered: Names in :data:`~lightning_nc.functional.imbalance.candidates.CENTERED`.
        tolerance: The verdict is "none" above this distance.

    Returns:
        The rankings, which print as tables.

    Raises:
        ValueError: If a class has no rows, the shapes differ, or there is no such family.

    Example:
        >>> h = torch.eye(3).repeat(4, 1)
        >>> stats = ClassStatistics.from_batch(h, torch.arange(12) % 3, num_classes=3)
        >>> nearest = nearest_geometry(stats, LinearClassifier(torch.eye(3)))
        >>> nearest.as_they_are.verdict, nearest.centered.verdict
        ('of', 'none')
    """
    rows = statistics.counts if counts is None else torch.as_tensor(counts)
    unknown = {*as_they_are} - AS_THEY_ARE.keys() | {*centered} - CENTERED.keys()
    if len(rows) != statistics.num_classes or unknown or not as_they_are or not centered:
        raise ValueError(
            f"Expected counts of {statistics.num_classes} classes, and families among "
            f"{', '.join(AS_THEY_ARE)}, and centered among {', '.join(CENTERED)}, but got {len(rows)} "
            f"counts and {', '.join(map(repr, unknown)) or 'no family'}."
        )
    head = LinearHead(statistics, classifier, rows, layer, num_layers)
    return Nearest(
        ranking(head, as_they_are, False, tolerance), ranking(head, centered, True, tolerance)
    )


def ranking(
    head: LinearHead, names: Iterable[str], is_centered: bool, tolerance: float = TOLERANCE
) -> Ranking:
    """Some geometries by their distance from class means and classifier.

    Args:
        head: What was measured, with the counts of training.
        names: Of families.
        is_centered: Whether they are those of centered means.
        tolerance: The verdict is "none" above this distance.

    Returns:
        The ranking.

    Raises:
        ValueError: If a class has no rows, or the shapes differ.
    """
    head.statistics.require_all_seen()
    assert head.counts is not None
    center = head.counts if is_centered else None
    measured = gram_triple(head.statistics.means, head.product.weight, center)
    triple = Triple(*(each.to("cpu", torch.float64) for each in measured))
    problem = Problem(
        tuple(head.counts.tolist()), head.num_layers, head.layer, _alive(head, triple, is_centered)
    )
    fits = [_fit(name, triple, problem, is_centered) for name in names]
    fits.sort(key=lambda fit: math.inf if math.isnan(fit.rms) else fit.rms)
    distinct = stand_for_themselves([fit.family for fit in fits], problem)
    first, *others = [fit.rms for fit in fits if fit.family in distinct]
    nearest = next(fit for fit in fits if fit.family in distinct)
    reason = _doubt(nearest, head.statistics, tolerance)
    margin = others[0] - first if others else math.nan
    return Ranking(tuple(fits), NONE if reason else nearest.family, reason, margin)


def _fit(name: str, triple: Triple, problem: Problem, is_centered: bool) -> Fit:
    if problem.alive is not None and sum(problem.alive) < 2 and name.startswith("gof"):
        return Fit(name, _NEITHER, math.nan)
    fit = family(name, is_centered, problem).fit(triple)
    return replace(fit, value=None) if problem.is_balanced else fit


def _alive(head: LinearHead, triple: Triple, is_centered: bool) -> tuple[bool, ...] | None:
    """The classes that live, where a deep head may leave some at zero, or has no room for all."""
    width, num_classes = head.statistics.num_features, head.statistics.num_classes
    if is_centered or (head.num_layers == 1 and width >= num_classes):
        return None
    assert head.counts is not None
    own = triple.logits.diagonal()
    lives = own > _DEAD * own.max()
    lives[head.counts.cpu().argsort(descending=True, stable=True)[width:]] = False
    return tuple(lives.tolist())


def _doubt(best: Fit, statistics: ClassStatistics, tolerance: float) -> str:
    """Why the nearest one is not near enough, a clause; empty where it is."""
    if math.isnan(best.rms):
        return "weights or class means are zero"
    if best.rms > tolerance:
        return f"{best.family} is the nearest, at a distance of {best.rms:.3g}, above {tolerance:g}"
    ratio = float(variability.within_between_ratio(statistics))
    if not ratio <= COLLAPSED:
        return f"the features have not collapsed: tr Sw / tr Sb is {ratio:.3g}, above {COLLAPSED:g}"
    return ""


def _line(fit: Fit) -> str:
    """One fit as a line of a table, with the number of its parameters."""
    gaps = " ".join(f"{gap:8.4f}" for gap in fit.gaps)
    if not fit.parameter:
        return f"  {fit.family:<12} {fit.rms:8.4f}   (weights, means, logits) = {gaps}   no parameter"
    at_end = "at the end of its range" if fit.at_bound else "not told by equal counts"
    told = at_end if fit.value is None else f"{fit.value:.4g}"
    told = f"1 parameter, {fit.parameter}: {told}"
    return f"  {fit.family:<12} {fit.rms:8.4f}   (weights, means, logits) = {gaps}   {told}"
