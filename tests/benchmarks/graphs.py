"""Training a graph network with the callback on its layers, against training without.

Ten layers, each with the nodes and the means over their neighbors; one graph a step, as in Kothapalli,
Tirer and Bruna (2023). Epoch by epoch in one run, every other epoch measured.
"""

import math

import torch
from measure import Row
from torch import nn
from training import EVERY_OTHER, against_neighbors

from lightning_nc.functional.graph import sample_stochastic_block_model

GRAPHS, LAYERS, INPUTS = 160, 10, 8
CASES = {(400, 8): 1.15, (1000, 8): None, (1000, 32): None}
"""Nodes and width, and what it may cost."""
SETTINGS = {**EVERY_OTHER, "target": "y", "layers": {"body.norms.*": ["nodes", "neighborhood_mean"]}}


class Deep(nn.Module):
    """Mean over the neighbors and the node itself, ReLU, BatchNorm."""

    def __init__(self, width):
        super().__init__()
        from torch_geometric.nn import GraphConv

        self.inputs = nn.Linear(INPUTS, width, bias=False)
        convs = [GraphConv(width, width, aggr="mean", bias=False) for _ in range(LAYERS)]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(LAYERS))

    def forward(self, graph):
        x = self.inputs(graph.x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x, graph.edge_index).relu())
        return x


def made(nodes, width):
    """A network, and a loader of graphs with homophilic communities."""
    import lightning as L
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader

    class Network(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.body, self.classifier = Deep(width), nn.Linear(width, 2, bias=False)

        def training_step(self, batch, batch_idx):
            outputs = self.classifier(self.body(batch))
            losses = [  # of both orders of the communities, as in examples/graph_sbm.py
                (outputs - nn.functional.one_hot(y, 2)).square().sum(1).mean() / 2
                for y in (batch.y, 1 - batch.y)
            ]
            return torch.stack(losses).min()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.004, momentum=0.9, weight_decay=5e-4)

    generator = torch.Generator().manual_seed(0)
    p, q = 3.75 * math.log(nodes) / nodes, 0.25 * math.log(nodes) / nodes
    drawn = [sample_stochastic_block_model(nodes, 2, p, q, generator) for _ in range(GRAPHS)]
    graphs = [
        Data(x=torch.randn(nodes, INPUTS, generator=generator), edge_index=edges, y=y)
        for edges, y in drawn
    ]
    return Network(), DataLoader(graphs, 1)


def run(quick, device):
    """Rows by nodes and width; none of them where it has to be quick."""
    for (nodes, width), goal in () if quick else CASES.items():  # a minute each
        values, without = against_neighbors(
            lambda nodes=nodes, width=width: made(nodes, width), 5, device, **SETTINGS
        )
        case = f"{LAYERS} layers, {nodes} nodes, width {width}"
        yield Row.of("graphs", case, "with / without", values, goal)
        yield Row.of("graphs", case, "epoch without, ms", [1e3 * s for s in without])
