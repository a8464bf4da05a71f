"""What the end of an epoch costs: all keys that are logged by default."""

import time
import warnings

import torch
from measure import Row, timed

from lightning_nc import LinearClassifier, NeuralCollapse

VOCABULARY = 50_257
"""Tokens of GPT-2, whose features have 768 dimensions: there CPU seconds are told as well."""

# C, d, and the spread inside the classes: with 20, no row is near enough to its own mean to spare NC4
# the distances to all others
CASES = [
    (10, 2048, 1), (100, 2048, 1), (1000, 2048, 1), (1000, 2048, 20), (10_000, 1024, 1),
    (VOCABULARY, 768, 1), (VOCABULARY, 768, 50),
]  # fmt: skip


def run(quick, device):
    """Rows of (C, d), of classes that are apart and of classes that overlap."""
    for classes, width, spread in CASES[:2] if quick else CASES:
        generator = torch.Generator().manual_seed(0)
        means = 5 * torch.randn(classes, width, generator=generator)
        metric = NeuralCollapse(classes, width).to(device)
        classifier = LinearClassifier(means.to(device))
        for _ in range(8):
            target = torch.randperm(max(classes, 1024), generator=generator) % classes
            noise = spread * torch.randn(len(target), width, generator=generator)
            decided = target.to(device)
            metric.update(
                (means[target] + noise).to(device), decided, None, classifier, predicted=decided
            )

        def compute():
            metric._computed = None  # noqa: B023 - used within the loop
            metric.compute()  # noqa: B023

        with warnings.catch_warnings():  # more classes than features: no ETF
            warnings.simplefilter("ignore")
            compute()
        limit = (0.05 if device == "cuda" else 0.5) if classes == 1000 else None
        seconds, of_cpu = zip(
            *(_seconds(compute) for _ in range(3 if classes > 1000 else 5)), strict=True
        )
        case = f"C={classes}, d={width}{', overlapping' if spread > 1 else ''}"
        yield Row.of("compute", case, "seconds", seconds, limit)
        if classes == VOCABULARY and device == "cpu":
            yield Row.of("compute", case, "CPU seconds", of_cpu, 5)


def _seconds(function):
    """By the clock, and of the CPU: on a machine that others use the former tells of them."""
    start = time.process_time()
    seconds = timed(function)
    return seconds, time.process_time() - start
