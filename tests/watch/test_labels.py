"""The labels in a batch."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from lightning_nc.watch.labels import find_target


@dataclass
class Record:
    x: torch.Tensor
    labels: torch.Tensor


X, Y = torch.zeros(2, 3), torch.tensor([0, 1])
Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    ("batch", "where"),
    [
        ((X, Y), None),
        ([X, Y, X], None),
        (Pair(X, Y), None),
        ({"x": X, "target": Y}, None),
        ({"x": X, "targets": Y}, None),
        ({"x": X, "label": Y}, None),
        ({"x": X, "labels": Y}, None),
        ({"x": X, "y": Y}, None),
        (Record(X, Y), None),
        ((Y, X), 0),
        ((X, X, Y), "2"),
        ((X, X, Y), "-1"),
        ({"x": X, "class": Y}, "class"),
        (Record(X, Y), "labels"),
        ({"deep": {"er": Y}}, lambda batch: batch["deep"]["er"]),
        ({"deep": {"er": Y}}, "support.training.take_deep"),
        ({"deep": {"er": Y}}, "deep.er"),
        ({"first": (X, X), "second": [X, Y]}, "second.1"),
        ((X, Record(X, Y)), "1.labels"),
    ],
)
def test_labels_are_found_in_any_usual_batch(batch, where):
    assert find_target(batch, where) is Y


@pytest.mark.parametrize(
    ("batch", "where", "text"),
    [
        (X, None, r"but got a tensor of shape \(2, 3\)\. Set target to a position"),
        ([X], None, r"but got a list of 1: a tensor"),
        ({"x": X, "class": Y}, None, r"a dict with the keys \['x', 'class'\]\. Set target"),
        ((X, Y), 5, r"where target=5 gives a NoneType"),
        ({"x": X}, "klass", r"target='klass' gives a NoneType"),
        ({"x": X}, "nowhere.f", r"target to name a function that can be imported"),
        ((X, ["a", "b"]), None, r"a tuple of 2"),
    ],
)
def test_a_batch_without_labels_is_refused_with_what_it_holds(batch, where, text):
    with pytest.raises(ValueError, match=text):
        find_target(batch, where)
