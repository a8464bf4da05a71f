"""Two or three classes in the plane of their means: features, means, classifier and ideal."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from lightning_nc.figures.inline import showable
from lightning_nc.figures.style import BLUE, GREEN, VERMILION, new_axes, without_latex
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.statistics import ClassStatistics

_TINY = torch.finfo(torch.float64).tiny
_ANGLES = torch.tensor([3.0, 7.0, 11.0], dtype=torch.float64) * torch.pi / 6  # 90, 210 and 330 degrees
_TRIANGLE = torch.stack([_ANGLES.cos(), _ANGLES.sin()], dim=1)


@showable
@without_latex
def collapse_picture(
    features: Tensor,
    target: Tensor,
    means: Tensor,
    global_mean: Tensor,
    classifier: LinearClassifier | None = None,
    classes: Sequence[int] = (0, 1, 2),
    class_names: Sequence[str] | None = None,
    ax: Axes | None = None,
    limit: float | int | None = None,
) -> tuple[Figure, Axes]:
    """Features, class means and classifier rows of three classes, in the plane of their means.

    Projected onto the plane through the three class means, and scaled so that the means have a norm of
    1 on average; dashed lines lead to the vertices of the simplex ETF, which three classes fill at 120
    degrees. The picture is turned (and mirrored) to where the first class's vertex points up, whatever
    the features' own rotation, so that pictures of several epochs can be compared. Two classes have a
    line instead of a plane: they are drawn along it, around the middle of their means, and across it in
    the direction in which their features spread most.

    Args:
        features: Sampled features.
        target: Their labels.
        means: All class means, not centered.
        global_mean: The unweighted mean of all class means.
        classifier: Adds the rows of W, scaled likewise.
        classes: The three classes to draw, or two.
        class_names: Names of all classes.
        ax: Draw into these axes.
        limit: Both axes run from -limit to limit, as the frames of an animation must; None: to fit.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: Unless ``classes`` are three, or two, of the classes.

    Example:
        >>> h, y = torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)
        >>> figure, axis = collapse_picture(h, y, torch.eye(3), torch.full((3,), 1 / 3), limit=1.5)
        >>> axis.get_xlabel()
        "plane of the three class means; norms relative to the means'"

    References:
        Papyan, Han & Donoho (2020), "Prevalence of neural collapse during the terminal phase of deep
        learning training", the animation in its supplement.
    """
    _check(classes, len(means))
    chosen = list(classes)
    given = means[chosen].double().cpu()
    origin = global_mean.double().cpu() if len(chosen) == 3 else given.mean(0)
    centered = given - origin
    rows = [features[target == label].double().cpu() - origin for label in chosen]
    if len(chosen) == 3:
        plane, vertices = _turned_plane(centered), _TRIANGLE.numpy()
    else:
        plane, vertices = _line_and_spread(centered, rows), np.array([[-1.0, 0.0], [1.0, 0.0]])
    points = centered @ plane
    scale = points.norm(dim=1).mean().clamp(min=_TINY)
    figure, axis = new_axes(ax, 4.6, 4.6)
    dots = {}
    for i, (label, color) in enumerate(zip(chosen, (BLUE, VERMILION, GREEN), strict=False)):
        around = rows[i] @ plane / scale
        axis.scatter(around[:, 0], around[:, 1], s=8, color=color, alpha=0.35, linewidths=0)
        axis.plot(*np.stack([[0, 0], vertices[i]]).T, "--", color="0.6", lw=1, zorder=0)
        mean = (points[i] / scale).numpy()
        axis.plot(*np.stack([[0, 0], mean]).T, color=color, lw=1.6)
        [dots[label]] = axis.plot(*mean, "o", color=color, ms=8)
        if classifier is not None:
            weight = classifier.weight[chosen].double().cpu() @ plane
            row = weight[i] / weight.norm(dim=1).mean().clamp(min=_TINY)
            axis.plot(*row.numpy(), "^", color=color, ms=9, mec="black", mew=0.8)
    _furnish(axis, len(chosen), limit)
    _name(axis, dots, class_names, classifier is not None, limit)
    return figure, axis


def largest_classes(statistics: ClassStatistics, at_most: int = 3) -> tuple[int, ...]:
    """The classes with the most samples, of equal ones the first, in their own order.

    Args:
        statistics: Statistics of all classes.
        at_most: How many.

    Returns:
        Their numbers; none that has no sample.

    Example:
        >>> y = torch.tensor([0, 1, 1, 2, 2, 2, 3])
        >>> largest_classes(ClassStatistics.from_batch(torch.randn(7, 2), y, num_classes=5))
        (0, 1, 2)
    """
    order = statistics.counts.sort(descending=True, stable=True).indices
    some = min(at_most, int(statistics.seen.sum()))
    return tuple(sorted(order[:some].tolist()))


def _check(classes: Sequence[int], num_classes: int) -> None:
    different = len(set(classes)) == len(classes) and all(0 <= c < num_classes for c in classes)
    if not different or len(classes) not in (2, 3):
        advice = " Of two classes, give classes=(0, 1)." if num_classes == 2 else ""
        raise ValueError(
            f"Expected {'two' if len(classes) == 2 else 'three'} different classes out of "
            f"{num_classes} to draw, but got {tuple(classes)}.{advice}"
        )


def _furnish(axis: Axes, num_chosen: int, limit: float | int | None) -> None:
    axis.set_aspect("equal")
    if limit is not None:
        axis.set(xlim=(-limit, limit), ylim=(-limit, limit))
    if num_chosen == 3:
        axis.set_xlabel("plane of the three class means; norms relative to the means'", fontsize=8)
    else:
        axis.set_xlabel("line of the two class means; norms relative to the means'", fontsize=8)
        axis.set_ylabel("direction of the largest spread within classes", fontsize=8)
    axis.tick_params(labelsize=8)


def _name(
    axis: Axes,
    dots: Mapping[int, Line2D],
    class_names: Sequence[str] | None,
    with_classifier: bool,
    limit: float | int | None,
) -> None:
    """Say which class is which; left to itself, a legend drops names that begin with "_"."""
    legend = axis.legend(
        list(dots.values()), [class_names[i] if class_names else f"class {i}" for i in dots],
        fontsize=8, frameon=False, title_fontsize=8,
        # a legend that looks for room jumps from frame to frame
        loc="best" if limit is None else "upper right",
        title="dots: means, triangles: classifier" if with_classifier else None,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _turned_plane(centered: Tensor) -> Tensor:
    """Two orthonormal columns that span the differences of three vectors, as well as they go.

    Of all bases the one in which the three vectors are nearest to the ideal triangle.
    """
    _, _, directions = torch.linalg.svd(centered - centered.mean(0), full_matrices=False)
    if directions.shape[0] < 2:
        directions = torch.cat([directions, torch.zeros_like(directions)])
    plane = directions[:2].T
    left, _, right = torch.linalg.svd(_TRIANGLE.T @ centered @ plane)
    return plane @ (left @ right).T


def _line_and_spread(centered: Tensor, rows: list[Tensor]) -> Tensor:
    """The direction between two vectors, and across it that of the largest spread around them."""
    along = centered[1] - centered[0]
    along = along / along.norm().clamp(min=_TINY)
    residuals = torch.cat([group - mean for group, mean in zip(rows, centered, strict=True)])
    residuals = residuals - torch.outer(residuals @ along, along)
    across = torch.zeros_like(along)
    if len(residuals):
        across = residuals[residuals.norm(dim=1).argmax()]
        # by power iteration: a full decomposition of thousands of rows takes seconds
        for _ in range(30):
            across = residuals.T @ (residuals @ (across / across.norm().clamp(min=_TINY)))
        # one of two opposite directions, the same one from picture to picture
        across = across * across[across.abs().argmax()].sign()
    return torch.stack([along, across / across.norm().clamp(min=_TINY)], dim=1)
