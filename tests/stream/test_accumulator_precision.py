"""Features of any precision, under any setting, are measured as they are."""

from dataclasses import replace

import pytest
import torch
from support.metrics import add, assert_identical, blank, quiet
from support.problems import (
    VCI,
    assert_measures,
    assert_statistics,
    gaussian_classes,
    of_default,
    problem,
    streamed,
)

from lightning_nc import (
    ClassStatistics,
)
from lightning_nc.stream.moments import add_rows_

pytestmark = pytest.mark.usefixtures("small_backlog")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["random", "no bias"])
def test_features_of_any_float_dtype_are_measured_as_they_are(dtype, name):
    given = replace(problem(name), features=problem(name).features.to(dtype))
    assert_measures(streamed(given).compute(), given.reference)


@pytest.mark.parametrize("reset", [False, True])
def test_the_sample_keeps_the_digits_of_features_that_come_after_coarser_ones(reset):
    given = gaussian_classes([40] * 10, 32, spread=3.0, offset=100.0)
    given.features[:1] = given.features[:1].bfloat16().float()
    metric = blank(given)
    metric.update(given.features[:1].bfloat16(), given.target[:1], given.logits[:1], given.classifier)
    if reset:
        metric.reset()
        add(metric, given, slice(1))
    add(metric, given, slice(1, None))
    assert_measures(metric.compute(), given.reference)


def test_float64_features_keep_their_digits_in_the_scatter():
    given = problem("float64")
    statistics = streamed(given).statistics()
    whole = ClassStatistics.from_batch(given.features, given.target, 10)
    assert_statistics(statistics, whole, relative=1e-12)


def test_float32_batches_between_float64_ones_are_all_counted():
    given = problem("float64")
    rounded = given.features.clone()
    rounded[100:300] = rounded[100:300].float().double()
    given = replace(given, features=rounded)
    metric = blank(given)
    for rows in torch.arange(400).split(20):
        h = given.features[rows]
        h = h.float() if 100 <= rows[0] < 300 else h
        metric.update(h, given.target[rows], given.logits[rows], given.classifier)
    assert_measures(metric.compute(), given.reference)


def test_an_update_runs_outside_autocast(monkeypatch):
    seen = []

    def watched(*args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu"))
        return add_rows_(*args, **kwargs)

    monkeypatch.setattr("lightning_nc.stream.class_moments.add_rows_", watched)
    given = problem("random")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled("cpu")
        streamed(given)
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("name", ["random", "far from the origin"])
def test_autocast_changes_nothing(name):
    given = problem(name)
    metric, plain = blank(given), blank(given)
    for rows in torch.arange(len(given.target)).split(97):
        add(plain, given, rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            add(metric, given, rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metric.compute()
        assert_identical(metric, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_dtype_changes_nothing(dtype):
    given = problem("random")
    plain = streamed(given)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        metric = streamed(given)
        metric.to("cpu")
        metric.compute()
    finally:
        torch.set_default_dtype(before)
    assert_identical(metric, plain)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_precision_of_products_changes_nothing(precision):
    given = problem("far from the origin")
    plain = streamed(given).compute()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        values = streamed(given).compute()
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert_measures(values, {k: float(v) for k, v in plain.items()}, relative=1e-6, absolute=1e-12)


@quiet
@pytest.mark.parametrize("covariance", ["pooled", "per_class"])
@pytest.mark.parametrize("name", ["random", "imbalanced", "bottleneck off the origin", "binary head"])
def test_a_device_without_float64_is_served_in_float32(name, covariance, monkeypatch):
    for module in ("values.statistics", "values.frame", "stream.class_moments", "stream.sync"):
        path = f"lightning_nc.{module}.accumulator_dtype"
        monkeypatch.setattr(path, lambda device: torch.float32)
    given = problem(name)
    metric = streamed(given, covariance=covariance, measures=["default", VCI])
    assert metric.means.dtype == metric.scatter.dtype == torch.float32
    values = metric.compute()
    assert {value.dtype for value in values.values()} == {torch.float32}
    assert float(values[VCI]) == pytest.approx(given.reference[VCI], abs=1e-4)
    expected = {**of_default(given.reference), VCI: float(values[VCI])}
    assert_measures(values, expected, relative=1e-4, absolute=1e-5)
