"""measure() on loaders of graphs, and what is said of graphs that do not fit."""

import re

import pytest
import torch
from support.graph_data import (
    CLASSES,
    LAYERS,
    POOLS,
    WIDTH,
    Data,
    GraphNetwork,
    averages_of,
    graph,
    graphs,
    loader,
    ordinary_of,
    said_by,
)
from torch import nn

from lightning_nc import measure

NONE = torch.zeros(2, 0, dtype=torch.int64)
NEAR = {"convs.*": "neighborhood_mean"}
OWN = {"convs.*": ["nodes", "neighborhood_mean"], "between:in": ["nodes", "neighborhood_mean"]}


def network(**settings):
    torch.manual_seed(0)
    return GraphNetwork(**settings).eval()


def measured(data, module=None, **settings):
    """Values by layer and key, and what is warned of."""
    settings = {"classifier": "head", "progress": False, **settings}
    found, told = said_by(lambda: measure(module or network(), data, **settings))
    return found.by_layer, told


def noted(module, data):
    with torch.no_grad():
        for batch in data:
            module.step("measure", batch)
    return module.noted["measure", 0]


def of_layers(values):
    """By layer and key, from keys with the stage."""
    found = {}
    for key, value in values.items():
        name, _, layer = key.partition("/measure")
        found.setdefault(layer.removeprefix("/"), {})[name] = value
    return found


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("takes", ["Data", "x and edges"])
def test_several_graphs(batch, takes, caplog):
    class Plain(GraphNetwork):
        def forward(self, x, edge_index):
            return self.run(x, edge_index)

    data, module = loader(graphs(4), batch), network()
    settings = {}
    if takes != "Data":
        plain = Plain()
        plain.load_state_dict(module.state_dict())
        module = plain
        settings["forward"] = lambda model, graph: model(graph.x, graph.edge_index)
    with caplog.at_level("INFO", "lightning_nc"):
        found, told = measured(data, module, layers=OWN, **settings)
    names = [*LAYERS, "between.in.nodes", "between.in.neighborhood_mean"]
    expected = of_layers(averages_of(noted(module, data), "measure", names))
    assert found.keys() == expected.keys()
    for layer, values in expected.items():
        assert found[layer] == pytest.approx(values, rel=1e-5, abs=1e-7), layer
    assert not told
    assert "The rows are the nodes of 4 graphs: graph/* are averages over graphs" in caplog.text


def test_one_graph():
    data, module = loader([graph()]), network()
    found, told = measured(data, module, layers=POOLS)
    rows = noted(module, data)
    assert not told
    assert found.keys() == {"", *LAYERS}
    for layer, values in found.items():
        path, _, pool = layer.rpartition(".")
        expected = ordinary_of(rows, path, near="neighborhood" in pool)
        own = {key: value for key, value in values.items() if not key.startswith("layer/")}
        assert own.keys() == expected.keys() if not layer else {"nc1/cdnv"} <= own.keys()
        assert own == pytest.approx({key: expected[key] for key in own}, rel=1e-5, abs=1e-8), layer


class Loose(GraphNetwork):
    """Runs on fixed edges, whatever those of the batch are."""

    def forward(self, batch):
        return self.run(batch.x, graph().edge_index)


class OfEdges(GraphNetwork):
    """With a layer that puts out edges."""

    def __init__(self):
        super().__init__()
        self.pairs = nn.Linear(WIDTH, CLASSES)

    def forward(self, batch):
        self.pairs(batch.x[batch.edge_index[0]])
        return super().forward(batch)


class OfGraphs(GraphNetwork):
    """Decides for each graph."""

    def forward(self, batch):
        h = self.features(batch.x, batch.edge_index)
        return self.head(h.view(batch.num_graphs, -1, h.shape[1]).mean(1))


def whole(*data):
    return torch.utils.data.DataLoader(data, batch_size=None)


def without(*nodes):
    """A graph in which some nodes have no neighbor."""
    one = graph()
    keep = ~torch.isin(one.edge_index[1], torch.tensor(nodes))
    return one.update({"edge_index": one.edge_index[:, keep]})


def with_strays(**more):
    one = graph(**more)
    strays = torch.tensor([[0, 41], [40, 3]])
    return one.update({"edge_index": torch.cat([one.edge_index, strays], 1)})


def numbers(count):
    """Row numbers as a mask, in each of some graphs."""
    return [graph(i, rows=torch.arange(count)) for i in range(3)]


SPARSE = {"x": graph().x, "y": graph().y, "adj_t": torch.eye(40).to_sparse()}
LABELED = [graph(i, y=torch.tensor([i % CLASSES])) for i in range(6)]

REFUSED = {
    "no edge_index": (
        whole(Data(x=graph().x, y=graph().y)), {"module": Loose},
        "for layer 'convs.0' with pool 'neighborhood_mean', an `edge_index` of whole numbers (2, E) as "
        "attribute, key or field, but got a Data without (or with more than one). Name what",
    ),
    "adj_t": (
        whole(Data(**SPARSE)), {"module": Loose}, "a Data with adj_t in its place (ToSparseTensor)",
    ),
    "edges beyond the nodes": (
        whole(with_strays()), {"module": Loose},
        "edges between the 40 nodes of the batch, but 2 of 229 go to or come from others: edge_index "
        "holds 0 to 41. Are nodes left out without their edges, or are several graphs put together",
    ),
    "mask of another length": (
        whole(graph(keep=torch.ones(39, dtype=torch.bool))), {"mask": "keep"},
        "a boolean mask of the labels' shape (40,), or the numbers of the rows that count, but got "
        "torch.bool of shape (39,)",
    ),
    "row numbers in several graphs": (
        loader(numbers(20), 3), {"mask": "rows"},
        "a boolean mask of the nodes of 3 graphs, but got 60 numbers. Whether they are numbers in "
        "the batch, or in each graph, which begin at 0, cannot be told. Store a boolean mask in each",
    ),
    "as many row numbers as nodes": (
        loader(numbers(40), 3), {"mask": "rows"},
        "a boolean mask of the nodes of 3 graphs, but got 120",
    ),
    "labels of neither nodes nor graphs": (
        loader([graph(i, y=torch.arange(17) % 3) for i in range(3)], 3), {},
        "a label for each of 120 nodes, or for each of 3 graphs, but got 51. Are they those of some "
        "nodes, or of edges?",
    ),
    "labels of neither, and no pool of graphs": (
        loader([graph(i, y=torch.arange(17) % 3) for i in range(3)], 3), {"layers": {}},
        "one label per feature, but got 120 features and labels of shape (51,).",
    ),
    "labels of graphs": (
        loader(LABELED, 3), {"module": OfGraphs},
        "labels of nodes with pool 'neighborhood_mean', but the batch has one for each graph. Leave",
    ),
    "a sample": (
        whole(graph(batch_size=20)), {},
        "whole neighborhoods for layer 'convs.0' with pool 'neighborhood_mean', but the batch is a "
        "sample around 20 nodes (batch_size), where neighbors are missing.",
    ),
    "batch without ptr": (
        whole(graph(batch=torch.zeros(40, dtype=torch.int64))), {"layers": {}},
        "a batch of graphs with `batch`, the graph of each node, and `ptr` (where each graph begins, "
        "and the end) or `num_graphs`, but got the first alone.",
    ),
    "a layer of edges": (
        whole(graph()), {"module": OfEdges, "layers": {"pairs": "nodes"}},
        "a row for each of 40 nodes from layer 'pairs' with pool 'nodes', but it has shape (227, 3). "
        "Does it put out edges, graphs or other nodes than the batch has",
    ),
    "features": (
        whole(graph()),
        {"layers": {}, "features": "between", "classifier": "head", "pool": "neighborhood_mean"},
        "pool to make rows of features='between', but 'neighborhood_mean' is for layers. Leave pool "
        "out, and measure layers={'between': ['neighborhood_mean']}.",
    ),
    "isolated nodes that no label stands for": (
        whole(without(0)), {"ignore_index": None},
        "an ignore_index with pool 'neighborhood_mean', for nodes without neighbors, but got None.",
    ),
    "no such pool": (
        whole(graph()), {"layers": {"convs.*": "neighbor_mean"}},
        "nodes, neighborhood_mean, graph_mean, or the dotted path of a function, but got "
        "'neighbor_mean'.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name):
    data, settings, text = REFUSED[name]
    settings = {"layers": NEAR, **settings}
    torch.manual_seed(0)
    module = settings.pop("module", GraphNetwork)().eval()
    with pytest.raises(ValueError, match=f"Expected .*{re.escape(text)}"):
        measure(module, data, **{"classifier": "head", "progress": False, **settings})


def test_row_numbers_of_a_single_graph_are_a_mask():
    found, _ = measured(whole(graph(rows=torch.arange(5, 30))), mask="rows")
    assert found[""]["nc0/num_samples"] == 25


def unlabeled(seed):
    return graph(seed).update({"y": graph(seed).y.index_fill(0, torch.tensor(3), -100)})


SAID = {
    "no edges": (
        whole(graph(edge_index=NONE)),
        "Layers 'convs.0', 'convs.1': 40 nodes have no neighbor, and so no mean over neighbors: they "
        "are left out there. Are edges listed in one direction alone?",
    ),
    "labels that are missing in some graphs": (
        loader([unlabeled(0), graph(1), unlabeled(2), graph(3)], 2),
        "Of 4 graphs with several classes, these rest on fewer: graph/condition_gap on 2. The others "
        "have no finite value of it, or labels or edges are missing.",
    ),
    "isolated nodes of one graph": (
        whole(without(0, 7)), "2 nodes have no neighbor, and so no mean over neighbors: they are left",
    ),
    "isolated nodes of several graphs": (
        loader([without(0, 7), without(1)], 2),
        "3 nodes have no neighbor, and so no mean over neighbors: they are left out there.",
    ),
    "edges beyond the nodes in a later batch": (
        whole(graph(), with_strays(seed=1)),
        "2 edges go to or come from nodes that are not in their batch: they "
        "count for no neighborhood. Are nodes left out without their edges?",
    ),
    "a graph without a class": (
        loader([graph(), graph(1, [0, 2]), graph(2)]),
        "1 of 3 graphs lack a class of 3: they are measured on the classes that they have.",
    ),
    "graphs of a single class": (
        loader([graph(), graph(1, [2]), graph(2), graph(3, [0])]),
        "2 of 4 graphs have nodes of fewer than two classes that count, and nothing to compare: they "
        "are left out of graph/*.",
    ),
    "a graph with NaN": (
        loader([graph(), graph(1), graph(2, x=torch.full((40, WIDTH), torch.nan))], 3),
        "1 of 3 graphs have no NC1 and are left out of its average: their features are NaN",
    ),
}  # fmt: skip


KEPT = {"a graph without a class": 3, "labels that are missing in some graphs": 4}
ONE = ("isolated nodes of one graph", "no edges")  # which has the ordinary keys


@pytest.mark.parametrize("name", SAID)
def test_what_is_left_out_is_said(name):
    data, text = SAID[name]
    module = network() if "beyond" not in name else Loose().eval()
    found, told = measured(data, module, layers=NEAR)
    assert any(text in each for each in told), told
    assert found[""].get("graph/num_graphs") == (None if name in ONE else KEPT.get(name, 2))


def test_values_of_graphs_that_lack_classes_are_the_oracles():
    data, module = loader([graph(), graph(1, [0, 2]), graph(2, [1]), graph(3)], 2), network()
    found, _ = measured(data, module, layers=POOLS)
    rows = noted(module, loader([graph(), graph(1, [0, 2]), graph(3)]))
    for layer, values in of_layers(averages_of(rows, "measure", LAYERS)).items():
        assert found[layer] == pytest.approx(values, rel=1e-5, abs=1e-7), layer


def test_where_no_graph_has_two_classes_edges_and_decisions_are_known_all_the_same():
    found, told = measured(loader([graph(0, [1]), graph(1, [2])]))
    assert found[""] == {"graph/num_graphs": 0}
    assert any("2 of 2 graphs have nodes of fewer than two classes" in text for text in told)
    assert not any("not known" in text for text in told)


@pytest.mark.parametrize("pattern", ["unused", "**"])
def test_layers_that_do_not_run_are_not_said_to_have_no_value(pattern):
    class Unused(GraphNetwork):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(2, 2)

    found, told = measured(loader(graphs(2)), Unused().eval(), layers=[pattern])
    assert "unused" not in found
    assert not any("no graph has" in text or "no NC1" in text for text in told)
    silent = [text for text in told if "Expected the layers 'unused' to run" in text]
    assert len(silent) == (pattern == "unused")
