"""Pictures of collapse: from values to a matplotlib Figure, without pyplot and without a display."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lightning_nc.values import Frame, LinearClassifier

_DIVERGING = "RdBu_r"  # symmetric around 0, and told apart by color-blind readers


def cosine_matrices(
    means: Frame,
    weights: Frame | None = None,
    class_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes | list[Axes]]:
    """Cosines between the class means, and between the classifier's rows, beside the simplex ETF's.

    Args:
        means: The centered class means.
        weights: The classifier's rows, or None to leave their panel out.
        class_names: Names for the axes, up to 25 classes.
        ax: Draw the class means alone, into these axes.

    Returns:
        The figure and its axes.

    Example:
        >>> figure, axes = cosine_matrices(Frame(torch.eye(3) - 1 / 3))
        >>> [axis.get_title() for axis in axes]
        ['class means', 'simplex ETF']
    """
    size = len(means.sampled)
    ideal = torch.full((size, size), -1 / max(1, means.num_vectors - 1)).fill_diagonal_(1)
    panels = [("class means", means.cosines)]
    if ax is None:
        panels += [] if weights is None else [("classifier rows", weights.cosines)]
        panels += [("simplex ETF", ideal)]
        figure = Figure(figsize=(0.6 + 3.1 * len(panels), 3.4), layout="constrained")
        axes = list(np.atleast_1d(figure.subplots(1, len(panels))))
    else:
        figure, axes = ax.get_figure(root=True), [ax]  # type: ignore[assignment]
    for axis, (title, cosines) in zip(axes, panels, strict=True):
        image = axis.imshow(
            cosines.cpu().float().numpy(), cmap=_DIVERGING, vmin=-1, vmax=1, interpolation="nearest"
        )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("class", fontsize=9)
        axis.tick_params(labelsize=8)
        if class_names is not None and size <= 25:
            axis.set_xticks(range(size), class_names, rotation=90)
            axis.set_yticks(range(size), class_names)
    colorbar = figure.colorbar(image, ax=axes, shrink=0.8)
    colorbar.set_label("cosine", fontsize=9)
    colorbar.ax.tick_params(labelsize=8)
    return figure, axes if ax is None else ax


def collapse_picture(
    features: Tensor,
    target: Tensor,
    means: Tensor,
    global_mean: Tensor,
    classifier: LinearClassifier | None = None,
    classes: tuple[int, int, int] = (0, 1, 2),
    class_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Features, class means and classifier rows of three classes, in the plane of their means.

    Projected onto the plane through the three class means, and scaled so that the means have a norm of
    1 on average; dashed lines lead to the vertices of the simplex ETF, which three classes fill at 120
    degrees.

    Args:
        features: Sampled features.
        target: Their labels.
        means: All class means, not centered.
        global_mean: The unweighted mean of all class means.
        classifier: Adds the rows of W, scaled likewise.
        classes: The three classes to draw.
        class_names: Names of all classes.
        ax: Draw into these axes.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: Unless ``classes`` are three of the classes.
    """
    if len(set(classes)) != 3 or not all(0 <= c < len(means) for c in classes):
        raise ValueError(
            f"Expected three different classes out of {len(means)} to draw, but got {classes}."
        )
    chosen = list(classes)
    centered = (means - global_mean)[chosen].double().cpu()
    plane = _plane(centered)
    scale = (centered @ plane).norm(dim=1).mean().clamp(min=torch.finfo(torch.float64).tiny)
    vertices = _aligned_triangle(centered @ plane / scale)
    axis = Figure(figsize=(4.6, 4.6), layout="constrained").subplots() if ax is None else ax
    colors = ("#0072B2", "#D55E00", "#009E73")  # Okabe and Ito's palette
    for i, (label, color) in enumerate(zip(chosen, colors, strict=True)):
        name = class_names[label] if class_names else f"class {label}"
        rows = (features[target == label].double().cpu() - global_mean.double().cpu()) @ plane / scale
        axis.scatter(rows[:, 0], rows[:, 1], s=8, color=color, alpha=0.35, linewidths=0)
        axis.plot(*np.stack([[0, 0], vertices[i]]).T, "--", color="0.6", lw=1, zorder=0)
        mean = (centered[i] @ plane / scale).numpy()
        axis.plot(*np.stack([[0, 0], mean]).T, color=color, lw=1.6)
        axis.plot(*mean, "o", color=color, ms=8, label=name)
        if classifier is not None:
            row = classifier.weight[label].double().cpu() @ plane
            norms = (classifier.weight[chosen].double().cpu() @ plane).norm(dim=1)
            axis.plot(*(row / norms.mean()).numpy(), "^", color=color, ms=9, mec="black", mew=0.8)
    axis.set_aspect("equal")
    axis.set_xlabel("plane of the three class means; norms relative to the means'", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.legend(
        fontsize=8, frameon=False, loc="best", title_fontsize=8,
        title=None if classifier is None else "dots: means, triangles: classifier",
    )  # fmt: skip
    return axis.get_figure(root=True), axis  # type: ignore[return-value]


def _plane(centered: Tensor) -> Tensor:
    """Two orthonormal columns that span the differences of three vectors, as well as they go."""
    _, _, directions = torch.linalg.svd(centered - centered.mean(0), full_matrices=False)
    if directions.shape[0] < 2:
        directions = torch.cat([directions, torch.zeros_like(directions)])
    return directions[:2].T


def _aligned_triangle(points: Tensor) -> np.ndarray:
    """The unit triangle at 120 degrees, turned (or mirrored) to where the three points are."""
    angles = torch.tensor([0.0, 2.0, 4.0], dtype=points.dtype) * torch.pi / 3
    triangle = torch.stack([angles.cos(), angles.sin()], dim=1)
    left, _, right = torch.linalg.svd(triangle.T @ points)
    return (triangle @ left @ right).numpy()
