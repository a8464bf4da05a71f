"""Watch two networks collapse layer by layer, and try what papers say of collapse at depth.

    python examples/intermediate_layers.py [--quick] [--seed 0] [--out intermediate_layers.png]

A perceptron of seven hidden layers and a network of five convolutions learn 1,200 handwritten digits.
What goes into each layer is measured after the first and after the last epoch, on the training images
in eval mode and on 597 others, each with class means of its own. What goes into a convolution is
measured as its averages over the image. It takes a minute and a half on one CPU core and needs
scikit-learn.
"""

import argparse
import itertools
from typing import NamedTuple

import lightning as L
import torch
from claims import Claim, print_claims, trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_nc import History, NeuralCollapseCallback
from lightning_nc.functional.layers import SeparationLaw, collapse_begins, separation_law

EPOCHS = 150
FIRST, LAST = 0, -1
BLUE, GREEN, ORANGE, GRAY = "#0072B2", "#009E73", "#E69F00", "0.6"


def perceptron() -> nn.Sequential:
    widths = [64] + [96] * 7
    layers = [
        nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())
        for a, b in itertools.pairwise(widths)
    ]
    return nn.Sequential(nn.Flatten(), *layers)


def convolutions() -> nn.Sequential:
    channels, strides = [1, 32, 32, 64, 64, 96], [1, 1, 2, 1, 1]
    layers = [
        nn.Sequential(nn.Conv2d(a, b, 3, stride, padding=1), nn.BatchNorm2d(b), nn.ReLU())
        for (a, b), stride in zip(itertools.pairwise(channels), strides, strict=True)
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


NETWORKS = {"perceptron": perceptron, "convolutions": convolutions}
INPUTS = {"perceptron": "the images", "convolutions": "brightness"}


class Classifier(L.LightningModule):
    """A body, whose layers are measured, and a linear classifier on 96 features."""

    def __init__(self, body: nn.Sequential, epochs: int) -> None:
        super().__init__()
        self.body, self.epochs = body, epochs
        self.head = nn.Linear(96, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, label = batch
        return nn.functional.cross_entropy(self(images), label)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-3)
        milestones = [self.epochs // 3, 2 * self.epochs // 3]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def loaders(seed: int) -> tuple[DataLoader, DataLoader]:
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    data = TensorDataset(images, torch.tensor(labels))
    train, val = random_split(data, [1200, 597], generator=torch.Generator().manual_seed(seed))
    return DataLoader(train, 120, shuffle=True), DataLoader(val, 597)


class Depths(NamedTuple):
    """One measure at each depth: the images first, the classifier's input last."""

    history: History
    layers: list[str]

    def of(self, measure: str, stage: str = "train", when: int = LAST) -> list[float]:
        keys = [f"{measure}/{stage}/{layer}" for layer in self.layers]
        return [self.history[key][when].value for key in [*keys, f"{measure}/{stage}"]]


def train(name: str, epochs: int, seed: int) -> Depths:
    L.seed_everything(seed, verbose=False)
    # what goes into the first module of each block is the image, or the features of the block below
    collapse = NeuralCollapseCallback(
        layers=["body.*.0:in"], measures=["layer", "nc4/ncc_accuracy"], online=False,
        frozen_every_n_epochs=epochs, every_n_epochs=epochs,
    )  # fmt: skip
    body = NETWORKS[name]()
    layers = [f"body.{i}.0.in" for i, block in enumerate(body) if isinstance(block, nn.Sequential)]
    trainer(collapse, max_epochs=epochs).fit(Classifier(body, epochs), *loaders(seed))
    return Depths(collapse.history, layers)


def law_of(depths: Depths) -> SeparationLaw:
    return separation_law(depths.of("layer/separation"))


def claims(name: str, depths: Depths) -> list[Claim]:
    shares = depths.of("layer/within_share")
    aligned, chance = (depths.of(f"layer/subspace_{kind}_centered") for kind in ("alignment", "chance"))
    excess = [a - b for a, b in zip(aligned, chance, strict=True)][-3:]
    nearest = depths.of("nc4/ncc_accuracy", "val")
    begins, law = collapse_begins(shares), law_of(depths)
    begun = "at no layer" if begins is None else f"at layer {begins} of {len(shares) - 1}"
    rangamani, he = "Rangamani et al. 2023", "He & Su 2023"
    return [
        Claim(
            f"{name}: the within-class share of the variance falls from layer to layer", rangamani,
            f"{shares[0]:.3f} at the input, {shares[-1]:.4f} at the top", _falls(shares),
        ),
        Claim(
            f"{name}: and all but vanishes at the top (below 0.01)", rangamani,
            f"{shares[-1]:.4f}", shares[-1] < 0.01,
        ),
        Claim(
            f"{name}: collapse begins below the top (a tenth of the input's share)", rangamani,
            f"begins {begun}", begins is not None and begins < len(shares) - 1,
        ),
        Claim(
            f"{name}: the top three weights act on the span of the class means (alignment above "
            "chance by 0.3)", rangamani,
            "above chance by " + ", ".join(f"{value:.2f}" for value in excess), min(excess) > 0.3,
        ),
        Claim(
            f"{name}: the deeper, the better decides the nearest class mean on new images (never "
            "1% worse than the layer below)", rangamani,
            f"{nearest[0]:.3f} at the input, {nearest[-1]:.3f} at the top",
            all(b > a - 0.01 for a, b in itertools.pairwise(nearest)),
        ),
        Claim(
            f"{name}: each layer multiplies the separation fuzziness by the same factor "
            "(correlation of its logarithm with depth below -0.95)", he,
            f"factor {law.rate:.2f}, correlation {law.correlation:.3f}, residual {law.residual:.2f}",
            law.correlation < -0.95,
        ),
    ]  # fmt: skip


def _falls(values: list[float]) -> bool:
    return all(b < a for a, b in itertools.pairwise(values))


def print_depths(name: str, depths: Depths) -> None:
    columns = {
        "epoch 1": depths.of("layer/within_share", when=FIRST),
        "the end": depths.of("layer/within_share"),
        "(val)": depths.of("layer/within_share", "val"),
        "alignment": depths.of("layer/subspace_alignment_centered"),
        "chance": depths.of("layer/subspace_chance_centered"),
        "uncentered": depths.of("layer/subspace_alignment"),
        "separation": depths.of("layer/separation"),
        "NCC (val)": depths.of("nc4/ncc_accuracy", "val"),
    }
    print(f"\n{name:<14}{'within-share':^33}{'weight and class means':^33}")
    print(f"{'input of':<14}" + "".join(f"{title:>11}" for title in columns))
    for i, row in enumerate(zip(*columns.values(), strict=True)):
        layer = "classifier" if i == len(depths.layers) else f"layer {i + 1}"
        print(f"{layer:<14}" + "".join(f"{value:>11.4f}" for value in row), flush=True)


def draw(runs: dict[str, Depths], path: str) -> None:
    figure = Figure(figsize=(14, 7), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    for axes, (name, depths) in zip(figure.subplots(len(runs), 4), runs.items(), strict=True):
        _draw_shares(axes[0], depths)
        _draw_alignment(axes[1], depths)
        _draw_law(axes[2], depths)
        _draw_accuracy(axes[3], depths)
        axes[0].set_ylabel(f"{name}\n\nshare of the variance")
        for axis in axes:
            axis.set_xticks(range(len(depths.layers) + 1))
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(fontsize=8, frameon=False)
            axis.set_xlabel(f"hidden layers below (0: {INPUTS[name]})", fontsize=9)
    figure.savefig(path, dpi=100)


def _draw_shares(axis: Axes, depths: Depths) -> None:
    axis.semilogy(
        depths.of("layer/within_share", when=FIRST), "-o", color=GRAY, ms=4, label="train, epoch 1"
    )
    axis.semilogy(depths.of("layer/within_share"), "-o", color=BLUE, ms=4, label="train, the end")
    axis.semilogy(depths.of("layer/within_share", "val"), "-o", color=GREEN, ms=4, label="val, the end")
    axis.set_title("within-class share (0 at collapse)", fontsize=10)


def _draw_alignment(axis: Axes, depths: Depths) -> None:
    axis.plot(
        depths.of("layer/subspace_alignment_centered"), "-o", color=BLUE, ms=4, label="centered means"
    )
    axis.plot(
        depths.of("layer/subspace_alignment"), "--s", color=ORANGE, ms=4, label="means as they are"
    )
    axis.plot(depths.of("layer/subspace_chance_centered"), ":", color=GRAY, label="chance")
    axis.set(ylim=(0, 1.05), ylabel="mean cosine of the angles")
    axis.set_title("weight and class means (1 at collapse)", fontsize=10)


def _draw_law(axis: Axes, depths: Depths) -> None:
    values, law = depths.of("layer/separation"), law_of(depths)
    line = [torch.tensor(law.log_start).exp() * law.rate**depth for depth in range(len(values))]
    axis.semilogy(values, "o", color=BLUE, ms=5, label="measured")
    axis.semilogy(line, "-", color=GRAY, label=f"{law.rate:.2f} per layer, residual {law.residual:.2f}")
    axis.set(ylabel=r"tr $\Sigma_W \Sigma_B^+$")
    axis.set_title("separation fuzziness (0 at collapse)", fontsize=10)


def _draw_accuracy(axis: Axes, depths: Depths) -> None:
    for stage, color in (("train", BLUE), ("val", GREEN)):
        axis.plot(depths.of("nc4/ncc_accuracy", stage), "-o", color=color, ms=4, label=stage)
    axis.set(ylabel="share of the images")
    axis.set_title("nearest class mean: accuracy", fontsize=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="intermediate_layers.png", help="where the figure goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small lose by being shared out

    epochs = EPOCHS // 5 if arguments.quick else EPOCHS
    runs = {}
    for name in NETWORKS:
        runs[name] = train(name, epochs, arguments.seed)
        print_depths(name, runs[name])
    print_claims(claim for name, depths in runs.items() for claim in claims(name, depths))
    print(
        "\nThe average over an image is one number, its brightness: the separation fuzziness has one\n"
        "direction there, and up to nine in the layers above."
    )
    draw(runs, arguments.out)
    print(f"\nWrote {arguments.out}")


if __name__ == "__main__":
    main()
