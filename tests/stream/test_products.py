"""Symmetric products: half of the work, all of the digits, in whatever precision products run."""

import pytest
import torch
from support.coarse import CoarseProducts

from lightning_nc.stream import products
from lightning_nc.stream.products import Products, add_symmetric_product_, unit_of
from lightning_nc.values.symmetric import mirror_


def product_error(rows):
    """Of the upper triangle, against float64, relative to the product of the absolute values."""
    out = torch.zeros(rows.shape[1], rows.shape[1])
    add_symmetric_product_(out, rows)
    exact, size = rows.double().T @ rows.double(), rows.double().abs().T @ rows.double().abs()
    return float(((out.double() - exact).abs() / size).triu().max())


def factor(rows, width=16, decades=3):
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    return drawn * torch.logspace(0, -decades, width)


# in one row no rounding cancels another
ROWS = pytest.mark.parametrize("rows", [1, 2, 500])


@ROWS
def test_a_product_is_as_good_as_float32_where_products_are_exact(rows):
    assert product_error(factor(rows)) < 1e-6


@ROWS
def test_a_product_is_as_good_as_float32_where_factors_are_rounded(rows, monkeypatch):
    monkeypatch.setattr(products, "float32_products_are_exact", lambda device: False)
    assert product_error(factor(rows)) < 1e-6
    with CoarseProducts() as mode:
        assert product_error(factor(rows)) < 1e-6
    assert mode.seen == 1


@pytest.mark.parametrize("width", [1, 255, 256, 257, 900])
def test_panels_cover_all_on_and_above_the_diagonal_and_folding_moves_it(width):
    x = torch.randn(40, width, generator=torch.Generator().manual_seed(0))
    parts, total = Products(width, torch.device("cpu")), torch.ones(width, width, dtype=torch.float64)
    parts.add(x / parts.in_unit(unit_of(x)))
    part = parts._sum
    expected = x.double().T @ x.double()
    if width > 512:
        assert part.count_nonzero() < 0.8 * width * width
    parts.fold_into(total)
    torch.testing.assert_close(mirror_(total), 1 + expected, rtol=0, atol=1e-4)
    assert part.triu().count_nonzero() == 0


@ROWS
def test_rounded_factors_would_be_seen(rows):
    with CoarseProducts():
        assert product_error(factor(rows)) > 1e-5


def test_the_parts_of_a_factor_are_bfloat16_and_add_up_exactly():
    x = torch.cat([torch.randn(1000, 1, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1)])
    x = x * 10.0 ** torch.linspace(-6, 6, len(x))[:, None]
    parts = products._bfloat16_parts(x)
    assert all(torch.equal(part, part.bfloat16().float()) for part in parts)
    assert torch.equal(sum(part.double() for part in parts), x.double())


@pytest.mark.parametrize("exponent", [-149, -130, -126, -60, 0, 60, 127])
def test_in_its_unit_a_row_has_squares_that_float32_holds(exponent):
    rows = torch.tensor([[0.0, 2.0**exponent], [-(2.0**exponent), 0.0]])
    unit = unit_of(rows)
    assert float(unit).hex().startswith("0x1.0000000000000p")
    squares = (rows / unit).square()
    assert float(squares.max().double() * unit.double() ** 2) == 4.0**exponent
    # as many of them as there are in any piece of rows, and entries as small as matter beside them
    assert float(squares.max()) * 2**30 < torch.finfo(torch.float32).max
    assert exponent < -100 or float(squares.max()) * 2.0**-200 > torch.finfo(torch.float32).tiny


def test_products_grow_into_larger_units_and_stay_in_them():
    parts, total = Products(2, torch.device("cpu")), torch.zeros(2, 2, dtype=torch.float64)
    sizes = (1e-30, 1e-20, 1e-25, 1e-20, 0.0)
    exact = torch.zeros(2, 2, dtype=torch.float64)
    for size in sizes:
        rows = size * torch.tensor([[1.0, -2.0], [0.5, 3.0]])
        exact += rows.double().T @ rows.double()
        parts.add(rows / parts.in_unit(unit_of(rows)))
    parts.fold_into(total)
    torch.testing.assert_close(mirror_(total) / exact, torch.ones(2, 2).double(), rtol=0, atol=1e-6)
    small = 1e-30 * torch.ones(1, 2)
    parts.add(small / parts.in_unit(unit_of(small)))  # after a fold the unit is that of the next rows
    parts.fold_into(total.zero_())
    torch.testing.assert_close(total[0, 1].item(), 1e-60, rtol=1e-6, atol=0)
