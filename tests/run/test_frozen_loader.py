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

from lightning_nc.run.frozen_loader import frozen_loader

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
        (DataLoader(DATA, 8, sampler=DistributedSampler(DATA, 2, 0)), None, range(50)),
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


def test_ranks_share_the_rows_without_padding():
    shares = [visited(DataLoader(DATA, 8), rank=r, world_size=3) for r in range(3)]
    assert sorted(row for share in shares for row in share) == list(range(50))
    assert [len(share) for share in shares] == [17, 17, 16]


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
