"""A network under hooks, without a Trainer."""

import torch
from torch import nn

from lightning_nc.tasks.multiclass import decide
from lightning_nc.watch.batch import Batch
from lightning_nc.watch.capture import Capture, Places


def capture_of(network, classifier=None, **places):
    """Hooks on a network whose labels are class numbers."""
    return Capture(network, Places(classifier, **places), decide)


def opened(capture, labels=(5,)):
    """With its hooks attached and a batch of labels of this shape open."""
    capture.attach()
    capture.open(Batch(torch.zeros(labels, dtype=torch.int64)))
    return capture


def forwards_of(capture, network, *inputs, labels=(5,)):
    """The forwards that count, of a batch in which the network runs on these inputs."""
    opened(capture, labels)
    for x in inputs:
        network(x)
    forwards, _ = capture.take()
    return forwards


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
