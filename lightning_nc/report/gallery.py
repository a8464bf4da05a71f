"""Pictures, layout and words to the loggers of a Trainer: on rank 0 alone, without a collective."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning_nc.report.album import Album
from lightning_nc.report.dashboard import card, layout, stages_of
from lightning_nc.report.writers import (
    axis,
    log_animation,
    log_card,
    log_figure,
    log_layout,
    takes_figures,
    to_each,
)
from lightning_nc.values.history import History
from lightning_nc.values.statistics import Accumulated

AFFORDED = 0.1
"""The share of a run's time that drawing may take, apart from the first and the last epoch."""


class Gallery:
    """Shows the pictures of an :class:`~lightning_nc.report.album.Album`.

    Args:
        keys: The measured keys, less stage and prefix.
        prefix: What the callback puts before every key.
        class_names: Names of the classes, or None.
        say: Told the kind and the text of a warning.
    """

    def __init__(
        self,
        keys: Collection[str],
        prefix: str,
        class_names: Sequence[str] | None,
        say: Callable[[str, str], None],
    ) -> None:
        self._keys = keys
        self._prefix = prefix
        self._album = Album(class_names, prefix)
        self._say = say
        self._has_layout = False
        self._began = time.monotonic()
        self._spent = 0.0
        self._decided: tuple[int, bool] = (-1, False)

    def affords(self, epoch: int, is_last: bool) -> bool:
        """Whether to draw in this epoch: less often where epochs are short and drawing is not.

        Args:
            epoch: The epoch; once decided, it stays so for all its stages.
            is_last: Whether it is the last one, which is drawn in any case.

        Returns:
            The decision.
        """
        if self._decided[0] != epoch:
            elapsed = time.monotonic() - self._began
            cheap = self._spent <= AFFORDED * elapsed
            self._decided = epoch, cheap
        return self._decided[1] or is_last

    def hang(self, trainer: Any) -> None:
        """Give the loggers that have custom charts their layout, once."""
        if self._has_layout or not takes_figures(trainer):
            return
        self._has_layout = True
        charts = layout(self._keys, self._prefix)
        to_each(trainer.loggers, lambda logger: log_layout(logger, charts), self._say)

    def show_stage(self, trainer: Any, stage: str, accumulated: Accumulated, in_training: bool) -> None:
        """The pictures of one stage.

        Args:
            trainer: The Trainer.
            stage: The stage.
            accumulated: What it has come to.
            in_training: Whether the stage ends with the training epoch.
        """
        step = axis(trainer, epoch_is_over=in_training)
        with self._timed():
            for key, figure in self._album.of_stage(stage, accumulated.to("cpu")):
                self._each(trainer, log_figure, key, figure, step)

    def show_run(
        self, trainer: Any, history: History, layers: Sequence[str], is_last: bool = False
    ) -> None:
        """The pictures of the run so far, and the latest values in words.

        Args:
            trainer: The Trainer.
            history: The logged values.
            layers: The measured layers.
            is_last: Whether the run ends here: the animations are made.
        """
        step, stages = axis(trainer, epoch_is_over=True), stages_of(history, self._prefix)
        with self._timed():
            for key, figure in self._album.of_run(history, stages, layers):
                self._each(trainer, log_figure, key, figure, step)
            name = f"{self._prefix}neural_collapse"
            self._each(trainer, log_card, name, card(history, self._prefix), step)
            for key, gif in self._album.animations() if is_last else ():
                self._each(trainer, log_animation, key, gif, step)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self._spent += time.monotonic() - start

    def _each(self, trainer: Any, write: Callable[..., None], *content: Any) -> None:
        to_each(trainer.loggers, lambda logger: write(logger, *content), self._say)
