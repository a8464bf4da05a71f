"""Small networks, each with the head, the loss and the batches of some kind of user.

``HEADS`` has them by the words of the table in docs/models.md. ``loss`` is what a step does; ``truths``
is what has to be measured of it, written by hand, on a copy that nothing watches. Paths begin with
"model.", where the LightningModule has the network.
"""

import contextlib
import copy
import logging

import lightning as L
import pytest
import torch
from support.heads_labels import (
    Deep,
    Nodes,
    NodesByNumber,
    NodesByStage,
    Rare,
    Several,
    TwoLoaders,
)
from support.heads_linear import (
    Auxiliary,
    Fixed,
    Lora,
    MeanOfMaps,
    OnePosition,
    Other,
    Plain,
    Saved,
    Segmentation,
    Upsampled,
    Void,
)
from support.heads_parts import C
from support.heads_tokens import (
    Causal,
    Chunks,
    FirstToken,
    LastToken,
    MeanAfter,
    SequenceFirst,
    Stretches,
    TiedEmbedding,
    TokenLabels,
)
from support.heads_unseen import Buffer, Columns, Fused, Headless, Margin, Parameter, Views
from support.oracles import reference_measures
from support.problems import unchecked_shapes
from support.training import assert_close, trainer
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback

HEADS = {
    "an `nn.Linear` that runs last": Plain,
    "several that could be it: an auxiliary head, an early exit, a teacher": Auxiliary,
    "a fixed head: frozen weights": Fixed,
    "a fixed head in a buffer": Buffer,
    "another package's linear layer, with a two-dimensional `weight`": Other,
    "LoRA on the classifier (peft)": Lora,
    "LoRA in the body, the classifier in `modules_to_save` (peft)": Saved,
    "`F.linear` with the head's weight, or a fused cross-entropy": Fused,
    "the same, on the first token (CLS) of a transformer": FirstToken,
    "a parameter of shape (C, d)": Parameter,
    "a parameter of shape (d, C), as in pytorch-metric-learning": Columns,
    "a margin head (ArcFace), which decides by cosines": Margin,
    "no head: contrastive learning": Headless,
    "no head, each view in a forward of its own": Views,
    "a 1x1 convolution after global pooling": OnePosition,
    "a 1x1 convolution before global pooling (class activation maps)": MeanOfMaps,
    "segmentation by a 1x1 convolution, labels (B, H, W)": Segmentation,
    "segmentation with a void label": Void,
    "segmentation, upsampled after the head": Upsampled,
    "token classification, -100 where there is no label": TokenLabels,
    "a decoder's sequence classification, on the last token that is no padding": LastToken,
    "a mean over the tokens after the head": MeanAfter,
    "a causal language model whose labels are its inputs": Causal,
    "the same with a tied embedding that is applied as a function": TiedEmbedding,
    "a loss in chunks of the batch": Chunks,
    "a loss in chunks of the sequence": Stretches,
    "sequence first, labels batch first": SequenceFirst,
    "labels deep in a batch": Deep,
    "nodes of a graph, with a mask in the batch": Nodes,
    "nodes of a graph, with a mask for each stage": NodesByStage,
    "nodes of a graph, with their numbers instead of a mask": NodesByNumber,
    "several heads": Several,
    "classes with few rows": Rare,
    "the training set in eval mode, as a second validation loader": TwoLoaders,
}
"""By the words of the table in docs/models.md."""


class Runs(L.LightningModule):
    """Trains a network, and notes the truth of each batch before anything changes."""

    def __init__(self, model):
        super().__init__()
        self.model, self.noted = model, {}

    def note(self, stage, batch):
        if self.trainer.sanity_checking:
            return
        unwatched = copy.deepcopy(self.model)
        for module in unwatched.modules():
            module._forward_hooks.clear(), module._forward_pre_hooks.clear()
        with torch.no_grad():
            truths = unwatched.truths(batch)
        self.noted.setdefault((stage, self.current_epoch), []).append(truths)

    def training_step(self, batch, batch_idx):
        self.note("train_online", batch)
        return self.model(batch)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.note(self.model.loaders[dataloader_idx], batch)
        return self.model(batch)

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.SGD(trained, lr=0.05, momentum=0.9)

    def reference(self, stage, epoch, which=0):
        """The measures of a stage for one of the callbacks."""
        rows = [truths[which] for truths in self.noted[stage, epoch]]
        h, y = torch.cat([row.h for row in rows]).double(), torch.cat([row.y for row in rows])
        many = y[y >= 0].bincount(minlength=C) >= self.model.least
        keep = (y >= 0) & many[y.clamp(min=0)]
        weight, bias = (None if t is None else t.detach().double().numpy() for t in rows[-1][3:])
        predicted = None
        if rows[0].predicted is not None and stage not in self.model.unseen:
            predicted = torch.cat([row.predicted for row in rows])[keep].numpy()
        given = {"predicted": predicted, "weight": weight, "bias": bias}
        found = reference_measures(h[keep].numpy(), y[keep].numpy(), C, **given)
        return found | {"nc0/classes_seen": float(y[y >= 0].unique().numel())}


def batches_of(kind):
    """Batches to train on and to validate on; the same for the same kind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = kind()
        return [[model.batch() for _ in range(count)] for count in (3, 2)]


def network_of(kind):
    """A network; the same for the same kind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Runs(kind())


@contextlib.contextmanager
def quiet():
    """Lightning's own words are left out."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def train(kind, *settings, module=None, **of_trainer):
    """Train a network with a callback for each settings; the module and its Trainer."""
    module = network_of(kind) if module is None else module
    parts = zip(("train", "val"), batches_of(kind), strict=True)
    loaders = {name: DataLoader(batches, batch_size=None) for name, batches in parts}
    run = trainer([NeuralCollapseCallback(**each) for each in settings], **of_trainer)
    with quiet():
        run.fit(module, loaders["train"], [loaders[name] for name in kind.loaders])
    return module, run


def refused(kind, settings, text, error=(ValueError, RuntimeError), **of_trainer):
    """It is, and nothing has been trained, and no hook is left."""
    module = network_of(kind)
    before = copy.deepcopy(module.state_dict())
    with unchecked_shapes(), pytest.raises(error, match=text):
        train(kind, settings, module=module, **of_trainer)
    assert all(map(torch.equal, before.values(), module.state_dict().values()))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def assert_right(module, run, stage="val", which=0, prefix="", epoch=1):
    """What is logged of a stage is what the network has noted, no more and no less."""
    mine = {k.removeprefix(prefix): v for k, v in run.callback_metrics.items() if k.startswith(prefix)}
    if module.model.least > 1:
        assert mine.pop(f"nc0/classes_kept/{stage}") <= mine[f"nc0/classes_seen/{stage}"]
        mine = {k: v for k, v in mine.items() if not k.startswith("imbalance/")}
    assert_close(mine, module.reference(stage, epoch, which), stage)
