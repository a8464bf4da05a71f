"""Rows that are dealt to ranks, what the ranks make of them, and how to compare it."""

import re
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.oracles import reference_measures
from support.problems import VCI

from lightning_nc import LinearClassifier, NeuralCollapse

NUM_CLASSES, WIDTH = 5, 6


MEASURES = ("default", VCI)


NEEDS_SCATTER = ("nc1/within_between_pinv", VCI)


CLASSIFIER = LinearClassifier(
    torch.randn(NUM_CLASSES, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    torch.randn(NUM_CLASSES, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
)


@dataclass(frozen=True)
class Rows:
    features: torch.Tensor
    target: torch.Tensor
    logits: torch.Tensor

    def __getitem__(self, which):
        return Rows(self.features[which], self.target[which], self.logits[which])

    def __len__(self):
        return len(self.target)

    def batches(self, size=16):
        return [self[i : i + size] for i in range(0, len(self), size)]

    def reference(self, **classifier):
        counted = self[self.target >= 0]
        features, target = counted.features.numpy(), counted.target.numpy()
        predicted = counted.logits.argmax(1).numpy()
        return reference_measures(features, target, NUM_CLASSES, predicted=predicted, **classifier)


def draw(num_rows=180, classes=range(NUM_CLASSES), offset=0.0, spread=1.0, blur=0.6, dtype="float32"):
    """Gaussian classes, and a network that decides for most of them: the rows that bounds rest on."""
    rng = np.random.default_rng(0)
    centers = offset + 1.5 * rng.standard_normal((NUM_CLASSES, WIDTH))
    target = rng.choice(list(classes), num_rows)
    features = centers[target] + spread * rng.standard_normal((num_rows, WIDTH))
    logits = np.eye(NUM_CLASSES)[target] + blur * rng.standard_normal((num_rows, NUM_CLASSES))
    return Rows(*(torch.tensor(x) for x in (features.astype(dtype), target, logits)))


def deal(rows, owner, world):
    """The batches of each rank; ``owner`` says which rank has a row."""
    rank_of_row = torch.as_tensor(owner(rows.target, torch.arange(len(rows)), world))
    return [rows[rank_of_row == rank].batches() for rank in range(world)]


def evenly(target, i, world):
    return i % world


@dataclass(frozen=True)
class Case:
    owner: Callable = evenly
    rows: dict = None
    last_rank_is_ignored: bool = False
    says: tuple[str, ...] = ()

    def deal(self, world):
        rows = draw(**(self.rows or {}))
        if self.last_rank_is_ignored:
            last = self.owner(rows.target, torch.arange(len(rows)), world) == world - 1
            rows = Rows(rows.features, rows.target.masked_fill(last, -100), rows.logits)
        return rows, deal(rows, self.owner, world)


CASES = {
    "even shards": Case(),
    "one row against all others": Case(lambda y, i, world: (i > 0) * (1 + i % (world - 1))),
    "shards of 1, 20 and all other rows": Case(
        lambda y, i, world: torch.where(i == 0, world - 1, torch.where(i <= 20, world - 2, 0))
    ),
    "the last rank has no batch": Case(lambda y, i, world: i % (world - 1)),
    "the first rank has no batch": Case(
        lambda y, i, world: 1 + i % (world - 1),
        says=("was called before the ``update`` method",),  # torchmetrics, on rank 0
    ),
    "the last rank has only ignored rows": Case(last_rank_is_ignored=True),
    "each class is on one rank only": Case(lambda y, i, world: y % world),
    "the last rank has two classes only": Case(
        lambda y, i, world: torch.where(y < 2, i % world, i % (world - 1))
    ),
    "a class is on no rank": Case(rows={"classes": (0, 1, 3, 4)}, says=("none of class 2",)),
    "two classes are on no rank, and the others on one each": Case(
        lambda y, i, world: y % world,
        rows={"classes": (0, 1, 4)},
        says=("none of classes 2, 3",),
    ),
    "offset 1,000 and spread 1e-3 in float32": Case(rows={"offset": 1e3, "spread": 1e-3}),
    "offset 1,000 and spread 1e-5, each class on one rank": Case(
        lambda y, i, world: y % world,
        rows={"offset": 1e3, "spread": 1e-5, "dtype": "float64"},
    ),
    "offset 1,000 and spread 1e-5, uneven shards": Case(
        lambda y, i, world: torch.where(i < 7, world - 1, i % (world - 1)),
        rows={"offset": 1e3, "spread": 1e-5, "dtype": "float64"},
    ),
}


@contextmanager
def saying(*patterns):
    """Each of the patterns is warned of, and nothing else."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts = [str(w.message) for w in caught]
    for text in texts:
        assert any(re.search(pattern, text) for pattern in patterns), text
    for pattern in patterns:
        assert any(re.search(pattern, text) for text in texts), f"nothing was said of {pattern}"


def accumulated(batches, classifier=None, **settings):
    metric = NeuralCollapse(**{"num_classes": NUM_CLASSES, "num_features": WIDTH, **settings})
    for batch in batches:
        metric.update(batch.features, batch.target, batch.logits, classifier)
    return metric


def assert_identical(first, *others):
    """The same keys in the same order, and the same bits."""
    for other in others:
        assert list(first) == list(other)
        for key, value in first.items():
            assert torch.equal(value, other[key]), (key, value, other[key])


def assert_same_values(values, reference, rel=1e-6):
    mine, theirs = ({key: float(v) for key, v in each.items()} for each in (values, reference))
    # directions below what float32 makes of the means have a share in the reference's index
    if VCI in mine and VCI in theirs:
        assert mine.pop(VCI) == pytest.approx(theirs.pop(VCI), rel=rel, abs=1e-8)
    assert mine == pytest.approx(theirs, rel=rel, abs=1e-12)


def assert_near(actual, expected, scale=None):
    """To 1e-6 of the largest entry, or of a scale."""
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    assert actual.shape == expected.shape
    scale = expected.abs().max() if scale is None else scale
    assert (actual - expected).abs().max() <= 1e-6 * scale


def assert_same_statistics(statistics, other, spread):
    assert torch.equal(statistics.counts, other.counts)
    assert_near(statistics.means, other.means, scale=spread)
    assert_near(statistics.sums_of_squares, other.sums_of_squares)
    for name in ("scatter", "class_scatter"):
        mine, its = getattr(statistics, name), getattr(other, name)
        assert (mine is None) == (its is None), name
        if mine is not None:
            assert_near(mine, its)


def assert_bitwise_statistics(first, *others):
    for other in others:
        for name, value in vars(first).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, getattr(other, name)), name


COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "gather",
    "gather_object", "broadcast", "broadcast_object_list", "reduce", "reduce_scatter",
    "reduce_scatter_tensor", "scatter", "scatter_object_list", "all_to_all", "all_to_all_single",
    "barrier", "monitored_barrier", "send", "recv", "isend", "irecv",
)  # fmt: skip


@contextmanager
def noted_collectives():
    """Name and bytes of each collective that is called from Python; of a gather, the result's."""
    calls = []

    def noted(name, function):
        def call(*args, **kwargs):
            tensors = args[0] if args and isinstance(args[0], list) else args[:1]
            sizes = [t.nbytes for t in tensors if isinstance(t, torch.Tensor)]
            calls.append((name, sum(sizes)))
            return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in COLLECTIVES:
            patch.setattr(dist, name, noted(name, getattr(dist, name)))
        yield calls
