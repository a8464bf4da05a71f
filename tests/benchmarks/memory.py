"""Peak memory against the formulas in docs/costs.md, each case in a process of its own."""

import json
import subprocess
import sys
import warnings

import torch
from measure import Row, peak

from lightning_nc import LinearClassifier, NeuralCollapse

CASES = [(10, 512, 256), (1000, 2048, 256), (50_000, 1024, 2048), (10, 8192, 256), (1000, 8192, 256)]


def while_updating(classes, width, rows):
    """Bytes: the states, the sample while it grows, and the working memory of one piece of rows."""
    states = 8 * classes * width + 12 * width**2
    sample = 6 * min(8192 * width, 2**24)
    piece = min(2**21, max(rows * width, min(4096 * width, 2**21)))
    slots = min(piece, classes * width)
    return states + sample + 12 * piece + 32 * slots + 20e6


def while_computing(classes, width, rows):
    """Bytes: the same, the value that the stage leaves, and what its keys are computed with."""
    value = 8 * classes * width + 8 * width**2
    keys = 56 * classes * width + 80 * min(classes, 2048) ** 2 + width**2
    return while_updating(classes, width, rows) + value + keys


def measured(classes, width, rows):
    """Bytes by which the peak of this process rises until all rows are in, and with all keys."""
    features = torch.randn(rows, width)
    classifier = LinearClassifier(torch.randn(classes, width))
    features[:, :64].T @ features  # loads the libraries
    torch.linalg.eigh(torch.eye(4, dtype=torch.float64))
    before = peak()
    metric = NeuralCollapse(classes, width)
    start = 0
    while start < max(6 * rows, min(classes + rows, 60_000), 3 * 8192):
        target = torch.arange(start, start + rows) % classes
        metric.update(features, target, None, classifier, predicted=target)
        start += rows
    metric._accumulator.settle()
    updated = peak() - before
    with warnings.catch_warnings():  # more classes than features: no ETF
        warnings.simplefilter("ignore")
        metric.compute()
    return updated, peak() - before


def run(quick, device):
    """Of (C, d, B), on the host."""
    formulas = {"": while_updating, ", with all keys": while_computing}
    for case in () if quick or not sys.platform.startswith("linux") else CASES:
        command = [sys.executable, __file__, json.dumps(case)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        classes, width, rows = case
        name = f"C={classes}, d={width}, B={rows}"
        for (what, formula), taken in zip(formulas.items(), json.loads(output), strict=True):
            yield Row.of("memory", name, f"peak / formula{what}", [taken / formula(*case)], 1.15)
            yield Row.of("memory", name, f"peak{what}, MB", [taken / 1e6])


if __name__ == "__main__":
    print(json.dumps(measured(*json.loads(sys.argv[1]))))
