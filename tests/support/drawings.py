"""Values to draw, and what is found in a drawing."""

import io
import math

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
from lightning_nc.values.history import History, Logged
from lightning_nc.values.key import Key
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


THROUGH_LAYERS = (
    "layer/within_share", "nc1/within_between_pinv", "nc4/ncc_mismatch", "nc1/cdnv",
    "layer/subspace_alignment_centered", "layer/subspace_chance_centered",
)  # fmt: skip


def through_layers(layers, epochs, measures=THROUGH_LAYERS, prefix=""):
    """A history of "val" whose values fall with the depth and over the epochs; each is another one."""
    entries = {}
    for m, measure in enumerate(measures):
        for depth, layer in enumerate([*layers, ""]):
            fall = 0.3 * m + 6 * depth / max(1, len(layers))
            entries[str(Key(measure, "val", layer, prefix))] = tuple(
                Logged(epoch, 10 * epoch + 9, 0.6 * math.exp(-fall * (i + 1) / len(epochs)))
                for i, epoch in enumerate(epochs)
            )
    return History(entries, prefix)


def block_names(count):
    """Long names, which differ in their middle."""
    return [f"model.backbone.stages.{i // 10}.blocks.{i % 10}.mlp.fc1.in" for i in range(count)]


def texts_of(figure):
    """What of a figure's texts is drawn, once it has been laid out."""
    figure.draw_without_rendering()
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        found += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        found += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            # none are visible where another panel has them
            labels = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False)
            found += [label for place, label in labels if low <= place <= high]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def collisions(figure):
    """The texts that overlap another one, or leave the figure."""
    texts = texts_of(figure)
    boxes = [text.get_window_extent() for text in texts]
    apart = [(box.x0 + 0.5, box.x1 - 0.5, box.y0 + 0.5, box.y1 - 0.5) for box in boxes]
    found = [
        (texts[i].get_text(), texts[j].get_text())
        for i, a in enumerate(apart)
        for j, b in enumerate(apart[:i])
        if a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
    ]
    width, height = figure.bbox.size
    outside = [
        text.get_text()
        for text, (x0, x1, y0, y1) in zip(texts, apart, strict=True)
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height
    ]
    return found + outside
