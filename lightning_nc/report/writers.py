"""Scalars, figures and the dashboard's layout to any Lightning logger, by what it can do."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def publish(
    trainer: Any,
    values: Mapping[str, Tensor],
    told: Mapping[str, float],
    headlines: Mapping[str, float],
    step: int,
    say: Callable[[str, str], None],
) -> None:
    """Write scalars to the loggers, and to where EarlyStopping, ModelCheckpoint and progress bars look.

    ``self.log`` does as much for a millisecond per key, as it prepares to reduce over batches and ranks
    what is one value and equal on all ranks; and what it is given within an epoch it writes only where
    ``log_every_n_steps`` happens to fall.

    Args:
        trainer: The Trainer, in a fit.
        values: Scalars by key.
        told: The same on the host.
        headlines: Scalars for the progress bar, by their short names.
        step: Where on the loggers' axis.
        say: Told the kind and the text of a warning.
    """
    shown = trainer._logger_connector
    as_logged = {key: value.float() for key, value in values.items()}
    shown._callback_metrics.update(as_logged)
    shown._logged_metrics.update(as_logged)
    shown._progress_bar_metrics.update(headlines)
    row = {**told, "epoch": trainer.current_epoch}
    to_each(trainer.loggers, lambda logger: logger.log_metrics(row, step=step), say)


def numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars on the host, in one transfer.

    Example:
        >>> numbers({"nc1/cdnv": torch.tensor(0.5)})
        {'nc1/cdnv': 0.5}
    """
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True)) if values else {}


def axis(trainer: Any, epoch_is_over: bool = False) -> int:
    """Where on the loggers' axis Lightning itself writes now, so that pictures and scalars meet.

    Args:
        trainer: The Trainer.
        epoch_is_over: Whether this is the end of a training epoch, which belongs to its last batch.

    Returns:
        The step.
    """
    # what a step is only the loop knows: global_step counts each of several optimizers
    step = int(trainer.fit_loop.epoch_loop._batches_that_stepped)
    return max(0, step - 1) if epoch_is_over else step


def takes_figures(trainer: Any) -> bool:
    """Whether any logger is there for whom to draw, on this rank."""
    return bool(trainer.loggers) and trainer.is_global_zero


def log_figure(logger: Any, key: str, figure: "Figure", step: int) -> None:
    """A figure to one logger, by what it can do; to a PNG file beside its logs if it can do nothing.

    Args:
        logger: A Lightning logger.
        key: Name of the figure.
        figure: The figure.
        step: Where on the loggers' axis.
    """
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(logger, "log_image"):  # Weights & Biases
        logger.log_image(key, [figure], step=step)
    elif hasattr(experiment, "add_figure"):  # TensorBoard
        experiment.add_figure(key, figure, global_step=step, close=False)
    elif hasattr(experiment, "log_figure") and hasattr(logger, "run_id"):  # MLflow
        experiment.log_figure(logger.run_id, figure, f"{key}/{step:08d}.png")
    elif hasattr(experiment, "log_figure"):  # Comet
        experiment.log_figure(figure_name=key, figure=figure, step=step)
    else:
        figure.savefig(_file(logger, f"{key}/{step:08d}.png"), dpi=100)


def log_animation(logger: Any, key: str, gif: bytes, step: int) -> None:
    """An animated GIF: into TensorBoard's images, to MLflow as an artifact, else to a file.

    Args:
        logger: A Lightning logger.
        key: Name of the animation.
        gif: The encoded file.
        step: Where on the loggers' axis.
    """
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "log_artifact") and hasattr(logger, "run_id"):  # MLflow
        with TemporaryDirectory() as folder:
            file = Path(folder) / f"{Path(key).name}.gif"
            file.write_bytes(gif)
            experiment.log_artifact(logger.run_id, str(file), str(Path(key).parent))
        return
    path = _file(logger, f"{key}.gif")
    path.write_bytes(gif)
    if hasattr(experiment, "_get_file_writer"):  # TensorBoard's own API makes videos only, by moviepy
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        image = Summary.Image(encoded_image_string=gif, colorspace=3)
        summary = Summary(value=[Summary.Value(tag=key, image=image)])
        experiment._get_file_writer().add_summary(summary, step)
    elif hasattr(logger, "log_video"):  # Weights & Biases
        logger.log_video(key, [str(path)], step=step, format=["gif"])
    elif hasattr(experiment, "log_image"):  # Comet
        experiment.log_image(str(path), name=key, step=step)


def log_layout(logger: Any, charts: Mapping[str, Mapping[str, list[object]]]) -> None:
    """The dashboard's layout, to a logger that has custom charts (TensorBoard)."""
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_custom_scalars"):
        experiment.add_custom_scalars({title: dict(inner) for title, inner in charts.items()})


def log_card(logger: Any, key: str, text: str, step: int) -> None:
    """A text in Markdown, to a logger that shows texts (TensorBoard)."""
    experiment: Any = getattr(logger, "experiment", None)
    if text and hasattr(experiment, "add_text"):
        experiment.add_text(key, text, global_step=step)


def to_each(
    loggers: Iterable[Any], write: Callable[[Any], None], say: Callable[[str, str], None]
) -> None:
    """Write to each logger; one that fails is said once and does not keep others from being written to.

    Args:
        loggers: Lightning loggers.
        write: Called with each.
        say: Told the kind and the text of a warning.
    """
    for logger in loggers:
        try:
            write(logger)
        except Exception as error:
            name = type(logger).__name__
            say(
                f"logger: {name}",
                f"{name} could not take what NeuralCollapseCallback has for it, and training goes on "
                f"without: {type(error).__name__}: {error}. This is said once; "
                "figures_every_n_epochs=0 turns figures off.",
            )


def spare_second_sync(trainer: Any, keys: Iterable[str]) -> None:
    """Keep Lightning from advising ``sync_dist=True`` for values that are equal on all ranks already.

    Following the advice would cost two collectives for each key and epoch, and change nothing.

    Args:
        trainer: The Trainer; its package tells which of the two Lightning namespaces warns.
        keys: The logged keys.
    """
    import importlib

    package = "pytorch_lightning" if type(trainer).__module__.startswith("pytorch_l") else None
    root = package or "lightning.pytorch"
    result = importlib.import_module(f"{root}.trainer.connectors.logger_connector.result")
    already_given = getattr(result, "warning_cache", None)
    if already_given is None:
        return
    for key in keys:
        already_given.add(
            f"It is recommended to use `self.log({key!r}, ..., sync_dist=True)`"
            " when logging on epoch level in distributed setting to accumulate the metric across"
            " devices."
        )


def _file(logger: Any, name: str) -> Path:
    """A file beside the logs of a logger, in a folder that exists."""
    folder = getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None) or "."
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
