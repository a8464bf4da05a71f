"""Collapse without classes: a network that fits two numbers, with and without weight decay.

    python examples/regression.py [--quick] [--seed 0] [--out regression.png] [--dir runs/regression]

A perceptron learns two loads of a made-up building from eight inputs, 240 rows for training and 60 new
ones. With weight decay its features end on the plane that the head reads; without, they do not. Then
theory's own objective, where only the features and the head are penalized: W W' against its closed
form. Then what does not show: ReLU features, whose mean is outside that plane, and 16 rows that are
learned by heart. It takes a minute on one CPU core; the last part needs scikit-learn.
"""

import argparse
import math
from typing import NamedTuple

import lightning as L
import torch
from claims import Claim, Data, Rows, print_claims, print_reduced, print_remarks, trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from lightning_nc import History, NeuralCollapseCallback
from lightning_nc.functional.regression import regression_limit

LAYERS = ("body.1", "body.3")  # what the two hidden layers give
BATCH, LOOKS = 128, 25
ANDRIOPOULOS, BY_LAYER = "Andriopoulos et al. 2024", "Deep Neural Regression Collapse, 2026"
BLUE, GREEN, ORANGE, GRAY = "#0072B2", "#009E73", "#E69F00", "0.6"


class Setting(NamedTuple):
    """How a network is trained; the penalties are those of (penalty / 2) times a sum of squares."""

    decay: float = 0.0  # of all parameters
    ridge: float = 0.0  # of the head, and of the mean of |h|^2, instead
    relu: bool = False
    steps: int = 2500


SETTINGS = {
    "no decay": Setting(),
    "weight decay": Setting(decay=1e-2),
    "last layers": Setting(ridge=0.03),
    "ReLU, weight decay": Setting(decay=2e-2, relu=True),
}
QUICK = {"no decay": 200, "weight decay": 1900, "last layers": 400}
SMALL = {"linnerud, no decay": Setting(), "linnerud, weight decay": Setting(decay=5e-3)}
COLORS = dict(zip(SETTINGS, (GRAY, BLUE, GREEN, ORANGE), strict=True))


def two_loads(seed: int) -> Data:
    """Heating and cooling, which share most of their causes, from eight numbers of a building."""
    numbers = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(300, 8, generator=numbers) - 1
    shared = 2 * x[:, 0] + x[:, 1] * x[:, 2] + torch.sin(2 * x[:, 3]) + x[:, 4].square()
    heating = shared + 0.8 * x[:, 5]
    cooling = shared + 0.8 * x[:, 6].square() - 0.5 * x[:, 7]
    y = torch.stack([heating, cooling], dim=1)
    return split(x, y + 0.2 * torch.randn(300, 2, generator=numbers), 240)


def linnerud() -> Data:
    """20 people: three exercises as inputs, three measures of their bodies as targets."""
    from sklearn.datasets import load_linnerud

    x, y = (torch.tensor(each, dtype=torch.float32) for each in load_linnerud(return_X_y=True))
    return split(x, y, 16)


def split(x: torch.Tensor, y: torch.Tensor, rows: int) -> Data:
    """The first rows for training, by whose mean and deviation all are standardized."""
    x, y = ((each - each[:rows].mean(0)) / each[:rows].std(0, correction=0) for each in (x, y))
    return Rows(x[:rows], y[:rows]), Rows(x[rows:], y[rows:])


class Regressor(L.LightningModule):
    """Two hidden layers, 64 features, which are linear or not, and a linear head."""

    def __init__(self, setting: Setting, inputs: int, targets: int) -> None:
        super().__init__()
        self.setting = setting
        last = nn.ReLU() if setting.relu else nn.Identity()
        self.body = nn.Sequential(
            nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), last
        )
        self.head = nn.Linear(64, targets)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        features = self.body(x)
        loss = (self.head(features) - y).square().sum(1).mean() / 2
        return loss + self.setting.ridge / 2 * features.square().sum(1).mean()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("error", nn.functional.mse_loss(self(x), y))

    def configure_optimizers(self) -> dict:
        if self.setting.ridge:
            free = [*self.body.parameters(), self.head.bias]
            decayed = {"params": [self.head.weight], "weight_decay": self.setting.ridge}
            optimizer = torch.optim.Adam([decayed, {"params": free}], lr=2e-3)
        else:
            optimizer = torch.optim.SGD(
                self.parameters(), lr=0.05, momentum=0.9, weight_decay=self.setting.decay
            )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.setting.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Result(NamedTuple):
    """What is left of a run."""

    history: History
    error: float  # the mean square on new rows; that of the mean of the training rows is about 1
    spectrum: torch.Tensor  # of the features' covariance, relative to its largest value
    gram: torch.Tensor  # W W'
    targets: torch.Tensor  # their covariance

    def of(self, measure: str, layer: str = "") -> list[float]:
        """A measure of the training rows over time, in eval mode."""
        key = "/".join(filter(None, (measure, "train", layer)))
        return [entry.value for entry in self.history[key]]

    def last(self, measure: str, layer: str = "") -> float:
        """A measure in the end; NaN where it is left out."""
        return self.of(measure, layer)[-1] if f"{measure}/train" in self.history else math.nan


def train(name: str, setting: Setting, data: Data, options: argparse.Namespace) -> Result:
    L.seed_everything(options.seed, verbose=False)
    rows, new = data
    inputs, targets = (each.shape[1] for each in rows.tensors)
    penalties = {}
    if setting.ridge:
        penalties = {"penalty": setting.ridge, "feature_penalty": setting.ridge / len(rows)}
    model = Regressor(setting, inputs, targets)
    epochs = math.ceil(setting.steps / math.ceil(len(rows) / BATCH))
    often = max(1, epochs // (2 if options.quick else LOOKS))
    collapse = NeuralCollapseCallback(
        task="regression", layers=[*LAYERS], online=False, frozen_every_n_epochs=often,
        figures_every_n_epochs=0 if options.quick else epochs, **penalties,
    )  # fmt: skip
    run = trainer(collapse, max_epochs=epochs, check_val_every_n_epoch=often, log_every_n_steps=1)
    run.logger = TensorBoardLogger(options.dir, name=name.replace(",", "").replace(" ", "_"))
    run.fit(model, rows.loader(BATCH, shuffle=True), new.loader(len(new)))
    with torch.no_grad():
        x, y = rows.tensors
        values = torch.linalg.eigvalsh(torch.cov(model.body(x).T.double())).flip(0)
        weight = model.head.weight.double()
    return Result(
        collapse.history, float(run.callback_metrics["error"]), values / values[0], weight @ weight.T,
        torch.cov(y.T.double(), correction=0),
    )  # fmt: skip


def claims(results: dict[str, Result]) -> list[Claim]:
    found = [*claims_of_decay(results), *claims_of_last_layers(results)]
    if "ReLU, weight decay" in results:
        found += claims_of_relu(results)
    if "linnerud, weight decay" in results:
        found.append(claim_of_few_rows(results))
    return found


def claims_of_decay(results: dict[str, Result]) -> list[Claim]:
    plain, decayed = results["no decay"], results["weight decay"]
    nrc1, nrc2, nrc3 = (
        (plain.last(key), decayed.last(key))
        for key in ("nrc1/feature_collapse", "nrc2/row_space", "nrc3/gram_distance")
    )
    by_layer = [decayed.last("nrc1/outside_variance", layer) for layer in (*LAYERS, "")]
    return [
        Claim(
            "weight decay: NRC1, below a thousandth of that without", ANDRIOPOULOS,
            f"{nrc1[1]:.1e}, without {nrc1[0]:.2f}", nrc1[1] < nrc1[0] / 1000,
        ),
        Claim(
            "weight decay: NRC2, below a thousandth of that without", ANDRIOPOULOS,
            f"{nrc2[1]:.1e}, without {nrc2[0]:.2f}", nrc2[1] < nrc2[0] / 1000,
        ),
        Claim(
            "weight decay: NRC3, below a third of that without", ANDRIOPOULOS,
            f"{nrc3[1]:.4f}, without {nrc3[0]:.4f}", nrc3[1] < nrc3[0] / 3,
        ),
        Claim(
            "weight decay: a smaller error on new rows", ANDRIOPOULOS,
            f"{decayed.error:.3f}, without {plain.error:.3f}", decayed.error < plain.error,
        ),
        Claim(
            "weight decay: the variance outside of two directions falls from layer to layer", BY_LAYER,
            ", ".join(f"{value:.1e}" for value in by_layer),
            by_layer == sorted(by_layer, reverse=True),
        ),
    ]  # fmt: skip


def claims_of_last_layers(results: dict[str, Result]) -> list[Claim]:
    found, plain = results["last layers"], results["no decay"]
    distance, gamma = found.last("nrc3/limit_distance"), found.last("nrc3/gamma")
    ridge, nrc1 = SETTINGS["last layers"].ridge, found.last("nrc1/feature_collapse")
    return [
        Claim(
            "last layers: W W' is the closed form (to 5%)", ANDRIOPOULOS,
            f"distance {distance:.2%}", distance < 0.05,
        ),
        Claim(
            "last layers: the gamma of NRC3 is the product of both penalties (to a fifth)",
            ANDRIOPOULOS, f"{gamma:.2e}, and {ridge**2:.2e}", abs(gamma / ridge**2 - 1) < 0.2,
        ),
        Claim(
            "last layers: NRC1 is below a thousandth of that without decay, for features of a network, "
            "too", "what free features suggest",
            f"{nrc1:.3f}, without {plain.last('nrc1/feature_collapse'):.2f}",
            nrc1 < plain.last("nrc1/feature_collapse") / 1000,
        ),
    ]  # fmt: skip


def claims_of_relu(results: dict[str, Result]) -> list[Claim]:
    found, plain = results["ReLU, weight decay"], results["no decay"].last("nrc1/feature_collapse")
    nrc1, centered = (found.last(f"nrc1/feature_collapse{kind}") for kind in ("", "_centered"))
    return [
        Claim(
            "ReLU features: NRC1, below a thousandth of that of linear features without decay",
            "what linear features suggest",
            f"{nrc1:.3f}; their mean is not on the plane", nrc1 < plain / 1000,
        ),
        Claim(
            "ReLU features: less their mean, NRC1 is below a tenth of that",
            "the same", f"{centered:.4f}", centered < nrc1 / 10,
        ),
    ]  # fmt: skip


def claim_of_few_rows(results: dict[str, Result]) -> Claim:
    plain, decayed = (results[name] for name in SMALL)
    nrc1 = [each.last("nrc1/feature_collapse") for each in (plain, decayed)]
    return Claim(
        "linnerud, 16 rows: what is learned serves new rows (an error below 1, about that of the mean)",
        "no demonstration",
        f"error {decayed.error:.1f}, without decay {plain.error:.1f}; NRC1 {nrc1[1]:.1e}, without "
        f"{nrc1[0]:.2f}", decayed.error < 1,
    )  # fmt: skip


TABLE = {
    "NRC1": "nrc1/feature_collapse", "centered": "nrc1/feature_collapse_centered",
    "outside": "nrc1/outside_variance", "NRC2": "nrc2/row_space", "NRC3": "nrc3/gram_distance",
    "gamma": "nrc3/gamma", "R2": "nrc0/r2_linear", "W W' gap": "nrc3/limit_distance",
}  # fmt: skip
LEGEND = """\
Of the training rows in the end, in eval mode; n directions for n targets; W is the head:
  NRC1      share of the features, each divided by its length, outside of their n largest directions
  centered  the same of the features less their mean
  outside   share of the variance of the features outside of these directions
  NRC2      share of the features, divided by their lengths, outside of the directions that W reads
  NRC3      squared distance of W W' from the shape that theory has for it, with its gamma fitted
  R2        of the best linear map from the features to the targets
  W W' gap  relative distance of W W' from the closed form of the penalties
  error     mean square on new rows; that of the mean of the training rows is about 1
In the run "last layers" only features and head are penalized, as in theory; linnerud has 16 rows."""
REMARKS = {  # on whole runs
    "last layers": "NRC1 is a mean of relative errors: in the last layers those of the rows with a "
    "small |h|.",
    "ReLU, weight decay": "ReLU features have a mean, and what of it is outside of the plane stays.",
}


def print_result(name: str, result: Result) -> None:
    values = [*(result.last(key) for key in TABLE.values()), result.error]
    cells = ("-" if math.isnan(value) else f"{value:.2g}" for value in values)
    print(f"{name:<25}" + "".join(f"{cell:>11}" for cell in cells), flush=True)


def draw(results: dict[str, Result], path: str) -> None:
    figure = Figure(figsize=(15, 4), layout="constrained")
    axes = figure.subplots(1, 4)
    _draw_collapse(axes[0], results)
    _draw_spectrum(axes[1], results)
    _draw_layers(axes[2], results)
    _draw_limit(axes[3], results)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    named = {name: color for name, color in COLORS.items() if name in results}
    lines = [axes[0].plot([], [], "-", color=color, label=name)[0] for name, color in named.items()]
    figure.legend(handles=lines, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=100)


def _draw_collapse(axis: Axes, results: dict[str, Result]) -> None:
    for name, color in COLORS.items():
        if name in results:
            values = results[name].of("nrc1/feature_collapse")
            share = [100 * (i + 1) / len(values) for i in range(len(values))]
            axis.semilogy(share, values, "-", color=color, lw=1.8)
            if SETTINGS[name].relu:
                centered = results[name].of("nrc1/feature_collapse_centered")
                axis.semilogy(share, centered, "--", color=color, lw=1.4, label="less the mean")
                axis.legend(frameon=False, fontsize=8)
    axis.set(title="NRC1: features outside of the plane", xlabel="% of the steps", ylabel="NRC1")


def _draw_spectrum(axis: Axes, results: dict[str, Result]) -> None:
    for name, color in COLORS.items():
        if name in results:
            values = results[name].spectrum.clamp(min=1e-12)
            axis.semilogy(range(1, 1 + len(values)), values, "-o", color=color, ms=3, lw=1.2)
    axis.axvline(2.5, color="0.6", lw=0.8, ls=":")
    axis.annotate("two targets", (2.8, 1.2), color="0.4", fontsize=8)
    axis.set(title="spectrum of the features", xlabel="direction", ylim=(1e-11, 4))
    axis.set(xlim=(0, 20.5), ylabel="variance / the largest")
    axis.set_xticks([2, 5, 10, 15, 20])


def _draw_layers(axis: Axes, results: dict[str, Result]) -> None:
    for name, color in COLORS.items():
        if name in results:
            of = [results[name].last("nrc1/outside_variance", layer) for layer in (*LAYERS, "")]
            axis.semilogy(range(1, 4), of, "-o", color=color, ms=4)
    axis.set(title="variance outside of two directions", ylabel="share of the variance")
    axis.set_xticks(range(1, 4), ["layer 1", "layer 2", "features"])


def _draw_limit(axis: Axes, results: dict[str, Result]) -> None:
    ridge = SETTINGS["last layers"].ridge
    limit = regression_limit(results["last layers"].targets, ridge, ridge).gram
    places = {"heating,\nheating": (0, 0), "heating,\ncooling": (0, 1), "cooling,\ncooling": (1, 1)}
    for i, at in enumerate(places.values()):
        value = float(limit[at])
        label = "closed form" if i == 0 else None
        axis.plot([i - 0.3, i + 0.3], [value, value], "-", color="0.2", lw=1.4, label=label)
        value, label = float(results["last layers"].gram[at]), "trained" if i == 0 else None
        axis.plot(i, value, "o", color=GREEN, ms=8, mfc="none", ls="none", label=label)
    axis.set_xticks(range(3), [*places])
    axis.set(title="W W' of the last layers", ylabel="entry", ylim=(0, 1))
    axis.legend(frameon=False, fontsize=8, loc="lower left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three settings, with fewer steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="regression.png", help="where the figure goes")
    parser.add_argument("--dir", default="runs/regression", help="where the TensorBoard logs go")
    options = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small lose by being shared out

    settings = SETTINGS
    if options.quick:
        settings = {name: SETTINGS[name]._replace(steps=steps) for name, steps in QUICK.items()}
    print(LEGEND + "\n")
    print(f"{'':<25}" + "".join(f"{title:>11}" for title in [*TABLE, "error"]), flush=True)
    results = {}
    for name, setting in settings.items():
        results[name] = train(name, setting, two_loads(options.seed), options)
        print_result(name, results[name])
    for name, setting in ({} if options.quick else SMALL).items():
        results[name] = train(name, setting, linnerud(), options)
        print_result(name, results[name])
    if options.quick:
        steps = ", ".join(f"{name} {steps:,}" for name, steps in QUICK.items())
        print_reduced(f"of {Setting().steps:,} steps {steps}; neither ReLU features nor linnerud")
    print_claims(claims(results))
    print_remarks(() if options.quick else REMARKS.values())
    draw(results, options.out)
    print(f"\nWrote {options.out}; tensorboard --logdir {options.dir}")


if __name__ == "__main__":
    main()
