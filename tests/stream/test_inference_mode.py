"""Updates, copies and reads in inference mode and out of it come to the same."""

import pytest
import torch
from support.metrics import add, blank
from support.problems import assert_measures, problem, streamed
from torch import nn

from lightning_nc import (
    LinearClassifier,
)

pytestmark = pytest.mark.usefixtures("small_backlog")


def inference_updates(given):
    metric = blank(given)
    with torch.inference_mode():
        add(metric, given, slice(300))
    add(metric, given, slice(300, None))
    return metric


def inference_features(given):
    metric = blank(given)
    with torch.inference_mode():
        h, y, logits = given.features.clone(), given.target.clone(), given.logits.clone()
    for rows in (slice(300), slice(300, None)):
        metric.update(h[rows], y[rows], logits[rows], given.classifier)
    return metric


def inference_reset(given):
    metric = blank(given)
    add(metric, given, slice(100))
    with torch.inference_mode():
        metric.compute()
        metric.reset()
    add(metric, given, slice(300))
    add(metric, given, slice(300, None))
    return metric


def inference_fold(given):
    metric = blank(given)
    add(metric, given, slice(300))
    with torch.inference_mode():
        metric.compute()
        metric.statistics()
        metric.sample()
    add(metric, given, slice(300, None))
    return metric


def inference_merge(given):
    metric, other = blank(given), blank(given)
    add(other, given, slice(300))
    with torch.inference_mode():
        metric.merge_state(other)
    add(metric, given, slice(300, None))
    return metric


def inference_whole(given):
    with torch.inference_mode():
        metric = blank(given)
        add(metric, given, slice(300))
        add(metric, given, slice(300, None))
        metric.compute()
    return metric


def inference_construction(given):
    with torch.inference_mode():
        metric = blank(given)
    add(metric, given, slice(300))
    add(metric, given, slice(300, None))
    return metric


def inference_forward(given):
    metric = blank(given)
    with torch.inference_mode():
        for rows in (slice(300), slice(300, None)):
            metric(given.features[rows], given.target[rows], given.logits[rows], given.classifier)
    return metric


def inference_copy(given):
    metric = blank(given)
    add(metric, given, slice(300))
    with torch.inference_mode():
        metric = metric.clone()
    add(metric, given, slice(300, None))
    return metric


def inference_copy_computed(given):
    metric = streamed(given)
    with torch.inference_mode():
        return metric.clone()


def inference_copy_merged(given):
    first, second = blank(given), blank(given)
    add(first, given, slice(300))
    add(second, given, slice(300, None))
    with torch.inference_mode():
        first, second = first.clone(), second.clone()
    first.merge_state(second)
    return first


def inference_copy_whole(given):
    with torch.inference_mode():
        metric = streamed(given).clone()
        metric.compute()
    return metric


def inference_copy_saved(given):
    metric, loaded = streamed(given), blank(given)
    with torch.inference_mode():
        metric = metric.clone()
    metric.persistent(True)
    loaded.load_state_dict(metric.state_dict())
    loaded.update(given.features[:0], given.target[:0], None, given.classifier)
    return loaded


@pytest.mark.parametrize(
    "used",
    [
        inference_updates,
        inference_features,
        inference_reset,
        inference_fold,
        inference_merge,
        inference_whole,
        inference_construction,
        inference_forward,
        inference_copy,
        inference_copy_computed,
        inference_copy_merged,
        inference_copy_whole,
        inference_copy_saved,
    ],
)
def test_inference_mode_changes_nothing(used):
    given = problem("random")
    assert_measures(used(given).compute(), given.reference)


def test_features_that_require_a_gradient_keep_no_graph():
    given = problem("random")
    h = given.features.clone().requires_grad_()
    head = nn.Linear(32, 10)
    metric = blank(given)
    metric.update(h, given.target, head(h), LinearClassifier(head.weight, head.bias))
    assert not any(value.requires_grad for value in metric.compute().values())
    assert not metric.sample().features.requires_grad
