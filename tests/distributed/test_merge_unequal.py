"""Unequal classes and the squared error over two ranks, against one process and the oracles."""

import warnings

import pytest
from support.imbalance_oracles import reference
from support.ranks import assert_identical
from support.unequal import COUNTS, Network, loader, unequal_digits

from lightning_nc import measure

pytestmark = pytest.mark.ddp

SETTINGS = {"measures": ["default", "imbalance", "mse"], "penalty": 0.01}


def train(rank, folder):
    """Two epochs; logged values, what is remembered of training, and the state that is left."""
    from lightning.pytorch import seed_everything
    from support.training import fit

    from lightning_nc import NeuralCollapseCallback

    warnings.simplefilter("ignore")
    seed_everything(0, verbose=False)
    module = Network()
    callback = NeuralCollapseCallback(figures_every_n_epochs=0, **SETTINGS)
    fit(
        module, [callback], loader(unequal_digits()),
        loader(unequal_digits((8,) * 10, first=130)), max_epochs=2,
        strategy="ddp", devices=2, num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    return {
        "logged": {key: rows[-1].value for key, rows in callback.history.items()},
        "times": {len(rows) for rows in callback.history.values()},
        "counts": callback.state_dict()["training"]["training"]["counts"],
        "state": module.state_dict(),
    }


@pytest.fixture(scope="module")
def runs(two_processes, tmp_path_factory):
    return two_processes.run(train, str(tmp_path_factory.mktemp("unequal")))


def test_both_ranks_have_the_same_values_and_the_counts_of_all_rows(runs):
    first, second = runs
    assert first["logged"] == second["logged"]
    assert first["times"] == second["times"] == {2}
    for run in runs:
        assert run["counts"].tolist() == list(COUNTS)
    assert_identical(first["state"], second["state"])


def test_one_and_two_processes_agree_and_equal_the_oracle(runs):
    module, held_out = Network(), unequal_digits((8,) * 10, first=130)
    module.load_state_dict(runs[0]["state"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = measure(module, loader(held_out), class_counts=COUNTS, progress=False, **SETTINGS)
    found = {
        key.removesuffix("/val"): value
        for key, value in runs[0]["logged"].items()
        if key.endswith("/val")
    }
    assert found.keys() == alone.values.keys()
    for key, value in alone.values.items():
        assert found[key] == pytest.approx(value, rel=1e-6, abs=1e-9), key
    x, y = held_out.tensors
    h = module.body(x).detach().double().numpy()
    last = module.head[-1]
    expected = reference(h, y.numpy(), last.weight.detach().double().numpy(), last.bias, COUNTS)
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert {"mse/loss_perp", "mse/probe_accuracy", "imbalance/ce_ufm"} <= found.keys()
