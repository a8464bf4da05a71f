"""The geometries that a network may be heading for: two tables, by the center that their theory has."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_nc.functional.frames.simplex import etf, orthogonal, seli
from lightning_nc.functional.frames.squared_error import gof_centered_shape, gof_limit
from lightning_nc.functional.frames.triple import centered, class_shares
from lightning_nc.functional.imbalance.families import (
    Family,
    Fixed,
    gof_centered_curve,
    gof_curve,
    relu_ce_curve,
)
from lightning_nc.functional.imbalance.unconstrained import UnconstrainedFeatures


@dataclass(frozen=True)
class Problem:
    """What sets the geometries.

    Attributes:
        counts: Rows of each class in training.
        num_layers: M, of the linear head.
        layer: j, of which the input is measured.
        alive: The classes that live, where that is not for theory to say.
    """

    counts: tuple[int, ...]
    num_layers: int = 1
    layer: int = 1
    alive: tuple[bool, ...] | None = None

    @property
    def shares(self) -> Float[Tensor, " K"]:
        """p, of the classes."""
        return class_shares(torch.tensor(self.counts))

    @property
    def mask(self) -> Bool[Tensor, " K"] | None:
        """The classes that live."""
        return None if self.alive is None else torch.tensor(self.alive)

    @property
    def is_balanced(self) -> bool:
        """Whether all counts are equal, so that lengths say nothing."""
        return len(set(self.counts)) == 1


def _gof(problem: Problem) -> Family:
    return gof_curve(problem.shares, problem.num_layers, problem.layer, problem.mask)


def _gof_of(num_layers: int, problem: Problem) -> Family:
    """Of a head of other layers: the features that enter it."""
    return gof_curve(problem.shares, num_layers, 1, problem.mask, f"gof_{num_layers}")


def _gof_limit(problem: Problem) -> Family:
    target = gof_limit(torch.tensor(problem.counts), problem.num_layers, problem.layer)
    return Fixed("gof_limit", target)


def _gof_centered(problem: Problem) -> Family:
    if len(problem.counts) > 2:
        return gof_centered_curve(problem.shares, problem.num_layers, problem.layer)
    # two centered classes have one direction, of which no shape tells a length
    return Fixed("gof_centered", gof_centered_shape(problem.shares, tau=1e-9))


def _centered(problem: Problem, family: Fixed) -> Fixed:
    return Fixed(family.name, centered(family.target, problem.shares))


def _etf(problem: Problem) -> Fixed:
    return Fixed("etf", etf(len(problem.counts)))


def _seli(problem: Problem) -> Fixed:
    return Fixed("seli", seli(torch.tensor(problem.counts)))


AS_THEY_ARE: dict[str, Callable[[Problem], Family]] = {
    "of": lambda problem: Fixed("of", orthogonal(len(problem.counts))),
    "gof": _gof,
    "gof_limit": _gof_limit,
    "gof_1": partial(_gof_of, 1),
    "gof_2": partial(_gof_of, 2),
    "gof_3": partial(_gof_of, 3),
    "relu_ce": lambda problem: relu_ce_curve(problem.shares),
    "etf": _etf,
    "seli": _seli,
    "ce_ufm": lambda problem: UnconstrainedFeatures(problem.counts, bias_penalty=None),
}
"""Those that the class means are compared with as they are: of heads without a bias."""

CENTERED: dict[str, Callable[[Problem], Family]] = {
    "etf": lambda problem: _centered(problem, _etf(problem)),
    "gof_centered": _gof_centered,
    "seli": lambda problem: _centered(problem, _seli(problem)),
    "ce_ufm": lambda problem: UnconstrainedFeatures(problem.counts, bias_penalty=0.0),
}
"""Those that the class means less the mean of all rows are compared with, each centered likewise."""

_COINCIDE = {"gof": "of", "gof_limit": "of", "gof_1": "of", "gof_2": "of", "gof_3": "of",
             "gof_centered": "etf", "seli": "etf"}  # fmt: skip


def stand_for_themselves(names: Collection[str], problem: Problem) -> list[str]:
    """Those of some families that no other of them is the same as.

    Args:
        names: Of families, of one of the two tables.
        problem: What sets the geometries.

    Returns:
        With equal counts one for each geometry; else those of another number of layers than the head's.

    Example:
        >>> stand_for_themselves(["of", "gof", "relu_ce"], Problem((5, 5)))
        ['of', 'relu_ce']
    """
    own = {f"gof_{problem.num_layers}"} if "gof" in names and problem.layer == 1 else set()
    has_one = {"etf"} if len(problem.counts) == 2 else set()  # direction of centered means
    coinciding = set(_COINCIDE.values()) if problem.is_balanced else has_one
    same = {n for n, of in _COINCIDE.items() if of in coinciding and of in names}
    return [name for name in names if name not in own | same]


@lru_cache(maxsize=12)
def family(name: str, is_centered: bool, problem: Problem) -> Family:
    """A family by its name: counts stay the same over a run, and so do decompositions of them.

    Args:
        name: In one of the two tables.
        is_centered: Which of them.
        problem: What sets the geometries.

    Returns:
        The family.
    """
    return (CENTERED if is_centered else AS_THEY_ARE)[name](problem)
