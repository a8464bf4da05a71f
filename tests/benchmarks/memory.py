"""Peak memory against the formula in the README, each case in a process of its own."""

import json
import subprocess
import sys

import torch
from measure import Row, peak

from lightning_nc import NeuralCollapse

CASES = [(10, 512, 256), (1000, 2048, 256), (50_000, 1024, 2048)]


def formula(classes, width, rows):
    """Bytes: the states, the sample while it grows, and the working memory of one piece of rows."""
    states = 8 * classes * width + 12 * width**2
    sample = 6 * min(8192 * width, 2**24)
    piece = min(2**21, max(rows * width, min(4096 * width, 2**21)))
    slots = min(piece, classes * width)
    return states + sample + 12 * piece + 32 * slots + 20e6


def measured(classes, width, rows):
    """Bytes by which the peak of this process rises."""
    features = torch.randn(rows, width)
    target = torch.randint(classes, (rows,))
    features.T @ features  # loads the libraries
    before = peak()
    metric = NeuralCollapse(classes, width)
    for _ in range(max(6, 3 * 8192 // rows)):
        metric.update(features, target, predicted=target)
    metric._accumulator.settle()
    return peak() - before


def run(quick, device):
    """Of (C, d, B), on the host."""
    for case in () if quick or not sys.platform.startswith("linux") else CASES:
        command = [sys.executable, __file__, json.dumps(case)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        classes, width, rows = case
        name = f"C={classes}, d={width}, B={rows}"
        yield Row.of("memory", name, "peak / formula", [int(output) / formula(*case)], 1.15)
        yield Row.of("memory", name, "peak, MB", [int(output) / 1e6])


if __name__ == "__main__":
    print(measured(*json.loads(sys.argv[1])))
