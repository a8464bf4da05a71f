"""Tokens and their labels are in one order, or the measurement is refused."""

import pytest
import torch
from torch import nn

from lightning_nc.watch.order import Order

FIRST = nn.LSTM(2, 2, batch_first=True)
SEQUENCE_FIRST = nn.LSTM(2, 2)
EQUAL = r"two of which are equal, so that the network may run sequence first or not\. Set target"
DIFFER = r"which differ: does the network run sequence first, or flatten its tokens\? Set target"


@pytest.mark.parametrize(
    ("modules", "is_known", "leading", "labels"),
    [
        ([], False, (6,), (6,)),
        ([], False, (6,), (6, 1)),
        ([SEQUENCE_FIRST], False, (6, 1), (6,)),
        ([], False, (4, 5), (4, 5)),
        ([SEQUENCE_FIRST], False, (4, 5), (4, 5)),
        ([], False, (4, 5, 6), (4, 5, 6)),
        ([FIRST], False, (4, 4), (4, 4)),
        ([], True, (4, 4), (4, 4)),
        ([], True, (4, 5), (20,)),
        # how many there are is another matter
        ([], False, (4, 5), (6, 7)),
        ([], False, (4,), (5,)),
    ],
)
def test_an_order_that_is_told_is_taken(modules, is_known, leading, labels):
    Order(modules, is_known).require(leading, labels)


@pytest.mark.parametrize(
    ("modules", "is_known", "leading", "labels", "why"),
    [
        ([], False, (5, 4), (4, 5), DIFFER),
        ([FIRST], False, (5, 4), (4, 5), DIFFER),
        ([], True, (5, 4), (4, 5), DIFFER),
        ([], False, (4, 5, 6), (5, 4, 6), DIFFER),
        ([], False, (20,), (4, 5), DIFFER),
        ([FIRST], False, (20,), (4, 5), DIFFER),
        ([], False, (4, 5), (20,), DIFFER),
        ([], False, (4, 4), (4, 4), EQUAL),
        ([SEQUENCE_FIRST], False, (4, 4), (4, 4), EQUAL),
        ([SEQUENCE_FIRST, FIRST], False, (4, 4), (4, 4), EQUAL),
    ],
)
def test_an_order_that_is_another_or_not_told_is_refused(modules, is_known, leading, labels, why):
    with pytest.raises(ValueError, match=f"dimensions agree in their order, .*{why}") as refused:
        Order(modules, is_known).require(leading, labels)
    assert f"dimensions {leading} and labels of shape {labels}, " in str(refused.value)


@pytest.mark.parametrize("entries", [(), (2,)])
def test_the_advice_holds_for_labels_with_entries_too(entries):
    with pytest.raises(ValueError, match="a label that is a vector are not among") as refused:
        Order([], is_known=False).require((6, 10), (10, 6))
    labels = torch.zeros(10, 6, *entries)
    for advice, shape in (
        ("labels.transpose(0, 1)", (6, 10, *entries)), ("labels.flatten(0, 1)", (60, *entries)),
    ):  # fmt: skip
        assert advice in str(refused.value)
        assert eval(advice, {"labels": labels}).shape == shape


def test_what_one_batch_has_told_holds_for_the_next():
    order = Order([], is_known=False)
    order.require((4, 5), (4, 5))
    order.require((5, 5), (5, 5))
    with pytest.raises(ValueError, match=DIFFER):
        order.require((4, 5), (5, 4))
