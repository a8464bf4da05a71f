"""What a checkpoint holds of the callback: read as a whole, or left aside."""

import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def left_aside(say: Callable[[str, str], None]) -> Iterator[None]:
    """A ValueError of a state that cannot be read is told, and the run goes on without that state.

    Inside, all of it is read before any of it is taken up: nothing is there by half.

    Args:
        say: Told the kind and the text of a warning.

    Example:
        >>> with left_aside(lambda kind, text: print(text[:42])):
        ...     entries("words", {"history"}, print)
        Expected the state of a NeuralCollapseCall
    """
    try:
        yield
    except ValueError as error:
        say(
            "damaged state",
            f"{error} Is the checkpoint damaged, or has something else written this state? It is left "
            "aside as a whole, and the run goes on without what NeuralCollapseCallback remembered.",
        )


def entries(state: Any, known: Collection[str], say: Callable[[str, str], None]) -> Mapping[str, Any]:
    """The entries of a saved state that this version knows; others are told of.

    Args:
        state: What a checkpoint holds of the callback.
        known: The names of the entries; any of them may be missing.
        say: Told the kind and the text of a warning.

    Returns:
        The known ones among them.

    Raises:
        ValueError: If it is no dict with any of these entries.
    """
    found = {k: v for k, v in state.items() if k in known} if isinstance(state, Mapping) else {}
    if not isinstance(state, Mapping) or (state and not found):
        names = ", ".join(map(repr, sorted(known)))
        raise ValueError(
            f"Expected the state of a NeuralCollapseCallback to be a dict with {names}, but got "
            f"{type(state).__name__}: {reprlib.repr(state)}."
        )
    further = [reprlib.repr(name) for name in state if name not in known]
    if further:
        say(
            "further state",
            f"Expected the state of a NeuralCollapseCallback to have {', '.join(sorted(known))}, but "
            f"got {', '.join(further[:8])} as well. Was the checkpoint written by a later version? "
            "What this one does not know is left aside, and the rest taken up.",
        )
    return found
