"""The classifier that was found: its output is W h + b, and other runs know it again."""

import pytest
import torch
from support.watching import Y, features, network_of, plain, refused, settled
from torch import nn

from lightning_nc.watch.batch import Batch, Forward
from lightning_nc.watch.choice import Choice, choose, require_linear
from lightning_nc.watch.linear import LinearMap
from lightning_nc.watch.rows import Rows


def forward_of(h, output):
    return Forward("head", h, shape=output.shape, shown=output.reshape(-1, output.shape[-1])[:16])


def test_an_output_that_is_not_linear_in_the_features_is_refused():
    head, h = nn.Linear(8, 3), torch.randn(4, 5, 8)
    require_linear(forward_of(h, head(h).detach()), head.weight, head.bias)
    require_linear(Forward("head"), head.weight, head.bias)
    for other, by in ((2 * head(h), r"\S+"), (head(h)[..., :2], "inf"), (head(h)[0], "inf")):
        text = rf"classifier 'head' to be W h \+ b, but they differ by {by} of the sum of their terms; "
        with pytest.raises(
            ValueError, match=rf"{text}rounding makes 8e-06 at most\. Is it a cosine or"
        ):
            require_linear(forward_of(h, other.detach()), head.weight, head.bias)


def test_a_choice_goes_through_its_state():
    choice = Choice.of(LinearMap("head", nn.Linear(8, 3)))
    assert choice == Choice("head", rows=3, width=8)
    assert choice.state_dict() == {"name": "head", "rows": 3, "width": 8}
    assert Choice.from_state_dict(choice.state_dict()) == choice
    assert Choice.from_state_dict({}) is None


@pytest.mark.parametrize(
    "state",
    [
        {"name": "head", "rows": 3},
        {"rows": 3, "width": 8},
        {"name": "head", "rows": "many", "width": 8},
        {"name": "head", "rows": None, "width": 8},
    ],
)
def test_a_damaged_choice_is_refused(state):
    with pytest.raises(
        ValueError, match=r"choice of a classifier with name, rows and width, but got {"
    ):
        Choice.from_state_dict(state)


def test_a_choice_suits_a_network_that_has_the_layer():
    choice = Choice("head", rows=3, width=8)
    assert choice.suits({"body": nn.Linear(6, 8), "head": nn.Linear(8, 3)})
    assert not choice.suits({"head": nn.Linear(8, 4)})
    assert not choice.suits({"head": nn.Linear(7, 3)})
    assert not choice.suits({"head": nn.Identity()})
    assert not choice.suits({"fc": nn.Linear(8, 3)})


def test_a_batch_whose_network_never_ran_has_no_classifier():
    batch = Batch(Y, rows=Rows(None, 3))
    with pytest.raises(ValueError, match=r"no nn\.Linear ran that has more rows than the .* 2: none\."):
        choose(batch, dict(network_of().named_modules()), batch.rows, is_trained=False)


def test_a_part_of_the_losses_that_tells_nothing_leaves_it_open():
    network = network_of()
    assert settled(network, lambda n: [features(n).sum()], Rows(3, 3), is_partial=True) is None
    reason = "nothing that the loss applies last has num_classes = 3 rows"
    refused(reason, "'body.weight'.*", network, lambda n: [features(n).sum()], Rows(3, 3))


@pytest.mark.parametrize("aux", [3, 5])
def test_what_a_later_loss_may_apply_is_a_doubt(aux):
    network = network_of(aux=nn.Linear(8, aux))
    reason, candidates = "'head' could be it, and so could others", rf"'aux.weight' \({aux} rows of .*"
    refused(reason, candidates, network, plain, is_partial=True)
    assert settled(network, plain) == "head"


def test_what_a_later_loss_cannot_apply_is_none():
    for aux in (nn.Linear(8, 5).requires_grad_(False), nn.Linear(8, 2)):
        assert settled(network_of(aux=aux), plain, is_partial=True) == "head"
    assert settled(network_of(aux=nn.Linear(8, 5)), plain, Rows(3, 3), is_partial=True) == "head"
