"""Symmetric products: half of the work, all of the digits, in whatever precision products run."""

import pytest
import torch
from support.coarse import CoarseProducts

from lightning_nc.stream import products
from lightning_nc.stream.products import add_symmetric_product_, fold_
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
    part, total = torch.zeros(width, width), torch.ones(width, width, dtype=torch.float64)
    add_symmetric_product_(part, x)
    expected = x.double().T @ x.double()
    torch.testing.assert_close(mirror_(part.clone()).double(), expected, rtol=0, atol=1e-4)
    if width > 512:
        assert part.count_nonzero() < 0.8 * width * width
    fold_(total, part)
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
