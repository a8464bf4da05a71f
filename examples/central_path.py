"""The squared error taken apart while a network trains: collapse, and distance from the central path.

    python examples/central_path.py [--quick] [--seed 0] [--out central_path.png]

A perceptron learns 1,797 handwritten digits with nn.MSELoss() and weight decay: SGD with momentum, a
learning rate that falls to a tenth after one and two thirds of the epochs. For its features there is a
best linear classifier, in closed form. The loss is what the spread inside the classes costs that one
(NC1), what the class means cost it (NC2/3), and what the network's own classifier costs on top (its
distance from the central path). It takes 40 seconds on one CPU core and needs scikit-learn.
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
from torch.utils.data import DataLoader, TensorDataset

from lightning_nc import History, NeuralCollapseCallback
from lightning_nc.values.penalties import objective_penalty

CLASSES, EPOCHS, DECAY = 10, 350, 5e-4
# of 0.03, 0.1, 0.3, 1 and 3 the best on 360 held-out images after 35 epochs
LEARNING_RATE = 1.0
# nn.MSELoss() averages over the classes as well: times K/2 it is the loss of the formulas
PENALTY = objective_penalty(DECAY, "mse_mean", CLASSES)
RIGHT, WRONG = (
    "lambda",
    {"lambda / 10": PENALTY / 10, "the weight decay": DECAY, "10 lambda": 10 * PENALTY},
)
KEYS = {
    "NC1": "mse/loss_nc1", "NC2/3": "mse/loss_nc23", "off the path": "mse/loss_perp",
    "best": "mse/loss_least_squares", "SNR min": "mse/snr_min", "SNR max": "mse/snr_max",
}  # fmt: skip
BLUE, ORANGE, RED, GRAY = "#0072B2", "#E69F00", "#D55E00", "0.5"


class Digits(L.LightningModule):
    """Three hidden layers and a linear classifier; all parameters decay."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs
        self.body = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
        )
        self.head = nn.Linear(64, CLASSES)

    def error(self, batch: list[torch.Tensor]) -> torch.Tensor:
        pixels, label = batch
        target = nn.functional.one_hot(label, CLASSES).float()
        return nn.functional.mse_loss(self.head(self.body(pixels)), target)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.error(batch)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        squares = sum(p.square().sum() for p in self.head.parameters())
        self.log("objective", self.error(batch) + DECAY / 2 * squares)

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.SGD(
            self.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=DECAY
        )
        milestones = [self.epochs // 3, 2 * self.epochs // 3]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class Logged(L.Callback):
    """The module's own objective, in the convention of the formulas, when it is measured."""

    def __init__(self) -> None:
        self.by_epoch: dict[int, float] = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        objective = trainer.callback_metrics["objective"]
        self.by_epoch[trainer.current_epoch] = CLASSES / 2 * float(objective)


class Path(NamedTuple):
    """What was measured, by epoch."""

    epochs: list[int]
    measured: dict[str, torch.Tensor]
    logged: torch.Tensor
    off_with: dict[str, torch.Tensor]
    """Loss off the path over the best, by the penalty that is stated."""


def _series(history: History, key: str) -> torch.Tensor:
    entries = history[f"{history.prefix}{key}/train"]
    return torch.tensor([entry.value for entry in entries], dtype=torch.float64)


def train(epochs: int, seed: int) -> Path:
    L.seed_everything(seed, verbose=False)
    pixels, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))
    # what is validated are the training images themselves, in eval mode
    shared = {"stage_names": ["train"], "online": False, "every_n_epochs": max(1, epochs // 70)}
    path = NeuralCollapseCallback(measures=["default", "mse"], penalty=PENALTY, **shared)
    wrong = {
        name: NeuralCollapseCallback(
            measures=["mse/loss_perp", "mse/loss_least_squares"], penalty=penalty,
            prefix=f"{name}/", **shared,
        )
        for name, penalty in WRONG.items()
    }  # fmt: skip
    logged = Logged()
    run = trainer(path, *wrong.values(), logged, max_epochs=epochs)
    run.fit(Digits(epochs), DataLoader(data, 128, shuffle=True), DataLoader(data, len(data)))
    measured = {name: _series(path.history, key) for name, key in KEYS.items()}
    off_with = {RIGHT: measured["off the path"] / measured["best"]}
    for name, each in wrong.items():
        parts = (_series(each.history, KEYS[part]) for part in ("off the path", "best"))
        off_with[name] = torch.div(*parts)
    at = [entry.epoch for entry in path.history["mse/loss_nc1/train"]]
    own = torch.tensor([logged.by_epoch[epoch] for epoch in at], dtype=torch.float64)
    return Path(at, measured, own, off_with)


def print_path(path: Path) -> None:
    columns = {**path.measured, "logged": path.logged}
    print(f"lambda = K/2 x weight decay = {PENALTY:g}\n")
    print(f"{'epoch':>6}" + "".join(f"{name:>14}" for name in columns))
    shown = sorted({round(i * (len(path.epochs) - 1) / 8) for i in range(9)})
    for i in shown:
        print(f"{path.epochs[i] + 1:>6}" + "".join(f"{v[i]:>14.3g}" for v in columns.values()))


def claims(path: Path) -> list[Claim]:
    nc1, nc23, off, best, low, high = path.measured.values()
    miss = float(((nc1 + nc23 + off) / path.logged - 1).abs().max())
    told = low.isfinite()  # without spread along some direction there is no ratio
    low, high, share = low[told], high[told], nc1 / best
    ratio, han = high / low, "Han et al. 2022"
    return [
        Claim(
            "the three parts add up to the loss that the network minimizes (to 1e-4)", han,
            f"to {miss:.0e}, in all epochs", miss < 1e-4,
        ),
        *(
            _claim_near(f"the classifier stays near the best one {when}", path, after)
            for when, after in (("from early on", 0.1), ("once the learning rate has fallen", 0.34))
        ),
        _claim_near("in the end it is the best one", path, 1.0, 0.01),
        Claim(
            "NC1 is the larger part of the best loss, in every epoch", "the split itself",
            f"{float(share.min()):.0%} at least, {float(share[-1]):.0%} in the end",
            float(share.min()) > 0.5,
        ),
        Claim(
            "the signal-to-noise ratios grow, the smallest and the largest", han,
            f"{low[0]:.2g} to {low[-1]:.2g}, {high[0]:.2g} to {high[-1]:.2g}",
            bool(low[-1] > low[0] and high[-1] > high[0]),
        ),
        Claim(
            "and become alike: largest over smallest falls", han,
            f"{ratio[0]:.1f} at first, {ratio[-1]:.1f} in the end", bool(ratio[-1] < ratio[0]),
        ),
        *(_claim_wrong(name, path) for name in WRONG),
    ]  # fmt: skip


def _claim_near(what: str, path: Path, after: float, limit: float = 0.1) -> Claim:
    """Off the path by less than a share of the best loss, in every epoch after a share of them."""
    first = math.ceil(after * (len(path.epochs) - 1))
    values = path.off_with[RIGHT][first:]
    return Claim(
        f"{what} (loss off the path below {limit:.0%} of the best loss)", "Han et al. 2022",
        f"from epoch {path.epochs[first] + 1} on {float(values.max()):.2%} at most, "
        f"{float(values.median()):.2%} in the median",
        float(values.max()) < limit,
    )  # fmt: skip


def _claim_wrong(name: str, path: Path) -> Claim:
    right, wrong = (float(path.off_with[each][-1]) for each in (RIGHT, name))
    return Claim(
        f"warning: with {name} as the penalty, it looks ten times as far off the path in the end",
        "the formulas", f"{wrong:.1%} of the best loss, {wrong / right:.0f} times as far",
        wrong > 10 * right,
    )  # fmt: skip


def draw(path: Path, file: str) -> None:
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    epochs = [epoch + 1 for epoch in path.epochs]
    _draw_parts(axes[0], path, epochs)
    styles = zip(path.off_with.items(), (BLUE, ORANGE, GRAY, RED), strict=True)
    for (name, values), color in styles:
        axes[1].loglog(epochs, values, color=color, lw=2 if color == BLUE else 1.2, label=name)
    axes[1].set_title("loss off the path / best loss, by penalty stated")
    for name, color in (("SNR max", BLUE), ("SNR min", ORANGE)):
        axes[2].loglog(epochs, path.measured[name], color=color, label=name[4:])
    ratio = path.measured["SNR max"] / path.measured["SNR min"]
    axes[2].loglog(epochs, ratio, "--", color=GRAY, label="max / min")
    axes[2].set_title("signal-to-noise ratios (alike at collapse)")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=9)
    figure.savefig(file, dpi=100)


def _draw_parts(axis: Axes, path: Path, epochs: list[int]) -> None:
    parts = {name: path.measured[name] for name in ("NC1", "NC2/3", "off the path")}
    axis.stackplot(epochs, *parts.values(), labels=[*parts], colors=[BLUE, ORANGE, RED], alpha=0.8)
    axis.plot(epochs, path.logged, "k.", ms=4, label="as logged by the network")
    axis.set(xscale="log", ylim=(0, None), xlim=(epochs[0], epochs[-1]))
    axis.set_title("parts of the loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="central_path.png", help="where the figure goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small lose by being shared out

    path = train(EPOCHS // 10 if arguments.quick else EPOCHS, arguments.seed)
    print_path(path)
    print_claims(claims(path))
    draw(path, arguments.out)
    print(f"\nWrote {arguments.out}")


if __name__ == "__main__":
    main()
