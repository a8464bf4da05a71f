"""Our values and those of papers and other tools, of the same rows: does each line of the table hold?

``python tests/conversions.py`` prints for each line of docs/conversions.md the largest relative
difference where its conditions are met, and the least where one of them is not. What others compute is
written in support/conventions.py from their code; where their package can be imported, it is run as
well and printed in a line of its own. ``--table`` prints the table in Markdown.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
import torch
from support.conventions import Rows
from support.conversion_table import BALANCED, CONVERSIONS, NO_BIAS, ZERO_SUM, Conversion
from support.packages import package_value
from support.problems import gaussian_classes, measured, statistics_of

CONDITIONS = (BALANCED, ZERO_SUM, NO_BIAS)
# rows of each class where they are balanced, where they are not, and the number of features
SHAPES = (((40,) * 6, (120, 60, 30, 15, 9, 6), 9), ((24,) * 5, (50, 30, 20, 15, 5), 12))
HEADS = ("source", "their metric", "our key", "conversion")


@dataclass(frozen=True, eq=False)
class Case:
    """Random rows, our values of them, and the conditions that they meet."""

    meets: frozenset[str]
    rows: Rows
    ours: dict[str, float]


def case(meets: frozenset[str], seed: int) -> Case:
    """Rows that meet these conditions and no other."""
    even, uneven, num_features = SHAPES[seed]
    given = gaussian_classes(
        even if BALANCED in meets else uneven,
        num_features,
        offset=0.5,
        bias=NO_BIAS not in meets,
        dtype=torch.float64,
        seed=seed,
    )
    # on the way to the class means, as a trained one is
    weight = given.weight.double() / 2 + statistics_of(given).centered_means + 0.3
    given = replace(given, weight=weight - weight.mean(0) if ZERO_SUM in meets else weight)
    bias = torch.zeros(given.num_classes) if given.bias is None else given.bias
    arrays = (given.features, given.target, given.weight, bias.double())
    return Case(meets, Rows(*(array.numpy() for array in arrays)), measured(given))


@cache
def cases() -> tuple[Case, ...]:
    """Each set of conditions, in each shape."""
    chosen = product((False, True), repeat=len(CONDITIONS))
    sets = [frozenset(c for c, met in zip(CONDITIONS, row, strict=True) if met) for row in chosen]
    return tuple(case(meets, seed) for meets in sets for seed in range(len(SHAPES)))


def difference(line: Conversion, theirs: np.ndarray, of: Case) -> float:
    """Largest difference of what we convert to from theirs, relative to theirs."""
    ours = [line.how.convert(of.ours[key], of.rows) for key in line.keys]
    return float(np.max(np.abs(np.subtract(ours, theirs) / theirs)))


def where_met(line: Conversion, compute: Callable[[Rows], np.ndarray]) -> float:
    """Largest difference where the conditions of the line are met."""
    met = [c for c in cases() if c.meets >= set(line.needs)]
    return max(difference(line, compute(c.rows), c) for c in met)


def where_broken(line: Conversion, condition: str) -> float:
    """Least difference where this condition of the line is not met and its others are."""
    others = set(line.needs) - {condition}
    broken = [c for c in cases() if c.meets >= others and condition not in c.meets]
    return min(difference(line, line.by_formula(c.rows), c) for c in broken)


def in_markdown(rows: Iterable[Iterable[str]]) -> str:
    """A table with these rows."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def table() -> str:
    """The table of docs/conversions.md."""
    return in_markdown([HEADS, ["---"] * len(HEADS), *(line.cells for line in CONVERSIONS)])


def main() -> None:
    """Print the table, or what its lines come to."""
    if "--table" in sys.argv:
        print(table())
        return
    print("source | their metric | our key | conversion | largest difference | with a condition broken")
    for line in filter(lambda line: line.keys, CONVERSIONS):
        cells = " | ".join(line.cells).replace("\\|", "|")
        broken = ", ".join(f"not {name}: {where_broken(line, name):.2g}" for name in line.needs)
        print(f"{cells} | {where_met(line, line.by_formula):.1e} | {broken or '-'}")
        by_package = package_value(line.source, line.theirs)
        if by_package:
            print(f"{cells} | {where_met(line, by_package):.1e} | by the package itself")


if __name__ == "__main__":
    main()
