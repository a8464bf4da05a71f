"""Casts and moves: the states keep their dtypes."""

import pytest
import torch
from support.metrics import add, assert_identical, blank
from support.problems import problem, streamed
from torch import nn

from lightning_nc import (
    NeuralCollapse,
)

pytestmark = pytest.mark.usefixtures("small_backlog")


CASTS = {
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "float": lambda m: m.float(),
    "double": lambda m: m.double(),
    "to bfloat16": lambda m: m.to(torch.bfloat16),
    "to float64": lambda m: m.to(torch.float64),
    "to cpu and float16": lambda m: m.to("cpu", torch.float16),
    "set_dtype": lambda m: m.set_dtype(torch.float16),
    "type": lambda m: m.type(torch.bfloat16),
    "parent to bfloat16": lambda m: nn.ModuleList([m, nn.Linear(2, 2)]).to(torch.bfloat16),
    "parent half": lambda m: nn.ModuleList([m]).half(),
    "parent double": lambda m: nn.ModuleList([m]).double(),
}


@pytest.mark.parametrize("cast", CASTS)
def test_casts_do_not_touch_the_state(cast):
    given = problem("random")
    plain, casted = blank(given), blank(given)
    for i, rows in enumerate(torch.arange(600).split(97)):
        if i in (0, 3):
            CASTS[cast](casted)
        add(plain, given, rows)
        add(casted, given, rows)
    CASTS[cast](casted)
    assert casted.means.dtype == casted.scatter.dtype == torch.float64
    assert casted.counts.dtype == torch.int64
    assert_identical(casted, plain)


def test_features_on_another_device_are_refused_at_once():
    metric = NeuralCollapse(3, 4)
    with pytest.raises(ValueError, match=r"on cpu, where the metric is, but got them on meta\. Move"):
        metric.update(torch.zeros(2, 4, device="meta"), torch.zeros(2, dtype=torch.long))


def test_a_move_between_devices_keeps_the_dtypes():
    metric = streamed(problem("random"), covariance="per_class")
    before = {name: getattr(metric, name).dtype for name in metric._defaults}
    for moved in (metric.to("meta"), nn.ModuleList([metric]).to("meta", torch.bfloat16)[0]):
        assert moved is metric
        assert {getattr(moved, name).device.type for name in before} == {"meta"}
        assert {name: getattr(moved, name).dtype for name in before} == before
    assert metric.device.type == "meta"


def test_a_move_to_a_device_without_float64_turns_to_float32(monkeypatch):
    metric = streamed(problem("random"))
    monkeypatch.setattr(
        "lightning_nc.stream.class_moments.accumulator_dtype", lambda device: torch.float32
    )
    metric.to("meta")
    assert metric.means.dtype == metric.scatter.dtype == metric.sums_of_squares.dtype == torch.float32
    assert metric.counts.dtype == metric.tallies.dtype == torch.int64
