"""Features, decisions and labels: what a forward and a batch yield."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from lightning_nc.watch.capture import Capture, _choose_pool


def mlp():
    return nn.Sequential(
        OrderedDict(
            body=nn.Sequential(nn.Linear(6, 8), nn.ReLU()),
            head=nn.Linear(8, 3),
        )
    )


def run(capture, network, *inputs, labels=(5,)):
    capture.attach()
    capture.begin(torch.Size(labels))
    for x in inputs:
        network(x)
    return capture.take()


@pytest.mark.parametrize("classifier", ["head", None])
def test_a_forward_yields_the_classifiers_input_and_the_decisions(classifier):
    network, x = mlp(), torch.randn(5, 6)
    capture = Capture(network, classifier)
    [forward] = run(capture, network, x)
    assert torch.equal(forward.features, network.body(x))
    assert torch.equal(forward.predicted, network(x).argmax(1))
    assert not forward.features.requires_grad
    assert capture.classifier_name == "head"
    weight, bias = capture.weight_and_bias()
    assert weight is network.head.weight
    assert bias is network.head.bias


def test_only_the_layer_that_ran_last_keeps_its_hooks():
    network = mlp()
    capture = Capture(network)
    run(capture, network, torch.randn(5, 6))
    assert not network.body[0]._forward_hooks
    assert network.head._forward_hooks
    capture.detach()
    capture.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize(("policy", "expected"), [("first", [0]), ("last", [2]), ("all", [0, 1, 2])])
@pytest.mark.parametrize("classifier", ["head", None])
def test_the_policy_chooses_among_several_forwards(policy, expected, classifier):
    network, views = mlp(), [torch.randn(5, 6) for _ in range(3)]
    capture = Capture(network, classifier, forwards=policy)
    for _ in range(2):  # the layer is found in the first batch, and known in the second
        forwards = run(capture, network, *views)
        assert len(forwards) == len(expected)
        for forward, view in zip(forwards, expected, strict=True):
            assert torch.equal(forward.features, network.body(views[view]))


def test_features_survive_what_the_next_module_does_in_place():
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    capture, x = Capture(network, "2", layers=["0"]), torch.randn(5, 6)
    [forward] = run(capture, network, x)
    assert torch.equal(forward.layers["0"], nn.functional.linear(x, network[0].weight, network[0].bias))
    assert (forward.layers["0"] < 0).any()


def test_activation_checkpointing_counts_a_forward_once():
    network = mlp()
    capture = Capture(network, "head", forwards="all")
    capture.attach()
    capture.begin(torch.Size([5]))
    x = torch.randn(5, 6, requires_grad=True)
    torch.utils.checkpoint.checkpoint(network, x, use_reentrant=False).sum().backward()
    assert len(capture.take()) == 1


def test_a_binary_head_decides_by_its_sign():
    network = nn.Sequential(nn.Linear(2, 1, bias=False))
    nn.init.ones_(network[0].weight)
    capture = Capture(network)
    [forward] = run(capture, network, torch.tensor([[1.0, 1.0], [-1.0, 0.5]]), labels=(2,))
    assert forward.predicted.tolist() == [1, 0]


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
        (nn.ReLU(), torch.randn(2, 3, 4), (2,), "training.take_middle", lambda y: y[:, 1]),
        (nn.ReLU(), torch.randn(2, 3), (2,), "auto", lambda y: y),
    ],
)
def test_pools_make_rows(module, x, labels, pool, expected):
    network = nn.ModuleDict({"layer": module, "head": nn.Linear(2, 2)})
    capture = Capture(network, "head", layers=["layer"], pool=pool)
    capture.attach()
    capture.begin(torch.Size(labels))
    y = network["layer"](x)
    network["head"](torch.zeros(2, 2))
    [forward] = capture.take()
    torch.testing.assert_close(forward.layers["layer"], expected(y))


def test_a_mapping_gives_each_layer_its_pool():
    network = nn.ModuleDict({"a": nn.Conv2d(3, 4, 1), "head": nn.Linear(2, 2)})
    capture = Capture(network, "head", layers={"a": "flatten"}, pool="spatial_mean")
    capture.attach()
    capture.begin(torch.Size([2]))
    network["a"](torch.randn(2, 3, 2, 2))
    network["head"](torch.zeros(2, 2))
    assert capture.take()[0].layers["a"].shape == (2, 16)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"classifier": "haed"}, r"submodule, but there is no 'haed'\. Did you mean 'head'\?"),
        ({"classifier": "backbone"}, r"no 'backbone'\. There are 'body\.0', 'head'"),
        ({"classifier": "body"}, r"'body' to be an nn\.Linear, but it is a Sequential\. .*body\.0\?"),
        ({"classifier": "body.1"}, r"to be an nn\.Linear, but it is a ReLU\."),
        ({"layers": ["bdy"]}, r"layers to be the dotted path .* no 'bdy'\. Did you mean 'body'"),
        (
            {"layers": ["body"], "pool": "avg"},
            r"pool to be 'auto', one of spatial_mean.* but got 'avg'",
        ),
        ({"pool": "no.where"}, r"pool to name a function that can be imported"),
        ({"layers": "body"}, r"a list of layers, but got the string 'body': \['body'\]\?"),
        ({"forwards": "middle"}, r"forwards to be one of .* but got 'middle'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        Capture(mlp(), **settings)


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match=r"Expected an nn\.Linear in the module"):
        Capture(nn.Conv2d(3, 4, 1))


def test_an_output_whose_layout_nothing_tells_is_refused():
    network = nn.ModuleDict({"act": nn.ReLU(), "head": nn.Linear(2, 2)})
    capture = Capture(network, "head", layers=["act"])
    capture.attach()
    capture.begin(torch.Size([2]))
    with pytest.raises(ValueError, match=r"Expected a pool for layer 'act', a ReLU .* spatial_mean"):
        network["act"](torch.randn(2, 3, 4, 4))
    with pytest.raises(ValueError, match="Expected a pool for layer 'm', a Sequential"):
        _choose_pool("m", MIXED, torch.randn(2, 3, 5), torch.Size([2]))
