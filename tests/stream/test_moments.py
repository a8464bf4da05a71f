"""The one pass: as exact as two, in whatever precision products run, and never waiting for a device."""

import ast
import inspect
import textwrap
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from coarse import CoarseProducts
from problems import NAMES, UNEVEN, as_numpy, gaussian_classes, problem

from lightning_nc import metric
from lightning_nc.stream import backlog
from lightning_nc.stream import moments as welford
from lightning_nc.stream import products as symmetric_matrices
from lightning_nc.stream.moments import Moments, add_rows_
from lightning_nc.stream.products import symmetric
from lightning_nc.values import statistics as values
from lightning_nc.values.precision import float32_products_are_exact


def empty_moments(num_classes, width, dtype=torch.float32, per_class=True, pooled=True):
    return Moments(
        counts=torch.zeros(num_classes, dtype=torch.int64),
        means=torch.zeros(num_classes, width, dtype=torch.float64),
        sums_of_squares=torch.zeros(num_classes, dtype=torch.float64),
        scatter=torch.zeros(width, width, dtype=dtype) if pooled else None,
        class_scatter=(
            torch.zeros(num_classes, width, width, dtype=torch.float64) if per_class else None
        ),
    )


def added_up(given, sizes=UNEVEN, **settings):
    dtype = torch.float64 if given.features.dtype == torch.float64 else torch.float32
    moments = empty_moments(given.num_classes, given.num_features, dtype, **settings)
    for h, y, _ in given.batches(sizes):
        add_rows_(moments, h, y, torch.ones_like(y, dtype=torch.bool))
    return moments


def assert_moments(moments, h, y):
    """Equal to two passes, up to what the product's dtype rounds off the spread inside the classes.

    The digits of the means themselves do not count: they are kept in float64.
    """
    num_classes = len(moments.counts)
    counts, means, scatter, sums = oracles.two_pass_statistics(h, y, num_classes)
    relative = 1e-6 if moments.scatter.dtype == torch.float32 else 1e-12
    spread, size = np.sqrt(sums.max() / len(y)), np.abs(means).max()
    lost = 1e-14 * size * spread * len(y)
    assert moments.counts.tolist() == counts.tolist()
    np.testing.assert_allclose(moments.means, means, rtol=0, atol=relative * spread + 1e-14 * size)
    np.testing.assert_allclose(moments.sums_of_squares, sums, rtol=relative, atol=lost)
    largest = relative * np.abs(scatter).max() + lost
    mine = symmetric(moments.scatter).double().numpy()
    np.testing.assert_allclose(mine, scatter, rtol=0, atol=largest)
    for c, mine in enumerate(moments.class_scatter if moments.class_scatter is not None else ()):
        _, _, expected, _ = oracles.two_pass_statistics(h[y == c], y[y == c], num_classes)
        np.testing.assert_allclose((mine + mine.T) / 2, expected, rtol=0, atol=largest)


# -------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_pass_over_uneven_batches_equals_two_passes(name, dtype):
    given = problem(name)
    given = replace(given, features=given.features.to(dtype))
    assert_moments(added_up(given, per_class=given.num_classes < 6), *as_numpy(given))


@pytest.mark.parametrize("sizes", [(1,), (2, 1), (10_000,)])
def test_any_size_of_the_batches_gives_the_same_moments(sizes):
    given = gaussian_classes([20, 7, 1, 12], 6, offset=50.0)
    assert_moments(added_up(given, sizes), *as_numpy(given))


def test_a_class_that_comes_late_is_measured_from_its_own_rows():
    # products of float32 rows 1,000 away from 0 would leave no digit of a spread of 0.01
    given = gaussian_classes([40, 40, 40], 8, spread=1e-2, offset=1000.0)
    order = given.target.argsort(stable=True)
    moments = empty_moments(3, 8)
    for rows in order.split(13):
        add_rows_(moments, given.features[rows], given.target[rows], torch.ones(len(rows)).bool())
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
    monkeypatch.setattr(welford, "_CHUNK_ENTRIES", 5 * given.num_features)
    monkeypatch.setattr(welford, "_OUTER_ENTRIES", 3 * given.num_features**2)
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
    for features, dtype in ((h, torch.float32), (double, torch.float64)):
        moments = empty_moments(10, 32, dtype)
        for _ in range(2):
            add_rows_(moments, features, y, valid)
    assert torch.equal(h, given.features)
    assert torch.equal(double, given.features.double())
    assert torch.equal(y, given.target)
    assert bool(valid.all())


# ----------------------------------------------------------------------------- reduced precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_not_kept_are_zero_whatever_they_hold(dtype):
    x = torch.tensor([[1.5, -2.0], [torch.nan, torch.inf], [-torch.inf, 3.0], [0.0, -0.0]], dtype=dtype)
    kept = welford.keep_rows_(x, torch.tensor([True, False, False, True]))
    assert kept is x
    assert x.tolist() == [[1.5, -2.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


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


@pytest.fixture
def restored_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("precision", "exact"), [("highest", True), ("high", False), ("medium", False)]
)
def test_what_the_user_allows_for_products_is_read(precision, exact, restored_precision):
    torch.set_float32_matmul_precision(precision)
    assert float32_products_are_exact(torch.device("cpu")) is exact


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="torch without the setting")
@pytest.mark.parametrize(("precision", "exact"), [("ieee", True), ("tf32", False), ("bf16", False)])
def test_the_newer_setting_for_products_is_read(precision, exact, restored_precision):
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = precision
        assert float32_products_are_exact(torch.device("cpu")) is exact
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


# -------------------------------------------------------------------------- waiting for the device


WAITING_METHODS = {
    "item", "cpu", "tolist", "numpy", "nonzero", "argwhere", "unique", "unique_consecutive",
    "masked_select", "is_nonzero", "equal", "allclose", "synchronize",
}  # fmt: skip
WAITING_BUILTINS = {"bool", "int", "float"}
MASKS = {"isfinite", "isnan", "isinf", "ones_like_bool", "logical_and", "logical_or", "logical_not"}
UPDATE_PATH = (
    metric.NeuralCollapse.update,
    metric.NeuralCollapse.check,
    metric.NeuralCollapse._catch_up,
    metric.NeuralCollapse._add,
    metric.NeuralCollapse._product_target,
    metric.NeuralCollapse._select_rows,
    metric.NeuralCollapse._add_to_sample,
    metric.NeuralCollapse._grow_sample,
    metric.NeuralCollapse._fold,
    metric._whole,
    values.decide,
    values._argmax_of_many,
    values.to_device,
)


def waits(source: str) -> list[str]:
    """Lines that make the host wait for the device, less those that say ``sync ok``.

    A name is a mask if it is annotated with Bool, or assigned from a comparison, from ``~`` or from
    ``isfinite`` and its like.
    """
    source = textwrap.dedent(source)
    tree, lines = ast.parse(source), source.splitlines()
    masks: set[str] = set()

    def is_mask(node: ast.AST) -> bool:
        match node:
            case ast.Name(id=name):
                return name in masks
            case ast.Compare() | ast.UnaryOp(op=ast.Invert()):
                return True
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr(), left=left, right=right):
                return is_mask(left) or is_mask(right)
            case ast.Call(func=ast.Attribute(attr=attr)):
                return attr in MASKS
            case ast.Tuple(elts=elements):
                return any(is_mask(element) for element in elements)
        return False

    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation and "Bool[" in ast.unparse(node.annotation):
            masks.add(node.arg)
        elif isinstance(node, ast.Assign) and is_mask(node.value):
            masks |= {target.id for target in node.targets if isinstance(target, ast.Name)}

    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name)) if name in WAITING_METHODS:
                pass
            case ast.Call(func=ast.Name(id=name)) if name in WAITING_BUILTINS:
                pass
            case ast.Call(func=ast.Attribute(attr="where"), args=[_], keywords=[]):
                pass
            case ast.Subscript(slice=index) if is_mask(index):
                pass
            case _:
                continue
        line = lines[node.lineno - 1]
        if "sync ok" not in line:
            found.append(line.strip())
    return found


@pytest.mark.parametrize(
    "part", [welford, symmetric_matrices, backlog, *UPDATE_PATH], ids=lambda part: part.__name__
)
def test_nothing_on_the_update_path_waits_for_the_device(part):
    assert waits(inspect.getsource(inspect.unwrap(part))) == []


@pytest.mark.parametrize(
    "line",
    [
        "n = x.sum().item()",
        "if bool((x > 0).all()): pass",
        "n = int(x.max())",
        "n = float(x.max())",
        "y = x.cpu()",
        "y = x.tolist()",
        "rows = x.nonzero()",
        "rows = torch.nonzero(x)",
        "seen = torch.unique(x)",
        "rows = torch.where(x > 0)",
        "kept = x[x > 0]",
        "kept = x[~valid]",
        "kept = x[valid]",
        "kept = x[(x > 0) & valid, 0]",
        "x[valid] = 0",
        "kept = x[x.isfinite()]",
        "good = x > 0; kept = x[good]",
        "both = valid & (x > 0)\n    kept = x[both]",
    ],
)
def test_the_check_sees_what_waits(line):
    assert waits(f"def f(x, valid: Bool[Tensor, ' B']):\n    {line}\n")


@pytest.mark.parametrize(
    "line",
    [
        "n = x.sum().item()  # sync ok: once",
        "y = torch.where(valid, x, 0)",
        "y = x[index]",
        "y = x[1:n, None]",
        "y = x.to(torch.float64)",
        "n = len(x) + x.numel()",
        "if x.dtype == torch.float64: y = x[0]",
    ],
)
def test_the_check_lets_pass_what_does_not_wait(line):
    assert waits(f"def f(x, index, n, valid: Bool[Tensor, ' B']):\n    {line}\n") == []


@pytest.mark.parametrize("width", [6_000, 200_000])
def test_sums_of_squares_keep_their_digits_in_wide_layers(width):
    signs = torch.randint(2, (12, width), generator=torch.Generator().manual_seed(0)) - 0.5
    moments = empty_moments(1, width, per_class=False, pooled=False)
    everything = torch.ones(12, dtype=torch.bool)
    add_rows_(moments, signs / 5, torch.zeros(12, dtype=torch.long), everything)
    rows = (signs / 5).double()
    expected = (rows - rows.mean(0)).square().sum()
    assert float(moments.sums_of_squares) == pytest.approx(float(expected), rel=2e-7)
