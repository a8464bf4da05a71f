"""What is told to the user, and what one part of the package tells another."""

from collections.abc import Iterable


class NeuralCollapseWarning(UserWarning):
    """The data or settings are not what a measure needs; training is not affected."""


class UndefinedMeasure(ValueError):  # noqa: N818 - a state of the data, not a fault
    """A measure has no meaning on these data; its key is left out and the message says why."""


class NothingToCompare(UndefinedMeasure):
    """The data have none of what a measure compares, which is told to those alone who asked for it."""


class RanksDiffer(ValueError):  # noqa: N818
    """The ranks measure what cannot be merged; raised on all of them at the same place."""


class RankFailed(RuntimeError):  # noqa: N818 - says what has happened
    """Some rank could not take part with its data; raised on all ranks at the same place."""


class OutOfStep(RuntimeError):  # noqa: N818
    """This rank has left a merge in which the others wait: going on would hang or mix up their data."""


def summarize(numbers: Iterable[int], singular: str, plural: str) -> str:
    """Name a few numbers in a message: ``class 3``, ``classes 1, 2, 3 and 5 more``.

    Example:
        >>> summarize(range(12), "class", "classes")
        'classes 0, 1, 2, 3, 4, 5, 6, 7 and 4 more'
    """
    listed = [str(n) for n in numbers]
    if len(listed) == 1:
        return f"{singular} {listed[0]}"
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return f"{plural} {', '.join(listed[:8])}{more}"
