"""Which rows count, and masks that cannot be meant."""

import pytest
import torch

from lightning_nc.watch.mask import masked

Y = torch.tensor([3, 4, 5, 6])


@pytest.mark.parametrize(
    ("labels", "mask", "expected"),
    [
        (Y, torch.tensor([True, False, False, True]), [3, -1, -1, 6]),
        (Y, torch.tensor([3, 0]), [3, -1, -1, 6]),
        (Y, torch.tensor([2, 2], dtype=torch.int32), [-1, -1, 5, -1]),
        (Y.reshape(2, 2), torch.tensor([[1, 0], [0, 1]]), [[3, -1], [-1, 6]]),
    ],
)
@pytest.mark.parametrize("looks", [True, False])
def test_rows_that_do_not_count_have_the_ignored_label(labels, mask, expected, looks):
    before = labels.clone()
    assert masked(labels, mask, -1, looks).tolist() == expected
    assert torch.equal(labels, before)


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ([True, False, True, True], r"boolean mask of the labels' shape \(4,\), .* but got a list"),
        (torch.ones(4), r"but got torch\.float32 of shape \(4,\)\. Convert it with mask\.bool\(\)"),
        (torch.ones(3, dtype=torch.bool), r"got torch\.bool of shape \(3,\)\. Is it another stage's"),
        (
            torch.zeros(4, dtype=torch.bool),
            r"marks some rows of the first batch, but none of 4 is True",
        ),
        (torch.tensor([0, -1]), r"row numbers from 0 to 3, but it holds -1\. Are they numbers in the"),
        (torch.tensor([0, 4]), r"row numbers from 0 to 3, but it holds 4"),
        (torch.tensor([1, 0, 0, 1]), r"It holds zeros and ones: convert it with mask\.bool\(\)"),
        (torch.tensor([[0, 1]]), r"Numbers of rows go with labels of one dimension"),
        (torch.zeros(0, dtype=torch.int64), r"some rows of the first batch, but it is empty"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused(mask, text):
    with pytest.raises(ValueError, match=text):
        masked(Y, mask, -1, looks=True)


def test_numbers_in_the_shape_of_several_dimensions_are_zeros_and_ones():
    with pytest.raises(ValueError, match="It holds 2"):
        masked(Y.reshape(2, 2), torch.tensor([[1, 0], [2, 1]]), -1, looks=True)


def test_a_later_batch_may_mark_none():
    assert masked(Y, torch.zeros(4, dtype=torch.bool), -1, looks=False).tolist() == [-1] * 4
