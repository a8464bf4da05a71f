"""Heads of one, three and six linear layers: which frame each layer's features and weights form.

    python examples/deep_linear.py [--quick] [--seed 0] [--out deep_linear.png]

260 handwritten digits, 26 of each class, as one batch; two hidden layers below the head. Only the
features and the weights of the head are penalized, as in the theory of unconstrained features. With
the squared error and no bias, theory expects orthogonal frames at every depth of the head; with
cross-entropy it expects the simplex, but only where the head is a single layer. It takes about a
minute on one CPU core and needs scikit-learn.
"""

import argparse
import math
from typing import NamedTuple

import lightning as L
import torch
from claims import Claim, print_claims, trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback

CLASSES, PER_CLASS, EPOCHS = 10, 26, 10


class Setting(NamedTuple):
    """A head and how it is trained; the penalties are those of (penalty / 2) times a sum of squares."""

    loss: str
    depth: int
    width: int
    learning_rate: float
    steps: int
    feature_penalty: float
    weight_penalty: float
    orthogonal_start: bool = False

    @property
    def product_of_penalties(self) -> float:
        return self.feature_penalty * self.weight_penalty**self.depth


SETTINGS = {
    "MSE, M = 1": Setting("mse", 1, 64, 2e-3, 4000, 1e-4, 1e-2),
    "MSE, M = 3": Setting("mse", 3, 64, 2e-3, 4000, 1e-4, 2e-3),
    # from PyTorch's own start most singular values of so deep a product stay at zero
    "MSE, M = 6": Setting("mse", 6, 48, 3e-3, 4000, 1e-4, 2e-3, orthogonal_start=True),
    "CE, M = 1": Setting("ce", 1, 64, 5e-3, 5000, 5e-4, 5e-3),
    "CE, M = 3": Setting("ce", 3, 48, 2e-3, 3000, 1e-4, 1e-3),
}
MEASURES = {
    "weights": "linear/weights_frame_distance",
    "means": "linear/means_frame_distance",
    "duality": "linear/duality_frame_distance",
    "trSw/trSb": "linear/within_between_ratio",
}
COLORS = {1: "#0072B2", 3: "#E69F00", 6: "#009E73"}


class DeepHead(L.LightningModule):
    """Two hidden layers, and a head of M linear layers with nothing between them."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting, d = setting, setting.width
        # a simplex needs features of both signs
        last = nn.ReLU() if setting.loss == "mse" else nn.Identity()
        self.body = nn.Sequential(nn.Linear(64, d), nn.ReLU(), nn.Linear(d, d), last)
        inner = [nn.Linear(d, d, bias=False) for _ in range(setting.depth - 1)]
        self.head = nn.Sequential(*inner, nn.Linear(d, CLASSES, bias=setting.loss == "ce"))
        if setting.orthogonal_start:
            for layer in self.head:
                nn.init.orthogonal_(layer.weight)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(pixels))

    def objective(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """The loss that is minimized, less the penalty of the weights, which is Adam's weight decay."""
        pixels, label = batch
        features = self.body(pixels)
        logits = self.head(features)
        if self.setting.loss == "ce":
            loss = nn.functional.cross_entropy(logits, label)
        else:
            target = nn.functional.one_hot(label, CLASSES)
            loss = (logits - target).square().sum() / (2 * len(label))
        return loss + self.setting.feature_penalty / 2 * features.square().sum()

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.objective(batch)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        squares = sum(layer.weight.square().sum() for layer in self.head)
        self.log("objective", self.objective(batch) + self.setting.weight_penalty / 2 * squares)

    def configure_optimizers(self) -> dict:
        decayed = [layer.weight for layer in self.head]
        free = [*self.body.parameters(), *(p for p in self.head.parameters() if p.ndim == 1)]
        groups = [
            {"params": free},
            {"params": decayed, "weight_decay": self.setting.weight_penalty},
        ]
        optimizer = torch.optim.Adam(groups, lr=self.setting.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.setting.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Result(NamedTuple):
    """What is left of a run: distances by measure and depth, the logits' singular values, the loss."""

    by_depth: dict[str, list[float]]
    singular_values: torch.Tensor
    objective: float
    imbalance: float


def balanced_digits() -> list[torch.Tensor]:
    """The first 26 images of each class, as one batch."""
    pixels, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
    rows = torch.cat([(labels == c).nonzero()[:PER_CLASS, 0] for c in range(CLASSES)])
    return [pixels[rows].float() / 16, labels[rows]]


def train(setting: Setting, seed: int) -> Result:
    L.seed_everything(seed, verbose=False)
    batch = balanced_digits()
    # what is validated are the training images themselves
    collapse = NeuralCollapseCallback(
        measures=["default", "linear"], stage_names=["train"], online=False, every_n_epochs=EPOCHS
    )
    model, run = DeepHead(setting), trainer(collapse, max_epochs=EPOCHS)
    steps = DataLoader([batch] * (setting.steps // EPOCHS), batch_size=None)
    run.fit(model, steps, DataLoader([batch], batch_size=None))

    inputs = [f"/head.{j}.in" for j in range(setting.depth - 1)]
    by_depth = {
        name: [collapse.history[f"{key}/train{layer}"][-1].value for layer in [*inputs, ""]]
        for name, key in MEASURES.items()
    }
    means = collapse.statistics["train"].means
    with torch.no_grad():
        logits = (means - means.mean(0)) @ model.head[-1].weight.double().T
        squares = [setting.weight_penalty * float(layer.weight.square().sum()) for layer in model.head]
        squares.append(setting.feature_penalty * float(model.body(batch[0]).square().sum()))
    objective = float(run.callback_metrics["objective"])
    imbalance = max(squares) / min(squares) - 1
    return Result(by_depth, torch.linalg.svdvals(logits), objective, imbalance)


def best_collapsed_objective(setting: Setting) -> float:
    """The least objective of cross-entropy among solutions that collapse to a simplex.

    Minimized over the margin m of the logits, m times the simplex; M + 1 equal penalties share their
    product.
    """
    margin = torch.linspace(0, 60, 60_001, dtype=torch.float64)[1:]
    loss = torch.log1p((CLASSES - 1) * torch.exp(-margin))
    shares = setting.depth + 1
    scale = shares / 2 * setting.product_of_penalties ** (1 / shares) * (CLASSES - 1)
    penalty = scale * (math.sqrt(PER_CLASS) * margin) ** (2 / shares)
    return float((loss + penalty).min())


def rank_of(result: Result) -> int:
    """How many directions the logits of the class means span, to 1% of the largest."""
    return int((result.singular_values > 0.01 * result.singular_values[0]).sum())


def worst(result: Result) -> float:
    return max(max(result.by_depth[name]) for name in ("weights", "means", "duality"))


def claims(results: dict[str, Result]) -> list[Claim]:
    found = []
    for depth in (1, 3, 6):
        result = results[f"MSE, M = {depth}"]
        spread = max(result.by_depth["trSw/trSb"])
        found += [
            Claim(
                f"MSE, M = {depth}: orthogonal frames at every depth (all three distances below 0.02)",
                "Dang et al. 2023", f"largest distance {worst(result):.4f}", worst(result) < 0.02,
            ),
            Claim(
                f"MSE, M = {depth}: features collapse to their means (tr Sw / tr Sb below 0.01)",
                "Dang et al. 2023", f"largest ratio {spread:.1e}", spread < 0.01,
            ),
        ]  # fmt: skip
    most = max(result.imbalance for name, result in results.items() if name.startswith("MSE"))
    found.append(
        Claim(
            "MSE: features and every layer of the head pay the same penalty (to 1%)",
            "Dang et al. 2023", f"they differ by {most:.2%} at most", most < 0.01,
        )
    )  # fmt: skip
    one, three = results["CE, M = 1"], results["CE, M = 3"]
    best = best_collapsed_objective(SETTINGS["CE, M = 3"])
    return [
        *found,
        Claim(
            "CE, M = 1: a simplex (all three distances below 0.02)",
            "Zhu et al. 2021", f"largest distance {worst(one):.4f}", worst(one) < 0.02,
        ),
        Claim(
            "CE, M = 3: a simplex as well (all three distances below 0.02)",
            "what M = 1 suggests", f"largest distance {worst(three):.4f}", worst(three) < 0.02,
        ),
        Claim(
            "CE, M = 3: the logits have a lower rank than the simplex, C - 1 = 9",
            "Garrod & Keating 2024; Sukenik et al. 2024",
            f"rank {rank_of(three)}, and {rank_of(one)} with M = 1", rank_of(three) < CLASSES - 1,
        ),
        Claim(
            "CE, M = 3: and a lower objective than any simplex",
            "Garrod & Keating 2024; Sukenik et al. 2024",
            f"{three.objective:.4f}, the best simplex {best:.4f}", three.objective < best,
        ),
    ]  # fmt: skip


def print_distances(name: str, result: Result) -> None:
    for j, values in enumerate(zip(*result.by_depth.values(), strict=True)):
        row = "".join(f"{value:>11.2g}" for value in values)
        print(f"{name if j == 0 else '':<12}{j + 1:>6}{row}", flush=True)


def draw(results: dict[str, Result], path: str) -> None:
    figure = Figure(figsize=(13, 3.9), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.1])
    titles = {
        "weights": "weights: $P_j P_j^T$", "means": "class means: $M_j M_j^T$",
        "duality": "duality: $P_j M_j^T$",
    }  # fmt: skip
    for axis, (measure, title) in zip(axes[:3], titles.items(), strict=True):
        for name, result in results.items():
            _line(axis, name, range(1, 1 + SETTINGS[name].depth), result.by_depth[measure])
        axis.axhline(0.02, color="0.6", lw=0.8, ls=":")
        axis.set(yscale="log", title=title, xlabel="layer j of the head", ylim=(5e-6, 2))
        axis.set_xticks(range(1, 7))
    axes[0].set_ylabel("distance to the frame (0 at collapse)")
    axes[0].annotate("0.02", (6, 0.022), ha="right", color="0.5", fontsize=8)
    for name, result in results.items():
        share = result.singular_values / result.singular_values[0]
        _line(axes[3], name, range(1, CLASSES), share[: CLASSES - 1])
    axes[3].set(title="logits of the class means", xlabel="number k of the singular value")
    axes[3].set(ylabel="singular value k / the largest", ylim=(-0.03, 1.1))
    axes[3].set_xticks(range(1, CLASSES))
    figure.legend(
        *axes[3].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False
    )
    figure.savefig(path, dpi=110)


def _line(axis: Axes, name: str, x: range, values: list[float] | torch.Tensor) -> None:
    style = "-o" if name.startswith("MSE") else "--s"
    color, alone = COLORS[SETTINGS[name].depth], SETTINGS[name].depth == 1
    # the only point of a head of one layer stays visible under another
    marker = {"ms": 8, "mfc": "none"} if alone else {"ms": 4}
    axis.plot(x, values, style, color=color, lw=1.4, label=name, **marker)
    axis.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="deep_linear.png", help="where the figure goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small lose by being shared out

    print("Distances to the orthogonal frame (MSE) or the simplex (CE), by layer of the head:\n")
    print(f"{'head':<12}{'layer':>6}" + "".join(f"{name:>11}" for name in MEASURES), flush=True)
    results = {}
    for name, setting in SETTINGS.items():
        steps = setting.steps // 5 if arguments.quick else setting.steps
        results[name] = train(setting._replace(steps=steps), arguments.seed)
        print_distances(name, results[name])
    print_claims(claims(results))
    draw(results, arguments.out)
    print(f"\nWrote {arguments.out}")


if __name__ == "__main__":
    main()
