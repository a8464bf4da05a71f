"""Faults, each put into a copy of the package by itself: does the suite notice?

``python tests/faults.py`` runs the relevant part of the suite for each and prints the first test that
fails; it exits with 1 if a fault goes unnoticed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Fault:
    """What goes wrong, where, and which tests ought to see it.

    Attributes:
        name: What goes wrong.
        file: In which file of the package.
        right, wrong: The code, and what it becomes.
        tests: Arguments for pytest.
    """

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


SITUATIONS = "tests/callback/test_situations.py"
IDENTITY = "tests/callback/test_bit_identity.py"
DISTRIBUTED = ("tests/distributed/test_merge_metric.py", "-k", "one_process and two_processes")

FAULTS = (
    Fault(
        "a reset at the wrong event: with every training batch",
        "session.py",
        "                self._watch.open(batch, online, not self._stepped, needs_labels=",
        "                self._watch.reset(online)\n"
        "                self._watch.open(batch, online, not self._stepped, needs_labels=",
        (SITUATIONS, "-k", "bf16-true or accumulated"),
    ),
    Fault(
        "a leaked hook: none is removed after an exception",
        "callback.py",
        "        self._detach()\n        self._plan.schedule.forget()\n\n    def on_train_start",
        "        self._plan.schedule.forget()\n\n    def on_train_start",
        ("tests/callback/test_hooks.py", "-k", "after_an_exception"),
    ),
    Fault(
        "values logged on rank 0 alone",
        "report/reporter.py",
        "        if trainer.barebones:  # a Trainer that was asked to log nothing\n",
        "        if trainer.barebones or not trainer.is_global_zero:\n",
        (SITUATIONS, "-k", "ddp and static"),
    ),
    Fault(
        "merge changes and hands on its own input",
        "values/statistics.py",
        "            scatter = torch.addmm(self.scatter,",
        "            scatter = self.scatter.addmm_(",
        ("tests/values/test_statistics_merge.py",),
    ),
    Fault(
        "means in float32",
        "values/precision.py",
        '    return torch.float32 if torch.device(device).type == "mps" else torch.float64\n',
        "    return torch.float32\n",
        ("tests/metric/test_metric_values.py", "-k", "collapse"),
    ),
    Fault(
        "rows enter the statistics in the hook, not at the batch's end",
        "watch/capture.py",
        "        self.forwards, self.pool = places.forwards, places.pool\n",
        '        self.forwards, self.pool = "all", places.pool  # so does each forward, of anything\n',
        (SITUATIONS, "-k", "LBFGS or forwards"),
    ),
    Fault(
        "all modules in train mode after the frozen pass",
        "unchanged.py",
        "            m.training = mode\n",
        "            m.training = True\n",
        (IDENTITY, SITUATIONS, "-k", "frozen"),
    ),
    Fault(
        "the frozen pass iterates the trainer's own loader",
        "run/frozen_loader.py",
        "    return DataLoader(\n        loader.dataset,\n",
        "    return loader\n    return DataLoader(\n        loader.dataset,\n",
        (IDENTITY, "-k", "frozen and persistent"),
    ),
    Fault(
        "the global random state is not put back",
        "unchanged.py",
        "        with torch.random.fork_rng(devices=cuda):\n            yield\n",
        "        torch.manual_seed(0)\n        yield\n",
        (IDENTITY, SITUATIONS, "-k", "frozen"),
    ),
    Fault(
        "W is read after the optimizer's step",
        "stream/kept_classifier.py",
        "            self._weight.copy_(weight)\n",
        "            self._weight = weight.detach()\n",
        ("tests/callback/test_callback.py", "-k", "classifier_of_an_epoch"),
    ),
    Fault(
        "ranks add up their class means, not their sums",
        "stream/class_moments.py",
        "        return [counts, means * counts[:, None]]\n",
        "        return [counts, means]\n",
        DISTRIBUTED,
    ),
    Fault(
        "a rank's scatter stays around its own means",
        "stream/class_moments.py",
        "            moved.append(torch.addmm(own.scatter, (delta * own.counts[:, None]).T, delta))\n",
        "            moved.append(own.scatter.clone())\n",
        DISTRIBUTED,
    ),
    Fault(
        "every rank sends the classifier",
        "stream/sync.py",
        "    silent = part.once and header",
        "    silent = False and header",
        DISTRIBUTED,
    ),
    Fault(
        "the ranks' samples count alike, whatever they stand for",
        "functional/decision.py",
        "stands_for=rows,",
        "stands_for=torch.tensor(1),",
        DISTRIBUTED,
    ),
    Fault(
        "rows that a mask leaves out count",
        "watch/mask.py",
        "        return torch.where(mask.bool()[..., None] if dims else mask.bool(), labels, "
        "ignored)\n",
        "        return labels.clone()\n",
        ("tests/test_models_doc.py", "-k", "Nodes"),
    ),
    Fault(
        "decisions of an epoch that moves its weights are those of its last W",
        "watch/census.py",
        "by_head, joins = not stage.weights_move, ",
        "by_head, joins = True, ",
        ("tests/test_models_doc.py", "-k", "Parameter"),
    ),
    Fault(
        "a part of an epoch counts as the whole",
        "session.py",
        "all_seen = progress.is_last_batch and progress.current.ready == self._batches",
        "all_seen = True",
        ("tests/callback/test_unequal_counts.py", "-k", "chance or cut_short or middle"),
    ),
    Fault(
        "few rows are recognized by themselves",
        "functional/recall.py",
        "farther, reach = counts / (counts - 1), ",
        "farther, reach = torch.ones_like(counts), ",
        ("tests/callback/test_unequal_counts.py", "-k", "noise"),
    ),
    Fault(
        "geometries go by the counts of the stage",
        "values/evidence.py",
        "return self.all_counts if self.training is None else self.training.counts",
        "return self.all_counts",
        ("tests/callback/test_unequal_counts.py", "-k", "oracle"),
    ),
    Fault(
        "the weight of a layer in the first batch stands for an epoch that moves it",
        "watch/recorder.py",
        "if moves or not kept.is_kept)",
        "if not kept.is_kept)",
        ("tests/callback/test_layers_in_depth.py", "-k", "oracle"),
    ),
    Fault(
        "what comes between two layers of a linear head is not looked at",
        "watch/stack.py",
        "return float(seen) <= largest_gap(rounds or following.dtype, h.device)",
        "return float(seen) >= 0",
        ("tests/callback/test_layers_in_depth.py", "-k", "between"),
    ),
)  # fmt: skip


def seed(fault: Fault, into: Path) -> None:
    """Copy the package and its tests, with the fault."""
    ignored = shutil.ignore_patterns("__pycache__", ".hypothesis", ".pytest_cache")
    for name in ("lightning_nc", "tests", "examples", "docs"):
        shutil.copytree(ROOT / name, into / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, into / name)
    path = into / "lightning_nc" / fault.file
    source = path.read_text()
    if source.count(fault.right) != 1:
        raise ValueError(f"Expected the code of the fault {fault.name!r} once in {fault.file}.")
    path.write_text(source.replace(fault.right, fault.wrong))


def caught_by(fault: Fault) -> str | None:
    """The first test that fails with the fault, or None."""
    with tempfile.TemporaryDirectory() as folder:
        seed(fault, Path(folder))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *fault.tests],
            cwd=folder,
            # in front of an installed package
            env={**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    if done.returncode == 0:
        return None
    failed = re.search(r"^FAILED (.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if done.returncode != 1 or failed is None:  # anything but a failed test
        raise RuntimeError(f"The tests of {fault.name!r} did not run:\n{done.stdout}\n{done.stderr}")
    return failed.group(1)


def main() -> int:
    print("| fault | caught by |\n|---|---|")
    unnoticed = 0
    for fault in FAULTS:
        caught = caught_by(fault)
        unnoticed += caught is None
        print(f"| {fault.name} | {caught or 'NOTHING'} |", flush=True)
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main())
