"""Which measures a list of names asks for."""

import fnmatch
import inspect
from collections.abc import Collection, Iterable
from difflib import get_close_matches

from lightning_nc.dotted_path import import_function
from lightning_nc.functional.measure import Measure
from lightning_nc.functional.table import MEASURES
from lightning_nc.values.evidence import ClassEvidence, Evidence


def select(
    names: Iterable[str],
    evidence: type[Evidence] = ClassEvidence,
    occasions: Collection[str] = (),
) -> tuple[Measure, ...]:
    """The measures that a list of names asks for, of those that a kind of task has the evidence for.

    Args:
        names: Keys (``nc1/cdnv``), globs (``nc2/*``), families (``layer``: all of ``layer/*``),
            ``default``, or a function by its dotted path, whose parameters are named like the
            ``parts`` of the evidence; it is logged under ``custom/`` and its name.
        evidence: What the task leaves.
        occasions: Those of :data:`~lightning_nc.functional.measure.OCCASIONS` that are given, in which
            further keys belong to ``default``.

    Returns:
        The measures, each once, in the order of the table; functions of one's own after them.

    Raises:
        ValueError: If a name fits nothing.

    Example:
        >>> [measure.key for measure in select(["nc4/*", "nc1/cdnv"])]
        ['nc1/cdnv', 'nc4/ncc_mismatch', 'nc4/ncc_accuracy']
        >>> len(select(["nc1"])) == len(select(["nc1/*"]))
        True
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("Expected at least one measure, but got none. Use ['default'].")
    table = {key: m for key, m in MEASURES.items() if set(m.needs) <= set(evidence.parts)}
    chosen: dict[str, Measure] = {}
    for name in names:
        if name == "default":
            found = [measure for measure in table.values() if measure.is_default(occasions)]
        else:
            found = [table[key] for key in fnmatch.filter(table, _as_glob(name))]
            if not found and "/" not in name and "." in name:
                found = [_from_function(name, evidence.parts)]
        if not found:
            raise _unknown(name, table)
        chosen.update((measure.key, measure) for measure in found)
    order = {key: i for i, key in enumerate(MEASURES)}
    return tuple(sorted(chosen.values(), key=lambda m: order.get(m.key, len(order))))


def _as_glob(name: str) -> str:
    """A family is all of its keys."""
    return name if {"/", "*", "."} & set(name) else f"{name}/*"


def _unknown(name: str, table: Iterable[str]) -> ValueError:
    table = list(table)
    families = dict.fromkeys(key.partition("/")[0] for key in table)
    near = get_close_matches(name, ["default", *families, *table], n=3, cutoff=0.4)
    return ValueError(
        "Expected measures to name logged keys, globs or families of them, 'default' or functions by "
        f"dotted path, but got {name!r}. "
        + (f"Did you mean {' or '.join(map(repr, near))}?" if near else "")
    )


def _from_function(path: str, known: tuple[str, ...]) -> Measure:
    function, name = import_function(path, "measures"), path.rpartition(".")[2]
    needs = tuple(inspect.signature(function).parameters)
    if not needs or not set(needs) <= set(known):
        raise ValueError(f"Expected the parameters of {path} to be among {known}, but got {needs}.")
    summary = (inspect.getdoc(function) or name).splitlines()[0]
    key = f"custom/{name}"
    return Measure(key, function, needs, summary, "", path, default=False, is_custom=True)
