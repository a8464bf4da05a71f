"""Features, decisions and labels: what a forward and a batch yield."""

from collections import OrderedDict

import pytest
import torch
from support.problems import unchecked_shapes
from support.watching import capture_of, forwards_of, hooks_of, opened
from torch import nn

from lightning_nc.stream.kept_classifier import KeptClassifier
from lightning_nc.watch.choice import Choice
from lightning_nc.watch.rows import Rows


def mlp():
    return nn.Sequential(
        OrderedDict(
            body=nn.Sequential(nn.Linear(6, 8), nn.ReLU()),
            head=nn.Linear(8, 3),
        )
    )


@pytest.mark.parametrize("classifier", ["head", None])
def test_a_forward_yields_the_classifiers_input_and_the_decisions(classifier):
    network, x = mlp(), torch.randn(5, 6)
    capture = capture_of(network, classifier)
    [forward] = forwards_of(capture, network, x)
    assert torch.equal(forward.features, network.body(x))
    assert torch.equal(forward.predicted, network(x).argmax(1))
    assert not forward.features.requires_grad
    assert capture.classifier_name == "head"
    assert capture.linear.module is network.head


def test_the_classifier_is_copied_in_the_forward():
    network, x = mlp(), torch.randn(5, 6)
    met = [p.detach().clone() for p in (network.head.weight, network.head.bias)]
    kept = KeptClassifier()
    capture = opened(capture_of(network, "head"), keeps=kept)
    network(x)
    for parameter in network.head.parameters():  # of which its version does not tell
        parameter.data.zero_()
    assert torch.equal(kept.value().weight, met[0])
    assert torch.equal(kept.value().bias, met[1])
    capture.take()
    opened(capture)  # in which it is known
    network(x)
    assert torch.equal(kept.value().weight, met[0])


def test_a_classifier_that_is_found_was_copied_in_its_forward_as_well():
    network = mlp()
    met, kept = network.head.weight.detach().clone(), KeptClassifier()
    capture = opened(capture_of(network), keeps=kept, rows=Rows(None, 3))
    loss = network(torch.randn(5, 6)).logsumexp(1).sum()
    capture.note_loss(loss)
    loss.backward()
    network.head.weight.data.zero_()
    assert not kept.is_kept
    capture.settle(is_trained=True)
    assert torch.equal(kept.value().weight, met)


@pytest.mark.parametrize(("policy", "counts"), [("first", 0), ("last", 2), ("all", 2)])
def test_of_several_forwards_the_weight_of_the_one_that_counts_is_kept(policy, counts):
    network, kept = mlp(), KeptClassifier()
    opened(capture_of(network, "head", forwards=policy), keeps=kept)
    for step in range(3):
        nn.init.constant_(network.head.weight, step)
        network(torch.randn(5, 6))
    assert kept.value().weight.unique().tolist() == [counts]


def test_hooks_are_there_while_a_batch_is_open():
    network = mlp()
    capture = capture_of(network, layers=["body"])
    assert hooks_of(network) == 0
    opened(capture, rows=Rows(None, 3))
    assert hooks_of(network.body[0]) == hooks_of(network.head) == 2
    network(torch.randn(5, 6))
    capture.settle(is_trained=False)
    # only the layer that was found keeps its hooks, and what is measured besides
    assert hooks_of(network.body[0]) == 0
    assert (hooks_of(network.head), len(network.body._forward_hooks)) == (2, 1)
    capture.take()
    assert hooks_of(network) == 0
    opened(capture)
    assert hooks_of(network) == 3
    capture.detach()
    capture.detach()
    assert hooks_of(network) == 0


def test_a_compiled_network_keeps_its_hooks():
    network = torch.compile(mlp(), backend="eager")
    capture = capture_of(network, "head")
    assert hooks_of(network) == 2
    opened(capture)
    capture.take()
    assert hooks_of(network) == 2
    capture.detach()
    assert hooks_of(network) == 0


def test_nothing_is_chosen_until_it_is_settled():
    network, x = mlp(), torch.randn(5, 6)
    capture = opened(capture_of(network), rows=Rows(None, 3))
    network(x)
    assert (capture.counted, capture.classifier_name, capture.choice) == (None, None, None)
    forwards, batch = capture.take()
    assert forwards == []
    assert [forward.name for forward in batch.forwards] == ["body.0", "head"]
    assert not capture.is_settled
    forwards_of(capture, network, x)
    assert capture.choice == Choice("head", rows=3, width=8)


def test_a_choice_that_was_made_before_is_taken_where_the_network_has_it():
    made = Choice("body.0", rows=8, width=6)
    assert capture_of(mlp(), choice=made).classifier_name == "body.0"
    assert capture_of(mlp(), choice=Choice("body.0", rows=8, width=7)).classifier_name is None
    assert capture_of(mlp(), choice=Choice("fc", rows=8, width=6)).classifier_name is None
    assert capture_of(mlp(), "head", choice=made).classifier_name == "head"


def test_an_input_that_cannot_be_read_is_left_alone():
    network = nn.Sequential(mlp())
    network[0].head.forward = lambda x: x  # a subclass may take anything
    capture = opened(capture_of(network, "0.head"))
    network[0].head(torch.eye(8).to_sparse())
    network[0].head((torch.eye(8), None))
    assert (capture.batch.forwards, capture.has_fired) == ([], False)
    network[0].head(torch.eye(8))
    assert len(capture.batch.forwards) == 1


@pytest.mark.parametrize(("policy", "expected"), [("first", [0]), ("last", [2]), ("all", [0, 1, 2])])
@pytest.mark.parametrize("classifier", ["head", None])
def test_the_policy_chooses_among_several_forwards(policy, expected, classifier):
    network, views = mlp(), [torch.randn(5, 6) for _ in range(3)]
    capture = capture_of(network, classifier, forwards=policy)
    for _ in range(2):  # the layer is found in the first batch, and known in the second
        forwards = forwards_of(capture, network, *views)
        assert len(forwards) == len(expected)
        for forward, view in zip(forwards, expected, strict=True):
            assert torch.equal(forward.features, network.body(views[view]))


def test_of_several_forwards_only_those_that_can_count_are_held():
    head = nn.Linear(4, 3)
    for policy, held in (("first", 1), ("last", 1), ("all", 3)):
        capture = opened(capture_of(nn.Sequential(head), "0", forwards=policy), (2,))
        for _ in range(3):
            head(torch.randn(2, 4))
        assert len(capture.batch.forwards) == held
        assert capture.batch.num_forwards == 3
        capture.detach()


def test_without_a_batch_nothing_is_kept():
    network = mlp()
    capture = capture_of(network, "head", layers=["body"])
    capture.attach()
    assert hooks_of(network) == 3
    network(torch.randn(5, 6))
    assert capture.take() == ([], None)
    assert (capture.counted, capture.has_fired) == (None, False)


def test_features_survive_what_the_next_module_does_in_place():
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    capture, x = capture_of(network, "2", layers=["0"]), torch.randn(5, 6)
    [forward] = forwards_of(capture, network, x)
    assert torch.equal(forward.layers["0"], nn.functional.linear(x, network[0].weight, network[0].bias))
    assert (forward.layers["0"] < 0).any()


def test_activation_checkpointing_counts_a_forward_once():
    network = mlp()
    capture = opened(capture_of(network, "head", forwards="all"))
    x = torch.randn(5, 6, requires_grad=True)
    torch.utils.checkpoint.checkpoint(network, x, use_reentrant=False).sum().backward()
    forwards, _ = capture.take()
    assert len(forwards) == 1


def test_a_binary_head_decides_by_its_sign():
    network = nn.Sequential(nn.Linear(2, 1, bias=False))
    nn.init.ones_(network[0].weight)
    capture = capture_of(network)
    [forward] = forwards_of(capture, network, torch.tensor([[1.0, 1.0], [-1.0, 0.5]]), labels=(2,))
    assert forward.predicted.tolist() == [1, 0]


def test_an_error_in_a_hook_is_raised_at_once_or_held_until_the_batch_is_taken():
    network = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))
    capture, x = capture_of(network, "2", layers=["0"]), torch.randn(2, 2, 3, 4)
    opened(capture, (2,))
    with pytest.raises(ValueError, match="Expected a pool for layer '0'"):
        network(x)
    capture.holds_errors = True
    opened(capture, (2,))
    network(x)
    with pytest.raises(ValueError, match="Expected a pool for layer '0'"):
        capture.take()
    assert capture.batch is None


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"classifier": "haed"}, r"submodule, but there is no 'haed'\. Did you mean 'head'\?"),
        ({"classifier": "backbone"}, r"no 'backbone'\. There are 'body\.0', 'head'"),
        ({"classifier": "body"}, r"'body' to be a linear map .*, but it is a Sequential\. .*body\.0\?"),
        ({"classifier": "body.1"}, r"to be a linear map .*, but it is a ReLU\."),
        ({"layers": ["bdy"]}, r"layers to be the dotted path .* no 'bdy'\. Did you mean 'body'"),
        (
            {"layers": ["body"], "pool": "avg"},
            r"pool to be 'auto', one of spatial_mean.* but got 'avg'",
        ),
        ({"pool": "no.where"}, r"pool to name a function that can be imported"),
        ({"layers": "body"}, r"a list of layers, but got the string 'body': \['body'\]\?"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        capture_of(mlp(), **settings)


def test_a_policy_that_there_is_not_is_refused():
    # by a user's process: here, the checks of types would say so first
    with (
        unchecked_shapes(),
        pytest.raises(ValueError, match=r"forwards to be one of .* but got 'middle'"),
    ):
        capture_of(mlp(), forwards="middle")


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match=r"Expected an nn\.Linear in the module"):
        capture_of(nn.Conv2d(3, 4, 1))
