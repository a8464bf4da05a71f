"""Tags are accumulated exactly, in any split of the rows and over any number of ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tag_oracles
from support.memory import tensors_of
from support.problems import unchecked_shapes
from support.tagged import Tagged, drawn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_nc import LinearClassifier
from lightning_nc.functional import values_of
from lightning_nc.stream import co_moments, some_rows, tag_accumulator
from lightning_nc.tasks import Multilabel, Settings

pytestmark = pytest.mark.usefixtures("small_backlog")
fake = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


@pytest.fixture
def few_slots(monkeypatch):
    """Pairs have no mean of their own."""
    monkeypatch.setattr(tag_accumulator, "MOST_SLOTS", 10)


@pytest.fixture
def masking(monkeypatch):
    """Rows are masked, as on a device that would have to be waited for."""
    monkeypatch.setattr(some_rows, "_picks", lambda device: False)


def blank(rows, **chosen):
    task = Multilabel(Settings(**chosen))
    return task, task.accumulator((rows.t.shape[1], rows.h.shape[1]), "cpu")


def added(accumulator, rows, sizes=(7, 80, 3, 41)):
    start, i = 0, 0
    while start < len(rows):
        part = rows[start : start + sizes[i % len(sizes)]]
        accumulator.add(*accumulator.check(part.h, part.t), part.scores)
        start, i = start + len(part), i + 1
    return accumulator


def evaluated(task, evidence):
    outcomes = task.evaluate(task.complete(evidence))
    return {key: float(value) for key, value in values_of(outcomes).items()}


def head_of(rows):
    return LinearClassifier(rows.weight, rows.bias)


def values(rows, sizes=(7, 80, 3, 41), **chosen):
    task, accumulator = blank(rows, **chosen)
    return evaluated(task, added(accumulator, rows, sizes).value(head_of(rows)))


def assert_close(found, expected, rel=1e-5):
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=rel, abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_key_equals_the_reference(dtype):
    rows = drawn(dtype=dtype)
    assert_close(values(rows), rows.reference(), rel=1e-9 if dtype == torch.float64 else 1e-5)


@pytest.mark.usefixtures("few_slots")
def test_where_pairs_have_no_mean_the_rest_rests_on_co_moments():
    rows = drawn()
    found = values(rows)
    assert_close(found, rows.reference(pairs_have_means=False))
    assert "tags/scale_2" in found


@pytest.mark.usefixtures("masking")
@pytest.mark.parametrize("slots", [10, 4096])
def test_masked_rows_give_the_same_as_picked_ones(slots, monkeypatch):
    monkeypatch.setattr(tag_accumulator, "MOST_SLOTS", slots)
    rows = drawn(num_tags=5)
    assert_close(values(rows), rows.reference(pairs_have_means=slots > 10))


@pytest.mark.usefixtures("few_slots", "masking")
@fake
def test_updates_run_without_knowing_any_value():
    with FakeTensorMode():
        _, accumulator = blank(Tagged(torch.zeros(1, 8), torch.zeros(1, 5), None, None))
        for _ in range(20):
            h, t, z = torch.randn(13, 8), torch.randint(2, (13, 5)), torch.randn(13, 5)
            accumulator.add(h, t, z)
        accumulator.reset()
        accumulator.add(h, t)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    order=st.permutations(range(6)),
    slots=st.sampled_from([10, 4096]),
)
def test_any_split_and_any_order_of_the_tags_give_the_same(sizes, order, slots):
    with unchecked_shapes(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tag_accumulator, "MOST_SLOTS", slots)
        rows = drawn(dtype=torch.float64, rows=120)
        turned = Tagged(rows.h, rows.t[:, order], rows.weight[list(order)], rows.bias[list(order)])
        assert_close(values(turned, sizes), values(rows), rel=1e-9)


def over_ranks(rows, shares):
    """What ranks with these rows would make of them, by hand."""
    task, _ = blank(rows)
    ranks = [added(blank(rows)[1], rows[share]) for share in shares]
    sums = [torch.stack(each).sum(0) for each in zip(*(r.sums() for r in ranks), strict=True)]
    rest = [torch.stack(each).sum(0) for each in zip(*(r.around(sums) for r in ranks), strict=True)]
    return evaluated(task, ranks[0].merged(sums, rest, head_of(rows)))


@pytest.mark.parametrize("slots", [10, 4096])
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_merge_exactly_one_of_them_without_rows(ranks, slots, monkeypatch):
    monkeypatch.setattr(tag_accumulator, "MOST_SLOTS", slots)
    rows = drawn(dtype=torch.float64)
    shares = [slice(i, None, ranks) for i in range(ranks)]
    assert_close(over_ranks(rows, shares), values(rows), rel=1e-9)
    sorted_by_size = rows.t.sum(1).argsort()
    assert_close(over_ranks(rows, [sorted_by_size, slice(0, 0)]), values(rows), rel=1e-9)


def late(spread, offset, dtype=torch.float64):
    """Rows at the sums of their tags' means, but for a little, far from the origin."""
    rng = np.random.default_rng(3)
    means = rng.standard_normal((5, 12))
    means -= means.mean(0)
    t = tag_oracles.drawn(1, 5, 12, 300, 4).t
    length = np.array([0, 1, 0.9, 0.8, 0.7])[t.sum(1).astype(int), None]
    h = length * (t @ means) + spread * rng.standard_normal((300, 12)) + offset
    weight = torch.tensor(means)
    return Tagged(torch.tensor(h, dtype=dtype), torch.tensor(t), weight, torch.zeros(5).double())


@pytest.mark.parametrize("slots", [10, 4096])
@pytest.mark.parametrize(("spread", "offset"), [(1e-3, 10.0), (1e-4, 1e2), (1e-5, 10.0)])
def test_late_in_training_co_moments_keep_five_digits(spread, offset, slots, monkeypatch):
    monkeypatch.setattr(tag_accumulator, "MOST_SLOTS", slots)
    rows = late(spread, offset)
    found, expected = values(rows), rows.reference(pairs_have_means=slots > 10)
    for m in (2, 3, 4):
        for name in (f"tags/residual_{m}", f"tags/scale_{m}"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5), (name, expected[name])


def test_rows_that_do_not_count_are_counted():
    rows = drawn()
    h, t = rows.h.clone(), rows.t.clone()
    h[0, 0], h[1, 2] = torch.nan, torch.inf
    t[2] = 0
    t[3, 1] = 0.5
    t[4] = -100
    task, accumulator = blank(rows)
    accumulator._labels_are_known = True  # no soft label was in the first batch
    changed = Tagged(h, t, rows.weight, rows.bias)
    evidence = added(accumulator, changed).value(head_of(rows))
    assert [int(n) for n in evidence.tag_tallies] == [2, 1, 1, 0]
    assert evidence.num_samples == len(rows) - 5
    assert_close(evaluated(task, evidence), rows[5:].reference())


def test_rows_of_too_many_tags_are_decided_and_nothing_else():
    rows = drawn(num_tags=10, d=6, rows=300)
    t = rows.t.clone()
    t[:6, :9] = 1
    h = rows.h.clone()
    h[4:6, 0] = torch.nan  # they are counted as such, and not as rows of too many tags
    given = Tagged(h, t, rows.weight, rows.bias)
    task, accumulator = blank(given)
    evidence = added(accumulator, given).value(head_of(given))
    assert int(evidence.tag_tallies.too_many) == int((t.sum(1) > 8).sum()) - 2 == 4
    assert int(evidence.tag_tallies.non_finite) == 2
    kept = torch.arange(len(t)).sub(4.5).abs() > 1
    assert_close(evaluated(task, evidence), given[kept].reference())
    assert evidence.num_samples == len(t) - 2


def test_states_are_readable_and_one_can_go_on_from_them():
    rows = drawn(dtype=torch.float64)
    task, first = blank(rows)
    added(first, rows[:100])
    states = {name: state.clone() for name, state in first.states().items()}
    assert states["means"].shape == (6, 5)
    assert states["pair_means"].shape == (15, 5)
    assert torch.equal(states["scatter"], states["scatter"].T)
    _, second = blank(rows)
    second.load(states)
    added(second, rows[100:])
    assert_close(evaluated(task, second.value(head_of(rows))), values(rows), rel=1e-9)
    with pytest.raises(ValueError, match="a state 'counts' of shape"):
        second.load({"means": states["means"]})
    second.reset()
    assert not any(state.any() for name, state in second.states().items())


def test_the_value_does_not_follow_later_rows():
    rows = drawn()
    task, accumulator = blank(rows)
    before = added(accumulator, rows[:100]).value(head_of(rows))
    found = evaluated(task, before)
    added(accumulator, rows[100:])
    assert evaluated(task, before) == found


def test_states_that_were_made_in_inference_mode_go_on_outside_of_it():
    rows = drawn()
    _, accumulator = blank(rows)
    with torch.inference_mode():
        accumulator.load({n: s.clone() for n, s in accumulator.states().items()})
        added(accumulator, rows[:50])
        accumulator._change(torch.clone)
        accumulator.tallies = accumulator.tallies.clone()
    added(accumulator, rows[50:])
    assert int(accumulator.value().num_samples) == len(rows)


def test_memory_of_80_tags_is_that_of_3240_means():
    """All tensors that it reaches, between batches that fill its backlog; the sample apart."""
    _, accumulator = blank(Tagged(torch.zeros(1, 512), torch.zeros(1, 80), None, None), sample_rows=1)
    h, t = torch.randn(200, 512), torch.eye(80)[torch.arange(200) % 80]
    for _ in range(3):
        accumulator.add(h, t, torch.randn(200, 80))
    means, scatter = 8 * 3240 * 512, (8 + 4) * 512**2  # with the float32 products
    several = co_moments.CoMoments.num_bytes(80, 512, range(3, 9))
    expected = means + scatter + several + 2 * 8 * 3240
    assert tensors_of(accumulator, []) == pytest.approx(expected, rel=0.03)
    assert expected < 20e6
