"""The graphs in a batch: whose nodes, whose labels, and which edges."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from support.graph_data import NODES, Batch, Data, graph, graphs

from lightning_nc.tasks import Multiclass, Settings
from lightning_nc.watch.graph_batch import GraphBatch, find_graph
from lightning_nc.watch.labels import labels_of
from lightning_nc.watch.places import Places

ONE = graph()
X, EDGES, Y = ONE.x, ONE.edge_index, ONE.y
OF_NODE = torch.arange(NODES) // 20
Named = namedtuple("Named", ["features", "edge_index", "labels"])


class Slotted:
    """An object without a dictionary of its attributes."""

    __slots__ = ("edge_index", "x")

    def __init__(self):
        self.edge_index, self.x = EDGES, X


HOLDERS = {
    "Data": Data(X, EDGES),
    "dict": {"x": X, "edge_index": EDGES},
    "object": SimpleNamespace(x=X, edge_index=EDGES),
    "object with slots": Slotted(),
    "dict of a Data": {"graph": Data(X, EDGES), "y": Y},
    "tuple of a Data": (Data(X, EDGES), Y),
    "list of a dict": [Y, {"x": X, "edge_index": EDGES}],
    "positions alone": Data(pos=X, edge_index=EDGES),
    "a number alone": Data(edge_index=EDGES, num_nodes=NODES),
    "a dict with a number": {"edge_index": EDGES, "num_nodes": NODES},
}


@pytest.mark.parametrize("name", HOLDERS)
def test_one_graph_is_found(name):
    found = find_graph(HOLDERS[name], Y)
    assert found.edge_index is EDGES
    assert (found.num_graphs, found.num_nodes, found.of_node) == (1, NODES, None)
    assert found.with_labels(NODES).has_labels


def test_a_named_tuple_tells_its_edges_and_its_labels_tell_the_number_of_nodes():
    found = find_graph(Named(X, EDGES, Y), Y)
    assert found.edge_index is EDGES
    assert found.num_nodes is None
    assert found.with_labels(NODES).num_nodes == NODES


def test_the_number_of_nodes_is_not_told_by_the_edges():
    assert find_graph(Data(edge_index=torch.tensor([[0], [1]])), Y).num_nodes is None


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y), Data(X), {"x": X, "y": Y}, "edge_index", None, 3, EDGES, [Data(X, EDGES)] * 2,
        {"first": Data(X, EDGES), "second": Data(X, EDGES)},
    ],
)  # fmt: skip
def test_where_there_is_no_graph_or_more_than_one_place_has_one_none_is_found(batch):
    assert find_graph(batch, Y) is None


# Plain sequences


@pytest.mark.parametrize("batch", [(X, EDGES, Y), [X, Y, EDGES], (Y, EDGES, X, ONE.is_new)])
def test_edges_of_a_plain_sequence_are_its_whole_numbers_of_two_rows(batch):
    found = find_graph(batch, Y)
    assert found.edge_index is EDGES
    assert (found.num_graphs, found.num_nodes) == (1, NODES)


@pytest.mark.parametrize(
    ("batch", "labels"),
    [
        ((X[:39], EDGES, Y), Y),  # no features of the nodes
        ((X, EDGES.float(), Y), Y),
        ((X, EDGES > 3, Y), Y),
        ((X, EDGES.T, Y), Y),
        ((X, EDGES, EDGES, Y), Y),  # which of them?
        ((X[:2], EDGES, Y[:2]), Y[:2]),  # two rows of token ids
        ((X, EDGES, Y[:, None]), Y[:, None]),
    ],
)
def test_a_plain_sequence_without_certain_edges_has_no_graph(batch, labels):
    assert find_graph(batch, labels) is None


def test_a_plain_sequence_that_may_hold_several_graphs_is_refused():
    text = (
        r"which graph each node is, but the batch, a tuple with edges, holds further whole numbers for "
        r"each of 40 nodes\. Give it as a torch_geometric Data or Batch, a dict or a named tuple"
    )
    with pytest.raises(ValueError, match=text):
        find_graph((X, EDGES, Y, OF_NODE), Y)


# Several graphs


@pytest.mark.parametrize("kind", ["Batch", "dict", "num_graphs alone"])
def test_several_graphs_are_told_apart(kind):
    batch = Batch.from_data_list(graphs(3))
    if kind == "dict":
        batch = {name: batch[name] for name in ("x", "edge_index", "batch", "ptr")}
    elif kind != "Batch":
        batch = SimpleNamespace(x=batch.x, edge_index=batch.edge_index, batch=batch.batch, num_graphs=3)
    found = find_graph(batch)
    of_node = batch["batch"] if kind == "dict" else batch.batch
    assert found.num_graphs == 3
    assert found.num_nodes == 40 + 39 + 38
    assert torch.equal(found.of_node, of_node)


def test_a_batch_of_one_graph_is_a_graph():
    found = find_graph(Batch.from_data_list([ONE]))
    assert (found.num_graphs, found.num_nodes, found.of_node) == (1, NODES, None)


@pytest.mark.parametrize("name", ["batch", "ptr"])
def test_half_of_what_tells_graphs_apart_is_refused(name):
    batch = Batch.from_data_list(graphs(2))
    half = {"x": batch.x, "edge_index": batch.edge_index, name: batch[name]}
    text = r"`batch`, the graph of each node, and `ptr` .* or `num_graphs`, but got only one of them"
    with pytest.raises(ValueError, match=text):
        find_graph(half)


# Labels


@pytest.mark.parametrize(
    ("graphs_nodes_seeds", "labels", "are_of_nodes"),
    [
        ((1, 40, None), 40, True),
        ((1, 40, None), 1, False),
        ((1, None, None), 17, True),  # that number is what is known of the nodes
        ((3, 40, None), 40, True),
        ((3, 40, None), 3, False),
        ((1, 40, 15), 40, True),
        ((1, 40, 15), 15, True),
        ((3, 3, None), 3, False),  # each node is a graph
        ((1, 40, None), 25, True),  # a mistake that is told by the rows
    ],
)
def test_labels_of_nodes_and_of_graphs_are_told_by_their_number(
    graphs_nodes_seeds, labels, are_of_nodes
):
    count, nodes, seeds = graphs_nodes_seeds
    found = GraphBatch(EDGES, count, num_nodes=nodes, num_seeds=seeds).with_labels(labels)
    assert found.has_labels == are_of_nodes
    assert found.num_nodes == (labels if nodes is None else nodes)


def test_labels_of_neither_are_refused_where_it_matters_which_graph_they_are_of():
    several = GraphBatch(EDGES, 3, OF_NODE, num_nodes=NODES)
    text = (
        r"a label for each of 40 nodes, or for each of 3 graphs, but got 227\. Are they those of some"
    )
    with pytest.raises(ValueError, match=text):
        several.with_labels(227)
    assert several.with_labels(227, tells_graphs_apart=False).num_graphs == 3


# What labels_of makes of them


def found_in(batch, ignored=-100, looks=True, **places):
    places = Places(**{"layers": {"convs.*": "neighborhood_mean"}, **places})
    return labels_of(batch, places, "val", Multiclass(Settings(ignore_index=ignored)), looks)


def test_of_a_sample_the_labels_of_other_nodes_say_nothing():
    found = found_in(graph(batch_size=15))
    assert found.graph.num_seeds == 15
    assert torch.equal(found.labels[:15], Y[:15])
    assert set(found.labels[15:].tolist()) == {-100}
    assert torch.equal(found_in(graph(batch_size=15, y=Y[:15])).labels, Y[:15])


@pytest.mark.parametrize("size", [None, "15", torch.tensor(15), 41])
def test_what_is_no_number_of_seeds_is_none(size):
    assert found_in(graph(batch_size=size)).graph.num_seeds is None


def test_labels_in_a_column_are_those_of_nodes():
    column = found_in(graph(y=Y[:, None]))
    assert column.graph.has_labels
    assert column.labels.shape == (NODES, 1)


def test_row_numbers_name_the_nodes_of_one_graph():
    found = found_in(graph(rows=torch.tensor([3, 5])), mask="rows")
    assert (found.labels != -100).nonzero().flatten().tolist() == [3, 5]


def test_a_boolean_mask_names_nodes_of_several():
    batch = Batch.from_data_list(graphs(3))
    labels = found_in(batch, mask="is_new").labels
    assert torch.equal(labels != -100, batch.is_new)


@pytest.mark.parametrize("count", [5, 39])
def test_row_numbers_in_several_graphs_are_refused(count):
    batch = Batch.from_data_list([graph(i, rows=torch.arange(count)) for i in range(3)])
    with pytest.raises(ValueError, match=f"nodes of 3 graphs, but got {3 * count} numbers. Those of"):
        found_in(batch, mask="rows")


def test_edges_are_looked_at_once_and_are_needed_by_means_over_neighbors_alone():
    bare = graph(edge_index=EDGES[:, :0])
    stray = graph(edge_index=torch.tensor([[0, -1], [40, 3]]))
    with pytest.raises(ValueError, match="a graph with edges, but its edge_index is empty"):
        found_in(bare)
    with pytest.raises(
        ValueError, match=r"2 of 2 go to or come from others: edge_index holds -1 to 40"
    ):
        found_in(stray, layers=[])
    for batch, more in ((bare, {"layers": []}), (bare, {"looks": False}), (stray, {"looks": False})):
        assert found_in(batch, **more).graph.has_labels


def test_of_labels_of_graphs_the_edges_are_not_looked_at():
    batch = Batch.from_data_list([graph(i, y=torch.tensor([i])) for i in range(3)])
    batch.edge_index = batch.edge_index[:, :0]
    found = found_in(batch)
    assert not found.graph.has_labels
    assert found.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("layers", "pool", "expected"),
    [
        ([], "auto", False), (["a"], "auto", False), (["a"], "neighborhood_mean", True),
        ({"a": "neighborhood_mean"}, "auto", True), ({"a": "nodes"}, "auto", False),
        ({"a": "auto", "b": ["nodes", "neighborhood_mean"]}, "auto", True),
    ],
)  # fmt: skip
def test_whether_means_over_neighbors_are_asked_for(layers, pool, expected):
    assert Places(layers=layers, pool=pool).averages_neighbors == expected
