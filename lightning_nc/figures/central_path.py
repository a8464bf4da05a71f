"""The central path of the squared error over a run: parts of the loss, and signal to noise."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_nc.figures.inline import showable
from lightning_nc.figures.over_run import OverRun, over_run
from lightning_nc.figures.style import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    line,
    log_axis,
    note,
    number,
    plain,
    wants_log,
    without_latex,
)  # fmt: skip
from lightning_nc.functional.signal_to_noise import snr_flow
from lightning_nc.values.history import History

LOSSES = ("mse/loss_nc1", "mse/loss_nc23", "mse/loss_perp", "mse/loss_least_squares")
"""The parts of the loss, and the sum of the first two."""

RATIOS = ("mse/snr_min", "mse/snr_max")
"""The least and the largest signal-to-noise ratio."""

_PARTS = {
    "mse/loss_nc1": ("NC1", BLUE),
    "mse/loss_nc23": ("NC2/3", ORANGE),
    "mse/loss_perp": ("off the path", GREEN),
}
_LEAST = "least squares"
_FEWEST = 3  # points that a law of two parameters can be wrong about
_ROUNDS, _LONGEST = 40, 1.0  # of its fit, and the longest step in log v


@showable
@without_latex
def loss_split(history: History, stage: str, prefix: str = "") -> tuple[Figure, list[Axes]]:
    """The parts of the squared error over a run: their shares, and the parts themselves.

    What the spread inside the classes costs the best classifier (NC1), what the class means cost it
    (NC2/3), and how far the classifier is from it (off the path), which is left out where the penalty
    is not stated. The black line is the least-squares loss, which is the sum of the first two. An
    epoch in which a part has no value has no shares. A zero on the logarithmic axis is a triangle on
    its lower edge.

    Args:
        history: The logged values.
        stage: Such as "train".
        prefix: What the logged keys begin with.

    Returns:
        The figure and its two axes.

    Example:
        >>> values = {"mse/loss_nc1/val": 0.3, "mse/loss_nc23/val": 0.1}
        >>> figure, axes = loss_split(History().extended(4, 9, values), "val")
        >>> figure.get_suptitle()
        'val, epoch 4: NC1 75%, NC2/3 25%'

    References:
        Han, Papyan & Donoho (2022), "Neural collapse under MSE loss: proximity to and dynamics on the
        central path".
    """
    run = over_run(history, LOSSES, stage, prefix)
    figure = Figure(figsize=(8.6, 3.8), layout="constrained")
    left, right = axes = list(figure.subplots(1, 2, sharex=True))
    parts = {key: run.values[key] for key in _PARTS if not np.isnan(run.values[key]).all()}
    total = sum(parts.values(), np.zeros(len(run.epochs)))
    total = np.where(total > 0, total, np.nan)
    shares = {key: values / total for key, values in parts.items()}
    for axis, title in ((left, "shares of the loss"), (right, "parts of the loss")):
        plain(axis)
        axis.set_title(title, fontsize=9, y=1.0)
        run.furnish(axis)
    if run.epochs:
        left.set_xlim(run.edges[0], run.edges[-1])
    _shares(left, run, shares, run.values[LOSSES[-1]] / total)
    _absolute(right, run, parts)
    handles, texts = right.get_legend_handles_labels()
    if handles:
        figure.legend(handles, texts, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    told = ", ".join(f"{_PARTS[key][0]} {_percent(s[-1])}" for key, s in shares.items())
    figure.suptitle(f"{run.headline(stage)}: {told}" if told else run.headline(stage), fontsize=10)
    return figure, axes


def _percent(share: float) -> str:
    """Such as 31%; a share that is there is never told as 0%."""
    return "NaN" if np.isnan(share) else f"{number(float(f'{100 * share:.2g}'))}%"


def _shares(axis: Axes, run: OverRun, shares: dict[str, np.ndarray], least: np.ndarray) -> None:
    """One column for each value, as wide as it is to the next: what has no neighbors is seen, too."""
    below = np.zeros(len(run.epochs))
    for key, values in shares.items():
        top = below + values
        axis.stairs(top, run.edges, baseline=np.nan_to_num(below), fill=True, color=_PARTS[key][1],
                    lw=0, alpha=0.85)  # fmt: skip
        below = top
    if not shares or np.isnan(below).all():
        note(axis, "no value")
        axis.set_yticks([])
        return
    if len(shares) == len(_PARTS):
        line(axis, run.x, least, log=False, color=BLACK)
    axis.set_ylim(0, 1)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _absolute(axis: Axes, run: OverRun, parts: dict[str, np.ndarray]) -> None:
    curves = {_PARTS[key][0]: (values, _PARTS[key][1]) for key, values in parts.items()}
    if not np.isnan(run.values[LOSSES[-1]]).all():
        curves = {_LEAST: (run.values[LOSSES[-1]], BLACK), **curves}
    if not curves:
        note(axis, "no value")
        axis.set_yticks([])
        return
    log = wants_log(np.concatenate([values for values, _ in curves.values()]))
    for name, (values, color) in curves.items():
        # below the others, as a part that is nearly all of it lies upon it
        line(axis, run.x, values, log, color=color, label=name, width=3.0 if name == _LEAST else 1.4)
    if log:
        log_axis(axis)


@showable
@without_latex
def signal_to_noise(history: History, stage: str, prefix: str = "") -> tuple[Figure, list[Axes]]:
    r"""The least and the largest signal-to-noise ratio over a run, beside the law of a flow.

    The dashed line is :math:`\log v + v^2 + v^4 / 4 = a + c t`, which the ratios follow in the
    gradient flow on the central path with equal counts, t the epoch or the optimizer step. It is
    fitted to the geometric mean of the two by least squares of :math:`\log v`. A network that follows
    no such flow, or whose learning rate changes, differs from it. A zero is a triangle on the lower
    edge.

    Args:
        history: The logged values.
        stage: Such as "train".
        prefix: What the logged keys begin with.

    Returns:
        The figure and its axes: the ratios, and the largest over the least.

    Example:
        >>> values = {"mse/snr_min/val": 0.5, "mse/snr_max/val": 2.0}
        >>> figure, axes = signal_to_noise(History().extended(4, 9, values), "val")
        >>> figure.get_suptitle()
        'val, epoch 4: signal to noise 0.5 to 2, max/min 4'

    References:
        Han, Papyan & Donoho (2022), "Neural collapse under MSE loss: proximity to and dynamics on the
        central path".
    """
    run = over_run(history, RATIOS, stage, prefix)
    low, high = (run.values[key] for key in RATIOS)
    figure = Figure(figsize=(6.2, 5.0), layout="constrained")
    above, below = axes = list(figure.subplots(2, 1, sharex=True, height_ratios=(3, 1)))
    for axis in axes:
        plain(axis)
    run.furnish(below)
    if np.isnan(low).all() and np.isnan(high).all():
        note(above, "no value")
        figure.suptitle(run.headline(stage), fontsize=10)
        return figure, axes
    _band(above, run, low, high)
    spread = np.divide(high, low, out=np.full(len(low), np.nan), where=low > 0)
    _spread(below, run, spread)
    told = f"signal to noise {number(low[-1])} to {number(high[-1])}"
    ratio = "" if np.isnan(spread[-1]) else f", max/min {number(spread[-1])}"
    figure.suptitle(f"{run.headline(stage)}: {told}{ratio}", fontsize=10)
    return figure, axes


def _band(axis: Axes, run: OverRun, low: np.ndarray, high: np.ndarray) -> None:
    log = wants_log(np.concatenate([low, high]))
    for values, label in ((high, "largest"), (low, "least")):
        line(axis, run.x, values, log, color=BLUE, label=label, width=1.2 if label == "least" else 2.4)
    axis.fill_between(run.x, low, high, where=low > 0, color=BLUE, alpha=0.2, lw=0)
    if log:
        axis.set_yscale("log")
    limits = axis.get_ylim()
    law = fitted_law(run.x, np.sqrt(low * high))
    if law is not None:
        off = _misfit(law, np.sqrt(low * high))
        label = f"log v + v² + v⁴/4 = a + c t, fitted; typically off by {off:.0%}"
        axis.plot(run.x, law, "--", color=ORANGE, lw=1.8, label=label)
        axis.set_ylim(limits)  # where the law goes astray the values are to be seen
    axis.set_ylabel("signal-to-noise ratio v", fontsize=9)
    axis.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=8, frameon=False, ncols=3,
        columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip
    if log:
        log_axis(axis)


def _spread(axis: Axes, run: OverRun, spread: np.ndarray) -> None:
    axis.set_ylabel("largest / least", fontsize=9)
    if np.isnan(spread).all():
        note(axis, "no value: the least is 0" if len(spread) else "no value")
        axis.set_yticks([])
        return
    line(axis, run.x, spread, log=False, color=BLUE)
    axis.axhline(1, color=GRAY, ls="--", lw=0.8, zorder=0)
    axis.annotate(
        "equal at\ncollapse: 1", (1, 1), (4, 0), xycoords=axis.get_yaxis_transform(),
        textcoords="offset points", va="bottom", fontsize=7, color=GRAY,
    )  # fmt: skip
    axis.set_ylim(0.9, max(1.5, 1.1 * np.nanmax(spread)))


def fitted_law(times: np.ndarray, ratios: np.ndarray) -> np.ndarray | None:
    r"""The law of the balanced flow, :math:`\log v + v^2 + v^4 / 4 = a + c t`, fitted to ratios.

    Least squares of :math:`\log v`, as it is drawn: of the left side itself nothing but the last ratios
    would count. The two parameters are found as the law's log v at both ends.

    Args:
        times: t.
        ratios: v, NaN where there is none.

    Returns:
        The law's v at all times; None where fewer than three ratios are known, or they do not differ
        in time.

    Example:
        >>> v = snr_flow(torch.tensor([0.5]), torch.tensor([0.0, 20.0, 40.0]), 10, 2)[:, 0].numpy()
        >>> np.allclose(fitted_law(np.array([0.0, 1.0, 2.0]), v), v)
        True
    """
    known = np.isfinite(ratios) & (ratios > 0)
    if len(np.unique(times[known])) < _FEWEST:
        return None
    passed = (times - times[known].min()) / np.ptp(times[known])
    given = np.log(ratios[known])
    ends = given[[passed[known].argmin(), passed[known].argmax()]]
    off = np.inf
    step = np.zeros(2)
    for _ in range(_ROUNDS):
        errors = given - _log_law(ends + step, passed[known])
        if (errors**2).sum() >= off:
            step = step / 2
            continue
        ends, off = ends + step, (errors**2).sum()
        step = _newton_step(ends, passed[known], errors)
    return np.exp(_log_law(ends, passed))


def _log_law(ends: np.ndarray, passed: np.ndarray) -> np.ndarray:
    """The law's log v where parts of the time have passed, from its values at both ends."""
    low, high = ends + np.exp(2 * ends) + np.exp(4 * ends) / 4
    # with N K = 1 and from v = 1, where the left side is 1.25, the flow passes through every value
    elapsed = torch.from_numpy(low + (high - low) * passed - 1.25)
    v = snr_flow(torch.ones(1, dtype=torch.float64), elapsed, 1, 1)[:, 0].numpy()
    return np.log(np.maximum(v, np.finfo(v.dtype).tiny))


def _newton_step(ends: np.ndarray, passed: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """By Gauss and Newton: the left side grows by (1 + v^2)^2 with log v."""
    growth = (1 + np.exp(2 * ends)) ** 2
    at = (1 + np.exp(2 * _log_law(ends, passed))) ** 2
    slopes = np.stack([1 - passed, passed], axis=1) * growth / at[:, None]
    step, *_ = np.linalg.lstsq(slopes, errors, rcond=None)
    return np.clip(step, -_LONGEST, _LONGEST)


def _misfit(law: np.ndarray, ratios: np.ndarray) -> float:
    """By how much the ratios are off, the root of the mean square."""
    known = np.isfinite(ratios) & (ratios > 0) & (law > 0)
    off = np.log(ratios[known] / law[known])
    return float(np.expm1(np.sqrt(np.mean(off**2)))) if len(off) else np.nan
