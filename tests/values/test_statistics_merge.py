"""Statistics are a commutative monoid that aliases nothing."""

import itertools
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.problems import assert_statistics, gaussian_classes, statistics_of

from lightning_nc import ClassStatistics
from lightning_nc.values.covariance import Covariance

COVARIANCES = get_args(Covariance)


def tensors(statistics):
    return {name: t for name, t in vars(statistics).items() if isinstance(t, torch.Tensor)}


def shares_memory(a, b):
    storages = {t.untyped_storage().data_ptr() for t in tensors(a).values()}
    return any(t.untyped_storage().data_ptr() in storages for t in tensors(b).values())


def some_statistics(covariance="pooled", seed=0, counts=(5, 0, 9, 3)):
    drawn = gaussian_classes(counts, 6, offset=4.0, dtype=torch.float64, seed=seed)
    return statistics_of(drawn, covariance)


def test_a_pair_of_rows_merged_with_one_by_hand():
    h = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
    y = torch.zeros(3, dtype=torch.long)
    for offset in (0.0, 100.0):
        parts = [ClassStatistics.from_batch(h[i] + offset, y[i], 1) for i in (slice(2), slice(2, 3))]
        merged = parts[0].merge(parts[1])
        assert merged.means.tolist() == [[3 + offset, 2 + offset]]
        assert merged.scatter.tolist() == [[8, -4], [-4, 8]]
        assert merged.sums_of_squares.tolist() == [16]


@st.composite
def splits(draw):
    """Rows with labels, a split of them into batches, and an order in which to merge these."""
    rows, width = draw(st.integers(1, 40)), draw(st.integers(1, 5))
    num_classes = draw(st.integers(1, 6))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    h = torch.from_numpy(numbers.normal(size=(rows, width)) + draw(st.sampled_from([0.0, 100.0])))
    y = torch.from_numpy(numbers.integers(num_classes, size=rows))
    h = h[torch.from_numpy(numbers.permutation(rows))]
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=6)))
    edges = [0, *cuts, rows]
    batches = [slice(a, b) for a, b in itertools.pairwise(edges)]
    order = draw(st.permutations(range(len(batches))))
    # which two neighbors are joined next
    joins = [draw(st.integers(0, n - 2)) for n in range(len(batches), 1, -1)]
    return h, y, num_classes, batches, order, joins


@pytest.mark.parametrize("covariance", COVARIANCES)
@given(split=splits())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_split_merged_in_any_order_gives_the_same_statistics(covariance, split):
    h, y, num_classes, batches, order, joins = split
    parts = [
        ClassStatistics.from_batch(h[batches[i]], y[batches[i]], num_classes, covariance) for i in order
    ]
    for i in joins:
        parts[i : i + 2] = [parts[i].merge(parts[i + 1])]
    whole = ClassStatistics.from_batch(h, y, num_classes, covariance)
    assert_statistics(parts[0], whole, relative=1e-11, absolute=1e-9)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_merge_is_commutative_and_associative(covariance):
    a, b, c = (
        some_statistics(covariance, seed, counts)
        for seed, counts in enumerate([(5, 0, 9, 3), (0, 0, 1, 7), (2, 4, 0, 50)])
    )
    assert_statistics(a.merge(b), b.merge(a), relative=1e-13)
    assert_statistics(a.merge(b).merge(c), a.merge(b.merge(c)), relative=1e-13)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_empty_statistics_change_nothing(covariance):
    some, empty = some_statistics(covariance), ClassStatistics.empty(4, 6, covariance)
    for merged in (some.merge(empty), empty.merge(some)):
        assert_statistics(merged, some, relative=0, absolute=0)
    assert_statistics(empty.merge(empty), empty, relative=0, absolute=0)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("neutral", [False, True])
def test_merge_neither_changes_nor_aliases_its_inputs(covariance, neutral):
    a = some_statistics(covariance)
    b = ClassStatistics.empty(4, 6, covariance) if neutral else some_statistics(covariance, seed=1)
    before = [{name: t.clone() for name, t in tensors(x).items()} for x in (a, b)]
    for merged in (a.merge(b), b.merge(a), a.merge(a)):
        assert not shares_memory(merged, a)
        assert not shares_memory(merged, b)
        for tensor in tensors(merged).values():
            tensor.zero_()
    for x, kept in zip((a, b), before, strict=True):
        assert all(torch.equal(tensors(x)[name], t) for name, t in kept.items())


def test_merge_does_not_lose_digits_far_from_the_origin():
    drawn = gaussian_classes([30] * 4, 6, spread=1e-4, offset=1000.0, dtype=torch.float64)
    parts = [
        ClassStatistics.from_batch(h, y, 4)
        for h, y in zip(drawn.features.split(7), drawn.target.split(7), strict=True)
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    whole = ClassStatistics.from_batch(drawn.features, drawn.target, 4)
    assert_statistics(merged, whole, relative=1e-7, absolute=0)


@pytest.mark.parametrize(
    "other",
    [
        ClassStatistics.empty(4, 5),
        ClassStatistics.empty(3, 6),
        ClassStatistics.empty(4, 6, "none"),
        ClassStatistics.empty(4, 6, "per_class"),
    ],
)
def test_statistics_of_different_shapes_are_not_merged(other):
    message = r"Expected statistics of the same shape to merge, but got .* Do they come from different"
    with pytest.raises(ValueError, match=message):
        some_statistics().merge(other)
    with pytest.raises(ValueError, match=message):
        other.merge(some_statistics())
