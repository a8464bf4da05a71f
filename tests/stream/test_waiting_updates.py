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
from lightning_nc.functional.graph import condition_gaps, overlaps, values_of_features
from lightning_nc.stream import graph_totals
from lightning_nc.stream.class_moments import ClassMoments
from lightning_nc.stream.graph_totals import Formulas, GraphTotals
from lightning_nc.stream.node_moments import Places
from lightning_nc.stream.nodes import Nodes, known_edges
from lightning_nc.tasks.multiclass import Multiclass
from lightning_nc.values.neighborhoods import Neighborhoods

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


def graph_totals_of(device="cpu"):
    formulas = Formulas(values_of_features, overlaps, condition_gaps)
    labels = Multiclass().of(num_classes=3)
    return GraphTotals(3, ("a", "b", "c", "d"), labels, formulas, min_count=2, device=device)


GRAPHS = {"one graph": (13,), "several graphs": (8, 5), "several of unknown sizes": None}


def some_nodes(graphs, device="cpu"):
    """Of modules with all kinds of features."""
    h, sizes = torch.randn(13, 8, device=device), GRAPHS[graphs]
    y, edges = torch.randint(-1, 4, (13,), device=device), torch.randint(-1, 14, (2, 40), device=device)
    count = 1 if graphs == "one graph" else 2
    of_row = (torch.arange(13, device=device) >= 8).long() * (count - 1)
    return Nodes(
        y, {"a": h, "b": h[:, :5].bfloat16()}, {"c": h, "d": h.double()}, count, of_row,
        torch.where(Neighborhoods(edges, 13).inside, edges, -1), y,
        {"a": torch.randn(3, 8, device=device)}, sizes,
    )  # fmt: skip


def add_two(totals, graphs):
    """A single graph would wait."""
    for _ in range(2):
        totals.add(some_nodes(graphs))


@pytest.fixture
def like_a_device(monkeypatch):
    """Where it would have to be waited for, it is not asked whether all rows count."""
    monkeypatch.setattr(Places, "are_all_valid", False)


@pytest.fixture
def two_at_once(monkeypatch):
    """Of batches of 13 rows of three widths, one waits for another."""
    entries = graph_totals._PIECES * 13 * (8 + 5 + 8)
    monkeypatch.setattr(graph_totals, "entries_at_once", lambda device: entries)


@fake
@pytest.mark.usefixtures("like_a_device", "two_at_once")
@pytest.mark.parametrize("graphs", GRAPHS)
def test_graphs_are_added_without_knowing_any_value(graphs):
    with FakeTensorMode():
        totals = graph_totals_of()
        for _ in range(3):
            totals.add(some_nodes(graphs))
        assert len(totals._waiting) == 1
        assert {name for names in totals._moments for name in names} == {*"abcd"}
        totals.reset()
        totals.add(some_nodes(graphs))


@fake
@pytest.mark.usefixtures("like_a_device")
@pytest.mark.parametrize("how", WAITING_UPDATES)
@pytest.mark.parametrize("graphs", GRAPHS)
def test_graphs_whose_values_are_waited_for_would_be_seen(graphs, how, monkeypatch):
    monkeypatch.setattr(graph_totals, "entries_at_once", lambda device: 0)
    honest = graph_totals.node_moments

    def waits(together, around):
        WAITING_UPDATES[how](together.batches[0].rows["a"], around.places.label)
        return honest(together, around)

    monkeypatch.setattr(graph_totals, "node_moments", waits)
    with FakeTensorMode():
        totals = graph_totals_of()
        with pytest.raises(Exception, match=r"aten\.(_local_scalar_dense|nonzero|index|_unique)"):
            add_two(totals, graphs)


@fake
def test_edges_on_a_device_are_not_looked_at():
    with FakeTensorMode():
        edges = torch.empty(2, 40, dtype=torch.int64, device="cuda")
        assert known_edges(edges, num_nodes=13).shape == (2, 40)
        with pytest.raises(Exception, match=r"aten\._local_scalar_dense"):
            known_edges(torch.empty(2, 40, dtype=torch.int64), num_nodes=13)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("two_at_once")
@pytest.mark.parametrize("graphs", GRAPHS)
def test_graphs_on_a_gpu_are_not_waited_for(graphs):
    totals = graph_totals_of("cuda")
    batches = [some_nodes(graphs, device="cuda") for _ in range(6)]
    for batch in batches[:2]:  # loads the libraries
        totals.add(batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[2:]:
            totals.add(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(totals._waiting) == 0
    assert totals.num_graphs == 6 * batches[0].graphs
    here = graph_totals_of()
    for batch in batches:
        here.add(on_the_host(batch))
    for one, other in zip(totals.sums(), here.sums(), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-6, atol=1e-6)


def on_the_host(nodes):
    def moved(part):
        return {name: each.cpu() for name, each in part.items()}

    return Nodes(
        nodes.target.cpu(), moved(nodes.rows), moved(nodes.near), nodes.graphs, nodes.of_row.cpu(),
        nodes.edges.cpu(), nodes.predicted.cpu(), moved(nodes.weights), nodes.sizes,
    )  # fmt: skip
