"""Train a small network on handwritten digits to collapse, and watch NC1 to NC4 fall.

    python examples/digits.py [--loss ce|mse] [--epochs 200] [--dir runs/digits]

1,797 images of 8 x 8 pixels come with scikit-learn; the run takes about a minute on two CPU
cores, pictures included. It prints the key measures over the epochs, and the command that opens
the dashboard.
"""

import argparse
import itertools
import logging
import warnings

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_nc import History, NeuralCollapseCallback

TABLE = {
    "accuracy": "nc0/accuracy",
    "NC1 tr(Sw Sb+)/C": "nc1/within_between_pinv",
    "NC2 angles": "nc2/means_max_angle",
    "NC2 norms": "nc2/means_equinorm",
    "NC3 duality": "nc3/self_duality",
    "NC4 mismatch": "nc4/ncc_mismatch",
}
STAGES = {
    "train": "training images, eval mode, weights frozen (an extra pass)",
    "train_online": "the training forwards themselves: no extra cost, but weights and BatchNorm move",
    "val": "images that the network has not seen",
}


class Digits(L.LightningModule):
    """Four hidden layers with BatchNorm, and a linear classifier on 128 features."""

    def __init__(self, loss: str, epochs: int) -> None:
        super().__init__()
        self.loss, self.epochs = loss, epochs
        widths = [64, 256, 256, 256, 128]
        layers = [
            nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())
            for a, b in itertools.pairwise(widths)
        ]
        self.backbone = nn.Sequential(*layers)
        self.classifier = nn.Linear(128, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.backbone(pixels))

    def error(self, batch: list[torch.Tensor]) -> torch.Tensor:
        pixels, label = batch
        if self.loss == "ce":
            return nn.functional.cross_entropy(self(pixels), label)
        return nn.functional.mse_loss(self(pixels), nn.functional.one_hot(label, 10).float())

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.error(batch)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.error(batch))

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        milestones = [self.epochs // 3, 2 * self.epochs // 3]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def loaders() -> tuple[DataLoader, DataLoader]:
    pixels, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))
    train, val = random_split(data, [1437, 360], generator=torch.Generator().manual_seed(0))
    # a tiny last batch would disturb BatchNorm
    return DataLoader(train, 128, shuffle=True, drop_last=True), DataLoader(val, 360)


def print_table(history: History, epochs: int) -> None:
    for stage, what in STAGES.items():
        rows = history[f"nc0/accuracy/{stage}"]
        shown = [entry.epoch for entry in rows if entry.epoch % max(1, epochs // 5) == 0]
        shown = [*dict.fromkeys([*shown, rows[-1].epoch])]
        print(f"\n{stage}: {what}")
        print(f"{'epoch':>18}" + "".join(f"{epoch:>10}" for epoch in shown))
        for name, key in TABLE.items():
            values = {entry.epoch: entry.value for entry in history[f"{key}/{stage}"]}
            print(f"{name:>18}" + "".join(f"{values[epoch]:>10.4f}" for epoch in shown))
    print("\nAt collapse every row but the accuracy is 0.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", choices=["ce", "mse"], default="ce", help="cross-entropy or MSE")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--dir", default="runs/digits", help="where TensorBoard files go")
    arguments = parser.parse_args()

    # eight batches of 8 x 8 images need no worker processes
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    L.seed_everything(0, verbose=False)
    torch.set_num_threads(1)  # matrices this small lose by being shared out

    collapse = NeuralCollapseCallback(frozen_every_n_epochs=max(1, arguments.epochs // 20))
    logger = TensorBoardLogger(arguments.dir, name=arguments.loss)
    trainer = L.Trainer(
        max_epochs=arguments.epochs, callbacks=[collapse], logger=logger, accelerator="cpu",
        log_every_n_steps=1, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(Digits(arguments.loss, arguments.epochs), *loaders())

    print_table(collapse.history, arguments.epochs)
    print(f"\nDashboard: tensorboard --logdir {arguments.dir}")


if __name__ == "__main__":
    main()
