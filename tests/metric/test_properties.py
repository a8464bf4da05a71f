"""Whatever shapes, dtypes, labels and batches: the metric is two passes over the rows that count."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracles
from support.problems import unchecked_shapes

from lightning_nc import NeuralCollapse

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LABELS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.float32, torch.float64)
IGNORED = 200  # fits every dtype of labels


@st.composite
def streams(draw):
    """Labels that count, are ignored or lie outside; features that are not finite; and batches."""
    classes = draw(st.integers(1, 6))
    width = draw(st.integers(1, 7))
    rows = draw(st.integers(1, 40))
    dtype, label_dtype = draw(st.sampled_from(FLOATS)), draw(st.sampled_from(LABELS))
    offset, scale = draw(st.sampled_from([(0, 1), (8, 1), (100, 0.5), (0, 1e-3)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    h = (offset + scale * torch.randn(rows, width, generator=generator)).to(dtype)
    usual = st.integers(0, classes - 1)
    labels = draw(st.lists(st.one_of(usual, usual, st.sampled_from([IGNORED, classes, 101])),
                           min_size=rows, max_size=rows))  # fmt: skip
    broken = draw(st.sets(st.integers(0, rows - 1), max_size=3))
    for row in broken:
        h[row, row % width] = draw(st.sampled_from([torch.nan, torch.inf, -torch.inf]))
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=6)))
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, rows], strict=True)]
    return h, torch.tensor(labels).to(label_dtype), classes, sizes


@pytest.mark.slow
@given(stream=streams(), covariance=st.sampled_from(["pooled", "per_class", "none"]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_stream_comes_to_what_two_passes_see(stream, covariance):
    h, y, classes, sizes = stream
    metric = NeuralCollapse(classes, h.shape[1], covariance=covariance, ignore_index=IGNORED)
    with unchecked_shapes():
        for features, target in zip(h.split(sizes), y.split(sizes), strict=True):
            metric.update(features, target)
    exact, label = h.double(), y.long()
    finite = exact.isfinite().all(1)
    valid = finite & (label < classes)
    counts, means, scatter, sums = oracles.two_pass_statistics(
        exact[valid].numpy(), label[valid].numpy(), classes
    )
    got = metric.statistics()
    assert got.counts.tolist() == counts.tolist()
    size = max(1e-300, np.abs(exact[valid].numpy()).max(initial=0))
    # residuals and steps are float32: their error goes with the spread, not with the size
    spread = np.sqrt(sums.max())
    np.testing.assert_allclose(got.means, means, rtol=0, atol=1e-6 * spread + 1e-14 * size)
    bound = 1e-5 * sums.sum() + 1e-14 * size**2
    np.testing.assert_allclose(got.sums_of_squares, sums, rtol=0, atol=bound)
    if covariance != "none":
        np.testing.assert_allclose(got.scatter, scatter, rtol=0, atol=bound)
    if covariance == "per_class":
        np.testing.assert_allclose(got.class_scatter.sum(0), scatter, rtol=0, atol=bound)
    tallies = metric.evidence().tallies
    assert int(tallies.non_finite) == int((~finite & (label != IGNORED)).sum())
    assert int(tallies.out_of_range) == int(((label >= classes) & (label != IGNORED)).sum())


@given(stream=streams())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_other_batches_and_another_order_come_to_the_same(stream):
    h, y, classes, sizes = stream
    one, other = (NeuralCollapse(classes, h.shape[1], ignore_index=IGNORED) for _ in range(2))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(len(y)))
    with unchecked_shapes():
        for features, target in zip(h.split(sizes), y.split(sizes), strict=True):
            one.update(features, target)
        other.update(h[order], y[order])
    a, b = one.statistics(), other.statistics()
    assert torch.equal(a.counts, b.counts)
    size = float(h.double().nan_to_num(0, 0, 0).abs().max())
    squares = a.sums_of_squares
    spread = float(squares.max().sqrt())
    torch.testing.assert_close(a.means, b.means, rtol=0, atol=1e-6 * spread + 1e-14 * size)
    bound = 1e-5 * float(squares.sum()) + 1e-14 * size**2
    torch.testing.assert_close(a.scatter, b.scatter, rtol=0, atol=bound)


def test_the_bound_of_these_tests_is_not_vacuous():
    # one row in a thousand moved by its own spread is more than the bound lets pass
    h, y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(40).long()
    moved = h.clone()
    moved[0] += 0.01
    scatters = []
    for features in (h, moved):
        metric = NeuralCollapse(1, 3)
        metric.update(features, y)
        scatters.append(metric.statistics().scatter)
    assert (scatters[0] - scatters[1]).abs().max() > 1e-5 * float(scatters[0].trace()) * 10
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(*scatters, rtol=0, atol=1e-5 * float(scatters[0].trace()))
