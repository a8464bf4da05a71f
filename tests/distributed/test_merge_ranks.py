"""Ranks agree on what they merge, or find out together that they cannot."""

import math

import pytest
import torch

from lightning_nc import NeuralCollapseWarning
from lightning_nc.stream.sync import Ranks, add_up, merge_ranks
from lightning_nc.tasks import Multiclass, Settings
from lightning_nc.values import RankFailed

pytestmark = pytest.mark.ddp


def merge_widths(rank, widths):
    task = Multiclass(Settings(3))
    part = task.accumulator((3, widths[rank]), "cpu")
    part.add(*part.check(torch.randn(6, widths[rank]), torch.arange(6) % 3))
    try:
        merge_ranks([part], lambda i, sizes: task.accumulator(sizes, "cpu"), Ranks())
    except ValueError as error:
        return str(error)


def test_ranks_whose_features_differ_in_width_find_out_together(two_processes):
    said = two_processes.run(merge_widths, [4, 5])
    assert said[0] == said[1]
    assert said[0].startswith(
        "Expected features of one shape on all ranks, but got 3 to 3 classes and 4 to 5"
    )
    assert two_processes.run(merge_widths, [4, 4]) == [None, None]


def count_and_fail(rank, failing):
    def count():
        if rank == failing:
            raise ArithmeticError("no number")
        return torch.full((2,), float(rank + 1))

    return [t.tolist() for t in add_up([(count, 2), (lambda: torch.ones(1), 1)], Ranks())]


def test_what_is_counted_on_each_rank_adds_up_in_one_round(pool):
    total = sum(range(1, pool.size + 1))
    assert pool.run(count_and_fail, None) == [[[total, total], [pool.size]]] * pool.size


def test_a_rank_that_cannot_count_makes_it_nan_on_all_and_goes_on(pool):
    with pytest.warns(
        NeuralCollapseWarning, match="Rank 1 could not merge .* ArithmeticError: no numb"
    ):
        results = pool.run(count_and_fail, 1)
    for counted, other in results:
        assert all(map(math.isnan, counted))
        assert other == [pool.size]


def fail_before_the_merge(rank, failing):
    task = Multiclass(Settings(3))
    try:
        merge_ranks([None], lambda i, sizes: task.accumulator(sizes, "cpu"), Ranks(), rank == failing)
    except RankFailed as error:
        return str(error)


def test_a_rank_that_cannot_take_part_tells_the_others_first(pool):
    told = pool.run(fail_before_the_merge, pool.size - 1)
    assert told == [
        f"Rank {pool.size - 1} could not take part with its data; its own message says why."
    ] * (pool.size)
    assert pool.run(fail_before_the_merge, None) == [None] * pool.size


def merge_what_one_rank_has(rank, owner):
    task = Multiclass(Settings(3))
    part = None
    if rank == owner:
        part = task.accumulator((3, 4), "cpu")
        part.add(*part.check(torch.eye(4)[:3], torch.arange(3)))
    nobody_has, merged = merge_ranks(
        [None, part], lambda i, sizes: task.accumulator(sizes, "cpu"), Ranks()
    )
    return nobody_has, merged.sums[0].tolist(), merged.own.sizes


def test_a_rank_without_a_part_makes_a_blank_one_of_the_others_shape(pool):
    for owner in (0, pool.size - 1):
        for nobody_has, counts, sizes in pool.run(merge_what_one_rank_has, owner):
            assert nobody_has is None
            assert (counts, sizes) == ([1, 1, 1], (3, 4))
