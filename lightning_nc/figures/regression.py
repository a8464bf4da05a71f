"""Regression: along how many directions the features vary, and how the head's rows are placed."""

import textwrap
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from lightning_nc.figures.inline import showable
from lightning_nc.figures.style import (
    BLUE,
    GRAY,
    VERMILION,
    log_axis,
    note,
    number,
    plain,
    spread,
    without_latex,
)
from lightning_nc.functional.regression import (
    compared_grams,
    feature_collapse,
    gamma,
    gram_distance,
    outside_variance,
    row_space,
)
from lightning_nc.functional.regression.spectrum import feature_directions
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.joint import JointMoments, LinearReadout
from lightning_nc.values.regression import RegressionEvidence

_DIVERGING = "RdBu_r"  # symmetric around 0, and told apart by color-blind readers
_NUMBERED = 12  # with more targets, numbers do not fit into the cells


@showable
@without_latex
def regression_spectrum(evidence: RegressionEvidence, stage: str = "") -> tuple[Figure, list[Axes]]:
    r"""Eigenvalues of the features' covariance, and :math:`W W^\top` beside what the targets ask for.

    Left, the eigenvalues relative to their sum, with a line at n, the number of targets: at collapse
    there are no more. Above them, in words, what lies outside: NRC1, NRC2 and the share of the
    variance. Right, :math:`W W^\top` and :math:`\Sigma^{1/2} - \sqrt{\gamma} I`, both relative to their
    Frobenius norms and in the same colors; NRC3 is the square of the distance between them. Targets go
    by their numbers.

    Args:
        evidence: Moments of features and targets, with the head where it is known.
        stage: Such as "val".

    Returns:
        The figure, and its axes: eigenvalues, and the two matrices, or the one that says why these are
        left out.

    Example:
        >>> import torch
        >>> from lightning_nc import LinearClassifier
        >>> y = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
        >>> h = torch.nn.functional.pad(y, (0, 1), value=1.0)  # a mean outside of W's rows
        >>> head = LinearClassifier(torch.eye(2, 3))
        >>> given = RegressionEvidence(joint=JointMoments.from_batch(h, y), head=head)
        >>> figure, axes = regression_spectrum(given, stage="val")
        >>> figure.get_suptitle()
        'val: NRC1 0.167, NRC2 0.167, NRC3 0.103'
        >>> [axis.get_title() for axis in axes[1:]]
        ['$W W^\\top$', '$\\Sigma^{1/2} - \\sqrt{\\gamma}\\, I$']

    References:
        Andriopoulos, Dong, Guo, Zhao & Ross (2024), "The prevalence of neural collapse in neural
        multivariate regression".
    """
    figure = Figure(figsize=_size(evidence.joint.num_targets), layout="constrained")
    [[left, right]] = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.25))
    axis = left.subplots()
    joint, readout = evidence.joint, evidence.readout
    values = {
        "NRC1": _Value.of(lambda: feature_collapse(joint)),
        "NRC2": _Value.of(lambda: row_space(joint, _needed(readout))),
        "NRC3": _Value.of(lambda: gram_distance(joint, _needed(readout))),
    }
    _spectrum(axis, joint)
    axis.set_title(_words(values, joint), fontsize=8, loc="left", y=1.0)
    matrices = _matrices(right, joint, readout, values["NRC3"])
    told = ", ".join(f"{name} {value.text}" for name, value in values.items())
    figure.suptitle(f"{stage}: {told}" if stage else told, fontsize=10, parse_math=False)
    return figure, [axis, *matrices]


def _size(num_targets: int) -> tuple[float, float]:
    """Inches: numbers in many cells take room."""
    return (13.5, 5.2) if 6 < num_targets <= _NUMBERED else (11.0, 4.0)


class _Value(NamedTuple):
    """A value, or the clause that says why there is none."""

    value: float
    why: str = ""

    @classmethod
    def of(cls, measure: Callable[[], Float[Tensor, ""]]) -> "_Value":
        try:
            return cls(float(measure()))
        except UndefinedMeasure as undefined:
            return cls(float("nan"), str(undefined))

    @property
    def text(self) -> str:
        return "left out" if self.why else number(self.value)


def _needed(readout: LinearReadout | None) -> LinearReadout:
    if readout is None:
        raise UndefinedMeasure("the head is not known")
    return readout


def _words(values: dict[str, _Value], joint: JointMoments) -> str:
    """What lies outside of the directions that the targets need, or why that has no value."""
    n = joint.num_targets
    main = "main direction" if n == 1 else f"{n} main directions"
    what = {
        "NRC1": f"unit rows outside the features' {main}",
        "NRC2": "unit rows outside the row space of W",
    }
    told = [f"{name} {values[name].text}: {values[name].why or what[name]}" for name in what]
    outside = _Value.of(lambda: outside_variance(joint))
    if not outside.why:
        told.append(f"{outside.text} of the features' variance outside their {main}")
    return "\n".join(textwrap.fill(each, 68) for each in told)


def _spectrum(axis: Axes, joint: JointMoments) -> None:
    """The eigenvalues that are not rounding, and a line where the targets end."""
    plain(axis)
    try:
        shares = feature_directions(joint).variances / joint.feature_covariance.trace()
    except UndefinedMeasure as why:
        _empty(axis, f"no eigenvalues: {why}")
        return
    values, n, d = shares.cpu().numpy(), joint.num_targets, joint.num_features
    index, first = np.arange(1, len(values) + 1), min(n, len(values))
    size = 3.5 if len(values) <= 100 else 1.5
    parts = (
        (index <= n, VERMILION, "the first" if first == 1 else f"the first {first}"),
        (index > n, BLUE, "the others"),
    )
    for inside, color, label in parts:
        if inside.any():
            axis.plot(index[inside], values[inside], "-o", color=color, lw=1, ms=size, label=label)
    axis.set_xscale("log")
    axis.set_ylim(min(1e-3, 0.5 * float(values[-1])), 1.6)
    log_axis(axis)
    targets = "target" if n == 1 else "targets"
    axis.axvline(n, color=GRAY, ls="--", lw=1, zorder=0, label=f"n = {n} {targets}")
    axis.set_xlim(0.8, 1.25 * max(d, n))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if d < 100 else (1,)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    rounding = f"   ({len(values)} of {d:,}, the others are 0)" if len(values) < d else ""
    axis.set_xlabel(f"index{rounding}", fontsize=9)
    axis.set_ylabel("eigenvalue / sum of all", fontsize=9)
    axis.legend(fontsize=8, frameon=False, loc="best")


def _matrices(
    figure: SubFigure, joint: JointMoments, readout: LinearReadout | None, distance: _Value
) -> list[Axes]:
    """Both Gram matrices in the same colors, or why they are left out."""
    if distance.why or readout is None:
        axis = figure.subplots()
        _empty(axis, f"NRC3 left out: {distance.why}")
        return [axis]
    axes = list(figure.subplots(1, 2))
    fitted = gamma(joint, readout)
    titles = r"$W W^\top$", r"$\Sigma^{1/2} - \sqrt{\gamma}\, I$"
    matrices = [m.cpu().numpy() for m in compared_grams(joint, readout, fitted)]
    most = max(float(abs(m).max()) for m in matrices)
    for axis, title, matrix in zip(axes, titles, matrices, strict=True):
        image = _panel(axis, title, matrix, most)
    bar = figure.colorbar(image, ax=axes, shrink=0.7)
    bar.set_label("entry / Frobenius norm", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    told = (
        f"NRC3 {distance.text}: squared distance of the two, with $\\gamma$ = {number(float(fitted))}"
    )
    figure.supxlabel(told, fontsize=8)
    return axes


def _panel(axis: Axes, title: str, matrix: np.ndarray, most: float) -> AxesImage:
    n = len(matrix)
    image = axis.imshow(
        matrix, cmap=_DIVERGING, vmin=-most, vmax=most, interpolation="nearest" if n <= 200 else "auto"
    )
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=8)
    shown = spread(n, _NUMBERED)
    axis.set_xticks(shown)
    axis.set_yticks(shown)
    axis.set_xlabel("target", fontsize=9)
    if n <= _NUMBERED:
        for (row, column), entry in np.ndenumerate(matrix):
            text = f"{entry:.2f}".replace("-0.00", "0.00")
            axis.text(
                column, row, text if n <= 6 else text.replace("0.", "."), ha="center", va="center",
                fontsize=9 if n <= 3 else 7, color="white" if abs(entry) > 0.6 * most else "black",
            )  # fmt: skip
    return image


def _empty(axis: Axes, text: str) -> None:
    """A panel that says why it is empty."""
    note(axis, textwrap.fill(text, 48))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
