"""What the user has chosen: from the callback's arguments to a plan, or a clear refusal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any

from lightning_nc.report.reporter import Reporter
from lightning_nc.report.voice import Voice
from lightning_nc.run.frozen_pass import FrozenPass
from lightning_nc.run.schedule import Schedule
from lightning_nc.tasks import Settings, Task, make_task
from lightning_nc.tasks.stated import (
    checked_counts,
    checked_shots,
    checked_threshold,
    stated_penalties,
)
from lightning_nc.values.covariance import by_module
from lightning_nc.values.stage import Stage, stage_of
from lightning_nc.watch.places import Places

PICTURES = "pictures"
"""What the schedule knows pictures by."""

_AT_LEAST = {
    "every_n_epochs": 1,
    "every_n_steps": 1,
    "frozen_every_n_epochs": 0,
    "figures_every_n_epochs": 0,
    "num_classes": 2,
    "target_shift": 0,
    "max_rows_per_batch": 1,
    "min_count": 1,
    "seed": 0,
}


@dataclass(frozen=True)
class Plan:
    """What the user has chosen, and what outlives a run.

    Attributes:
        task: What the labels mean.
        places: Where there is something to measure.
        schedule: In which epochs, or windows of steps.
        reporter: Logs values, and holds the history.
        voice: Says each thing once.
        frozen_pass: The pass over the training data.
        online: Whether the training forwards are measured.
        frozen_every: Every so many epochs the frozen pass; 0: never.
        figures_every: Every so many epochs pictures; 0: never. None: nobody has said how often.
        max_rows_per_batch: At most this many rows of a batch enter.
        class_names: Names of the classes, or None.
        prefix: Put before every key.
        stage_names: Names of the validation loaders; none: "val", "val_1", ...
    """

    task: Task
    places: Places
    schedule: Schedule
    reporter: Reporter
    voice: Voice
    frozen_pass: FrozenPass
    online: bool
    frozen_every: int
    figures_every: int | None
    max_rows_per_batch: int | None
    class_names: list[str] | None
    prefix: str
    stage_names: tuple[str, ...] = ()

    def stage_of_loader(self, loop: str, loader: int) -> Stage:
        """The stage of a loader, by the name that it was given.

        Args:
            loop: "validate" or "test".
            loader: Which of its loaders.

        Returns:
            The stage.
        """
        stage = stage_of(loop, loader)
        if loop != "validate" or not self.stage_names:
            return stage
        return replace(stage, name=self.stage_names[loader])

    def stages_of(self, loop: str, num_loaders: int) -> list[Stage]:
        """The stages of a loop's loaders.

        Args:
            loop: "validate" or "test".
            num_loaders: How many there are.

        Returns:
            The stages, in their order.

        Raises:
            ValueError: If the validation loaders were named, and there are more or fewer of them.
        """
        names = self.stage_names if loop == "validate" and num_loaders else ()
        if names and len(names) != num_loaders:
            raise ValueError(
                f"Expected a name for each validation loader, but got stage_names={list(names)} and "
                f"{num_loaders} of them. Name all of them, in their order, or none."
            )
        return [self.stage_of_loader(loop, i) for i in range(num_loaders)]


def plan_of(given: Mapping[str, Any]) -> Plan:
    """The plan that the callback's arguments describe.

    Args:
        given: The arguments by name.

    Returns:
        The plan.

    Raises:
        ValueError: If one is out of its range, or two do not go together.
    """
    for name, least in _AT_LEAST.items():
        _require_at_least(name, given[name], least)
    a = SimpleNamespace(**given)
    task = make_task(a.task, _settings_of(a), given)
    pictures = 10 if a.figures_every_n_epochs is None else a.figures_every_n_epochs
    how_often = {stage_of("frozen").name: a.frozen_every_n_epochs, PICTURES: pictures}
    voice = Voice()
    places = Places(**{field.name: given[field.name] for field in fields(Places)})
    return Plan(
        task=task,
        places=places,
        schedule=Schedule(how_often, a.every_n_epochs, a.every_n_steps),
        reporter=Reporter(*_keys_of(task), a.prefix, a.prog_bar, voice.say),
        voice=voice,
        frozen_pass=FrozenPass(a.inference, a.frozen_num_workers, a.seed, voice.say),
        online=a.online,
        frozen_every=a.frozen_every_n_epochs,
        figures_every=a.figures_every_n_epochs,
        max_rows_per_batch=a.max_rows_per_batch,
        class_names=a.class_names,
        prefix=a.prefix,
        stage_names=_checked_names(a.stage_names or (), bool(a.frozen_every_n_epochs)),
    )


def _settings_of(a: SimpleNamespace) -> Settings:
    if isinstance(a.measures, str):
        raise ValueError(f"Expected a list of measures, but got a string: [{a.measures!r}]?")
    covariance, own_covariances = by_module(a.covariance)
    return Settings(
        num_classes=a.num_classes,
        covariance=covariance,
        ignore_index=a.ignore_index,
        measures=tuple(a.measures),
        seed=a.seed,
        min_count=a.min_count,
        measures_layers=bool(a.layers),
        own_covariances=own_covariances,
        penalties=stated_penalties(a.penalty, a.feature_penalty),
        shots=checked_shots(a.shots),
        class_counts=checked_counts(a.class_counts),
        threshold=checked_threshold(a.threshold),
        keeps_all_rows=a.max_rows_per_batch is None and a.forwards != "all",
    )


def _keys_of(task: Task) -> tuple[set[str], set[str]]:
    """The keys that are logged, and those that may be."""
    return {m.key for m in task.measures}, {m.key for m in task.may_join}


def _require_at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ValueError(f"Expected {name} to be at least {least}, but got {value}.")


def _checked_names(names: Sequence[str], has_frozen_pass: bool) -> tuple[str, ...]:
    taken = {stage_of("fit").name, stage_of("test").name}
    taken |= {stage_of("frozen").name} if has_frozen_pass else set()
    wrong = [n for n in names if n in taken or not n or set(n) & {"/", ":"}]
    if isinstance(names, str) or wrong or len(set(names)) < len(names):
        raise ValueError(
            "Expected stage_names to be a list with a name of its own for each validation loader, "
            f"without '/' and ':' and other than {', '.join(map(repr, sorted(taken)))}, which other "
            f"stages have, but got {names!r}."
        )
    return tuple(names)
