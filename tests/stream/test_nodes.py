"""Batches of graphs: what they have in common, their edges, and how they are put together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_nc.functional.graph import condition_gaps, overlaps, values_of_features
from lightning_nc.stream.graph_totals import Formulas, GraphTotals
from lightning_nc.stream.nodes import Nodes, Together, known_edges
from lightning_nc.tasks.multiclass import Multiclass
from lightning_nc.watch.graph_batch import GraphBatch
from lightning_nc.watch.node_record import NodeRecord


def nodes(sizes=(3, 2), seed=0, **more):
    """A batch of graphs of these sizes; one edge comes from nowhere, and one goes there."""
    draw, n = torch.Generator().manual_seed(seed), sum(sizes)
    h, w = (torch.randn(rows, 4, generator=draw) for rows in (n, 3))
    edges = torch.randint(n, (2, 9), generator=draw)
    edges[0, 2] = edges[1, 5] = -1
    y, decided = (torch.randint(3, (n,), generator=draw) for _ in range(2))
    of_row = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    known = {"edges": edges, "predicted": decided, "weights": {"a": w}, "sizes": sizes}
    return replace(Nodes(y, {"a": h, "b": h[:, :2]}, {"c": h}, len(sizes), of_row), **{**known, **more})


def test_a_tensor_of_two_modules_is_one():
    batch = nodes()
    h, narrow = batch.rows["a"], batch.rows["b"]
    assert [id(each) for each in batch.tensors] == [id(h), id(narrow)]
    other = replace(batch, near={"c": h.clone()})
    assert [id(each) for each in other.tensors] == [id(h), id(narrow), id(other.near["c"])]
    assert replace(batch, rows={}, near={}).tensors == []


ALIKE = {
    "other values": lambda b: nodes(seed=1),
    "other sizes": lambda b: nodes((1, 4, 2)),
    "decisions of another dtype": lambda b: replace(b, predicted=b.predicted.int()),
    "edges of another dtype": lambda b: replace(b, edges=b.edges.int()),
    "no edge": lambda b: replace(b, edges=b.edges[:, :0]),
    "another W": lambda b: replace(b, weights={"a": torch.zeros(7, 4)}),
}
OTHERS = {
    "edges not known": lambda b: replace(b, edges=None),
    "decisions not known": lambda b: replace(b, predicted=None),
    "sizes not known": lambda b: replace(b, sizes=None),
    "labels of another dtype": lambda b: replace(b, target=b.target.float()),
    "W not known": lambda b: replace(b, weights={}),
    "W of another module": lambda b: replace(b, weights={"c": b.weights["a"]}),
    "a module less": lambda b: replace(b, rows={"a": b.rows["a"]}),
    "modules of another name": lambda b: replace(b, near={"d": b.near["c"]}),
    "modules in another order": lambda b: replace(b, rows=dict(reversed(b.rows.items()))),
    "rows of another width": lambda b: replace(b, near={"c": b.near["c"][:, :3]}),
    "rows of another dtype": lambda b: replace(b, rows={**b.rows, "b": b.rows["b"].double()}),
    "the other way round": lambda b: replace(b, rows={"a": b.rows["a"]}, near={"b": b.rows["b"]}),
}


@pytest.mark.parametrize("change", [*ALIKE, *OTHERS])
def test_which_batches_are_of_a_kind(change):
    batch = nodes()
    other = {**ALIKE, **OTHERS}[change](batch)
    assert (other.kind == batch.kind) is (change in ALIKE)
    assert other.kind == replace(other).kind


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_edges_between_nodes_that_are_there_stay_in_memory_of_their_own(dtype):
    edges = torch.tensor([[0, 4, 2, 2], [4, 0, 2, 2]], dtype=dtype)
    found = known_edges(edges, num_nodes=5)
    assert torch.equal(found, edges)
    assert found.data_ptr() != edges.data_ptr()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("stray", [[0, 5], [5, 0], [-1, 2], [2, -1], [-7, -7], [10**6, 10**6], [5, -1]])
def test_edges_that_go_elsewhere_are_negative(stray, dtype):
    good = [[0, 4], [4, 0], [3, 3]]
    edges = torch.tensor([good[0], stray, *good[1:]], dtype=dtype).T
    before = edges.clone()
    found = known_edges(edges, num_nodes=5)
    assert found.T.tolist() == [good[0], [-1, -1], *good[1:]]
    assert found.dtype == dtype
    assert torch.equal(edges, before)


def test_no_edges_and_no_nodes():
    none = torch.zeros(2, 0, dtype=torch.int64)
    assert known_edges(none, num_nodes=3).shape == known_edges(none, num_nodes=0).shape == (2, 0)
    assert known_edges(none.new_zeros(2, 1), num_nodes=0).tolist() == [[-1], [-1]]


def joined(batches):
    """The nodes of all batches one after another, edge by edge and row by row."""
    y, decided, of_row, edges, start, graph = [], [], [], [], 0, 0
    for b in batches:
        y += b.target.tolist()
        decided += b.predicted.tolist()
        of_row += [graph + g for g in b.of_row.tolist()]
        edges += [[-1 if i < 0 else start + i for i in edge] for edge in b.edges.T.tolist()]
        start, graph = start + len(b.target), graph + b.graphs
    return y, decided, of_row, edges


BATCHES = {
    "one": [nodes()],
    "some": [nodes(), nodes((4,), 1), nodes((1, 1, 6), 2)],
    "a graph without nodes": [nodes((2, 0), 1), nodes((0, 3), 2)],
    "half the width of edges": [replace(b, edges=b.edges.int()) for b in (nodes(), nodes(seed=1))],
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_together(name):
    batches = BATCHES[name]
    before = [b.edges.clone() for b in batches]
    together = Together.of(batches)
    whole, lengths = together.nodes, [len(b.target) for b in batches]
    y, decided, of_row, edges = joined(batches)
    assert (whole.target.tolist(), whole.predicted.tolist()) == (y, decided)
    assert (whole.of_row.tolist(), whole.edges.T.tolist()) == (of_row, edges)
    assert whole.graphs == sum(b.graphs for b in batches)
    assert whole.sizes == tuple(n for b in batches for n in b.sizes)
    assert np.bincount(of_row, minlength=whole.graphs).tolist() == list(whole.sizes)
    stops, graphs = np.cumsum(lengths), np.cumsum([b.graphs for b in batches])
    assert together.rows_of == [slice(e - n, e) for e, n in zip(stops, lengths, strict=True)]
    assert [at.stop for at in together.graphs_of] == graphs.tolist()
    assert [at.start for at in together.graphs_of] == [0, *graphs[:-1].tolist()]
    assert list(together.batches) == batches
    assert all(torch.equal(b.edges, edges) for b, edges in zip(batches, before, strict=True))
    assert list(whole.weights) == ["a"]


def test_what_batches_do_not_know_is_not_known_of_all():
    blank = {"edges": None, "predicted": None, "sizes": None, "weights": {}}
    whole = Together.of([replace(b, **blank) for b in (nodes(), nodes((1, 2), 1))]).nodes
    assert (whole.edges, whole.predicted, whole.sizes, whole.weights) == (None, None, None, {})
    assert whole.of_row.tolist() == [0, 0, 0, 1, 1, 2, 3, 3]


def recorded(after):
    """The sums of two batches, of each of which something is done after it was added."""
    labels, formulas = (
        Multiclass().of(num_classes=3),
        Formulas(values_of_features, overlaps, condition_gaps),
    )
    record = NodeRecord(frozenset({"c"}), ignored=-100)
    for seed in range(2):
        b = nodes((20, 12), seed)
        edges = torch.randint(32, (2, 300), generator=torch.Generator().manual_seed(seed))
        target, of_node, weights = b.target[:, None].clone(), b.of_row.clone(), {"a": b.weights["a"]}
        # layers are copied when they are read
        parts = {"a": b.rows["a"], "b": b.rows["b"].clone(), "c": b.near["c"].clone()}
        batch = GraphBatch(edges, 2, of_node, num_nodes=32, has_labels=True)
        record.add(
            batch, target, parts, b.predicted, weights,
            lambda: GraphTotals(3, ("a", "b", "c"), labels, formulas),
        )  # fmt: skip
        assert len(record.totals._waiting) == seed + 1
        after({
            "target": target, "weights": weights["a"], "edges": edges, "of_node": of_node,
            "features": b.rows["a"],
        })  # fmt: skip
    return [each.clone() for each in record.totals.sums()]


@pytest.mark.parametrize("name", ["target", "weights", "edges", "of_node", "features"])
def test_what_waits_is_not_what_others_go_on_with(name):
    """Loaders use their memory again, and steps are taken in place; features may be parameters."""
    expected = recorded(lambda tensors: None)
    assert expected[0][:, :3, 0].any(0).all()
    assert expected[0][0, 3:, 0].tolist() == [4, 4]
    found = recorded(lambda tensors: tensors[name].zero_())
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
