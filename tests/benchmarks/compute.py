"""What the end of an epoch costs: all keys that are logged by default."""

import warnings

import torch
from measure import Row, timed

from lightning_nc import LinearClassifier, NeuralCollapse

CASES = [(10, 2048), (100, 2048), (1000, 2048), (10_000, 1024)]


def run(quick, device):
    """Rows of (C, d)."""
    for classes, width in CASES[:2] if quick else CASES:
        generator = torch.Generator().manual_seed(0)
        means = 5 * torch.randn(classes, width, generator=generator)
        metric = NeuralCollapse(classes, width).to(device)
        classifier = LinearClassifier(means.to(device))
        for _ in range(8):
            target = torch.randperm(max(classes, 1024), generator=generator) % classes
            noise = torch.randn(len(target), width, generator=generator)
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
        limit = (0.05 if device == "cuda" else 0.5) if (classes, width) == (1000, 2048) else None
        seconds = [timed(compute) for _ in range(3 if classes > 1000 else 5)]
        yield Row.of("compute", f"C={classes}, d={width}", "seconds", seconds, limit)
