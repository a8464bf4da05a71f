"""Forward, compute, reset and collections."""

import numpy as np
import pytest
import torch
import torchmetrics
from support import oracles
from support.metrics import add, assert_identical, blank, quiet
from support.problems import Problem, as_numpy, assert_measures, problem, streamed
from torch import nn

from lightning_nc import (
    LinearClassifier,
    NeuralCollapse,
)

pytestmark = pytest.mark.usefixtures("small_backlog")


def test_forward_returns_the_measures_of_its_batch_and_accumulates():
    given = problem("random")
    metric = blank(given)
    for rows in (slice(200), slice(200, 350), slice(350, None)):
        h, y, logits = given.features[rows], given.target[rows], given.logits[rows]
        values = metric(h, y, logits, given.classifier)
        assert_measures(values, Problem(h, y, 10, given.weight, given.bias).reference)
    assert_measures(metric.compute(), given.reference)


def test_forward_accepts_a_batch_without_samples_as_update_does():
    given = problem("random")
    metric = streamed(given)
    metric(given.features[:0], given.target[:0], given.logits[:0])
    metric(given.features[:3], torch.full((3,), -100), given.logits[:3])
    assert_measures(metric.compute(), given.reference)


def test_compute_is_cached_until_the_state_changes():
    given = problem("random")
    metric = blank(given)
    add(metric, given, slice(300))
    first = metric.compute()
    assert metric.compute() is first
    add(metric, given, slice(300, None))
    assert_measures(metric.compute(), given.reference)
    other = blank(given)
    add(other, given, slice(100))
    metric.merge_state(other)
    assert metric.compute()["nc0/num_samples"] == 700


def test_a_reset_metric_is_as_new():
    given = problem("random")
    used, new = blank(given, sample_rows=50), blank(given, sample_rows=50)
    add(used, problem("far from the origin"), slice(None))
    used.compute()
    used.reset()
    for metric in (used, new):
        add(metric, given, slice(200))
        add(metric, given, slice(200, None))
    assert_identical(used, new)


def test_after_a_reset_nothing_is_known_of_classifier_and_decisions():
    given = problem("random")
    metric = streamed(given)
    metric.reset()
    metric.update(given.features, given.target)
    assert metric.sample().predicted is None
    values = metric.compute()
    unknown = ("nc3/", "nc2/weights", "nc0/accuracy", "nc4/ncc_mismatch")
    assert not any(key.startswith(unknown) for key in values)


def test_without_logits_and_classifier_their_keys_are_left_out_silently():
    given = problem("random")
    metric = blank(given)
    metric.update(given.features, given.target)
    needed = ("nc3/", "nc2/weights", "nc0/accuracy", "nc4/ncc_mismatch")
    rest = {key: value for key, value in given.reference.items() if not key.startswith(needed)}
    assert_measures(metric.compute(), rest)


def test_decisions_may_be_given_in_the_place_of_logits():
    given = problem("random")
    metric = blank(given)
    metric.update(given.features, given.target, classifier=given.classifier, predicted=given.predicted)
    assert_measures(metric.compute(), given.reference)


def test_decisions_of_a_part_of_the_batches_count_for_that_part():
    given = problem("random")
    metric = blank(given)
    metric.update(given.features[:300], given.target[:300])
    metric.update(given.features[300:], given.target[300:], given.logits[300:])
    values = metric.compute()
    right = (given.predicted == given.target)[300:].double().mean()
    assert float(values["nc0/accuracy"]) == pytest.approx(float(right))
    h, y = as_numpy(given)
    _, means, _, _ = oracles.two_pass_statistics(h, y, 10)
    center = oracles.nearest_class_center(h, means, np.arange(10))
    wrong = np.mean(center[300:] != given.predicted.numpy()[300:])
    assert float(values["nc4/ncc_mismatch"]) == pytest.approx(wrong)


def test_the_classifier_is_read_when_the_values_are_computed():
    given = problem("random")
    head = nn.Linear(32, 10)
    metric = blank(given)
    metric.update(given.features, given.target, given.logits, LinearClassifier(head.weight, head.bias))
    with torch.no_grad():
        head.weight.copy_(given.weight)
        head.bias.copy_(given.bias)
    evidence = metric.evidence()
    assert_measures(metric.compute(), given.reference)
    with torch.no_grad():
        head.weight.zero_()
    assert torch.equal(evidence.classifier.weight, given.weight)


@quiet
def test_metrics_in_a_collection_that_share_a_state_are_all_right():
    given = problem("random")
    first, second = blank(given, measures=["nc1/cdnv"]), blank(given, measures=["nc4/*"])
    collection = torchmetrics.MetricCollection({"first": first, "second": second})
    for h, y, logits in given.batches((50,)):
        collection.update(h, y, logits=logits, classifier=given.classifier)
    keys = ("nc1/cdnv", "nc4/ncc_mismatch", "nc4/ncc_accuracy")
    assert_measures(collection.compute(), {key: given.reference[key] for key in keys})


def test_values_before_the_first_sample_are_refused():
    metric = NeuralCollapse(3, 4)
    with (
        pytest.warns(UserWarning, match="before the ``update`` method"),
        pytest.raises(RuntimeError, match=r"at least one sample before compute\(\), but got none. Was"),
    ):
        metric.compute()
    metric.update(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    with pytest.raises(RuntimeError, match=r"but got none\. Was update"):
        metric.compute()


def test_values_without_a_usable_row_are_refused_with_the_reasons():
    metric = NeuralCollapse(3, 4)
    metric.update(torch.zeros(3, 4), torch.tensor([3, -1, -100]))
    metric.update(torch.full((1, 4), torch.nan), torch.tensor([0]))
    left_out = (
        r"but got none \(1 rows with a NaN or infinite feature, 2 rows with a label outside the "
        r"classes were left out\). Was"
    )
    with pytest.raises(RuntimeError, match=left_out):
        metric.compute()


class Ten(NeuralCollapse):
    """Its arguments are its own."""

    def __init__(self, width):
        super().__init__(10, width)


def test_a_metric_with_arguments_of_its_own_returns_the_measures_of_a_batch():
    given = problem("random")
    values = Ten(32)(given.features, given.target, given.logits, given.classifier)
    assert values["nc0/num_samples"] == 600


def test_states_that_are_no_lists_are_not_looked_for_after_each_update():
    given = problem("random")
    metric = NeuralCollapse(10, 32, compute_on_cpu=True)
    metric.update(given.features[:7], given.target[:7])
    assert len(metric._accumulator._backlog) == 7
