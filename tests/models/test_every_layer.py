"""`layers=["**"]` on unmodified networks: every layer that has rows, and each is right."""

import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from model_cells import images
from support import depth_oracles as oracle
from support.problems import unchecked_shapes
from support.training import trainer
from vision_cells import timm_model

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning, figures

NETWORKS = {
    "ViT": lambda: timm_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=3, num_heads=2),
    "ResNet": lambda: timm_model("resnet18"),
}
PARTS = ("attn", "mlp")  # which put out what their last layer does
LEFT_OUT = {
    "ViT": {"net", "net.head", "net.blocks", *(f"net.blocks.{i}.{m}" for i in range(3) for m in PARTS)},
    "ResNet": {"net", "net.fc"},
}
CHANNELS_FIRST = 4  # dimensions; else channels are last


class Notes:
    """What each module puts out in validation, pooled as one would by hand."""

    def __init__(self, module):
        self.rows, self.handles = {}, []
        for name, part in module.named_modules():
            if name:
                self.handles.append(part.register_forward_hook(self.noting(name)))

    def noting(self, name):
        def note(_, args, output):
            if isinstance(output, torch.Tensor):
                x = output.detach().double()
                places = {CHANNELS_FIRST: (2, 3), 3: (1,)}.get(x.ndim, ())
                self.rows[name] = (x.mean(places) if places else x).numpy()

        return note

    def remove(self):
        for handle in self.handles:
            handle.remove()


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request):
    pytest.importorskip("timm", exc_type=ImportError)
    modules, callback = {}, NeuralCollapseCallback(layers=["**"], figures_every_n_epochs=0)
    for watched in (False, True):
        seed_everything(0, verbose=False)
        modules[watched] = NETWORKS[request.param]()
        train, val = images()
        run = trainer([callback] if watched else [])
        with unchecked_shapes(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("ignore", NeuralCollapseWarning)  # of few rows
            run.fit(modules[watched], train, val)
    return request.param, modules, callback, val


def layers_of(history):
    return [key.split("/", 3)[3] for key in history if key.startswith("layer/within_share/val/")]


def test_every_layer_has_the_share_of_what_it_puts_out(trained):
    name, modules, callback, val = trained
    module = modules[True].eval()
    batches = [(notes := Notes(module), module(x), y, notes.remove()) for x, y in val]
    target = torch.cat([y for _, _, y, _ in batches]).numpy()
    measured = layers_of(callback.history)
    assert len(measured) > 25
    assert not LEFT_OUT[name] & set(measured)
    for layer in measured:
        h = np.concatenate([notes.rows[layer] for notes, *_ in batches])
        mine = callback.history[f"layer/within_share/val/{layer}"][-1].value
        assert mine == pytest.approx(oracle.within_share(h, target), rel=1e-5, abs=1e-8), layer


def test_training_is_the_same_with_and_without(trained):
    _, modules, _, _ = trained
    for (name, one), other in zip(
        modules[False].state_dict().items(), modules[True].state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_the_profile_is_drawn_with_names_that_fit(trained):
    _, _, callback, _ = trained
    figure, axes = figures.depth_profile(callback.history, "val", layers_of(callback.history))
    figure.canvas.draw()
    for axis in axes:
        labels = [t for t in (*axis.get_xticklabels(), *axis.get_yticklabels()) if t.get_text()]
        boxes = [label.get_window_extent() for label in labels]
        crowded = [a for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
        assert len(crowded) <= 2  # the two axes meet in a corner
