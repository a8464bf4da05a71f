"""Draw the picture of the README: three classes of digits before and after, and NC1 over the epochs.

python examples/picture.py [--out examples/collapse.png]
"""

import argparse
import logging
import warnings

import lightning as L
import torch
from digits import Digits, loaders
from matplotlib.figure import Figure

from lightning_nc import ClassStatistics, NeuralCollapseCallback, figures

EPOCHS = 200
COLORS = {"train": "#0072B2", "train_online": "#E69F00", "val": "#009E73"}
CLASSES = (0, 1, 4)


class Snapshots(L.Callback):
    """The class means and features of the validation images after some epochs."""

    def __init__(self, epochs: list[int]) -> None:
        self.epochs = epochs
        self.taken: dict[int, tuple] = {}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch in self.epochs and not trainer.sanity_checking:
            pixels, labels = next(iter(trainer.val_dataloaders))
            features = pl_module.backbone(pixels)
            self.taken[trainer.current_epoch] = features, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="examples/collapse.png")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    L.seed_everything(0, verbose=False)

    collapse, snapshots = NeuralCollapseCallback(frozen_every_n_epochs=5), Snapshots([0, EPOCHS - 1])
    trainer = L.Trainer(
        max_epochs=EPOCHS, callbacks=[collapse, snapshots], logger=False, accelerator="cpu",
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
    )  # fmt: skip
    model = Digits("ce", EPOCHS)
    trainer.fit(model, *loaders())

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 1.25])
    for axis, (epoch, (features, labels)) in zip(axes, snapshots.taken.items(), strict=False):
        statistics = ClassStatistics.from_batch(features, labels, 10)
        figures.collapse_picture(
            features, labels, statistics.means, statistics.global_mean,
            classes=CLASSES, class_names=[f"digit {c}" for c in range(10)], ax=axis,
        )  # fmt: skip
        axis.set_title(f"after epoch {epoch + 1}", fontsize=10)
    axes[0].set_xlabel("")
    for stage, color in COLORS.items():
        entries = collapse.history[f"nc1/within_between_pinv/{stage}"]
        epochs, values = [e.epoch for e in entries], [e.value for e in entries]
        axes[2].semilogy(epochs, values, color=color, lw=1.6, label=stage)
        axes[2].annotate(f"{values[-1]:.3f}", (epochs[-1], values[-1]), fontsize=8, color=color)
    axes[2].set_title("NC1, tr(Sw Sb+)/C: 0 at collapse", fontsize=10)
    axes[2].set_xlabel("epoch", fontsize=9)
    axes[2].spines[["top", "right"]].set_visible(False)
    axes[2].legend(fontsize=8, frameon=False)
    figure.savefig(arguments.out, dpi=110)
    print(f"Wrote {arguments.out}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
