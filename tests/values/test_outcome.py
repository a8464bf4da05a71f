"""What has become of a measure: a value, or why there is none."""

import dataclasses
import math

import pytest
import torch

from lightning_nc.functional import values_of
from lightning_nc.values import Fate, Outcome

VALUE = Outcome(torch.tensor(0.5))
NAN = Outcome(torch.tensor(torch.nan), Fate.NAN, "two class means coincide")
LEFT_OUT = Outcome(None, Fate.LEFT_OUT, "no row was sampled")


def test_a_value_needs_no_reason():
    assert (VALUE.fate, VALUE.reason) == (Fate.VALUE, "")


def test_values_are_those_that_have_one_and_nan_is_one_of_them():
    values = values_of({"a": VALUE, "b": NAN, "c": LEFT_OUT})
    assert list(values) == ["a", "b"]
    assert float(values["a"]) == 0.5
    assert math.isnan(values["b"])
    assert values_of({}) == {}


def test_an_outcome_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        VALUE.reason = "changed"
