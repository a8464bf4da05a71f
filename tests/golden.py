"""Situations with golden numbers: what the code computes, for changes that must not change it.

`python tests/golden.py` rewrites tests/golden/metrics.json and trainers.json from the code at hand,
which is only right after a change that is meant to change values. With `--checkpoint` it writes
before.ckpt and before.json in their place: what an older version has saved, for later ones to go on.
"""

import argparse
import dataclasses
import fnmatch
import functools
import json
import re
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import Callback, seed_everything
from support.problems import problem, streamed, with_reference
from support.training import BATCH, NUM_CLASSES, ROWS, Network, digits, fit, trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapse, NeuralCollapseCallback, NeuralCollapseWarning

FOLDER = Path(__file__).parent / "golden"


@contextmanager
def unsaid():
    """Without our warnings, which have tests of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeuralCollapseWarning)
        yield


# Metrics


def numbers(statistics):
    """What tells one statistics from another, in few numbers."""
    told = {
        "counts": statistics.counts.tolist(),
        "means": statistics.means.sum(1).tolist(),
        "sums_of_squares": statistics.sums_of_squares.tolist(),
    }
    if statistics.scatter is not None:
        told["scatter"] = [float(statistics.scatter.trace()), float(statistics.scatter.sum())]
    if statistics.class_scatter is not None:
        told["class_scatter"] = statistics.class_scatter.sum((1, 2)).tolist()
    return told


def measured(metric):
    """The values of a metric, and what they rest on."""
    with unsaid():
        values = {key: float(value) for key, value in metric.compute().items()}
    return {"values": values, "statistics": numbers(metric.statistics())}


def sampled(metric, given):
    """The sample as positions among the problem's rows, in the order of its slots."""
    same = (metric.sample().features[:, None] == given.features).all(2)
    return {**measured(metric), "sample": same.int().argmax(1).tolist()}


def of_problem(name, **settings):
    return measured(streamed(problem(name), **settings))


def of_few_rows():
    given = problem("random")
    return sampled(streamed(given, sample_rows=40), given)


def of_merged_parts():
    given = problem("imbalanced")
    features, target = given.features, given.target
    parts = [dataclasses.replace(given, features=features[i::3], target=target[i::3]) for i in range(3)]
    first, *others = (streamed(part, sample_rows=30, seed=i) for i, part in enumerate(parts))
    for other in others:
        first.merge_state(other)
    return sampled(first, given)


def of_rows_left_out():
    given = problem("float64")
    features, target = given.features.clone(), given.target.clone()
    target[::7], target[3::50], features[5::40, 2] = -100, given.num_classes, torch.nan
    return measured(streamed(dataclasses.replace(given, features=features, target=target)))


METRICS = {
    name: functools.partial(of_problem, name)
    for name in (
        "random", "far from the origin", "imbalanced", "a class with one sample",
        "more classes than features", "one feature", "fewer rows than features",
        "bottleneck off the origin", "missing classes", "one class", "binary head", "tight",
    )
} | {
    "a scatter for each class": functools.partial(of_problem, "imbalanced", covariance="per_class"),
    "traces only": functools.partial(of_problem, "random", covariance="none"),
    "a sample of few rows": of_few_rows,
    "three parts merged": of_merged_parts,
    "rows left out": of_rows_left_out,
}  # fmt: skip

# Trainers


class Grid(Network):
    """Its first layer puts out four tokens, the quarters of an image."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.grid = nn.Unflatten(1, (4, 16))

    def features(self, x):
        return super().features(self.grid(x).flatten(1))


class TwoLoaders(Network):
    """Takes a second validation loader."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return super().validation_step(batch, batch_idx)


class TwoViews(Network):
    """Two forwards in a step."""

    def note(self, stage, batch):
        x, y = batch
        return super().note(stage, batch) + super().note(stage, (x.flip(1), y))


def widest_class(statistics):
    """Spread of the widest class."""
    return (statistics.sums_of_squares / statistics.counts).max()


def training():
    """In order, so that values do not depend on how often a version of Lightning draws numbers."""
    return DataLoader(digits(), BATCH)


def validation():
    return DataLoader(digits(ROWS, 96), BATCH)


def told(run, callback):
    """All that a run has logged."""
    history = {
        key: [[row.epoch, row.step, row.value] for row in callback.history[key]]
        for key in callback.history
    }
    logged = {key: float(value) for key, value in run.callback_metrics.items()}
    return {"history": history, "logged": logged}


def fits(network=Network, val=validation, epochs=2, width=16, **settings):
    """A fit with a callback of these settings."""
    seed_everything(0, verbose=False)
    module, callback = network(width=width, dropout=0.0), NeuralCollapseCallback(**settings)
    with unsaid():
        run = fit(module, [callback], training(), val(), max_epochs=epochs)
    return told(run, callback)


def alone(what, **settings):
    """Only validation, or only a test."""
    seed_everything(0, verbose=False)
    callback = NeuralCollapseCallback(**settings)
    run = trainer([callback])
    getattr(run, what)(Network(), validation(), verbose=False)
    return told(run, callback)


def among(*globs):
    """Measures by glob, without those that came after the golden numbers."""
    return [key for glob in globs for key in fnmatch.filter(with_reference(), glob)]


TRAINERS = {
    "the callback as it is": fits,
    "validation only": functools.partial(fits, online=False),
    "a frozen pass": functools.partial(fits, frozen_every_n_epochs=1, inference="predict_step"),
    "every other epoch": functools.partial(fits, epochs=4, every_n_epochs=2),
    "a layer": functools.partial(fits, layers=["neck"]),
    "layers with pools": functools.partial(
        fits,
        Grid,
        layers={"grid": "token_mean", "hid*": "auto"},
        measures=among("nc1/*", "nc2/means_*"),
    ),
    "windows of steps": functools.partial(fits, epochs=3, every_n_steps=3),
    "a prefix and a measure of one's own": functools.partial(
        fits, prefix="mine/", measures=["golden.widest_class", *among("nc4/*"), "nc1/cdnv"]
    ),
    "two validation loaders": functools.partial(fits, TwoLoaders, lambda: [validation(), training()]),
    "validate()": functools.partial(alone, "validate", layers=["norm"]),
    "test()": functools.partial(alone, "test", measures=with_reference()),
    "all forwards": functools.partial(fits, TwoViews, forwards="all"),
    "few rows of a batch": functools.partial(fits, max_rows_per_batch=30, seed=3),
    "traces only": functools.partial(fits, covariance="none"),
    "wide features": functools.partial(fits, width=96),
}

# A checkpoint


class WithMetric(Network):
    """Has a metric of its own that goes into checkpoints."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.metric = NeuralCollapse(NUM_CLASSES, 16)
        self.metric.persistent(True)

    def keep(self, stage, h, y, logits):
        super().keep(stage, h, y, logits)
        if stage == "train_online":
            self.metric.update(h, y)


class Saves(Callback):
    """As ModelCheckpoint does at an epoch's end, but without this machine's paths in the file."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)


class Meets(Callback):
    """Notes what the metric holds before training goes on."""

    def on_train_start(self, trainer, pl_module):
        self.metric = measured(pl_module.metric)


def lives(epochs, others=(), resumed_from=None):
    """A fit of the network with a metric of its own, from the beginning or from a checkpoint."""
    seed_everything(0, verbose=False)
    module = WithMetric()
    callback = NeuralCollapseCallback(
        frozen_every_n_epochs=2, inference="predict_step", layers=["neck"]
    )
    run = trainer([callback, *others], max_epochs=epochs)
    with warnings.catch_warnings():
        # an older Lightning reads the checkpoint too
        warnings.filterwarnings("ignore", ".*newer than your current Lightning version.*")
        run.fit(module, training(), validation(), ckpt_path=resumed_from)
    return {"epochs": run.current_epoch, **told(run, callback), "metric": measured(module.metric)}


def resumed(path):
    """A run that goes on from a checkpoint to the fourth epoch."""
    meets = Meets()
    return {**lives(4, [meets], path), "met": meets.metric}


# Files


def read(name):
    return json.loads((FOLDER / name).read_text())


def write(name, tree):
    text = json.dumps(tree, indent=1)
    on_one_line = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text)
    (FOLDER / name).write_text(on_one_line + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", action="store_true")
    FOLDER.mkdir(exist_ok=True)
    if parser.parse_args().checkpoint:
        path = FOLDER / "before.ckpt"
        write("before.json", {"saved": lives(2, [Saves(path)]), "resumed": resumed(path)})
        return
    for name, situations in (("metrics.json", METRICS), ("trainers.json", TRAINERS)):
        write(name, {situation: find() for situation, find in situations.items()})


if __name__ == "__main__":
    main()
