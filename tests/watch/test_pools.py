"""How outputs become rows, and which of their dimensions are the channels."""

import pytest
import torch
from support.watching import capture_of, opened, pooled_in_a_batch, with_head
from torch import nn

from lightning_nc.watch.layers import Layer
from lightning_nc.watch.paths import modules_by_path
from lightning_nc.watch.pools import POOLS, apply_pool, choose_pool, last_token, pooled, require_pool

CONV = nn.Conv2d(3, 4, 1)


def choice_of(module, shape, of_input=False, labels=(2,), path="m"):
    """What "auto" takes for an output of this shape, or an input; None where it refuses."""
    layer, modules = Layer(path, path, "auto", of_input), modules_by_path(nn.ModuleDict({"m": module}))
    try:
        return choose_pool(layer, modules, torch.zeros(shape), labels and torch.Size(labels))
    except ValueError:
        return None


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


@pytest.mark.parametrize("pool", [*POOLS, "auto"])
def test_rows_have_memory_of_their_own(pool):
    x, batch = torch.randn(2, 3, 4), {"attention_mask": torch.ones(2, 3)}
    before, modules = x.clone(), {"fc": nn.Linear(4, 4)}
    pooled(Layer("fc", "fc", pool), modules, x, batch, torch.Size([2])).zero_()
    pooled(Layer("fc", "fc", pool), modules, x.flatten(1), batch, torch.Size([2])).zero_()
    assert torch.equal(x, before)


def test_an_output_whose_layout_nothing_tells_is_refused():
    network = with_head(act=nn.ReLU())
    opened(capture_of(network, "head", layers=["act"]), (2,))
    text = r"a pool for layer 'act', a ReLU whose output has shape \(2, 3, 4, 4\): .* spatial_mean"
    with pytest.raises(ValueError, match=text):
        network["act"](torch.randn(2, 3, 4, 4))
    text = r"layer 'act\.in', a ReLU whose input has .*layers=\{'act:in': pool\}"
    with pytest.raises(ValueError, match=text):
        choose_pool(Layer("act.in", "act", "auto", True), {"act": nn.ReLU(), "": network},
                    torch.zeros(2, 3, 4, 5), None)  # fmt: skip


# Where the channels are


class LayerNorm2d(nn.LayerNorm):
    """Channels first, as in timm and torchvision."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class OwnLinear(nn.Linear):
    """Another name, and nothing else."""


class Scale(nn.Module):
    """A norm of one's own: nothing but a weight."""

    def __init__(self, width, name="weight"):
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.ones(width)))


class Parts(nn.Module):
    """What its parts do is not told."""

    def __init__(self, *parts, **named):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        for name, part in named.items():
            self.add_module(name, part)


CONVS = Parts(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
MIXED = Parts(nn.Conv2d(4, 4, 7), nn.LayerNorm(4), nn.Linear(4, 16), nn.Linear(16, 4))
TEXT = Parts(nn.LayerNorm(4), nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 4))
ATTENTION = Parts(nn.Linear(8, 24), nn.Linear(8, 8), drop=nn.Dropout(), norm=nn.Identity())


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        # a type that tells
        (nn.Conv2d(3, 8, 1), (2, 8, 8, 8), "spatial_mean"),
        (nn.Conv1d(3, 8, 1), (2, 8, 8), "spatial_mean"),
        (nn.GroupNorm(2, 8), (2, 8, 8), "spatial_mean"),
        (nn.MaxPool2d(2), (2, 5, 6, 7), "spatial_mean"),
        (nn.Linear(3, 8), (2, 8, 8), "token_mean"),
        (nn.Linear(3, 8), (2, 5, 6, 8), "token_mean"),
        (OwnLinear(3, 8), (2, 8, 8), "token_mean"),
        (nn.LayerNorm(8), (2, 8, 8), "token_mean"),
        (nn.RMSNorm(8), (2, 8, 8), "token_mean"),
        (nn.Embedding(3, 8), (2, 8, 8), "token_mean"),
        (nn.MultiheadAttention(8, 2, batch_first=True), (2, 8, 8), "token_mean"),
        (nn.LSTM(3, 4, bidirectional=True, batch_first=True), (2, 8, 8), "token_mean"),
        (nn.LSTM(3, 6, proj_size=4, batch_first=True), (2, 6, 4), "token_mean"),
        # one that may permute: by its width
        (LayerNorm2d(4), (2, 4, 6, 5), "spatial_mean"),
        (LayerNorm2d(4), (2, 5, 6, 4), "token_mean"),
        (LayerNorm2d(4), (2, 4, 6, 4), None),
        (LayerNorm2d(4), (2, 3, 6, 5), None),
        (LayerNorm2d(4), (2, 5, 4, 6), None),
        (nn.LayerNorm([4, 6, 5]), (2, 4, 6, 5), None),
        (Scale(4), (2, 7, 4), "token_mean"),
        (Scale(4), (2, 4, 4), None),
        (Scale(4), (2, 4, 6, 5), "spatial_mean"),
        (Scale(7), (2, 7, 4), None),  # over tokens, perhaps
        # what agrees inside
        (CONVS, (2, 8, 5, 6), "spatial_mean"),
        (CONVS, (2, 8, 8, 8), "spatial_mean"),
        (CONVS, (2, 16, 5, 6), "spatial_mean"),  # two branches, put side by side
        (CONVS, (2, 5, 6, 8), None),  # permuted
        (CONVS, (2, 16, 5, 8), None),
        (CONVS, (2, 30, 8), "token_mean"),  # patches
        (CONVS, (2, 8, 30), None),
        (Parts(nn.Conv1d(8, 8, 3)), (2, 8, 5), "spatial_mean"),
        (Parts(nn.Conv1d(8, 8, 3)), (2, 5, 8), None),  # transposed
        (Parts(nn.Conv1d(8, 8, 3)), (2, 8, 8), None),
        (TEXT, (2, 7, 4), "token_mean"),
        (TEXT, (2, 4, 4), "token_mean"),
        (TEXT, (2, 4, 7), None),
        (TEXT, (2, 4, 5, 5), None),
        # what does not
        (MIXED, (2, 4, 6, 5), "spatial_mean"),
        (MIXED, (2, 6, 5, 4), "token_mean"),
        (MIXED, (2, 4, 6, 4), None),
        (MIXED, (2, 6, 4, 5), None),
        (MIXED, (2, 9, 4), "token_mean"),  # its convolution is over images
        (Parts(nn.Conv1d(4, 8, 1), nn.Linear(5, 5)), (2, 8, 5), None),
        (Parts(nn.Conv1d(4, 8, 1), nn.LayerNorm(8)), (2, 8, 5), "spatial_mean"),
        (Parts(nn.Conv2d(4, 8, 1), nn.Linear(8, 1)), (2, 8, 1, 1), "spatial_mean"),
        (Parts(nn.Conv2d(4, 8, 1), nn.LayerNorm([8, 8, 8])), (2, 8, 8, 8), "spatial_mean"),
    ],
)  # fmt: skip
def test_types_and_widths_tell_where_the_channels_of_an_output_are(module, shape, expected):
    assert choice_of(module, shape) == expected


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Linear(3, 8), (2, 5, 3), "token_mean"),
        (nn.Conv2d(3, 8, 1), (2, 3, 5, 8), "spatial_mean"),
        (nn.LSTM(3, 4, batch_first=True), (2, 5, 3), "token_mean"),
        (CONVS, (2, 3, 5, 6), "spatial_mean"),
        (CONVS, (2, 9, 5, 3), None),
        (TEXT, (2, 7, 4), "token_mean"),
        (MIXED, (2, 4, 6, 5), "spatial_mean"),
        (Parts(nn.Flatten(), nn.Linear(8 * 5 * 6, 3)), (2, 8, 5, 6), None),
        (Parts(nn.AdaptiveAvgPool2d(1), nn.Linear(8, 3)), (2, 8, 5, 6), "spatial_mean"),
    ],
)
def test_they_tell_it_of_an_input(module, shape, expected):
    assert choice_of(module, shape, of_input=True) == expected


@pytest.mark.parametrize(
    ("network", "path", "shape", "expected"),
    [
        (CONVS, "m.parts.2", (2, 8, 5, 6), "spatial_mean"),
        (CONVS, "m.parts.2", (2, 3, 5, 6), "spatial_mean"),  # before the convolution
        (CONVS, "m.parts.2", (2, 9, 5, 6), None),
        (TEXT, "m.parts.2", (2, 7, 16), "token_mean"),
        (TEXT, "m.parts.2", (2, 7, 5), None),
        (MIXED, "m.parts", (2, 4, 6, 5), "spatial_mean"),
        # the nearest one that tells, not the whole
        (Parts(CONVS, nn.Linear(5, 6)), "m.parts.0.parts.2", (2, 8, 8, 8), "spatial_mean"),
        (
            Parts(CONVS, nn.Sequential(nn.ReLU(), nn.Dropout())),
            "m.parts.1.0",
            (2, 8, 5, 6),
            "spatial_mean",
        ),
        (ATTENTION, "m.drop", (2, 5, 8), "token_mean"),
        (ATTENTION, "m.drop", (2, 2, 5, 5), None),  # attention scores
        (ATTENTION, "m.drop", (2, 2, 5, 8), None),  # to eight tokens, or of eight channels
        (ATTENTION, "m.norm", (2, 2, 5, 4), None),  # the queries of two heads
        (nn.ReLU(), "m", (2, 7, 4), None),
    ],
)
def test_of_what_has_no_channels_the_nearest_module_around_it_tells(network, path, shape, expected):
    assert choice_of(network, shape, path=path) == expected


@pytest.mark.parametrize(
    ("module", "labels", "expected"),
    [
        (nn.LSTM(3, 4), (2,), "token_mean"),  # (B, T, d) all the same
        (nn.LSTM(3, 4), (7,), None),
        (nn.TransformerEncoderLayer(4, 1, 8), (7,), None),
        (nn.TransformerEncoderLayer(4, 1, 8, batch_first=True), (7,), "token_mean"),
        (nn.LSTM(3, 4), None, "token_mean"),
    ],
)
def test_a_sequence_that_comes_before_the_batch_is_refused(module, labels, expected):
    assert choice_of(module, (2, 7, 4), labels=labels) == expected


def test_maps_of_as_many_channels_as_rows_are_no_tokens():
    assert choice_of(nn.Conv2d(3, 4, 1), (2, 4, 4, 5), labels=(2, 4, 4)) == "spatial_mean"
    assert choice_of(nn.Linear(3, 5), (2, 4, 4, 5), labels=(2, 4, 4)) == "tokens"
    assert choice_of(nn.ReLU(), (2, 4, 5), labels=(2, 4)) == "tokens"


def pools_in_a_graph(rank, pools):
    network = with_head(layer=nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
    network.forward = lambda x: network["head"](network["layer"](x)[:, 0])
    network.compile(backend="eager", fullgraph=True)
    capture = opened(capture_of(network, "head", layers=pools), (2,))
    network(torch.randn(2, 7, 3))
    return {name: tuple(rows.shape) for name, rows in capture.batch.forwards[0].layers.items()}


def test_pools_are_a_part_of_a_compiled_graph(one_process):
    pools = {"layer": "auto", "layer.1": ["auto", "last", "support.training.take_middle"]}
    names = ("layer", "layer.1.auto", "layer.1.last", "layer.1.take_middle")
    assert one_process.run(pools_in_a_graph, pools) == [dict.fromkeys(names, (2, 2))]


# Pools that ask for the batch

X = torch.arange(24.0).reshape(2, 4, 3)


class Fields:
    """A batch with attributes."""

    def __init__(self, attention_mask):
        self.attention_mask = attention_mask


@pytest.mark.parametrize("batch_of", [Fields, lambda mask: {"attention_mask": mask}])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[1, 1, 1, 1], [1, 1, 1, 1]], (3, 3)),
        ([[1, 1, 0, 0], [1, 1, 1, 0]], (1, 2)),
        ([[0, 0, 1, 1], [0, 1, 1, 1]], (3, 3)),
        ([[0, 1, 0, 1], [1, 0, 0, 0]], (3, 0)),
        ([[0, 1, 1, 0], [0, 0, 0, 0]], (2, 0)),  # nothing is marked: the first
    ],
)
def test_the_last_token_is_the_last_that_the_mask_marks(batch_of, dtype, mask, expected):
    rows = apply_pool("last_token", X, batch_of(torch.tensor(mask, dtype=dtype)))
    assert torch.equal(rows, X[torch.arange(2), list(expected)])


def test_the_last_token_does_not_wait_for_the_device():
    mask = torch.ones(2, 4, dtype=torch.int64, device="meta")  # has no values to wait for
    assert last_token(X.to("meta"), {"attention_mask": mask}).shape == (2, 3)


@pytest.mark.parametrize(
    ("x", "batch", "text"),
    [
        (
            X,
            {"input_ids": X},
            r"an attention_mask in the batch, .* but got a dict without\. Set pool='last'",
        ),
        (
            X,
            [X, X],
            r"but got a list without\. Set pool='last' where nothing is padded, or the dotted path",
        ),
        (X, {"attention_mask": None}, r"but got a dict without"),
        (X, Fields(torch.ones(2, 5)), r"of shape \(B, T\) .*, but got \(2, 4, 3\) and \(2, 5\)"),
        (X, Fields(torch.ones(8)), r"but got \(2, 4, 3\) and \(8,\)"),
        (X[..., None], Fields(torch.ones(2, 4)), r"but got \(2, 4, 3, 1\) and \(2, 4\)"),
    ],
)
def test_the_last_token_of_an_unknown_mask_is_refused(x, batch, text):
    with pytest.raises(ValueError, match=f"Expected .*{text}"):
        apply_pool("last_token", x, batch)


def weighted(x, batch):
    return torch.einsum("btd,bt->bd", x, batch["weights"])


def middle(x, at=None, *rest, scale=1):
    return x[:, x.shape[1] // 2 if at is None else at] * scale


def three(x, batch, more):
    return x


def test_a_dotted_function_has_the_batch_where_it_asks_for_it():
    weights, modules = torch.rand(2, 4), {"m": nn.ReLU()}
    layer = Layer("m", "m", f"{__name__}.weighted")
    rows = pooled(layer, modules, X, {"weights": weights}, torch.Size([2]))
    torch.testing.assert_close(rows, (X * weights[..., None]).sum(1))
    assert torch.equal(apply_pool(f"{__name__}.middle", X, {}), X[:, 2])
    assert torch.equal(apply_pool("torch.squeeze", X, {}), X)  # of which no signature is known
    with pytest.raises(
        ValueError, match=r"of \(x\) or \(x, batch\), but '.*three' takes \(x, batch, more\)"
    ):
        require_pool(f"{__name__}.three")


def test_a_dotted_function_is_imported_once(monkeypatch):
    require_pool(f"{__name__}.middle")
    monkeypatch.setattr("lightning_nc.watch.pools.import_function", None)
    assert torch.equal(apply_pool(f"{__name__}.middle", X, {}), X[:, 2])
