"""Small batches wait for each other, and the values do not depend on it."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from support.problems import problem

from lightning_nc import NeuralCollapse
from lightning_nc.stream import backlog
from lightning_nc.stream.backlog import UNKNOWN, Backlog, Rows

CPU = torch.device("cpu")


def rows(count, width=4, start=0.0, dtype=torch.float32):
    features = start + torch.arange(count * width, dtype=dtype).view(count, width)
    return Rows(features, torch.arange(count), torch.full((count,), UNKNOWN))


@pytest.mark.parametrize(("width", "capacity"), [(1, 4096), (512, 4096), (2048, 1024), (10**7, 1)])
def test_the_memory_holds_at_most_so_many_rows_and_entries(width, capacity):
    assert Backlog(width, CPU).capacity == capacity


def test_rows_come_back_in_their_order_and_once():
    waiting = Backlog(4, CPU)
    batches = [rows(3), rows(1, start=100.0), rows(5, start=200.0)]
    for batch in batches:
        assert waiting.add(batch)
    assert len(waiting) == 9
    for taken, parts in zip(waiting.take(), zip(*batches, strict=True), strict=True):
        assert torch.equal(taken, torch.cat(parts))
    assert len(waiting) == 0


def test_a_copy_waits_and_not_the_memory_of_the_network():
    waiting, batch = Backlog(4, CPU), rows(3)
    waiting.add(batch)
    batch.features.fill_(-1)
    assert torch.equal(waiting.take().features, rows(3).features)


@pytest.mark.parametrize(
    ("batch", "taken"),
    [
        (rows(2048), True),
        (rows(2049), False),
        (rows(2)._replace(target=torch.arange(2, dtype=torch.int32)), True),
        (rows(2, dtype=torch.float64), True),
    ],
)
def test_an_empty_backlog_takes_batches_up_to_half_of_it(batch, taken):
    assert Backlog(4, CPU).add(batch) is taken


@pytest.mark.parametrize(
    ("batch", "taken"),
    [
        (rows(12), True),
        (rows(2048), True),
        (rows(2)._replace(target=torch.arange(2, dtype=torch.int32)), False),
        (rows(2, dtype=torch.float64), False),
    ],
)
def test_only_what_fits_is_put_beside_others(batch, taken):
    waiting = Backlog(4, CPU)
    waiting.add(rows(500))
    assert waiting.add(batch) is taken
    assert len(waiting) == 500 + taken * len(batch.target)


def test_what_does_not_fit_beside_others_is_not_put_there():
    waiting = Backlog(4, CPU)
    assert waiting.add(rows(2048))
    assert waiting.add(rows(2000))
    assert not waiting.add(rows(49))
    assert waiting.add(rows(48))
    assert len(waiting) == waiting.capacity


@settings(max_examples=25, deadline=None)
@for_all(st.lists(st.integers(0, 70), max_size=20), st.integers(1, 200))
def test_values_do_not_depend_on_what_waits(sizes, most):
    given = problem("imbalanced")
    at_once = NeuralCollapse(given.num_classes, given.num_features)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(backlog, "_MOST_ROWS", most)
        waited = NeuralCollapse(given.num_classes, given.num_features)
    bounds = [0, *torch.tensor([*sizes, 0]).cumsum(0).clamp(max=len(given.target)).tolist()]
    for start, stop in [*pairwise(bounds), (bounds[-1], len(given.target))]:
        part = slice(start, stop)
        waited.update(given.features[part], given.target[part], given.logits[part])
    at_once.update(given.features, given.target, given.logits)
    for key, value in at_once.compute().items():
        torch.testing.assert_close(waited.compute()[key], value, rtol=1e-5, atol=1e-9, msg=key)


@pytest.mark.filterwarnings("ignore::lightning_nc.NeuralCollapseWarning")
@pytest.mark.parametrize(
    "read",
    [
        lambda m: m.statistics().counts.sum(),
        lambda m: len(m.sample().target),
        lambda m: m.compute()["nc0/num_samples"],
        lambda m: m.evidence().tallies.predicted,
        lambda m: m.state_dict()["counts"].sum(),
        lambda m: m.to(torch.bfloat16).statistics().counts.sum(),
        lambda m: m.clone().statistics().counts.sum(),
    ],
)
def test_whatever_is_read_knows_the_rows_that_wait(read):
    given = problem("random")
    metric = NeuralCollapse(given.num_classes, given.num_features)
    metric.persistent(True)
    metric.update(given.features[:7], given.target[:7], given.logits[:7])
    assert int(read(metric)) == 7
    metric.update(given.features[:5], given.target[:5], given.logits[:5])
    assert int(read(metric)) == 12
    metric.reset()
    assert int(metric.statistics().counts.sum()) == 0


def test_batches_with_and_without_decisions_may_wait_together():
    given = problem("random")
    metric = NeuralCollapse(given.num_classes, given.num_features)
    metric.update(given.features[:7], given.target[:7])
    metric.update(given.features[7:10], given.target[7:10], predicted=given.target[7:10])
    metric.update(given.features[10:11], given.target[10:11], predicted=given.target[10:11] - 1)
    tallies = metric.evidence().tallies
    assert int(tallies.predicted) == 4
    assert int(tallies.correct) == 3
    assert metric.sample().predicted.tolist()[:8] == [UNKNOWN] * 7 + [int(given.target[7])]
