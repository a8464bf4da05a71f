"""Around a pass that leaves no trace."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from lightning_nc.run.isolation import (
    buffers_of_rank_zero,
    eval_mode,
    isolated_random_state,
    without_logging,
)


@pytest.mark.parametrize("fails", [False, True])
def test_modes_and_random_states_are_put_back(fails):
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3).eval(), nn.Linear(3, 3))
    network.train()
    network[1].eval()
    before = [m.training for m in network.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    try:
        with eval_mode(network), isolated_random_state(torch.device("cpu")):
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


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_logged_inside_and_all_of_it_afterwards(fails):
    class Module:
        def __init__(self):
            self.logged = []

        def log(self, name, value):
            self.logged.append(name)

    module = Module()
    try:
        with without_logging(module):
            module.log("inside", 1)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    module.log("outside", 1)
    assert module.logged == ["outside"]
