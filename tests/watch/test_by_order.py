"""The classifier where no loss can be looked into: what ran last, or refused with its rivals."""

import pytest
import torch
from support.watching import (
    Holds,
    X,
    hidden,
    loss_of,
    network_of,
    plain,
    refused,
    settled,
    silent,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_nc.watch.rows import Rows


def checkpointed(network):
    def both(x):
        return network["head"](network["body"](x).relu())

    return [loss_of(checkpoint(both, X.clone().requires_grad_(), use_reentrant=True))]


WAYS = [(hidden, {}), (checkpointed, {}), (plain, {"is_noted": False}), (silent, {"is_trained": False})]


@pytest.mark.parametrize(("losses_of", "settings"), WAYS)
def test_where_the_loss_does_not_tell_the_one_that_ran_last_is_it(losses_of, settings):
    assert settled(network_of(), losses_of, **settings) == "head"
    assert settled(network_of(rows=5), losses_of, **settings) == "head"


@pytest.mark.parametrize(
    ("aux", "settings"),
    [
        (nn.Linear(8, 2), {}),
        (nn.Linear(8, 7), {"rows": Rows(5, 3)}),
        # kernels of as few rows are inside of a network, unless they have as many
        (nn.Conv2d(3, 4, 3), {}),
        (nn.Conv2d(3, 64, 1), {}),
        (nn.Embedding(50, 6), {}),
        (Holds(1, 17, 8), {}),
        (nn.LSTM(8, 3), {}),
        (nn.MultiheadAttention(4, 2), {}),
    ],
)
def test_matrices_that_could_not_be_it_are_no_rivals(aux, settings):
    assert settled(network_of(5, aux=aux), silent, is_trained=False, **settings) == "head"


@pytest.mark.parametrize(
    ("aux", "described"),
    [
        (nn.Linear(8, 5), r"'aux.weight' \(5 rows of a Linear\)"),
        (nn.Linear(8, 3), r"'aux.weight' \(3 rows of a Linear\)"),
        # of more rows, and nobody saw it run inside
        (nn.Linear(8, 7), r"'aux.weight' \(7 rows of a Linear\)"),
        (
            nn.Linear(8, 5).requires_grad_(False),
            r"'aux.weight' \(5 rows of a Linear, without gradient\)",
        ),
        (nn.Conv2d(3, 4, 1), r"'aux.weight' \(4 rows of a Conv2d\)"),
        (nn.Conv2d(3, 5, 3), r"'aux.weight' \(5 rows of a Conv2d\)"),
        (nn.Embedding(4, 6), r"'aux.weight' \(4 rows of a Embedding\)"),
        (Holds(8, 4), r"'aux.values' \(8 x 4 rows of a Holds\)"),
        (Holds(40, 8), r"'aux.values' \(40 x 8 rows of a Holds\)"),
    ],
)
def test_where_the_loss_does_not_tell_what_could_be_it_is_a_doubt(aux, described):
    network = network_of(5, aux=aux)
    reason = r"'head' \(5 rows\) ran last, and others could be it: "
    refused(reason, described, network, silent, is_trained=False)
    if all(p.requires_grad for p in aux.parameters()):  # this loss has given it none
        assert settled(network, hidden) == "head"
    else:
        refused(reason, described, network, hidden)


def test_an_embedding_of_more_rows_is_a_doubt_where_there_are_labels_of_tokens():
    network = network_of(5, embedding=nn.Embedding(50, 6))
    described = r"'embedding.weight' \(50 rows of a Embedding\)"
    reason = r"'head' \(5 rows\) ran last"
    refused(reason, described, network, silent, labels=(2, 4), is_trained=False)


def test_where_gradients_are_gone_already_a_trained_rival_is_a_doubt():
    network = network_of(aux=nn.Linear(8, 3))
    reason = r"'head' \(3 rows\) ran last, and others could be it: "
    refused(reason, r"'aux.weight' \(3 rows of a Linear\)", network, silent, is_trained=True)
    network["head"].weight.grad = torch.ones(3, 8)
    assert settled(network, silent, is_trained=True) == "head"


def with_teacher(network):
    losses = hidden(network)
    network["teacher"](X)
    return losses


def test_what_ran_last_without_a_gradient_is_not_it():
    network = network_of(teacher=nn.Linear(6, 4).requires_grad_(False))
    assert settled(network, with_teacher) == "head"
    described = r"'head.weight' \(3 rows of a Linear\)"
    refused(r"'teacher' \(4 rows\) ran last", described, network, with_teacher, is_trained=False)


def test_where_none_has_a_gradient_there_is_none():
    network = network_of()
    for module in network.values():
        module.weight.grad = torch.zeros_like(module.weight)
    network["head"].requires_grad_(False)
    reason = "no nn.Linear ran that has more rows than .* 2 and that this loss has given a gradient: "
    refused(reason, r"'body' \(8 rows\), 'head' \(3 rows\)", network, silent)


def test_a_network_in_which_nothing_of_as_many_rows_ran_has_none():
    reason = "no nn.Linear ran that has num_classes = 7 rows: "
    described = r"'body' \(8 rows\), 'head' \(3 rows\)"
    refused(reason, described, network_of(), silent, Rows(7, 3), is_trained=False)


def test_many_candidates_are_cut_short():
    network = network_of(**{f"other{i}": nn.Linear(8, 3) for i in range(11)})
    candidates = ".*'other7.weight' [^,]* and 3 more"
    refused(r"'head' \(3 rows\) ran last", candidates, network, silent, is_trained=False)
