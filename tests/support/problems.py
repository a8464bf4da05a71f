"""Features, labels and classifiers with known difficulties, and how to compare what is measured."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property

import jaxtyping
import numpy as np
import torch
from support.oracles import reference_measures, two_pass_statistics
from torch import Tensor

from lightning_nc import ClassStatistics, FeatureSample, LinearClassifier, NeuralCollapse
from lightning_nc.functional import (
    COUNTS,
    MEASURES,
    ClassEvidence,
    count_decisions,
    evaluate,
    select,
    values_of,
)
from lightning_nc.values import Decisions, Tallies

# tensors here are tiny: several threads would only wait for one another
torch.set_num_threads(1)

VCI = "nc1/variability_collapse_index"
RELATIVE, ABSOLUTE, ABSOLUTE_VCI = 1e-5, 1e-8, 1e-6


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows of one stage with the classifier that decides on them.

    ``exact`` holds the features before they were rounded to float32, where the rounding itself would
    open directions that the reference (which knows no float32) takes for variability.
    """

    features: Tensor
    target: Tensor
    num_classes: int
    weight: Tensor
    bias: Tensor | None = None
    exact: Tensor | None = None

    @property
    def num_features(self) -> int:
        return self.features.shape[1]

    @cached_property
    def logits(self) -> Tensor:
        logits = self.features.double() @ self.weight.double().T
        return logits if self.bias is None else logits + self.bias.double()

    @property
    def predicted(self) -> Tensor:
        if len(self.weight) == 1:
            return (self.logits[:, 0] > 0).long()
        return self.logits.argmax(1)

    @property
    def classifier(self) -> LinearClassifier:
        return LinearClassifier(self.weight, self.bias)

    @cached_property
    def reference(self) -> dict[str, float]:
        """Every measure, by the independent reference."""
        weight = self.weight.double().numpy()
        bias = None if self.bias is None else self.bias.double().numpy()
        if len(weight) == 1:  # a binary head decides as these two rows
            weight = np.concatenate([-weight / 2, weight / 2])
            bias = None if bias is None else np.concatenate([-bias / 2, bias / 2])
        given = {"predicted": self.predicted.numpy(), "weight": weight, "bias": bias}
        target = self.target.numpy()
        features = self.features.double().numpy()
        values = reference_measures(features, target, self.num_classes, **given)
        if self.exact is not None:
            values[VCI] = reference_measures(self.exact.numpy(), target, self.num_classes)[VCI]
        return values

    def batches(self, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features, labels and logits in batches of these sizes, over and over until the data end."""
        start, turn = 0, 0
        while start < len(self.target):
            stop = start + sizes[turn % len(sizes)]
            yield self.features[start:stop], self.target[start:stop], self.logits[start:stop]
            start, turn = stop, turn + 1


UNEVEN = (1, 0, 7, 64, 3, 129, 1, 32)


@cache
def with_reference() -> list[str]:
    """The measures that the reference knows, in the order of the table; a new one brings its own."""
    known = problem("random").reference
    return [key for key in MEASURES if key in known]


def streamed(problem: Problem, sizes: Sequence[int] = UNEVEN, **settings) -> NeuralCollapse:
    """A metric that has seen the problem batch by batch."""
    settings = {"measures": with_reference(), **settings}
    metric = NeuralCollapse(problem.num_classes, problem.num_features, **settings)
    for features, target, logits in problem.batches(sizes):
        metric.update(features, target, logits, problem.classifier)
    return metric


def of_default(reference: Mapping[str, float]) -> dict[str, float]:
    """What a reference says of the measures that are logged without being asked for."""
    return {key: value for key, value in reference.items() if MEASURES[key].default}


def assert_measures(values, reference, relative=RELATIVE, absolute=ABSOLUTE) -> None:
    """The same keys on both sides, and the same value under each; NaN equals NaN."""
    assert set(values) == set(reference)
    for key, expected in reference.items():
        value = float(values[key])
        if math.isnan(expected):
            assert math.isnan(value), (key, value)
            continue
        allowed = ABSOLUTE_VCI if key == VCI else relative * abs(expected) + absolute
        assert abs(value - expected) <= allowed, (key, value, expected)


def assert_statistics(statistics, other, relative=1e-10, absolute=1e-12) -> None:
    """The same counts, and means and scatters up to rounding."""
    assert torch.equal(statistics.counts, other.counts)
    for name in ("means", "scatter", "sums_of_squares", "class_scatter"):
        mine, theirs = getattr(statistics, name), getattr(other, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            largest = float(theirs.abs().max()) if theirs.numel() else 0.0
            torch.testing.assert_close(mine, theirs, rtol=0, atol=relative * largest + absolute)


def rotation(size: int, seed: int = 0) -> Tensor:
    """A random orthogonal matrix."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(normal)[0]


def gaussian_classes(
    counts: Sequence[int],
    num_features: int,
    *,
    spread: float = 1.0,
    offset: float = 0.0,
    width: int | None = None,
    head_rows: int | None = None,
    bias: bool = True,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Problem:
    """Gaussian classes around Gaussian means, in a random order.

    Args:
        counts: Rows of each class; 0 for a class that is never seen.
        num_features: d.
        spread: Standard deviation inside a class; that of the means is 1.
        offset: Added to every feature.
        width: Rows and means lie in a random subspace of this width.
        head_rows: Rows of the classifier; None: one for each class.
        bias: Whether the classifier has one.
        dtype: Of the features.
        seed: For all draws.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    num_classes, inner = len(counts), width or num_features
    target = torch.arange(num_classes).repeat_interleave(torch.tensor(counts))
    target = target[torch.randperm(len(target), generator=generator)]
    rows = normal(num_classes, inner)[target] + spread * normal(len(target), inner)
    if width is not None:
        rows = rows @ rotation(num_features, seed)[:width]
    rows = rows + offset
    rounded = rows.to(dtype)
    return Problem(
        features=rounded,
        target=target,
        num_classes=num_classes,
        weight=normal(head_rows or num_classes, num_features).float(),
        bias=normal(head_rows or num_classes).float() if bias else None,
        exact=None if width is None else rows,
    )


def near_collapse(nc1: float, num_features: int, size: float = 1.0, rows: int = 1200) -> Problem:
    """Ten classes with an NC1 of about ``nc1``, their means offset by three standard deviations."""
    drawn = gaussian_classes(
        [rows // 10] * 10,
        num_features,
        spread=math.sqrt(nc1),
        offset=3.0,
        bias=False,
        dtype=torch.float64,
        seed=round(-math.log10(nc1)),
    )
    return replace(drawn, features=(size * drawn.features).float())


_MAKERS: dict[str, Callable[[], Problem]] = {
    "random": lambda: gaussian_classes([60] * 10, 32),
    "far from the origin": lambda: gaussian_classes([40] * 10, 32, offset=100.0),
    "float64": lambda: gaussian_classes([40] * 10, 16, dtype=torch.float64),
    "imbalanced": lambda: gaussian_classes([300, 100, 30, 10, 3, 2], 16),
    "a class with one sample": lambda: gaussian_classes([40, 20, 1], 8),
    "two classes": lambda: gaussian_classes([120, 80], 8),
    "more classes than features": lambda: gaussian_classes([30] * 12, 5),
    "one feature": lambda: gaussian_classes([30] * 4, 1),
    "fewer rows than features": lambda: gaussian_classes([6] * 4, 48),
    "bottleneck": lambda: gaussian_classes([40] * 10, 32, spread=0.3, width=4),
    "bottleneck off the origin": lambda: gaussian_classes([40] * 10, 32, spread=0.3, width=4, offset=3),
    "missing classes": lambda: gaussian_classes([50, 0, 30, 0, 0, 40, 20, 0, 0, 0], 16),
    "two of five classes": lambda: gaussian_classes([0, 50, 0, 30, 0], 6),
    "one class": lambda: gaussian_classes([0, 50, 0], 6),
    "binary head": lambda: gaussian_classes([90, 70], 8, head_rows=1),
    "binary head without a bias": lambda: gaussian_classes([90, 70], 8, head_rows=1, bias=False),
    "no bias": lambda: gaussian_classes([30] * 5, 12, bias=False),
    "tight": lambda: gaussian_classes([50] * 6, 24, spread=1e-4, offset=2.0),
}

NAMES = tuple(_MAKERS)


@cache
def problem(name: str) -> Problem:
    """The problem of that name."""
    return _MAKERS[name]()


def as_numpy(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Features in float64 and labels."""
    return problem.features.double().numpy(), problem.target.numpy()


def two_passes(given: Problem) -> ClassStatistics:
    """Statistics of the rows by the independent reference."""
    found = two_pass_statistics(*as_numpy(given), given.num_classes)
    counts, means, scatter, sums = map(torch.from_numpy, found)
    return ClassStatistics(counts, means, scatter, sums)


def statistics_of(given: Problem, covariance: str = "pooled") -> ClassStatistics:
    """Statistics of the rows."""
    return ClassStatistics.from_batch(given.features, given.target, given.num_classes, covariance)


def sample_of(given: Problem) -> FeatureSample:
    """A sample that holds all rows, with the network's decisions."""
    return FeatureSample(given.features, given.target, given.predicted, seen=len(given.target))


def decisions_of(given: Problem) -> Decisions:
    """The decisions on all rows."""
    rows = torch.tensor(len(given.target))
    return count_decisions(
        sample_of(given),
        statistics_of(given),
        stands_for=rows,
        predicted=rows,
        correct=(given.predicted == given.target).sum(),
    )


def tallies_of(given: Problem, **counts: int) -> Tallies:
    """Counts of rows: all decisions are known, and nothing was left out but what ``counts`` says."""
    known = {"predicted": len(given.target), "correct": int((given.predicted == given.target).sum())}
    told = {**dict.fromkeys(Tallies._fields, 0), **known, **counts}
    return Tallies(**{name: torch.tensor(n) for name, n in told.items()})


def evidence_of(given: Problem, **tallies: int) -> ClassEvidence:
    """All that a stage of these rows leaves behind."""
    stage = ClassEvidence(
        statistics_of(given), given.classifier, sample_of(given), tallies_of(given, **tallies)
    )
    ours = {name: c for name, c in COUNTS.items() if set(c.serves) <= set(ClassEvidence.parts)}
    counted = {name: count.function(stage, stage) for name, count in ours.items()}
    return replace(stage, counts=counted | {"decisions": decisions_of(given).as_vector()})


def measured(given: Problem) -> dict[str, float]:
    """Every measure that the reference knows, by the functions alone."""
    evidence = ClassEvidence.of(statistics_of(given), given.classifier, decisions_of(given))
    values = values_of(evaluate(select(with_reference()), evidence))
    return {key: float(value) for key, value in values.items()}


@contextmanager
def unchecked_shapes() -> Iterator[None]:
    """Without the tests' shape checks: what a user meets, at the speed that a user has."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
