"""The stages of a run: which batches are measured together."""

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Stage:
    """One pass over one data loader.

    Attributes:
        name: As it is logged.
        loop: Whose batches they are: "fit", "frozen", "validate" or "test".
        loader: Which of the loop's loaders.
        weights_move: Whether the optimizer steps during the stage; if not, W is copied once.
        ends_epoch: Whether its values belong to the last batch of a training epoch.
        trains: Whether its rows are those that the network is trained on.
        references: Stages whose evidence the measures of this one are given, as far as it is there.
    """

    name: str
    loop: str
    loader: int = 0
    weights_move: bool = False
    ends_epoch: bool = False
    trains: bool = False
    references: tuple[str, ...] = ()


STAGES: list[Stage] = [
    Stage("train", "frozen", ends_epoch=True, trains=True),
    Stage("train_online", "fit", weights_move=True, ends_epoch=True, trains=True),
    Stage("val", "validate"),
    Stage("test", "test"),
]
"""In the order in which they are shown; a line for another loader of a loop gives it a name."""


def stage_of(loop: str, loader: int = 0) -> Stage:
    """The stage of a loop's loader: its line in the table, else that of the first loader, numbered.

    Args:
        loop: "fit", "frozen", "validate" or "test".
        loader: Which of its loaders.

    Returns:
        The stage.

    Example:
        >>> stage_of("fit").name, stage_of("validate", loader=1).name
        ('train_online', 'val_1')
    """
    lines = {stage.loader: stage for stage in STAGES if stage.loop == loop}
    first = lines[0]
    return lines.get(loader) or replace(first, name=f"{first.name}_{loader}", loader=loader)


def in_order(names: Iterable[str]) -> list[str]:
    """Names of stages, each once: those of the table first, in its order.

    Example:
        >>> in_order(["val_1", "val", "train"])
        ['train', 'val', 'val_1']
    """
    listed = [stage.name for stage in STAGES]
    found = set(names)
    return [*(n for n in listed if n in found), *sorted(found - set(listed))]
