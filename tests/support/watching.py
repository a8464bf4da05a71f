"""A network under hooks, without a Trainer."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_nc.tasks.multiclass import decide
from lightning_nc.watch.batch import Batch
from lightning_nc.watch.capture import Capture
from lightning_nc.watch.places import Places
from lightning_nc.watch.rows import Rows


def capture_of(network, classifier=None, choice=None, **places):
    """Hooks on a network whose labels are class numbers."""
    return Capture(network, Places(classifier, **places), decide, choice)


def opened(capture, labels=(5,), **batch):
    """With a batch of labels of this shape open."""
    capture.open(Batch(torch.zeros(labels, dtype=torch.int64), **batch))
    return capture


def forwards_of(capture, network, *inputs, labels=(5,), least=2):
    """The forwards that count, of a batch in which the network runs on these inputs.

    Where the classifier has still to be found, it is one of at least so many rows, without a loss.
    """
    opened(capture, labels, rows=None if capture.is_settled else Rows(None, least))
    for x in inputs:
        network(x)
    if not capture.is_settled:
        capture.settle(is_trained=False)
    forwards, _ = capture.take()
    return forwards


def settled(network, losses_of, rows=None, labels=(8,), is_noted=True, **settles):
    """The path that is chosen once the network has run, and each of its losses has gone backward."""
    capture = opened(capture_of(network), labels, rows=rows or Rows(None, 3))
    try:
        for loss in losses_of(network):
            if is_noted:
                capture.note_loss(loss)
            loss.backward()
        capture.settle(**{"is_trained": True, **settles})
        return capture.classifier_name
    finally:
        capture.detach()


def hooks_of(network):
    """How many hooks its modules have."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def with_head(**layers):
    """Some layers that run by themselves, and a classifier."""
    return nn.ModuleDict({**layers, "head": nn.Linear(2, 2)})


def pooled_in_a_batch(capture, network, name, x, labels=(2,)):
    """What a layer of :func:`with_head` leaves of an input: its own output, and the rows."""
    opened(capture, labels)
    y = network[name](x)
    network["head"](torch.zeros(2, 2))
    [forward], _ = capture.take()
    return y, forward.layers[name]


# One whose classifier has to be found

X, Y = torch.randn(8, 6), torch.arange(8) % 3
REMEDY = (
    r"\. Set classifier to the dotted path of the linear map whose output the network decides by, or "
    r"num_classes where only one of them has as many rows; of one that is applied as a function, set "
    r"classifier to its weight, and features to the module whose output it is applied to\.$"
)


def network_of(rows=3, **others):
    """A body and a head, and what else there is."""
    return nn.ModuleDict({"body": nn.Linear(6, 8), "head": nn.Linear(8, rows), **others})


def features(network):
    return network["body"](X).relu()


def loss_of(z):
    return cross_entropy(z, Y)


def plain(network):
    """The losses of a step: one, of the head."""
    return [loss_of(network["head"](features(network)))]


def silent(network):
    """The network runs, and there is no loss."""
    with torch.no_grad():
        network["head"](features(network))
    return []


class Passes(torch.autograd.Function):
    """What does not tell what it does."""

    @staticmethod
    def forward(ctx, z):
        return z.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def hidden(network):
    """A loss of the head that cannot be looked into."""
    return [loss_of(Passes.apply(network["head"](features(network))))]


class Holds(nn.Module):
    """A parameter that is nobody's weight."""

    def __init__(self, *shape):
        super().__init__()
        self.values = nn.Parameter(torch.randn(shape))


def refused(reason, candidates, *args, **kwargs):
    """What :func:`settled` raises: for this reason, with these candidates."""
    with pytest.raises(ValueError, match=f"which linear map is the classifier, but {reason}") as error:
        settled(*args, **kwargs)
    assert error.match(candidates + REMEDY)
