"""Around a pass that leaves no trace."""

import random
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from support.training import trainer
from torch import nn

from lightning_nc.run.isolation import buffers_of_rank_zero, without_logging
from lightning_nc.unchanged import eval_mode, same_random_states


@pytest.mark.parametrize("fails", [False, True])
def test_modes_and_random_states_are_put_back(fails):
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3).eval(), nn.Linear(3, 3))
    network.train()
    network[1].eval()
    before = [m.training for m in network.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    try:
        with same_random_states(torch.device("cpu")), eval_mode(network, ""):
            assert not any(m.training for m in network.modules())
            torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert [m.training for m in network.modules()] == before
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]


def with_buffers():
    network = nn.BatchNorm1d(3)
    network.register_buffer("shared", torch.ones(1).expand(4))
    network.register_buffer("none", None)
    return network


@pytest.mark.parametrize("fails", [False, True])
def test_buffers_are_put_back_in_their_own_memory(fails):
    network = with_buffers()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    places = {name: value.data_ptr() for name, value in network.named_buffers()}
    try:
        with buffers_of_rank_zero(network, world_size=1):
            network(torch.randn(5, 3))
            network.running_mean = torch.full((3,), 7.0)
            assert not torch.equal(network.running_var, before["running_var"])
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    for name, value in network.named_buffers():
        assert torch.equal(value, before[name]), name
        assert value.data_ptr() == places[name], name


class Grows(nn.Module):
    """Keeps a table in a buffer, and how far it reaches beside it; the first time, in None's place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(3.0))
        self.register_buffer("first", None)
        self.reach = 3

    def forward(self, x):
        if len(x) > self.reach:
            self.register_buffer("table", torch.arange(float(len(x))))
            self.reach = len(x)
        self.first = self.table[:1]
        return x + self.table[: len(x)]


def test_a_buffer_and_what_a_module_says_of_it_are_put_back_together():
    network = Grows()
    with buffers_of_rank_zero(network, world_size=1):
        network(torch.zeros(5))
    assert (network.reach, len(network.table), network.first) == (3, 3, None)
    assert torch.equal(network(torch.zeros(4)), torch.arange(4.0))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_buffers_whose_bytes_cannot_be_compared_are_left_alone():
    network = nn.LazyBatchNorm1d()
    network.register_buffer("edges", torch.eye(2).to_sparse())
    network.register_buffer("rows", torch.eye(2).to_sparse_csr())
    with buffers_of_rank_zero(network, world_size=1):
        network(torch.randn(5, 3))
    assert network.num_batches_tracked == 0
    assert network.running_mean.shape == (3,)


def drifted_apart(rank):
    """What the network runs with in the pass, and afterwards."""
    network = with_buffers()
    network.running_mean.fill_(rank + 1)
    network.num_batches_tracked.fill_(2**40 + rank)
    with buffers_of_rank_zero(network, world_size=2):
        inside = network.running_mean.tolist(), int(network.num_batches_tracked)
    return inside, (network.running_mean.tolist(), int(network.num_batches_tracked))


@pytest.mark.ddp
def test_all_ranks_run_with_the_buffers_of_the_first(two_processes):
    of_first, of_second = ([rank + 1.0] * 3 for rank in range(2))
    assert two_processes.run(drifted_apart) == [
        ((of_first, 2**40), (of_first, 2**40)),
        ((of_first, 2**40), (of_second, 2**40 + 1)),
    ]


class Told(Logger):
    """Notes what it is told."""

    def __init__(self):
        super().__init__()
        self.told, self.experiment = [], SimpleNamespace(add_scalar=self.log_metrics)

    name, version = "told", 0

    def log_metrics(self, metrics, step=None):
        self.told.append(metrics)

    def log_hyperparams(self, *args, **kwargs):
        pass


class Tells(L.LightningModule):
    """Logs in each way that there is; a module inside it logs by itself."""

    def __init__(self, inner=None):
        super().__init__()
        self.inner = inner
        self.logged = []

    def log(self, name, value, **settings):
        self.logged.append(name)

    def tell(self, name):
        self.log(name, 1.0)
        self.log_dict({f"{name} dict": 1.0})
        for logger in [self.logger, *self.loggers, self.trainer.logger, *self.trainer.loggers]:
            logger.log_metrics(name)
            logger.experiment.add_scalar(name)
        if self.inner is not None:
            self.inner.tell(name)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_logged_inside_and_all_of_it_afterwards(fails):
    loggers = [Told(), Told()]
    module = Tells(Tells())
    run = trainer(logger=loggers)
    run.strategy.connect(module)
    module.trainer = run
    own = module.inner.__dict__["log"] = lambda *args, **kwargs: module.inner.logged.append("own")
    try:
        with without_logging(run, module):
            module.tell("inside")
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert run.loggers == loggers
    assert module.logged == module.inner.logged == loggers[0].told == loggers[1].told == []
    assert vars(module.inner)["log"] is own
    module.log("outside", 1.0)
    assert module.logged == ["outside"]
