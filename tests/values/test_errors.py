"""What is told to the user."""

import pytest

from lightning_nc.values.errors import summarize


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([3], "class 3"),
        ([1, 2], "classes 1, 2"),
        (range(9), "classes 0, 1, 2, 3, 4, 5, 6, 7 and 1 more"),
    ],
)
def test_a_few_numbers_are_summarized(numbers, text):
    assert summarize(numbers, "class", "classes") == text
