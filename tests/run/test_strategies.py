"""Strategies that were tested, that are refused, and that nobody has tried."""

import re

import pytest
import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)
from support.networks import Sharded
from support.training import BATCH, ROWS, Network, digits, fit, trainer
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning
from lightning_nc.run.strategies import doubt, refuse_frozen_pass


def blank(strategy, **attributes):
    """An instance that was not set up: those for devices that are not there cannot be."""
    made = strategy.__new__(strategy)
    vars(made).update(attributes)
    return made


class OwnDDP(DDPStrategy):
    pass


class Own(SingleDeviceStrategy):
    pass


class Stranger:
    pass


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (SingleDeviceStrategy(torch.device("cpu")), None),
        (DDPStrategy(), None),
        (OwnDDP(), None),
        (Own(torch.device("cpu")), None),
        (blank(FSDPStrategy), None),
        (blank(ModelParallelStrategy, _tensor_parallel_size=1), None),
        (blank(ModelParallelStrategy, _tensor_parallel_size=2), "tensor parallelism: .* several times"),
        (blank(DeepSpeedStrategy), "DeepSpeedStrategy: compare nc0/num_samples"),
        (Stranger(), "Stranger: compare"),
    ],
)
def test_strategies_that_were_not_tested_are_said(strategy, text):
    said = doubt(strategy)
    if text is None:
        assert said is None
    else:
        assert re.search(f"has not been tested with {text}", said)


def test_a_doubt_is_said_when_the_run_begins(monkeypatch):
    monkeypatch.setattr("lightning_nc.run.strategies._TESTED", set())
    with pytest.warns(NeuralCollapseWarning, match="not been tested with SingleDeviceStrategy"):
        fit(Network(), [NeuralCollapseCallback()], max_epochs=1)


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy])
def test_a_frozen_pass_where_a_forward_is_a_collective_is_refused(strategy):
    with pytest.raises(ValueError, match=rf"but got {strategy.__name__}: .*stage val_1"):
        refuse_frozen_pass(blank(strategy))
    refuse_frozen_pass(DDPStrategy())


def refused_in_a_trainer(rank):
    callback = NeuralCollapseCallback(frozen_every_n_epochs=1)
    fit(Sharded(), [callback], strategy=ModelParallelStrategy(2, 1), devices=2)


@pytest.mark.ddp
def test_the_frozen_pass_is_refused_before_the_first_step(two_processes):
    with pytest.raises(RuntimeError, match="but got ModelParallelStrategy: there a forward waits"):
        two_processes.run(refused_in_a_trainer)


# Processes that the Trainer starts


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*num_workers.*")
def test_the_callback_goes_along_to_spawned_processes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    module, callback = Network(), NeuralCollapseCallback(layers={"neck": "flatten"})
    run = trainer([callback], strategy="ddp_spawn", devices=2, max_epochs=1)
    run.fit(module, DataLoader(digits(), BATCH), DataLoader(digits(ROWS, 96), BATCH))
    assert float(run.callback_metrics["nc0/num_samples/train_online"]) == ROWS
    # on one process, from the weights that came back
    alone = trainer([NeuralCollapseCallback()])
    [values] = alone.validate(module, DataLoader(digits(ROWS, 96), BATCH), verbose=False)
    for key in ("nc1/within_between_ratio/val", "nc4/ncc_mismatch/val", "nc3/self_duality/val"):
        assert float(run.callback_metrics[key]) == pytest.approx(values[key], rel=1e-4)
