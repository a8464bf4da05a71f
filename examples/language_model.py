"""Small language models of three widths: how the geometry of their tokens follows the loss.

    python examples/language_model.py [--quick] [--seed 0] [--out language_model.png]

A causal transformer of two layers, made from a config, learns the help texts that come with Python. A
class is a next word, so that there are more classes than dimensions, and no simplex fits. Each model is
measured at four checkpoints, on training text in eval mode; its loss is that of text that it has not
seen. It needs transformers, downloads nothing, and takes about three minutes on one CPU core.
"""

import argparse
import itertools
import re
import sys
import warnings
from collections import Counter
from typing import NamedTuple

import lightning as L
import torch
from claims import Claim, print_claims, trainer
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, RandomSampler

from lightning_nc import NeuralCollapseCallback

try:
    from pydoc_data.topics import topics

    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging as transformers_logging
except ImportError as missing:
    sys.exit(
        f"This example needs transformers and the help texts of Python, but: {missing}. "
        "Try `pip install transformers`."
    )

WORDS = 600  # the most frequent ones; all rare ones count as one word
BLOCK, CONTEXT, BATCH = 512, 32, 24
POSITIONS = 40_000  # of the training text that is measured
WIDTHS, CHECKPOINTS = (16, 32, 64), (50, 200, 500, 1200)
COLORS = {16: "#0072B2", 32: "#E69F00", 64: "#009E73"}
MARKERS = ("o", "s", "^", "D")


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Python's help texts as windows of word numbers: to train on, and a tenth to validate on.

    Whole blocks are held out, so that no window of one part overlaps one of the other. Each window has
    one word more than the context, as the label of a position is the next word.
    """
    words = re.findall(r"\w+|[^\w\s]", "\n".join(topics[name] for name in sorted(topics)))
    frequent = [word for word, _ in Counter(words).most_common(WORDS - 1)]
    number = {word: i for i, word in enumerate(frequent, start=1)}
    ids = torch.tensor([number.get(word, 0) for word in words])
    unknown, version = float((ids == 0).float().mean()), sys.version.split()[0]
    print(f"Help texts of Python {version}: {len(ids):,} words, {unknown:.1%} of them rare ones")
    blocks = ids[: len(ids) // BLOCK * BLOCK].view(-1, BLOCK)
    held_out = torch.arange(len(blocks)) % 10 == 9
    return _windows(blocks[~held_out]), _windows(blocks[held_out])


def _windows(blocks: torch.Tensor) -> torch.Tensor:
    """All that fit, one after the other; they share the word between them."""
    return blocks.unfold(1, CONTEXT + 1, CONTEXT).flatten(0, 1)


class LanguageModel(L.LightningModule):
    """GPT-2 in small, with a head of its own. An epoch of training is what lies between checkpoints."""

    def __init__(self, width: int, windows: torch.Tensor, checkpoints: tuple[int, ...]) -> None:
        super().__init__()
        self.windows, self.checkpoints = windows, checkpoints
        config = GPT2Config(
            vocab_size=WORDS, n_embd=width, n_layer=2, n_head=2, n_positions=CONTEXT + 1,
            tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, loss_type="ForCausalLM",
        )  # fmt: skip
        self.model = GPT2LMHeadModel(config)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.model(**batch).loss

    def validation_step(
        self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        names = ("train_loss", "val_loss")
        size = len(batch["labels"])
        loss = self.model(**batch).loss
        self.log(names[dataloader_idx], loss, batch_size=size, add_dataloader_idx=False)

    def train_dataloader(self) -> DataLoader:
        before = (0, *self.checkpoints)
        steps = self.checkpoints[self.current_epoch] - before[self.current_epoch]
        return loader(self.windows, RandomSampler(self.windows, num_samples=steps * BATCH))

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, self.checkpoints[-1])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loader(windows: torch.Tensor, sampler: RandomSampler | None = None) -> DataLoader:
    """Batches of windows, whose labels are the inputs: the model shifts them."""
    rows = [{"input_ids": window, "labels": window} for window in windows]
    return DataLoader(rows, BATCH if sampler else 256, sampler=sampler)


class Checkpoint(NamedTuple):
    """One model after so many steps: its loss on unseen text, and four measures on training text."""

    width: int
    step: int
    loss: float
    agreement: float
    cdnv: float
    duality: float
    distances: float
    classes: float


class Losses(L.Callback):
    """The validation loss at each checkpoint."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.taken.append(float(trainer.callback_metrics["val_loss"]))


def train(width: int, steps: tuple[int, ...], seed: int, data: tuple) -> list[Checkpoint]:
    L.seed_everything(seed, verbose=False)
    windows, held_out = data
    # so many classes cannot form a simplex: what compares with it is left out
    collapse = NeuralCollapseCallback(
        measures=["nc0/classes_kept", "nc1/cdnv", "nc2/*log_distance*", "nc4/ncc_mismatch", "lm"],
        target_shift=1, min_count=30, online=False, stage_names=["text", "val"],
    )  # fmt: skip
    losses = Losses()
    run = trainer(
        collapse, losses, max_epochs=len(steps), num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
    )  # fmt: skip
    measured = windows[torch.linspace(0, len(windows) - 1, POSITIONS // CONTEXT).long()]
    run.fit(LanguageModel(width, windows, steps), val_dataloaders=[loader(measured), loader(held_out)])

    def values(key: str) -> list[float]:
        return [entry.value for entry in collapse.history[f"{key}/text"]]

    deviations, means = values("lm/duality_cosine_std"), values("lm/duality_cosine_mean")
    return [
        Checkpoint(width, *row)
        for row in zip(
            steps, losses.taken,
            [1 - mismatch for mismatch in values("nc4/ncc_mismatch")],
            values("nc1/cdnv"),
            [std / abs(mean) for std, mean in zip(deviations, means, strict=True)],
            values("nc2/means_log_distance_variation"), values("nc0/classes_kept"), strict=True,
        )
    ]  # fmt: skip


class Measure(NamedTuple):
    """What a measure is called and what it is, and the sign of its correlation in the paper."""

    name: str
    what: str
    sign: int


MEASURES = {
    "agreement": Measure("NC4 agreement", "share of words: nearest mean as network", -1),
    "cdnv": Measure("CDNV", "spread / squared distance of classes", +1),
    "duality": Measure("UNC3", "std / |mean| of the cosines of w and m", +1),
    "distances": Measure("GNC2", "std / |mean| of log inverse distances", +1),
}


def correlation(checkpoints: list[Checkpoint], name: str) -> float:
    pairs = torch.tensor([[point.loss, getattr(point, name)] for point in checkpoints])
    return float(torch.corrcoef(pairs.T)[0, 1])


def claims(checkpoints: list[Checkpoint]) -> list[Claim]:
    source = "Wu & Papyan 2024"
    found = []
    for name, (title, what, sign) in MEASURES.items():
        r = correlation(checkpoints, name)
        direction = "below -0.7" if sign < 0 else "above 0.7"
        text = f"{title} ({what}): correlation with the validation loss {direction}, all checkpoints"
        found.append(Claim(text, source, f"Pearson {r:+.2f}", sign * r > 0.7))
    last = [point for point in checkpoints if point.step == max(p.step for p in checkpoints)]
    for name, (title, _, sign) in MEASURES.items():
        by_width = [getattr(point, name) for point in last]
        falls = all(sign * a > sign * b for a, b in itertools.pairwise(by_width))
        shown = " -> ".join(f"{value:.3g}" for value in by_width)
        text = f"{title}: nearer to collapse the wider the trained model is"
        found.append(Claim(text, source, shown, falls))
    return found


def print_checkpoints(checkpoints: list[Checkpoint]) -> None:
    for width, step, loss, *values, classes in checkpoints:
        row = "".join(f"{value:>10.3f}" for value in (loss, *values))
        print(f"{width:>10}{step:>10}{row}{classes:>10.0f}", flush=True)


def draw(checkpoints: list[Checkpoint], path: str) -> None:
    figure = Figure(figsize=(14, 3.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1)
    steps = sorted({point.step for point in checkpoints})
    for axis, (name, (title, what, _)) in zip(figure.subplots(1, 4), MEASURES.items(), strict=True):
        for width in sorted({point.width for point in checkpoints}):
            own = [point for point in checkpoints if point.width == width]
            x, y = [point.loss for point in own], [getattr(point, name) for point in own]
            axis.plot(x, y, "-", color=COLORS[width], lw=1.2, label=f"width {width}")
            for point, marker in zip(own, MARKERS, strict=False):
                axis.plot(point.loss, getattr(point, name), marker, color=COLORS[width], ms=6)
        for step, marker in zip(steps, MARKERS, strict=False):
            axis.plot([], [], marker, color="0.4", ls="", label=f"{step} steps")
        axis.set_title(f"{title}: correlation {correlation(checkpoints, name):+.2f}", fontsize=10)
        axis.set(xlabel="validation loss (nats per word)", ylabel=what)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two widths and an eighth of the steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="language_model.png", help="where the figure goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small lose by being shared out
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", ".*min_count.*")  # rare words are left out on purpose

    widths, steps = WIDTHS, CHECKPOINTS
    if arguments.quick:
        widths, steps = WIDTHS[:2], tuple(step // 8 for step in CHECKPOINTS)
    data = texts()
    titles = ("width", "step", "val loss", "1 - NC4", "CDNV", "UNC3", "GNC2", "classes")
    print("".join(f"{title:>10}" for title in titles), flush=True)
    checkpoints = []
    for width in widths:
        checkpoints += train(width, steps, arguments.seed, data)
        print_checkpoints(checkpoints[-len(steps) :])
    print_claims(claims(checkpoints))
    print(
        "\nGNC2 starts low: the class means of a random network lie in all directions alike, and\n"
        "training undoes that at first. It compares trained models, not early checkpoints."
    )
    draw(checkpoints, arguments.out)
    print(f"\nWrote {arguments.out}")


if __name__ == "__main__":
    main()
