"""One cell of the table of models: what is built, what the user has to set, and what is true of it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

# nothing is looked up: all weights are random
os.environ.setdefault("HF_HUB_OFFLINE", "1")

CLASSES = 3


@dataclass(frozen=True)
class Call:
    """One forward of a hooked module.

    Attributes:
        x: Its first input.
        output: What it has put out.
    """

    x: Any
    output: Any


Rows = tuple[Tensor, Tensor, Tensor | None]
"""Features, labels, and the network's decisions where it makes any."""


@dataclass(frozen=True)
class Truth:
    """How plain hooks of the test take features, labels, decisions and W.

    Attributes:
        hooks: Paths of the hooked modules.
        rows: From their calls in a batch, by path and in order, and the batch.
        classifier: From the module to W and b; None: it has no head.
    """

    hooks: tuple[str, ...]
    rows: Callable[[dict[str, list[Call]], Any], Rows]
    classifier: Callable[[nn.Module], tuple[Tensor, Tensor | None]] | None


@dataclass(frozen=True)
class Model:
    """One cell of the table.

    Attributes:
        name: What is built.
        package: Whose it is; the cell is skipped where it cannot be imported.
        build: The LightningModule.
        data: Its loaders, for training and for validation.
        truth: What plain hooks see.
        sets: What has to be set in the callback.
        refused: What the callback's error says as long as `remedy` is not set; empty: it works so.
        remedy: What has to be set besides; nothing: there is no way.
        says: A warning of ours that is expected.
        others: Further packages that it needs.
        namespace: Which of the two namespaces of Lightning.
    """

    name: str
    package: str
    build: Callable[[], Any]
    data: Callable[[], tuple[Any, Any]]
    truth: Truth
    sets: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    remedy: dict[str, Any] = field(default_factory=dict)
    says: str | None = None
    others: tuple[str, ...] = ()
    namespace: str = "lightning"

    @property
    def packages(self) -> tuple[str, ...]:
        return (self.package, *self.others)


class Thin(L.LightningModule):
    """Around a model that is no LightningModule: its loss, logged, and its logits.

    Args:
        net: The model.
        step: From this module and a batch to loss and logits.
        parts: Further modules, such as a loss with a weight of its own.
    """

    def __init__(self, net: nn.Module, step: Callable[[Any, Any], tuple[Tensor, Any]], **parts: Any):
        super().__init__()
        self.net, self.step = net, step
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.net(*inputs, **named)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        return self._shared(batch, "train_loss")

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        return self._shared(batch, "val_loss")

    def _shared(self, batch: Any, name: str) -> dict[str, Any]:
        loss, logits = self.step(self, batch)
        self.log(name, loss, batch_size=1, on_epoch=True)
        return {"loss": loss, "logits": logits}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.SGD(trained, lr=0.05, momentum=0.9)


# Steps


def cross_entropy(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    logits = module(batch[0])
    return nn.functional.cross_entropy(logits, batch[1]), logits


def own_loss(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Of a model that is given its labels, as those of transformers are."""
    out = module(**batch)
    return out.loss, out.logits


# Data


def rows_and_loaders(*columns: Tensor, batch: int = 10) -> tuple[DataLoader, DataLoader]:
    """The first 20 rows are trained on, the others validated; the last batch is a short one."""
    train, val = (TensorDataset(*(c[part] for c in columns)) for part in (slice(20), slice(20, None)))
    return DataLoader(train, batch, shuffle=True), DataLoader(val, batch)


def labels_in_turn(count: int = 36) -> Tensor:
    return torch.arange(count) % CLASSES


def images(size: int = 32) -> tuple[DataLoader, DataLoader]:
    y = labels_in_turn()
    return rows_and_loaders(images_of(y, size), y)


def images_of(y: Tensor, size: int) -> Tensor:
    """Noise, and a pattern of each class."""
    patterns = torch.randn(CLASSES, 3, size, size)
    return torch.randn(len(y), 3, size, size) + patterns[y]


def vectors(width: int = 12) -> tuple[DataLoader, DataLoader]:
    y = labels_in_turn()
    return rows_and_loaders(torch.randn(len(y), width) + y[:, None], y)


def mappings(rows: Sequence[dict[str, Tensor]]) -> tuple[DataLoader, DataLoader]:
    return DataLoader(rows[:20], 10, shuffle=True), DataLoader(rows[20:], 10)


# Truths


def second(batch: Any) -> Tensor:
    return batch[1]


def weight_at(path: str) -> Callable[[nn.Module], tuple[Tensor, Tensor | None]]:
    """Weight and bias of a module; those of a 1x1 convolution as a matrix."""

    def read(module: nn.Module) -> tuple[Tensor, Tensor | None]:
        head: Any = module.get_submodule(path)
        return head.weight.flatten(1), head.bias

    return read


def head_at(
    path: str,
    labels: Callable[[Any], Tensor] = second,
    pool: Callable[[Tensor, Any], Tensor] = lambda x, batch: x,
) -> Truth:
    """A head of one input and one output, which is what the network decides by.

    Args:
        path: Of the head.
        labels: Where they are in a batch.
        pool: From its input, or output, and the batch to rows.
    """

    def rows(calls: dict[str, list[Call]], batch: Any) -> Rows:
        call = calls[path][-1]
        return pool(call.x, batch), labels(batch), pool(call.output, batch).argmax(-1)

    return Truth((path,), rows, weight_at(path))
