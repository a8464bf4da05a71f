"""What a label means: one class per kind of task, and the table of them."""

from collections.abc import Mapping
from typing import Any

from lightning_nc.tasks.multiclass import Binary as Binary
from lightning_nc.tasks.multiclass import Multiclass as Multiclass
from lightning_nc.tasks.multilabel import Multilabel as Multilabel
from lightning_nc.tasks.regression import Regression as Regression
from lightning_nc.tasks.stated import refuse_unused
from lightning_nc.tasks.task import Settings as Settings
from lightning_nc.tasks.task import Task as Task

TASKS: dict[str, type[Task]] = {
    "multiclass": Multiclass,
    "binary": Binary,
    "multilabel": Multilabel,
    "regression": Regression,
}
"""The tasks by the name of the setting."""


def make_task(name: str, settings: Settings, given: Mapping[str, Any] | None = None) -> Task:
    """The task of that name.

    Args:
        name: In :data:`TASKS`.
        settings: What the user has chosen.
        given: All that the user has chosen, some of which may have no meaning with the task.

    Returns:
        The task.

    Raises:
        ValueError: If there is none, or something has no meaning with it.

    Example:
        >>> make_task("binary", Settings()).settings.num_classes
        2
    """
    if name not in TASKS:
        raise ValueError(f"Expected task to be one of {tuple(TASKS)}, but got {name!r}.")
    task = TASKS[name](settings)
    refuse_unused(task, name, given or {})
    return task
