"""What a user states: penalties of the objective, rows of the classes, and what goes with a task."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Real
from operator import index
from typing import Any

from lightning_nc.tasks.task import Settings, Task
from lightning_nc.values.penalties import Penalties

_UNSET: dict[str, Any] = {f.name: f.default for f in fields(Settings)} | {"target_shift": 0}
"""The defaults of arguments that have another one than None."""


def stated_penalties(
    penalty: float | Mapping[str, float] | Penalties | None, feature_penalty: float | None
) -> Penalties:
    """The penalties of the objective that is trained, as far as they are stated.

    Args:
        penalty: Of the classifier's weight and bias, or a mapping with "weight" and "bias".
        feature_penalty: Of the features.

    Returns:
        The penalties.

    Raises:
        ValueError: If one is negative, or belongs to something else.

    Example:
        >>> stated_penalties({"weight": 0.01, "bias": 0.0}, None)
        Penalties(weight=0.01, bias=0.0, features=None)
    """
    if isinstance(penalty, Penalties):
        return penalty
    of = penalty if isinstance(penalty, Mapping) else {"weight": penalty, "bias": penalty}
    numbers = all(value is None or isinstance(value, Real) for value in of.values())
    if not set(of) <= {"weight", "bias"} or "weight" not in of or not numbers:
        raise ValueError(
            "Expected penalty to be a number, or a mapping with 'weight' and, if it differs, 'bias', "
            f"but got {dict(of)}. Set feature_penalty for the features."
        )
    return Penalties(of["weight"], of.get("bias"), feature_penalty)


def checked_counts(counts: Sequence[int] | None) -> tuple[int, ...] | None:
    """Rows of each class in training.

    Args:
        counts: The counts, or None.

    Returns:
        The same.

    Raises:
        ValueError: If they are not those of two classes at least.
    """
    if counts is None:
        return None
    try:
        whole = tuple(index(n) for n in counts)
    except TypeError:
        whole = ()
    if len(whole) < 2 or min(whole) < 0 or not any(whole):
        raise ValueError(
            "Expected class_counts to be the rows of each class in the training data, whole numbers in "
            f"the order of at least two classes, but got {list(counts)[:8]}."
        )
    return whole


def checked_shots(shots: Sequence[int]) -> tuple[int, int]:
    """Where few-shot classes end, and many-shot classes begin.

    Args:
        shots: Two numbers.

    Returns:
        The same.

    Raises:
        ValueError: If they are not two, in their order.
    """
    if len(shots) != 2 or not 0 < shots[0] <= shots[1]:
        raise ValueError(
            "Expected shots to be two numbers, the fewest rows of a class that is not few-shot and the "
            f"most of one that is not many-shot, such as [20, 100], but got {list(shots)}."
        )
    return shots[0], shots[1]


def checked_threshold(threshold: float | None) -> float | None:
    """Of a probability.

    Args:
        threshold: A number between 0 and 1, or None.

    Returns:
        The same.

    Raises:
        ValueError: If it is none.
    """
    if threshold is not None and not (isinstance(threshold, Real) and 0 < threshold < 1):
        raise ValueError(
            f"Expected threshold to be a probability between 0 and 1, but got {threshold!r}. A tag is "
            "decided for where its sigmoid is above it; None takes the highest scores of a row."
        )
    return threshold


def refuse_unused(task: Task, name: str, given: Mapping[str, Any]) -> None:
    """Raise a ValueError for arguments that have no meaning with a task.

    Args:
        task: What a label is.
        name: The task's.
        given: Arguments.

    Raises:
        ValueError: If one of them is not at its default.
    """
    for argument in task.unused:
        unset = _UNSET.get(argument)
        if argument in given and given[argument] not in (unset, _as_list(unset)):
            raise ValueError(
                f"Expected {argument} to be left out with task={name!r}, where it has no meaning, but "
                f"got {given[argument]!r}. Leave it out, or name the task that it belongs to."
            )


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
