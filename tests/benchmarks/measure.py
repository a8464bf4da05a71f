"""What all benchmarks share: alternating runs, because machines are noisy, and rows of one table."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        benchmark: What it belongs to.
        case: The setting.
        what: The figure's name.
        value: The median over repeats.
        low: Lower quartile.
        high: Upper quartile.
        target: At most this, where there is a target.
    """

    benchmark: str
    case: str
    what: str
    value: float
    low: float
    high: float
    target: float | None = None

    @classmethod
    def of(cls, benchmark, case, what, values, target=None):
        """A row from repeated measurements."""
        ordered = sorted(values)
        quarter = len(ordered) // 4
        low, high = ordered[quarter], ordered[-1 - quarter]
        return cls(benchmark, case, what, statistics.median(ordered), low, high, target)

    def as_dict(self):
        """The row for JSON."""
        return asdict(self)


def wait():
    """Let a GPU finish what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(function: Callable[[], object]) -> float:
    """Seconds that a call takes, with all that it gives a GPU to do."""
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def alternate(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, one after the other in each round: what slows the machine slows all of them.

    One more round comes first and does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            taken = timed(function)
            if repeat:
                seconds[name].append(taken)
    return seconds


def peak() -> int:
    """The most memory that this process has ever had, in bytes; on Linux."""
    # getrusage() would tell the parent's peak, which a child inherits
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def table(rows: list[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| benchmark | case | figure | median | quartiles | target |", "|---|---|---|---|---|---|"]
    for row in rows:
        target = "" if row.target is None else f"{row.target:g}"
        missed = row.target is not None and row.value > row.target
        quartiles = f"{row.low:.3g} to {row.high:.3g}"
        cells = (row.benchmark, row.case, row.what, f"{row.value:.3g}", quartiles)
        lines.append(f"| {' | '.join(cells)} | {target}{' missed' if missed else ''} |")
    return "\n".join(lines)


def environment() -> dict[str, object]:
    """Where the figures come from."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        return models[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
