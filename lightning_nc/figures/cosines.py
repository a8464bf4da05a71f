"""The cosines between class means, and between classifier rows, beside the simplex ETF's."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from lightning_nc.figures.inline import showable
from lightning_nc.figures.ordering import similarity_order
from lightning_nc.figures.style import NAMED_CLASSES, class_label, without_latex
from lightning_nc.values.frame import Frame

_DIVERGING = "RdBu_r"  # symmetric around 0, and told apart by color-blind readers


@showable
@without_latex
def cosine_matrices(
    means: Frame,
    weights: Frame | None = None,
    class_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes | list[Axes]]:
    """Cosines between the class means, and between the classifier's rows, beside the simplex ETF's.

    More than 25 classes are put into an order in which similar class means are neighbors, the same in
    all panels, and the axes say so.

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
    labels = means.sampled.cpu().numpy()
    size = len(labels)
    ideal = torch.full((size, size), -1 / max(1, means.num_vectors - 1)).fill_diagonal_(1)
    panels = [("class means", means.cosines)]
    ordered = size > NAMED_CLASSES
    order = similarity_order(means.cosines.cpu().numpy()) if ordered else list(range(size))
    named = class_names is not None and size <= NAMED_CLASSES
    if ax is None:
        panels += [] if weights is None else [("classifier rows", weights.cosines)]
        panels += [("simplex ETF", ideal)]
        side = 3.1 if size <= 10 or not named else 4.0
        figure = Figure(figsize=(0.6 + side * len(panels), side + 0.3), layout="constrained")
        axes = list(np.atleast_1d(figure.subplots(1, len(panels))))
    else:
        figure, axes = ax.get_figure(root=True), [ax]  # type: ignore[assignment]
    texts = [class_label(int(labels[i]), class_names if named else None) for i in order]
    for axis, (title, cosines) in zip(axes, panels, strict=True):
        shown = cosines.cpu().float().numpy()[np.ix_(order, order)]
        image = _panel(axis, title, shown, texts, named)
        axis.set_xlabel(_axis_label(size, means.num_vectors, ordered), fontsize=9)
    colorbar = figure.colorbar(image, ax=axes, shrink=0.8)
    colorbar.set_label("cosine", fontsize=9)
    colorbar.ax.tick_params(labelsize=8)
    return figure, axes if ax is None else ax


def _panel(axis: Axes, title: str, cosines: np.ndarray, texts: list[str], named: bool) -> AxesImage:
    size = len(texts)
    image = axis.imshow(
        cosines, cmap=_DIVERGING, vmin=-1, vmax=1,
        # with fewer pixels than classes, "nearest" drops a part of the diagonal
        interpolation="nearest" if size <= 200 else "auto",
    )  # fmt: skip
    axis.set_title(title, fontsize=10, y=1.0)
    axis.tick_params(labelsize=8 if not named or size <= 10 else 6.5)
    shown = list(range(size)) if named or size <= 10 else _spread(size)
    names = [texts[i] for i in shown]
    axis.set_xticks(shown, names, rotation=90 if named else 0, parse_math=False)
    axis.set_yticks(shown, names, parse_math=False)
    return image


def _axis_label(size: int, num_classes: int, ordered: bool) -> str:
    sampled = size < num_classes
    if not ordered:
        return f"{size} of {num_classes:,} classes" if sampled else "class"
    return (f"{size:,} of {num_classes:,} " if sampled else "") + "classes, ordered by similarity"


def _spread(size: int) -> list[int]:
    """Five positions over the axis: an ordered axis needs its classes' numbers, not positions."""
    return np.linspace(0, size - 1, 5).round().astype(int).tolist()
