"""The plan of a sample: every row, and every set of rows, is equally likely to be in it."""

import itertools
import math

import numpy as np
import pytest
import torch

from lightning_nc.stream.reservoir import Reservoir


def sampled(batches, capacity, seed, start=0):
    """A reservoir and the numbers of the rows that its slots hold, after these batches."""
    reservoir = Reservoir(capacity, seed)
    slots, row = np.full(capacity, -1), start
    for size in batches:
        used = reservoir.size
        placed = reservoir.place(size)
        slots[used : used + placed.fill] = row + np.arange(placed.fill)
        slots[placed.slots] = row + placed.rows
        row += size
    return reservoir, slots[: reservoir.size]


def assert_equally_likely(counts, draws, probability):
    """Counts of events of equal probability: no one stands out, nor do all together."""
    expected, deviation = draws * probability, math.sqrt(draws * probability * (1 - probability))
    scores = (np.asarray(counts) - expected) / deviation
    assert np.abs(scores).max() < 4.5
    chi_square, cells = np.sum(scores**2), len(scores)
    assert abs(chi_square - cells) < 5 * math.sqrt(2 * cells)


SPLITS = pytest.mark.parametrize(
    "batches",
    [(30,), (1,) * 30, (5, 0, 10, 1, 14), (10, 20), (22, 8)],
    ids=["at once", "row by row", "uneven", "full after the first", "overfull after the first"],
)


@SPLITS
def test_every_row_is_equally_likely_to_be_in_the_sample(batches):
    counts = np.zeros(30, dtype=int)
    for seed in range(1500):
        _, slots = sampled(batches, capacity=10, seed=seed)
        assert len(set(slots)) == 10
        counts[slots] += 1
    assert_equally_likely(counts, draws=1500, probability=1 / 3)


@pytest.mark.parametrize("batches", [(6,), (1,) * 6, (2, 4), (3, 3), (4, 1, 1)], ids=str)
def test_every_set_of_rows_is_equally_likely_to_be_the_sample(batches):
    sets = dict.fromkeys(itertools.combinations(range(6), 3), 0)
    for seed in range(2500):
        _, slots = sampled(batches, capacity=3, seed=seed)
        sets[tuple(sorted(slots.tolist()))] += 1
    assert_equally_likely(list(sets.values()), draws=2500, probability=1 / len(sets))


@pytest.mark.parametrize(
    ("first", "second"), [((4,), (3,)), ((2, 1), (1, 3)), ((1,), (6,)), ((6,), (1,))]
)
def test_every_set_of_rows_is_equally_likely_after_a_merge(first, second):
    rows = sum(first) + sum(second)
    sets = dict.fromkeys(itertools.combinations(range(rows), 2), 0)
    for seed in range(2500):
        a, mine = sampled(first, capacity=2, seed=2 * seed)
        b, theirs = sampled(second, capacity=2, seed=2 * seed + 1, start=sum(first))
        kept, taken = a.merge(b)
        joined = np.concatenate([mine[kept], theirs[taken]])
        assert (a.seen, b.seen) == (rows, sum(second))
        sets[tuple(sorted(joined.tolist()))] += 1
    assert_equally_likely(list(sets.values()), draws=2500, probability=1 / len(sets))


def test_rows_after_a_merge_are_as_likely_as_those_before():
    counts = np.zeros(30, dtype=int)
    for seed in range(2500):
        a, mine = sampled((8,), capacity=5, seed=2 * seed)
        b, theirs = sampled((12,), capacity=5, seed=2 * seed + 1, start=8)
        kept, taken = a.merge(b)
        slots = np.concatenate([mine[kept], theirs[taken]])
        placed = a.place(10)
        slots[placed.slots] = 20 + placed.rows
        counts[slots] += 1
    assert_equally_likely(counts, draws=2500, probability=5 / 30)


@pytest.mark.parametrize(
    ("first", "second", "size"),
    [(0, 0, 0), (0, 3, 3), (3, 0, 3), (2, 3, 5), (2, 4, 5), (0, 9, 5), (9, 0, 5)],
)
def test_a_merge_keeps_all_rows_that_fit(first, second, size):
    a, mine = sampled((first,), capacity=5, seed=0)
    b, theirs = sampled((second,), capacity=5, seed=1, start=first)
    kept, taken = a.merge(b)
    joined = [*mine[kept], *theirs[taken]]
    assert len(set(joined)) == len(joined) == a.size == size
    if first + second <= 5:
        assert sorted(joined) == list(range(first + second))


def test_a_merge_of_more_rows_than_hypergeometric_draws_allow_keeps_their_shares():
    shares = []
    for seed in range(50):
        a, b = Reservoir(1000, seed), Reservoir(1000, seed + 1000)
        a.seen, b.seen = 3 * 10**9, 10**9
        kept, taken = a.merge(b)
        assert len(kept) + len(taken) == 1000
        shares.append(len(kept))
    assert abs(np.mean(shares) - 750) < 5 * math.sqrt(1000 * 0.75 * 0.25 / 50)


@pytest.mark.parametrize("capacity", [1, 5, 100])
@SPLITS
def test_the_sample_never_holds_more_than_its_capacity(capacity, batches):
    reservoir = Reservoir(capacity, seed=0)
    for size in batches:
        room = capacity - reservoir.size
        placed = reservoir.place(size)
        assert placed.fill == min(size, room)
        assert len(placed.rows) == len(placed.slots) == len(set(placed.slots.tolist()))
        assert all(placed.fill <= row < size for row in placed.rows)
        assert all(0 <= slot < capacity for slot in placed.slots)
    assert (reservoir.seen, reservoir.size) == (30, min(30, capacity))


def test_the_same_seed_chooses_the_same_rows_and_another_one_does_not():
    chosen = [sampled((10, 20, 30), capacity=5, seed=seed)[1].tolist() for seed in (7, 7, 8)]
    assert chosen[0] == chosen[1] != chosen[2]
    reservoir = Reservoir(5, seed=7)
    first = [reservoir.place(30) for _ in range(3)]
    reservoir.reset()
    again = [reservoir.place(30) for _ in range(3)]
    for a, b in zip(first, again, strict=True):
        assert a.rows.tolist() == b.rows.tolist()
        assert a.slots.tolist() == b.slots.tolist()


def test_planning_leaves_the_global_random_states_alone():
    states = np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    reservoir, _ = sampled((50, 50), capacity=5, seed=0)
    reservoir.merge(Reservoir(5, seed=1))
    assert np.random.get_state()[1].tolist() == states[0]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])
