"""Training does not notice the callback, to the last bit, and what it logs is right."""

import random

import jaxtyping
import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from support.training import BATCH, ROWS, Network, Noisy, assert_close, digits, fit
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback


def situation(name):
    """Training data and Trainer settings of a situation."""
    settings = {}
    data = Noisy(digits()) if "augmentation" in name else digits()
    own = torch.Generator().manual_seed(3) if "generator" in name else None
    workers = {"num_workers": 1, "persistent_workers": True} if "workers" in name else {}
    if "mid-epoch" in name:
        settings["val_check_interval"] = 0.5
    loader = DataLoader(data, BATCH, shuffle=True, generator=own, **workers)
    return loader, settings


def fingerprint(name, callbacks=()):
    """Everything that training leaves behind."""
    seed_everything(0, verbose=False)
    loader, settings = situation(name)
    module = Network()
    run = fit(module, callbacks, train=loader, **settings)
    drawn = loader.dataset.generator.bit_generator.state if isinstance(loader.dataset, Noisy) else None
    return {
        "module": module,
        "logged": dict(run.callback_metrics),
        "state": {k: v.clone() for k, v in module.state_dict().items()},
        "order": torch.cat(module.order),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "generator": None if loader.generator is None else loader.generator.get_state(),
        "augmentation": drawn,
        "modes": [m.training for m in module.modules()],
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()),
    }


MODES = {
    "val only": {"online": False},
    "online": {},
    "frozen": {"frozen_every_n_epochs": 1, "inference": "predict_step"},
}


SITUATIONS = (
    "plain",
    "persistent workers",
    "mid-epoch validation",
    "own generator",
    "own augmentation",
    "own augmentation, mid-epoch validation, persistent workers, own generator",
)


@pytest.fixture(scope="module", autouse=True)
def _no_shape_checks():
    # the checker draws from Python's global random state, which is compared here
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def without():
    return {name: fingerprint(name) for name in SITUATIONS}


@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_training_is_bit_identical_and_the_logged_values_are_right(mode, name, without):
    callback = NeuralCollapseCallback(**MODES[mode])
    seen, plain = fingerprint(name, [callback]), without[name]
    for key, value in plain["state"].items():
        assert torch.equal(seen["state"][key], value), key
    for key in ("order", "torch"):
        assert torch.equal(seen[key], plain[key]), key
    for key in ("numpy", "python", "augmentation", "modes", "hooks"):
        assert seen[key] == plain[key], key
    assert (seen["generator"] is None) == (plain["generator"] is None)
    if plain["generator"] is not None:
        assert torch.equal(seen["generator"], plain["generator"])

    module, logged = seen["module"], seen["logged"]
    assert_close(logged, module.reference("val", epoch=1), "val")
    stages = {key.split("/")[2] for key in logged if key.startswith("nc")}
    expected = {"val only": {"val"}, "online": {"val", "train_online"}}
    assert stages == expected.get(mode, {"val", "train_online", "train"})
    if mode != "val only":
        assert_close(logged, module.reference("train_online", epoch=1), "train_online")
    if mode == "frozen":
        assert float(logged["nc0/num_samples/train"]) == ROWS
        rows = module.noted["train", 1]
        assert sum(len(row[0]) for row in rows) == ROWS
        assert_close(logged, module.reference("train", epoch=1), "train")


def test_the_fingerprint_sees_a_callback_that_draws_a_random_number(without):
    class Meddler(NeuralCollapseCallback):
        def on_validation_epoch_end(self, trainer, pl_module):
            torch.rand(1)

    seen = fingerprint("plain", [Meddler(online=False)])
    assert not torch.equal(seen["torch"], without["plain"]["torch"])
    assert not all(
        torch.equal(seen["state"][key], value) for key, value in without["plain"]["state"].items()
    )
