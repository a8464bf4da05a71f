r"""Cross-entropy on unconstrained features: a family of one parameter that solves convex programs."""

import math
from dataclasses import dataclass

import torch

from lightning_nc.functional.frames.ce_program import ce_ufm
from lightning_nc.functional.frames.triple import Triple, frame_gaps, rms
from lightning_nc.functional.imbalance.families import Family, Fit

_WEAKEST = 1e-6  # of the penalty at which all vanishes
_COARSE, _FINER, _ROUNDS = 13, 5, 8


@dataclass(frozen=True)
class UnconstrainedFeatures(Family):
    r"""The minima of cross-entropy with features of both signs, by :math:`\sqrt N \lambda_Z`.

    :math:`\lambda_Z = \sqrt{\lambda_W \lambda_H}`. Some fifty programs are solved for a fit.

    Attributes:
        counts: Rows of each class.
        bias_penalty: None: no bias; 0: a free one.
        name: As it is logged.
    """

    counts: tuple[int, ...]
    bias_penalty: float | None = None
    name: str = "ce_ufm"

    @property
    def highest(self) -> float:
        r"""The penalty :math:`\lambda_Z` from which on all vanishes."""
        n = torch.tensor(self.counts, dtype=torch.float64)
        # what the softmax leaves to each class where all vanishes: a free bias makes it the shares
        left = 1 / len(n) if self.bias_penalty is None else (n / n.sum())[:, None]
        errors = torch.eye(len(n), dtype=torch.float64) - left
        return float(torch.linalg.matrix_norm(errors * n.sqrt(), 2) / n.sum())

    def member(self, penalty: float) -> Triple:
        """The geometry at a penalty."""
        return ce_ufm(torch.tensor(self.counts), penalty, self.bias_penalty).triple

    def fit(self, triple: Triple) -> Fit:
        """Its member that is nearest to a triple."""
        tried: dict[float, Triple] = {}

        def distance(x: float) -> float:
            if x not in tried:
                tried[x] = self.member(math.exp(x))
            value = float(rms(frame_gaps(triple, tried[x])))
            return math.inf if math.isnan(value) else value

        high = math.log(0.999 * self.highest)
        low = ends = math.log(_WEAKEST * self.highest)
        grid = torch.linspace(low, high, _COARSE, dtype=torch.float64).tolist()
        for _ in range(_ROUNDS + 1):
            best = min(range(len(grid)), key=lambda i: distance(grid[i]))
            x, low, high = grid[best], grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
            grid = torch.linspace(low, high, _FINER, dtype=torch.float64).tolist()
        w, h, z = frame_gaps(triple, tried[x]).tolist()
        at_bound = x == ends
        value = None if at_bound else math.exp(x) * sum(self.counts) ** 0.5
        return Fit(self.name, (w, h, z), distance(x), "lambda_Z sqrt(N)", value, at_bound, tried[x])
