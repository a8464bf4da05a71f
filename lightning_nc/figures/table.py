"""The table of pictures: which there are, what each needs, and when it is drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_nc.figures.alignment import ALIGNMENTS, alignment
from lightning_nc.figures.by_layer import SHARE, by_layer, logged
from lightning_nc.figures.central_path import LOSSES, RATIOS, loss_split, signal_to_noise
from lightning_nc.figures.classes import class_profile
from lightning_nc.figures.cosines import cosine_matrices
from lightning_nc.figures.depth import PANELS, depth_profile
from lightning_nc.figures.depth_map import depth_map
from lightning_nc.figures.graphs import NO_LAYERS, RATIO, curves_by_pool, graph_depth
from lightning_nc.figures.inline import showable
from lightning_nc.figures.lengths import class_lengths, tells_lengths
from lightning_nc.figures.plane import collapse_picture, largest_classes
from lightning_nc.figures.race import RACES, race
from lightning_nc.figures.regression import regression_spectrum
from lightning_nc.figures.sheet import summary
from lightning_nc.figures.spectrum import spectra
from lightning_nc.figures.tags import tag_angles, tells_tags
from lightning_nc.values.evidence import ClassEvidence, Evidence
from lightning_nc.values.history import History
from lightning_nc.values.regression import RegressionEvidence
from lightning_nc.values.tag_evidence import TagEvidence

FigureAndAxes = tuple[Figure, Any]


@dataclass(frozen=True)
class Look:
    """What the pictures of a run have in common.

    Attributes:
        class_names: Names of all classes, or None for their numbers.
        classes: Those that are drawn in a plane; none: the largest three.
        limit: Both axes of a plane run from -limit to limit, as in an animation; None: to fit.
        layers: The measured layers, in their order.
        stage: The stage.
        prefix: What the logged keys begin with.
    """

    class_names: tuple[str, ...] | None = None
    classes: tuple[int, ...] = ()
    limit: float | None = None
    layers: tuple[str, ...] = ()
    stage: str = ""
    prefix: str = ""

    def names_of_seen(self, evidence: ClassEvidence) -> list[str] | None:
        """The names of the classes seen."""
        if self.class_names is None:
            return None
        return [self.class_names[i] for i in evidence.all_classes.seen.nonzero().flatten().tolist()]


def _always(given: Any, look: Look) -> bool:
    return True


@dataclass(frozen=True)
class Picture:
    """One line of the table.

    Attributes:
        name: As it is logged.
        draw: From evidence (or the history), a :class:`Look` and axes or None, to figure and axes.
        needs: Parts of the evidence; the picture is drawn only where all of them are there.
        when: "stage": of each stage from its evidence; "run": of the run's history; "stages": likewise,
            for each stage; "layers": for each stage, where layers are measured.
        animated: Whether its frames become an animation over the run.
        takes_axes: Whether it can be drawn into given axes.
        min_classes: With fewer classes seen, it is left out.
        main_of: The kind of evidence that it is the first picture of, where nobody names another.
        shows: Whether what it is drawn from has something for it to show. A run leaves it out if not;
            who asks for a picture of a stage by name gets it all the same.
    """

    name: str
    draw: Callable[[Any, Look, Axes | None], FigureAndAxes]
    needs: tuple[str, ...] = ()
    when: Literal["stage", "run", "stages", "layers"] = "stage"
    animated: bool = False
    takes_axes: bool = False
    min_classes: int = 2
    main_of: type[Evidence] | None = None
    shows: Callable[[Any, Look], bool] = _always

    def suits(self, evidence: Evidence) -> bool:
        """Whether the evidence has all that it needs."""
        enough = evidence.num_classes is None or evidence.num_classes >= self.min_classes
        return enough and all(evidence.part(name) is not None for name in self.needs)


def first_picture(evidence: Evidence) -> str:
    """The picture that is drawn where nobody names one.

    Args:
        evidence: What a stage has left.

    Returns:
        The name of the one of its kind; "cosines" of classes.
    """
    own = (p.name for p in PICTURES.values() if p.main_of is type(evidence))
    return next(own, "cosines")


@showable
def draw(
    name: str, evidence: Evidence, look: Look | None = None, ax: Axes | None = None
) -> FigureAndAxes:
    """The picture of that name.

    Args:
        name: One of a stage in :data:`PICTURES`.
        evidence: What the stage has left.
        look: What pictures of a run have in common.
        ax: Draw into these axes, where it has a single one.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: If there is no such picture, or it does not go into given axes.

    Example:
        >>> import torch
        >>> from lightning_nc import ClassStatistics
        >>> statistics = ClassStatistics.from_batch(torch.eye(3), torch.arange(3), num_classes=3)
        >>> figure, axes = draw("cosines", ClassEvidence.of(statistics))
        >>> len(axes)
        2
    """
    known = [p.name for p in PICTURES.values() if p.when == "stage" and (ax is None or p.takes_axes)]
    if name not in known:
        where = "" if ax is None else " (with ax)"
        listed = ", ".join(map(repr, known))
        raise ValueError(f"Expected picture to be one of {listed}{where}, but got {name!r}.")
    return PICTURES[name].draw(evidence, look or Look(), ax)


def _cosines(evidence: ClassEvidence, look: Look, ax: Axes | None) -> FigureAndAxes:
    names = look.names_of_seen(evidence)
    return cosine_matrices(evidence.means_frame, evidence.weights_frame, names, ax=ax)


def _plane(evidence: ClassEvidence, look: Look, ax: Axes | None) -> FigureAndAxes:
    assert evidence.sample is not None
    sample = evidence.sample.valid()
    return collapse_picture(
        sample.features,
        sample.target,
        evidence.all_classes.means,
        evidence.statistics.global_mean,
        evidence.head,
        look.classes or largest_classes(evidence.all_classes),
        look.class_names,
        ax=ax,
        limit=look.limit,
    )


def _spectra(evidence: ClassEvidence, look: Look, ax: Axes | None) -> FigureAndAxes:
    return spectra(evidence.statistics, ax=ax)


def _classes(evidence: ClassEvidence, look: Look, ax: Axes | None) -> FigureAndAxes:
    return class_profile(evidence.statistics, evidence.classifier, look.names_of_seen(evidence))


def _lengths(evidence: ClassEvidence, look: Look, ax: Axes | None) -> FigureAndAxes:
    return class_lengths(evidence, look.class_names, look.stage)


def _tag_angles(evidence: TagEvidence, look: Look, ax: Axes | None) -> FigureAndAxes:
    return tag_angles(evidence.tags, look.class_names, look.stage)


def _regression(evidence: RegressionEvidence, look: Look, ax: Axes | None) -> FigureAndAxes:
    return regression_spectrum(evidence, look.stage)


def _summary(history: History, look: Look, ax: Axes | None) -> FigureAndAxes:
    return summary(history, look.prefix)


def _depth(history: History, look: Look, ax: Axes | None) -> FigureAndAxes:
    return depth_profile(history, look.stage, look.layers, prefix=look.prefix)


def _depth_map(history: History, look: Look, ax: Axes | None) -> FigureAndAxes:
    return depth_map(history, look.stage, look.layers, prefix=look.prefix)


def _alignment(history: History, look: Look, ax: Axes | None) -> FigureAndAxes:
    return alignment(history, look.stage, look.layers, look.prefix)


def _graph_depth(history: History, look: Look, ax: Axes | None) -> FigureAndAxes:
    curves = curves_by_pool(history, look.stage, look.layers, look.prefix) or [NO_LAYERS]
    epochs = by_layer(history, RATIO, look.stage, look.layers, look.prefix).epochs
    return graph_depth(curves, look.stage, epochs[-1] if epochs else None)


def _race(history: History, look: Look, ax: Axes | None) -> FigureAndAxes:
    return race(history, look.stage, look.prefix)


def _loss_split(history: History, look: Look, ax: Axes | None) -> FigureAndAxes:
    return loss_split(history, look.stage, look.prefix)


def _snr(history: History, look: Look, ax: Axes | None) -> FigureAndAxes:
    return signal_to_noise(history, look.stage, look.prefix)


def _has_lengths(evidence: Evidence, look: Look) -> bool:
    return tells_lengths(evidence)


def _has_tags(evidence: Evidence, look: Look) -> bool:
    return tells_tags(evidence)


def _logs(measures: Sequence[str]) -> Callable[[History, Look], bool]:
    """Whether one of some measures is logged at the classifier's input."""
    return lambda history, look: bool(logged(history, measures, look.stage, (), look.prefix))


def _has_depth(history: History, look: Look) -> bool:
    return bool(logged(history, PANELS, look.stage, look.layers, look.prefix))


def _has_graphs(history: History, look: Look) -> bool:
    return bool(curves_by_pool(history, look.stage, look.layers, look.prefix))


def _has_map(history: History, look: Look) -> bool:
    return by_layer(history, SHARE, look.stage, look.layers, look.prefix).is_map


def _has_alignment(history: History, look: Look) -> bool:
    return bool(logged(history, ALIGNMENTS, look.stage, look.layers, look.prefix))


_TABLE = (
    Picture("cosines", _cosines, needs=("means_frame",), takes_axes=True),
    Picture("plane", _plane, needs=("statistics", "sample"), animated=True, takes_axes=True),
    Picture("spectra", _spectra, needs=("statistics",), takes_axes=True),
    Picture("classes", _classes, needs=("statistics",)),
    Picture("lengths", _lengths, needs=("linear_head",), min_classes=3, shows=_has_lengths),
    Picture("tag_angles", _tag_angles, needs=("tags",), main_of=TagEvidence, shows=_has_tags),
    Picture("regression", _regression, needs=("joint",), main_of=RegressionEvidence),
    Picture("summary", _summary, when="run"),
    Picture("race", _race, when="stages", shows=_logs(RACES)),
    Picture("loss_split", _loss_split, when="stages", shows=_logs(LOSSES)),
    Picture("snr", _snr, when="stages", shows=_logs(RATIOS)),
    Picture("depth", _depth, when="layers", shows=_has_depth),
    Picture("graph_depth", _graph_depth, when="layers", shows=_has_graphs),
    Picture("depth_map", _depth_map, when="layers", shows=_has_map),
    Picture("alignment", _alignment, when="layers", shows=_has_alignment),
)

PICTURES: dict[str, Picture] = {picture.name: picture for picture in _TABLE}
"""The pictures by name, in the order in which they are drawn."""
