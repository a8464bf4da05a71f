"""How many rows a classifier may have."""

import pytest

from lightning_nc.watch.rows import Rows


@pytest.mark.parametrize(
    ("num_classes", "least", "fitting"),
    [
        (None, 1, [1, 2, 3, 4, 5]),
        (None, 2, [1, 2, 3, 4, 5]),  # a single row is two classes
        (None, 3, [3, 4, 5]),
        (3, 2, [3]),
        (2, 2, [1, 2]),
        (3, 5, [3]),  # what was given holds
    ],
)
def test_rows_fit_the_number_of_classes_or_the_labels(num_classes, least, fitting):
    assert [rows for rows in range(1, 6) if Rows(num_classes, least).fit(rows)] == fitting


@pytest.mark.parametrize(
    ("sides", "rows", "expected"),
    [
        ((3,), 3, True),
        ((3,), 5, True),  # closer to the labels
        ((5,), 3, False),
        ((2,), 5, False),  # too few
        ((8, 3), 5, True),  # transposed
        ((8, 6), 5, False),
    ],
)
def test_of_two_that_fit_the_one_nearer_to_the_labels_is_closer(sides, rows, expected):
    assert Rows(None, least=3).closer(sides, rows) is expected


def test_a_single_row_is_as_close_as_two():
    assert Rows(None, least=2).closer((2,), 1)
    assert Rows(None, least=2).closer((1,), 2)
    assert not Rows(None, least=2).closer((3,), 1)
    assert not Rows(5, least=2).closer((3,), 5)
