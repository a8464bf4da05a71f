"""Layers, their weights and a linear head over two ranks, against one process and the oracle."""

import warnings

import numpy as np
import pytest
from support.deep_head import CHANCE, DeepHead, reference
from support.ranks import assert_identical
from support.training import ROWS, digits
from torch.utils.data import DataLoader

from lightning_nc import measure

pytestmark = pytest.mark.ddp

SETTINGS = {"layers": ["body.[02]:in", "**"], "measures": ["default", "layer", "linear", "lm"]}


def train(rank, folder):
    """Two epochs; rows, logged values and the state that is left."""
    from lightning.pytorch import seed_everything
    from support.training import fit

    from lightning_nc import NeuralCollapseCallback

    warnings.simplefilter("ignore")  # C > d + 1 in the narrow layers, and the like
    seed_everything(0, verbose=False)
    module = DeepHead()
    callback = NeuralCollapseCallback(figures_every_n_epochs=0, **SETTINGS)
    run = fit(
        module, [callback], strategy="ddp", devices=2,
        num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    return {
        "logged": {key: float(v) for key, v in run.callback_metrics.items()},
        "keys": list(callback.history),
        "state": module.state_dict(),
        "rows": module.noted["train_online", 1],
    }


@pytest.fixture(scope="module")
def runs(two_processes, tmp_path_factory):
    return two_processes.run(train, str(tmp_path_factory.mktemp("depth")))


def of_stage(logged, stage):
    found = {}
    for key, value in logged.items():
        group, name, its_stage, *layer = key.split("/")
        if its_stage == stage:
            found.setdefault("/".join(layer), {})[f"{group}/{name}"] = value
    return found


def test_both_ranks_have_the_same_values_under_the_same_keys(runs):
    first, second = runs
    assert first["logged"] == second["logged"]
    assert first["keys"] == second["keys"]
    assert_identical(first["state"], second["state"])


def test_two_ranks_online_equal_the_oracle_on_what_both_have_met(runs):
    rows = [row for run in runs for row in run["rows"]]
    expected = reference(rows)
    found = of_stage(runs[0]["logged"], "train_online")
    for name, values in expected.items():
        mine = {key: found[name][key] for key in values}
        assert mine == pytest.approx(values, rel=1e-5, abs=1e-8), name
        assert CHANCE[0] in found[name]


def test_one_and_two_processes_agree(runs):
    module = DeepHead()
    module.load_state_dict(runs[0]["state"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = measure(module, DataLoader(digits(ROWS, 96), 48), **SETTINGS).values
    found = {
        f"{key}/{name}" if name else key: value
        for name, values in of_stage(runs[0]["logged"], "val").items()
        for key, value in values.items()
    }
    assert found.keys() == alone.keys()
    for key, value in alone.items():
        assert found[key] == pytest.approx(value, rel=1e-6, abs=1e-9), key
    assert len([key for key in alone if key.startswith("linear/")]) == 12
    assert np.isfinite(list(alone.values())).all()
