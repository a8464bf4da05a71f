"""Pictures, layout and words to the loggers of a Trainer: on rank 0 alone, without a collective."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_nc.report.album import Album
from lightning_nc.report.dashboard import card, layout
from lightning_nc.report.findings import findings
from lightning_nc.report.scalars import axis, takes_figures
from lightning_nc.report.writers import FileWriter, to_each, writer_for
from lightning_nc.values.evidence import ClassEvidence, Evidence
from lightning_nc.values.history import History
from lightning_nc.values.key import keys_in
from lightning_nc.values.stage import Stage, in_order

AFFORDED = 0.1
"""Where nobody has said how often to draw: the share of a run's time that drawing may take, apart from
the first and the last epoch."""


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
        self._names = class_names
        self._album = Album(class_names, prefix)
        self._findings: dict[str, str] = {}  # by stage, the latest
        self._say = say
        self._has_layout = False
        self._began = time.monotonic()
        self._spent = 0.0
        self._decided: tuple[int, bool] = (-1, False)
        self._has_waited = False

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
        draws = self._decided[1] or is_last
        if not draws and not self._has_waited:
            self._has_waited = True
            rank_zero_info(
                f"NeuralCollapseCallback has spent {self._spent:.1f} s on pictures, more than "
                f"{AFFORDED:.0%} of the run so far, and leaves out those of epoch {epoch} and others "
                "until they take less, but for the last epoch. Set figures_every_n_epochs=10 to have "
                "them every 10 epochs, however long they take, or 0 to have none."
            )
        return draws

    def hang(self, trainer: Any, history: History) -> None:
        """Give the loggers that have custom charts their layout, once.

        Args:
            trainer: The Trainer.
            history: The logged values, some of which may have joined the others.
        """
        if self._has_layout or not takes_figures(trainer):
            return
        self._has_layout = True
        logged = {key.measure for _, key in keys_in(history, self._prefix)}
        charts = layout({*self._keys, *logged}, self._prefix)
        self._each(trainer, lambda writer: writer.layout(charts))

    def show_stage(self, trainer: Any, stage: Stage, evidence: Evidence) -> None:
        """The pictures of one stage.

        Args:
            trainer: The Trainer.
            stage: The stage.
            evidence: What it has come to.
        """
        step = axis(trainer, stage.ends_epoch)
        drawn = evidence.to("cpu")
        with self._timed():
            if isinstance(drawn, ClassEvidence):
                self._findings[stage.name] = findings(stage.name, drawn, self._names)
            for key, figure in self._album.of_stage(stage.name, drawn):
                self._figure(trainer, key, figure, step)

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
        step = axis(trainer, ends_epoch=True)
        with self._timed():
            for key, figure in self._album.of_run(history, layers):
                self._figure(trainer, key, figure, step)
            found = [self._findings[name] for name in in_order(self._findings) if self._findings[name]]
            name, words = f"{self._prefix}neural_collapse", card(history, self._prefix, found)
            if words:
                self._each(trainer, lambda writer: writer.text(name, words, step))
            for key, gif in self._album.animations() if is_last else ():
                self._animation(trainer, key, gif, step)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self._spent += time.monotonic() - start

    def _figure(self, trainer: Any, key: str, figure: Any, step: int) -> None:
        self._each(trainer, lambda writer: writer.figure(key, figure, step))

    def _animation(self, trainer: Any, key: str, gif: bytes, step: int) -> None:
        self._each(trainer, lambda writer: writer.animation(key, gif, step))

    def _each(self, trainer: Any, write: Callable[[FileWriter], None]) -> None:
        to_each(trainer.loggers, lambda logger: write(writer_for(logger)), self._say)
