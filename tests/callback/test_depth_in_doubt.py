"""What could be a wrong number of a layer, or of a linear head: right, refused, left out or said."""

import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from support import depth_oracles as oracle
from support.problems import unchecked_shapes
from support.training import fit
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

from lightning_nc import NeuralCollapseCallback, measure
from lightning_nc.watch.paths import Layer
from lightning_nc.watch.weights import weight_reader

C, BATCH = 3, 24
Y = torch.arange(72) % C
X = torch.randn(72, 8, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(C, 8)[Y]


class Net(nn.Module):
    """A body and a head; what others change of them."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(8, 6, bias=False)
        self.head = nn.Linear(6, C, bias=False)

    def forward(self, x):
        return self.head(self.body(x))


def loader(rows=72):
    return DataLoader(TensorDataset(X[:rows], Y[:rows]), BATCH)


def run(net, forward=None, epochs=2, **settings):
    """A module that trains this network under a callback."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def training_step(self, batch, batch_idx):
            logits = (forward or net)(batch[0])
            return nn.functional.cross_entropy(logits, batch[1])

        validation_step = training_step

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = NeuralCollapseCallback(figures_every_n_epochs=0, **settings)
    module = Module()
    with unchecked_shapes():
        fit(module, [callback], loader(), loader(), max_epochs=epochs, num_sanity_val_steps=0)
    return module, callback


def seeded(kind=Net):
    seed_everything(0, verbose=False)
    return kind()


def last(callback, key):
    return callback.history[key][-1].value


def share(h):
    return oracle.within_share(h.detach().double().numpy(), Y.numpy())


# The classifier runs twice, the layer once


@pytest.mark.parametrize("named", [None, "head"])
@pytest.mark.parametrize("forwards", ["last", "first", "all"])
def test_a_layer_that_runs_once_before_two_forwards_rests_on_all_batches(forwards, named):
    class Twice(Net):
        def forward(self, x):
            h = self.body(x)
            return self.head(h) + self.head(h)

    net = seeded(Twice).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two forwards
        found = measure(net, loader(), layers=["body"], classifier=named, forwards=forwards)
    assert found.values["layer/within_share/body"] == pytest.approx(share(net.body(X)), rel=1e-6)
    rows = int(found.evidence["body"].num_samples)
    assert rows == 72


# What comes between the layers of a head


def test_a_function_that_begins_as_the_identity_ends_the_head_when_it_does_not():
    class Gain(Net):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(6))

        def forward(self, x):
            return self.head(self.body(x) * self.gain)

    with pytest.warns(match="Expected what enters the layer after 'net.body.in' to be its product"):
        _, callback = run(seeded(Gain), measures=["default", "linear"], classifier="net.head")
    found = {k: v[-1].value for k, v in callback.history.items() if k.startswith("linear/")}
    assert all(np.isnan(v) for key, v in found.items() if key.endswith("/net.body.in"))
    assert not np.isnan(found["linear/weights_frame_distance/val"])
    assert not np.isnan(last(callback, "nc1/cdnv/val"))


def test_a_product_that_is_zero_is_no_part_of_a_head():
    class Zero(Net):
        def __init__(self):
            super().__init__()
            nn.init.zeros_(self.body.weight)

        def forward(self, x):
            return self.head(self.body(x).tanh())

    _, callback = run(seeded(Zero), measures=["linear"], classifier="net.head", epochs=1)
    assert not [key for key in callback.history if key.endswith("/net.body.in")]


def test_a_head_over_tokens_is_found():
    class Tokens(Net):
        def forward(self, x):
            return super().forward(x.reshape(len(x), 1, 8).expand(-1, 4, -1))

    y = Y[:, None].expand(-1, 4).contiguous()
    net = seeded(Tokens).eval()
    batches = [(a, b) for a, b in zip(X.split(BATCH), y.split(BATCH), strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = measure(net, batches, measures=["linear"], classifier="head").values
    assert "linear/weights_frame_distance/body.in" in found


def test_a_layer_that_was_asked_for_stays_where_it_is_no_part_of_the_head():
    class Between(Net):
        def forward(self, x):
            return self.head(self.body(x).relu())

    settings = {"measures": ["default", "linear"], "classifier": "net.head", "epochs": 1}
    _, callback = run(seeded(Between), layers=["**:in"], **settings)
    assert "layer/within_share/val/net.body.in" in callback.history
    assert "linear/weights_frame_distance/val/net.body.in" not in callback.history


def test_the_classifiers_own_input_by_name_has_the_weight_that_it_meets():
    _, callback = run(seeded(), layers=["net.head:in"], measures=["layer"], epochs=1)
    assert last(callback, "layer/stable_rank/val/net.head.in") == pytest.approx(
        last(callback, "layer/stable_rank/val")
    )


def test_a_single_row_aside_does_not_take_the_head_for_itself():
    class Value(Net):
        def __init__(self):
            super().__init__()
            self.value = nn.Linear(8, 1)

    _, callback = run(seeded(Value), measures=["linear"], epochs=1)
    assert "linear/weights_frame_distance/val/net.body.in" in callback.history


# The weight that is read is the one that is applied


class Standardized(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class Scaled(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, 2 * self.weight, self.bias)


@pytest.mark.parametrize(
    ("module", "is_known"),
    [
        (nn.Linear(4, 3), True),
        (nn.Conv2d(4, 3, 3), True),
        (parametrizations.weight_norm(nn.Linear(4, 3)), True),
        (Standardized(4, 3), False),
        (Scaled(4, 3, 3), False),
        (nn.Conv2d(4, 4, 3, groups=2), False),
        (nn.ReLU(), False),
    ],
)
def test_a_weight_is_known_where_the_forward_applies_it(module, is_known):
    reader = weight_reader(Layer("a.in", "a", "auto", of_input=True), module)
    assert (reader is not None) == is_known
    assert weight_reader(Layer("a", "a", "auto"), module) is None
    if is_known:
        assert reader().shape[1] == 4


def test_where_no_layer_has_a_weight_it_is_told(caplog):
    with caplog.at_level("INFO"):
        run(seeded(), layers=["net.body"], measures=["layer"], epochs=1)
    assert "No weight is known at the layers 'net.body', ...: of the keys layer/*" in caplog.text


# What "**" finds


def test_a_weight_that_is_made_is_no_layer():
    class Made(Net):
        def __init__(self):
            super().__init__()
            self.body = parametrizations.weight_norm(nn.Linear(8, BATCH))
            self.head = nn.Linear(BATCH, C)

        def forward(self, x):
            return self.head(self.body(x).relu())

    _, callback = run(seeded(Made), layers=["**"], classifier="net.head", epochs=1)
    layers = {key.split("/", 3)[3] for key in callback.history if key.count("/") == 3}
    assert layers == {"net.body"}


def test_a_module_with_as_many_rows_as_the_first_batch_costs_the_others_nothing():
    class Prototypes(Net):
        def __init__(self):
            super().__init__()
            self.hyper = nn.Linear(4, 6)
            self.register_buffer("prototypes", torch.randn(BATCH, 4))

        def forward(self, x):
            return self.head(self.body(x) + self.hyper(self.prototypes).mean(0))

    net = seeded(Prototypes).eval()
    batches = [(X[i : i + 20], Y[i : i + 20]) for i in (24, 44)]
    batches = [(X[:BATCH], Y[:BATCH]), *batches]
    with pytest.warns(match="Layer 'hyper': It has other rows than there are labels in some batches"):
        found = measure(net, batches, layers=["**"], classifier="head")
    assert found.values["nc0/num_samples"] == 64
    assert "layer/within_share/hyper" not in found.values
    assert "layer/within_share/body" in found.values


def test_a_sequence_first_layer_inside_another_is_not_taken_over_time():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
            self.head = nn.Linear(8, C)

        def forward(self, x):
            return self.head(self.enc(x.expand(BATCH, -1, -1)).mean(0))

    net = seeded(Encoder).train()
    with pytest.raises(ValueError, match=r"Expected a pool for layer 'net\.enc\.linear1'"):
        run(net, layers=["net.enc.linear1"], classifier="net.head", epochs=1)


def test_token_ids_are_no_features():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.head = nn.Embedding(50, 8), nn.Linear(8, C)

        def forward(self, x):
            return self.head(self.emb((x[:, 0].abs() * 10).long().clamp(max=49)))

    with pytest.raises(ValueError, match=r"to be features, but it holds int64. Are these token ids"):
        run(seeded(Words), layers=["net.emb:in"])
    _, callback = run(seeded(Words), layers=["**:in"], epochs=1)
    assert not [key for key in callback.history if key.endswith("/net.emb.in")]


# Rows


def test_all_modules_keep_the_same_rows_of_a_batch():
    class Same(Net):
        def __init__(self):
            super().__init__()
            self.same = nn.Tanh()

        def forward(self, x):
            return self.head(self.same(self.body(x)))

    settings = {"classifier": "net.head", "max_rows_per_batch": 10, "epochs": 1}
    _, callback = run(seeded(Same), layers=["net.same", "net.head:in"], **settings)
    _, alone = run(seeded(Same), **settings)
    for key in alone.history:
        assert callback.history[key] == alone.history[key], key
        if key in ("nc1/cdnv/val", "nc1/cdnv/train_online"):
            for layer in ("net.same", "net.head.in"):
                assert last(callback, f"{key}/{layer}") == last(alone, key)


def test_a_layer_that_does_not_run_in_each_batch_is_told_of():
    class Seldom(Net):
        def __init__(self):
            super().__init__()
            self.aside, self.calls = nn.Linear(8, 6), 0

        def forward(self, x):
            self.calls += 1
            extra = self.aside(x) if self.calls % 3 == 2 else 0
            return self.head(self.body(x) + extra)

    with pytest.warns(match="Layer 'aside.in': It ran before 1 of 3 forwards"):
        found = measure(
            seeded(Seldom).eval(),
            loader(),
            layers=["aside:in"],
            measures=["default", "layer"],
            classifier="head",
        )
    assert found.values["layer/stable_rank/aside.in"] > 1
