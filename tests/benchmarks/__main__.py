"""Measure what the callback costs: ``python tests/benchmarks [NAME ...] [--quick] [--out FOLDER]``.

Prints one table, and writes it with the environment as JSON, and the growth of the cost as a figure.
All figures are ratios of runs that alternate in one process, or say their unit; each is a median.
"""

import argparse
import json
from pathlib import Path

import compute
import drawing
import frozen
import graphs
import growth
import labels
import memory
import ranks
import torch
import training
import update
from measure import environment, table

BENCHMARKS = {
    "update": update, "compute": compute, "training": training, "frozen": frozen, "ranks": ranks,
    "memory": memory, "growth": growth, "drawing": drawing, "labels": labels, "graphs": graphs,
}  # fmt: skip


def main():
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all")
    parser.add_argument("--quick", action="store_true", help="the few ratios that matter most")
    parser.add_argument("--out", type=Path, help="folder for benchmarks.json and growth.png")
    given = parser.parse_args()
    unknown = set(given.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"expected some of {', '.join(BENCHMARKS)}, but got {', '.join(unknown)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in given.names or BENCHMARKS:
        extra = {"figure": given.out / "growth.png"} if name == "growth" and given.out else {}
        for row in BENCHMARKS[name].run(given.quick, device, **extra):
            rows.append(row)
            print(f"{row.benchmark}: {row.case}: {row.what} {row.value:.3g}", flush=True)
    print("\n" + ", ".join(f"{key} {value}" for key, value in environment().items()))
    print("\n" + table(rows))
    if given.out:
        result = {"environment": environment(), "rows": [row.as_dict() for row in rows]}
        (given.out / "benchmarks.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
