"""Merging ranks: seconds and bytes against the size of the states, over gloo on one machine."""

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from measure import Row

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.processes import Pool

from lightning_nc import LinearClassifier
from lightning_nc.stream.kept_classifier import KeptClassifier
from lightning_nc.stream.sync import Ranks
from lightning_nc.tasks import Multiclass, Settings
from lightning_nc.tasks.merging import evidence_of

CLASSES, WIDTH = 100, 512


def merged(rank, modules, repeats):
    """Seconds of each merge, calls and bytes of one, and the bytes of the states."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(rank)
    task = Multiclass(Settings(CLASSES))
    accumulators = {}
    for i in range(modules):
        each = accumulators[f"layer{i}"] = task.accumulator((CLASSES, WIDTH), "cpu")
        features = torch.randn(1024, WIDTH, generator=generator)
        each.add(*each.check(features, torch.randint(CLASSES, (1024,), generator=generator)))
    kept = KeptClassifier.of(LinearClassifier(torch.zeros(CLASSES, WIDTH)))
    sizes, honest = [], dist.all_reduce

    def counting(tensor, *args, **kwargs):
        sizes.append(tensor.numel() * tensor.element_size())
        return honest(tensor, *args, **kwargs)

    seconds = []
    dist.all_reduce = counting
    try:
        for _ in range(repeats + 1):
            sizes.clear()
            dist.barrier()
            start = time.perf_counter()
            evidence_of(task, accumulators, kept, Ranks("cpu"))
            seconds.append(time.perf_counter() - start)
    finally:
        dist.all_reduce = honest
    parts = [*accumulators.values(), kept]
    # all of it travels as float64
    own = sum(8 * tensor.numel() for part in parts for tensor in (*part.sums(), *part.rest()))
    return seconds[1:], len(sizes), sum(sizes), own


def run(quick, device):
    """Of one module and of ten, on 2, 4 and 8 processes."""
    if quick:
        return
    for size in (2, 4, 8):
        pool = Pool(size, timeout=300)
        try:
            for modules in (1, 10):
                results = pool.run(merged, modules, 5)
                seconds, calls, sent, own = results[0]
                case = f"{size} processes, {modules} x (C={CLASSES}, d={WIDTH})"
                yield Row.of("sync", case, "seconds", seconds)
                yield Row.of("sync", case, "all-reduces", [calls])
                yield Row.of("sync", case, "bytes / bytes of the states", [sent / own], 1.01)
        finally:
            pool.close()
