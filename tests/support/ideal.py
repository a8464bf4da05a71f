"""Features whose measures are known in closed form."""

import numpy as np
import torch
from support import oracles
from support.problems import rotation

from lightning_nc import ClassStatistics


def etf(num_classes: int, num_features: int) -> torch.Tensor:
    """A simplex equiangular tight frame, rotated."""
    return torch.from_numpy(oracles.simplex_etf(num_classes, num_features, np.random.default_rng(1)))


def around(means: torch.Tensor, delta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows per class and axis: the mean plus and minus delta along every axis of a basis."""
    axes = rotation(means.shape[1], seed=5) * delta
    rows = means[:, None] + torch.cat([axes, -axes])
    return rows.flatten(0, 1), torch.arange(len(means)).repeat_interleave(2 * means.shape[1])


def collapsed(means: torch.Tensor, offset: float = 0.0) -> ClassStatistics:
    """Two equal rows for each class."""
    rows = (means + offset).repeat(2, 1)
    return ClassStatistics.from_batch(rows, torch.arange(len(means)).repeat(2), len(means))
