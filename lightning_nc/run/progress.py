"""Nothing is silent for more than a few seconds."""

import time
from threading import Timer
from typing import Any

from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info

_SECONDS_OF_SILENCE = 5.0


def say_unless_cancelled(text: str) -> Timer:
    """A timer that says so when a few seconds have gone by; it waits to be started."""
    timer = Timer(_SECONDS_OF_SILENCE, rank_zero_info, [text])
    timer.daemon = True
    return timer


class Progress:
    """A bar beside the Trainer's own, or where it has none, now and then a line with the share."""

    def __init__(self, trainer: Any, total: int) -> None:
        self._total = total
        self._done = 0
        self._bar: Any = None
        self._last_word = time.monotonic()
        bar = trainer.progress_bar_callback
        if total and isinstance(bar, TQDMProgressBar) and not bar.is_disabled:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, desc="Neural collapse, frozen pass", leave=False, position=1)

    def __enter__(self) -> "Progress":
        self._last_word = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        """One batch more is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif self._total and time.monotonic() - self._last_word > _SECONDS_OF_SILENCE:
            self._last_word = time.monotonic()
            share = self._done / self._total
            rank_zero_info(f"Neural collapse, frozen pass: {share:.0%} of {self._total} batches")
