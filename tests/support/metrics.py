"""Metrics of the problems, and how to compare them."""

import pytest
import torch
from support.problems import VCI, Problem, assert_statistics, with_reference

from lightning_nc import NeuralCollapse

quiet = pytest.mark.filterwarnings("ignore::lightning_nc.NeuralCollapseWarning")
EVERYTHING = {"measures": with_reference()}
# without a scatter they have no value
NEED_COVARIANCE = ("nc1/within_between_pinv", VCI)


def blank(given: Problem, **settings) -> NeuralCollapse:
    """A metric for a problem, of all measures."""
    return NeuralCollapse(given.num_classes, given.num_features, **{**EVERYTHING, **settings})


def add(metric: NeuralCollapse, given: Problem, rows) -> None:
    """Some rows of a problem as a batch."""
    h, y, logits = given.features[rows], given.target[rows], given.logits[rows]
    metric.update(h, y, logits, given.classifier)


def assert_identical(metric: NeuralCollapse, other: NeuralCollapse) -> None:
    """The same values, statistics and sample to the last bit."""
    mine, theirs = metric.compute(), other.compute()
    assert set(mine) == set(theirs)
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
    assert_statistics(metric.statistics(), other.statistics(), relative=0, absolute=0)
    for name in ("features", "target", "predicted"):
        assert torch.equal(getattr(metric.sample(), name), getattr(other.sample(), name))
