"""Neural collapse from a YAML config: a LightningCLI program on handwritten digits.

    python examples/cli/train.py fit --config examples/cli/configs/collapse.yaml
    python examples/cli/train.py fit --trainer.callbacks.help=lightning_nc.NeuralCollapseCallback

1,797 images of 8 x 8 pixels come with scikit-learn; `configs` holds what can be passed as --config.
"""

import warnings

import lightning as L
import torch
from lightning.pytorch.cli import ArgsType, LightningCLI
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

# a config may say `class_path: NeuralCollapseCallback` only for what has been imported
from lightning_nc import NeuralCollapseCallback  # noqa: F401


class DigitsModel(L.LightningModule):
    """Two hidden layers with BatchNorm, and a linear head.

    Args:
        width: Width of the hidden layers, and so the number of features.
        lr: Learning rate of SGD.
        dropout: Share of units that are dropped after the first hidden layer.
    """

    def __init__(self, width: int = 128, lr: float = 0.1, dropout: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone = nn.Sequential(
            nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout)),
            # Dropout right before the head would blur the features of train_online
            nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()),
        )
        self.head = nn.Linear(width, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(pixels))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.9, weight_decay=1e-3)


class DigitsData(L.LightningDataModule):
    """Scikit-learn's handwritten digits, 1,437 for training and 360 for validation.

    Args:
        batch_size: Images in a batch.
    """

    def __init__(self, batch_size: int = 128) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        pixels, labels = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))
        self.train, self.val = random_split(data, [1437, 360], torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader:
        # a tiny last batch would disturb BatchNorm
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, 360)


def main(args: ArgsType = None) -> LightningCLI:
    # a dozen batches of 8 x 8 images need neither worker processes nor threads
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    torch.set_num_threads(1)
    # without a logger every run saves its config to the same place
    return LightningCLI(DigitsModel, DigitsData, args=args, save_config_kwargs={"overwrite": True})


if __name__ == "__main__":
    main()
