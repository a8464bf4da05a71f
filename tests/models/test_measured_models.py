"""`measure` on unmodified models: what the callback says of them, in three lines of a user's code."""

import warnings

import pytest
import torch
from model_cells import CLASSES, Thin, cross_entropy, images, own_loss, vectors
from support.problems import unchecked_shapes
from support.training import trainer
from text_cells import bert, texts
from torch import nn
from vision_cells import timm_model

from lightning_nc import NeuralCollapseCallback, measure


def plain():
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    return Thin(net, cross_entropy)


MODELS = {
    "plain torch": (None, plain, vectors, ["0"]),
    "timm ResNet": ("timm", lambda: timm_model("resnet10t"), images, ["layer1", "layer3"]),
    "timm ViT": (
        "timm",
        lambda: timm_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2),
        images,
        ["blocks.*"],
    ),
    "transformers BERT": (
        "transformers",
        lambda: Thin(bert(), own_loss),
        texts,
        ["bert.encoder.layer.*", "bert.pooler:in"],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_measuring_a_model_gives_what_the_callback_says_of_it(name):
    package, build, data, layers = MODELS[name]
    if package is not None:
        pytest.importorskip(package, exc_type=ImportError)
    torch.manual_seed(0)
    module, (_, loader) = build(), data()
    callback = NeuralCollapseCallback(layers=[f"net.{path}" for path in layers], num_classes=CLASSES)
    with unchecked_shapes(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few rows
        run = trainer([callback])
        run.validate(module, loader, verbose=False)
        found = measure(module.net, loader, layers=layers, num_classes=CLASSES)
    logged = {k: float(v) for k, v in run.callback_metrics.items() if k in callback.history}
    expected = {key.replace("/val", "").replace("/net.", "/"): v for key, v in logged.items()}
    assert set(found.values) == set(expected)
    assert len(found.by_layer) > len(layers) - 1
    for key, value in expected.items():
        assert found.values[key] == pytest.approx(value, rel=1e-6, abs=1e-9), key
