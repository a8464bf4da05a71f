"""Graphs over two ranks: against one process, and the oracles."""

import warnings

import pytest
import torch
from support.graph_data import LAYERS, POOLS, GraphNetwork, averages_of, fit, graph, graphs, loader
from support.ranks import assert_identical

from lightning_nc import NeuralCollapseCallback, measure

pytestmark = pytest.mark.ddp


def train(rank, folder):
    """Two epochs; the last logged values of validation and training, and the state that is left."""
    torch.manual_seed(0)
    module = GraphNetwork()
    callback = NeuralCollapseCallback(layers=POOLS, frozen_every_n_epochs=2, frozen_num_workers=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(
            module, [callback], loader(graphs(8), 2), loader(graphs(6, 9), 1), max_epochs=2,
            strategy="ddp", devices=2, default_root_dir=folder,
        )  # fmt: skip
    return {
        "logged": {key: rows[-1].value for key, rows in callback.history.items()},
        "noted": module.noted["train_online", 1],
        "state": module.state_dict(),
    }


@pytest.fixture(scope="module")
def runs(two_processes, tmp_path_factory):
    return two_processes.run(train, str(tmp_path_factory.mktemp("graphs")))


def of_stage(logged, stage):
    return {key: value for key, value in logged.items() if key.split("/")[2] == stage}


def test_all_ranks_have_the_same_values(runs):
    first, second = runs
    assert first["logged"] == second["logged"]
    assert_identical(first["state"], second["state"])


@pytest.mark.parametrize(("stage", "data"), [("val", graphs(6, 9)), ("train", graphs(8))])
def test_one_process_and_several_agree(stage, data, runs):
    module = GraphNetwork()
    module.load_state_dict(runs[0]["state"])
    alone = measure(module, loader(data, 3), layers=POOLS, classifier="head", progress=False).by_layer
    expected = {
        f"{key}/{stage}" + f"/{layer}" * bool(layer): value
        for layer, values in alone.items()
        for key, value in values.items()
    }
    several = of_stage(runs[0]["logged"], stage)
    assert several.keys() == expected.keys()
    assert several == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_graphs_of_all_ranks_give_the_oracles_values(runs):
    """In training, W moves on alike on all ranks."""
    noted = [batch for run in runs for batch in run["noted"]]
    expected = averages_of(noted, "train_online", LAYERS)
    several = of_stage(runs[0]["logged"], "train_online")
    assert several.keys() == expected.keys()
    assert several == pytest.approx(expected, rel=1e-5, abs=1e-7)


def merged(rank, *epochs):
    """What a stage comes to in its last epoch; each rank sees its own graphs, and some may see none."""
    from lightning_nc.functional import values_of
    from lightning_nc.stream.sync import Ranks
    from lightning_nc.tasks import Multiclass, Settings
    from lightning_nc.watch.batch import Forward
    from lightning_nc.watch.graph_batch import find_graph
    from lightning_nc.watch.recorder import Recorder

    torch.manual_seed(0)
    module = GraphNetwork()
    recorder = Recorder(Multiclass(Settings()), LAYERS, near=LAYERS[1::2])
    for shares in epochs:
        recorder.reset()
        for batch in loader([graph(i, nodes=40 - i) for i in shares[rank]]):
            with torch.no_grad():
                predicted = module(batch).argmax(1)
            layers = {name: module.last[name.rpartition(".")[0]].clone() for name in LAYERS}
            recorder.classifier.keep(module.head.weight.detach(), module.head.bias.detach())
            nodes = find_graph(batch, batch.y).with_labels(len(batch.y))
            recorder.add(Forward("head", module.last[""], predicted, layers), batch.y, 3, nodes)
        recorded = recorder.close(Ranks() if len(shares) > 1 else None)
    values = {
        (name, key): float(value)
        for name, outcomes in recorded.outcomes.items()
        for key, value in values_of(outcomes).items()
    }
    return values, sorted(kind for kind, _ in recorded.notices)


SHARES = {
    "a graph here, three there": [[0], [1, 2, 3]],
    "a graph on each": [[2], [1]],
    "a rank without a batch": [[], [0, 1, 2]],
    "a single graph, and a rank without": [[1], []],
}


@pytest.mark.parametrize("name", SHARES)
def test_ranks_and_one_process_agree_whoever_has_the_graphs(name, two_processes):
    shares = SHARES[name]
    alone, said = merged(0, [[i for share in shares for i in share]])
    assert any("graph/" in key for _, key in alone) == ("single" not in name)
    for found, told in two_processes.run(merged, shares):
        assert found.keys() == alone.keys()
        assert found == pytest.approx(alone, rel=1e-6, abs=1e-9)
        assert told == said


EPOCHS = {
    "one graph, and then one on each rank": [[[1], []], [[1], [2]]],
    "one graph, and then several on each rank": [[[1], []], [[0], [1, 2, 3]]],
    "one on each rank, and then a single one": [[[0], [1]], [[2], []]],
    "none, one, and several": [[[], []], [[], [1]], [[1, 2], [3]]],
}


@pytest.mark.parametrize("name", EPOCHS)
def test_ranks_agree_on_what_a_stage_began_with(name, two_processes):
    alone, said = merged(0, *([[i for share in shares for i in share]] for shares in EPOCHS[name]))
    assert any("graph/" in key for _, key in alone) == (
        name == "one on each rank, and then a single one"
    )
    for found, told in two_processes.run(merged, *EPOCHS[name]):
        assert found.keys() == alone.keys()
        assert found == pytest.approx(alone, rel=1e-6, abs=1e-9)
        # that a rank has other graphs by now, it says for itself
        assert {*told, "graphs later"} == {*said, "graphs later"}
