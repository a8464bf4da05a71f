"""The one pass: as exact as two, whatever the batches."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import oracles
from support.coarse import CoarseProducts
from support.problems import NAMES, UNEVEN, as_numpy, gaussian_classes, problem

from lightning_nc.stream import moments as moments_module
from lightning_nc.stream.moments import Moments, add_rows_, add_rows_plainly_, keep_rows_
from lightning_nc.stream.products import Products
from lightning_nc.values.symmetric import mirror_


def empty_moments(num_classes, width, per_class=True, pooled=True):
    return Moments(
        counts=torch.zeros(num_classes, dtype=torch.int64),
        means=torch.zeros(num_classes, width, dtype=torch.float64),
        sums_of_squares=torch.zeros(num_classes, dtype=torch.float64),
        scatter=torch.zeros(width, width, dtype=torch.float64) if pooled else None,
        class_scatter=(
            torch.zeros(num_classes, width, width, dtype=torch.float64) if per_class else None
        ),
    )


def added_up(given, sizes=UNEVEN, **settings):
    moments = empty_moments(given.num_classes, given.num_features, **settings)
    return added_to(moments, [(h, y) for h, y, _ in given.batches(sizes)])


def added_to(moments, batches):
    """By float32 products, unless the rows are float64 or there is no scatter."""
    products = None
    if batches[0][0].dtype != torch.float64 and moments.scatter is not None:
        products = Products(len(moments.scatter), torch.device("cpu"))
    for h, y in batches:
        add_rows_(moments, h, y, torch.ones_like(y, dtype=torch.bool), products=products)
    if products is not None:
        products.fold_into(moments.scatter)
    return moments


def assert_moments(moments, h, y, dtype=torch.float32):
    """Equal to two passes, up to what the product's dtype rounds off the spread inside the classes.

    The digits of the means themselves do not count: they are kept in float64.
    """
    num_classes = len(moments.counts)
    counts, means, scatter, sums = oracles.two_pass_statistics(h, y, num_classes)
    relative = 1e-6 if dtype == torch.float32 else 1e-12
    spread, size = np.sqrt(sums.max() / len(y)), np.abs(means).max()
    lost = 1e-14 * size * spread * len(y)
    assert moments.counts.tolist() == counts.tolist()
    np.testing.assert_allclose(moments.means, means, rtol=0, atol=relative * spread + 1e-14 * size)
    np.testing.assert_allclose(moments.sums_of_squares, sums, rtol=relative, atol=lost)
    largest = relative * np.abs(scatter).max() + lost
    mine = mirror_(moments.scatter.clone()).double().numpy()
    np.testing.assert_allclose(mine, scatter, rtol=0, atol=largest)
    for c, mine in enumerate(moments.class_scatter if moments.class_scatter is not None else ()):
        _, _, expected, _ = oracles.two_pass_statistics(h[y == c], y[y == c], num_classes)
        np.testing.assert_allclose((mine + mine.T) / 2, expected, rtol=0, atol=largest)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_pass_over_uneven_batches_equals_two_passes(name, dtype):
    given = problem(name)
    given = replace(given, features=given.features.to(dtype))
    moments = added_up(given, per_class=given.num_classes < 6)
    assert_moments(moments, *as_numpy(given), dtype)


@pytest.mark.parametrize("sizes", [(1,), (2, 1), (10_000,)])
def test_any_size_of_the_batches_gives_the_same_moments(sizes):
    given = gaussian_classes([20, 7, 1, 12], 6, offset=50.0)
    assert_moments(added_up(given, sizes), *as_numpy(given))


def test_a_class_that_comes_late_is_measured_from_its_own_rows():
    # products of float32 rows 1,000 away from 0 would leave no digit of a spread of 0.01
    given = gaussian_classes([40, 40, 40], 8, spread=1e-2, offset=1000.0)
    order = given.target.argsort(stable=True)
    batches = [(given.features[rows], given.target[rows]) for rows in order.split(13)]
    moments = added_to(empty_moments(3, 8), batches)
    assert_moments(moments, *as_numpy(given))


@pytest.mark.parametrize("size", [4096, 500])
def test_a_first_row_far_from_its_class_does_not_blur_the_others(size):
    given = gaussian_classes([1500, 1500, 1000, 96], 70, spread=1.0)
    h = given.features.clone()
    for c in range(4):  # for instance an image that is all black
        h[(given.target == c).nonzero()[0]] = -300.0
    outliers = replace(given, features=h)
    assert_moments(added_up(outliers, (size,), per_class=False), *as_numpy(outliers))


def test_batches_are_added_in_chunks(monkeypatch):
    given = problem("imbalanced")
    monkeypatch.setattr(moments_module, "entries_at_once", lambda device: 5 * given.num_features)
    monkeypatch.setattr(moments_module, "_OUTER_ENTRIES", 3 * given.num_features**2)
    assert_moments(added_up(given, (200,)), *as_numpy(given))


def test_rows_to_leave_out_leave_no_trace_whatever_they_hold():
    given = problem("random")
    h, y = given.features.clone(), given.target.clone()
    valid = torch.rand(len(y), generator=torch.Generator().manual_seed(0)) > 0.3
    h[~valid] = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30])[torch.arange(32) % 4]
    moments = empty_moments(10, 32)
    for rows in torch.arange(len(y)).split(50):
        label = torch.where(valid[rows], y[rows], 0)
        add_rows_(moments, h[rows], label, valid[rows])
    assert_moments(moments, h[valid].double().numpy(), y[valid].numpy())


def test_a_batch_of_left_out_rows_alone_changes_nothing():
    moments = added_up(problem("imbalanced"))
    before = [t.clone() for t in moments]
    nan = torch.full((4, 16), torch.nan)
    add_rows_(moments, nan, torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in zip(moments, before, strict=True))


def test_neither_features_nor_labels_are_changed():
    given = problem("random")
    h, y, valid = given.features.clone(), given.target.clone(), torch.ones(600, dtype=torch.bool)
    double = h.double()
    for features in (h, double):
        moments = empty_moments(10, 32)
        for _ in range(2):
            add_rows_(moments, features, y, valid)
    assert torch.equal(h, given.features)
    assert torch.equal(double, given.features.double())
    assert torch.equal(y, given.target)
    assert bool(valid.all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_not_kept_are_zero_whatever_they_hold(dtype):
    x = torch.tensor([[1.5, -2.0], [torch.nan, torch.inf], [-torch.inf, 3.0], [0.0, -0.0]], dtype=dtype)
    kept = keep_rows_(x, torch.tensor([True, False, False, True]))
    assert kept is x
    assert x.tolist() == [[1.5, -2.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("width", [6_000, 200_000])
def test_sums_of_squares_keep_their_digits_in_wide_layers(width):
    signs = torch.randint(2, (12, width), generator=torch.Generator().manual_seed(0)) - 0.5
    moments = empty_moments(1, width, per_class=False, pooled=False)
    everything = torch.ones(12, dtype=torch.bool)
    add_rows_(moments, signs / 5, torch.zeros(12, dtype=torch.long), everything)
    rows = (signs / 5).double()
    expected = (rows - rows.mean(0)).square().sum()
    assert float(moments.sums_of_squares) == pytest.approx(float(expected), rel=2e-7)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_moments_do_not_depend_on_the_precision_of_products(precision, restored_precision):
    given = problem("imbalanced")
    exact = added_up(given, per_class=False)
    torch.set_float32_matmul_precision(precision)
    with CoarseProducts() as mode:
        coarse = added_up(given, per_class=False)
    assert mode.seen > 0
    largest = float(exact.scatter.abs().max())
    torch.testing.assert_close(coarse.scatter, exact.scatter, rtol=0, atol=1e-6 * largest)
    assert torch.get_float32_matmul_precision() == precision


@pytest.mark.parametrize("left_out", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_the_fast_form_comes_to_what_the_plain_one_does(name, left_out):
    """In float64 both are the same arithmetic in another order."""
    given = problem(name)
    h = given.features.double()
    valid = torch.rand(len(h), generator=torch.Generator().manual_seed(0)) >= left_out
    target = torch.where(valid, given.target, 0)
    nothing = torch.tensor([torch.nan, torch.inf, 1e30], dtype=torch.float64)
    broken = torch.where(valid[:, None], h, nothing[torch.arange(h.shape[1]) % 3])
    fast, plain = (empty_moments(given.num_classes, h.shape[1]) for _ in range(2))
    start = 0
    for size in itertools.cycle(UNEVEN):
        rows = slice(start, start + size)
        add_rows_(fast, broken[rows], target[rows], valid[rows], rows_before=start)
        add_rows_plainly_(plain, broken[rows], target[rows], valid[rows])
        start += size
        if start >= len(h):
            break
    assert torch.equal(fast.counts, plain.counts)
    size, squares = float(h.abs().max()), float(plain.sums_of_squares.max())
    kept = {
        "means": (fast.means, plain.means, 1e-13 * size),
        "sums_of_squares": (fast.sums_of_squares, plain.sums_of_squares, 1e-12 * squares),
        "scatter": (mirror_(fast.scatter), plain.scatter, 1e-12 * squares * given.num_classes),
        "class_scatter": (fast.class_scatter, plain.class_scatter, 1e-12 * squares),
    }
    for name, (mine, theirs, allowed) in kept.items():
        torch.testing.assert_close(mine, theirs, rtol=0, atol=allowed + 1e-26 * size**2, msg=name)


@pytest.mark.parametrize("name", ["imbalanced", "far from the origin", "bottleneck"])
def test_the_plain_form_equals_two_passes(name):
    given = problem(name)
    given = replace(given, features=given.features.double())
    moments = empty_moments(given.num_classes, given.num_features)
    for h, y, _ in given.batches(UNEVEN):
        add_rows_plainly_(moments, h, y, torch.ones_like(y, dtype=torch.bool))
    assert_moments(moments, *as_numpy(given), torch.float64)
