"""What fits into memory, and what a batch allocates."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_nc import (
    NeuralCollapse,
)
from lightning_nc.stream import memory

pytestmark = pytest.mark.usefixtures("small_backlog")


def test_a_per_class_covariance_that_does_not_fit_is_refused_with_its_bytes(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1_000_000)
    message = (
        r"covariance='per_class' to fit into memory, but 100 matrices of 64 x 64 need 3,276,800 bytes "
        r"and 1,000,000 are free on cpu. Use covariance='pooled'"
    )
    with pytest.raises(ValueError, match=message):
        NeuralCollapse(100, 64, covariance="per_class")
    NeuralCollapse(10, 64, covariance="per_class")
    NeuralCollapse(100, 64)


def test_free_memory_that_is_not_known_refuses_nothing(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    NeuralCollapse(100, 64, covariance="per_class")
    monkeypatch.undo()
    assert memory.free_bytes(torch.device("cpu")) > 2**20


class Largest(TorchDispatchMode):
    """The entries of the largest tensor that an operation allocates."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = {
            t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)
        }
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in inputs:
                self.entries = max(self.entries, tensor.numel())
        return result


@pytest.mark.parametrize("covariance", ["pooled", "none"])
def test_no_batch_allocates_as_much_as_the_class_means(covariance):
    num_classes, width, rows = 50_000, 64, 64
    metric = NeuralCollapse(num_classes, width, covariance=covariance)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        h = torch.randn(rows, width, generator=generator)
        y = torch.randint(num_classes, (rows,), generator=generator)
        with Largest() as largest:
            metric.update(h, y, predicted=y)
    assert num_classes <= largest.entries < num_classes * width / 4
    with Largest() as largest:
        _ = metric.means * 2
    assert largest.entries == num_classes * width
    assert metric.statistics().counts.sum() == 3 * rows
