"""Values to loggers, monitors and the history of the run: the same on every rank."""

from collections.abc import Callable, Collection
from math import nan
from typing import Any

import torch
from torch import Tensor

from lightning_nc.functional.table import values_of
from lightning_nc.report.dashboard import headlines
from lightning_nc.report.scalars import axis, numbers, publish, spare_second_sync
from lightning_nc.values.evidence import ClassEvidence
from lightning_nc.values.history import History
from lightning_nc.values.key import Key, keys_in
from lightning_nc.values.recorded import HEAD, Recorded
from lightning_nc.values.stage import Stage
from lightning_nc.values.statistics import ClassStatistics


class Reporter:
    """Logs what stages have come to, and remembers it.

    Args:
        measures: The measures that may be logged, by key.
        prefix: What the callback puts before every key.
        prog_bar: Show one value each for NC1 to NC4 in the progress bar.
        say: Told the kind and the text of a warning.
    """

    def __init__(
        self,
        measures: Collection[str],
        prefix: str,
        prog_bar: bool,
        say: Callable[[str, str], None],
    ) -> None:
        self.measures = measures
        self.prefix = prefix
        self._prog_bar = prog_bar
        self._say = say
        self.history = History()
        self.statistics: dict[str, ClassStatistics] = {}

    def log(self, trainer: Any, pl_module: Any, stage: Stage, recorded: Recorded | None) -> None:
        """Write the values of a stage to wherever the user looks.

        Args:
            trainer: The Trainer.
            pl_module: The LightningModule.
            stage: The stage.
            recorded: What it has come to; None: it has failed, and its values are NaN.
        """
        values = self._values(stage, recorded)
        told = numbers(values)
        self._write(trainer, pl_module, values, told, axis(trainer, stage.ends_epoch))
        for name, evidence in (recorded.evidence if recorded else {}).items():
            if isinstance(evidence, ClassEvidence):
                place = str(Key("", stage.name, name))
                self.statistics[place] = evidence.all_classes.to("cpu")
        self.history = self.history.extended(trainer.current_epoch, trainer.global_step, told)

    def tell(self, stage: Stage, recorded: Recorded, doubt: str = "") -> None:
        """Say what a stage has to say about its data.

        Args:
            stage: The stage.
            recorded: What it has come to.
            doubt: Added where the classes do not fit the classifier.
        """
        for (kind, module), text in recorded.notices.items():
            doubtful = module == HEAD and kind in ("absent", "out_of_range")
            more = doubt if doubtful else ""
            self._say(f"{stage.name}: {kind} {module}", f"Stage {stage.name}: {text}{more}")

    def resume_at(self, trainer: Any) -> None:
        """Take the past of a run that starts where the optimizer is now."""
        # what a run before this one has logged beyond the step where this one starts is not its past
        self.history = self.history.until(trainer.global_step)
        # a monitor looks at every epoch's end, and a resumed run may have nothing to measure there yet
        for key in self.history:
            known = torch.tensor(self.history[key][-1].value)
            trainer.callback_metrics.setdefault(key, known)

    def _values(self, stage: Stage, recorded: Recorded | None) -> dict[str, Tensor]:
        if recorded is None:
            return dict.fromkeys(self._keys_of(stage), torch.tensor(nan))
        return {
            str(Key(measure, stage.name, module, self.prefix)): value
            for module, outcomes in recorded.outcomes.items()
            for measure, value in values_of(outcomes).items()
        }

    def _keys_of(self, stage: Stage) -> list[str]:
        """What the stage has logged before, or where it has not, what it may log."""
        before = [
            text
            for text, key in keys_in(self.history, self.prefix)
            if key.stage == stage.name and key.measure in self.measures
        ]
        candidates = (Key(m, stage.name, prefix=self.prefix) for m in sorted(self.measures))
        return before or [str(key) for key in candidates]

    def _write(
        self,
        trainer: Any,
        pl_module: Any,
        values: dict[str, Tensor],
        told: dict[str, float],
        step: int,
    ) -> None:
        if trainer.barebones:  # a Trainer that was asked to log nothing
            return
        short = headlines(told, self.prefix) if self._prog_bar else {}
        if trainer.state.fn == "fit":
            publish(trainer, values, told, short, step, self._say)
            return
        # what validate() and test() return comes from Lightning's own log
        spare_second_sync(trainer, (*values, *short))
        for key, value in {**values, **short}.items():
            pl_module.log(
                key,
                value,
                prog_bar=key in short,
                logger=False if key in short else None,
                on_epoch=True,
                # a mean over one value that every rank has: the value itself
                batch_size=1,
                add_dataloader_idx=False,
            )


def refuse_shared_keys(reporter: Reporter, other: Reporter) -> None:
    """Raise a ValueError where two callbacks of a Trainer would log the same keys.

    Args:
        reporter: The one.
        other: The other one.

    Raises:
        ValueError: If they share keys and prefix.
    """
    shared = sorted(set(reporter.measures) & set(other.measures))
    if shared and other.prefix == reporter.prefix:
        raise ValueError(
            "Expected the NeuralCollapseCallbacks of a Trainer to log different keys, but "
            f"two of them log {shared[0]} and {len(shared) - 1} more with the prefix "
            f"{reporter.prefix!r}. Give one of them another prefix."
        )
