"""The logged values of a run by key, epoch and step, in primitives, so that a checkpoint holds them."""

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Logged(NamedTuple):
    """One logged value: the epoch and the optimizer step that it belongs to, and the value."""

    epoch: int
    step: int
    value: float


@dataclass(frozen=True)
class History:
    """The logged values by key; every change makes a new history.

    Example:
        >>> history = History().extended(0, 9, {"nc1/cdnv/val": 0.5})
        >>> history = history.extended(1, 19, {"nc1/cdnv/val": 0.25})
        >>> history["nc1/cdnv/val"][-1]
        Logged(epoch=1, step=19, value=0.25)
        >>> history.until(step=10)["nc1/cdnv/val"]
        (Logged(epoch=0, step=9, value=0.5),)
    """

    entries: Mapping[str, tuple[Logged, ...]] = ()  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", dict(self.entries))

    def extended(self, epoch: int, step: int, values: Mapping[str, float]) -> "History":
        """A history with one more value for each of these keys."""
        added = {k: (*self[k], Logged(epoch, step, float(v))) for k, v in values.items()}
        return History({**self.entries, **added})

    def until(self, step: int) -> "History":
        """Only what was logged until this optimizer step: the past of a run that starts there."""
        kept = {k: tuple(row for row in rows if row.step <= step) for k, rows in self.entries.items()}
        return History({key: rows for key, rows in kept.items() if rows})

    def __getitem__(self, key: str) -> tuple[Logged, ...]:
        return self.entries.get(key, ())

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def keys(self) -> list[str]:
        """The logged keys, in the order of their first value."""
        return list(self.entries)

    def state_dict(self) -> dict[str, list[list[int | float]]]:
        """The history as lists of ``[epoch, step, value]``."""
        return {key: [list(row) for row in rows] for key, rows in self.entries.items()}

    @classmethod
    def from_state_dict(cls, state: Any) -> "History":
        """The history that :meth:`state_dict` described.

        Args:
            state: Lists of ``[epoch, step, value]`` by key.

        Returns:
            The history.

        Raises:
            ValueError: If it is anything else.

        Example:
            >>> History.from_state_dict({"nc1/cdnv/val": [[0, 9, 0.5]]})["nc1/cdnv/val"]
            (Logged(epoch=0, step=9, value=0.5),)
        """
        if not isinstance(state, Mapping):
            raise ValueError(f"Expected a history to be a dict by key, but got {_shown(state)}.")
        for key, rows in state.items():
            if not isinstance(key, str):
                raise ValueError(f"Expected the keys of a history to be texts, but got {_shown(key)}.")
            if not isinstance(rows, list | tuple):
                raise ValueError(
                    f"Expected the history of {key!r} to be a list, but got {_shown(rows)}."
                )
            wrong = [row for row in rows if not _is_row(row)]
            if wrong:
                raise ValueError(
                    f"Expected each entry in the history of {key!r} to be [epoch, step, value], two "
                    f"whole numbers from 0 on and a number, but got {_shown(wrong[0])}."
                )
        return cls({k: tuple(Logged(e, s, float(v)) for e, s, v in rows) for k, rows in state.items()})


def _is_row(row: Any) -> bool:
    if not isinstance(row, list | tuple) or len(row) != 3:
        return False
    *places, value = row
    # a bool is an int to Python, and an int may be too large for a float
    is_number = type(value) is float or (type(value) is int and abs(value) <= 2**53)
    return all(type(n) is int and n >= 0 for n in places) and is_number


def _shown(value: Any) -> str:
    return f"{type(value).__name__}: {reprlib.repr(value)}"
