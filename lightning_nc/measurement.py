"""What `measure` gives: the values of one network on one loader, and several of them in one table."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import torch

from lightning_nc.functional import MEASURES, values_of
from lightning_nc.tasks.notices import rows_left_out
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.data_frame import data_frame
from lightning_nc.values.evidence import ClassEvidence, Evidence
from lightning_nc.values.key import Key
from lightning_nc.values.recorded import HEAD, Recorded
from lightning_nc.values.statistics import ClassStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame  # type: ignore[import-untyped]

_COLUMNS = {"key": str, "measure": str, "layer": str, "value": float}
_FEATURES = "(features)"
_FALLBACK_WIDTH = 100


@dataclass(frozen=True, eq=False, repr=False)
class Measurement:
    """Neural collapse of one network on one loader; it prints as a table.

    Attributes:
        by_layer: The values by layer and measure; the layer "" is the classifier's input.
        evidence: What they were computed from, by layer, on the CPU.
        classifier_name: The path of the classifier, or None where there is none.
    """

    by_layer: Mapping[str, Mapping[str, float]]
    evidence: Mapping[str, Evidence]
    classifier_name: str | None = None

    @classmethod
    def of(cls, recorded: Recorded, classifier_name: str | None) -> "Measurement":
        """What a stage has come to, on the CPU; a ValueError where it has come to nothing."""
        head = recorded.evidence.get(HEAD)
        if head is None or not head.num_samples:
            why = recorded.notices.get(("empty", HEAD), "Expected rows that count, but got none.")
            raise ValueError(why + (rows_left_out(head.lost) if head else ""))
        found = [(m, key, v) for m, o in recorded.outcomes.items() for key, v in values_of(o).items()]
        on_host = torch.stack([value for *_, value in found]).tolist() if found else []  # at once
        by_layer: dict[str, dict[str, float]] = {layer: {} for layer in recorded.outcomes}
        for (layer, key, _), value in zip(found, on_host, strict=True):
            by_layer[layer][key] = value
        kept = {name: each.to("cpu") for name, each in recorded.evidence.items()}
        return cls(by_layer, kept, classifier_name)

    @property
    def values(self) -> dict[str, float]:
        """The values by key: "nc1/cdnv", and of a layer "nc1/cdnv/blocks.0"."""
        return {str(Key(measure, layer=layer)): v for measure, layer, v in self._entries()}

    @property
    def statistics(self) -> ClassStatistics:
        """Counts, means and scatter of the classifier's input, of every class, seen or not."""
        return _of_classes(self.evidence[HEAD]).all_classes

    @property
    def layers(self) -> dict[str, ClassStatistics]:
        """The same of the further layers, by name."""
        return {n: _of_classes(e).all_classes for n, e in self.evidence.items() if n != HEAD}

    @property
    def classifier(self) -> LinearClassifier | None:
        """The classifier with all its rows, or None where there is none."""
        return self.evidence[HEAD].part("head")

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict for each value: key, measure, layer ("" for the classifier's input) and value."""
        rows = ((str(Key(m, layer=layer)), m, layer, v) for m, layer, v in self._entries())
        return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]

    def to_pandas(self) -> "DataFrame":
        """The rows of :meth:`to_rows` as a DataFrame; an ImportError where there is no pandas."""
        return data_frame(self.to_rows(), _COLUMNS, "Measurement.to_rows(), the same rows as dicts")

    def plot(
        self, picture: str | None = None, layer: str = HEAD, ax: "Axes | None" = None
    ) -> "tuple[Figure, Axes | Sequence[Axes]]":
        """Draw the classifier's input, or a layer.

        Args:
            picture: One of a stage in :data:`lightning_nc.figures.PICTURES`, such as "spectra". None:
                the one of the task, "cosines" of classes.
            layer: A measured layer; "" for the classifier's input.
            ax: Draw into these axes, where the picture has a single one.

        Returns:
            The figure and its axes.

        Raises:
            ValueError: If there is no such picture or layer, or the layer has not what it takes.
        """
        from lightning_nc import figures

        if layer not in self.evidence:
            raise ValueError(
                f"Expected layer to be one of {tuple(self.evidence)}, where '' is the classifier's "
                f"input, but got {layer!r}. Name it in `layers` to measure it."
            )
        evidence = self.evidence[layer]
        picture = picture or figures.first_picture(evidence)
        known = figures.PICTURES.get(picture)
        if known is not None and not known.suits(evidence):
            raise ValueError(
                f"Expected at least {known.min_classes} classes with samples and {known.needs} for the "
                f"picture {picture!r}, but layer {layer!r} has not all of it."
            )
        drawn = figures.draw(picture, evidence, ax=ax)
        return drawn if ax is not None else figures.shown(drawn)

    def __repr__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()

    def _entries(self) -> Iterator[tuple[str, str, float]]:
        for layer, values in self.by_layer.items():
            for measure, value in values.items():
                yield measure, layer, value

    def _table(self) -> "Table":
        head = self.evidence[HEAD]
        named = "" if self.classifier_name is None else f" at {self.classifier_name!r}"
        size = f" of {head.size}" if head.size else ""
        rows = {
            Key(measure): [
                _at_collapse(measure, head.num_classes),
                *(_shown(values.get(measure)) for values in self.by_layer.values()),
            ]
            for measure in _ordered({measure for measure, _, _ in self._entries()})
        }
        names = [layer or _FEATURES for layer in self.by_layer] if len(self.by_layer) > 1 else ["value"]
        title = f"Neural collapse{named}: {head.num_samples:,} samples{size}"
        return Table(title, ["at collapse", *names], rows)


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Several measurements side by side; it prints as a table, and :func:`compare` makes it.

    Attributes:
        measurements: By the name of their column.
    """

    measurements: Mapping[str, Measurement]

    @property
    def values(self) -> dict[str, dict[str, float]]:
        """The values by column and key."""
        return {name: measurement.values for name, measurement in self.measurements.items()}

    def to_pandas(self) -> "DataFrame":
        """A DataFrame with a row for each key and a column for each name; NaN where one has none."""
        columns = self.values
        types, keys = dict.fromkeys(columns, float), [str(key) for key in self._keys()]
        return data_frame(columns, types, "Comparison.values", index=keys).rename_axis(index="key")

    def __repr__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()

    def _keys(self) -> list[Key]:
        """By measure, and within it by layer, each in the order of the table and of the network."""
        all_of_them = list(self.measurements.values())
        layers = dict.fromkeys(layer for m in all_of_them for layer in m.by_layer)
        measures = _ordered({key for m in all_of_them for vs in m.by_layer.values() for key in vs})
        found = {key for m in all_of_them for key in m.values}
        keys = [Key(measure, layer=layer) for measure in measures for layer in layers]
        return [key for key in keys if str(key) in found]

    def _table(self) -> "Table":
        columns = self.values
        rows = {
            key: [_at_collapse(key.measure), *(_shown(v.get(str(key))) for v in columns.values())]
            for key in self._keys()
        }
        return Table("Neural collapse", ["at collapse", *map(str, columns)], rows)


def compare(measurements: Mapping[str, Measurement]) -> Comparison:
    """Several measurements in one table.

    Args:
        measurements: By the name of their column, in the order of the columns.

    Returns:
        The table: a column for each name, a row for each key.

    Raises:
        ValueError: If there is none, or no key that all of them have.
    """
    if not isinstance(measurements, Mapping) or not measurements:
        raise ValueError(
            "Expected measurements by name, at least one, but got "
            f"{'an empty' if isinstance(measurements, Mapping) else 'a'} "
            f"{type(measurements).__name__}. Pass a dict such as {{'before': ..., 'after': ...}}."
        )
    for name, each in measurements.items():
        if not isinstance(each, Measurement):
            raise ValueError(
                f"Expected each value to be a Measurement, but got a {type(each).__name__} for "
                f"{name!r}. Pass what measure(model, loader) gives."
            )
    if not set.intersection(*(set(m.values) for m in measurements.values())):
        raise ValueError(
            f"Expected measurements that have keys in common, but {', '.join(map(repr, measurements))} "
            "share none. Measure all of them with the same `measures` and `layers`."
        )
    return Comparison(dict(measurements))


@dataclass(frozen=True)
class Table:
    """Rows of texts by key, grouped by family.

    Attributes:
        title: Above it.
        columns: Their names.
        rows: By key, one text for each column.
    """

    title: str
    columns: Sequence[str]
    rows: Mapping[Key, Sequence[str]]

    def text(self) -> str:
        """For a terminal: columns that do not fit into its width go below."""
        columns = [
            [name, *(row[i] for row in self.rows.values())] for i, name in enumerate(self.columns)
        ]
        widths = [max(map(len, column)) + 2 for column in columns]
        groups = max(len(key.group) for key in self.rows)
        labels = max(len(label) for _, label in self._left(self.rows))
        free = shutil.get_terminal_size((_FALLBACK_WIDTH, 24)).columns - groups - labels - 2
        blocks = []
        for chunk in _chunks(widths, free):
            rows = {key: row for key, row in self.rows.items() if any(row[i] for i in chunk)}
            lines = [
                f"{group:<{groups}}  {label:<{labels}}"
                for group, label in [("", ""), *self._left(rows)]
            ]
            for i in chunk:
                column = [self.columns[i], *(row[i] for row in rows.values())]
                lines = [f"{a}{b:>{widths[i]}}" for a, b in zip(lines, column, strict=True)]
            blocks.append("\n".join(line.rstrip() for line in lines))
        return "\n\n".join([self.title, *blocks])

    def html(self) -> str:
        """For a notebook, in the colors that it has."""
        aligned = 'style="text-align: left"'
        head = "".join(f"<th>{escape(name)}</th>" for name in ("", "", *self.columns))
        lines = [
            "".join(f"<th {aligned}>{escape(text)}</th>" for text in left)
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            for left, cells in zip(self._left(self.rows), self.rows.values(), strict=True)
        ]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        title = f"<caption {aligned}>{escape(self.title)}</caption>"
        return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    @staticmethod
    def _left(keys: Iterable[Key]) -> list[tuple[str, str]]:
        """What stands before each row: its group, where that begins, and the key less the group."""
        keys = list(keys)
        groups = ["", *(key.group.upper() for key in keys)]
        names = [str(Key(key.name, layer=key.layer)) for key in keys]
        return [("" if a == b else b, n) for a, b, n in zip(groups, groups[1:], names, strict=False)]


def _of_classes(evidence: Evidence) -> ClassEvidence:
    """What a task with classes has left, which always has statistics; a ValueError for another's."""
    if isinstance(evidence, ClassEvidence):
        return evidence
    kind = type(evidence).__name__
    raise ValueError(f"Expected a task with classes, but it has left {kind}: look at `evidence`.")


def _chunks(widths: Sequence[int], free: int) -> list[list[int]]:
    """Indices of columns, as many together as fit."""
    chunks: list[list[int]] = [[]]
    for i, width in enumerate(widths):
        if chunks[-1] and sum(widths[j] for j in chunks[-1]) + width > free:
            chunks.append([])
        chunks[-1].append(i)
    return chunks


def _ordered(measures: set[str]) -> list[str]:
    """In the order of the table, functions of one's own after them."""
    return [*(m for m in MEASURES if m in measures), *sorted(measures - MEASURES.keys())]


def _at_collapse(measure: str, num_classes: int | None = None) -> str:
    known = MEASURES.get(measure)
    number = known.value_at_collapse(num_classes) if known and num_classes is not None else None
    return _shown(number) if number is not None else known.at_collapse if known else ""


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{int(value):,}" if value == value // 1 and abs(value) < 1e15 else f"{value:.4g}"
