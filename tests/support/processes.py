"""Worker processes with a gloo process group, started once and sent one function after another."""

import os
import pickle
import time
import traceback
import warnings
from datetime import timedelta
from multiprocessing.connection import wait

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

_HOST = "127.0.0.1"
# how long the other ranks may go on after one has failed: they may be waiting for it in vain
_GRACE = 2.0


class Pool:
    """One process per rank; they start at the first call, and anew where one has failed alone.

    Args:
        size: The number of ranks.
        timeout: Seconds after which a call is given up. A collective waits half as long, so that a
            rank whose peers never join tells where it stood.
    """

    def __init__(self, size, timeout=60.0):
        self.size = size
        self.timeout = timeout
        self._processes, self._pipes, self._store = [], [], None

    def run(self, function, *args, timeout=None):
        """Call ``function(rank, *args)`` on all ranks; its module must be importable.

        Warnings of all ranks are warned here again, so that the test's filters see them.

        Returns:
            The results in the order of the ranks.

        Raises:
            RuntimeError: If a rank fails, with the traceback of every rank that did.
            TimeoutError: If a rank does not return in time.
        """
        request = pickle.dumps((function, args))
        try:
            self._start()
            for pipe in self._pipes:
                pipe.send_bytes(request)
            replies = self._collect(timeout or self.timeout)
        except BaseException:
            self._kill()
            raise
        self._raise_failures(replies, timeout or self.timeout)
        for rank in range(self.size):
            for text, category, filename, line in replies[rank][2]:
                warnings.warn_explicit(text, category, filename, line)
        return [replies[rank][0] for rank in range(self.size)]

    def close(self):
        """End the processes: they leave by themselves when their pipe closes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(5)
        self._kill()

    def _start(self):
        if self._processes:
            return
        # the store chooses a free port itself
        self._store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
        context = mp.get_context("spawn")
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            arguments = (rank, self.size, self._store.port, self.timeout / 2, theirs)
            # no daemons: a data loader's workers are their children
            process = context.Process(target=_work, args=arguments)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)

    def _collect(self, timeout):
        deadline = time.monotonic() + timeout
        replies = {}
        while len(replies) < self.size:
            pending = [pipe for rank, pipe in enumerate(self._pipes) if rank not in replies]
            ready = wait(pending, max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for pipe in ready:
                rank = self._pipes.index(pipe)
                try:
                    replies[rank] = pickle.loads(pipe.recv_bytes())
                except (EOFError, ConnectionResetError):
                    replies[rank] = None, f"The process of rank {rank} has died.", []
                if replies[rank][1]:
                    deadline = min(deadline, time.monotonic() + _GRACE)
        return replies

    def _raise_failures(self, replies, timeout):
        failed = {rank: text for rank, (_, text, _) in sorted(replies.items()) if text}
        missing = [rank for rank in range(self.size) if rank not in replies]
        # ranks that have all failed at the same line are still in step
        in_step = len(failed) in (0, self.size) and len(set(failed.values())) <= 1
        if missing or not in_step:
            self._kill()
        if failed:
            raise RuntimeError("\n".join(f"Rank {rank}: {text}" for rank, text in failed.items()))
        if missing:
            raise TimeoutError(f"Ranks {missing} have not returned within {timeout:g} s.")

    def _kill(self):
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes, self._store = [], [], None


def _work(rank, size, port, timeout, pipe):
    torch.set_num_threads(1)
    # a spawned process spawns its own children too; back to the platform's way for data loaders
    mp.set_start_method(None, force=True)
    environment = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": _HOST,
        "MASTER_PORT": str(port),
    }
    os.environ.update(environment)
    limit = timedelta(seconds=timeout)
    store = dist.TCPStore(_HOST, port, is_master=False, timeout=limit)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)
    while True:
        try:
            request = pipe.recv_bytes()
        except EOFError:
            break
        os.environ.update(environment)  # Lightning deletes WORLD_SIZE when a Trainer ends
        pipe.send_bytes(_reply(rank, request))
    dist.destroy_process_group()
    os._exit(0)  # at once: Python would take a second or more to unload torch


def _reply(rank, request):
    """Result, traceback and warnings of a call, pickled without shared memory."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function, args = pickle.loads(request)
            result = function(rank, *args)
        said = [(str(w.message), w.category, w.filename, w.lineno) for w in caught]
        return pickle.dumps((result, None, said))
    except BaseException:
        return pickle.dumps((None, traceback.format_exc(), []))
