"""The logged values of a run by key, epoch and step, in primitives, so that a checkpoint holds them."""

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_nc.values.data_frame import data_frame
from lightning_nc.values.key import Key

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]

_COLUMNS = {
    "key": str, "measure": str, "stage": str, "layer": str, "epoch": int, "step": int, "value": float,
}  # fmt: skip


class Logged(NamedTuple):
    """One logged value: the epoch and the optimizer step that it belongs to, and the value."""

    epoch: int
    step: int
    value: float


class UnknownKey(KeyError):  # noqa: N818 - named like what it is about
    """A history has no value under this key.

    Args:
        key: What was asked for.
        known: The logged keys.
    """

    def __init__(self, key: Any, known: Iterable[str] = ()) -> None:
        super().__init__(key)
        self.known = known

    def __str__(self) -> str:
        # put together only where it is read: most of these errors are caught at once, by Mapping.get
        return _unknown(self.args[0], list(self.known))


@dataclass(frozen=True, eq=False)
class History(Mapping[str, tuple[Logged, ...]]):
    """The logged values by key, a mapping that cannot be changed; what is added makes a new history.

    Attributes:
        entries: The values by key.
        prefix: What the callback has put before every key.

    Example:
        >>> history = History().extended(0, 9, {"nc1/cdnv/val": 0.5})
        >>> history = history.extended(1, 19, {"nc1/cdnv/val": 0.25})
        >>> history["nc1/cdnv/val"][-1]
        Logged(epoch=1, step=19, value=0.25)
        >>> history.until(step=10)["nc1/cdnv/val"]
        (Logged(epoch=0, step=9, value=0.5),)
        >>> "nc1/cdnv/train" in history, history.get("nc1/cdnv/train", ())
        (False, ())
    """

    entries: Mapping[str, tuple[Logged, ...]] = ()  # type: ignore[assignment]
    prefix: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", dict(self.entries))

    def extended(self, epoch: int, step: int, values: Mapping[str, float]) -> "History":
        """A history with one more value for each of these keys."""
        added = {k: (*self.get(k, ()), Logged(epoch, step, float(v))) for k, v in values.items()}
        return replace(self, entries={**self.entries, **added})

    def until(self, step: int) -> "History":
        """Only what was logged until this optimizer step: the past of a run that starts there."""
        kept = {k: tuple(row for row in rows if row.step <= step) for k, rows in self.entries.items()}
        return replace(self, entries={key: rows for key, rows in kept.items() if rows})

    def __getitem__(self, key: str) -> tuple[Logged, ...]:
        if key not in self.entries:
            raise UnknownKey(key, self.entries.keys())
        return self.entries[key]

    def __iter__(self) -> Iterator[str]:
        """The logged keys, in the order of their first value."""
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: object) -> bool:
        return key in self.entries

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict of plain values for each logged value, as a table in long form.

        Returns:
            Dicts of "key" (as it was logged, with the prefix), "measure" (such as "nc1/cdnv"), "stage",
            "layer" ("" for the classifier's input), "epoch", "step" and "value", key by key.

        Example:
            >>> history = History(prefix="mine/").extended(0, 9, {"mine/nc1/cdnv/val/conv": 0.5})
            >>> [row] = history.to_rows()
            >>> row["measure"], row["stage"], row["layer"], row["epoch"], row["value"]
            ('nc1/cdnv', 'val', 'conv', 0, 0.5)
        """
        rows = []
        for text, entries in self.items():
            key = self._key(text)
            parts = (text, key.measure, key.stage, key.layer)
            rows += [dict(zip(_COLUMNS, (*parts, *entry), strict=True)) for entry in entries]
        return rows

    def profile(self, measure: str, stage: str) -> dict[str, float]:
        """The latest values of a measure by layer, in the order of the log.

        Args:
            measure: Such as "layer/within_share".
            stage: Such as "val".

        Returns:
            Values by layer, with the classifier's features last, under "".

        Example:
            >>> values = {"nc1/cdnv/val": 0.2, "nc1/cdnv/val/conv": 0.9}
            >>> History().extended(0, 9, values).profile("nc1/cdnv", "val")
            {'conv': 0.9, '': 0.2}
        """
        rows = [row for row in self.to_rows() if (row["measure"], row["stage"]) == (measure, stage)]
        latest = {row["layer"]: row["value"] for row in rows}
        return {k: v for k, v in latest.items() if k} | {k: v for k, v in latest.items() if not k}

    def to_pandas(self) -> "DataFrame":
        """The rows of :meth:`to_rows` as a table of pandas, one line for each logged value.

        Returns:
            A data frame with the columns "key", "measure", "stage", "layer", "epoch", "step", "value".

        Raises:
            ImportError: If pandas is not installed.

        Example:
            >>> table = History().extended(0, 9, {"nc1/cdnv/val": 0.5}).to_pandas()
            >>> table.pivot(index="epoch", columns="key", values="value").to_dict()
            {'nc1/cdnv/val': {0: 0.5}}
        """
        return data_frame(self.to_rows(), _COLUMNS, "History.to_rows(), the same rows as dicts")

    def state_dict(self) -> dict[str, list[list[int | float]]]:
        """The history as lists of ``[epoch, step, value]``, without the prefix: its reader has one."""
        return {key: [list(row) for row in rows] for key, rows in self.entries.items()}

    @classmethod
    def from_state_dict(cls, state: Any, prefix: str = "") -> "History":
        """The history that :meth:`state_dict` described.

        Args:
            state: Lists of ``[epoch, step, value]`` by key.
            prefix: What the callback puts before every key.

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
        entries = {k: tuple(Logged(e, s, float(v)) for e, s, v in rows) for k, rows in state.items()}
        return cls(entries, prefix)

    def _key(self, text: str) -> Key:
        """What a text says; one that is no key of ours, from a history made by hand, is all measure."""
        return Key.parse(text, self.prefix) or Key(text)


def _unknown(key: Any, known: list[str]) -> str:
    start = f"Expected a logged key, but got {key!r}"
    if not known:
        return (
            f"{start}, and nothing was logged yet: a value comes when its stage has ended, such as an "
            "epoch of training. Has a Trainer run with this callback in its callbacks?"
        )
    near = get_close_matches(str(key), known, n=3, cutoff=0.6)
    if near:
        return f"{start}. Did you mean {' or '.join(map(repr, near))}?"
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    return f"{start}. There are {', '.join(map(repr, known[:8]))}{more}."


def _is_row(row: Any) -> bool:
    if not isinstance(row, list | tuple) or len(row) != 3:
        return False
    *places, value = row
    # a bool is an int to Python, and an int may be too large for a float
    is_number = type(value) is float or (type(value) is int and abs(value) <= 2**53)
    return all(type(n) is int and n >= 0 for n in places) and is_number


def _shown(value: Any) -> str:
    return f"{type(value).__name__}: {reprlib.repr(value)}"
