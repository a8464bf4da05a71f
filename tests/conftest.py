"""Worker processes that the distributed tests share: one pool per size and session."""

import pytest
from processes import Pool


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
