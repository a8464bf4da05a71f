"""Classes of unequal size: which geometry a network forms, and when a small class vanishes from it.

    python examples/imbalanced.py [--quick] [--seed 0] [--out imbalanced.png]

First theory's own problem, where the features of every row are free parameters. Then 264 handwritten
digits, from 60 of one class down to 8 of another, as one batch, with a network below the head: under
theory's penalties, of the features and of the head alone, and under plain weight decay. Then the free
features again, with ever fewer rows in one class, until it vanishes. It takes two minutes on one CPU
core and needs scikit-learn.
"""

import argparse
import math
from collections.abc import Sequence
from typing import NamedTuple

import lightning as L
import torch
from claims import Claim, print_claims, trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

from lightning_nc import LinearClassifier, NeuralCollapseCallback
from lightning_nc.functional import frames
from lightning_nc.functional.frames.ce_program import ce_ufm
from lightning_nc.functional.frames.cross_entropy import relu_ce
from lightning_nc.functional.imbalance.candidates import AS_THEY_ARE
from lightning_nc.functional.imbalance.families import Fit
from lightning_nc.functional.imbalance.nearest import Ranking, nearest_geometry
from lightning_nc.functional.imbalance.profiles import Profile, r_profile, tau_profile

COUNTS = torch.tensor([60, 48, 38, 30, 24, 19, 15, 12, 10, 8])
FREE_COUNTS, FREE_PENALTY = torch.tensor([200, 100, 50, 50]), {1: 5e-4, 3: 2e-3}
STRONGER, STARTS = 5e-3, 10  # all four classes live at the global minimum with that penalty, too
# beside the classes of these counts one becomes ever smaller
OTHERS, SWEEP_PENALTY, SIZES = (200, 100, 50), {1: 0.012, 3: 0.0075}, range(8, 41)
DEAD = 1e-3  # of the logit of its own class; that of a class that lives by one row is 7e-3
SOURCES = {"gof": "Dang et al. 2023", "gof_centered": "arXiv 2411.17278",
           "relu_ce": "Dang et al. 2024", "ce_ufm": "Hong & Ling 2023"}  # fmt: skip
OWN = "the scalar problem of each class"
RACE = ("of", "gof", "gof_centered", "relu_ce", "etf", "seli")
COLORS = {"of": "0.6", "gof": "#0072B2", "gof_centered": "#56B4E9", "relu_ce": "#D55E00",
          "etf": "#CC79A7", "seli": "#E69F00", "ce_ufm": "#009E73"}  # fmt: skip


class Setting(NamedTuple):
    """A head and how it is trained; the penalties are those of (penalty / 2) times a sum of squares."""

    loss: str
    depth: int
    width: int
    learning_rate: float
    steps: int
    feature_penalty: float
    weight_penalty: float
    bias: bool = False
    signed: bool = False  # features of both signs
    decays_all: bool = False


SETTINGS = {
    "MSE": Setting("mse", 1, 64, 2e-3, 4000, 1e-4, 1e-2),
    "MSE, free bias": Setting("mse", 1, 48, 2e-3, 3000, 1e-4, 1e-2, bias=True, signed=True),
    "MSE, M = 3": Setting("mse", 3, 48, 3e-3, 3000, 3e-5, 1e-3),
    "CE, ReLU": Setting("ce", 1, 64, 5e-3, 5000, 5e-4, 5e-3),
    "CE, both signs": Setting("ce", 1, 64, 5e-3, 5000, 5e-4, 5e-3, signed=True),
    "MSE, decay 1e-3": Setting("mse", 1, 64, 2e-3, 4000, 0.0, 1e-3, bias=True, decays_all=True),
    "MSE, decay 5e-3": Setting("mse", 1, 64, 2e-3, 4000, 0.0, 5e-3, bias=True, decays_all=True),
}
QUICK = ("MSE", "CE, ReLU", "CE, both signs", "MSE, decay 5e-3")


class Digits(L.LightningModule):
    """Two hidden layers, and a head of M linear layers with nothing between them."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting, d = setting, setting.width
        last = nn.Identity() if setting.signed else nn.ReLU()
        self.body = nn.Sequential(nn.Linear(64, d), nn.ReLU(), nn.Linear(d, d), last)
        inner = [nn.Linear(d, d, bias=False) for _ in range(setting.depth - 1)]
        self.head = nn.Sequential(*inner, nn.Linear(d, len(COUNTS), bias=setting.bias))

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
            target = nn.functional.one_hot(label, len(COUNTS))
            loss = (logits - target).square().sum() / (2 * len(label))
        return loss + self.setting.feature_penalty / 2 * features.square().sum()

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.objective(batch)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        squares = sum(layer.weight.square().sum() for layer in self.head)
        self.log("objective", self.objective(batch) + self.setting.weight_penalty / 2 * squares)

    def configure_optimizers(self) -> dict:
        decayed = [layer.weight for layer in self.head]
        if self.setting.decays_all:
            decayed = [*self.parameters()]
        free = [p for p in self.parameters() if not any(p is each for each in decayed)]
        groups = [{"params": decayed, "weight_decay": self.setting.weight_penalty}, {"params": free}]
        optimizer = torch.optim.Adam(groups, lr=self.setting.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.setting.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class FreeFeatures(L.LightningModule):
    """The theory's problem: a head without bias, and a feature of each row that is free to move."""

    def __init__(self, counts: torch.Tensor, depth: int, penalty: float, width: int = 8) -> None:
        super().__init__()
        k, self.penalty = len(counts), penalty
        self.label = torch.repeat_interleave(torch.arange(k), counts)
        rows = [width] * (depth - 1) + [k]
        self.features = nn.Parameter(torch.randn(len(self.label), width) / width**0.5)
        self.head = nn.Sequential(*(nn.Linear(width, r, bias=False) for r in rows))
        for layer in self.head:
            nn.init.normal_(layer.weight, std=width**-0.5)
        self.double()

    def start_at_labels(self, counts: torch.Tensor, last_lives: bool) -> None:
        """Where all labels are met, but for some noise; or all but those of the last class."""
        k, layers = len(counts), len(self.head)
        scale = counts.double() ** (0.5 / (layers + 1))
        scale[-1] *= last_lives
        weight = torch.zeros_like(self.features[: self.features.shape[1]])
        weight[range(k), range(k)] = scale
        with torch.no_grad():
            self.features.copy_((weight[:k] / counts.sqrt()[:, None])[self.label])
            for layer in self.head:
                layer.weight.copy_(weight[: len(layer.weight)])
            for parameter in self.parameters():
                parameter.add_(1e-3 * torch.randn_like(parameter))

    def objective(self) -> torch.Tensor:
        target = nn.functional.one_hot(self.label)
        loss = (self.head(self.features) - target).square().sum() / (2 * len(self.label))
        return loss + self.penalty / 2 * sum(p.square().sum() for p in self.parameters())

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.objective()

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.log("objective", self.objective())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(
            self.parameters(), max_iter=100, history_size=40, tolerance_grad=1e-9,
            tolerance_change=1e-16, line_search_fn="strong_wolfe",
        )  # fmt: skip


class Theory(NamedTuple):
    """The family of a geometry, its one number by the penalties, and where the objective is least."""

    family: str
    parameter: float
    least: frames.Minimum


def theory(setting: Setting) -> Theory | None:
    """What is expected with these penalties; None under plain weight decay."""
    n, k = int(COUNTS.sum()), len(COUNTS)
    weight, features = setting.weight_penalty, setting.feature_penalty
    product = n * features * weight**setting.depth
    if setting.decays_all:
        return None
    if setting.loss == "mse":
        kind, name = (frames.gof_centered, "gof_centered") if setting.bias else (frames.gof, "gof")
        return Theory(name, product, kind(COUNTS, [weight] * setting.depth, features))
    if setting.signed:
        return Theory("ce_ufm", math.sqrt(product), ce_ufm(COUNTS, math.sqrt(weight * features)))
    return Theory("relu_ce", math.sqrt(product * (k - 1) / k), relu_ce(COUNTS, weight, features))


def free_theory(depth: int) -> Theory:
    penalty = FREE_PENALTY[depth]
    tau = int(FREE_COUNTS.sum()) * penalty ** (depth + 1)
    return Theory("gof", tau, frames.gof(FREE_COUNTS, [penalty] * depth, penalty))


class Result(NamedTuple):
    """What is left of a run."""

    ranking: Ranking
    spread: float  # tr Sw / tr Sb
    triple: frames.Triple
    profile: Profile | None  # the parameter that each class tells by its logits, where it can
    theory: Theory | None
    excess: float  # the objective over its least value, less 1
    gap: float  # distance from the frame of the true parameter
    race: dict[str, list[float]]  # distances from families, over the epochs

    @property
    def best(self) -> Fit:
        return self.ranking.fits[0]

    @property
    def runner_up(self) -> Fit:
        """The next one that differs."""
        second = self.best.rms + self.ranking.margin
        return next(fit for fit in self.ranking.fits[1:] if fit.rms > second - 1e-12)


def train(
    model: Digits | FreeFeatures, batch: list | dict, counts: torch.Tensor, steps: int, epochs: int,
    expected: Theory | None,
) -> Result:  # fmt: skip
    names = [name for name in RACE if len(model.head) == 1 or name != "relu_ce"]
    if expected is not None and expected.family == "ce_ufm":
        names.append("ce_ufm")
    measures = [*(f"imbalance/{name}" for name in names), "nc1/within_between_ratio"]
    # what is validated are the training rows themselves
    collapse = NeuralCollapseCallback(
        # named, since free features look like the rows of a classifier, too
        classifier=f"head.{len(model.head) - 1}", class_counts=counts.tolist(), measures=measures,
        stage_names=["train"], online=False,
    )  # fmt: skip
    run = trainer(collapse, max_epochs=epochs)
    rows = DataLoader([batch] * (steps // epochs), batch_size=None)
    run.fit(model, rows, DataLoader([batch], batch_size=None))
    return _result(model, collapse, names, counts, expected, float(run.callback_metrics["objective"]))


def _result(
    model: Digits | FreeFeatures, collapse: NeuralCollapseCallback, names: Sequence[str],
    counts: torch.Tensor, expected: Theory | None, objective: float,
) -> Result:  # fmt: skip
    depth, has_bias = len(model.head), model.head[-1].bias is not None
    layer = "/head.0.in" if depth > 1 else ""
    statistics = collapse.statistics[f"train{layer}"]
    product = torch.eye(statistics.num_features, dtype=torch.float64)
    for each in model.head:
        product = each.weight.detach().double() @ product
    families = [*AS_THEY_ARE] if "ce_ufm" in names else [*AS_THEY_ARE][:-1]
    classifier = LinearClassifier(product)
    nearest = nearest_geometry(statistics, classifier, depth, as_they_are=families)
    triple = frames.gram_triple(statistics.means, product, counts if has_bias else None)
    gap = excess = math.nan
    if expected is not None:
        gap = float(frames.rms(frames.frame_gaps(triple, expected.least.triple)))
        excess = objective / float(expected.least.loss) - 1
    of = {name: collapse.history[f"imbalance/{name}/train{layer}"] for name in names}
    return Result(
        nearest.centered if has_bias else nearest.as_they_are,
        collapse.history[f"nc1/within_between_ratio/train{layer}"][-1].value,
        triple, _profile(expected, counts, triple.logits, depth), expected, excess, gap,
        {name: [entry.value for entry in entries] for name, entries in of.items()},
    )  # fmt: skip


def _profile(
    expected: Theory | None, counts: torch.Tensor, logits: torch.Tensor, depth: int
) -> Profile | None:
    if expected is not None and expected.family == "relu_ce":
        return r_profile(counts, logits)
    if expected is not None and expected.family == "gof":
        return tau_profile(counts, logits, depth)
    return None


def train_free(depth: int, epochs: int, seed: int) -> Result:
    L.seed_everything(seed, verbose=False)
    model = FreeFeatures(FREE_COUNTS, depth, FREE_PENALTY[depth])
    return train(model, {"label": model.label}, FREE_COUNTS, epochs, epochs, free_theory(depth))


def train_digits(setting: Setting, epochs: int, seed: int) -> Result:
    L.seed_everything(seed, verbose=False)
    pixels, labels = (torch.tensor(each) for each in load_digits(return_X_y=True))
    rows = torch.cat([(labels == c).nonzero()[:n, 0] for c, n in enumerate(COUNTS.tolist())])
    batch = [pixels[rows].float() / 16, labels[rows]]
    return train(Digits(setting), batch, COUNTS, setting.steps, epochs, theory(setting))


class Settled(NamedTuple):
    """Where free features come to rest, by the logits of their class means."""

    logit: float  # of the last class, its own
    rank: int
    objective: float


def settle(
    counts: torch.Tensor, depth: int, penalty: float, last_lives: bool | None, seed: int
) -> Settled:
    """From a random start (None), or from where the labels are met, those of the last class or not."""
    torch.manual_seed(seed)
    model = FreeFeatures(counts, depth, penalty)
    if last_lives is not None:
        model.start_at_labels(counts, last_lives)
    optimizer = model.configure_optimizers()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model.objective()
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    with torch.no_grad():
        logits = model.head(model.features)
        of_means = torch.stack([logits[model.label == k].mean(0) for k in range(len(counts))])
        rank = int((torch.linalg.svdvals(of_means) > DEAD).sum())
        return Settled(float(of_means[-1, -1]), rank, float(model.objective()))


def critical_size(depth: int, limit: float) -> float:
    """Rows of the last class at which its tau / p^M is at a limit; N, too, depends on them."""
    share_of, size = frames.smallest_surviving_share, 0.0
    for _ in range(50):
        n = sum(OTHERS) + size
        tau = n * SWEEP_PENALTY[depth] ** (depth + 1)
        size = n * share_of(tau * frames.survival_threshold(depth) / limit, depth)
    return size


class Sweep(NamedTuple):
    """The last class by its size, from each start; theory of one that lives, and its limits."""

    sizes: list[int]
    settled: dict[str, list[Settled]]
    expected: list[float]
    survives: float
    spinodal: float

    def largest_dead(self, start: str) -> int:
        """The most rows with which the class vanishes."""
        pairs = zip(self.sizes, self.settled[start], strict=True)
        return max((size for size, each in pairs if each.logit < DEAD), default=0)


def sweep(depth: int, quick: bool, seed: int) -> Sweep:
    survives = critical_size(depth, frames.survival_threshold(depth))
    spinodal = critical_size(depth, frames.spinodal(depth))
    near = [size for size in SIZES if min(abs(size - survives), abs(size - spinodal)) < 2]
    sizes = [size for size in SIZES if size in near or size % 16 == 8 or not quick]
    starts = {"random": None} if depth == 1 else {"alive": True, "zero": False}
    all_counts = [torch.tensor([*OTHERS, size]) for size in sizes]
    settled = {
        name: [settle(counts, depth, SWEEP_PENALTY[depth], lives, seed) for counts in all_counts]
        for name, lives in starts.items()
    }
    expected = []
    for counts in all_counts:
        shares = frames.class_shares(counts)
        tau = int(counts.sum()) * SWEEP_PENALTY[depth] ** (depth + 1)
        alive = torch.ones(len(shares), dtype=torch.bool)
        expected.append(float(frames.gains(tau / shares**depth, depth, alive)[-1]))
    return Sweep(sizes, settled, expected, survives, spinodal)


def claims_of_run(name: str, result: Result) -> list[Claim]:
    best, second, expected = result.best, result.runner_up, result.theory
    told = f"{best.family} at {best.rms:.2g}, then {second.family} at {second.rms:.2g}"
    if expected is None:
        text = f"{name}: plain weight decay forms one of these geometries as well (to 0.1)"
        shows = result.ranking.verdict != "none"
        return [Claim(text, "what the other penalties suggest", told, shows)]
    source, by_penalties = SOURCES[expected.family], f"by the penalties {expected.parameter:.4g}"
    fitted = "none told" if best.value is None else f"{best.value:.4g}"
    found = [
        Claim(
            f"{name}: {expected.family} is the nearest geometry (to 0.1)", source, told,
            result.ranking.verdict == expected.family,
        ),
        Claim(
            f"{name}: its shape tells the parameter (to 5%)", source,
            f"{best.parameter} {fitted}, {by_penalties}", _near(best.value, expected.parameter),
        ),
    ]  # fmt: skip
    if result.profile is not None:
        median = float(result.profile.values.nanmedian())
        text = f"{name}: and so do the logits of its classes (the median, to 5%)"
        measured = f"{best.parameter} {median:.4g}, {by_penalties}"
        near = _near(median, expected.parameter)
        found.append(Claim(text, source, measured, near))
    return found


def _near(value: float | None, parameter: float) -> bool:
    return value is not None and abs(value / parameter - 1) < 0.05


def claim_of_starts(settled: list[Settled]) -> Claim:
    least = float(frames.gof(FREE_COUNTS, [STRONGER] * 3, STRONGER).loss)
    above = [each for each in settled if each.objective > 1.001 * least]
    most = max((each.objective / least - 1 for each in above), default=0.0)
    ranks = ", ".join(str(rank) for rank in sorted({each.rank for each in above})) or "-"
    return Claim(
        "free features, M = 3, stronger penalties: some random starts end above the least objective, "
        "with directions at zero that live there", OWN,
        f"{len(above)} of {len(settled)}, by {most:.0%} at most; logits of rank {ranks} of 4",
        any(each.rank < len(FREE_COUNTS) for each in above),
    )  # fmt: skip


def claims_of_free(name: str, result: Result) -> list[Claim]:
    return [
        Claim(
            f"{name}: the frame of the penalties (to 1e-4)", SOURCES["gof"],
            f"distance {result.gap:.1e}", result.gap < 1e-4,
        ),
        Claim(
            f"{name}: and the least objective (to 1e-6)", SOURCES["gof"],
            f"above it by {result.excess:.1e} of it", abs(result.excess) < 1e-6,
        ),
    ]  # fmt: skip


def claims_of_sweeps(one: Sweep, three: Sweep) -> list[Claim]:
    gone, left = one.largest_dead("random"), three.largest_dead("alive")
    alive, zero = three.settled["alive"], three.settled["zero"]
    dearer = [
        n for n, a, z in zip(three.sizes, alive, zero, strict=True)
        if a.logit > DEAD and a.objective > z.objective
    ]  # fmt: skip
    crossing = max(dearer, default=0)
    return [
        Claim(
            "M = 1: a class vanishes at the count that the penalties set (within one row)",
            SOURCES["gof"], f"with {gone} rows, predicted {one.survives:.1f}",
            one.survives - 1 < gone <= one.survives + 1,
        ),
        Claim(
            "M = 3, a class that lives goes on living down to the spinodal (within one row)", OWN,
            f"gone with {left} rows, predicted {three.spinodal:.1f}",
            three.spinodal - 1 < left <= three.spinodal + 1,
        ),
        Claim(
            "M = 3, a class at zero stays there, with any count tried", OWN,
            f"largest logit {max(each.logit for each in zero):.0e}, up to {three.sizes[-1]} rows",
            max(each.logit for each in zero) < DEAD,
        ),
        Claim(
            "M = 3: to live costs more below the count of the global minimum (within one row)", OWN,
            f"up to {crossing} rows, predicted {three.survives:.1f}",
            three.survives - 1 <= crossing <= three.survives + 1,
        ),
    ]  # fmt: skip


def print_result(name: str, result: Result) -> None:
    best, second, expected, profile = result.best, result.runner_up, result.theory, result.profile
    fitted = "-" if best.value is None else f"{best.value:.4g}"
    by_logits = "-" if profile is None else f"{float(profile.values.nanmedian()):.4g}"
    true, excess = "-", "-"
    if expected is not None:
        true, excess = f"{expected.parameter:.4g}", f"{result.excess:.1e}"
    print(
        f"{name:<22}{result.ranking.verdict:<14}{fitted:>10}{by_logits:>11}{true:>11}{best.rms:>9.4f}"
        f"{second.rms:>9.4f} {second.family:<13}{excess:>9}{result.spread:>9.1e}", flush=True,
    )  # fmt: skip


def draw(runs: dict[str, Result], sweeps: dict[int, Sweep], path: str) -> None:
    figure = Figure(figsize=(15, 7), layout="constrained")
    axes = figure.subplots(2, 4)
    for axis, name in zip(axes[0], QUICK, strict=True):
        _draw_race(axis, name, runs[name])
    axes[0, 0].set_ylabel("distance from the geometry")
    handles = {h.get_label(): h for axis in axes[0] for h in axis.get_lines()}
    figure.legend(
        handles=[handles[n] for n in COLORS], loc="outside upper center", ncols=7, frameon=False
    )
    _draw_lengths(axes[1, 0], runs)
    _draw_logits(axes[1, 1], 1, sweeps[1])
    _draw_logits(axes[1, 2], 3, sweeps[3])
    _draw_objectives(axes[1, 3], sweeps[3])
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def _draw_race(axis: Axes, name: str, result: Result) -> None:
    for family, distances in result.race.items():
        steps = [100 * (i + 1) / len(distances) for i in range(len(distances))]
        wide = 2.4 if family == result.ranking.verdict else 1.2
        axis.semilogy(steps, distances, color=COLORS[family], lw=wide, label=family)
    axis.axhline(0.1, color="0.6", lw=0.8, ls=":")
    axis.set(title=name, xlabel="% of the steps", ylim=(1e-4, 1.2))


def _draw_lengths(axis: Axes, runs: dict[str, Result]) -> None:
    colors = {"MSE": COLORS["gof"], "MSE, M = 3": "#CC79A7", "CE, ReLU": COLORS["relu_ce"]}
    for name, color in colors.items():
        if name in runs:
            expected = runs[name].theory
            assert expected is not None
            theirs = expected.least.triple.means.diagonal().sqrt()
            measured = runs[name].triple.means.diagonal().sqrt()
            axis.loglog(COUNTS, measured / theirs[0], "o", color=color, ms=5, label=name)
            axis.loglog(COUNTS, theirs / theirs[0], "-", color=color, lw=1.2)
    axis.set(title="class means (lines: theory)", xlabel="rows of the class")
    axis.set_ylabel("length, over theory of 60 rows")
    axis.minorticks_off()
    axis.set_xticks([8, 15, 30, 60], ["8", "15", "30", "60"])
    axis.set_yticks([1, 1.5, 2], ["1", "1.5", "2"])
    axis.legend(frameon=False, fontsize=8)


def _draw_logits(axis: Axes, depth: int, swept: Sweep) -> None:
    axis.plot(swept.sizes, swept.expected, "-", color="0.6", label="theory, alive")
    for (start, settled), style in zip(swept.settled.items(), ("o", "x"), strict=False):
        logits = [each.logit for each in settled]
        axis.plot(swept.sizes, logits, style, ms=5, color="#0072B2", label=f"start: {start}")
    _mark(axis, swept)
    axis.set(title=f"free features, M = {depth}", xlabel="rows of the smallest class")
    axis.set_ylabel("its own logit (0: it has vanished)")
    axis.legend(frameon=False, fontsize=8)


def _draw_objectives(axis: Axes, swept: Sweep) -> None:
    pairs = zip(swept.sizes, *swept.settled.values(), strict=True)
    lives = [(n, a.objective - z.objective) for n, a, z in pairs if a.logit > DEAD]
    axis.plot(*zip(*lives, strict=True), "o-", color="#0072B2", ms=4)
    axis.axhline(0, color="0.6", lw=0.8)
    _mark(axis, swept)
    axis.set(title="M = 3: what it costs to live", xlabel="rows of the smallest class")
    axis.set(ylabel="objective, alive less vanished", xlim=(SIZES[0] - 1, SIZES[-1] + 1))


def _mark(axis: Axes, swept: Sweep) -> None:
    told = {swept.spinodal: "spinodal", swept.survives: "global minimum"}
    for size, text in told.items():
        axis.axvline(size, color="#D55E00", lw=0.8, ls="--")
        where = {"xycoords": axis.get_xaxis_transform(), "rotation": 90, "va": "center"}
        axis.annotate(f" {text}", (size + 0.3, 0.33), color="#D55E00", fontsize=7, **where)


def train_all(quick: bool, seed: int) -> tuple[dict[str, Result], list[Claim]]:
    print(
        f"{'':<36}{'parameter by':^32}{'distance of':^28}\n{'run':<22}{'verdict':<14}{'shape':>10}"
        f"{'logits':>11}{'penalties':>11}{'nearest':>9}{'second':>9}{'excess':>23}{'Sw/Sb':>9}"
    )
    runs, found = {}, []
    for depth in FREE_PENALTY:
        name = f"free features, M = {depth}"
        runs[name] = train_free(depth, 8, seed)
        found += claims_of_free(name, runs[name])
        print_result(name, runs[name])
    for name, setting in SETTINGS.items():
        if not quick or name in QUICK:
            steps = setting.steps // 10 if quick else setting.steps
            runs[name] = train_digits(setting._replace(steps=steps), 2 if quick else 20, seed)
            found += claims_of_run(name, runs[name])
            print_result(name, runs[name])
    return runs, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs, with a tenth of the steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="imbalanced.png", help="where the figure goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small lose by being shared out

    quick, seed = arguments.quick, arguments.seed
    runs, found = train_all(quick, seed)
    seeds = range(seed, seed + (STARTS // 2 if quick else STARTS))
    found.append(claim_of_starts([settle(FREE_COUNTS, 3, STRONGER, None, each) for each in seeds]))
    sweeps = {depth: sweep(depth, quick, seed) for depth in SWEEP_PENALTY}
    print_claims([*found, *claims_of_sweeps(sweeps[1], sweeps[3])])
    draw(runs, sweeps, arguments.out)
    print(f"\nWrote {arguments.out}")


if __name__ == "__main__":
    main()
