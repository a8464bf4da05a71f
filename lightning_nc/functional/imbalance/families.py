r"""Families of geometries, and which member of a family is nearest to what was measured.

A family has no parameter, or a single one: everything else is fixed by the counts. Each matrix of a
family with a parameter is :math:`L \operatorname{diag}(c) R^\top` with matrices L and R that do not
depend on it, so that a distance costs no more than its coefficients c do, and hundreds of parameters
are tried at once.

A shape tells the parameter only where counts differ, and badly where it is small: with 1% of noise on
the Gram matrices of four classes, its logarithm has a standard deviation of .17 at
:math:`\tau = 10^{-3}` and of more than 9 at :math:`10^{-6}`. Where the best member is the end of a
family, no parameter is told. A family with a parameter always fits better than its own limits.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_nc.functional.frames.cross_entropy import relu_ce_coefficients
from lightning_nc.functional.frames.gains import gains, spinodal, survival_threshold
from lightning_nc.functional.frames.squared_error import centered_directions, gof_lengths
from lightning_nc.functional.frames.triple import Triple, class_shares, frame_gaps, rms
from lightning_nc.functional.geometry import unit
from lightning_nc.functional.imbalance.basis import Basis

_POINTS, _TOWARDS_END, _FINER, _ROUNDS = 81, 41, 21, 7
_SMALLEST_ERROR = 1e-30  # to it a shape tends with the logarithm alone
_SAME = 1e-6  # of distances: what lies between is rounding of cosines, and flat
_SMALLEST_GAP = 1e-6  # of the largest class's gain to 1; an even weaker regularization is the limit


@dataclass(frozen=True)
class Fit:
    """The member of a family that is nearest to what was measured.

    Attributes:
        family: Its name.
        gaps: Of weights, means and logits, see
            :func:`~lightning_nc.functional.frames.frame_gaps`.
        rms: The root of their mean square.
        parameter: The name of the family's parameter; "" where it has none.
        value: The parameter of the member; None where there is none, or the member is an end of the
            family.
        at_bound: Whether it is an end: with a parameter that goes to 0, weak regularization.
        member: The geometry itself, up to the scales of its matrices; None where there is none.
    """

    family: str
    gaps: tuple[float, float, float]
    rms: float
    parameter: str = ""
    value: float | None = None
    at_bound: bool = False
    member: Triple | None = field(default=None, repr=False, compare=False)


class Family(ABC):
    """Geometries of one kind, by the name under which they are logged."""

    name: str

    @abstractmethod
    def fit(self, triple: Triple) -> Fit:
        """Its member that is nearest to a triple."""


@dataclass(frozen=True)
class Fixed(Family):
    """A single geometry.

    Attributes:
        name: As it is logged.
        target: The geometry.
    """

    name: str
    target: Triple

    def fit(self, triple: Triple) -> Fit:
        """How far it is from a triple."""
        return Fit(self.name, *_distances(triple, self.target), member=self.target)


@dataclass(frozen=True)
class Curve(Family):
    """Geometries with one parameter, along x, its logarithm or another one of its kind.

    Attributes:
        name: As it is logged.
        parameter: Its name.
        bases: Of the three matrices.
        coefficients: From x to the coefficients of the three, one row for each x.
        value: From x to the parameter.
        low: The least x.
        high: The largest x.
    """

    name: str
    parameter: str
    bases: tuple[Basis, Basis, Basis]
    coefficients: Callable[[Float[Tensor, " n"]], Triple]
    value: Callable[[float], float]
    low: float
    high: float

    def member(self, x: float) -> Triple:
        """The geometry at x."""
        at = self.coefficients(torch.tensor([x], dtype=torch.float64))
        return Triple(*(basis.matrix(c[0]) for basis, c in zip(self.bases, at, strict=True)))

    def fit(self, triple: Triple) -> Fit:
        """Its member that is nearest to a triple."""
        inner = [basis.inner(unit(x)) for basis, x in zip(self.bases, triple, strict=True)]

        def squared_gaps(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
            cosines = [
                (c @ products) / basis.squares(c).sqrt()
                for basis, c, products in zip(self.bases, self.coefficients(x), inner, strict=True)
            ]
            return sum(2 - 2 * cosine for cosine in cosines)  # type: ignore[return-value]

        x, at_bound = _least(squared_gaps, self.low, self.high)
        member = self.member(x)
        distances = _distances(triple, member)
        value = None if at_bound or math.isnan(distances[1]) else self.value(x)
        return Fit(self.name, *distances, self.parameter, value, at_bound, member)


def gof_curve(
    shares: Float[Tensor, " K"],
    num_layers: int = 1,
    layer: int = 1,
    alive: Bool[Tensor, " K"] | None = None,
    name: str = "gof",
) -> Curve:
    r"""The general orthogonal frames, by their :math:`\tau`.

    Along the logarithm of 1 - g of the largest class, from :math:`10^{-6}` to where no more than two
    classes live: the same range for every number of layers.

    Args:
        shares: p, of the classes.
        num_layers: M.
        layer: j, of which the input is measured.
        alive: The classes that live, as far as the spinodal; None: as at the global minimum.
        name: Of the family.

    Returns:
        The family.

    Raises:
        ValueError: If fewer than two classes live.

    Example:
        >>> curve = gof_curve(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
        >>> fit = curve.fit(curve.member(-4.0))
        >>> f"{fit.value:.6f} {curve.value(-4.0):.6f} {fit.rms:.4f}"
        '0.000168 0.000168 0.0000'
    """
    bases = Basis(), Basis(), Basis()
    return _squared_error(name, shares, bases, num_layers, layer, alive)


def gof_centered_curve(
    counts: Float[Tensor, " K"], num_layers: int = 1, layer: int = 1, name: str = "gof_centered"
) -> Curve:
    r"""The general orthogonal frames with a bias that is not penalized, by their :math:`\tau`.

    Args:
        counts: Rows of each class.
        num_layers: M.
        layer: j, of which the input is measured.
        name: Of the family.

    Returns:
        The family.

    Example:
        >>> curve = gof_centered_curve(torch.tensor([5.0, 3.0, 2.0]))
        >>> fit = curve.fit(curve.member(-3.0))
        >>> f"{fit.value / curve.value(-3.0):.5f}"
        '1.00000'
    """
    left, squares, right = centered_directions(counts)
    # the coefficients are those of the squares; what else the matrices hold is in their bases
    scaled = right * squares.sqrt()
    bases = Basis(left, left), Basis(scaled, scaled), Basis(left, scaled)
    return _squared_error(name, squares, bases, num_layers, layer, None)


def relu_ce_curve(counts: Float[Tensor, " K"], name: str = "relu_ce") -> Curve:
    r"""What cross-entropy with ReLU features and no bias leads to, by :math:`r`.

    Along the logarithm of the error of the largest class, :math:`r / \sqrt{p}`; see
    :func:`~lightning_nc.functional.frames.cross_entropy.relu_ce_shape`.

    Args:
        counts: Rows of each class.
        name: Of the family.

    Returns:
        The family.

    Example:
        >>> curve = relu_ce_curve(torch.tensor([5.0, 3.0, 2.0]))
        >>> fit = curve.fit(curve.member(-3.0))
        >>> f"{fit.value / curve.value(-3.0):.5f}"
        '1.00000'
    """
    shares = class_shares(counts)
    num_classes = len(shares)
    largest, second = _two_largest(shares)
    rows = num_classes * torch.eye(num_classes).to(shares) - 1
    bases = Basis(rows, rows), Basis(), Basis(rows)

    def coefficients(x: Float[Tensor, " n"]) -> Triple:
        margins = relu_ce_coefficients(shares, largest**0.5 * x.to(shares).exp())
        return Triple(margins * shares.sqrt(), margins / shares.sqrt(), margins)

    highest = (second / largest) ** 0.5 * (1 - 1 / num_classes) * (1 - 1e-9)
    low, high = math.log(_SMALLEST_ERROR), math.log(highest)
    return Curve(name, "r", bases, coefficients, lambda x: largest**0.5 * math.exp(x), low, high)


def _squared_error(
    name: str,
    shares: Float[Tensor, " r"],
    bases: tuple[Basis, Basis, Basis],
    num_layers: int,
    layer: int,
    alive: Bool[Tensor, " r"] | None,
) -> Curve:
    m = num_layers
    largest, second = _two_largest(shares if alive is None else shares[alive])
    limit = survival_threshold(m) if alive is None else spinodal(m)
    both_live = torch.tensor([limit * (second / largest) ** m * (1 - 1e-9)], dtype=torch.float64)
    highest = 1 - gains(both_live, m, None if alive is None else torch.ones(1, dtype=torch.bool))

    def tau(x: Tensor) -> Tensor:
        return torch.exp((m + 1) * x + (m - 1) * torch.log1p(-x.exp())) * largest**m

    def coefficients(x: Float[Tensor, " n"]) -> Triple:
        right_side = tau(x.to(shares))[:, None] / shares**m
        return gof_lengths(gains(right_side, m, alive), shares, m, layer)

    def value(x: float) -> float:
        return float(tau(torch.tensor(x, dtype=torch.float64)))

    low, high = math.log(_SMALLEST_GAP), math.log(float(highest))
    return Curve(name, "tau", bases, coefficients, value, low, high)


def _two_largest(shares: Float[Tensor, " K"]) -> tuple[float, float]:
    if len(shares) < 2:
        raise ValueError(
            f"Expected at least two classes that live, but got {len(shares)}: a single one says "
            "nothing of a geometry. Has training left all others at zero?"
        )
    largest, second = shares.topk(2).values.tolist()
    return largest, second


def _least(
    function: Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]], low: float, high: float
) -> tuple[float, bool]:
    """Where a function of one number is least, which may jump; and whether that is an end.

    On ever finer grids between the neighbors of the best point; the first one is dense towards the
    upper end, where one class after the other dies. It is an end where that is no farther.
    """
    ends = torch.tensor([low, high], dtype=torch.float64)
    from_end = torch.logspace(-8, 0, _TOWARDS_END, dtype=torch.float64) * (high - low)
    even = torch.linspace(low, high, _POINTS, dtype=torch.float64)
    grid, x = torch.cat([even, high - from_end]).unique(), low
    for _ in range(_ROUNDS + 1):
        best = int(function(grid).nan_to_num(torch.inf).argmin())
        x = float(grid[best])
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
        grid = torch.linspace(low, high, _FINER, dtype=torch.float64)
    at_ends, at_x = function(ends).clamp(min=0).sqrt(), function(torch.tensor([x], dtype=torch.float64))
    return x, bool((at_ends - at_x.clamp(min=0).sqrt() < _SAME).any())


def _distances(triple: Triple, target: Triple) -> tuple[tuple[float, float, float], float]:
    gaps = frame_gaps(triple, Triple(*(t.to(triple.means) for t in target)))
    w, h, z = gaps.tolist()
    return (w, h, z), float(rms(gaps))
