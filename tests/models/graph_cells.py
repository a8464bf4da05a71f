"""Models of graphs: torch_geometric, and chemprop's LightningModule."""

from typing import Any

import torch
from model_cells import CLASSES, Call, Model, Rows, Thin, Truth, head_at, labels_in_turn, weight_at
from torch import Tensor, nn

WIDTH = 8
SMILES = ("C", "CC", "CCC", "CCO", "CCN", "CO", "CN", "C=O", "CC=O", "CCCC", "c1ccccc1", "CCCl")


def named_y(batch: Any) -> Tensor:
    return batch.y


# Many graphs with a label each


def graphs() -> Any:
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader

    many = []
    for label in labels_in_turn():
        nodes = int(torch.randint(3, 7, ()))
        ring = torch.stack([torch.arange(nodes), torch.arange(1, nodes + 1) % nodes])
        edges = torch.cat([ring, ring.flip(0)], 1)
        x = torch.randn(nodes, WIDTH) + label
        attr = torch.randn(edges.shape[1], 2)
        many.append(Data(x=x, edge_index=edges, edge_attr=attr, y=label[None]))
    return DataLoader(many[:20], 10, shuffle=True), DataLoader(many[20:], 10)


def gin() -> Thin:
    """As in torch_geometric's example of graph classification: its MLP is the head."""
    from torch_geometric.nn import GIN, MLP, Sequential, global_add_pool

    net = Sequential(
        "x, edge_index, batch",
        [
            (GIN(WIDTH, WIDTH, num_layers=2), "x, edge_index -> x"),
            (global_add_pool, "x, batch -> x"),
            MLP([WIDTH, WIDTH, CLASSES], norm=None),
        ],
    )

    def step(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        logits = module(batch.x, batch.edge_index, batch.batch)
        return nn.functional.cross_entropy(logits, batch.y), logits

    return Thin(net, step)


def attentive() -> Thin:
    from torch_geometric.nn import AttentiveFP

    def step(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        logits = module(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
        return nn.functional.cross_entropy(logits, batch.y), logits

    return Thin(AttentiveFP(WIDTH, WIDTH, CLASSES, 2, num_layers=2, num_timesteps=1), step)


# One graph, whose nodes have a label each: some are trained on, others validated


def nodes() -> Any:
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader

    y = labels_in_turn(60)
    edges = torch.randint(0, 60, (2, 400))
    edges = edges[:, (y[edges[0]] == y[edges[1]]) | (torch.rand(400) < 0.1)]
    is_trained = torch.rand(60) < 0.5
    graph = Data(
        x=torch.randn(60, WIDTH) + y[:, None], edge_index=edges, y=y, train_mask=is_trained,
        val_mask=~is_trained,
    )  # fmt: skip
    return DataLoader([graph]), DataLoader([graph])


def node_step(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    logits = module(batch.x, batch.edge_index)
    mask = batch.train_mask if module.training else batch.val_mask
    return nn.functional.cross_entropy(logits[mask], batch.y[mask]), logits


def neighborhoods() -> Any:
    """As NeighborLoader makes them: the nodes of the batch first, then those that they are told by."""
    from torch_geometric.data import Data

    def one(seeds: int) -> Any:
        y = torch.cat([labels_in_turn(seeds), torch.randint(0, CLASSES, (20,))])
        edges = torch.randint(0, len(y), (2, 200))
        edges = edges[:, y[edges[0]] == y[edges[1]]]
        x = torch.randn(len(y), WIDTH) + y[:, None]
        return Data(x=x, edge_index=edges, y=y, batch_size=seeds)

    parts = [[one(seeds) for seeds in sizes] for sizes in ((9, 12, 9), (9, 7))]
    return [torch.utils.data.DataLoader(part, batch_size=None) for part in parts]


def seed_step(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    logits = module(batch.x, batch.edge_index)
    count = batch.batch_size
    return nn.functional.cross_entropy(logits[:count], batch.y[:count]), logits


def seeds(batch: Any) -> Tensor:
    return torch.arange(batch.batch_size)


def gnn(name: str, step: Any = node_step, **settings: Any) -> Thin:
    import torch_geometric.nn

    net = getattr(torch_geometric.nn, name)(WIDTH, WIDTH, 2, CLASSES, **settings)
    return Thin(net, step)


def masked_head(path: str, decided: str = "", mask: Any = lambda batch: batch.val_mask) -> Truth:
    """Some nodes alone, with the decisions of another module where the head's are none."""

    def rows(calls: dict[str, list[Call]], batch: Any) -> Rows:
        h, z = calls[path][0].x, calls[decided or path][-1].output
        counts = mask(batch)
        return h[counts], batch.y[counts], z[counts].argmax(-1)

    return Truth(tuple({path, decided or path}), rows, weight_at(path))


def decided_by_network(batch: Any, outputs: Any) -> Tensor:
    return outputs["logits"].argmax(-1)


# Molecules


def molecules() -> Any:
    from chemprop import data, featurizers

    points = [
        data.MoleculeDatapoint.from_smi(SMILES[i % 12], [float(label)])
        for i, label in enumerate(labels_in_turn())
    ]
    featurizer = featurizers.SimpleMoleculeMolGraphFeaturizer()
    parts = [data.MoleculeDataset(part, featurizer) for part in (points[:20], points[20:])]
    settings = {"batch_size": 10, "num_workers": 0}
    return (
        data.build_dataloader(parts[0], **settings),
        data.build_dataloader(parts[1], shuffle=False, **settings),
    )


def mpnn() -> Any:
    from chemprop import models
    from chemprop import nn as parts

    message = parts.BondMessagePassing(d_h=16, depth=2)
    predictor = parts.MulticlassClassificationFFN(CLASSES, input_dim=16, hidden_dim=12)
    return models.MPNN(message, parts.MeanAggregation(), predictor)


def column_of_y(batch: Any) -> Tensor:
    return batch.Y[:, 0]


MASKS = {"train_online": "train_mask", "val": "val_mask"}

OTHER_LABELS = "labels in the batch to be those of the classifier's loss"

GRAPHS = (
    Model(
        "GIN graph classification", "torch_geometric", gin, graphs,
        head_at("net.module_2.lins.1", named_y),
        refused="'net.module_2.lins.1'", remedy={"classifier": "net.module_2.lins.1"},
    ),
    Model("AttentiveFP", "torch_geometric", attentive, graphs, head_at("net.lin2", named_y)),
    Model(
        "GraphSAGE node classification", "torch_geometric", lambda: gnn("GraphSAGE", jk="cat"), nodes,
        masked_head("net.lin"), refused=OTHER_LABELS, remedy={"mask": MASKS},
    ),
    Model(
        "GraphSAGE on sampled neighborhoods", "torch_geometric",
        lambda: gnn("GraphSAGE", seed_step, jk="cat"), neighborhoods,
        masked_head("net.lin", mask=seeds),
    ),
    Model(
        "GCN node classification", "torch_geometric", lambda: gnn("GCN"), nodes,
        masked_head("net.convs.1.lin", "net"),
        refused="'net.convs.1.lin'",
        remedy={
            "mask": MASKS, "classifier": "net.convs.1.lin",
            "predicted": "graph_cells.decided_by_network",
        },
    ),
    Model(
        "chemprop MPNN", "chemprop", mpnn, molecules, head_at("predictor.ffn.1.2", column_of_y),
        refused="labels as a tensor in the batch, but got a TrainingBatch",
        remedy={"target": "Y", "forwards": "first"},
    ),
)  # fmt: skip
