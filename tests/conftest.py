"""Worker processes that the distributed tests share."""

import os

import pytest
import torch
from processes import Pool

# two threads that wait for a core which another process has are slower than one, by far
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

collect_ignore = ["benchmarks"]  # a program of its own: python tests/benchmarks


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
