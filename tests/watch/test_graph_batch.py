"""The graphs in a batch: whose nodes, whose labels, and which edges."""

from collections import UserDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from support.graph_data import NODES, Batch, Data, EdgeIndex, TemporalData, graph, graphs

from lightning_nc.tasks import Multiclass, Settings
from lightning_nc.watch.graph_batch import GraphBatch, find_graph
from lightning_nc.watch.labels import labels_of
from lightning_nc.watch.places import Places

ONE = graph()
X, EDGES, Y = ONE.x, ONE.edge_index, ONE.y
OF_NODE = torch.arange(NODES) // 20
Named = namedtuple("Named", ["features", "edge_index", "labels"])
WithInputs = namedtuple("WithInputs", ["x", "edge_index"])


class Slotted:
    """An object without a dictionary of its attributes."""

    __slots__ = ("edge_index", "x")

    def __init__(self):
        self.edge_index, self.x = EDGES, X


class Keyed(UserDict):
    """A mapping that gives no default, as older tensor dictionaries."""

    def get(self, key):
        return self[key]


OTHER = graph(1, nodes=30)
HOLDERS = {
    "Data": Data(X, EDGES),
    "dict": {"x": X, "edge_index": EDGES},
    "object": SimpleNamespace(x=X, edge_index=EDGES),
    "object with slots": Slotted(),
    "named tuple": WithInputs(X, EDGES),
    "mapping without defaults": Keyed({"x": X, "edge_index": EDGES}),
    "three levels deep": {"first": [(Data(X, EDGES), None)]},
    "the one with as many nodes as labels": {"first": OTHER, "second": Data(X, EDGES)},
    "images and positions": Data(x=X[:, :, None], pos=X, edge_index=EDGES),
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
    assert found.with_labels(NODES, asked=True).num_nodes == NODES
    assert not found.with_labels(NODES).has_labels  # what else than nodes it may be of, nobody asks


def test_edges_that_know_more_of_themselves_are_edges():
    edges = EdgeIndex(EDGES, sparse_size=(NODES, NODES))
    assert find_graph(Data(X, edges)).edge_index is edges
    assert find_graph(Data(X, EDGES.int())).edge_index.dtype == torch.int32


def test_inputs_of_more_dimensions_are_of_no_nodes():
    found = find_graph({"x": torch.zeros(25, 6, 25, 3), "edge_index": EDGES}, Y[:25])
    assert found.num_nodes is None
    assert not found.with_labels(25).has_labels


def test_the_number_of_nodes_is_not_told_by_the_edges():
    assert find_graph(Data(edge_index=torch.tensor([[0], [1]])), Y).num_nodes is None


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y), Data(X), {"x": X, "y": Y}, "edge_index", None, 3, EDGES, [Data(X, EDGES)] * 2,
        {"first": Data(X, EDGES), "second": Data(X, EDGES)}, {"a": OTHER, "b": OTHER},
        {"a": [({"b": Data(X, EDGES)},)]}, Data, (X, EDGES, Y),
        {"x": X, "edge_index": EDGES.expand(2, 2, -1)}, {"x": X, "edge_index": [EDGES]},
        Data(X, EDGES.T), Data(X, EDGES.float()), Data(X, EDGES > 3),
        Data(X, torch.eye(2).long().to_sparse()),
        TemporalData(src=Y, dst=Y, t=Y, y=Y),  # of which edge_index is derived
    ],
)  # fmt: skip
def test_where_there_is_no_graph_or_more_than_one_place_has_one_none_is_found(batch):
    assert find_graph(batch, Y) is None


# Plain sequences


@pytest.mark.parametrize("batch", [(X, EDGES, Y), [X, Y, EDGES], (Y, EDGES, X, ONE.is_new)])
def test_edges_of_a_plain_sequence_are_its_whole_numbers_of_two_rows(batch):
    found = find_graph(batch, Y, asked=True)
    assert found.edge_index is EDGES
    assert (found.num_graphs, found.num_nodes) == (1, NODES)
    assert find_graph(batch, Y) is None


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
    assert find_graph(batch, labels, asked=True) is None


def test_a_plain_sequence_that_may_hold_several_graphs_is_refused():
    text = (
        r"which graph each node is, but the batch, a tuple with edges, holds further whole numbers for "
        r"each of 40 nodes\. Give it as a torch_geometric Data or Batch, a dict or a named tuple"
    )
    with pytest.raises(ValueError, match=text):
        find_graph((X, EDGES, Y, OF_NODE), Y, asked=True)
    assert find_graph((X, EDGES, Y, OF_NODE), Y) is None


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


def test_where_graphs_begin_tells_the_graph_of_each_node():
    batch = Batch.from_data_list(graphs(3))
    found = find_graph({"x": batch.x, "edge_index": batch.edge_index, "ptr": batch.ptr})
    assert (found.num_graphs, found.num_nodes) == (3, 117)
    assert torch.equal(found.of_node, batch.batch)


def test_sizes_are_told_by_nodes_side_by_side_and_not_by_where_graphs_once_began():
    batch = Batch.from_data_list(graphs(3))
    batch = batch.subgraph(batch.batch != 1)
    assert batch.ptr.tolist() == [0, 40, 79, 117]
    assert find_graph(batch).sizes(78) == (40, 0, 38)
    ends_empty = GraphBatch(EDGES, 4, torch.tensor([0, 0, 2]), num_nodes=3)
    assert ends_empty.sizes(3) == (2, 0, 1, 0)
    assert GraphBatch(EDGES, 2, torch.tensor([0, 1, 0]), num_nodes=3).sizes(3) is None
    assert GraphBatch(EDGES).sizes(7) == (7,)
    assert GraphBatch(EDGES, 2, torch.zeros(3, dtype=torch.int64, device="meta")).sizes(3) is None


# Labels


@pytest.mark.parametrize(
    ("known", "labels", "asked", "are_of_nodes"),
    [
        ((1, 40, None), 40, False, True),
        ((1, 40, None), 1, False, False),
        ((1, None, None), 17, True, True),  # that number is what is known of the nodes
        ((1, None, None), 17, False, False),
        ((3, 40, None), 40, False, True),
        ((3, 40, None), 3, False, False),
        ((3, 40, None), 3, True, False),
        ((3, 40, None), 227, False, False),  # edges
        ((1, 40, 15), 40, False, True),
        ((1, 40, 15), 15, False, True),
        ((3, 3, None), 3, False, False),  # each node is a graph
        ((3, 3, None), 3, True, True),
        ((1, 1, None), 1, False, False),
        ((1, 1, None), 1, True, True),
        ((1, 40, None), 25, True, True),  # a mistake that is told by the rows
        ((1, 40, None), 25, False, False),  # seeds, edges or whatever
    ],
)
def test_labels_of_nodes_and_of_graphs_are_told_by_their_number(known, labels, asked, are_of_nodes):
    count, nodes, seeds = known
    found = GraphBatch(EDGES, count, num_nodes=nodes, num_seeds=seeds)
    found = found.with_labels(labels, asked=asked)
    assert found.has_labels == are_of_nodes
    assert found.num_nodes == (labels if nodes is None and asked else nodes)
    assert found.num_graphs == count


@pytest.mark.parametrize("apart", [True, False])
def test_labels_of_neither_are_refused_where_a_pool_of_graphs_is_asked_for(apart):
    several = GraphBatch(EDGES, 3, OF_NODE, num_nodes=NODES)
    text = (
        r"a label for each of 40 nodes, or for each of 3 graphs, but got 227\. Are they those of some"
    )
    with pytest.raises(ValueError, match=text):
        several.with_labels(227, apart, asked=True)


def test_where_graphs_begin_has_to_be_known_where_it_matters_and_labels_are_of_nodes():
    batch = Batch.from_data_list(graphs(2))
    found = find_graph({"x": batch.x, "edge_index": batch.edge_index, "batch": batch.batch})
    assert (found.num_graphs, found.num_nodes) == (None, 79)
    text = r"`batch`, the graph of each node, and `ptr` .* or `num_graphs`, but got the first alone"
    for apart, asked in ((True, False), (False, True), (True, True)):
        with pytest.raises(ValueError, match=text):
            found.with_labels(79, apart, asked)
        told = found.with_labels(2, apart, asked)
        assert (told.num_graphs, told.has_labels) == (2, False)
    assert found.with_labels(79, apart=False).has_labels is False  # pooled anyway


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
    text = (
        f"nodes of 3 graphs, but got {3 * count} numbers. Whether they are .* cannot be told. Store a"
    )
    for layers in ({"convs.*": "nodes"}, []):
        with pytest.raises(ValueError, match=text):
            found_in(batch, mask="rows", layers=layers)


def test_row_numbers_of_graphs_and_of_edges_are_a_mask():
    of_graphs = Batch.from_data_list([graph(i, y=torch.tensor([i])) for i in range(3)])
    rows = {"mask": lambda _: torch.tensor([0, 2])}
    assert found_in(of_graphs, **rows).labels.tolist() == [0, -100, 2]
    of_edges = Batch.from_data_list(graphs(2))
    of_edges.y = of_edges.edge_index[0] % 3
    labels = found_in(of_edges, layers=[], **rows).labels
    assert (labels != -100).nonzero().flatten().tolist() == [0, 2]


def test_edges_are_looked_at_once_and_where_a_pool_of_graphs_is_asked_for():
    bare = graph(edge_index=EDGES[:, :0])
    stray = graph(edge_index=torch.tensor([[0, -1], [40, 3]]))
    text = r"2 of 2 go to or come from others: edge_index holds -1 to 40"
    with pytest.raises(ValueError, match=text):
        found_in(stray)
    assert found_in(bare).graph.neighborhoods.has_neighbors.sum() == 0
    for batch, more in ((bare, {"layers": []}), (stray, {"layers": []}), (stray, {"looks": False})):
        assert found_in(batch, **more).graph.has_labels


def test_of_labels_of_graphs_the_edges_are_not_looked_at():
    batch = Batch.from_data_list([graph(i, y=torch.tensor([i])) for i in range(3)])
    batch.edge_index = batch.edge_index[:, :0]
    found = found_in(batch)
    assert not found.graph.has_labels
    assert found.labels.tolist() == [0, 1, 2]
