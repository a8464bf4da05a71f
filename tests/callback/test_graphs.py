"""Nodes of graphs in a Trainer: every logged key against dense oracles."""

import random
from collections import namedtuple

import jaxtyping
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from support.graph_data import (
    CLASSES,
    LAYERS,
    MASKS,
    POOLS,
    WIDTH,
    Data,
    GraphNetwork,
    averages_of,
    close,
    fit,
    global_mean_pool,
    graph,
    graphs,
    loader,
    of_stage,
    require_ordinary,
    said_by,
)
from support.labeled import KINDS

from lightning_nc import NeuralCollapseCallback

TIES = ["between.in.nodes", "between.in.neighborhood_mean"]


# Several graphs


@pytest.mark.parametrize("batch", [1, 3])
def test_every_key_of_every_stage_of_several_graphs_is_the_oracles(batch):
    torch.manual_seed(0)
    module, train = GraphNetwork(), loader(graphs(4), batch)
    places = {**POOLS, "between:in": POOLS["convs.*"]}
    callback = NeuralCollapseCallback(layers=places, frozen_every_n_epochs=int(batch > 1))
    run = fit(module, [callback], train, loader(graphs(3, 9), batch), max_epochs=2)
    logged = dict(run.callback_metrics)
    run.test(module, loader(graphs(3, 20), batch), verbose=False)
    logged |= {key: value for key, value in run.callback_metrics.items() if "/test" in key}
    stages = {"train_online": 1, "val": 1, "test": 2}
    if batch > 1:
        stages["train"] = 2
        with torch.no_grad():
            for each in train:  # the frozen pass has seen the weights that training left
                module.step("train", each)
    expected = {}
    for stage, epoch in stages.items():
        epoch = min(epoch, max(e for s, e in module.noted if s == stage))
        expected |= averages_of(module.noted[stage, epoch], stage, [*LAYERS, *TIES])
    assert len(expected) == 39 * len(stages)
    close(logged, expected)


def test_masks_of_each_stage_leave_nodes_out_and_no_edges():
    torch.manual_seed(0)
    module = GraphNetwork(masks=True)
    callback = NeuralCollapseCallback(layers=POOLS, mask=MASKS)
    run, told = said_by(lambda: fit(module, [callback], loader(graphs(4), 2), loader(graphs(3, 9), 3)))
    expected = {}
    for stage in MASKS:
        expected |= averages_of(module.noted[stage, 0], stage, LAYERS, whole=False)
    close(run.callback_metrics, expected)
    assert any("graph/condition_gap left out" in text for text in told)
    assert not any("edges are not known" in text for text in told)  # they are


def with_inputs(x, batch):
    """A pool of one's own: what came in beside what goes out."""
    return torch.cat([x, batch.x], 1)


def test_a_pool_of_ones_own_gets_nodes_and_batch():
    torch.manual_seed(0)
    module = GraphNetwork()
    pools = {"convs.*": ["nodes", f"{__name__}.with_inputs"]}
    run = fit(module, [NeuralCollapseCallback(layers=pools)], loader(graphs(4), 2))
    noted = module.noted["train_online", 0]
    for row, batch in zip(noted, loader(graphs(4), 2), strict=True):
        row["own"] = torch.cat([row["convs.0"], batch.x], 1)
    own = averages_of(noted, "train_online", ["own"])
    expected = {key.removesuffix("/own"): v for key, v in own.items() if key.endswith("/own")}
    found = of_stage(run.callback_metrics, "train_online", "convs.0.with_inputs")
    close(found, {key.removesuffix("/train_online"): value for key, value in expected.items()})


def test_one_validation_loader_has_one_graph_and_another_several():
    torch.manual_seed(0)
    module = GraphNetwork()
    loaders = [loader([graph(7)]), loader(graphs(3, 9), 2)]
    run = fit(module, [NeuralCollapseCallback(layers=POOLS, online=False)], loader(graphs(2)), loaders)
    require_ordinary(run.callback_metrics, module.noted["val", 0], "val", LAYERS)
    several = {k: v for k, v in run.callback_metrics.items() if "/val_1" in k}
    close(several, averages_of(module.noted["val_1", 0], "val_1", LAYERS))


def test_keys_of_pooled_rows_alone_are_left_out_with_the_reason_and_nothing_else():
    callback = NeuralCollapseCallback(measures=["nc1/*"], online=False)
    run, told = said_by(
        lambda: fit(GraphNetwork(), [callback], loader(graphs(2)), loader(graphs(3), 3), max_epochs=2)
    )
    assert not any("/" in key for key in run.callback_metrics)
    [text] = told
    assert text.startswith("Stage val: nc1/within_between_pinv, ")
    assert "left out: the rows are the nodes of 3 graphs, and pooled they have other class" in text
    assert "measure one graph alone in a loader" in text


def test_keys_of_graphs_are_asked_for_by_name():
    callback = NeuralCollapseCallback(measures=["graph/snr*"], online=False)
    run = fit(GraphNetwork(), [callback], loader(graphs(2)), loader(graphs(3), 3))
    assert {k for k in run.callback_metrics if "/" in k} == {"graph/snr/val", "graph/snr_se/val"}


# One graph


@pytest.mark.parametrize("masks", [None, MASKS])
def test_one_graph_has_the_ordinary_keys_of_nodes_and_of_means_over_neighbors(masks):
    torch.manual_seed(0)
    module, data = GraphNetwork(masks=masks is not None), loader([graph()])
    run = fit(module, [NeuralCollapseCallback(layers=POOLS, mask=masks)], data, data, max_epochs=2)
    for stage in MASKS:
        require_ordinary(run.callback_metrics, module.noted[stage, 1], stage, LAYERS)
    assert not any("graph/" in key for key in run.callback_metrics)


class OfGraphs(GraphNetwork):
    """A label for each graph."""

    def training_step(self, batch, batch_idx):
        self.features(batch.x, batch.edge_index)
        rows = {name: global_mean_pool(h, batch.batch) for name, h in self.last.items()}
        rows[""] = rows["convs.1"].tanh()
        z = self.head(rows[""])
        self.keep("train_online", {**rows, "logits": z}, batch.y)
        return self.loss(z, batch.y)


@pytest.mark.parametrize("batch", [1, 4])
def test_labels_of_graphs_give_rows_of_graphs(batch):
    torch.manual_seed(0)
    data = [graph(i, [i % CLASSES], 12 - i % 4) for i in range(24)]
    data = [each.update({"y": each.y[:1]}) for each in data]
    module = OfGraphs()
    callback = NeuralCollapseCallback(layers={"convs.*": ["auto", "graph_mean"]})
    run = fit(module, [callback], loader(data, batch))
    layers = [f"convs.{i}.{pool}" for i in range(2) for pool in ("auto", "graph_mean")]
    require_ordinary(run.callback_metrics, module.noted["train_online", 0], "train_online", layers)


# Other batches, and samples of a graph

Named = namedtuple("Named", ["x", "edge_index", "y"])
BATCHES = {
    "dict": lambda g: {"x": g.x, "edge_index": g.edge_index, "y": g.y},
    "named tuple": lambda g: Named(g.x, g.edge_index, g.y),
    "tuple": lambda g: (g.x, g.y, g.edge_index),
    "tuple of Data and labels": lambda g: (Data(g.x, g.edge_index), g.y),
}


class AnyBatch(GraphNetwork):
    """Reads batches of several kinds."""

    def parts(self, batch):
        if isinstance(batch, dict):
            return batch["x"], batch["edge_index"], batch["y"]
        if isinstance(batch, Named):
            return batch
        if isinstance(batch[0], Data):
            return batch[0].x, batch[0].edge_index, batch[1]
        return batch[0], batch[2], batch[1]


@pytest.mark.parametrize("kind", BATCHES)
def test_edges_are_found_in_batches_of_other_kinds(kind):
    torch.manual_seed(0)
    module = AnyBatch()
    data = torch.utils.data.DataLoader([BATCHES[kind](graph())], batch_size=None)
    target = 1 if kind == "tuple" else None  # that edges are no labels, only the user knows
    run = fit(module, [NeuralCollapseCallback(layers=POOLS, target=target)], data)
    require_ordinary(run.callback_metrics, module.noted["train_online", 0], "train_online", LAYERS)


class OfSeeds(GraphNetwork):
    """As NeighborLoader's batches are used: the first nodes are those that count."""

    cuts = False

    def counts(self, batch, stage, y):
        return torch.arange(len(y)) < batch.batch_size

    def training_step(self, batch, batch_idx):
        if not self.cuts:
            return self.step("train_online", batch)
        seeds = batch.batch_size
        z = self.head(self.features(batch.x, batch.edge_index)[:seeds])
        rows = {name: each[:seeds] for name, each in self.last.items()}
        self.keep("train_online", {**rows, "logits": z}, batch.y[:seeds])
        return self.loss(z, batch.y[:seeds])


@pytest.mark.parametrize("cuts", [False, True])
@pytest.mark.parametrize("labels", ["all", "seeds"])
def test_of_sampled_neighborhoods_the_seeds_count(cuts, labels):
    torch.manual_seed(0)
    module = OfSeeds()
    module.cuts = cuts or labels == "seeds"
    parts = [graph(i, batch_size=21 - i) for i in range(3)]
    if labels == "seeds":
        parts = [each.update({"y": each.y[: each.batch_size]}) for each in parts]
    data = torch.utils.data.DataLoader(parts, batch_size=None)
    callback = NeuralCollapseCallback(layers={"convs.*": ["nodes"]} if labels == "all" else [])
    run = fit(module, [callback], data)
    layers = ["convs.0.nodes", "convs.1.nodes"] if labels == "all" else []
    noted = module.noted["train_online", 0]
    require_ordinary(run.callback_metrics, noted, "train_online", layers)
    assert float(run.callback_metrics["nc0/num_samples/train_online"]) == 21 + 20 + 19


# Other labels of nodes


@pytest.mark.parametrize("kind", KINDS)
def test_tags_and_targets_of_the_nodes_of_several_graphs_are_pooled(kind):
    torch.manual_seed(0)
    of_rows = KINDS[kind]
    tensors = of_rows.data(120).tensors
    data = [
        graph(i, x=tensors[0][40 * i :][:40, :WIDTH], y=tensors[1][40 * i :][:40]) for i in range(3)
    ]

    class Labeled(GraphNetwork):
        loss = staticmethod(lambda z, y: of_rows.loss(z, y.float()))

    module = Labeled(of_rows.rows)
    run = fit(module, [NeuralCollapseCallback(task=kind)], loader(data, 2))
    noted = module.noted["train_online", 0]
    h, y, z = (torch.cat([row[i] for row in noted]).double().numpy() for i in ("", "y", "logits"))
    last = (noted[-1]["weights"][""].double().numpy(), noted[-1]["bias"].double().numpy())
    close(of_stage(run.callback_metrics, "train_online"), of_rows.expected(h, y, z, *last), 1e-5)


# Training does not notice


@pytest.fixture
def _no_shape_checks():
    # the checker draws from Python's global random state, which is compared here
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_no_shape_checks")
@pytest.mark.parametrize("count", [1, 4])
def test_training_is_bit_identical(count):
    def fingerprint(*callbacks):
        torch.manual_seed(0)
        random.seed(0)
        module, data = GraphNetwork(), graphs(count)
        fit(module, callbacks, loader(data, 2, shuffle=True), loader(data, 2), max_epochs=2)
        kept = [each.x for each in data] + [each.edge_index for each in data]
        own = [batch[name] for batch in module.noted["train_online", 1] for name in ("", "convs.0")]
        state = [*module.state_dict().values(), torch.get_rng_state(), *kept, *own]
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()]
        return state, random.getstate(), hooks

    plain = fingerprint()
    seen = fingerprint(NeuralCollapseCallback(layers=POOLS, frozen_every_n_epochs=1))
    assert all(torch.equal(a, b) for a, b in zip(plain[0], seen[0], strict=True))
    assert plain[1:] == seen[1:]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_goes_on_with_the_same_values(tmp_path):
    def run(epochs, **more):
        torch.manual_seed(0)
        callback = NeuralCollapseCallback(layers=POOLS)
        keep = ModelCheckpoint(tmp_path, save_last=True, enable_version_counter=False)
        fit(
            GraphNetwork(), [callback, keep], loader(graphs(3)), loader(graphs(2, 9)),
            max_epochs=epochs, enable_checkpointing=True, default_root_dir=tmp_path, **more,
        )  # fmt: skip
        return {key: [entry.value for entry in row] for key, row in callback.history.items()}

    whole = run(2)
    run(1)
    assert run(2, ckpt_path=tmp_path / "last.ckpt") == whole
    assert {len(row) for row in whole.values()} == {2}
