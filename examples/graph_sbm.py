"""Nodes of graphs: collapse through the layers of a graph network, which stays partial.

    python examples/graph_sbm.py [--quick] [--seed 0] [--out graph_sbm.png] [--dir runs/graphs]

A network of ten layers finds the two communities of random graphs, stochastic block models, from noise
as features. NC1 and the trace ratio fall from layer to layer on new graphs, and stay far from those of
a classifier of digits. Beside it: the steps of spectral methods; heterophilic graphs, most of whose
edges are between the communities; graphs that admit exact collapse, on which features that are free
collapse and those of a network do not; and the members of a karate club, of whom four are labeled. It
takes a minute and a half on one CPU core and needs torch_geometric and scikit-learn.
"""

import argparse
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import lightning as L
import torch
from claims import Claim, print_claims, print_reduced, print_remarks, trainer
from intermediate_layers import Classifier, perceptron
from intermediate_layers import loaders as digits
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.datasets import KarateClub
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCNConv, GraphConv
from torch_geometric.utils import to_dense_adj

from lightning_nc import ClassStatistics, History, NeuralCollapseCallback, functional
from lightning_nc.figures import DepthCurve, graph_depth
from lightning_nc.functional.graph import (
    bethe_hessian_steps,
    condition_gap,
    laplacian_steps,
    neighborhood_mean,
    overlap,
    planted_regular_graph,
    sample_stochastic_block_model,
)

NODES, CLASSES, WIDTH, DEPTH = 400, 2, 8, 10
TRAINING, NEW = 160, 20  # graphs
QUICK_TRAINING, QUICK_NEW = 32, 6
OFTEN, RARE = 3.75 * math.log(NODES) / NODES, 0.25 * math.log(NODES) / NODES
WITHIN, BETWEEN = (
    11,
    1,
)  # neighbors of each node of a regular graph, as many as the others have on average
LAYERS = {0: "proj"} | {i + 1: f"convs.{i}" for i in range(DEPTH)}
POOLS = ["nodes", "neighborhood_mean"]
TITLES = {"nodes": "nodes", "neighborhood_mean": "means over neighbors"}
RATIO = "graph/within_between_ratio_log10"
ENDS_OF_SPECTRUM = {"": False, ", other end": True}  # where heterophilic communities are
SPECTRAL = {"normalized Laplacian": laplacian_steps, "Bethe-Hessian": bethe_hessian_steps}
FREE_NODES, FREE_GRAPHS, PENALTY = 120, 4, 5e-3
KOTHAPALLI, PAPYAN = "Kothapalli et al. 2023", "Papyan et al. 2020"


class Setting(NamedTuple):
    """On which graphs a network is trained, and with which loss."""

    loss: str = "MSE"
    graphs: str = "homophilic"
    epochs: int = 8


SETTINGS = {
    "MSE": Setting(),
    "CE": Setting("CE"),
    "heterophilic": Setting(graphs="heterophilic"),
    "regular": Setting(graphs="regular"),
}
QUICK, QUICK_EPOCHS = ("MSE",), 4
DIGITS_EPOCHS, KARATE_EPOCHS = 60, 200
KARATE = {
    "accuracy": "nc0/accuracy", "NC1": "nc1/within_between_pinv",
    "trace ratio": "nc1/within_between_ratio",
}  # fmt: skip


def draw_graph(kind: str, numbers: torch.Generator) -> Data:
    """A graph of two communities, each pair of nodes drawn once, with noise as features."""
    if kind == "regular":
        edges, labels = planted_regular_graph(NODES, CLASSES, WITHIN, BETWEEN, numbers)
    else:
        within, between = (OFTEN, RARE) if kind == "homophilic" else (RARE, OFTEN)
        edges, labels = sample_stochastic_block_model(NODES, CLASSES, within, between, numbers)
    return Data(torch.randn(NODES, WIDTH, generator=numbers), edges, y=labels)


class Layer(nn.Module):
    """What a node and the mean of its neighbors tell, W1 H + W2 H A, then ReLU and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GraphConv(WIDTH, WIDTH, aggr="mean", bias=False)
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, h: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(h, edge_index).relu())


class GraphNetwork(L.LightningModule):
    """Ten layers between two linear maps; which community is which means nothing to its loss.

    In validation BatchNorm stays in train mode, as in the published model, but learns nothing from the
    new graphs. The test is in eval mode.
    """

    def __init__(self, loss: str) -> None:
        super().__init__()
        self.loss = {"MSE": squared_error, "CE": nn.functional.cross_entropy}[loss]
        self.proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.convs = nn.ModuleList(Layer() for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, CLASSES, bias=False)

    def forward(self, graph: Data) -> torch.Tensor:
        h = self.proj(graph.x)
        for layer in self.convs:
            h = layer(h, graph.edge_index)
        return self.head(h)

    def training_step(self, graph: Data, batch_idx: int) -> torch.Tensor:
        return least_over_permutations(self.loss, self(graph), graph.y)

    def validation_step(self, graph: Data, batch_idx: int) -> None:
        self(graph)

    test_step = validation_step

    def on_validation_model_eval(self) -> None:
        super().on_validation_model_eval()
        self._have_norms(learn=False)

    def on_validation_model_train(self) -> None:
        super().on_validation_model_train()
        self._have_norms(learn=True)

    def _have_norms(self, learn: bool) -> None:
        for layer in self.convs:
            layer.norm.train().track_running_stats = learn

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=4e-3, momentum=0.9, weight_decay=5e-4)


def squared_error(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (outputs - nn.functional.one_hot(labels, CLASSES)).square().sum(1).mean() / 2


def least_over_permutations(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    outputs: torch.Tensor, labels: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Of all orders of the classes, the loss of the one that fits best."""
    orders = itertools.permutations(range(CLASSES))
    return torch.stack([loss(outputs, labels.new_tensor(order)[labels]) for order in orders]).min()


class Result(NamedTuple):
    """What is left of a run: averages over training graphs, new graphs, and these in eval mode."""

    history: History
    new: Sequence[Data]

    def last(self, measure: str, stage: str = "val") -> float:
        return self.history[f"graph/{measure}/{stage}"][-1].value

    def ratio(self, stage: str = "val") -> float:
        """The trace ratio of the head's input, whose log10 is averaged."""
        return 10 ** self.last("within_between_ratio_log10", stage)

    def curve(self, pool: str = "nodes") -> DepthCurve:
        return DepthCurve.of_history(self.history, "val", LAYERS, pool)


def train(name: str, setting: Setting, options: argparse.Namespace) -> Result:
    numbers = torch.Generator().manual_seed(options.seed)
    training, new = (QUICK_TRAINING, QUICK_NEW) if options.quick else (TRAINING, NEW)
    graphs = [draw_graph(setting.graphs, numbers) for _ in range(training + new)]
    known, new = graphs[:training], graphs[training:]
    L.seed_everything(options.seed, verbose=False)
    often = setting.epochs // 2
    collapse = NeuralCollapseCallback(
        classifier="head", target="y", layers={"proj": POOLS, "convs.*": POOLS},
        every_n_epochs=often, figures_every_n_epochs=0,
    )  # fmt: skip
    run = trainer(
        collapse, max_epochs=setting.epochs, check_val_every_n_epoch=often, log_every_n_steps=1
    )
    run.logger = TensorBoardLogger(options.dir, name=name)
    model = GraphNetwork(setting.loss)
    # one graph in a batch, as BatchNorm would share what it knows with the others
    run.fit(model, DataLoader(known, shuffle=True), DataLoader(new))
    run.test(model, DataLoader(new), verbose=False)
    return Result(collapse.history, new)


class Steps(NamedTuple):
    """A spectral method on some graphs."""

    curve: DepthCurve
    overlap: float  # after its last step


def spectral(name: str, graphs: Sequence[Data], heterophilic: bool = False) -> Steps:
    """As many steps as the network has layers; their only feature is an eigenvector, nearly."""
    logs, overlaps = [], []
    for i, graph in enumerate(graphs):
        numbers = torch.Generator().manual_seed(i)
        nodes, steps = graph.num_nodes, SPECTRAL[name]
        features = steps(graph.edge_index, nodes, DEPTH, heterophilic, numbers)
        logs.append([log10_of_both(step[:, None], graph.y) for step in features.T])
        overlaps.append(overlap((features[:, -1] > 0).long(), graph.y, CLASSES))
    values = torch.tensor(logs, dtype=torch.float64)
    mean, error = values.mean(0), values.std(0) / math.sqrt(len(graphs))
    columns = (tuple(column.tolist()) for column in (*mean.T, *error.T))
    return Steps(
        DepthCurve(name, tuple(range(1, DEPTH + 1)), *columns), float(sum(overlaps)) / len(graphs)
    )


def all_steps(runs: dict[str, Result]) -> dict[str, Steps]:
    """On the graphs that are new to the networks; on heterophilic ones towards either end."""
    found = {name: spectral(name, runs["MSE"].new) for name in SPECTRAL}
    if "heterophilic" in runs:
        for name, (end, is_other) in itertools.product(SPECTRAL, ENDS_OF_SPECTRUM.items()):
            steps = spectral(name, runs["heterophilic"].new, is_other)
            found[f"heterophilic, {name}{end}"] = steps
    return found


def log10_of_both(features: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Of the trace ratio, and of NC1."""
    statistics = ClassStatistics.from_batch(features, labels, CLASSES)
    values = functional.within_between_ratio(statistics), functional.within_between_pinv(statistics)
    return math.log10(values[0]), math.log10(values[1])


class Free(NamedTuple):
    """Trace ratios of features that are free, averaged over graphs, at a minimum of the objective."""

    nodes: float
    neighborhoods: float
    gap: float  # largest condition gap of a graph


def unconstrained(kind: str, with_own: bool, seed: int) -> Free:
    """(1/2N) |W1 H + W2 H A - Y|^2 + (penalty / 2) (|H|^2 + |W1|^2 + |W2|^2), or that without W1."""
    numbers = torch.Generator().manual_seed(seed)
    graphs = [free_graph(kind, numbers) for _ in range(FREE_GRAPHS)]
    together = Batch.from_data_list(graphs)
    adjacency = to_dense_adj(together.edge_index, max_num_nodes=together.num_nodes)[0].double()
    means = (adjacency / adjacency.sum(0).clamp(min=1)).T
    targets = nn.functional.one_hot(together.y, CLASSES)
    sizes = [(len(targets), WIDTH), (WIDTH, CLASSES), (WIDTH, CLASSES)][: 2 + with_own]
    free = [0.3 * torch.randn(size, dtype=torch.float64, generator=numbers) for size in sizes]
    h, of_neighbors, *own = (tensor.requires_grad_() for tensor in free)

    def objective() -> torch.Tensor:
        outputs = means @ h @ of_neighbors + sum(h @ weight for weight in own)
        penalty = PENALTY / 2 * sum(tensor.square().sum() for tensor in free)
        return (outputs - targets).square().sum() / (2 * len(targets)) + penalty

    descend(objective, free)
    ratios = [
        (trace_ratio(rows, graph.y), trace_ratio(neighborhood_mean(rows, graph.edge_index), graph.y))
        for rows, graph in zip(h.detach().split(FREE_NODES), graphs, strict=True)
    ]
    gap = max(float(condition_gap(graph.edge_index, graph.y)) for graph in graphs)
    return Free(*(sum(values) / len(graphs) for values in zip(*ratios, strict=True)), gap)


def free_graph(kind: str, numbers: torch.Generator) -> Data:
    """8 neighbors in its own community and 2 in the other: of each node, or expected."""
    size = FREE_NODES // CLASSES
    if kind == "regular":
        edges, labels = planted_regular_graph(FREE_NODES, CLASSES, 8, 2, numbers)
    else:
        p, q = 8 / (size - 1), 2 / size
        edges, labels = sample_stochastic_block_model(FREE_NODES, CLASSES, p, q, numbers)
    return Data(edge_index=edges, y=labels, num_nodes=FREE_NODES)


def descend(objective: Callable[[], torch.Tensor], free: Sequence[torch.Tensor]) -> None:
    """To where the gradient is below 1e-9."""
    optimizer = torch.optim.LBFGS(
        free, max_iter=1000, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=1e-9,
        tolerance_change=0,
    )  # fmt: skip

    def evaluated() -> torch.Tensor:
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    optimizer.step(evaluated)


def trace_ratio(features: torch.Tensor, labels: torch.Tensor) -> float:
    return float(functional.within_between_ratio(ClassStatistics.from_batch(features, labels, CLASSES)))


def classify_digits(seed: int) -> float:
    """The trace ratio of a perceptron's features, of the digits that it learned, in eval mode."""
    L.seed_everything(seed, verbose=False)
    collapse = NeuralCollapseCallback(
        online=False, frozen_every_n_epochs=DIGITS_EPOCHS, measures=["nc1/within_between_ratio"],
        figures_every_n_epochs=0,
    )  # fmt: skip
    run = trainer(collapse, max_epochs=DIGITS_EPOCHS, limit_val_batches=0)
    run.fit(Classifier(perceptron(), DIGITS_EPOCHS), *digits(seed))
    return collapse.history["nc1/within_between_ratio/train"][-1].value


class Members(L.LightningModule):
    """Three layers for the 34 members of a club, who are all the input that there is."""

    def __init__(self, members: int, classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(GCNConv(a, 16) for a in (members, 16, 16))
        self.head = nn.Linear(16, classes)

    def forward(self, graph: Data) -> torch.Tensor:
        h = graph.x
        for conv in self.convs:
            h = conv(h, graph.edge_index).tanh()
        return self.head(h)

    def training_step(self, graph: Data, batch_idx: int) -> torch.Tensor:
        labeled = graph.train_mask
        return nn.functional.cross_entropy(self(graph)[labeled], graph.y[labeled])

    def validation_step(self, graph: Data, batch_idx: int) -> None:
        self(graph)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def classify_members(options: argparse.Namespace) -> History:
    """One graph, of whose nodes four are labeled; the others are for validation."""
    L.seed_everything(options.seed, verbose=False)
    graph = KarateClub()[0]
    graph.val_mask = ~graph.train_mask
    collapse = NeuralCollapseCallback(
        classifier="head", target="y", mask={"train_online": "train_mask", "val": "val_mask"},
        layers={"convs.*": POOLS}, every_n_epochs=KARATE_EPOCHS // 20, figures_every_n_epochs=0,
    )  # fmt: skip
    run = trainer(
        collapse, max_epochs=KARATE_EPOCHS, check_val_every_n_epoch=KARATE_EPOCHS // 20,
        log_every_n_steps=1,
    )  # fmt: skip
    run.logger = TensorBoardLogger(options.dir, name="karate")
    model = Members(graph.num_nodes, int(graph.y.max()) + 1)
    run.fit(model, DataLoader([graph]), DataLoader([graph]))
    return collapse.history


class Results(NamedTuple):
    """Of all parts; what a reduced run leaves out is missing."""

    runs: dict[str, Result]
    steps: dict[str, Steps]
    free: dict[str, Free]
    digits: float | None
    karate: History | None


LEGEND = """\
Graphs of 400 nodes in two communities. A node has 12 neighbors, 11 of them in its own community, or in
the other one if the graph is heterophilic: on average, and exactly so if it is regular. Features are
noise. MSE and CE are losses on homophilic graphs; all others are of MSE. Averages over graphs of
  trace ratio  tr Sw / tr Sb, nodes about their class means against class means about theirs; its log10
               is averaged
  NC1          tr(Sw Sb+)/C, likewise: of two communities, along the one direction that tells them
  overlap      accuracy for the best order of the communities: 0 by chance, 1 at best
  snr          of the head's outputs: class means against what a node adds to its own
  gap          how far a graph is from admitting exact collapse: of the shares of neighbors in a
               community, the largest standard deviation over the nodes of one
BatchNorm uses the statistics that each new graph has; in eval mode, those that it has learned."""
ENDS = {
    "ratio": ("val", "within_between_ratio_log10"), "NC1": ("val", "within_between_pinv_log10"),
    "train ratio": ("train_online", "within_between_ratio_log10"),
    "overlap": ("val", "overlap"), "train overlap": ("train_online", "overlap"),
    "eval overlap": ("test", "overlap"), "snr": ("val", "snr"), "gap": ("val", "condition_gap"),
}  # fmt: skip
REMARKS = {
    "regular": "A network starts from noise, and keeps some of it: that a graph admits exact collapse "
    "shows in free features, not there.",
    "heterophilic": "Heterophilic communities are at the other end of the spectrum, where plain "
    "power iteration does not go.",
}


def print_curve(name: str, curve: DepthCurve) -> None:
    by_depth = dict(zip(curve.depths, curve.ratio_log10, strict=True))
    cells = (f"{by_depth[i]:.2f}" if i in by_depth else "" for i in range(DEPTH + 1))
    print(f"{name:<44}" + "".join(f"{cell:>7}" for cell in cells), flush=True)


def print_end(name: str, result: Result) -> None:
    values = (
        10 ** result.last(measure, stage) if measure.endswith("log10") else result.last(measure, stage)
        for stage, measure in ENDS.values()
    )
    print(f"{name:<14}" + "".join(f"{value:>15.3g}" for value in values))


def print_free(free: dict[str, Free]) -> None:
    print("\nFeatures that are free, at a minimum of the objective: trace ratios, and the largest gap")
    print(f"{'':<18}{'nodes':>12}{'neighbors':>12}{'gap':>12}")
    for kind, found in free.items():
        print(f"{kind:<18}" + "".join(f"{value:>12.2g}" for value in found))


def print_karate(history: History) -> None:
    print("\nThe 30 members of a karate club whose group was not told, by epoch")
    for name, key in KARATE.items():
        entries = [history[f"{key}/val"][i] for i in (0, 4, 9, 14, 19)]
        print(f"{name:<14}" + "".join(f"{entry.epoch + 1:>8}: {entry.value:.3f}" for entry in entries))
    for pool, title in TITLES.items():
        keys = [f"{KARATE['trace ratio']}/val/convs.{i}.{pool}" for i in range(3)]
        by_layer = ", ".join(f"{history[key][-1].value:.3f}" for key in keys)
        print(f"trace ratio by layer, {title}: {by_layer}")


def claims(results: Results) -> list[Claim]:
    found = [claim for name, result in results.runs.items() for claim in claims_of_run(name, result)]
    found += claims_of_partial(results)
    found += claims_of_steps(results)
    for kind, free in results.free.items():
        collapses = kind.startswith("regular")
        found.append(
            Claim(
                f"free features, {kind}: "
                + ("collapse, to below 1e-9" if collapses else "stay above 1e-3"),
                KOTHAPALLI, f"{free.nodes:.1e}, and {free.neighborhoods:.1e}",
                max(free[:2]) < 1e-9 if collapses else min(free[:2]) > 1e-3,
            )
        )  # fmt: skip
    gaps = [results.free[kind].gap for kind in ("regular", "random")]
    found.append(
        Claim(
            "free features: the condition gap is 0 just for the regular graphs", KOTHAPALLI,
            f"{gaps[0]:.1g}, and {gaps[1]:.2f}", gaps[0] == 0 < gaps[1],
        )
    )  # fmt: skip
    return found + (claims_of_karate(results.karate) if results.karate is not None else [])


def claims_of_run(name: str, result: Result) -> list[Claim]:
    nodes, means = (result.curve(pool).ratio_log10 for pool in POOLS)
    overlaps = [result.last("overlap", stage) for stage in ("train_online", "val", "test")]
    return [
        Claim(
            f"{name}: the trace ratio of new graphs falls from every second layer to the next",
            KOTHAPALLI, ", ".join(f"{value:.1f}" for value in nodes),
            all(b < a for a, b in zip(nodes, nodes[2:], strict=False)),
        ),
        Claim(
            f"{name}: collapse is partial, the trace ratio of new graphs ends above 0.1", KOTHAPALLI,
            f"{result.ratio():.2f}, training graphs {result.ratio('train_online'):.2f}",
            result.ratio() > 0.1,
        ),
        Claim(
            f"{name}: means over neighbors have a smaller trace ratio than nodes, after each layer",
            "what averaging suggests",
            f"at the end {10 ** means[-1]:.3f}, and {10 ** nodes[-1]:.2f}",
            all(mean < node for mean, node in zip(means, nodes, strict=True)),
        ),
        Claim(
            f"{name}: new graphs are told as training graphs are (overlap above 0.95)", KOTHAPALLI,
            f"{overlaps[1]:.3f}, training graphs {overlaps[0]:.3f}", min(overlaps[:2]) > 0.95,
        ),
        Claim(
            f"{name}: new graphs are told in eval mode as well (overlap above 0.95)",
            "what eval mode suggests", f"{overlaps[2]:.3f}", overlaps[2] > 0.95,
        ),
    ]  # fmt: skip


def claims_of_partial(results: Results) -> list[Claim]:
    found = []
    if results.digits is not None:
        text = "a classifier of digits: its trace ratio is below 0.01"
        found.append(Claim(text, PAPYAN, f"{results.digits:.4f}", results.digits < 0.01))
    if "regular" in results.runs:
        ratios = [results.runs[name].ratio("train_online") for name in ("regular", "MSE")]
        found.append(
            Claim(
                "regular: training graphs that admit collapse bring the network to below a tenth of "
                "the trace ratio of others", "what free features suggest",
                f"{ratios[0]:.2f}, and {ratios[1]:.2f}", ratios[0] < ratios[1] / 10,
            )
        )  # fmt: skip
    return found


def claims_of_steps(results: Results) -> list[Claim]:
    found, network = [], results.runs["MSE"]
    for name in SPECTRAL:
        curve, correct = results.steps[name]
        found += [
            Claim(
                f"{name}: after ten steps a lower trace ratio than after the network's ten layers",
                KOTHAPALLI, f"{10 ** curve.ratio_log10[-1]:.2f}, and {network.ratio():.2f}",
                10 ** curve.ratio_log10[-1] < network.ratio(),
            ),
            Claim(
                f"{name}: but a lower overlap", "what too few steps suggest",
                f"{correct:.3f}, and {network.last('overlap'):.3f}", correct < network.last("overlap"),
            ),
        ]  # fmt: skip
    for name in (name for name in results.steps if name.startswith("heterophilic")):
        correct = results.steps[name].overlap
        text = f"{name}: finds the communities (overlap above 0.5)"
        found.append(Claim(text, "what homophilic graphs suggest", f"{correct:.3f}", correct > 0.5))
    return found


def claims_of_karate(history: History) -> list[Claim]:
    accuracy, nc1, ratio = ([entry.value for entry in history[f"{x}/val"]] for x in KARATE.values())
    return [
        Claim(
            "karate: members whose group was not told are recognized (accuracy above 0.7)",
            "what classifiers suggest", f"{accuracy[0]:.2f} to {accuracy[-1]:.2f}", accuracy[-1] > 0.7,
        ),
        Claim(
            "karate: and their NC1 falls to below a half", "what classifiers suggest",
            f"{nc1[0]:.2f} to {nc1[-1]:.2f}, but the trace ratio goes from {ratio[0]:.2f} to "
            f"{ratio[-1]:.2f}", nc1[-1] < nc1[0] / 2,
        ),
    ]  # fmt: skip


def draw(results: Results, path: str) -> None:
    network = results.runs["MSE"]
    curves = [*(network.curve(pool) for pool in POOLS), *(results.steps[x].curve for x in SPECTRAL)]
    epoch = network.history[f"{RATIO}/val"][-1].epoch
    figure, (_, ratio) = graph_depth(curves, "val", epoch)
    if results.digits is not None:
        ratio.axhline(results.digits, color="0.45", lw=1, ls=":")
        ratio.annotate(
            "a classifier of digits", (0.02, results.digits), (0, 3),
            xycoords=ratio.get_yaxis_transform(), textcoords="offset points", fontsize=8, color="0.45",
        )  # fmt: skip
    figure.savefig(path, dpi=120)


def run_all(options: argparse.Namespace) -> Results:
    runs, quick, seed = {}, options.quick, options.seed
    print("log10 of the trace ratio of new graphs, after so many layers or steps")
    print(f"{'':<44}" + "".join(f"{depth:>7}" for depth in range(DEPTH + 1)))
    for name in QUICK if quick else SETTINGS:
        setting = SETTINGS[name]._replace(epochs=QUICK_EPOCHS) if quick else SETTINGS[name]
        runs[name] = train(name, setting, options)
        for pool in POOLS:
            print_curve(f"{name}, {TITLES[pool]}", runs[name].curve(pool))
    steps = all_steps(runs)
    for name, each in steps.items():
        print_curve(name, each.curve)
    print("\nAt the end" + f"{'':<4}" + "".join(f"{title:>15}" for title in ENDS))
    for name, result in runs.items():
        print_end(name, result)
    free = {}
    for kind, end in itertools.product(("regular", "random"), ("",) if quick else ("", ", no W1")):
        free[kind + end] = unconstrained(kind, not end, seed)
    print_free(free)
    if quick:
        return Results(runs, steps, free, digits=None, karate=None)
    karate = classify_members(options)
    print_karate(karate)
    return Results(runs, steps, free, classify_digits(seed), karate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one network, fewer graphs and epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="graph_sbm.png", help="where the figure goes")
    parser.add_argument("--dir", default="runs/graphs", help="where the TensorBoard logs go")
    options = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small lose by being shared out

    print(LEGEND + "\n")
    results = run_all(options)
    if options.quick:
        print_reduced(
            f"{len(QUICK)} of {len(SETTINGS)} settings with {QUICK_TRAINING} of {TRAINING} graphs and "
            f"{QUICK_EPOCHS} of {SETTINGS[QUICK[0]].epochs} epochs, no digits, no karate club"
        )
    print_claims(claims(results))
    print_remarks(text for name, text in REMARKS.items() if name in results.runs)
    draw(results, options.out)
    print(f"\nWrote {options.out}; tensorboard --logdir {options.dir}")


if __name__ == "__main__":
    main()
