"""How the cost of an update grows with N, B, C and d: times, fitted exponents, and a figure."""

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from measure import Row, timed

from lightning_nc import NeuralCollapse

BASE = {"N": 8192, "B": 256, "C": 100, "d": 512}
SWEEPS = {
    "N": [4096, 8192, 16_384, 32_768, 65_536],
    "B": [16, 64, 256, 1024, 4096],
    "C": [10, 100, 1000, 10_000, 50_000],
    "d": [128, 256, 512, 1024, 2048],
}
EXPECTED = {"N": 1, "B": 0, "C": 0, "d": 2}


def seconds(N, B, C, d, device):  # noqa: N803 - the names of the field
    """To stream N rows in batches of B."""
    features = torch.randn(B, d, device=device)
    target = torch.randint(C, (B,), device=device)
    metric = NeuralCollapse(C, d).to(device)

    def stream():
        metric.reset()
        for _ in range(N // B):
            metric.update(features, target, predicted=target)
        metric._accumulator.settle()

    stream()
    return min(timed(stream) for _ in range(3))


def run(quick, device, figure=None):
    """One row per variable; the times go into a figure where a path is given."""
    if quick:
        return
    times = {
        name: [seconds(**{**BASE, name: value}, device=device) for value in values]
        for name, values in SWEEPS.items()
    }
    exponents = {name: _exponent(SWEEPS[name], times[name]) for name in SWEEPS}
    for name, exponent in exponents.items():
        case = f"{name} from {SWEEPS[name][0]:,} to {SWEEPS[name][-1]:,}"
        what = f"exponent of the time for N rows (arithmetic: {EXPECTED[name]})"
        yield Row.of("growth", case, what, [exponent])
    if figure:
        _draw(times, exponents).savefig(figure, dpi=110)


def _exponent(x, y):
    """The slope between the last three points, where what is constant no longer hides it."""
    return float(np.polyfit(np.log(x[-3:]), np.log(y[-3:]), 1)[0])


def _draw(times, exponents):
    figure = Figure(figsize=(10, 3.1), layout="constrained")
    for axis, (name, values) in zip(figure.subplots(1, 4, sharey=True), times.items(), strict=True):
        x = SWEEPS[name]
        axis.loglog(x, values, "o-", color="#0072B2", lw=1.6, ms=5, label="measured")
        ideal = values[-1] * (np.asarray(x) / x[-1]) ** EXPECTED[name]
        axis.loglog(x, ideal, "--", color="0.45", lw=1, label=f"slope {EXPECTED[name]}")
        fixed = ", ".join(f"{k}={v:,}" for k, v in BASE.items() if k != name)
        axis.set_title(f"{name}: slope {exponents[name]:.2f} at the end\n({fixed})", fontsize=9)
        axis.set_xlabel(name)
        axis.set_xticks(x, [f"{value:,}" for value in x], rotation=40, ha="right")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=7, frameon=False)
    figure.axes[0].set_ylabel("seconds for N rows")
    return figure
