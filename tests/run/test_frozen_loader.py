"""Which rows the frozen pass visits, and what it refuses."""

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_nc.run import frozen_loader as frozen_module
from lightning_nc.run.frozen_loader import frozen_loader, most_batches

DATA = TensorDataset(torch.arange(50))


def visited(loader, num_batches=None, **settings):
    private = frozen_loader(loader, num_batches or len(loader), seed=0, **settings)
    return torch.cat([batch[0] for batch in private]).tolist()


@pytest.mark.parametrize(
    ("loader", "num_batches", "expected"),
    [
        (DataLoader(DATA, 8), None, range(50)),
        (DataLoader(DATA, 8, shuffle=True), None, range(50)),
        (DataLoader(DATA, 8, shuffle=True, drop_last=True), None, range(50)),
        (DataLoader(DATA, 8, sampler=SubsetRandomSampler(range(5, 15))), None, range(5, 15)),
        (DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 8, False)), None, range(50)),
        (DataLoader(DATA, batch_size=None, shuffle=True), None, range(50)),
        (DataLoader(DATA, 8, sampler=[3, 1, 2]), None, [1, 2, 3]),
        # training sees the first rows only, and so does the pass
        (DataLoader(DATA, 8), 2, range(16)),
    ],
)
def test_the_rows_of_training_are_visited_once(loader, num_batches, expected):
    if loader.batch_size is None and loader.batch_sampler is None:
        rows = [int(batch[0]) for batch in frozen_loader(loader, len(loader), seed=0)]
    else:
        rows = visited(loader, num_batches)
    assert sorted(rows) == list(expected)
    assert len(rows) < 5 or rows != sorted(rows)


def test_shuffled_training_cut_short_is_measured_on_as_many_random_rows():
    rows = visited(DataLoader(DATA, 8, shuffle=True), num_batches=2)
    assert len(set(rows)) == 16
    assert max(rows) > 16
    assert rows == visited(DataLoader(DATA, 8, shuffle=True), num_batches=2)


@pytest.mark.parametrize("num_rows", [47, 48, 49, 50])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_with_a_distributed_sampler_share_the_rows_without_padding(num_rows, world):
    data = TensorDataset(torch.arange(num_rows))
    loaders = [DataLoader(data, 8, sampler=DistributedSampler(data, world, r)) for r in range(world)]
    shares = [visited(loader) for loader in loaders]
    assert sorted(row for share in shares for row in share) == list(range(num_rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # all ranks know how many batches the longest share has
    assert {most_batches(loader, len(loader)) for loader in loaders} == {-(-len(shares[0]) // 8)}


def test_ranks_that_share_by_hand_visit_all_rows_of_their_own():
    shards = [TensorDataset(torch.arange(0, 50, 2)), TensorDataset(torch.arange(1, 50, 2))]
    rows = [visited(DataLoader(shard, 8, shuffle=True)) for shard in shards]
    assert [sorted(each) for each in rows] == [list(range(0, 50, 2)), list(range(1, 50, 2))]
    assert most_batches(DataLoader(shards[0], 8), 4) == 0  # the others' lengths are not known here


def test_limited_training_of_several_ranks_is_measured_on_as_many_rows_of_each():
    loaders = [DataLoader(DATA, 8, sampler=DistributedSampler(DATA, 3, r)) for r in range(3)]
    shares = [visited(loader, num_batches=2) for loader in loaders]
    assert [len(set(share)) for share in shares] == [16, 16, 16]
    assert len({row for share in shares for row in share}) == 48
    assert most_batches(loaders[0], 2) == 2
    by_hand = DataLoader(TensorDataset(torch.arange(100, 150)), 8, shuffle=True)
    assert len(set(visited(by_hand, num_batches=2))) == 16


@pytest.mark.filterwarnings("ignore:.*worker processes in total")  # on fewer cores
@pytest.mark.parametrize(
    ("asked", "training", "expected"), [(1, 0, 1), (1, 2, 2), (2, 1, 2), (0, 0, 0), (0, 2, 0)]
)
def test_worker_processes_are_at_least_as_many_as_asked_for_or_none(asked, training, expected):
    own = {"timeout": 7, "multiprocessing_context": "fork"} if training else {}
    private = frozen_loader(DataLoader(DATA, 8, num_workers=training, **own), 7, 0, asked)
    assert private.num_workers == expected
    # a worker is never waited for without end
    assert private.timeout == (expected and (7 if training else frozen_module.LONGEST_WAIT))
    assert sorted(torch.cat([batch[0] for batch in private]).tolist()) == list(range(50))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(50))


class Odd(BatchSampler):
    pass


@pytest.mark.parametrize(
    ("loader", "text"),
    [
        (DataLoader(Stream(), 8), r"map-style .* got the iterable-style Stream.*one more validation"),
        (
            DataLoader(DATA, 8, sampler=WeightedRandomSampler([1.0] * 50, 50)),
            r"but got a WeightedRandomSampler, which does not tell .*validation loader",
        ),
        (
            DataLoader(DATA, batch_sampler=Odd(SequentialSampler(DATA), 8, False)),
            r"but got a Odd, which does not tell",
        ),
        ({"a": DataLoader(DATA, 8)}, r"Expected a single DataLoader .* but got a dict"),
    ],
)
def test_data_that_cannot_be_visited_apart_are_refused_with_the_alternative(loader, text):
    with pytest.raises(ValueError, match=text):
        frozen_loader(loader, 3, seed=0)
