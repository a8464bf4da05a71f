"""Active Dropout that directly precedes the features."""

import pytest
import torch
from support.watching import capture_of, opened
from torch import nn

LINEAR, DROPOUT, HEAD = nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)


@pytest.mark.parametrize(
    ("layers", "training", "precedes"),
    [
        ((LINEAR, DROPOUT, HEAD), True, True),
        ((LINEAR, DROPOUT, nn.Flatten(), HEAD), True, True),  # the same memory
        ((LINEAR, DROPOUT, HEAD), False, False),
        ((LINEAR, nn.Dropout(0.0), HEAD), True, False),
        ((DROPOUT, LINEAR, HEAD), True, False),
        ((LINEAR, DROPOUT, nn.Tanh(), HEAD), True, False),
        ((LINEAR, HEAD, nn.Dropout(0.5)), True, False),
    ],
)
def test_dropout_is_noticed_right_before_the_classifier(layers, training, precedes):
    network = nn.Sequential(*layers).train(training)
    capture = opened(capture_of(network, str(layers.index(HEAD))))
    capture.look_around()
    network(torch.randn(5, 6))
    assert capture.dropout.precedes_features == precedes
    capture.take()
    assert not any(m._forward_hooks for m in network.modules())


def test_it_is_looked_for_in_the_batch_that_asks_for_it_alone():
    network = nn.Sequential(LINEAR, DROPOUT, HEAD).train()
    capture = opened(capture_of(network, "2"))
    network(torch.randn(5, 6))
    assert not capture.dropout.precedes_features
    capture.detach()
