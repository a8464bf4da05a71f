"""What a metric says of its data, and how often."""

import warnings
from dataclasses import replace

import pytest
import torch
from support.problems import gaussian_classes, problem, streamed

from lightning_nc import NeuralCollapse, NeuralCollapseWarning


def said(metric):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metric.compute()
    assert all(w.category is NeuralCollapseWarning for w in caught)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize(
    ("name", "beginnings"),
    [
        ("random", []),
        ("imbalanced", []),
        ("bottleneck", []),
        ("far from the origin", []),
        ("tight", []),
        ("missing classes", ["Expected samples of all 10 classes, but got none of classes 1, 3, 4, "]),
        ("two classes", ["nc2/means_equinorm, nc2/means_equiangularity, nc2/weights_equiangularity, "
                         "nc2/means_max_angle, nc2/means_etf_distance, "
                         "nc2/means_log_distance_variation left out: needs at least 3 classes with "
                         "samples, and there are 2."]),
        ("one class", ["Expected samples of all 3 classes, but got none of classes 0, 2",
                       "Samples of a single class"]),
        ("more classes than features", ["12 classes in 5 features: a simplex ETF needs at least 11"]),
        ("a class with one sample", ["nc1/within_between_ratio_debiased left out: a class has a single "
                                     "sample, whose variance is not known."]),
    ],
)  # fmt: skip
def test_a_metric_says_once_what_the_data_do_not_allow(name, beginnings):
    given = problem(name)
    metric = streamed(given)
    texts = said(metric)
    assert len(texts) == len(beginnings)
    for text, beginning in zip(texts, beginnings, strict=True):
        assert text.startswith(beginning)
    metric._computed = None
    assert said(metric) == []
    metric.reset()
    metric.update(given.features, given.target, given.logits, given.classifier)
    assert said(metric) == []


def test_something_new_is_said_later():
    given = problem("random")
    metric = streamed(given)
    assert said(metric) == []
    metric.update(given.features[:2] * torch.nan, given.target[:2], given.logits[:2], given.classifier)
    assert [text[:24] for text in said(metric)] == ["2 rows with a NaN or inf"]


def test_forward_and_compute_share_what_was_said():
    given = problem("two classes")
    metric = NeuralCollapse(2, 8)
    with pytest.warns(NeuralCollapseWarning, match="needs at least 3 classes"):
        metric(given.features[:50], given.target[:50], given.logits[:50])
    metric(given.features[50:], given.target[50:], given.logits[50:])
    assert said(metric) == []


def test_means_that_coincide_are_said_to_be_the_reason_of_nan():
    given = gaussian_classes([20, 20, 20], 4)
    constant = replace(given, features=torch.full((60, 4), 2.0))
    metric = streamed(constant, measures=["nc1/cdnv", "nc3/*"])
    texts = said(metric)
    assert len(texts) == 1
    assert texts[0].startswith(
        "nc1/cdnv, nc3/self_duality, nc3/duality_etf_distance, nc3/uniform_duality"
    )
    assert texts[0].endswith("is NaN: class means or classifier rows coincide, vanish or overflow.")


def test_the_warning_points_at_the_caller():
    metric = streamed(problem("two classes"))
    with pytest.warns(NeuralCollapseWarning) as caught:
        metric.compute()
    # torchmetrics wraps compute: what is pointed at is not our own file
    assert not caught[0].filename.endswith("lightning_nc/metric.py")
