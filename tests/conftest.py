"""Worker processes that the distributed tests share."""

import os

import pytest
import torch
from support.processes import Pool

# two threads that wait for a core which another process has are slower than one, by far
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# a program of its own, python tests/benchmarks, and what the tests import
collect_ignore = ["benchmarks", "support"]


@pytest.fixture(scope="session")
def one_process():
    pool = Pool(1)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def two_processes():
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def three_processes():
    pool = Pool(3)
    yield pool
    pool.close()


@pytest.fixture
def small_backlog(monkeypatch):
    """Some batches of small problems wait for others, and some are too large for that."""
    monkeypatch.setattr("lightning_nc.stream.backlog._MOST_ROWS", 100)


@pytest.fixture
def restored_precision():
    """What a test allows for products is taken back."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(params=["two_processes", "three_processes"])
def pool(request):
    """The processes that a merge is tried on."""
    return request.getfixturevalue(request.param)
