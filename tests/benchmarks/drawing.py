"""Seconds that each picture takes, built and rendered, at C = 100."""

import io
import math

import torch
from measure import Row, timed

from lightning_nc import ClassStatistics, LinearClassifier, figures
from lightning_nc.functional import MEASURES
from lightning_nc.values.history import History

CLASSES, WIDTH, EPOCHS = 100, 128, 60
LAYERS = [f"backbone.{i}" for i in range(8)]


def pictures():
    """By name, what draws it."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, WIDTH, generator=generator)
    counts = torch.randint(10, 200, (CLASSES,), generator=generator)
    target = torch.repeat_interleave(torch.arange(CLASSES), counts)
    features = means[target] + 0.8 * torch.randn(len(target), WIDTH, generator=generator)
    statistics = ClassStatistics.from_batch(features, target, CLASSES)
    classifier = LinearClassifier(means + 0.2)
    names = [f"some class {i}" for i in range(CLASSES)]
    history = History()
    for epoch in range(EPOCHS):
        values = {}
        for i, key in enumerate(key for key, measure in MEASURES.items() if measure.default):
            for stage in ("train_online", "train", "val"):
                value = math.exp(-epoch / (5 + i))
                values[f"{key}/{stage}"] = value
                values |= {f"{key}/{stage}/{name}": 2 * value for name in LAYERS}
        history = history.extended(epoch, 10 * epoch, values)
    return {
        "cosines": lambda: figures.cosine_matrices(statistics.frame, classifier.frame, names),
        "plane": lambda: figures.collapse_picture(
            features, target, statistics.means, statistics.global_mean, classifier
        ),
        "spectra": lambda: figures.spectra(statistics),
        "classes": lambda: figures.class_profile(statistics, classifier, names),
        "depth": lambda: figures.depth_profile(history, "val", LAYERS),
        "summary": lambda: figures.summary(history),
    }


def run(quick, device):
    """Each picture as a PNG."""
    for name, draw in {} if quick else pictures().items():

        def picture():
            draw()[0].savefig(io.BytesIO(), format="png", dpi=100)  # noqa: B023

        picture()
        seconds = [timed(picture) for _ in range(7)]
        yield Row.of("drawing", f"{name}, C={CLASSES}", "seconds", seconds, 0.5)
