"""Whether a named classifier is but a part of a head."""

import pytest
import torch
from support.watching import capture_of, opened
from torch import nn

from lightning_nc.tasks import Multiclass, Settings
from lightning_nc.values import stage_of
from lightning_nc.watch.places import Places
from lightning_nc.watch.watch import Watch


class Adapted(nn.Module):
    """As peft wraps a layer: the sum of it and of two small ones."""

    def __init__(self, in_place=False, width=8):
        super().__init__()
        self.base_layer = nn.Linear(width, 3)
        self.down = nn.ModuleDict({"default": nn.Linear(width, 2, bias=False)})
        self.up = nn.ModuleDict({"default": nn.Linear(2, 3, bias=False)})
        self.in_place = in_place

    def forward(self, h):
        z, extra = self.base_layer(h), self.up["default"](self.down["default"](h))
        return z.add_(extra) if self.in_place else z + extra


class Network(nn.Module):
    def __init__(self, head, run=lambda head, h: head(h)):
        super().__init__()
        self.body, self.head, self.run = nn.Linear(6, 8), head, run

    def forward(self, x):
        return self.run(self.head, self.body(x))


def whole_of(network, classifier):
    """What is found around a classifier, as a batch runs."""
    capture = opened(capture_of(network, classifier))
    capture.look_around()
    with torch.no_grad():
        network(torch.randn(5, 6))
    found = capture.part
    capture.detach()
    return found


@pytest.mark.parametrize("in_place", [True, False])
def test_the_base_of_an_adapter_is_a_part(in_place):
    found = whole_of(Network(Adapted(in_place)), "head.base_layer")
    assert found.whole == "head"
    text = (
        r"classifier 'head\.base_layer' to be a whole head, but 'head' around it puts out something "
        r"else .* of as many rows: an adapter, .* \(peft: modules_to_save\), or set classifier"
    )
    with pytest.raises(ValueError, match=text):
        found.require_none("head.base_layer")


class Passes(nn.Module):
    """Holds another map of as many rows, and puts out what the first one does."""

    def __init__(self):
        super().__init__()
        self.first, self.other = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, h):
        self.other(h)
        return self.first(h)


class Scaled(nn.Module):
    """One map alone, of which something else is made."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 3)

    def forward(self, h):
        return 2 * self.first(h)


class Decides(Passes):
    """Puts out something of another shape."""

    def forward(self, h):
        return super().forward(h).argmax(-1)


class Nested(nn.Module):
    """The adapter among containers, which do not run by themselves."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"base": nn.ModuleList([nn.Linear(8, 3)]), "up": nn.Linear(8, 3)})

    def forward(self, h):
        return self.layers["base"][0](h) + self.layers["up"](h)


def test_the_module_around_it_is_the_nearest_that_runs():
    assert whole_of(Network(Nested()), "head.layers.base.0").whole == "head"


HEADS = nn.ModuleDict({"a": nn.Linear(8, 3), "b": nn.Linear(8, 3)})


@pytest.mark.parametrize(
    ("network", "classifier"),
    [
        (Network(HEADS, lambda heads, h: heads["a"](h)), "head.a"),
        (Network(HEADS, lambda heads, h: heads["a"](h) + heads["b"](h)), "head.a"),
        (Network(nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 3))), "head.0"),
        (Network(Passes()), "head.first"),
        (Network(Scaled()), "head.first"),
        (Network(Decides()), "head.first"),
        # the network itself puts out whatever it likes
        (Network(nn.Linear(8, 3), lambda head, h: 2 * head(h)), "head"),
        (Adapted(width=6), "base_layer"),
    ],
)
def test_a_map_that_decides_alone_is_no_part(network, classifier):
    found = whole_of(network, classifier)
    assert found.whole is None
    found.require_none(classifier)


def test_the_hook_is_there_for_one_batch_alone():
    network = Network(Adapted())
    capture = opened(capture_of(network, "head.base_layer"))
    assert len(network.head._forward_hooks) == 0
    capture.look_around()
    assert len(network.head._forward_hooks) == 1
    capture.take()
    assert len(network.head._forward_hooks) == 0
    # nor is there one where nothing else inside has as many rows
    opened(capture_of(network := Network(Scaled()), "head.first")).look_around()
    assert len(network.head._forward_hooks) == 0


def test_the_watch_refuses_it_before_the_first_step():
    network = Network(Adapted())
    watch = Watch(network, Places("head.base_layer"), Multiclass(Settings()), {}.__setitem__, [].append)
    watch.open((torch.randn(5, 6), torch.arange(5) % 3), stage_of("fit"), first=True)
    network(torch.randn(5, 6))
    with pytest.raises(ValueError, match=r"'head\.base_layer' to be a whole head, but 'head' around"):
        watch.check(stage_of("fit"))
    watch.detach()
