"""What a loss applies last, told by autograd's graph."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, normalize
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from lightning_nc.watch.graph import Cover, last_maps, product_of

X, TOKENS = torch.randn(5, 4), torch.randn(5, 7, 4)


class Network(nn.Module):
    """Two maps, of which the head is the last."""

    def __init__(self, head=None):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3) if head is None else head

    def features(self, x):
        return self.body(x).relu()

    def forward(self, x):
        return self.head(self.features(x))


def loss_of(z):
    return cross_entropy(z.flatten(0, -2), torch.arange(z[..., 0].numel()) % z.shape[-1])


def applied(loss, network):
    """By the name of the matrix: what covers it, and the names of the matrices below."""
    names = {id(p): name for name, p in network.named_parameters() if p.ndim > 1}
    return {
        names[id(place.matrix)]: (place.cover, {names[i] for i in place.below if i in names})
        for place in last_maps(loss).applied
    }


def loose(loss, network):
    """The names of what enters the loss otherwise."""
    return {
        name for name, p in network.named_parameters() if any(p is q for q in last_maps(loss).loose)
    }


HEAD = {"head.weight": (Cover.NOTHING, {"body.weight"})}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("x", [X, TOKENS, TOKENS.transpose(0, 1), TOKENS[None]])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_linear_head_is_applied_last(bias, x, autocast):
    network = Network(nn.Linear(6, 3, bias=bias))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        z = network(x)
    loss = loss_of(z.float())
    assert applied(loss, network) == HEAD
    [place] = last_maps(loss).applied
    assert place.node is product_of(z)


def test_features_that_are_no_longer_contiguous_are_multiplied_all_the_same():
    network = Network()
    h = network.features(TOKENS).transpose(0, 1)  # by a product of its own, and a sum
    z = network.head(h)
    assert applied(loss_of(z), network) == HEAD
    assert last_maps(z.sum()).applied[0].node is product_of(z)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("head", "parts"),
    [
        (
            lambda: weight_norm(nn.Linear(6, 3)),
            ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        ),
        (lambda: nn.utils.weight_norm(nn.Linear(6, 3)), ("weight_g", "weight_v")),
        (lambda: spectral_norm(nn.Linear(6, 3)), ("parametrizations.weight.original",)),
    ],
)
def test_a_weight_that_is_computed_is_applied_by_its_parts(head, parts):
    network = Network(head())
    z = network(X)
    assert applied(loss_of(z), network) == {
        f"head.{part}": (Cover.NOTHING, {"body.weight"}) for part in parts
    }
    assert {place.node for place in last_maps(loss_of(z)).applied} == {product_of(z)}


class Tied(Network):
    def __init__(self):
        super().__init__(nn.Linear(4, 9, bias=False))
        self.embedding, self.body = nn.Embedding(9, 4), nn.Linear(4, 4)
        self.head.weight = self.embedding.weight

    def features(self, x):
        return self.body(self.embedding(x)).relu()


@pytest.mark.parametrize("as_module", [True, False])
def test_a_tied_embedding_is_applied_last(as_module):
    network = Tied()
    h = network.features(torch.arange(9))
    z = network.head(h) if as_module else linear(h, network.embedding.weight)
    assert applied(loss_of(z), network) == HEAD  # and not below itself


@pytest.mark.parametrize(
    "apply",
    [
        lambda h, w: linear(h, w),
        lambda h, w: h @ w.T,
        lambda h, w: torch.einsum("bd,cd->bc", h, w),
        lambda h, w: linear(normalize(h), normalize(w)),
        lambda h, w: -torch.cdist(h, w),
        lambda h, w: torch.cat([linear(h, part) for part in w.split(2)], dim=1),
    ],
)
def test_a_weight_that_is_applied_as_a_function_is_seen(apply):
    network = Network()
    assert applied(loss_of(apply(network.features(X), network.head.weight)), network) == HEAD


def test_penalties_are_no_maps():
    network = Network()
    h = network.features(X)
    loss = loss_of(network.head(h)) + h.pow(2).mean()
    assert applied(loss, network) == {**HEAD, "body.weight": (Cover.NOTHING, set())}
    assert loose(loss, network) == set()
    weight = network.head.weight
    decay = (
        sum(p.pow(2).sum() for p in network.parameters()) + weight.norm() + (weight @ weight.T).sum()
    )
    loss = loss_of(network(X)) + decay
    assert applied(loss, network) == HEAD
    assert loose(loss, network) == set(dict(network.named_parameters()))


def test_vectors_enter_beside_the_map_below_it_or_after_it():
    network = Network()
    network.scale = nn.Parameter(torch.ones(3))
    loss = loss_of(network(X))
    [place] = last_maps(loss).applied
    others = (network.head.bias, network.body.weight, network.body.bias)
    assert place.below == {id(p) for p in others}
    assert loose(loss, network) == set()
    after = loss_of(network.scale * network(X))
    assert applied(after, network) == HEAD
    assert loose(after, network) == {"scale"}


def test_rows_that_are_picked_are_applied_and_do_not_cover_what_is_below():
    network = Network()
    assert applied(loss_of(network(X)[1:].clone()[torch.tensor([0, 2])]), network) == HEAD
    tied, some = Tied(), torch.arange(4)
    assert applied(tied.features(some).sum(), tied) == {"body.weight": (Cover.NOTHING, {"head.weight"})}
    for rows in (tied.embedding(some), tied.embedding.weight[some]):
        assert applied(rows.sum(), tied) == {"head.weight": (Cover.NOTHING, set())}


def test_further_heads_are_applied_last_too_and_may_lie_below():
    network = Network()
    network.exit, network.middle = nn.Linear(6, 3), nn.Linear(6, 6)
    h = network.features(X)
    loss = loss_of(network.exit(h)) + loss_of(network.head(network.middle(h)))
    assert applied(loss, network) == {
        "exit.weight": (Cover.NOTHING, {"body.weight"}),
        "head.weight": (Cover.NOTHING, {"body.weight", "middle.weight"}),
    }
    stacked = Network()
    stacked.last = nn.Linear(3, 3)
    z = stacked(X)
    assert applied(loss_of(z) + loss_of(stacked.last(z)), stacked) == {
        **HEAD,
        "last.weight": (Cover.NOTHING, {"head.weight", "body.weight"}),
    }


@pytest.mark.parametrize(
    "above",
    [
        nn.Linear(3, 3).requires_grad_(False),
        nn.Linear(3, 3, bias=False).requires_grad_(False),
        lambda z: z @ torch.randn(3, 4),
        lambda z: torch.einsum("bc,ck->bk", z, torch.randn(3, 4)),
        lambda z: nn.functional.conv1d(z[:, None], torch.ones(2, 1, 2)).flatten(1),
    ],
)
def test_what_multiplies_without_a_gradient_covers_what_is_below(above):
    network = Network()
    loss = loss_of(above(network(X)))
    assert applied(loss, network) == {"head.weight": (Cover.PRODUCT, {"body.weight"})}
    # on the other way, nothing does
    both = loss + loss_of(network(X))
    assert sorted(place.cover for place in last_maps(both).applied) == [Cover.NOTHING, Cover.PRODUCT]


def test_of_two_ways_to_one_product_the_one_with_more_above_it_counts():
    network = Network()
    z = network(X)
    for parts in ((z.sum(), (z @ torch.ones(3, 2)).sum()), ((z @ torch.ones(3, 2)).sum(), z.sum())):
        [place] = last_maps(sum(parts)).applied
        assert (place.matrix is network.head.weight, place.cover) == (True, Cover.PRODUCT)


def test_a_head_without_gradient_is_none():
    network = Network()
    network.head.requires_grad_(False)
    assert applied(loss_of(network(X)), network) == {"body.weight": (Cover.PRODUCT, set())}


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return 2 * z

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Multiplied(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, w):
        ctx.save_for_backward(h, w)
        return h @ w.T

    @staticmethod
    def backward(ctx, gradient):
        h, w = ctx.saved_tensors
        return gradient @ w, gradient.T @ h


def test_a_function_of_the_users_own_hides_what_it_does():
    network = Network()
    loss = loss_of(Doubled.apply(network(X)))
    assert applied(loss, network) == {"head.weight": (Cover.HIDDEN, {"body.weight"})}
    assert not last_maps(loss).hides  # but shows what it was given
    z = Multiplied.apply(network.features(X), network.head.weight)
    assert applied(loss_of(z), network) == HEAD


@pytest.mark.parametrize(("reentrant", "expected"), [(False, HEAD), (True, {})])
def test_a_checkpointed_network_is_seen_or_said_to_hide(reentrant, expected):
    network = Network()
    z = checkpoint(network, X.clone().requires_grad_(), use_reentrant=reentrant)
    assert applied(loss_of(z), network) == expected
    assert last_maps(loss_of(z)).hides == reentrant
    # below the head, it does not matter
    h = checkpoint(network.features, X.clone().requires_grad_(), use_reentrant=reentrant)
    places = last_maps(loss_of(network.head(h))).applied
    assert [(p.matrix is network.head.weight, p.cover) for p in places] == [(True, Cover.NOTHING)]


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_a_compiled_network_hides_how_its_matrices_are_applied():
    torch._dynamo.reset()
    network = Network()
    loss = loss_of(torch.compile(network, backend="aot_eager")(X))
    assert applied(loss, network) == {
        name: (Cover.HIDDEN, set()) for name in ("head.weight", "body.weight")
    }
    assert loose(loss, network) == set(dict(network.named_parameters()))
    assert last_maps(loss).hides


class Layered(nn.Module):
    def __init__(self, layer, head, take=lambda h: h):
        super().__init__()
        self.layer, self.head, self.take = layer, head, take

    def forward(self, x):
        return self.head(self.take(self.layer(x)))


@pytest.mark.parametrize(
    ("network", "x", "below"),
    [
        (Layered(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 1)), torch.randn(2, 3, 6, 6), {"layer.weight"}),
        (Layered(nn.Conv1d(3, 4, 3), nn.Conv1d(4, 3, 1)), torch.randn(2, 3, 6), {"layer.weight"}),
        *(
            (
                Layered(kind(4, 6, batch_first=True), nn.Linear(6, 3), lambda out: out[0]),
                TOKENS,
                {"layer.weight_ih_l0", "layer.weight_hh_l0"},
            )
            for kind in (nn.LSTM, nn.GRU, nn.RNN)
        ),
        (
            Layered(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Linear(4, 3)),
            TOKENS,
            {f"layer.{name}.weight" for name in ("linear1", "linear2", "self_attn.out_proj")}
            | {"layer.self_attn.in_proj_weight"},
        ),
    ],
)
def test_above_layers_of_any_kind_the_head_is_last(network, x, below):
    z = network(x)
    assert applied(z.logsumexp(1).sum(), network) == {"head.weight": (Cover.NOTHING, below)}
    assert last_maps(z.sum()).applied[0].node is product_of(z)


def test_a_loss_of_constants_applies_nothing():
    assert vars(last_maps(torch.zeros(()))) == {
        "applied": (), "labels": (), "vectors": (), "loose": (), "hides": False,
    }  # fmt: skip


def test_an_output_of_several_products_has_none_of_its_own():
    network = Network()
    h = network.features(X)
    z = network.head(h)
    assert product_of(z) is product_of(z)
    assert product_of(z + network.head(2 * h)) is None
    assert product_of(z + h[:, :3]) is None
    with torch.no_grad():
        assert product_of(network(X)) is None
    assert product_of(h) is not product_of(z)
