"""Values to loggers, monitors and the history of the run: the same on every rank."""

from collections.abc import Callable, Collection, Iterator
from math import nan
from typing import Any

import torch
from torch import Tensor

from lightning_nc.functional.evaluate import values_of
from lightning_nc.report.dashboard import headlines
from lightning_nc.report.scalars import axis, numbers, publish, spare_second_sync
from lightning_nc.tasks.notices import rows_left_out
from lightning_nc.values.evidence import ClassEvidence
from lightning_nc.values.history import History
from lightning_nc.values.key import Key, keys_in
from lightning_nc.values.recorded import HEAD, Recorded
from lightning_nc.values.stage import Stage
from lightning_nc.values.statistics import ClassStatistics


class Reporter:
    """Logs what stages have come to, and remembers it.

    Args:
        certain: The measures that are logged, by key.
        measures: Those that may be.
        prefix: What the callback puts before every key.
        prog_bar: Show one value each for NC1 to NC4 in the progress bar.
        say: Told the kind and the text of a warning.
    """

    def __init__(
        self,
        certain: Collection[str],
        measures: Collection[str],
        prefix: str,
        prog_bar: bool,
        say: Callable[[str, str], None],
    ) -> None:
        self.measures = measures
        self._certain = certain
        self.prefix = prefix
        self._prog_bar = prog_bar
        self._say = say
        self.history = History(prefix=prefix)
        self.statistics: dict[str, ClassStatistics] = {}
        self._told: dict[str, set[tuple[str, str]]] = {}  # of layers, by stage

    def log(
        self,
        trainer: Any,
        pl_module: Any,
        stage: Stage,
        recorded: Recorded | None,
        layers: Collection[str] = (),
    ) -> None:
        """Write the values of a stage to wherever the user looks.

        A key that the stage has logged before and has no value for now becomes NaN: whoever monitors it
        would else go on with the value of another epoch.

        Args:
            trainer: The Trainer.
            pl_module: The LightningModule.
            stage: The stage.
            recorded: What it has come to; None: it has failed, and its values are NaN.
            layers: The layers that are measured, besides the classifier's input.
        """
        values = self._values(stage, recorded, layers)
        told = numbers(values)
        self._write(trainer, pl_module, values, told, axis(trainer, stage.ends_epoch))
        self._keep_statistics(stage, recorded)
        self.history = self.history.extended(trainer.current_epoch, trainer.global_step, told)

    def tell(self, stage: Stage, recorded: Recorded, doubt: str = "") -> None:
        """Say what a stage has to say about its data.

        Args:
            stage: The stage.
            recorded: What it has come to.
            doubt: Added where the classes do not fit the classifier.
        """
        told = self._told.setdefault(stage.name, set())
        for modules, kind, text in recorded.told(told):
            doubtful = modules == [HEAD] and kind in ("absent", "out_of_range")
            more = doubt if doubtful else _rows_lost(recorded) if kind == "empty" else ""
            told |= {(kind, module) for module in modules if module != HEAD}
            self._say(f"{stage.name}: {kind} {modules[0]}", f"Stage {stage.name}: {text}{more}")

    def resume_at(self, trainer: Any, layers: Collection[str] = ()) -> None:
        """Take the past of a run that starts where the optimizer is now.

        Args:
            trainer: The Trainer.
            layers: The layers that are measured from now on, besides the classifier's input.
        """
        # what a run before this one has logged beyond the step where this one starts is not its past
        self.history = self.history.until(trainer.global_step)
        self._told.clear()
        # a monitor looks at every epoch's end, and a resumed run may have nothing to measure there yet
        for text, _ in self._known(layers):
            known = torch.tensor(self.history[text][-1].value)
            trainer.callback_metrics.setdefault(text, known)

    def _values(
        self, stage: Stage, recorded: Recorded | None, layers: Collection[str]
    ) -> dict[str, Tensor]:
        before = [text for text, key in self._known(layers) if key.stage == stage.name]
        if recorded is None:
            may_be = (str(Key(m, stage.name, prefix=self.prefix)) for m in sorted(self._certain))
            return dict.fromkeys(before or may_be, torch.tensor(nan))
        values = {
            str(Key(measure, stage.name, module, self.prefix)): value
            for module, outcomes in recorded.outcomes.items()
            for measure, value in values_of(outcomes).items()
        }
        # on the device of the others, so that all go to the host together
        like = next(iter(values.values()), torch.tensor(0.0))
        return values | {text: torch.full_like(like, nan) for text in before if text not in values}

    def _known(self, layers: Collection[str]) -> Iterator[tuple[str, Key]]:
        """The keys of the history, less those that nobody asks for any more."""
        for text, key in keys_in(self.history, self.prefix):
            if key.measure in self.measures and (not key.layer or key.layer in layers):
                yield text, key

    def _keep_statistics(self, stage: Stage, recorded: Recorded | None) -> None:
        """Those of this time in the place of the last."""
        of_stage = str(Key("", stage.name))
        for place in [p for p in self.statistics if p == of_stage or p.startswith(f"{of_stage}/")]:
            del self.statistics[place]
        for name, evidence in (recorded.evidence if recorded else {}).items():
            if isinstance(evidence, ClassEvidence):
                place = str(Key("", stage.name, name))
                self.statistics[place] = evidence.all_classes.to("cpu")

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


def _rows_lost(recorded: Recorded) -> str:
    """Rows that were there and could not count: of a network that has diverged, all of them."""
    evidence = recorded.evidence.get(HEAD)
    lost = "" if evidence is None else rows_left_out(evidence.lost)
    return lost and f"{lost}."


def refuse_shared_keys(reporter: Reporter, other: Reporter) -> None:
    """Raise a ValueError where two callbacks of a Trainer would log the same keys.

    Args:
        reporter: The one.
        other: The other one.

    Raises:
        ValueError: If they share keys and prefix.
    """
    both = set(reporter.measures) & set(other.measures)
    shared = sorted(both, key=lambda key: (key not in reporter._certain, key))
    if shared and other.prefix == reporter.prefix:
        raise ValueError(
            "Expected the NeuralCollapseCallbacks of a Trainer to log different keys, but "
            f"two of them log {shared[0]} and {len(shared) - 1} more with the prefix "
            f"{reporter.prefix!r}. Give one of them another prefix."
        )
