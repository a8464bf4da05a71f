"""Watching changes nothing, where networks, optimizers and buffers are unusual."""

import pytest
import torch
from support.situations import BOTH, Situation, check, live
from support.training import Network
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


class Normalized(Network):
    """Its weights change when they are read in train mode."""

    def __init__(self):
        super().__init__()
        spectral_norm(self.hidden)
        spectral_norm(self.fc)

    def keep(self, stage, h, y, logits):
        parts = self.fc.parametrizations
        parts.eval()  # read without another step of the power iteration
        super().keep(stage, h, y, logits)
        parts.train(self.training)


class Counts(Network):
    """A buffer that each forward moves, also in eval mode, and that the loss rests on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def features(self, x):
        self.scale.mul_(0.99).add_(0.01 * x.abs().mean())
        return super().features(x) / self.scale


class StepsByItself(Network):
    """Steps an optimizer that Lightning does not see."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=False)
        loss = super().training_step(batch, batch_idx)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class BypassesTheWrapper(Network):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        optimizer_closure()
        optimizer.optimizer.step()


class FixedHead(Network):
    """A head without gradient, whose input is changed afterwards."""

    def __init__(self):
        super().__init__()
        self.fc.requires_grad_(False)

    def features(self, x):
        return super().features(x) * 1.0  # whose result no gradient needs

    def note(self, stage, batch):
        x, y = batch
        h = self.features(x)
        logits = self.fc(h)
        self.keep(stage, h, y, logits)
        loss = nn.functional.cross_entropy(logits, y)
        h.mul_(2)
        return loss


FROZEN = {"frozen_every_n_epochs": 1, "inference": "predict_step"}


SITUATIONS = {
    "spectral norm": Situation("a weight that changes when it is read", module=Normalized),
    "spectral norm, named": Situation(
        "the same", module=Normalized, callback={"classifier": "fc", "layers": ["neck"]}
    ),
    "buffers that move in eval mode": Situation(
        "they are put back after the frozen pass", module=Counts, callback=FROZEN, stages=BOTH
    ),
    "an optimizer of one's own": Situation(
        "no event tells of its step: W is copied in the forward", module=StepsByItself
    ),
    "an optimizer's wrapper left out": Situation("the same", module=BypassesTheWrapper),
    "fixed head": Situation(
        "features that autograd does not keep", module=FixedHead, callback={"classifier": "fc"}
    ),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_training_is_the_same_and_the_values_are_right(name, tmp_path, request):
    situation = SITUATIONS[name]
    check(situation, lambda rank, **run: live(rank, situation, **run), tmp_path, request)
