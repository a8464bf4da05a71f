"""Symmetric matrices, of which nearly half need not be computed."""

import pytest
import torch

from lightning_nc.values.symmetric import gram, mirror_, panels

WIDTHS = pytest.mark.parametrize("width", [1, 127, 128, 129, 255, 256, 257, 900, 1500])


@WIDTHS
def test_panels_cover_all_on_and_above_the_diagonal_once(width):
    covered = torch.zeros(width, width, dtype=torch.long)
    for panel in panels(width):
        covered[panel] += 1
    assert covered.max() == 1
    assert covered.triu().count_nonzero() == width * (width + 1) // 2
    if width > 512:
        assert covered.count_nonzero() < 0.8 * width * width


@WIDTHS
def test_what_stands_below_the_diagonal_is_written_over_by_what_stands_above(width):
    square = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    expected = square.triu() + square.triu(1).T
    assert mirror_(square) is square
    assert torch.equal(square, expected)
    assert torch.equal(mirror_(square.clone()), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (257, 40), (600, 900), (40, 2100)])
def test_a_gram_matrix_is_that_of_a_whole_product(shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(gram(rows), rows @ rows.T)
    assert torch.equal(gram(rows), gram(rows).T)
