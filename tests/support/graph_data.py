"""Small directed graphs, and a network on them that notes what a callback should have seen."""

import warnings
from itertools import pairwise

import lightning as L
import numpy as np
import pytest
import torch
from support import graph_oracles as oracle
from support.oracles import reference_measures
from support.problems import of_default
from support.training import trainer
from torch import nn

from lightning_nc import NeuralCollapseWarning

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", ".*torch.jit.script. is deprecated")
    from torch_geometric import EdgeIndex as EdgeIndex
    from torch_geometric.data import Batch as Batch
    from torch_geometric.data import Data
    from torch_geometric.data import TemporalData as TemporalData
    from torch_geometric.loader import DataLoader
    from torch_geometric.nn import GraphConv
    from torch_geometric.nn import global_mean_pool as global_mean_pool


NODES, CLASSES, WIDTH, NARROW = 40, 3, 5, 4
RATIO = "graph/within_between_ratio_log10"
POOLS = {"convs.*": ["nodes", "neighborhood_mean"]}
MASKS = {"train_online": "is_trained", "val": "is_new"}
LAYERS = [f"convs.{i}.{pool}" for i in range(2) for pool in POOLS["convs.*"]]


def graph(seed=0, classes=range(CLASSES), nodes=NODES, **more):
    """One in which every node has a neighbor, and most of its neighbors are of its class."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(nodes, generator=draw)
    y = torch.tensor(list(classes))[order % len(classes)]
    x = 2 * torch.eye(CLASSES, WIDTH)[y] + torch.randn(nodes, WIDTH, generator=draw) + 1
    chance = torch.where(y[:, None] == y, 0.25, 0.05)
    joined = torch.rand(nodes, nodes, generator=draw) < chance
    joined[order, order.roll(1)] = True
    half = torch.rand(nodes, generator=draw) < 0.5
    masks = {"is_trained": half, "is_new": ~half}
    return Data(**{"x": x, "edge_index": joined.nonzero().T, "y": y, **masks, **more})


def graphs(count, first=0, **more):
    return [graph(first + i, nodes=NODES - i, **more) for i in range(count)]


def loader(data, batch=1, **settings):
    return DataLoader(data, batch, **settings)


class GraphNetwork(L.LightningModule):
    """Two layers with a linear map between them; notes rows, edges, decisions and W of each batch."""

    def __init__(self, outputs=CLASSES, masks=False):
        super().__init__()
        self.convs = nn.ModuleList(
            [GraphConv(WIDTH, WIDTH, aggr="mean"), GraphConv(NARROW, NARROW, aggr="mean")]
        )
        self.between = nn.Linear(WIDTH, NARROW)
        self.head = nn.Linear(NARROW, outputs)
        self.noted, self.masks = {}, masks

    def forward(self, batch):
        return self.run(batch.x, batch.edge_index)

    def run(self, x, edge_index):
        h = self.features(x, edge_index)
        self.last["logits"] = self.head(h)
        return self.last["logits"]

    def features(self, x, edge_index):
        first = self.convs[0](x, edge_index)
        middle = first.tanh()
        last = self.convs[1](self.between(middle), edge_index)
        h = last.tanh()
        self.last = {"": h, "convs.0": first, "between.in": middle, "convs.1": last}
        return h

    def parts(self, batch):
        """Inputs, edges and labels."""
        return batch.x, batch.edge_index, batch.y

    def counts(self, batch, stage, y):
        """Which nodes do."""
        name = MASKS.get(stage, "") if self.masks else ""
        return batch[name] if name else torch.ones(len(y), dtype=torch.bool)

    def keep(self, stage, rows, y, **more):
        """Note rows and W; of a single graph, and all of them count, unless something else is told."""
        weights = {"": self.head.weight, "between.in": self.between.weight}
        self.noted.setdefault((stage, self.current_epoch), []).append({
            **{name: each.detach().clone() for name, each in rows.items()},
            "y": y.clone(), "ptr": [0, len(y)], "counts": torch.ones(len(y), dtype=torch.bool),
            "edges": torch.zeros(2, 0, dtype=torch.int64), "bias": self.head.bias.detach().clone(),
            "weights": {name: each.detach().clone() for name, each in weights.items()}, **more,
        })  # fmt: skip

    def step(self, stage, batch):
        x, edges, y = self.parts(batch)
        z, counts, ptr = self.run(x, edges), self.counts(batch, stage, y), getattr(batch, "ptr", None)
        ptr = [0, len(y)] if ptr is None else ptr.tolist()
        self.keep(stage, self.last, y, edges=edges.clone(), ptr=ptr, counts=counts.clone())
        return self.loss(z[counts], y[counts])

    loss = staticmethod(nn.functional.cross_entropy)

    def training_step(self, batch, batch_idx):
        return self.step("train_online", batch)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.step(f"val_{dataloader_idx}" if dataloader_idx else "val", batch)

    def test_step(self, batch, batch_idx):
        self.step("test", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def graphs_of(noted, name="", near=False):
    """Each graph of some batches: nodes that count, or means over their neighbors, and its edges."""
    for batch in noted:
        for first, end in pairwise(batch["ptr"]):
            edges, nodes = batch["edges"].numpy(), slice(first, end)
            edges = edges[:, (edges >= first).all(0) & (edges < end).all(0)] - first
            h = batch[name][nodes].double().numpy()
            kept = batch["counts"][nodes].numpy()
            if near:
                h = oracle.neighborhood_mean(h, edges)
                kept = kept & ~np.isnan(h).any(1)
            y, decided = batch["y"][nodes].numpy(), batch["logits"][nodes].argmax(1).numpy()
            weight = batch["weights"].get(name, torch.ones(1, h.shape[1])).double().numpy()
            yield oracle.Graph(h[kept], y[kept], edges, weight, decided[kept])


def average(values, key):
    """The mean of those that there are, and its standard error."""
    values = np.array(values)
    return {key: values.mean(), f"{key}_se": values.std(ddof=1) / np.sqrt(len(values))}


def of_features(found, has_weight):
    """What is logged of the classifier's features and of each layer."""
    found = list(found)
    values = average([np.log10(oracle.trace_ratio(g)) for g in found], RATIO)
    values |= average(
        [np.log10(oracle.pinv_trace(g)) for g in found], "graph/within_between_pinv_log10"
    )
    if has_weight:
        values |= average([oracle.signal_to_noise(g) for g in found], "graph/snr")
    return values


def averages_of(noted, stage, layers=(), whole=True):
    """Every key of a stage of several graphs, all of whose nodes have a label."""
    found = list(graphs_of(noted))
    values = of_features(found, has_weight=True) | {"graph/num_graphs": len(found)}
    values |= average([oracle.overlap(g.decided, g.y, CLASSES) for g in found], "graph/overlap")
    if whole:
        values |= average([oracle.condition_gap(g.edges, g.y) for g in found], "graph/condition_gap")
    logged = {f"{key}/{stage}": value for key, value in values.items()}
    for layer in layers:
        path, _, pool = layer.rpartition(".") if layer.endswith(("nodes", "_mean")) else (layer, "", "")
        has_weight = path in noted[0]["weights"]
        of_layer = of_features(graphs_of(noted, path, "neighborhood" in pool), has_weight)
        logged |= {f"{key}/{stage}/{layer}": value for key, value in of_layer.items()}
    return logged


def ordinary_of(noted, name="", near=False, num_classes=CLASSES):
    """The ordinary measures of the pooled rows."""
    found = list(graphs_of(noted, name, near))
    h, y, decided = (
        np.concatenate([getattr(g, part) for g in found]) for part in ("h", "y", "decided")
    )
    if name or near:
        return of_default(reference_measures(h, y, num_classes, predicted=decided))
    weight, bias = noted[-1]["weights"][""].double().numpy(), noted[-1]["bias"].double().numpy()
    return of_default(
        reference_measures(h, y, num_classes, predicted=decided, weight=weight, bias=bias)
    )


def of_stage(logged, stage, layer=""):
    """Logged values of a stage, or of a layer in it, less those of other subjects."""
    end = f"/{stage}" + (f"/{layer}" if layer else "")
    return {k.removesuffix(end): float(v) for k, v in logged.items() if k.endswith(end)}


def close(logged, expected, rel=1e-5, absolute=1e-7):
    """Every key of the one side is on the other, and has its value."""
    found = {key: float(value) for key, value in logged.items()}
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=rel, abs=absolute)


def require_ordinary(logged, noted, stage, layers):
    """The keys of all rows together, of the classifier's features and of layers."""
    for layer in ("", *layers):
        path, _, pool = layer.rpartition(".")
        expected = ordinary_of(noted, path, near=pool == "neighborhood_mean")
        found = of_stage(logged, stage, layer)
        # they join where layers are measured, and have an oracle of their own
        found = {key: value for key, value in found.items() if not key.startswith("layer/")}
        if layer:
            assert found.keys() >= {"nc1/within_between_ratio", "nc1/within_between_pinv"}
            expected = {key: expected[key] for key in found}
        close(found, expected, absolute=1e-8)


DRAW = torch.Generator().manual_seed(0)
ROWS = 12
Y = torch.arange(ROWS) % CLASSES
INPUTS = 3 * torch.eye(CLASSES, WIDTH)[Y] + torch.randn(ROWS, WIDTH, generator=DRAW)
EDGES = torch.randint(0, ROWS, (2, 30), generator=DRAW)


def of_edges(kind):
    """Labels of pairs of nodes: as those of a link prediction, or of all edges of several graphs."""
    if kind == "pairs":
        one = graph(edge_label=Y, edge_label_index=torch.randint(0, 40, (2, ROWS), generator=DRAW))
        return one.update({"y": None})
    several = Batch.from_data_list(graphs(3))
    return several.update({"y": several.edge_index[0] % CLASSES})


def without_ptr():
    several = Batch.from_data_list([graph(i, [i % CLASSES]) for i in range(6)])
    return {"x": several.x, "edge_index": several.edge_index, "batch": several.batch, "y": Y[:6]}


def events():
    return TemporalData(src=Y, dst=Y + 5, t=Y, msg=INPUTS, y=Y)


# by kind: a batch, its rows, its labels, and the callback's target
PLAIN = {
    "moving skeletons": (
        {"x": INPUTS[:, None, None].expand(ROWS, 6, 7, WIDTH), "edge_index": EDGES, "y": Y},
        lambda b: b["x"].mean((1, 2)), lambda b: b["y"], None,
    ),
    "edges of each sample": (
        {"x": INPUTS, "edge_index": EDGES.expand(ROWS, 2, 30), "y": Y},
        lambda b: b["x"], lambda b: b["y"], None,
    ),
    "pairs of rows": (
        (INPUTS, EDGES, Y), lambda b: b[0], lambda b: b[2], 2,
    ),
    "two numbers of each row, and its group": (
        (INPUTS, EDGES[:, :ROWS], torch.arange(ROWS), Y),
        lambda b: b[0], lambda b: b[3], 3,
    ),
    "events": (events(), lambda b: b.msg, lambda b: b.y, "y"),
    "pairs of nodes": (
        of_edges("pairs"), lambda b: b.x[b.edge_label_index].sum(0), lambda b: b.edge_label,
        "edge_label",
    ),
    "edges of several graphs": (
        of_edges("all"), lambda b: b.x[b.edge_index].sum(0), lambda b: b.y, "y",
    ),
    "graphs, and not where they begin": (
        without_ptr(), lambda b: torch.stack([b["x"][b["batch"] == i].mean(0) for i in range(6)]),
        lambda b: b["y"], "y",
    ),
    "some nodes of several graphs": (
        Batch.from_data_list(graphs(3)), lambda b: b.x[b.is_new], lambda b: b.y[b.is_new],
        lambda b: b.y[b.is_new],
    ),
}  # fmt: skip


class OfRows(L.LightningModule):
    """Decides for rows of the batch, and notes them."""

    def __init__(self, rows, labels):
        super().__init__()
        self.body, self.head = nn.Linear(WIDTH, NARROW), nn.Linear(NARROW, CLASSES)
        self.rows, self.labels, self.noted = rows, labels, []

    def training_step(self, batch, batch_idx):
        h, y = self.body(self.rows(batch)).tanh(), self.labels(batch)
        z = self.head(h)
        last = (self.head.weight, self.head.bias)
        self.noted = [t.detach().clone().numpy() for t in (h.double(), y, z.argmax(1), *last)]
        return nn.functional.cross_entropy(z, y)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def said_by(run):
    """What a function gives, and what is warned of meanwhile."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run()
    return result, [str(w.message) for w in caught if issubclass(w.category, NeuralCollapseWarning)]


def fit(module, callbacks, train, val=None, ckpt_path=None, **settings):
    none = {} if val is not None else {"limit_val_batches": 0}
    run = trainer(callbacks, **{"max_epochs": 1, "num_sanity_val_steps": 0, **none, **settings})
    run.fit(module, train, val or train, ckpt_path=ckpt_path)
    return run
