"""A situation is lived twice: with the callback nothing differs, and the values are right."""

import contextlib
import functools
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from support import ways
from support.problems import unchecked_shapes
from support.training import Network, assert_close, reference_of, trainer

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning

BOTH = ("train_online", "val")


@dataclass(frozen=True)
class Situation:
    """One row of the table.

    Attributes:
        checks: What it is about.
        module, train, val: What is trained, and on what.
        callback, trainer: Settings.
        kind: The class of the callback.
        others: Further callbacks, in front of ours.
        prepare: Called with the module before the Trainer sees it.
        run: How the Trainer is run.
        package: Which of the two Lightning namespaces.
        stages: Those whose last values are compared with the reference.
        epoch: Of which epoch they are.
        also: A further check of the watched run.
        says: A warning of ours that is expected.
        ignored: Warnings of Lightning's that belong to the situation.
        processes: 0: this one, under the checks of shapes; else a gloo group of so many.
    """

    checks: str
    module: Callable[[], Any] = Network
    train: Callable[[], Any] = ways.shuffled
    val: Callable[[], Any] = ways.validation
    callback: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    kind: type = NeuralCollapseCallback
    others: Callable[[], list[Any]] = list
    prepare: Callable[[Any], Any] = bool
    run: Callable[..., Any] = ways.fits
    package: Callable[[], Any] = lambda: L
    stages: tuple[str, ...] = BOTH
    epoch: int = 1
    also: Callable[[list[dict[str, Any]]], None] = bool
    says: str | None = None
    ignored: tuple[str, ...] = ()
    processes: int = 0


# What a run leaves behind


def live(rank, situation, watched, folder):
    """Run a situation, with the callback or without; everything that may be compared.

    Without the checks of shapes, which draw from Python's global random state.
    """
    seed_everything(0, verbose=False)
    torch.set_num_threads(1)
    callback = situation.kind(**situation.callback)

    def start(extra=(), **settings):
        module = situation.module()
        situation.prepare(module)
        callbacks = [*situation.others(), *extra, *([callback] if watched else [])]
        settings = {"default_root_dir": folder, **situation.trainer, **settings}
        if any(isinstance(c, ModelCheckpoint) for c in callbacks):
            settings["enable_checkpointing"] = True
        strategy = settings.get("strategy")
        if callable(strategy):
            settings["strategy"] = strategy()
        return trainer(callbacks, package=situation.package(), **settings), module

    with warnings.catch_warnings(), unchecked_shapes():
        warnings.filterwarnings("ignore", ".*this may be a bottleneck.*")
        for text in situation.ignored:
            warnings.filterwarnings("ignore", text)
        run, module = situation.run(start, situation.train, situation.val)
        states = [
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            random.getstate(),
            [state.tolist() for state in torch.cuda.get_rng_state_all()],
        ]
    modules = list(module.modules())
    return {
        "logged": {key: float(value) for key, value in run.callback_metrics.items()},
        "history": callback.history,
        "noted": module.noted,
        "epochs": run.current_epoch,
        "state": {key: whole(value).clone() for key, value in module.state_dict().items()},
        "order": torch.cat(module.order) if module.order else torch.zeros(0),
        "random": states,
        "modes": [m.training for m in modules],
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules),
    }


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@contextlib.contextmanager
def saying(text):
    """Expect a warning of ours, or none."""
    if text is None:
        yield
        return
    with pytest.warns(NeuralCollapseWarning, match=text):
        yield


def check(situation, lives, tmp_path, request):
    """Run a situation without the callback and with it, and compare.

    Args:
        situation: The situation.
        lives: Runs it: called with the rank, whether it is watched, and a folder.
        tmp_path, request: The test's.
    """

    def run(watched):
        arguments = {"watched": watched, "folder": str(tmp_path / str(watched))}
        if situation.processes == 0:
            return [lives(0, **arguments)]
        pool = request.getfixturevalue({1: "one_process", 2: "two_processes"}[situation.processes])
        return pool.run(functools.partial(lives, **arguments))

    plain = run(watched=False)
    with saying(situation.says):
        watched = run(watched=True)
    for one, other in zip(plain, watched, strict=True):
        assert list(one["state"]) == list(other["state"])
        for key, value in one["state"].items():
            assert torch.equal(value, other["state"][key]), f"{key} has changed"
        assert torch.equal(one["order"], other["order"])
        for what in ("random", "modes", "hooks", "epochs"):
            assert one[what] == other[what], what
    for stage in situation.stages:
        rows = [row for run in watched for row in run["noted"][stage, situation.epoch]]
        for run in watched:
            mine = {key: value for key, value in run["logged"].items() if key.startswith("nc")}
            assert_close(mine, reference_of(rows), stage)
    situation.also(watched)
