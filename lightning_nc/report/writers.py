"""Pictures, words and the dashboard's layout to any Lightning logger: one class for each kind."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Charts = Mapping[str, Mapping[str, list[object]]]


class FileWriter:
    """Files beside the logs, for a logger that takes none of it; what others take, they do here.

    Args:
        logger: A Lightning logger.
    """

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.experiment: Any = getattr(logger, "experiment", None)

    @staticmethod
    def suits(logger: Any, experiment: Any) -> bool:
        """Whether the logger is of this kind, by what it can do."""
        return True

    def figure(self, key: str, figure: "Figure", step: int) -> None:
        """A figure.

        Args:
            key: Its name.
            figure: The figure.
            step: Where on the loggers' axis.
        """
        figure.savefig(self._file(f"{key}/{step:08d}.png"), dpi=100)

    def animation(self, key: str, gif: bytes, step: int) -> None:
        """An animated GIF.

        Args:
            key: Its name.
            gif: The encoded file.
            step: Where on the loggers' axis.
        """
        self._saved(key, gif)

    def layout(self, charts: Charts) -> None:
        """The dashboard's layout, where there are custom charts."""

    def text(self, key: str, text: str, step: int) -> None:
        """A text in Markdown, where texts are shown."""

    def _saved(self, key: str, gif: bytes) -> Path:
        path = self._file(f"{key}.gif")
        path.write_bytes(gif)
        return path

    def _file(self, name: str) -> Path:
        """A file beside the logs, in a folder that exists."""
        folder = getattr(self.logger, "log_dir", None) or getattr(self.logger, "save_dir", None) or "."
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class WandbWriter(FileWriter):
    """Weights & Biases."""

    @staticmethod
    def suits(logger: Any, experiment: Any) -> bool:
        """Whether it takes images."""
        return hasattr(logger, "log_image")

    def figure(self, key: str, figure: "Figure", step: int) -> None:
        """An image."""
        self.logger.log_image(key, [figure], step=step)

    def animation(self, key: str, gif: bytes, step: int) -> None:
        """A video, from a file."""
        path = self._saved(key, gif)
        if hasattr(self.logger, "log_video"):
            self.logger.log_video(key, [str(path)], step=step, format=["gif"])


class TensorBoardWriter(FileWriter):
    """TensorBoard, or what behaves like its SummaryWriter."""

    @staticmethod
    def suits(logger: Any, experiment: Any) -> bool:
        """Whether it takes figures."""
        return hasattr(experiment, "add_figure")

    def figure(self, key: str, figure: "Figure", step: int) -> None:
        """An image."""
        self.experiment.add_figure(key, figure, global_step=step, close=False)

    def animation(self, key: str, gif: bytes, step: int) -> None:
        """An image that moves: the writer's own API makes videos only, by moviepy."""
        self._saved(key, gif)
        if hasattr(self.experiment, "_get_file_writer"):
            from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

            image = Summary.Image(encoded_image_string=gif, colorspace=3)
            summary = Summary(value=[Summary.Value(tag=key, image=image)])
            self.experiment._get_file_writer().add_summary(summary, step)

    def layout(self, charts: Charts) -> None:
        """Custom scalars."""
        if hasattr(self.experiment, "add_custom_scalars"):
            self.experiment.add_custom_scalars({title: dict(inner) for title, inner in charts.items()})

    def text(self, key: str, text: str, step: int) -> None:
        """A text."""
        if hasattr(self.experiment, "add_text"):
            self.experiment.add_text(key, text, global_step=step)


class MlflowWriter(FileWriter):
    """MLflow."""

    @staticmethod
    def suits(logger: Any, experiment: Any) -> bool:
        """Whether it takes figures for a run."""
        return hasattr(experiment, "log_figure") and hasattr(logger, "run_id")

    def figure(self, key: str, figure: "Figure", step: int) -> None:
        """An artifact."""
        self.experiment.log_figure(self.logger.run_id, figure, f"{key}/{step:08d}.png")

    def animation(self, key: str, gif: bytes, step: int) -> None:
        """An artifact."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / f"{Path(key).name}.gif"
            file.write_bytes(gif)
            self.experiment.log_artifact(self.logger.run_id, str(file), str(Path(key).parent))


class CometWriter(FileWriter):
    """Comet."""

    @staticmethod
    def suits(logger: Any, experiment: Any) -> bool:
        """Whether it takes figures."""
        return hasattr(experiment, "log_figure")

    def figure(self, key: str, figure: "Figure", step: int) -> None:
        """A figure."""
        self.experiment.log_figure(figure_name=key, figure=figure, step=step)

    def animation(self, key: str, gif: bytes, step: int) -> None:
        """An image, from a file."""
        path = self._saved(key, gif)
        if hasattr(self.experiment, "log_image"):
            self.experiment.log_image(str(path), name=key, step=step)


WRITERS: list[type[FileWriter]] = [
    MlflowWriter, WandbWriter, TensorBoardWriter, CometWriter, FileWriter,
]  # fmt: skip
"""The first that suits a logger writes to it. MLflow's, which leaves no file, is the one that suits a
logger that accepts anything (`DummyLogger`)."""

_REMEDY = {
    "values": "; monitors and the history have them",
    "pictures": "; figures_every_n_epochs=0 turns them off",
}


def writer_for(logger: Any) -> FileWriter:
    """The writer of a logger.

    Example:
        >>> type(writer_for(object())).__name__
        'FileWriter'
    """
    experiment = getattr(logger, "experiment", None)
    return next(kind for kind in WRITERS if kind.suits(logger, experiment))(logger)


def to_each(
    loggers: Iterable[Any],
    write: Callable[[Any], None],
    say: Callable[[str, str], None],
    what: Literal["values", "pictures"] = "pictures",
) -> None:
    """Write to each logger; one that fails is said once and does not keep others from being written to.

    Args:
        loggers: Lightning loggers.
        write: Called with each.
        say: Told the kind and the text of a warning.
        what: What is written.
    """
    for logger in loggers:
        try:
            write(logger)
        except Exception as error:
            name = type(logger).__name__
            say(
                f"logger: {what} {name}",
                f"{name} could not take the {what} of NeuralCollapseCallback, and training goes on "
                f"without: {_cause(error)}. This is said once{_REMEDY[what]}.",
            )


def _cause(error: BaseException) -> str:
    """What an error began with, and what it was told as: a logger may call any error a wrong value."""
    chain = [error]
    while (deeper := _before(chain[-1])) is not None and deeper not in chain:
        chain.append(deeper)
    root, *others = (f"{type(e).__name__}: {' '.join(str(e).split())}" for e in reversed(chain))
    return f"{root} (told as {others[-1]})" if others else root


def _before(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)
