"""Updates run without knowing any value."""

import pytest
import torch
from support.metrics import blank
from support.problems import assert_measures, problem
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_nc import (
    LinearClassifier,
    NeuralCollapse,
)
from lightning_nc.stream.class_moments import ClassMoments

pytestmark = pytest.mark.usefixtures("small_backlog")


WITHOUT_WAITING = {
    "pooled": {},
    "per class": {"covariance": "per_class"},
    "traces": {"covariance": "none"},
    "a sample that overflows": {"sample_rows": 50},
    "no ignored label": {"ignore_index": None},
}


fake = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


@fake
@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        *[(name, torch.float32) for name in WITHOUT_WAITING],
        ("pooled", torch.bfloat16),
        ("pooled", torch.float64),
    ],
)
@pytest.mark.parametrize("width", [8, 100])
def test_updates_run_without_knowing_any_value(settings, dtype, width):
    with FakeTensorMode():
        metric = NeuralCollapse(5, width, **WITHOUT_WAITING[settings])
        head = nn.Linear(width, 5, dtype=dtype)
        for _ in range(20):
            h, y = torch.randn(13, width, dtype=dtype), torch.randint(5, (13,))
            metric.update(h, y, head(h), LinearClassifier(head.weight, head.bias))
        metric.reset()
        metric.update(h, y, head(h))


WAITING_UPDATES = {
    "item": lambda h, y: h.sum().item(),
    "bool": lambda h, y: bool((y > 0).all()),
    "mask": lambda h, y: h[y > 0],
    "unique": lambda h, y: y.unique(),
}


@fake
@pytest.mark.parametrize("how", WAITING_UPDATES)
def test_an_update_that_waits_for_a_value_would_be_seen(how, monkeypatch):
    honest = ClassMoments.add

    def waiting(self, features, label, valid, rows_before):
        WAITING_UPDATES[how](features, label)
        return honest(self, features, label, valid, rows_before)

    monkeypatch.setattr(ClassMoments, "add", waiting)
    with FakeTensorMode():
        metric = NeuralCollapse(5, 8)
        with pytest.raises(Exception, match=r"aten\.(_local_scalar_dense|nonzero|index|_unique)"):
            metric.update(torch.randn(60, 8), torch.randint(5, (60,)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("settings", WITHOUT_WAITING)
def test_updates_on_a_gpu_do_not_wait_for_it(settings):
    given = problem("random")
    metric = blank(given, **WITHOUT_WAITING[settings]).to("cuda")
    classifier = LinearClassifier(given.weight.cuda(), given.bias.cuda())
    batches = [[t.cuda() for t in batch] for batch in given.batches((30,))]
    metric.update(*batches[0], classifier)  # loads the libraries
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:]:
            metric.update(*batch, classifier)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    if "sample_rows" not in WITHOUT_WAITING[settings] and settings != "traces":
        assert_measures(metric.compute(), given.reference)
