"""What a user states of the training: penalties of the objective, and rows of the classes."""

from collections.abc import Mapping, Sequence
from numbers import Real
from operator import index

from lightning_nc.values.penalties import Penalties


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
