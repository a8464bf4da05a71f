"""Class means and classifiers that have a given geometry, and statistics of them."""

import torch

from lightning_nc import ClassStatistics, LinearClassifier
from lightning_nc.functional.frames import Triple


def factors(triple):
    """W and class means of which these are the Gram matrices and the logits."""
    joint = torch.cat(
        [
            torch.cat([triple.weights, triple.logits], 1),
            torch.cat([triple.logits.T, triple.means], 1),
        ]
    )
    values, vectors = torch.linalg.eigh((joint + joint.T) / 2)
    rows = vectors * values.clamp(min=0).sqrt()
    half = len(triple.weights)
    return rows[:half], rows[half:]


def collapsed(means, counts, spread=0.0):
    """Statistics of rows at their class means, or around them in all directions."""
    counts, width = torch.as_tensor(counts), means.shape[1]
    each = counts.double() * spread
    scatter = torch.eye(width, dtype=torch.float64) * each.sum() / width
    return ClassStatistics(counts, means.double(), scatter, each)


def network_of(triple, counts, spread=0.0, bias=None):
    """Statistics and classifier of that geometry."""
    weight, means = factors(triple)
    return collapsed(means, counts, spread), LinearClassifier(weight, bias)


def noisy(triple, share, seed):
    """Each matrix with noise of a share of its root mean square; Gram matrices stay symmetric."""
    rng = torch.Generator().manual_seed(seed)

    def noise(matrix):
        drawn = torch.randn(matrix.shape, generator=rng, dtype=matrix.dtype)
        return share * matrix.norm() / len(matrix) * drawn

    w, h = (noise(matrix) for matrix in (triple.weights, triple.means))
    return Triple(
        triple.weights + (w + w.T) / 2**0.5,
        triple.means + (h + h.T) / 2**0.5,
        triple.logits + noise(triple.logits),
    )
