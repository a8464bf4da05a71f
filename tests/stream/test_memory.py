"""What fits into memory, and what a batch allocates."""

import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_nc import NeuralCollapse, NeuralCollapseWarning
from lightning_nc.stream import memory

pytestmark = pytest.mark.usefixtures("small_backlog")


def test_a_covariance_by_name_that_does_not_fit_is_refused_with_its_bytes(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1_000_000)
    per_class = (
        r"covariance='per_class' to fit into memory, but 100 matrices of 64 x 64 need 3,276,800 bytes, "
        r"6,635,520 with float32 products and the copy that a stage leaves, and 1,000,000 are free on "
        r"cpu. Use covariance='pooled'"
    )
    with pytest.raises(ValueError, match=per_class):
        NeuralCollapse(100, 64, covariance="per_class")
    pooled = (
        r"covariance='pooled' to fit into memory, but 1 matrix of 224 x 224 need 401,408 bytes, "
        r"1,003,520 with .* and 1,000,000 are free on cpu. Use covariance='none', which keeps traces"
    )
    with pytest.raises(ValueError, match=pooled):
        NeuralCollapse(100, 224, covariance="pooled")
    NeuralCollapse(10, 64, covariance="per_class")
    NeuralCollapse(100, 223, covariance="pooled")


def test_auto_and_traces_ask_for_no_memory(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert hasattr(NeuralCollapse(100, 224), "scatter")
    assert not hasattr(NeuralCollapse(100, 224, covariance="none"), "scatter")


def test_free_memory_that_is_not_known_refuses_nothing(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    NeuralCollapse(100, 64, covariance="per_class")
    monkeypatch.undo()
    assert memory.free_bytes(torch.device("cpu")) > 2**20


class Largest(TorchDispatchMode):
    """The entries of the largest tensor that an operation allocates, and how many are above a size.

    Args:
        above: The size.
    """

    def __init__(self, above=0):
        super().__init__()
        self.above = above

    entries = 0
    allocated = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = {
            t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)
        }
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in inputs:
                self.entries = max(self.entries, tensor.numel())
                self.allocated += tensor.numel() > self.above
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


def seen_rows(width, covariance="auto"):
    metric = NeuralCollapse(5, width, covariance=covariance)
    target = torch.arange(40) % 5
    metric.update(torch.randn(40, width, generator=torch.Generator().manual_seed(0)), target)
    metric.update(torch.randn(40, width), target)
    metric._accumulator.settle()
    return metric


@pytest.mark.parametrize(("covariance", "copies"), [("auto", 1), ("pooled", 1), ("none", 0)])
def test_the_end_of_a_stage_copies_a_scatter_once(covariance, copies):
    width = 1600  # more than a piece of rows that decisions are counted on
    metric = seen_rows(width, covariance)
    with Largest(above=width * width - 1) as largest, warnings.catch_warnings():
        warnings.simplefilter("ignore", NeuralCollapseWarning)
        metric.compute()
    assert largest.allocated == copies


def test_merging_allocates_no_more_than_what_comes_of_it():
    width = 1600  # more than a piece of rows that decisions are counted on
    one, other = seen_rows(width), seen_rows(width)
    with Largest(above=width * width - 1) as largest:
        one._accumulator.around(one._accumulator.sums())
    assert largest.allocated == 1
    with Largest(above=width * width - 1) as largest:
        one.merge_state(other)
    assert largest.allocated == 1
