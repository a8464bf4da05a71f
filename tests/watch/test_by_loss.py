"""The classifier as a training loss tells it: certain, or refused with the candidates."""

import pytest
import torch
from support.watching import Holds, Passes, X, Y, features, loss_of, network_of, plain, refused, settled
from torch import nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

from lightning_nc.watch.rows import Rows


def with_aux(network):
    h = features(network)
    return [loss_of(network["head"](h)) + network["aux"](h).pow(2).mean()]


def stacked(network):
    h = network["aux"](features(network))
    return [loss_of(network["head"](h)) + loss_of(h[:, :3])]


def with_embedding(network):
    return [loss_of(network["head"](network["body"](network["embedding"](Y)).relu()))]


def with_penalties(network):
    h = features(network)
    decay = sum(p.pow(2).sum() for p in network.parameters())
    return [loss_of(network["head"](h)) + h.pow(2).mean() + decay]


def with_gram(network):
    weight = network["head"].weight
    return [plain(network)[0] + (weight @ weight.T - torch.eye(3)).pow(2).sum()]


def twice(network):
    h = features(network)
    return [loss_of(network["head"](h)) + loss_of(network["head"](2 * h))]


def again(network):
    h = features(network)
    return [loss_of(network["head"](h)) + loss_of(network["head"](network["back"](network["head"](h))))]


def of_tokens(network):
    h = network["body"](torch.randn(4, 2, 6)).relu().transpose(0, 1)  # the bias is a sum of its own
    return [loss_of(network["head"](h).reshape(8, -1)) + network["head"].bias.pow(2).sum()]


class Positions(nn.Module):
    """As in a vision transformer, whose residual sums lead from the head to what was added first."""

    def __init__(self):
        super().__init__()
        self.first, self.positions = (
            nn.Parameter(torch.randn(1, 1, 8)),
            nn.Parameter(torch.randn(1, 5, 8)),
        )
        self.patches, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)

    def forward(self, x):
        x = torch.cat([self.first.expand(len(x), -1, -1), self.patches(x)], dim=1)
        return self.norm(self.block(x + self.positions))[:, 0]


def of_patches(network):
    return [loss_of(network["head"](network["positions"](torch.randn(8, 4, 6))))]


def also_as_teacher(network):
    with torch.no_grad():
        network["aux"](features(network))
    return plain(network)


CERTAIN = [
    (network_of(), plain, {}),
    (network_of(rows=10), plain, {}),
    (network_of(), plain, {"rows": Rows(3, 3)}),
    (network_of(rows=1), lambda n: [n["head"](features(n)).sum()], {"rows": Rows(None, 2)}),
    (network_of(), twice, {}),
    (network_of(), with_penalties, {}),
    (network_of(), with_gram, {}),
    (network_of(rows=8), with_penalties, {}),  # as many as the body has
    (network_of(), of_tokens, {}),
    (network_of(positions=Positions()), of_patches, {}),
    (network_of(back=nn.Linear(3, 8)), again, {}),
    # a further head of too few rows, or of others than were given
    (network_of(aux=nn.Linear(8, 2)), with_aux, {}),
    (network_of(aux=nn.Linear(8, 5)), with_aux, {"rows": Rows(3, 3)}),
    # it lies below
    (network_of(aux=nn.Linear(8, 8)), stacked, {}),
    (network_of(rows=9, embedding=nn.Embedding(9, 6)), with_embedding, {}),
    # it is trained, and in no loss
    (network_of(aux=nn.Linear(8, 3)), also_as_teacher, {}),
    (network_of(aux=nn.Linear(8, 4).requires_grad_(False)), also_as_teacher, {}),
    (network_of(), plain, {"is_partial": True, "rows": Rows(3, 3)}),
]


@pytest.mark.parametrize(("network", "losses_of", "settings"), CERTAIN)
def test_what_the_loss_applies_last_is_the_classifier(network, losses_of, settings):
    assert settled(network, losses_of, **settings) == "head"


def exits(network):
    return [loss_of(network[name](features(network))) for name in ("aux", "head")]


@pytest.mark.parametrize(
    ("network", "losses_of", "candidates"),
    [
        (network_of(aux=nn.Linear(8, 3)), with_aux, r"'aux.weight' \(3 rows of a Linear\)"),
        (network_of(aux=nn.Linear(8, 3)), exits, r"'aux.weight' \(3 rows of a Linear\)"),
        (network_of(aux=nn.Linear(8, 5)), with_aux, r"'aux.weight' \(5 rows of a Linear\)"),
        # its output enters the loss as well, by a way on which nothing lies above it
        (
            network_of(aux=nn.Bilinear(8, 8, 4)),
            lambda n: [plain(n)[0] + n["aux"](features(n), features(n)).mean()],
            r"'aux.weight' \(4 rows of a Bilinear\)",
        ),
    ],
)
def test_of_several_that_the_loss_applies_last_none_is_certain(network, losses_of, candidates):
    both = rf"'head.weight' \(3 rows of a Linear\), {candidates}"
    refused("several could be it: ", both, network, losses_of)


def as_functions(network):
    h = features(network)
    return [loss_of(linear(h, network["head"].weight)) + loss_of(linear(h, network["aux"].weight))]


def also_as_function(network):
    return [plain(network)[0] + loss_of(linear(features(network), network["head"].weight))]


def test_maps_that_are_applied_as_functions_too_are_several():
    head, aux = (rf"'{name}.weight' \(3 rows of a Linear\)" for name in ("head", "aux"))
    refused("several could be it: ", f"{head}, {aux}", network_of(aux=nn.Linear(8, 3)), as_functions)
    refused("several could be it: ", f": {head}", network_of(), also_as_function)


class Scales(nn.Linear):
    """One whose weight is not what it applies."""

    def __init__(self):
        super().__init__(8, 3)
        self.other = nn.Parameter(torch.randn(3, 8))

    def forward(self, h):
        return linear(h, self.other)


class Sums(nn.Linear):
    """The layer of an adapter, as some packages write it."""

    def __init__(self):
        super().__init__(8, 3)
        self.extra = nn.Parameter(torch.randn(3, 8))

    def forward(self, h):
        return super().forward(h) + linear(h, self.extra)


@pytest.mark.parametrize(
    ("network", "losses_of", "candidates"),
    [
        (
            network_of(),
            lambda n: [loss_of(linear(features(n), n["head"].weight))],
            r"'head.weight' \(3 rows of a Linear\)",
        ),
        (
            network_of(embedding=nn.Embedding(9, 8)),
            lambda n: [loss_of(features(n) @ n["embedding"].weight.T)],
            r"'embedding.weight' \(9 rows of a Embedding\)",
        ),
        (
            nn.ModuleDict({"body": nn.Linear(6, 8), "top": nn.Conv1d(8, 3, 1)}),
            lambda n: [loss_of(n["top"](features(n)[..., None]).squeeze(-1))],
            r"'top.weight' \(3 rows of a Conv1d\)",
        ),
        (
            nn.ModuleDict({"body": nn.Linear(6, 8), "head": Scales()}),
            plain,
            r"'head.other' \(3 rows of a Scales\)",
        ),
        (
            nn.ModuleDict({"body": nn.Linear(6, 8), "head": Sums()}),
            plain,
            r"'head.weight' \(3 rows of a Sums\), 'head.extra' \(3 rows of a Sums\)",
        ),
    ],
)
def test_a_map_that_no_hook_sees_is_refused(network, losses_of, candidates):
    reason = r"it is applied as a function, or by something else than an nn\.Linear, .*\(h\): "
    refused(reason, candidates, network, losses_of)


def tuned(network):
    h = features(network)
    return [loss_of(network["head"](h) + network["frozen"](h))]


def taught(network):
    return [cross_entropy(network["head"](features(network)), network["frozen"](X.tile(2)[:, :8]))]


@pytest.mark.parametrize("losses_of", [plain, tuned, taught])
def test_a_matrix_without_gradient_of_as_many_rows_is_a_doubt(losses_of):
    network = network_of(frozen=nn.Linear(8, 3).requires_grad_(False))
    reason = "'head' could be it, and so could others: a teacher, the base of an adapter, the head of "
    candidates = r"another loss: 'frozen.weight' \(3 rows of a Linear, without gradient\)"
    refused(reason, candidates, network, losses_of)


def loosely(network):
    h = features(network)
    return [loss_of(network["head"](h)) + (h[:, None] * network["aux"].weight).sum(-1).mean()]


class Adapted(nn.Module):
    """As peft wraps a layer whose own weight is frozen."""

    def __init__(self):
        super().__init__()
        self.base_layer = nn.Linear(8, 3).requires_grad_(False)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 3, bias=False)

    def forward(self, h):
        return self.base_layer(h).add_(self.up(self.down(h)))


def test_an_adapter_is_no_single_map():
    network = nn.ModuleDict({"body": nn.Linear(6, 8), "head": Adapted()})
    base = r"'head\.base_layer\.weight' \(3 rows of a"
    reason = r"'head\.up' could be it, and so could others"
    refused(reason, rf"the base of an adapter, .*: {base} Linear, without gradient\)", network, plain)
    network["head"].base_layer.requires_grad_(True)
    both = rf"{base} Linear\), 'head\.up\.weight' \(3 rows of a Linear\)"
    refused("several could be it: ", both, network, plain)


def penalized(network):
    return [plain(network)[0] + network["aux"].weight.pow(2).sum()]


def recomputed(network):
    z = checkpoint(network["aux"], features(network), use_reentrant=True)
    return [plain(network)[0] + loss_of(z)]


@pytest.mark.parametrize("losses_of", [loosely, penalized, recomputed])
def test_a_matrix_that_enters_the_loss_otherwise_is_a_doubt(losses_of):
    network = network_of(aux=nn.Linear(8, 3))
    candidates = r"another loss: 'aux.weight' \(3 rows of a Linear\)"
    refused("'head' could be it, and so could others", candidates, network, losses_of)


def with_vector(network):
    return [loss_of(network["head"](features(network)) + network["shift"].values)]


def test_a_vector_of_the_classes_after_it_is_refused():
    reason = "something else is applied after the last one: "
    refused(reason, r"'shift\.values'", network_of(shift=Holds(3)), with_vector)
    # which one number for all of them is not
    assert settled(network_of(shift=Holds(1)), with_vector) == "head"
    assert settled(network_of(shift=Holds(3)), plain) == "head"


def frozen(rows, columns=3):
    return nn.Linear(columns, rows, bias=False).requires_grad_(False)


@pytest.mark.parametrize(
    ("top", "losses"),
    [
        (frozen(3), lambda n, z: [loss_of(n["top"](z))]),
        (frozen(4), lambda n, z: [loss_of(n["top"](z))]),
        (nn.Identity(), lambda n, z: [loss_of(z @ torch.randn(3, 5))]),
        (frozen(3), lambda n, z: [loss_of(z) + loss_of(n["top"](z))]),
    ],
)
def test_a_map_with_another_one_above_it_is_refused(top, losses):
    network = network_of(top=top)
    reason = "something without gradient or of another kind is applied last: "
    candidates = r"'head.weight' \(3 rows of a Linear\)"
    refused(reason, candidates, network, lambda n: losses(n, n["head"](features(n))))


@pytest.mark.parametrize("above", [Passes.apply, lambda z: z @ torch.eye(3)])
def test_what_is_applied_after_it_in_one_of_its_losses_is_a_doubt(above):
    def losses_of(network):
        return [plain(network)[0] + loss_of(above(network["head"](features(network))))]

    candidates = r"'head.weight' \(3 rows of a Linear\)"
    refused("something else is applied after it: ", candidates, network_of(), losses_of)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (Rows(None, 20), "has more rows than the largest label, 19"),
        (Rows(7, 3), "has num_classes = 7 rows"),
    ],
)
def test_a_loss_that_applies_nothing_of_as_many_rows_is_refused(rows, text):
    reason = f"nothing that the loss applies last {text}: "
    refused(reason, r"'head.weight' \(3 rows of a Linear\)", network_of(), plain, rows=rows)
