"""Pictures of one digit or two: how several tags per picture change what a network collapses to.

    python examples/multilabel_digits.py [--quick] [--seed 0] [--out FILE.png] [--dir runs/multilabel]

A perceptron names the digits on 1,000 canvases with one and 900 with two, by pick-all-label loss in its
two forms, and by binary cross-entropy. The features of a pair are to point where the sum of its tags'
means does, with a scale that the penalties tell. Then a head fixed as a simplex, with 9 features
instead of 32; features after ReLU, where none of this shows; and real data of unequal tags, the yeast
genes that come with river. It takes three minutes on one CPU core and needs scikit-learn.
"""

import argparse
import importlib.util
import itertools
import math
import textwrap
from typing import NamedTuple

import lightning as L
import torch
from claims import Claim, Data, Rows, print_claims, print_reduced, print_remarks, trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn

from lightning_nc import History, NeuralCollapseCallback
from lightning_nc.nn import NormalizedPickAllLabelLoss, PickAllLabelLoss

BATCH, LOOKS = 190, 16
YEAST = (0, 2, 4, 6, 8, 10, 12)  # every other of its 14 tags: if all stay, just one ever comes alone
SEVERAL = range(2, 5)
LI = "Li et al. 2024"
FORM = "the optimum of the objective"
BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
PREDICTED = {"PAL": "scale_2_predicted", "PAL / tags": "scale_2_predicted_normalized"}


class Setting(NamedTuple):
    """A loss, a network and what is penalized: (penalty / 2) times |W|^2 and the mean of |h|^2."""

    loss: str
    width: int = 32
    pairs: int = 20  # rows of each
    relu: bool = False
    fixed: bool = False  # the head, as a simplex
    epochs: int = 160
    weight_penalty: float = 5e-4
    mean_penalty: float = 0.01


SETTINGS = {
    "PAL": Setting("PAL"),
    "PAL / tags": Setting("PAL / tags"),
    "BCE": Setting("BCE"),
    "PAL, 5 a pair": Setting("PAL", pairs=5),
    "PAL, fixed head": Setting("PAL", width=9, fixed=True),
    "PAL, ReLU": Setting("PAL", relu=True),
    "BCE, ReLU": Setting("BCE", relu=True),
    "PAL, strong": Setting("PAL", epochs=400, weight_penalty=2e-3, mean_penalty=0.05),
    "BCE, strong": Setting("BCE", epochs=400, weight_penalty=2e-3, mean_penalty=0.05),
}
QUICK, QUICK_EPOCHS = ("PAL, strong", "BCE, strong"), 20
PICTURED = ("PAL", "BCE", "yeast, PAL")  # in the logs: they take seconds each time
ON_YEAST = {"yeast, PAL": Setting("PAL"), "yeast, BCE": Setting("BCE")}
COLORS = {"PAL": BLUE, "PAL / tags": SKY, "BCE": ORANGE}
LOSSES = """\
PAL: pick-all-label loss, of each row the sum of its tags' cross-entropies; PAL / tags: normalized,
their mean; BCE: binary cross-entropy."""
COLUMNS = (
    "first ratio", "last ratio", "C_2 / C_1", "predicted", "first residual", "last residual",
    "new rows right",
)  # fmt: skip
LEGEND = f"""\
{LOSSES}
The runs "strong" have stronger penalties and, if they are whole, 400 epochs in the place of 160.
Of the training rows in eval mode, at the first look and at the last; a pair is two tags:
  ratio           angle between the mean of a pair and the sum of the means of its two tags, divided by
                  the same angle of any two pairs
  C_2 / C_1       scale of pairs: length of a pair's mean by that of its tags' sum; predicted: by theory
  residual        share of the rows with two tags that this multiple of the sum leaves
  new rows right  share of new rows for which the network finds just their tags"""
REMARKS = {
    "PAL, ReLU": "After ReLU, too, the objective is least at an angle of 0, but training does not get "
    "there.",
    "yeast, PAL": "The predicted scale is that of tags that come equally often: yeast's do not.",
}


def digits(setting: Setting, seed: int) -> Data:
    """Canvases of 1,200 images for training, and of the 597 others."""
    numbers = torch.Generator().manual_seed(seed)
    pixels, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
    images, order = pixels.float().view(-1, 8, 8) / 16, torch.randperm(len(labels), generator=numbers)
    old, new = (
        canvases(images[rows], labels[rows], singles, pairs, numbers)
        for rows, singles, pairs in ((order[:1200], 100, setting.pairs), (order[1200:], 30, 6))
    )
    return old, new


def canvases(
    images: torch.Tensor, labels: torch.Tensor, singles: int, pairs: int, numbers: torch.Generator
) -> Rows:
    """So many canvases of each digit, in either half, and of each pair, in either order."""
    of = [(labels == digit).nonzero()[:, 0] for digit in range(10)]
    blank, pixels, tags = torch.zeros(8, 8), [], []

    def some(digit: int) -> torch.Tensor:
        return images[of[digit][torch.randint(len(of[digit]), (), generator=numbers)]]

    sets = [(i,) for i in range(10) for _ in range(singles)]
    sets += [pair for pair in itertools.combinations(range(10), 2) for _ in range(pairs)]
    for shown in sets:
        halves = [some(digit) for digit in shown] + [blank] * (2 - len(shown))
        if torch.rand((), generator=numbers) < 0.5:
            halves.reverse()
        pixels.append(torch.cat(halves, dim=1).flatten())
        tags.append(torch.zeros(10).index_fill_(0, torch.tensor(shown), 1))
    return Rows(torch.stack(pixels), torch.stack(tags))


def yeast(tags: tuple[int, ...]) -> Data:
    """Genes: 103 numbers each, and what they do; 1,800 for training.

    A tag that is left out is not seen. If seven of the 14 stay, 314 of the 335 rows for training that
    seem to have a single tag have others as well, and so have all that seem to have more.
    """
    from river.datasets import Yeast

    rows = [(list(x.values()), [float(tag) for tag in y.values()]) for x, y in Yeast()]
    x, y = (torch.tensor(each) for each in zip(*rows, strict=True))
    x, y = 10 * x, y[:, list(tags)]  # all of them have a standard deviation of about 0.1
    return Rows(x[:1800], y[:1800]), Rows(x[1800:], y[1800:])


class Tagger(L.LightningModule):
    """Two hidden layers with BatchNorm, features, which are linear or not, and a linear head."""

    def __init__(self, setting: Setting, inputs: int, tags: int, steps: int) -> None:
        super().__init__()
        self.setting, self.steps = setting, steps
        hidden = [
            nn.Sequential(nn.Linear(a, 256), nn.BatchNorm1d(256), nn.ReLU()) for a in (inputs, 256)
        ]
        last = nn.ReLU() if setting.relu else nn.Identity()
        self.body = nn.Sequential(*hidden, nn.Linear(256, setting.width), last)
        self.head = nn.Linear(setting.width, tags, bias=not setting.fixed)
        if setting.fixed:
            self.head.requires_grad_(False).weight.copy_(simplex(tags)[:, : setting.width])
        losses = {"PAL": PickAllLabelLoss, "PAL / tags": NormalizedPickAllLabelLoss}
        self.loss = losses.get(setting.loss, BinaryCrossEntropy)()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, tags = batch
        features = self.body(x)
        penalty = self.setting.mean_penalty / 2 * features.square().sum(1).mean()
        return self.loss(self.head(features), tags) + penalty

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> dict:
        head, rest = [self.head.weight], [p for p in self.parameters() if p is not self.head.weight]
        groups = [{"params": head, "weight_decay": self.setting.weight_penalty}, {"params": rest}]
        optimizer = torch.optim.Adam(groups, lr=2e-3)  # a fixed head has no gradient, and stays
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class BinaryCrossEntropy(nn.Module):
    """A decision of its own for each tag, added up over the tags."""

    def forward(self, logits: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.binary_cross_entropy_with_logits(logits, tags, reduction="none")
        return loss.sum(1).mean()


def simplex(tags: int) -> torch.Tensor:
    """Rows of length 1 with equal angles, in as many dimensions as they need, tags - 1."""
    centered = torch.eye(tags) - 1 / tags
    return math.sqrt(tags / (tags - 1)) * torch.linalg.svd(centered)[0][:, : tags - 1]


class Result(NamedTuple):
    """What is left of a run: measures of the training rows, in eval mode, and of new rows."""

    history: History

    def of(self, measure: str, stage: str = "train") -> list[float]:
        return [entry.value for entry in self.history[f"tags/{measure}/{stage}"]]

    def last(self, measure: str, stage: str = "train") -> float:
        """A measure in the end; NaN where it is left out."""
        is_there = f"tags/{measure}/{stage}" in self.history
        return self.of(measure, stage)[-1] if is_there else math.nan

    def predicted(self, loss: str) -> float:
        """C_2 / C_1 by the penalties: a theory of pick-all-label alone."""
        return self.last(PREDICTED[loss]) if loss in PREDICTED else math.nan

    @property
    def accuracy(self) -> float:
        """New rows with the very tags that they have."""
        return self.last("subset_accuracy", "val")


def train(name: str, setting: Setting, data: Data, options: argparse.Namespace) -> Result:
    L.seed_everything(options.seed, verbose=False)
    rows, new = data
    inputs, tags = (each.shape[1] for each in rows.tensors)
    steps = setting.epochs * math.ceil(len(rows) / BATCH)
    often = max(1, setting.epochs // (2 if options.quick else LOOKS))
    penalty = None if setting.fixed else setting.weight_penalty
    pictures = setting.epochs if name in PICTURED else 0
    collapse = NeuralCollapseCallback(
        task="multilabel", classifier="head", online=False, frozen_every_n_epochs=often,
        figures_every_n_epochs=pictures, penalty=penalty,
        feature_penalty=setting.mean_penalty / len(rows),
    )  # fmt: skip
    run = trainer(
        collapse, max_epochs=setting.epochs, check_val_every_n_epoch=often, log_every_n_steps=1
    )
    run.logger = TensorBoardLogger(options.dir, name=name.replace(",", "").replace("/", "by"))
    model = Tagger(setting, inputs, tags, steps)
    run.fit(model, rows.loader(BATCH, shuffle=True), new.loader(len(new)))
    return Result(collapse.history)


def claims(results: dict[str, Result]) -> list[Claim]:
    found = [claim for name, result in results.items() for claim in claims_of_run(name, result)]
    for kind in ("", ", strong", ", ReLU"):
        picked, binary = f"PAL{kind}", f"BCE{kind}"
        if {picked, binary} <= results.keys():
            a, b = (results[name].last("angle_ratio") for name in (picked, binary))
            text = f"{picked}: the angle ratio is below a third of that of binary cross-entropy"
            found.append(Claim(text, LI, f"{a:.3f}, and {b:.3f}", a < b / 3))
    if "PAL, fixed head" in results:
        a, b = (results[name].accuracy for name in ("PAL, fixed head", "PAL"))
        text = "PAL, fixed head and 9 features: as many tag sets found as with 32 (to 2% of the rows)"
        found.append(Claim(text, LI, f"{a:.3f}, and {b:.3f}", abs(a - b) < 0.02))
    return found


def claims_of_run(name: str, result: Result) -> list[Claim]:
    setting = {**SETTINGS, **ON_YEAST}[name]
    scale, predicted = result.last("scale_2"), result.predicted(setting.loss)
    on_scale = Claim(
        f"{name}: the scale C_2 / C_1 of the penalties (to 5%)", FORM,
        f"{scale:.3f}, predicted {predicted:.3f}", abs(scale / predicted - 1) < 0.05,
    )  # fmt: skip
    if name in ON_YEAST:
        residuals = [result.last(f"residual_{m}") for m in SEVERAL]
        on_residual = Claim(
            f"{name}: rows of 2, 3 and 4 tags come to be scaled sums of their tags' means (residuals "
            "below a fifth)", LI if setting.loss == "PAL" else "what PAL suggests",
            ", ".join(f"{value:.2f}" for value in residuals), max(residuals) < 0.2,
        )  # fmt: skip
        return [on_residual] + [on_scale] * (setting.loss == "PAL")
    ratio = result.last("angle_ratio")
    on_angle = Claim(
        f"{name}: a pair points where the sum of its tags' means does (angle ratio below 0.1)",
        LI if setting.loss != "BCE" and not setting.relu else "what linear features and PAL suggest",
        f"{ratio:.3f}", ratio < 0.1,
    )  # fmt: skip
    return [on_angle] + [on_scale] * (setting.loss != "BCE")


def print_result(name: str, result: Result, setting: Setting) -> None:
    cells = [
        result.of("angle_ratio")[0], result.last("angle_ratio"), result.last("scale_2"),
        result.predicted(setting.loss), result.of("residual_2")[0], result.last("residual_2"),
        result.accuracy,
    ]  # fmt: skip
    texts = ("-" if math.isnan(value) else f"{value:.3f}" for value in cells)
    print(f"{name:<17}" + "".join(f"{text:>16}" for text in texts), flush=True)


def print_left_out(all_tags: Result, some_tags: Result) -> None:
    """Which keys the yeast data have no meaning for, if all of their tags are kept."""
    keys = [key for key in some_tags.history if key.startswith("tags/") and key not in all_tags.history]
    names = ", ".join(sorted({key.split("/")[1] for key in keys}))
    told = f"Yeast with all 14 tags, of which one alone ever comes alone, leaves out of tags/: {names}."
    print("\n" + textwrap.fill(told, 110))


def draw(results: dict[str, Result], path: str, seed: int) -> None:
    figure = Figure(figsize=(16, 4.6), layout="constrained")
    layout = [[f"canvas {i}", "angle", "scale", "yeast", "accuracy"] for i in range(4)]
    axes = figure.subplot_mosaic(layout, width_ratios=[0.55, 1, 1, 0.8, 0.9])
    _draw_canvases([axes[f"canvas {i}"] for i in range(4)], seed)
    _draw_angles(axes["angle"], results)
    _draw_scales(axes["scale"], results)
    _draw_yeast(axes["yeast"], results)
    _draw_accuracy(axes["accuracy"], results)
    for name in ("angle", "scale", "yeast", "accuracy"):
        axes[name].spines[["top", "right"]].set_visible(False)
    lines = [line for line in axes["angle"].get_lines() if line.get_label()[0] != "_"]
    figure.legend(handles=lines, loc="outside upper center", ncols=9, frameon=False, fontsize=9)
    figure.supxlabel(LOSSES.replace("\n", " "), fontsize=9, color="0.3")
    figure.savefig(path, dpi=100)


def _look(name: str) -> dict:
    setting, found = SETTINGS[name], {"lw": 2.4 if name.endswith("strong") else 1.4, "ls": "-"}
    if setting.relu:
        found["ls"] = "--"
    elif setting.pairs < 20:
        found["ls"] = "-."
    return {**found, "color": GREEN if setting.fixed else COLORS[setting.loss], "label": name}


def _over_time(axis: Axes, values: list[float], **look: object) -> None:
    axis.plot([100 * (i + 1) / len(values) for i in range(len(values))], values, **look)


def _draw_canvases(axes: list[Axes], seed: int) -> None:
    pixels, tags = digits(SETTINGS["PAL"], seed)[0].tensors
    for axis, row in zip(axes, (250, 750, 1100, 1700), strict=True):
        axis.imshow(pixels[row].view(8, 16), cmap="gray_r")
        shown = ", ".join(str(tag) for tag in tags[row].nonzero()[:, 0].tolist())
        axis.set_title(f"{{{shown}}}", fontsize=9)
        axis.set(xticks=[], yticks=[])


def _draw_angles(axis: Axes, results: dict[str, Result]) -> None:
    for name in (name for name in SETTINGS if name in results):
        _over_time(axis, results[name].of("angle_ratio"), **_look(name))
    axis.axhline(0.1, color="0.6", lw=0.8, ls=":")
    axis.set(yscale="log", title="angle of a pair to its tags' sum", xlabel="% of the epochs")
    axis.set_ylabel("angle ratio: over that of any two pairs")
    axis.minorticks_off()
    axis.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])


def _draw_scales(axis: Axes, results: dict[str, Result]) -> None:
    for name in ("PAL", "PAL / tags", "PAL, fixed head", "PAL, strong"):
        if name in results:
            look, loss = _look(name), SETTINGS[name].loss
            _over_time(axis, results[name].of("scale_2"), **look)
            _over_time(axis, results[name].of(PREDICTED[loss]), **{**look, "ls": ":"})
    axis.set(title="scale of pairs (dotted: predicted)", xlabel="% of the epochs")
    axis.set_ylabel("$C_2 / C_1$")


def _draw_yeast(axis: Axes, results: dict[str, Result]) -> None:
    for name in (name for name in ON_YEAST if name in results):
        color = COLORS[ON_YEAST[name].loss]
        for when, style, told in ((0, ":", "at first"), (-1, "-", "in the end")):
            values = [results[name].of(f"residual_{m}")[when] for m in SEVERAL]
            axis.plot(SEVERAL, values, f"{style}o", color=color, ms=4, label=f"{name}, {told}")
    axis.set(title="yeast: what sums leave", xlabel="tags of a row", ylabel="residual", ylim=(0, 1))
    axis.set_xticks(SEVERAL)
    if axis.get_lines():
        axis.legend(frameon=False, fontsize=8)


def _draw_accuracy(axis: Axes, results: dict[str, Result]) -> None:
    names = [name for name in SETTINGS if name in results][::-1]
    for i, name in enumerate(names):
        axis.plot(results[name].accuracy, i, "o", color=_look(name)["color"])
    axis.set_yticks(range(len(names)), [f"{name} ({SETTINGS[name].width})" for name in names])
    axis.set(title="new canvases (features)", xlabel="share with just their tags", xlim=(0.88, 1))


def run_all(options: argparse.Namespace) -> dict[str, Result]:
    results, quick = {}, options.quick
    for name in QUICK if quick else SETTINGS:
        setting = SETTINGS[name]._replace(epochs=QUICK_EPOCHS) if quick else SETTINGS[name]
        results[name] = train(name, setting, digits(setting, options.seed), options)
        print_result(name, results[name], setting)
    if quick:
        epochs = SETTINGS[QUICK[0]].epochs
        print_reduced(
            f"{len(QUICK)} of {len(SETTINGS)} settings, {QUICK_EPOCHS} of {epochs} epochs, no yeast"
        )
        return results
    if importlib.util.find_spec("river") is None:
        print("\nLeft out: the yeast data, which need river")
        return results
    for name, setting in ON_YEAST.items():
        results[name] = train(name, setting, yeast(YEAST), options)
        print_result(name, results[name], setting)
    once = Setting("PAL", epochs=1)
    all_tags = train("yeast, all tags", once, yeast(tuple(range(14))), options)
    print_left_out(all_tags, results["yeast, PAL"])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="two settings, with a twentieth of the epochs"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="multilabel_digits.png", help="where the figure goes")
    parser.add_argument("--dir", default="runs/multilabel", help="where the TensorBoard logs go")
    options = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small lose by being shared out

    print(LEGEND + "\n")
    print(f"{'':<17}" + "".join(f"{title:>16}" for title in COLUMNS), flush=True)
    results = run_all(options)
    print_claims(claims(results))
    print_remarks(text for name, text in REMARKS.items() if name in results)
    draw(results, options.out, options.seed)
    print(f"\nWrote {options.out}; tensorboard --logdir {options.dir}")


if __name__ == "__main__":
    main()
