"""Other packages' own LightningModules, their wrappers and their losses."""

from typing import Any

import torch
from model_cells import (
    CLASSES,
    Call,
    Model,
    Rows,
    Thin,
    Truth,
    cross_entropy,
    head_at,
    images,
    images_of,
    labels_in_turn,
    mappings,
    vectors,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader

# torch-uncertainty


def lenet(dropout: float = 0.0) -> Any:
    from torch_uncertainty.models.classification import lenet

    return lenet(3, CLASSES, dropout_rate=dropout)


def routine(net: Any, **settings: Any) -> Any:
    from torch_uncertainty.routines import ClassificationRoutine

    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    return ClassificationRoutine(
        net, CLASSES, nn.CrossEntropyLoss(), optim_recipe=optimizer, **settings
    )


def monte_carlo() -> Any:
    """In validation each image is there four times, with as many draws of its Dropout."""
    from torch_uncertainty.methods import mc_dropout

    return routine(mc_dropout(lenet(dropout=0.2), num_estimators=4), is_ensemble=True)


def four_times(batch: Any) -> Tensor:
    return batch[1].repeat(4)


def ensemble() -> Any:
    from torch_uncertainty.methods import deep_ensembles
    from torch_uncertainty.transforms import RepeatTarget

    return routine(
        deep_ensembles([lenet(), lenet()]), is_ensemble=True, format_batch_fn=RepeatTarget(2)
    )


# torchgeo


def geo_task() -> Any:
    from torchgeo.trainers import ClassificationTask

    return ClassificationTask(model="test_resnet", num_classes=CLASSES, lr=0.01)


def scenes() -> Any:
    y = labels_in_turn()
    x = images_of(y, 32)
    return mappings([{"image": i, "label": j} for i, j in zip(x, y, strict=True)])


# pytorch-tabular


def tabular() -> Any:
    """Its TabularModel makes both, the network and the loaders."""
    import pandas as pd
    from pytorch_tabular import TabularModel, config, models

    y = labels_in_turn()
    x = torch.randn(len(y), 4) + y[:, None]
    table = pd.DataFrame(x.numpy(), columns=list("abcd")).assign(label=y.numpy())
    made = TabularModel(
        data_config=config.DataConfig(target=["label"], continuous_cols=list("abcd"), num_workers=0),
        model_config=models.CategoryEmbeddingModelConfig(task="classification", layers="8-8"),
        optimizer_config=config.OptimizerConfig(),
        trainer_config=config.TrainerConfig(batch_size=10, accelerator="cpu"),
        verbose=False,
    )
    return made, made.prepare_dataloader(train=table[:20], validation=table[20:], seed=0)


def tabular_model() -> Any:
    made, module = tabular()
    return made.prepare_model(module)


def tables() -> Any:
    module = tabular()[1]
    return module.train_dataloader(), module.val_dataloader()


# lightly: two views of each image, and a loss without labels


def views() -> Any:
    y = labels_in_turn()
    one = images_of(y, 16)
    x = (one, one + torch.randn(one.shape))
    names = [f"{i}.png" for i in range(len(y))]
    rows = [((a, b), label, name) for a, b, label, name in zip(*x, y, names, strict=True)]
    return DataLoader(rows[:20], 10, shuffle=True), DataLoader(rows[20:], 10)


def simclr(online: bool = False) -> Thin:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.utils.benchmarking import OnlineLinearClassifier

    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    parts = {"projection": SimCLRProjectionHead(8, 8, 6), "criterion": NTXentLoss()}
    if online:
        parts["online"] = OnlineLinearClassifier(8, CLASSES, topk=(1,))

    def step(module: Any, batch: Any) -> tuple[Tensor, None]:
        (one, other), y, _ = batch
        features = [module(view) for view in (one, other)]
        loss = module.criterion(*(module.projection(h) for h in features))
        if online:
            added, values = module.online.training_step(
                (torch.cat([h.detach() for h in features]), y.repeat(2)), 0
            )
            module.log_dict(values, batch_size=len(y))
            loss = loss + added
        return loss, None

    return Thin(backbone, step, **parts)


def _first_view(calls: dict[str, list[Call]], batch: Any) -> Rows:
    return calls["net"][0].output, batch[1], None


def twice(batch: Any) -> Tensor:
    return batch[1].repeat(2)


# pytorch-metric-learning: W is a parameter of the loss, its columns are the classes


def margin(name: str) -> Thin:
    from pytorch_metric_learning import losses

    def step(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        h = module(batch[0])
        return module.criterion(h, batch[1]), module.criterion.get_logits(h)

    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8))
    return Thin(net, step, criterion=getattr(losses, name)(CLASSES, 8, scale=8))


def _of_cosines(calls: dict[str, list[Call]], batch: Any) -> Rows:
    [net], distances = calls["net"], calls["criterion.distance"]
    return net.output, batch[1], distances[-1].output.argmax(1)


COLUMNS = Truth(("net", "criterion.distance"), _of_cosines, lambda module: (module.criterion.W.T, None))
BY_LOGITS = "package_cells.decided_by_network"


def decided_by_network(batch: Any, outputs: Any) -> Tensor:
    return outputs["logits"].argmax(-1)


# opacus


def private() -> Thin:
    from opacus import PrivacyEngine

    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, CLASSES),
    )  # fmt: skip
    net, optimizer, _ = PrivacyEngine(accountant="rdp").make_private(
        module=net, optimizer=torch.optim.SGD(net.parameters(), lr=0.05), data_loader=images(16)[0],
        noise_multiplier=0.5, max_grad_norm=1.0,
    )  # fmt: skip
    module = Thin(net, cross_entropy)
    module.configure_optimizers = lambda: optimizer
    return module


def poisson_images() -> Any:
    """Each batch of its own size."""
    from opacus.data_loader import DPDataLoader

    train, val = images(16)
    return DPDataLoader.from_data_loader(DataLoader(train.dataset, 5)), val


DROPOUT = "Active Dropout directly precedes"

PACKAGES = (
    Model(
        "torch-uncertainty ClassificationRoutine", "torch_uncertainty", lambda: routine(lenet()),
        images, head_at("model.fc3"),
    ),
    Model(
        "torch-uncertainty Monte Carlo Dropout", "torch_uncertainty", monte_carlo, images,
        head_at("model.core_model.fc3", four_times), says=DROPOUT,
        sets={"target": {"train_online": 1, "val": "package_cells.four_times"}},
    ),
    Model(
        "torch-uncertainty deep ensemble", "torch_uncertainty", ensemble, images,
        head_at("model.core_models.0.fc3"),
        refused="several could be it: 'model.core_models.0.fc3.weight'",
        remedy={"classifier": "model.core_models.0.fc3"},
    ),
    Model(
        "torchgeo ClassificationTask", "torchgeo.trainers", geo_task, scenes,
        head_at("model.fc", lambda batch: batch["label"]),
    ),
    Model(
        "pytorch-tabular", "pytorch_tabular", tabular_model, tables,
        head_at("head.layers.0", lambda batch: batch["target"]), namespace="pytorch_lightning",
    ),
    Model(
        "lightly SimCLR", "lightly", simclr, views, Truth(("net",), _first_view, None),
        refused="something without gradient or of another kind is applied last",
        remedy={"classifier": False, "features": "net", "num_classes": CLASSES, "forwards": "first"},
    ),
    Model(
        "lightly SimCLR, linear head online", "lightly", lambda: simclr(online=True), views,
        head_at("online.classification_head", twice),
        refused="several could be it: 'projection.layers.3.weight'",
        remedy={"classifier": "online.classification_head", "target": "package_cells.twice"},
    ),
    Model(
        "ArcFace", "pytorch_metric_learning", lambda: margin("ArcFaceLoss"), vectors, COLUMNS,
        refused="'criterion.W' .8 x 3 rows of a ArcFaceLoss",
        remedy={"classifier": "criterion.W.T", "features": "net", "predicted": BY_LOGITS},
    ),
    Model(
        "CosFace", "pytorch_metric_learning", lambda: margin("CosFaceLoss"), vectors, COLUMNS,
        refused="'criterion.W' .8 x 3 rows of a CosFaceLoss",
        remedy={"classifier": "criterion.W.T", "features": "net", "predicted": BY_LOGITS},
    ),
    Model("opacus", "opacus", private, poisson_images, head_at("net._module.5")),
)  # fmt: skip
