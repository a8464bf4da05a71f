"""Classes with too few rows are as if they had none."""

import pytest
import torch
from support.oracles import two_pass_statistics

from lightning_nc import ClassStatistics
from lightning_nc.values.small_classes import without_small_classes

# of 0, 1, 2, 5 and 9 rows
COUNTS = torch.tensor([0, 1, 2, 5, 9])
Y = torch.repeat_interleave(torch.arange(5), COUNTS)
H = torch.randn(17, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def statistics(covariance, rows=slice(None)):
    return ClassStatistics.from_batch(H[rows], Y[rows], num_classes=5, covariance=covariance)


@pytest.mark.parametrize("covariance", ["none", "pooled", "per_class"])
@pytest.mark.parametrize("least", [1, 2, 3, 6, 10])
def test_what_is_left_is_that_of_the_other_rows(covariance, least):
    got = without_small_classes(statistics(covariance), least)
    kept = COUNTS[Y] >= least
    expected = statistics(covariance, kept)
    assert got.counts.tolist() == (COUNTS * (least <= COUNTS)).tolist()
    for name in ("means", "sums_of_squares", "class_scatter"):
        mine, other = getattr(got, name), getattr(expected, name)
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
    if covariance == "pooled" and least > 2:  # rows of small classes cannot be taken out again
        assert got.scatter is None
    elif covariance != "none":
        torch.testing.assert_close(got.scatter, expected.scatter, rtol=1e-12, atol=1e-12)


def test_what_has_no_small_class_stays_the_same_value():
    given = statistics("pooled")
    assert without_small_classes(given, 1) is given
    large = statistics("pooled", COUNTS[Y] >= 5)
    assert without_small_classes(large, 5) is large
    assert without_small_classes(large, 6) is not large


def test_the_reference_of_two_passes_agrees():
    kept = COUNTS[Y] >= 3
    expected = two_pass_statistics(H[kept].numpy(), Y[kept].numpy(), 5)
    got = without_small_classes(statistics("per_class"), 3)
    found = got.counts, got.means, got.scatter, got.sums_of_squares
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, torch.as_tensor(other), rtol=1e-10, atol=1e-12)
