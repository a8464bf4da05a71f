"""Batches from worker processes: none is waited for without end, and none is left behind."""

import multiprocessing
import threading
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_nc.run import frozen_loader as frozen_module
from lightning_nc.run import progress
from lightning_nc.run.frozen_loader import frozen_loader
from lightning_nc.run.loading import batches_of


class Locked(Dataset):
    """Rows behind a lock, which a forked process inherits as it is, for ever."""

    def __init__(self, first=0):
        self.lock = threading.Lock()
        self.first = first

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index >= self.first:
            with self.lock:
                return torch.tensor(index)
        return torch.tensor(index)


def private(data, num_workers=1, **settings):
    return frozen_loader(DataLoader(data, 2, **settings), 4, seed=0, num_workers=num_workers)


@pytest.fixture
def new_processes():
    """Those of now that were not there before the test: other tests have some of their own."""
    before = set(multiprocessing.active_children())
    return lambda: set(multiprocessing.active_children()) - before


@pytest.fixture
def _impatient(monkeypatch):
    monkeypatch.setattr(frozen_module, "LONGEST_WAIT", 0.7)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.filterwarnings("ignore:.*worker processes in total")
def test_a_worker_that_waits_for_ever_ends_the_pass(num_workers, new_processes):
    data = Locked()
    begun = time.monotonic()
    text = (
        r"Expected the worker processes .* within 0.7 s, but none came.*thread pool, a lock.*"
        r"frozen_num_workers=0 .*val_1"
    )
    with data.lock, pytest.raises(RuntimeError, match=text):
        list(batches_of(private(data, num_workers)))
    assert new_processes() == set()
    assert time.monotonic() - begun < 5  # not the seconds that torch waits for each of them


def test_the_timeout_of_the_training_loader_is_used_where_it_is_set():
    data = Locked()
    loader = private(data, timeout=0.3, num_workers=1)
    with data.lock, pytest.raises(RuntimeError, match=r"within 0.3 s"):
        list(batches_of(loader))


@pytest.mark.parametrize("how", ["whole", "in the middle"])
def test_no_process_is_left_behind(how, new_processes):
    batches = batches_of(private(Locked()))
    taken = [next(batches) for _ in range(4 if how == "whole" else 1)]
    assert how == "whole" or len(new_processes()) == 1
    if how == "whole":
        assert list(batches) == []
        assert sorted(torch.cat(taken).tolist()) == list(range(8))
    batches.close()
    assert new_processes() == set()


def test_without_workers_an_error_of_the_data_set_is_its_own(new_processes):
    class Fails(Locked):
        def __getitem__(self, index):
            raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        list(batches_of(private(Fails(), num_workers=0)))
    with pytest.raises(RuntimeError, match=r"(?s)to load in worker processes.*KeyError.*_workers=0"):
        list(batches_of(private(Fails())))
    assert new_processes() == set()


@pytest.mark.parametrize(("num_workers", "where"), [(1, "its 1 worker processes"), (0, "this process")])
def test_a_long_wait_for_the_first_batch_is_said(num_workers, where, monkeypatch):
    class Slow(Locked):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            time.sleep(0.2)
            return super().__getitem__(index)

    said = []
    monkeypatch.setattr(progress, "rank_zero_info", said.append)
    list(batches_of(private(Slow(), num_workers)))
    assert said == []  # a few seconds have not gone by
    monkeypatch.setattr(progress, "_SECONDS_OF_SILENCE", 0.05)
    list(batches_of(private(Slow(), num_workers)))
    assert len(said) == 1
    assert f"waits for the first batch from {where}" in said[0]
