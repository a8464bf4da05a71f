"""Worker processes that the distributed tests share, and long runs beside the other tests."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from processes import Pool

# two threads that wait for a core which another process has are slower than one, by far
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

collect_ignore = ["benchmarks"]  # a program of its own: python tests/benchmarks

_LONG = pytest.StashKey()


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


class LongRuns:
    """One process that goes through the long runs, from the beginning of the session on."""

    def __init__(self):
        self._out = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self._err = tempfile.TemporaryFile("w+")  # noqa: SIM115
        script = Path(__file__).with_name("long_runs.py")
        command = [sys.executable, str(script)]
        self._process = subprocess.Popen(command, stdout=self._out, stderr=self._err)

    def __call__(self, name):
        """What a run has come to."""
        status = self._process.wait(timeout=600)
        self._out.seek(0)
        self._err.seek(0)
        assert status == 0, self._err.read()
        results = {}
        for line in self._out.read().splitlines():
            results |= json.loads(line)
        return results[name]

    def close(self):
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._err.close()


def _is_long(item):
    return "long_runs" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items):
    items.sort(key=_is_long)  # at the end, when they are ready


def pytest_collection_finish(session):
    if any(map(_is_long, session.items)) and not session.config.option.collectonly:
        session.config.stash[_LONG] = LongRuns()


def pytest_unconfigure(config):
    if _LONG in config.stash:
        config.stash[_LONG].close()


@pytest.fixture
def long_runs(request):
    """What a long run has come to, by its name."""
    return request.config.stash[_LONG]
