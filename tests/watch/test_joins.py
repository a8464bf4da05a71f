"""What is combined with the output of the last linear map decides with it: refused; a loss is not."""

import pytest
import torch
from support.watching import Holds, X, features, loss_of, network_of, plain, refused, settled
from torch import nn
from torch.nn import functional as F

DRAW = torch.Generator().manual_seed(0)
B = torch.randn(8, 3, generator=DRAW)


class Quantized(nn.Module):
    """An adapter around a base that is a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("base", B.T.clone())
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 3, bias=False)

    def forward(self, h):
        return h @ self.base.T + self.up(self.down(h))


def with_constants(net):
    h = features(net)
    return [loss_of(net["head"](h) + h @ B)]


def residual(net):
    z = net["aux"](features(net))
    return [loss_of(net["head"](z.relu()) + z)]


def gated(net):
    h = features(net)
    return [loss_of(net["head"](h) * net["body"](X)[:, :1].sigmoid())]


def beside(net):
    h = features(net)
    return [F.cross_entropy(torch.cat([net["head"](h), net["body"](X)], 1), torch.arange(8) % 3)]


JOINED = "what it puts out is combined with something else, as in an adapter or an ensemble"
HEAD = r"'head\.weight' \(3 rows of a Linear\)"


@pytest.mark.parametrize(
    ("network", "losses"),
    [
        (network_of(), with_constants),
        (network_of(), gated),
        (network_of(), beside),
    ],
)
def test_an_output_that_is_combined_with_others_is_refused(network, losses):
    refused(JOINED, HEAD, network, losses)


def test_a_base_that_is_a_buffer_is_noticed_under_its_adapter():
    network = nn.ModuleDict({"body": nn.Linear(6, 8), "head": Quantized()})
    refused(JOINED, r"'head\.up\.weight' \(3 rows of a Linear\)", network, plain)


def test_residual_logits_are_refused():
    network = nn.ModuleDict({"body": nn.Linear(6, 8), "aux": nn.Linear(8, 3), "head": nn.Linear(3, 3)})
    refused(JOINED, HEAD, network, residual)


def two_views(net):
    one, other = net["head"](features(net)), net["head"](features(net) * 1.1)
    p, q = one.log_softmax(1), other.log_softmax(1)
    return [loss_of(one) + 0.1 * F.kl_div(p, q.exp(), reduction="sum")]


def chunks(net):
    return [loss_of(torch.cat([net["head"](part) for part in features(net).split(3)]))]


def on_features(net):
    h = features(net)
    contrast = (h @ h.T / 8).log_softmax(1).diagonal().mean()
    return [loss_of(net["head"](h)) - contrast + h.square().mean()]


def adjusted(net):
    z = net["head"](features(net)) / net["scale"].values.exp() + torch.tensor([0.1, 0.2, 0.3])
    soft = torch.full((8, 3), 0.3)
    return [loss_of(z) - (z.log_softmax(1) * soft).mean() + F.mse_loss(z, soft)]


def weighted(net):
    h = features(net)
    weights = net["critic"](h).sigmoid().squeeze(1)
    return [(F.cross_entropy(net["head"](h), torch.arange(8) % 3, reduction="none") * weights).mean()]


@pytest.mark.parametrize(
    ("losses", "others"),
    [
        (two_views, {}),
        (chunks, {}),
        (on_features, {}),
        (adjusted, {"scale": Holds(1)}),
        (weighted, {"critic": nn.Linear(8, 1)}),
    ],
)
def test_what_joins_in_a_loss_alone_is_no_doubt(losses, others):
    assert settled(network_of(**others), losses) == "head"
