"""Which pictures a run gets, from the values of its stages, drawn one after another."""

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lightning_nc.functional.table import Evidence
from lightning_nc.values.history import History
from lightning_nc.values.statistics import Accumulated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_FRAMES = 60


class Album:
    """Draws what a stage has come to, and keeps the frames of its animation.

    Args:
        class_names: Names of all classes, or None for their numbers.
        prefix: What the callback puts before every key.
    """

    def __init__(self, class_names: Sequence[str] | None = None, prefix: str = "") -> None:
        self._names = class_names
        self._prefix = prefix
        self._classes: tuple[int, ...] = ()
        self._frames: dict[str, list[bytes]] = {}
        self._stride: dict[str, int] = {}
        self._drawn: dict[str, int] = {}

    def of_stage(self, stage: str, accumulated: Accumulated) -> Iterator[tuple[str, "Figure"]]:
        """The pictures of one stage: cosines, the plane of three classes, spectra, classes.

        Args:
            stage: The stage.
            accumulated: What it has come to; the sample is this rank's own.

        Yields:
            Names and figures.
        """
        from lightning_nc import figures

        check_names(self._names, accumulated.statistics.num_classes)
        seen = accumulated.statistics.seen
        if int(seen.sum()) < 2:
            return
        evidence = Evidence.of(accumulated.statistics, accumulated.classifier)
        names = self._names and [self._names[i] for i in seen.nonzero().flatten().tolist()]
        yield (
            self._key("cosines", stage),
            figures.cosine_matrices(evidence.means_frame, evidence.weights_frame, names)[0],
        )
        plane = self._plane(accumulated, evidence)
        self._keep_frame(stage, plane)
        yield self._key("plane", stage), plane
        yield self._key("spectra", stage), figures.spectra(evidence.statistics)[0]
        yield (
            self._key("classes", stage),
            figures.class_profile(evidence.statistics, evidence.classifier, names)[0],
        )

    def of_run(
        self, history: History, stages: Sequence[str], layers: Sequence[str]
    ) -> Iterator[tuple[str, "Figure"]]:
        """The pictures of the run so far: the summary sheet, and where layers are measured their depth.

        Args:
            history: The logged values.
            stages: The measured stages.
            layers: The measured layers in their order.

        Yields:
            Names and figures.
        """
        from lightning_nc import figures

        yield self._key("summary"), figures.summary(history, self._prefix)[0]
        for stage in stages if layers else ():
            figure, _ = figures.depth_profile(history, stage, layers, prefix=self._prefix)
            yield self._key("depth", stage), figure

    def animations(self) -> Iterator[tuple[str, bytes]]:
        """The collapse over the run, as GIFs, for each stage with at least two frames."""
        from PIL import Image

        from lightning_nc import figures

        for stage, frames in self._frames.items():
            if len(frames) > 1:
                images = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames]
                yield self._key("animation", stage), figures.animate(images)

    def _key(self, picture: str, stage: str = "") -> str:
        return f"{self._prefix}neural_collapse/{picture}" + (f"/{stage}" if stage else "")

    def _plane(self, accumulated: Accumulated, evidence: Evidence) -> "Figure":
        from lightning_nc import figures

        statistics, sample = accumulated.statistics, accumulated.sample.valid()
        if not self._classes or not bool(statistics.seen[list(self._classes)].all()):
            # the same ones over the whole run and in all stages; of equal counts the first
            order = statistics.counts.sort(descending=True, stable=True).indices
            at_most = min(3, int(statistics.seen.sum()))
            self._classes = tuple(sorted(order[:at_most].tolist()))
        figure, _ = figures.collapse_picture(
            sample.features,
            sample.target,
            statistics.means,
            evidence.statistics.global_mean,
            accumulated.classifier,
            self._classes,
            self._names,
            limit=1.8,
        )
        return figure

    def _keep_frame(self, stage: str, figure: "Figure") -> None:
        """At most so many, evenly over the run: when they are full, every other one goes."""
        from lightning_nc import figures

        number, stride = self._drawn.get(stage, 0), self._stride.get(stage, 1)
        self._drawn[stage] = number + 1
        if number % stride:
            return
        packed = io.BytesIO()  # a tenth of the memory of its pixels
        figures.frame(figure).save(packed, format="PNG")
        frames = self._frames.setdefault(stage, [])
        frames.append(packed.getvalue())
        if len(frames) > _MAX_FRAMES:
            del frames[1::2]
            self._stride[stage] = 2 * stride


def check_names(names: Sequence[str] | None, num_classes: int) -> None:
    """Raise a ValueError unless each class has a name, or none has."""
    if names is not None and len(names) != num_classes:
        raise ValueError(
            f"Expected class_names to have a name for each of {num_classes} classes, but got "
            f"{len(names)}: {', '.join(map(repr, names[:4]))}, ... Are they those of this data set?"
        )
