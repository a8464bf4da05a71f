"""Values to draw, and what is found in a drawing."""

import io

import numpy as np
import torch
from support import oracles
from support.ideal import etf
from support.problems import gaussian_classes, statistics_of

from lightning_nc import ClassStatistics, LinearClassifier
from lightning_nc.figures import (
    collapse_picture,
)
from lightning_nc.functional import MEASURES
from lightning_nc.values.history import History
from lightning_nc.values.statistics import Frame


def drawn(figure):
    """Render, which is where matplotlib warns."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def images(axes):
    """The arrays that the axes show."""
    return [np.asarray(axis.images[0].get_array()) for axis in axes]


def random_frame(num_vectors, width=16, seed=0):
    """Vectors in all directions."""
    generator = torch.Generator().manual_seed(seed)
    return Frame(torch.randn(num_vectors, width, generator=generator))


def cosines(frame):
    """Pair by pair, by the reference."""
    rows = frame.vectors.numpy()
    return np.array([[oracles.cosine(a, b) for b in rows] for a in rows])


def ideal(num_classes):
    """The cosines of the simplex ETF."""
    return np.where(np.eye(num_classes) == 1, 1, -1 / (num_classes - 1))


def stage(num_classes=5, width=16, offset=0.0, spread=0.3):
    """Rows of classes of equal size, and their statistics."""
    given = gaussian_classes([30] * num_classes, width, spread=spread, offset=offset)
    return given, statistics_of(given)


def picture(given, statistics, **settings):
    """The rows in the plane of three class means."""
    return collapse_picture(
        given.features, given.target, statistics.means, statistics.global_mean, **settings
    )


def collapsed(num_classes, rows=4):
    """Statistics at collapse, with their classifier."""
    frame = etf(num_classes, num_classes + 3)
    target = torch.arange(num_classes).repeat(rows)
    return ClassStatistics.from_batch(7 * frame[target], target, num_classes), LinearClassifier(frame)


def training(num_classes, width=16):
    """Statistics of classes of unequal size, with a classifier."""
    rng = np.random.default_rng(0)
    counts = rng.integers(2, 40, num_classes).tolist()
    given = gaussian_classes(counts, width, spread=0.5, offset=3.0)
    return statistics_of(given), given.classifier


STAGES = ("train_online", "train", "val", "test")


def run(epochs, layers=("a", "b"), stages=STAGES, prefix=""):
    """A history with all measures, of which each value is another one."""
    history = History()
    for epoch in range(epochs):
        values = {}
        for s, name in enumerate(stages):
            for k, key in enumerate(MEASURES):
                value = (1 + s + 0.01 * k) * 0.8**epoch
                values[f"{prefix}{key}/{name}"] = 10 if key == "nc0/classes_seen" else value
                values |= {f"{prefix}{key}/{name}/{x}": value + i + 1 for i, x in enumerate(layers)}
        history = history.extended(epoch, 10 * epoch + 9, values)
    return history
