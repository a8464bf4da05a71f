"""Which rows count: labels of any kind, and rows that cannot be used."""

from dataclasses import replace

import pytest
import torch
from support.metrics import blank, quiet
from support.problems import Problem, assert_measures, assert_statistics, problem

from lightning_nc import (
    NeuralCollapse,
    NeuralCollapseWarning,
)

pytestmark = pytest.mark.usefixtures("small_backlog")


def test_tokens_are_rows():
    given = problem("random")
    metric = blank(given)
    h, y = given.features.view(20, 30, 32), given.target.view(20, 30)
    metric.update(h, y, given.logits.view(20, 30, 10), given.classifier)
    assert_measures(metric.compute(), given.reference)


def labeled(given, y, **settings):
    metric = blank(given, **settings)
    for rows in torch.arange(len(y)).split(97):
        metric.update(given.features[rows], y[rows], given.logits[rows], given.classifier)
    return metric


@pytest.mark.parametrize(
    ("dtype", "ignored"),
    [
        (torch.int64, -100),
        (torch.int64, 7),
        (torch.int32, -1),
        (torch.int16, -100),
        (torch.uint8, 255),
        (torch.float32, -100),
        (torch.float64, -1),
    ],
)
def test_rows_with_the_ignored_label_are_left_out_silently(dtype, ignored):
    given = problem("random")
    left_out = given.target == 7
    y = torch.where(left_out, ignored, given.target).to(dtype)
    seven = torch.tensor(7)
    bias = given.bias.index_fill(0, seven, -1e9)  # class 7 has no rows: never decided for
    given = replace(given, bias=bias)
    kept = Problem(given.features[~left_out], given.target[~left_out], 10, given.weight, bias)
    metric = labeled(given, y, ignore_index=ignored)
    with pytest.warns(NeuralCollapseWarning, match="got none of class 7") as said:
        values = metric.compute()
    assert len(said) == 1
    assert_measures(values, kept.reference)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ignore_index", [None, -100, 300])
def test_whole_labels_of_any_dtype_are_accepted(dtype, ignore_index):
    given = problem("random")
    metric = labeled(given, given.target.to(dtype), ignore_index=ignore_index)
    assert_measures(metric.compute(), given.reference)


@quiet
def test_bool_labels_are_two_classes():
    given = problem("binary head")
    assert_measures(labeled(given, given.target.bool()).compute(), given.reference)


@quiet
def test_without_an_ignored_label_minus_100_is_out_of_range():
    given = problem("random")
    y = given.target.clone()
    y[:5] = -100
    assert int(labeled(given, y, ignore_index=None).evidence().tallies.out_of_range) == 5
    assert int(labeled(given, y).evidence().tallies.out_of_range) == 0


DIRT = {
    "NaN": (
        lambda h, y: h.index_fill_(1, torch.tensor([3]), torch.nan),
        "7 rows with a NaN or infinite",
    ),
    "infinite": (lambda h, y: h.fill_(torch.inf), "7 rows with a NaN or infinite feature left out"),
    "both infinities": (
        lambda h, y: h.copy_(torch.tensor([torch.inf, -torch.inf]).repeat(16)),
        "7 rows with a NaN or infinite feature",
    ),
    "label too large": (lambda h, y: y.fill_(10), r"7 rows with a label outside \[0, 10\) left out"),
    "label far too large": (lambda h, y: y.fill_(2**40), r"7 rows with a label outside \[0, 10\)"),
    "negative label": (lambda h, y: y.fill_(-3), r"7 rows with a label outside \[0, 10\) left out"),
    "both": (lambda h, y: (h.fill_(torch.nan), y.fill_(-3)), "7 rows with a"),
}


@pytest.mark.parametrize("what", DIRT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_cannot_be_used_leave_no_trace_but_one_warning(what, dtype):
    given = problem("random")
    given = replace(given, features=given.features.to(dtype))
    soil, text = DIRT[what]
    dirty, clean = blank(given), blank(given)
    for i, (h, y, logits) in enumerate(given.batches((100,))):
        clean.update(h, y, logits, given.classifier)
        if i in (0, 4):  # 4 and 3 rows, in the midst of the others
            bad = (h[: 4 - i // 4].clone(), y[: 4 - i // 4].clone())
            soil(*bad)
            h, y = torch.cat([h[:50], bad[0], h[50:]]), torch.cat([y[:50], bad[1], y[50:]])
            logits = torch.cat([logits[:50], logits[: len(bad[1])], logits[50:]])
        dirty.update(h, y, logits, given.classifier)
    with pytest.warns(NeuralCollapseWarning, match=text) as said:
        values = dirty.compute()
    assert len(said) == (2 if what == "both" else 1)
    # zeros among the rows may change the order in which a float32 product adds up
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    expected = {key: float(value) for key, value in clean.compute().items()}
    assert_measures(values, expected, relative=tolerance, absolute=1e-14)
    assert_statistics(dirty.statistics(), clean.statistics(), relative=tolerance)
    assert torch.equal(dirty.sample().target.sort().values, given.target.sort().values)


@quiet
def test_float16_features_that_overflow_are_left_out():
    given = problem("random")
    h = given.features.half()
    h[:5] *= torch.tensor(60000.0).half()
    metric = blank(given)
    metric.update(h, given.target, given.logits, given.classifier)
    finite = h.isfinite().all(1)
    assert int(metric.evidence().tallies.non_finite) == int((~finite).sum()) > 0
    kept = Problem(h[finite], given.target[finite], 10, given.weight, given.bias)
    assert metric.statistics().counts.tolist() == kept.target.bincount(minlength=10).tolist()


def test_large_finite_float32_features_are_not_taken_for_infinite():
    metric = NeuralCollapse(2, 4)
    metric.update(torch.full((3, 4), 3e38), torch.tensor([0, 1, 1]))
    assert int(metric.evidence().tallies.non_finite) == 0


def test_a_binary_head_may_put_out_a_vector():
    given = problem("binary head")
    metric = blank(given)
    metric.update(given.features, given.target, given.logits[:, 0], given.classifier)
    with pytest.warns(NeuralCollapseWarning, match="needs at least 3 classes"):
        assert_measures(metric.compute(), given.reference)


def test_soft_labels_after_the_first_batch_are_left_out_and_counted():
    given = problem("random")
    metric = blank(given)
    y = given.target.float()
    metric.update(given.features[:300], y[:300], given.logits[:300], given.classifier)
    h = torch.cat([given.features[300:], given.features[:2]])
    logits = torch.cat([given.logits[300:], given.logits[:2]])
    metric.update(h, torch.cat([y[300:], torch.tensor([0.5, 1.5])]), logits, given.classifier)
    with pytest.warns(NeuralCollapseWarning, match="2 rows with a label that is no whole number"):
        values = metric.compute()
    assert_measures(values, given.reference)
