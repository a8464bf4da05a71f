"""How outputs become rows."""

import pytest
import torch
from support.watching import capture_of, opened, pooled_in_a_batch, with_head
from torch import nn

from lightning_nc.watch.pools import POOLS, choose_pool, find_layers, pooled

CONV = nn.Conv2d(3, 4, 1)
MIXED = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Linear(5, 5))


@pytest.mark.parametrize(
    ("module", "x", "labels", "pool", "expected"),
    [
        (CONV, torch.randn(2, 3, 4, 5), (2,), "auto", lambda y: y.mean((2, 3))),
        (CONV, torch.randn(2, 3, 4, 5), (2,), "flatten", lambda y: y.flatten(1)),
        (nn.Linear(3, 4), torch.randn(2, 7, 3), (2,), "auto", lambda y: y.mean(1)),
        (nn.Linear(3, 4), torch.randn(2, 7, 3), (2, 7), "auto", lambda y: y.reshape(14, 4)),
        (nn.Linear(3, 4), torch.randn(2, 7, 3), (2,), "first", lambda y: y[:, 0]),
        (nn.Linear(3, 4), torch.randn(2, 7, 3), (2,), "last", lambda y: y[:, -1]),
        (nn.Linear(3, 4), torch.randn(2, 7, 3), (2,), "tokens", lambda y: y.reshape(14, 4)),
        (nn.ReLU(), torch.randn(2, 3, 4, 5), (2,), "spatial_mean", lambda y: y.mean((2, 3))),
        (nn.ReLU(), torch.randn(2, 3, 4), (2,), "token_mean", lambda y: y.mean(1)),
        (nn.ReLU(), torch.randn(2, 3, 4), (2,), "support.training.take_middle", lambda y: y[:, 1]),
        (nn.ReLU(), torch.randn(2, 3), (2,), "auto", lambda y: y),
    ],
)
def test_pools_make_rows(module, x, labels, pool, expected):
    network = with_head(layer=module)
    capture = capture_of(network, "head", layers=["layer"], pool=pool)
    y, rows = pooled_in_a_batch(capture, network, "layer", x, labels)
    torch.testing.assert_close(rows, expected(y))


def test_a_mapping_gives_each_layer_its_pool():
    network = with_head(a=nn.Conv2d(3, 4, 1))
    capture = capture_of(network, "head", layers={"a": "flatten"}, pool="spatial_mean")
    _, rows = pooled_in_a_batch(capture, network, "a", torch.randn(2, 3, 2, 2))
    assert rows.shape == (2, 16)


def test_globs_name_layers_in_the_order_of_the_network():
    modules = dict.fromkeys(("", "stem", "blocks.0", "blocks.1", "head"), CONV)
    assert find_layers(modules, ["blocks.*", "stem"], "auto") == dict.fromkeys(
        ("blocks.0", "blocks.1", "stem"), "auto"
    )
    assert find_layers(modules, {"blocks.*": "flatten", "blocks.1": "first"}, "auto") == {
        "blocks.0": "flatten", "blocks.1": "first"
    }  # fmt: skip


@pytest.mark.parametrize("pool", POOLS)
def test_rows_have_memory_of_their_own(pool):
    x = torch.randn(2, 3, 4)
    before = x.clone()
    pooled("act", nn.ReLU(), x, pool, torch.Size([2])).zero_()
    pooled("act", nn.ReLU(), x.flatten(1), pool, torch.Size([2])).zero_()
    assert torch.equal(x, before)


def test_an_output_whose_layout_nothing_tells_is_refused():
    network = with_head(act=nn.ReLU())
    opened(capture_of(network, "head", layers=["act"]), (2,))
    with pytest.raises(ValueError, match=r"Expected a pool for layer 'act', a ReLU .* spatial_mean"):
        network["act"](torch.randn(2, 3, 4, 4))
    with pytest.raises(ValueError, match="Expected a pool for layer 'm', a Sequential"):
        choose_pool("m", MIXED, torch.randn(2, 3, 5), torch.Size([2]))
