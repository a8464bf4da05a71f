"""When a stage is measured: in which epochs, or at the end of which window of steps."""

import reprlib
from collections.abc import Mapping
from typing import Any


class Schedule:
    """Counts epochs and steps, and says when a stage is due.

    Args:
        every_n_epochs: How often a stage is measured, by its name.
        default: How often the others are.
        every_n_steps: Optimizer steps of a window, or None: no windows.

    Example:
        >>> schedule = Schedule({"train": 10})
        >>> schedule.is_due("train", epoch=0)
        True
        >>> schedule.measured("train", epoch=0)
        >>> schedule.is_due("train", epoch=9), schedule.is_due("train", epoch=10)
        (False, True)
    """

    def __init__(
        self,
        every_n_epochs: Mapping[str, int] | None = None,
        default: int = 1,
        every_n_steps: int | None = None,
    ) -> None:
        self._every = dict(every_n_epochs or {})
        self._default = default
        self._window = every_n_steps
        self.forget()

    def forget(self) -> None:
        """Start over, for a new run."""
        self._measured_in: dict[str, int] = {}
        self._steps_in_window = 0
        self._step = 0

    def is_due(self, stage: str, epoch: int, is_last: bool = False) -> bool:
        """The first time, every so many epochs, and in the last epoch.

        Args:
            stage: The stage.
            epoch: The current epoch; a stage that was measured in it is due again.
            is_last: Whether it is known to be the last.

        Returns:
            Whether to measure.
        """
        before = self._measured_in.get(stage)
        every = self._every.get(stage, self._default)
        return before is None or before == epoch or epoch - before >= every or is_last

    def measured(self, stage: str, epoch: int) -> None:
        """Note that a stage was measured."""
        self._measured_in[stage] = epoch

    def was_measured(self, stage: str) -> bool:
        """Whether a stage was ever measured in this run."""
        return stage in self._measured_in

    @property
    def has_windows(self) -> bool:
        """Whether training is measured in windows of steps in the place of epochs."""
        return self._window is not None

    def start_window(self, step: int) -> None:
        """Start a window of steps.

        Args:
            step: The optimizer's step counter, as it is now.
        """
        self._steps_in_window, self._step = 0, step

    def ends_window(self, step: int) -> bool:
        """Note a batch, and tell whether its optimizer step fills the window.

        Args:
            step: The optimizer's step counter, after the batch; a batch that did not move it is no
                step (gradient accumulation), one that moved it by several is one step.

        Returns:
            Whether the window is full.
        """
        self._steps_in_window += step != self._step
        self._step = step
        return self._window is not None and self._steps_in_window >= self._window

    def state_dict(self) -> dict[str, Any]:
        """The epochs, in primitives."""
        return {"measured_in": dict(self._measured_in)}

    def load_state_dict(self, state: Any) -> None:
        """Go on where a checkpoint stopped.

        Args:
            state: What :meth:`state_dict` has described.

        Raises:
            ValueError: If it is anything else; the schedule stays as it was.
        """
        measured_in = state.get("measured_in", {}) if isinstance(state, Mapping) else state
        if not isinstance(measured_in, Mapping) or not all(
            isinstance(stage, str) and type(epoch) is int and epoch >= 0
            for stage, epoch in measured_in.items()
        ):
            raise ValueError(
                "Expected a schedule to be a dict with an epoch, a whole number from 0 on, by stage in "
                f"'measured_in', but got {type(state).__name__}: {reprlib.repr(state)}."
            )
        self._measured_in = dict(measured_in)


def is_last_epoch(trainer: Any) -> bool:
    """Whether this epoch is known to be the last.

    Args:
        trainer: The Trainer, in a fit.

    Returns:
        By the largest number of epochs or of steps, or by a wish to stop that is granted: not before
        the least number of epochs and steps.
    """
    enough_epochs = trainer.current_epoch + 1 >= (trainer.min_epochs or 0)
    may_stop = enough_epochs and trainer.global_step >= (trainer.min_steps or 0)
    return (
        trainer.current_epoch + 1 == trainer.max_epochs
        or (trainer.should_stop and may_stop)
        or 0 <= trainer.max_steps <= trainer.global_step
    )
