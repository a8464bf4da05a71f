"""The module's own metrics are not touched, whatever they keep."""

import pytest
import torch
from torch import nn
from torchmetrics import (
    CatMetric,
    ClasswiseWrapper,
    MeanMetric,
    Metric,
    MetricCollection,
    MetricTracker,
    MinMaxMetric,
)
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassF1Score,
    MulticlassPrecision,
)
from torchmetrics.wrappers import Running

from lightning_nc import NeuralCollapse
from lightning_nc.run.metrics import metrics_on_copies


class Nested(nn.Module):
    """Metrics in a module in a module, and in plain lists and dictionaries."""

    def __init__(self):
        super().__init__()
        self.body = nn.Module()
        self.body.accuracy = MulticlassAccuracy(3)
        self.plain = [MulticlassAccuracy(3), {"of": (MulticlassAUROC(3),)}]

    @property
    def metrics(self):
        return [self.body.accuracy, self.plain[0], self.plain[1]["of"][0]]


class Odd(Metric):
    """Keeps more than its states, some of which nobody can copy."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), "sum")
        self.seen, self.process_group = {"rows": [0]}, (n for n in ())

    def update(self, logits, target):
        self.total += len(target)
        self.seen["rows"].append(len(target))
        self.latest = logits.sum()

    def compute(self):
        return self.total


def rows(seed):
    made = torch.Generator().manual_seed(seed)
    target = torch.arange(12) % 3
    return torch.randn(12, 3, generator=made).softmax(1), target


def collection():
    return MetricCollection([MulticlassAccuracy(3), MulticlassPrecision(3), MulticlassF1Score(3)])


class Collapse(NeuralCollapse):
    def __init__(self):
        super().__init__(num_classes=3, num_features=3)

    def update(self, logits, target):
        super().update(logits, target, logits)


KINDS = {
    "states": lambda: MulticlassAccuracy(3),
    "lists of rows": lambda: MulticlassAUROC(3),
    "a collection that shares states": collection,
    "minimum and maximum": lambda: MinMaxMetric(MulticlassAccuracy(3)),
    "a wrapper": lambda: ClasswiseWrapper(MulticlassAccuracy(3, average=None)),
    "a window": lambda: Running(MulticlassAccuracy(3), window=2),
    "attributes of its own": Odd,
    "our own metric": Collapse,
}


def contents(value):
    """All that a metric keeps, and which objects hold it, in values that can be compared."""
    if isinstance(value, torch.Tensor):
        return id(value), repr(value.tolist())  # NaN is equal to nothing
    if isinstance(value, dict):
        return id(value), {k: contents(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return id(value), [contents(v) for v in value]
    if isinstance(value, nn.Module):
        return id(value), contents(vars(value))
    return value if isinstance(value, int | float | str | bool | None) else id(value)


def compute(metric):
    return repr(metric.compute())


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore:.*is NaN|.*left out")
def test_what_a_metric_keeps_is_not_touched(name, fails):
    metric = KINDS[name]()
    metric.update(*rows(0))
    metric.update(*rows(1))
    expected = compute(metric)
    metric.update(*rows(2))
    before = contents(metric)
    try:
        with metrics_on_copies(nn.ModuleList([metric])):
            metric(*rows(3))
            metric.compute()
            metric.reset()
            metric.update(*rows(0))
            metric.update(*rows(1))
            inside = compute(metric)
            metric.update(*rows(4))
            assert contents(metric) != before
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert contents(metric) == before
    if "and" not in name:  # the minimum over all calls is another one
        assert inside == expected


def test_metrics_are_found_in_modules_lists_and_dictionaries():
    module = Nested()
    with metrics_on_copies(module):
        for metric in module.metrics:
            metric.update(*rows(0))
            assert metric.update_count == 1
    assert [metric.update_count for metric in module.metrics] == [0, 0, 0]


def test_a_tracker_that_grows_is_as_long_as_before():
    tracker = MetricTracker(MulticlassAccuracy(3))
    tracker.increment()
    tracker.update(*rows(0))
    before = tracker.compute_all().tolist()
    with metrics_on_copies(nn.ModuleDict({"tracker": tracker})):
        tracker.increment()
        tracker.update(*rows(1))
        assert len(tracker.compute_all()) == 2
    assert tracker.compute_all().tolist() == before
    assert len(tracker) == 2  # the base and one step


def test_a_state_with_a_gradient_is_kept_as_it_is():
    metric, other = CatMetric(), MeanMetric()
    value = torch.ones(3, requires_grad=True) * 2
    metric.update(value)
    other(value)
    with metrics_on_copies(nn.ModuleList([metric, other])):
        metric.update(torch.zeros(2))
        other(torch.zeros(2))
    assert metric.compute().tolist() == [2, 2, 2]
    assert float(other.compute()) == 2
