"""Features of any size: all ratios are those of the same features, scaled."""

import warnings
from dataclasses import replace

import pytest
import torch
from support.metrics import blank
from support.problems import VCI, assert_measures, gaussian_classes, streamed, with_reference

from lightning_nc import ClassStatistics, NeuralCollapse, NeuralCollapseWarning

pytestmark = pytest.mark.usefixtures("small_backlog")

# a power of two changes no digit; the last but two leaves features below the normal numbers of float32
EXPONENTS = pytest.mark.parametrize("exponent", [-33, -60, -70, -100, -118, -126, 66, 100, 120])
# of all batches: those that wait for others, and those that are added by themselves
SIZES = pytest.mark.parametrize("sizes", [(20,), (300,), (7, 120, 1, 64)])
WIDTHS = pytest.mark.parametrize("width", [16, 100])
ABSOLUTE = ("nc3/bias_collapse",)
"""Goes with the size of the features."""


def values_of(given, sizes=(20,), **settings):
    """All keys but those of absolute size."""
    values = streamed(given, sizes, **settings).compute()
    return {key: float(value) for key, value in values.items() if key not in ABSOLUTE}


def rounded(width):
    """Features with so few digits that they keep them where float32 has fewer."""
    given = gaussian_classes([60] * 5, width, offset=1.0, spread=0.3, bias=False)
    return replace(given, features=given.features.bfloat16().float())


def scaled(given, exponent):
    return replace(given, features=given.features * 2.0**exponent)


@EXPONENTS
@SIZES
@WIDTHS
def test_all_ratios_are_those_of_features_of_ordinary_size(width, sizes, exponent):
    given = rounded(width)
    once, twice = (values_of(each, sizes) for each in (given, scaled(given, exponent)))
    assert set(twice) == set(with_reference()) - set(ABSOLUTE)
    assert twice == pytest.approx(once, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("covariance", ["per_class", "none"])
def test_scatters_of_each_class_and_traces_scale_too(covariance):
    given = rounded(100)
    one, other = (
        streamed(each, covariance=covariance).statistics() for each in (given, scaled(given, -100))
    )
    for name, power in (("sums_of_squares", 200), ("scatter", 200), ("class_scatter", 200)):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine is not None:
            torch.testing.assert_close(theirs * 2.0**power, mine, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(other.means * 2.0**100, one.means, rtol=1e-9, atol=0)


@pytest.mark.parametrize("size", [1e-10, 1e-18, 1e-21, 1e-30, 1e-38, 1e20, 1e37])
@WIDTHS
def test_float32_features_of_any_size_are_measured_as_they_are(width, size):
    drawn = gaussian_classes([60] * 5, width, offset=1.0, spread=0.3, dtype=torch.float64)
    given = replace(drawn, features=(size * drawn.features).float())
    reference = dict(given.reference)
    for key in ABSOLUTE:
        reference.pop(key)
    assert_measures(values_of(given), reference)


@pytest.mark.parametrize("spread", [1e-21, 1e-22, 1e-30, 1e-38])
@pytest.mark.parametrize("size", [1.0, 1e3])
@WIDTHS
def test_a_spread_far_below_the_size_of_the_means_is_no_collapse(width, spread, size):
    """The means differ in some units, and the rows of a class in the others."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(300) % 5
    h = torch.zeros(300, width)
    h[:, :8] = size * torch.randn(5, 8, generator=generator)[target]
    h[:, 8:] = spread * torch.randn(300, width - 8, generator=generator)
    metric = NeuralCollapse(5, width)
    for rows in torch.arange(300).split(20):
        metric.update(h[rows], target[rows])
    exact = ClassStatistics.from_batch(h, target, 5)
    expected = exact.within_trace / exact.between_trace
    values = metric.compute()
    assert float(values["nc1/within_between_ratio"]) == pytest.approx(float(expected), rel=1e-5, abs=0)
    assert float(values["nc1/cdnv"]) > 0
    trace = float(exact.scatter.trace())
    assert float(metric.scatter.trace()) == pytest.approx(trace, rel=1e-5, abs=0)


@pytest.mark.parametrize(
    "order", [(1e-38, 1.0), (1.0, 1e-38), (1e-30, 1e30, 1.0), (1e-21, 1e-38, 1e-10)]
)
@WIDTHS
def test_rows_of_other_sizes_lose_nothing_whichever_come_first(width, order):
    generator = torch.Generator().manual_seed(0)
    parts = [size * torch.randn(90, width, generator=generator) for size in order]
    h, target = torch.cat(parts), torch.arange(90 * len(order)) % 3
    metric = NeuralCollapse(3, width)
    for rows in torch.arange(len(h)).split(30):
        metric.update(h[rows], target[rows])
    exact, statistics = ClassStatistics.from_batch(h, target, 3), metric.statistics()
    largest = float(exact.scatter.abs().max())
    torch.testing.assert_close(statistics.scatter, exact.scatter, rtol=0, atol=1e-6 * largest)
    torch.testing.assert_close(statistics.sums_of_squares, exact.sums_of_squares, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 1e-6), (torch.bfloat16, 1e-38)])
@WIDTHS
def test_features_at_the_lower_end_of_short_floats_are_measured_as_they_are(width, dtype, size):
    drawn = gaussian_classes([60] * 5, width, offset=1.0, spread=0.3, dtype=torch.float64)
    given = replace(drawn, features=(size * drawn.features).to(dtype))
    reference = dict(given.reference)
    for key in ABSOLUTE:
        reference.pop(key)
    assert_measures(values_of(given), reference)


@pytest.mark.parametrize("size", [1e-100, 1e-158, 1e-170, 1e100, 1e160])
def test_float64_features_whose_products_leave_its_range_are_nan_with_the_reason(size):
    given = gaussian_classes([60] * 5, 16, spread=0.3, dtype=torch.float64)
    given = replace(given, features=size * given.features)
    metric = blank(given)
    metric.update(given.features, given.target, given.logits, given.classifier)
    with pytest.warns(
        NeuralCollapseWarning, match="vanish or overflow: their largest entry is "
    ) as told:
        values = metric.compute()
    assert "Scale the features." in str(told[0].message)
    compare = [key for key in values if key[:3] in ("nc1", "nc3", "nc4") or key.startswith("nc2/means")]
    assert len(compare) > 10
    assert all(bool(values[key].isnan()) for key in compare)
    assert float(values["nc2/weights_equinorm"]) > 0
    assert float(values["nc0/num_samples"]) == 300


@pytest.mark.parametrize("size", [1e-70, 1e70])
def test_float64_features_within_its_range_keep_their_ratios(size):
    given = gaussian_classes([60] * 5, 16, spread=0.3, bias=False, dtype=torch.float64)
    expected = values_of(given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = values_of(replace(given, features=size * given.features))
    assert values == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_unit_in_another_scale_changes_no_index():
    given = gaussian_classes([60] * 5, 100, offset=1.0, spread=0.3)
    expected = values_of(given)[VCI]
    features = given.features.clone()
    features[:, :50] *= 2.0**-20
    assert values_of(replace(given, features=features))[VCI] == pytest.approx(expected, rel=1e-6)
