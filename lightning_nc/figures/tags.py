"""Rows with several tags: whether the mean of a pair points where the means of its two tags say."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from torch import Tensor

from lightning_nc.figures.inline import showable
from lightning_nc.figures.style import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    VERMILION,
    class_label,
    finite,
    line,
    log_axis,
    note,
    number,
    plain,
    wants_log,
    without_latex,
)  # fmt: skip
from lightning_nc.functional.tags import (
    SeenPairs,
    measured,
    pair_angles,
    seen_pairs,
    tag_angle,
    unmatched_angle,
)
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.evidence import Evidence
from lightning_nc.values.tags import TagStatistics, num_pairs

_WORST_PAIRS = 8
_TICKS = (0, 1, 5, 10, 20, 45, 90, 180)  # degrees
_BARS = 36


@showable
@without_latex
def tag_angles(
    tags: TagStatistics, class_names: Sequence[str] | None = None, stage: str = ""
) -> tuple[Figure, list[Axes]]:
    r"""Angles between :math:`\mu_i + \mu_j` and :math:`\mu_{ij}`, and what each number of tags leaves.

    Above, the angle of every pair of tags as a histogram, between the ideal of 0 and the mean angle of
    sums and pairs that do not belong together, which is what chance would give; beside it the pairs
    farthest from the ideal. The headline is the ratio of the two means, ``tags/angle_ratio``. The axis
    of angles goes by their square root, so that small ones are told apart. Below, by the number of
    tags m of a row, the scale :math:`C_m / C_1` and the residual, with the rows that they rest on.

    Args:
        tags: Statistics by tag and pair.
        class_names: Names of all tags.
        stage: Such as "val".

    Returns:
        The figure, and its axes: angles, worst pairs, scales, residuals; the last two alone where
        there are no angles, and the headline says why.

    Example:
        >>> import torch
        >>> from lightning_nc import ClassStatistics
        >>> from lightning_nc.values.tags import TagMoments
        >>> means, tags = torch.tensor([[2.0, 2, 0], [0, 3, 0], [0, 1, 1]]), 1 - torch.eye(3).flip(0)
        >>> statistics = TagStatistics(
        ...     ClassStatistics.from_batch(torch.eye(3), torch.arange(3), num_classes=3),
        ...     ClassStatistics.from_batch(means, torch.arange(3), num_classes=3),
        ...     {2: TagMoments.of_rows(means, tags)},
        ... )
        >>> figure, axes = tag_angles(statistics, ["cat", "dog", "emu"], stage="val")
        >>> figure.get_suptitle()  # 30 degrees over 420 / 9
        'val: angle ratio 0.643'
        >>> axes[1].get_yticklabels()[0].get_text()
        'cat / emu'

    References:
        Li, Li, Wang & Qu (2024), "Neural collapse in multi-label learning with pick-all-label loss".
    """
    try:
        found = seen_pairs(tags)
        means = found.single_means, found.pair_means
        matched, chance = tag_angle(*means, found.pairs), unmatched_angle(*means)
    except UndefinedMeasure as why:
        # one row of panels alone
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        headline, axes = textwrap.fill(f"no angles: {why}", 110), list(figure.subplots(1, 2))
    else:
        figure = Figure(figsize=(9.6, 6.2), layout="constrained")
        [[above], [below]] = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.25, 1))
        axes = [*above.subplots(1, 2, width_ratios=(1.3, 1)), *below.subplots(1, 2)]
        headline = f"angle ratio {number(float(matched / chance))}"
        degrees = pair_angles(*means, found.pairs).cpu().numpy()
        _histogram(axes[0], degrees, float(chance), num_pairs(tags.num_tags))
        _worst_pairs(axes[1], degrees, found, class_names)
    _scales(axes[-2], tags)
    _residuals(axes[-1], tags)
    for axis in axes:
        plain(axis)
    figure.suptitle(f"{stage}: {headline}" if stage else headline, fontsize=10, parse_math=False)
    return figure, axes


def tells_tags(evidence: Evidence) -> bool:
    """Whether rows with several tags were seen.

    Args:
        evidence: What a stage has left.

    Returns:
        Whether the picture has something to show.
    """
    tags = evidence.part("tags")
    return tags is not None and bool(tags.moments)


def _histogram(axis: Axes, degrees: np.ndarray, chance: float, num_pairs: int) -> None:
    """The angles, between the ideal and what chance would give."""
    degrees = degrees[np.isfinite(degrees)]
    mean = float(degrees.mean())
    top = min(180.0, 1.05 * max(90.0, chance, degrees.max()))
    axis.set_xscale("function", functions=(_root, np.square))
    axis.hist(degrees, (np.linspace(0, np.sqrt(top), _BARS + 1) ** 2).tolist(), color=BLUE)
    axis.axvline(0, color=GREEN, ls="--", lw=2, label="ideal: 0", clip_on=False)
    axis.axvline(mean, color=BLACK, ls=":", lw=1.6, label=f"mean: {number(mean)}")
    axis.axvline(chance, color=VERMILION, ls="--", lw=1.6, label=f"unmatched: {number(chance)}")
    axis.set_xlim(0, top)
    axis.xaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if tick <= top]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axis.set_xlabel(r"angle between $\mu_i + \mu_j$ and $\mu_{ij}$, in degrees", fontsize=9)
    seen = f" ({len(degrees):,} of {num_pairs:,} have rows)" if len(degrees) < num_pairs else ""
    axis.set_ylabel(f"pairs of tags{seen}", fontsize=9)
    # above the panel, where no bar can be
    axis.legend(
        fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3,
        borderpad=0.1, columnspacing=1.2,
    )  # fmt: skip


def _root(degrees: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(degrees, 0))


def _worst_pairs(
    axis: Axes, degrees: np.ndarray, found: SeenPairs, class_names: Sequence[str] | None
) -> None:
    """The largest angles as bars, the largest on top."""
    order = np.argsort(-np.nan_to_num(degrees, nan=-1.0), kind="stable")
    worst = order[: min(_WORST_PAIRS, int(np.isfinite(degrees).sum()))]
    axis.barh(range(len(worst)), degrees[worst], color=ORANGE, height=0.6)
    names = [" / ".join(class_label(tag, class_names) for tag in found.tags[k].tolist()) for k in worst]
    axis.set_yticks(range(len(worst)), names, parse_math=False)
    axis.set_ylim(_WORST_PAIRS - 0.4, -0.6)
    axis.set_xlim(0, 1.02 * float(degrees[worst[0]]) or 1.0)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axis.xaxis.set_major_formatter(lambda value, _: number(value))
    for place, k in enumerate(worst):
        rows = f"{int(found.rows[k]):,} row" + ("" if found.rows[k] == 1 else "s")
        axis.text(
            1.01, place, f"{number(degrees[k])}°, {rows}", va="center", fontsize=8,
            transform=axis.get_yaxis_transform(),
        )  # fmt: skip
    axis.set_title("pairs of the largest angle", fontsize=9)


def _scales(axis: Axes, tags: TagStatistics) -> None:
    """The scale by the number of tags, beside that of one tag, which is 1."""
    axis.set_ylabel(r"scale $C_m / C_1$", fontsize=9)
    values = _by_multiplicity(axis, tags, measured.scale)
    if values is None:
        return
    axis.axhline(1, color=GRAY, ls="--", lw=1, zorder=0)
    axis.plot(1, 1, "o", mfc="white", mec=GRAY, ms=6)
    line(axis, [*values], finite(values.values()), False, color=BLUE, size=5.0, marked=True)
    known = [value for value in values.values() if np.isfinite(value)]
    axis.set_ylim(min(0.0, 1.25 * min(known)), 1.25 * max(1.0, *known))
    for m, value in values.items():
        # below 1 the number stands away from the line
        _tell(axis, m, value, above=not 0.2 < value < 1)
    _furnish(axis, {1: int(tags.singles.num_samples), **_rows(tags)})


def _residuals(axis: Axes, tags: TagStatistics) -> None:
    """The residual by the number of tags, down from 1."""
    axis.set_ylabel("residual", fontsize=9)
    values = _by_multiplicity(axis, tags, measured.residual)
    if values is None:
        return
    known = [value for value in values.values() if np.isfinite(value)]
    log = wants_log(known)
    line(axis, [*values], finite(values.values()), log, color=GREEN, size=5.0, marked=True)
    if log:
        axis.set_ylim(min(0.1, 0.5 * min(value for value in known if value > 0)), 2)
        log_axis(axis)
    lowest = axis.get_ylim()[0]
    for m, value in values.items():
        _tell(axis, m, value, at=lowest if log and value == 0 else value)
    _furnish(axis, _rows(tags))


def _by_multiplicity(
    axis: Axes, tags: TagStatistics, measure: Callable[[TagStatistics, int], Float[Tensor, ""]]
) -> dict[int, float] | None:
    """A measure by the number of tags, NaN where it has no meaning; None: the panel says why."""
    values: dict[int, float] = {}
    why: dict[int, str] = {}
    for m in sorted(tags.moments):
        try:
            values[m] = float(measure(tags, m))
        except UndefinedMeasure as undefined:
            values[m], why[m] = float("nan"), str(undefined)
    told = f"m = {', '.join(map(str, why))} left out: {next(iter(why.values()))}" if why else ""
    told = textwrap.fill(told, 66)
    if np.isfinite([*values.values()]).any():
        axis.set_title(told, fontsize=7, color=GRAY)
        return values
    note(axis, told or "no row has more than one tag", size=7.0 if why else 8.0)
    axis.set_xticks([])
    axis.set_yticks([])
    return None


def _rows(tags: TagStatistics) -> dict[int, int]:
    """How many rows a value rests on, by their number of tags."""
    rows = {m: int(tags.moments[m].count) for m in sorted(tags.moments)}
    if 2 in rows and tags.pairs is not None:
        with suppress(UndefinedMeasure):  # there is no value either
            rows[2] = int(seen_pairs(tags).rows.sum())
    return rows


def _tell(axis: Axes, m: int, value: float, above: bool = True, at: float | None = None) -> None:
    """Write a value beside its point."""
    if np.isfinite(value):
        axis.annotate(
            number(value), (m, value if at is None else at), (0, 7 if above else -14),
            textcoords="offset points", ha="center", fontsize=8,
        )  # fmt: skip


def _furnish(axis: Axes, rows: Mapping[int, int]) -> None:
    """The x axis, which tells the rows as well."""
    axis.set_xlim(min(rows) - 0.5, max(rows) + 0.5)
    axis.set_xticks([*rows], [f"{m}\n{count:,}" for m, count in rows.items()])
    axis.set_xlabel("tags of a row (m), and the rows with so many", fontsize=9)
