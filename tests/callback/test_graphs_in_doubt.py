"""Batches that may or may not be graphs, and graphs that are not as they usually are, in a Trainer."""

import math

import pytest
import torch
from support.graph_data import (
    CLASSES,
    LAYERS,
    NARROW,
    NODES,
    PLAIN,
    POOLS,
    WIDTH,
    Batch,
    GraphNetwork,
    OfRows,
    averages_of,
    close,
    fit,
    graph,
    graphs,
    loader,
    of_stage,
    require_ordinary,
    said_by,
)
from support.oracles import reference_measures
from support.problems import of_default
from torch import nn

from lightning_nc import NeuralCollapseCallback
from lightning_nc.watch.places import Places

STAGE = "train_online"


def batches(*data):
    return torch.utils.data.DataLoader(data, batch_size=None)


# Ordinary rows beside edges


@pytest.mark.parametrize("kind", PLAIN)
def test_rows_that_are_no_nodes_have_the_ordinary_keys(kind):
    batch, rows, labels, target = PLAIN[kind]
    torch.manual_seed(0)
    module = OfRows(rows, labels)
    run = fit(module, [NeuralCollapseCallback(target=target)], batches(batch))
    h, y, predicted, weight, bias = module.noted
    expected = reference_measures(h, y, CLASSES, predicted=predicted, weight=weight, bias=bias)
    close(of_stage(run.callback_metrics, STAGE), of_default(expected))


@pytest.mark.parametrize(
    ("layers", "pool", "expected"),
    [
        ([], "auto", False), (["a"], "auto", False), (["a"], "neighborhood_mean", True),
        (["a"], "graph_mean", True), ({"a": "neighborhood_mean"}, "auto", True),
        ({"a": "nodes"}, "auto", True), ({"a": ["auto", "first"]}, "auto", False),
        ({"a": "auto", "b": ["auto", "graph_mean"]}, "auto", True), ({"a": "auto"}, "nodes", True),
    ],
)  # fmt: skip
def test_whether_a_pool_of_graphs_is_asked_for(layers, pool, expected):
    assert Places(layers=layers, pool=pool).names_graphs == expected


# Graphs that are not as they usually are

TWO = Batch.from_data_list(graphs(3)), Batch.from_data_list(graphs(2))
KINDS = {
    "two levels deep": (((TWO[0], torch.zeros(1)), TWO[0].y), lambda b: b[0][0], None),
    "beside other graphs": ({"a": TWO[0], "b": TWO[1]}, lambda b: b["a"], "a.y"),
}


class Held(GraphNetwork):
    """Finds its graphs somewhere in the batch."""

    def training_step(self, batch, batch_idx):
        return self.step(STAGE, self.held(batch))


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_are_found_where_they_are_held(kind):
    torch.manual_seed(0)
    batch, held, target = KINDS[kind]
    module = Held()
    module.held = held
    run = fit(module, [NeuralCollapseCallback(layers=POOLS, target=target)], batches(batch))
    close(run.callback_metrics, averages_of(module.noted[STAGE, 0], STAGE, LAYERS))


class Cut(GraphNetwork):
    """Leaves nodes out; where graphs begin is as it was before."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch.subgraph(batch.is_new)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        ends = batch.batch.bincount(minlength=batch.num_graphs).cumsum(0).tolist()
        assert ends != batch.ptr[1:].tolist()
        self.noted[STAGE, 0][-1]["ptr"] = [0, *ends]
        return loss


def test_nodes_that_were_left_out_split_nothing_wrong():
    torch.manual_seed(0)
    module = Cut()
    run, _ = said_by(lambda: fit(module, [NeuralCollapseCallback(layers=POOLS)], loader(graphs(6), 3)))
    close(run.callback_metrics, averages_of(module.noted[STAGE, 0], STAGE, LAYERS))


# What waits


class Reuses(GraphNetwork):
    """Its head reads a buffer that each step fills anew, or a parameter that each step changes."""

    def __init__(self, reads):
        super().__init__()
        self.body, self.buffer = nn.Linear(WIDTH, NARROW), torch.zeros(NODES, NARROW)
        self.h = nn.Parameter(torch.randn(NODES, NARROW)) if reads == "a parameter" else None

    def training_step(self, batch, batch_idx):
        h = self.buffer if self.h is None else self.h
        if self.h is None:
            self.buffer.copy_(self.body(batch.x).detach())
        z = self.head(h)
        self.keep(STAGE, {"": h, "logits": z}, batch.y, edges=batch.edge_index)
        return self.loss(z, batch.y)

    def on_train_batch_end(self, *args):
        if self.h is not None:  # which the optimizer has moved before the batch is over
            self.noted[STAGE, 0][-1][""] = self.h.detach().clone()


@pytest.mark.parametrize("reads", ["a buffer", "a parameter"])
@pytest.mark.parametrize("steps", [1, 4])
def test_features_in_memory_that_changes_are_those_of_their_batch(reads, steps):
    torch.manual_seed(0)
    module, data = Reuses(reads), [graph(i) for i in range(4)]
    callback = NeuralCollapseCallback(classifier="head")
    run = fit(module, [callback], loader(data), accumulate_grad_batches=steps)
    close(run.callback_metrics, averages_of(module.noted[STAGE, 0], STAGE))


class Recycled(torch.utils.data.IterableDataset):
    """Gives the same memory again, filled with other graphs of together as many nodes."""

    def __iter__(self):
        given = None
        for i in range(4):
            sizes = (30 + i, 40 - i)
            fresh = Batch.from_data_list([graph(2 * i + j, nodes=n) for j, n in enumerate(sizes)])
            given = given or fresh.clone()
            for name in ("x", "y", "batch", "ptr", "is_new"):
                given[name].copy_(fresh[name])
            given.edge_index = fresh.edge_index
            yield given


def test_a_loader_may_fill_the_memory_of_its_batches_anew():
    torch.manual_seed(0)
    module, data = GraphNetwork(), torch.utils.data.DataLoader(Recycled(), batch_size=None)
    run = fit(module, [NeuralCollapseCallback(layers=POOLS)], data)
    close(run.callback_metrics, averages_of(module.noted[STAGE, 0], STAGE, LAYERS))


# A stage keeps its keys


class Changing(torch.utils.data.IterableDataset):
    """Other graphs in each epoch."""

    def __init__(self, *epochs):
        self.epochs = list(epochs)

    def __iter__(self):
        return iter(loader(self.epochs.pop(0)))


def history_of(*epochs, **settings):
    """The network, what is logged in each epoch, and what is said."""
    torch.manual_seed(0)
    module, callback = GraphNetwork(), NeuralCollapseCallback(layers=POOLS, **settings)
    data = torch.utils.data.DataLoader(Changing(*epochs), batch_size=None)
    _, told = said_by(lambda: fit(module, [callback], data, max_epochs=len(epochs)))
    logged = [
        {key: row.value for key, rows in callback.history.items() for row in rows if row.epoch == i}
        for i in range(len(epochs))
    ]
    return module, logged, told


def test_where_a_stage_began_with_one_graph_all_are_pooled():
    module, logged, told = history_of([graph()], graphs(3), [graph(7)])
    for epoch, found in enumerate(logged):
        require_ordinary(found, module.noted[STAGE, epoch], STAGE, LAYERS)
        assert found.keys() == logged[0].keys()
    [text] = [text for text in told if "began with a single graph" in text]
    assert "and now has 3: its keys stay, of the nodes of all of them pooled" in text


def test_where_a_stage_began_with_several_graphs_one_has_their_keys():
    module, logged, told = history_of(graphs(3), [graph(7)], graphs(2, 9))
    for epoch in (0, 2):
        close(logged[epoch], averages_of(module.noted[STAGE, epoch], STAGE, LAYERS))
    # the same graph twice has its mean
    expected = averages_of(module.noted[STAGE, 1] * 2, STAGE, LAYERS)
    expected[f"graph/num_graphs/{STAGE}"] = 1
    assert logged[1].keys() == expected.keys()
    assert all(math.isnan(value) for key, value in logged[1].items() if "_se/" in key)
    close(*({k: v for k, v in each.items() if "_se/" not in k} for each in (logged[1], expected)))
    assert not any("began with" in text for text in told)


@pytest.mark.parametrize(("steps", "windows"), [(1, [[0], [1], [2], [3]]), (2, [[0], [1, 2]])])
def test_windows_of_one_graph_have_the_ordinary_keys(steps, windows):
    torch.manual_seed(0)
    module, callback = GraphNetwork(), NeuralCollapseCallback(layers=POOLS, every_n_steps=steps)
    said_by(lambda: fit(module, [callback], loader([graph()]), max_epochs=4))
    rows = list(callback.history.values())
    assert {len(each) for each in rows} == {len(windows)}
    for i, epochs in enumerate(windows):
        logged = {key: row[i].value for key, row in zip(callback.history, rows, strict=True)}
        window = [module.noted[STAGE, epoch][0] for epoch in epochs]
        require_ordinary(logged, window, STAGE, LAYERS)


def test_windows_of_several_graphs_have_theirs():
    torch.manual_seed(0)
    module, callback = GraphNetwork(), NeuralCollapseCallback(layers=POOLS, every_n_steps=2)
    fit(module, [callback], loader(graphs(4)))
    for i, step in enumerate((2, 4)):
        logged = {k: r.value for k, rows in callback.history.items() for r in rows if r.step == step}
        close(logged, averages_of(module.noted[STAGE, 0][2 * i :][:2], STAGE, LAYERS))


# Graphs of a node, and without edges


@pytest.mark.parametrize("layers", [[], POOLS])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_graph_of_a_single_node_counts_for_nothing(place, layers):
    torch.manual_seed(0)
    module, data = GraphNetwork(), graphs(2)
    data.insert(place, graph(5, [1], 1))
    run, told = said_by(lambda: fit(module, [NeuralCollapseCallback(layers=layers)], loader(data)))
    whole = [batch for batch in module.noted[STAGE, 0] if len(batch["y"]) > 1]
    close(run.callback_metrics, averages_of(whole, STAGE, LAYERS if layers else ()))
    if place or layers:  # else its label is one of a graph
        assert any("1 of 3 graphs have nodes of fewer than two classes" in text for text in told)


def test_graphs_without_edges_have_no_means_over_neighbors_and_training_goes_on():
    torch.manual_seed(0)
    module, bare = GraphNetwork(), graph(7)
    bare.edge_index = bare.edge_index[:, :0]
    callback = NeuralCollapseCallback(layers=POOLS)
    data, val = loader(graphs(2)), loader([bare, *graphs(2, 9)])
    run, told = said_by(lambda: fit(module, [callback], data, val, num_sanity_val_steps=1))
    assert run.global_step == 2
    assert any("40 nodes have no neighbor, and so no mean over neighbors" in text for text in told)
    noted = module.noted["val", 0][1:]  # less that of the check before training
    near = averages_of(noted[1:], "val", LAYERS)
    of_edges = {k: v for k, v in near.items() if "neighborhood" in k or "condition" in k}
    expected = averages_of(noted, "val", LAYERS[::2], whole=False) | of_edges
    close({k: v for k, v in run.callback_metrics.items() if "/val" in k}, expected)


# What is said


@pytest.mark.parametrize("kind", ["one graph", "ordinary rows"])
def test_measures_of_graphs_alone_need_graphs(kind):
    torch.manual_seed(0)
    batch, rows, labels, target = PLAIN["pairs of rows"]
    module, data = OfRows(rows, labels), batches(batch)
    if kind == "one graph":
        module, data, target = GraphNetwork(), loader([graph()]), None
    callback = NeuralCollapseCallback(measures=["graph"], target=target)
    run, told = said_by(lambda: fit(module, [callback], data))
    assert not any("/" in key for key in run.callback_metrics)
    assert [text for text in told if "Expected measures that these rows have, but got others" in text]


class AsTheyAre(OfRows):
    """Its features are the inputs."""

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.head(batch.x), batch.y)


def test_it_is_said_which_values_rest_on_fewer_graphs():
    """Where classes vary in another direction than their means, the log of the one is not finite."""
    y = torch.arange(30) % CLASSES
    x = 3 * torch.eye(CLASSES, NARROW)[y]
    x[:, 3] = torch.tensor([1.0, 1, 1, -1, -1, -1]).repeat(5)
    across = graph(nodes=30).update({"x": x, "y": y})
    usual = [each.update({"x": each.x[:, :NARROW]}) for each in graphs(3)]
    run, told = said_by(
        lambda: fit(AsTheyAre(None, None), [NeuralCollapseCallback()], loader([across, *usual], 2))
    )
    alone, _ = said_by(lambda: fit(AsTheyAre(None, None), [NeuralCollapseCallback()], loader(usual)))
    text = (
        "Of 4 graphs with several classes, these rest on fewer: graph/within_between_pinv_log10 on 3."
    )
    assert any(text in each for each in told)
    for key in ("graph/within_between_pinv_log10", "graph/within_between_pinv_log10_se"):
        of_all, of_three = (float(r.callback_metrics[f"{key}/{STAGE}"]) for r in (run, alone))
        assert of_all == pytest.approx(of_three, rel=1e-6)
