"""Which pictures a run gets, from the values of its stages, drawn one after another."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lightning_nc.report.dashboard import stages_of
from lightning_nc.values.evidence import ClassEvidence, Evidence
from lightning_nc.values.history import History
from lightning_nc.values.key import Key

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_nc.figures import Look

_MAX_FRAMES = 60


class Album:
    """Draws what a stage has come to, and keeps the frames of its animations.

    Args:
        class_names: Names of all classes, or None for their numbers.
        prefix: What the callback puts before every key.
    """

    def __init__(self, class_names: Sequence[str] | None = None, prefix: str = "") -> None:
        self._names = None if class_names is None else tuple(class_names)
        self._prefix = prefix
        self._classes: tuple[int, ...] = ()
        self._films: dict[Key, Film] = {}

    def of_stage(self, stage: str, evidence: Evidence) -> Iterator[tuple[str, "Figure"]]:
        """The pictures of one stage.

        Args:
            stage: The stage.
            evidence: What it has come to; the sample is this rank's own.

        Yields:
            Names and figures.
        """
        from lightning_nc.figures import PICTURES

        look = self._look(stage, evidence)
        for picture in list(PICTURES.values()):
            if picture.when != "stage" or not picture.suits(evidence):
                continue
            if picture.shows(evidence, look):
                key = self._key(picture.name, stage)
                figure, _ = picture.draw(evidence, look, None)
                if picture.animated:
                    self._films.setdefault(self._key("animation", stage), Film()).add(figure)
                yield str(key), figure

    def of_run(self, history: History, layers: Sequence[str]) -> Iterator[tuple[str, "Figure"]]:
        """The pictures of the run so far.

        Args:
            history: The logged values.
            layers: The measured layers in their order.

        Yields:
            Names and figures.
        """
        from lightning_nc.figures import PICTURES, Look

        look = Look(self._names, layers=tuple(layers), prefix=self._prefix)
        every = stages_of(history, self._prefix)
        stages = {"stage": [], "run": [""], "stages": every, "layers": every if layers else []}
        for picture in list(PICTURES.values()):
            for stage in stages[picture.when]:
                of_stage = replace(look, stage=stage)
                if picture.shows(history, of_stage):
                    figure, _ = picture.draw(history, of_stage, None)
                    yield str(self._key(picture.name, stage)), figure

    def animations(self) -> Iterator[tuple[str, bytes]]:
        """The collapse over the run, as GIFs, for each stage with at least two frames."""
        for key, film in self._films.items():
            if len(film.frames) > 1:
                yield str(key), film.animated()

    def _key(self, picture: str, stage: str = "") -> Key:
        return Key(f"neural_collapse/{picture}", stage, prefix=self._prefix)

    def _look(self, stage: str, evidence: Evidence) -> "Look":
        from lightning_nc.figures import Look
        from lightning_nc.figures.plane import largest_classes

        if isinstance(evidence, ClassEvidence):
            statistics = evidence.all_classes
            check_names(self._names, statistics.num_classes)
            known = bool(self._classes) and bool(statistics.seen[list(self._classes)].all())
            if not known and evidence.num_classes > 1:
                # the same ones over the whole run and in all stages
                self._classes = largest_classes(statistics)
        return Look(self._names, self._classes, limit=1.8, stage=stage, prefix=self._prefix)


class Film:
    """Frames of one picture, at most so many, evenly over the run."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self._drawn, self._stride = 0, 1

    def add(self, figure: "Figure") -> None:
        """Keep a figure, unless it falls between two that are kept."""
        from lightning_nc import figures

        number = self._drawn
        self._drawn += 1
        if number % self._stride:
            return
        packed = io.BytesIO()  # a tenth of the memory of its pixels
        figures.frame(figure).save(packed, format="PNG")
        self.frames.append(packed.getvalue())
        if len(self.frames) > _MAX_FRAMES:
            del self.frames[1::2]
            self._stride *= 2

    def animated(self) -> bytes:
        """As a GIF."""
        from PIL import Image

        from lightning_nc import figures

        return figures.animate([Image.open(io.BytesIO(f)).convert("RGB") for f in self.frames])


def check_names(names: Sequence[str] | None, num_classes: int) -> None:
    """Raise a ValueError unless each class has a name, or none has."""
    if names is not None and len(names) != num_classes:
        raise ValueError(
            f"Expected class_names to have a name for each of {num_classes} classes, but got "
            f"{len(names)}: {', '.join(map(repr, names[:4]))}, ... Are they those of this data set?"
        )
