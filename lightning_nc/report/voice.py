"""What is told to the user: each thing once."""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from lightning_nc.values.errors import NeuralCollapseWarning, OutOfStep


class Lost(Enum):
    """What is lost where something goes wrong, and what is not."""

    BATCH = "could not be measured and is left out: the values rest on the other batches"
    VALUES = "could not be measured: its values are NaN"
    LOG = "has failed: its values of this time are missing from the logs or from the history"
    PICTURES = "has failed: pictures of this time are missing, and the values are logged all the same"


class Voice:
    """Warns, and remembers of what.

    Example:
        >>> voice = Voice()
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     for _ in range(2):
        ...         voice.say("limit", "Fewer batches than there are.")
        >>> len(told)
        1
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def forget(self) -> None:
        """Another run has its own failures."""
        self._said.clear()

    def say(self, kind: str, text: str) -> None:
        """Warn, unless something of this kind was said before.

        Args:
            kind: What is said once.
            text: The warning.
        """
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(text, NeuralCollapseWarning, stacklevel=3)

    @contextmanager
    def harmless(self, what: str, raises: bool = False, lost: Lost = Lost.VALUES) -> Iterator[None]:
        """What goes wrong inside is told and does not go further, once training has begun.

        Args:
            what: What may go wrong.
            raises: Whether to raise it all the same.
            lost: What that costs.

        Raises:
            OutOfStep: Going on would hang the other ranks, or mix up their gradients.
        """
        try:
            yield
        except OutOfStep:
            raise
        except Exception:
            if raises:
                raise
            self.say(
                f"failed: {what}",
                f"{what} {lost.value}; training goes on. This is said once.\n{traceback.format_exc()}",
            )

    def has_failed(self, what: str) -> None:
        """Its failure was told already, in other words."""
        self._said.add(f"failed: {what}")
