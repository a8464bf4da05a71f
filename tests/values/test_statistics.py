"""Counts, means and scatters of a batch, what follows from them, and where they are kept."""

import gc
import weakref
from typing import get_args

import numpy as np
import pytest
import torch
from support import oracles
from support.problems import (
    as_numpy,
    assert_statistics,
    gaussian_classes,
    problem,
    statistics_of,
    two_passes,
    unchecked_shapes,
)

from lightning_nc import ClassStatistics
from lightning_nc.values.covariance import Covariance, check_covariance

COVARIANCES = get_args(Covariance)


def some_statistics(covariance="pooled", seed=0, counts=(5, 0, 9, 3)):
    drawn = gaussian_classes(counts, 6, offset=4.0, dtype=torch.float64, seed=seed)
    return statistics_of(drawn, covariance)


@pytest.mark.parametrize(
    "name", ["random", "imbalanced", "far from the origin", "missing classes", "tight", "one class"]
)
def test_statistics_of_a_batch_equal_the_reference(name):
    drawn = problem(name)
    expected = two_passes(drawn)
    statistics = statistics_of(drawn)
    assert_statistics(statistics, expected, relative=1e-8)
    assert statistics.seen.tolist() == [n > 0 for n in expected.counts.tolist()]
    assert (statistics.num_classes, statistics.num_features) == tuple(expected.means.shape)


def test_the_scatter_of_each_class_equals_the_reference_and_adds_up_to_the_pooled_one():
    drawn = problem("imbalanced")
    h, y = as_numpy(drawn)
    statistics = ClassStatistics.from_batch(drawn.features, drawn.target, 6, covariance="per_class")
    for c, scatter in enumerate(statistics.class_scatter):
        _, _, expected, _ = oracles.two_pass_statistics(h[y == c], y[y == c], 6)
        np.testing.assert_allclose(scatter.numpy(), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(statistics.class_scatter.sum(0), statistics.scatter)
    trace = statistics.class_scatter.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(trace, statistics.sums_of_squares)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_means_are_kept_in_float64_whatever_the_features_are(dtype):
    statistics = ClassStatistics.from_batch(
        torch.tensor([[1.0], [2.0], [4.0]]).to(dtype), torch.zeros(3, dtype=torch.long), num_classes=1
    )
    assert statistics.means.dtype == torch.float64
    assert float(statistics.means) == pytest.approx(7 / 3, rel=1e-15)


def test_an_empty_batch_gives_empty_statistics():
    none = ClassStatistics.from_batch(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 2)
    assert_statistics(none, ClassStatistics.empty(2, 3))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([0, 1], "Expected one label per feature, but got 3 features and 2 labels"),
        ([0, 1, 3], r"Expected labels in \[0, 3\), but got labels from 0 to 3. Is num_classes too"),
        ([-1, 1, 2], r"but got labels from -1 to 2. Is num_classes too small, or do the labels start"),
    ],
)
def test_labels_that_do_not_fit_are_refused(target, message):
    with unchecked_shapes(), pytest.raises(ValueError, match=message):
        ClassStatistics.from_batch(torch.zeros(3, 2), torch.tensor(target), num_classes=3)


@pytest.mark.parametrize(
    "build",
    [
        check_covariance,
        lambda covariance: ClassStatistics.empty(2, 3, covariance),
        lambda covariance: ClassStatistics.from_batch(
            torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), 2, covariance
        ),
    ],
)
def test_an_unknown_covariance_is_refused(build):
    message = r"Expected covariance to be one of \('pooled', 'per_class', 'none'\), but got 'full'"
    with unchecked_shapes(), pytest.raises(ValueError, match=message):
        build("full")


def test_statistics_of_a_batch_do_not_alias_the_batch():
    h, y = torch.ones(3, 2, dtype=torch.float64), torch.arange(3)
    statistics = ClassStatistics.from_batch(h, y, num_classes=3)
    h.zero_()
    assert bool((statistics.means == 1).all())


def test_traces_and_centered_means_by_hand():
    h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 5.0], [0.0, 5.0]])
    statistics = ClassStatistics.from_batch(h, torch.tensor([0, 0, 1, 1, 1]), num_classes=2)
    assert statistics.global_mean.tolist() == [1.0, 2.5]
    assert statistics.centered_means.tolist() == [[1.0, -2.5], [-1.0, 2.5]]
    assert float(statistics.within_trace) == 2 / 5
    assert float(statistics.between_trace) == 7.25
    assert statistics.within_covariance.tolist() == [[2 / 5, 0], [0, 0]]
    assert int(statistics.num_samples) == 5


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_statistics_survive_a_file_of_plain_tensors(covariance, tmp_path):
    statistics = some_statistics(covariance)
    statistics.save(tmp_path / "statistics.pt")
    plain = torch.load(tmp_path / "statistics.pt", weights_only=True)
    assert {name for name, t in plain.items() if t is not None} == {
        name for name, t in vars(statistics).items() if isinstance(t, torch.Tensor)
    }
    loaded = ClassStatistics.load(tmp_path / "statistics.pt")
    assert_statistics(loaded, statistics, relative=0, absolute=0)
    assert_statistics(loaded.merge(statistics), statistics.merge(statistics), 0, 0)


def test_restricting_keeps_the_scatter_and_the_chosen_classes():
    statistics = some_statistics("per_class")
    kept = statistics.of_seen_classes
    assert kept.counts.tolist() == [5, 9, 3]
    assert torch.equal(kept.means, statistics.means[[0, 2, 3]])
    assert torch.equal(kept.class_scatter, statistics.class_scatter[[0, 2, 3]])
    assert torch.equal(kept.scatter, statistics.scatter)
    kept.require_all_seen()
    assert statistics.of_seen_classes is kept
    assert kept.of_seen_classes is kept


def test_statistics_of_all_classes_do_not_hold_themselves_alive():
    statistics = ClassStatistics.from_batch(torch.eye(3), torch.arange(3), 3)
    assert statistics.of_seen_classes is statistics
    gone = weakref.ref(statistics)
    gc.disable()
    try:
        del statistics
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("counts", "named"),
    [((2, 0, 1), "class 1"), ((0, 2, 0), "classes 0, 2"), ((1, *[0] * 11), "classes 1, 2, 3, 4, 5, "
                                                          "6, 7, 8 and 3 more")],
)  # fmt: skip
def test_absent_classes_are_named(counts, named):
    statistics = some_statistics(counts=counts)
    message = f"Expected at least one sample of every class, but got none of {named}. Leave the unseen"
    with pytest.raises(ValueError, match=message):
        statistics.require_all_seen()
    with pytest.raises(ValueError, match=message):
        _ = statistics.centered_means


def test_statistics_move_to_another_device():
    moved = some_statistics("none").to("meta")
    assert moved.means.device.type == "meta"
    assert moved.scatter is None
