"""Copies go on apart from each other; the global random states are not touched."""

import copy
import pickle

import numpy as np
import pytest
import torch
from support.metrics import add, assert_identical, blank
from support.problems import assert_statistics, problem, streamed
from torch import nn

from lightning_nc import (
    NeuralCollapse,
)

pytestmark = pytest.mark.usefixtures("small_backlog")


COPIES = {
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "deepcopy": copy.deepcopy,
    "clone": lambda m: m.clone(),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_continues_as_the_original_and_apart_from_it(how):
    given = problem("random")
    original = blank(given, sample_rows=50)
    add(original, given, slice(200))
    copied = COPIES[how](original)
    assert_identical(copied, original)
    add(copied, given, slice(200, 400))
    assert original.compute()["nc0/num_samples"] == 200
    add(original, given, slice(200, 400))
    assert_identical(copied, original)


def test_a_metric_is_hashable_and_each_is_its_own():
    given = problem("random")
    first, second = blank(given), blank(given)
    assert len({first, second, first}) == 2
    add(first, given, slice(10))
    assert hash(first) == hash(first)
    assert sum(isinstance(m, NeuralCollapse) for m in nn.ModuleList([first, second]).modules()) == 2


def test_what_the_metric_hands_out_does_not_change_with_later_batches():
    given = problem("random")
    metric = blank(given, covariance="per_class")
    add(metric, given, slice(300))
    statistics, sample, state = metric.statistics(), metric.sample(), metric.evidence()
    before = copy.deepcopy((statistics, sample, state))
    metric.reset()
    add(metric, given, slice(300, None))
    assert_statistics(statistics, before[0], relative=0, absolute=0)
    assert_statistics(state.statistics, before[2].statistics, relative=0, absolute=0)
    for name in ("features", "target", "predicted"):
        assert torch.equal(getattr(sample, name), getattr(before[1], name))
        assert torch.equal(getattr(state.sample, name), getattr(before[2].sample, name))
    assert state.tallies == before[2].tallies


def test_the_global_random_states_are_not_touched():
    given = problem("random")
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    streamed(given, sample_rows=20).compute()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
