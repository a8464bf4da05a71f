"""The last linear map: found, and read without a trace."""

import pytest
import torch
from support.watching import Holds
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from lightning_nc.watch.heads import (
    first_rows,
    gap,
    is_whole,
    largest_gap,
    makes_weight,
    matrices,
    read,
    weight_version,
)


def tied():
    network = nn.ModuleDict({"embedding": nn.Embedding(9, 4), "head": nn.Linear(4, 9)})
    network["head"].weight = network["embedding"].weight
    return network


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Linear(3, 4), {"weight": (4,)}),
        (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm((4, 4))), {"0.weight": (4,)}),
        (
            nn.Sequential(nn.Embedding(9, 3), nn.EmbeddingBag(8, 3)),
            {"0.weight": (9,), "1.weight": (8,)},
        ),
        (nn.Sequential(nn.Conv1d(3, 4, 2), nn.Bilinear(3, 4, 5)), {"0.weight": (4,), "1.weight": (5,)}),
        # which of its sides are classes is not told
        (nn.Sequential(Holds(3, 4), Holds(5)), {"0.values": (3, 4)}),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 1)), {"0.weight": (3, 4)}),
        # what never ends a network
        (nn.Sequential(nn.LSTM(3, 4), nn.GRUCell(3, 4), nn.MultiheadAttention(4, 2)), {}),
        (tied(), {"embedding.weight": (9,)}),
        (nn.Sequential(nn.LazyLinear(3)), {}),
        (torch.compile(nn.Sequential(nn.Linear(3, 4)), backend="eager"), {"0.weight": (4,)}),
    ],
)
def test_matrices_that_could_be_the_classifiers_are_listed_once(network, expected):
    assert {m.name: m.sides for m in matrices(dict(network.named_modules()))} == expected


def test_a_kernel_of_several_pixels_is_not_pointwise():
    modules = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, (1, 2)))
    found = matrices(dict(modules.named_modules()))
    assert [m.is_pointwise for m in found] == [True, True, False]


def parts_of(head):
    return {name for name, p in head.named_parameters() if any(p is w for w in makes_weight(head))}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_a_weight_that_is_computed_is_known_by_its_parts():
    assert parts_of(nn.Linear(4, 3)) == {"weight"}
    new, old = weight_norm(nn.Linear(4, 3)), nn.utils.weight_norm(nn.Linear(4, 3))
    made_of = {"parametrizations.weight.original0", "parametrizations.weight.original1"}
    assert parts_of(new) == made_of
    assert parts_of(old) == {"weight_g", "weight_v"}
    # whose owner is the layer that they make up
    found = matrices(dict(nn.ModuleDict({"head": new}).named_modules()))
    assert {m.name: (m.owner, m.module is new, m.sides) for m in found} == {
        f"head.{name}": ("head", True, (rows,))
        for name, rows in zip(sorted(made_of), (3, 3), strict=True)
    }


H = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))


def shares(z, head, h=H):
    return float(gap(first_rows(h), head.weight, head.bias, first_rows(z)))


def test_the_gap_is_the_largest_difference_in_shares_of_the_terms():
    weight, bias = torch.tensor([[1.0, -2.0]]), torch.tensor([1.0])
    h = torch.tensor([[1.0, 1.0], [3.0, 0.0]])  # terms 1 + 2 + 1 and 3 + 1, logits 0 and 4
    assert float(gap(h, weight, bias, torch.tensor([[1.0], [4.0]]))) == pytest.approx(1 / 4)
    assert float(gap(h, weight, None, torch.tensor([[-1.0], [2.0]]))) == pytest.approx(1 / 3)
    assert float(gap(torch.zeros(1, 2), weight, None, torch.zeros(1, 1))) == 0
    assert float(gap(torch.zeros(0, 2), weight, None, torch.zeros(0, 1))) == 0


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("bias", [True, False])
def test_rounding_makes_no_gap_to_speak_of(scale, bias):
    torch.manual_seed(0)
    head = nn.Linear(16, 5, bias=bias)
    exact = largest_gap(torch.float32, H.device)
    assert exact == 64 * torch.finfo(torch.float32).eps
    assert shares(head(scale * H), head, scale * H) < exact / 8
    with torch.autocast("cpu", torch.bfloat16):
        z = head(scale * H)
    assert exact < shares(z, head, scale * H) < largest_gap(z.dtype, H.device)
    assert largest_gap(z.dtype, H.device) == 4 * 2**-7


def test_where_products_may_be_coarse_so_may_the_gap(restored_precision):
    torch.set_float32_matmul_precision("medium")
    assert largest_gap(torch.float32, H.device) == largest_gap(torch.bfloat16, H.device)
    assert largest_gap(torch.float64, H.device) == 64 * torch.finfo(torch.float32).eps


def quantized(head, h):
    scale = float(head.weight.detach().abs().max()) / 127
    weight = torch.fake_quantize_per_tensor_affine(head.weight, scale, 0, -128, 127)
    return nn.functional.linear(h, weight, head.bias)


def cosine(head, h):
    return nn.functional.linear(nn.functional.normalize(h), nn.functional.normalize(head.weight))


def margin(head, h):
    z = head(h)
    return z - 0.1 * nn.functional.one_hot(z.argmax(1), z.shape[1])


def scaled(head, h):
    return 1.01 * head(h)


@pytest.mark.parametrize("other", [quantized, cosine, margin, scaled])
def test_a_head_of_another_kind_shows_a_gap(other):
    torch.manual_seed(0)
    head = nn.Linear(16, 5)
    assert shares(other(head, H), head) > 10 * largest_gap(torch.float32, H.device)


def test_a_weight_is_whole_unless_a_rank_keeps_a_share_of_it():
    head = nn.Linear(4, 3)
    assert is_whole(head)
    assert is_whole(weight_norm(nn.Linear(4, 3)))
    flat = nn.Linear(4, 3)
    flat.weight = nn.Parameter(torch.zeros(5))
    assert not is_whole(flat)
    del head.weight
    assert not is_whole(head)
    assert is_whole(nn.LazyLinear(3))


def test_reading_a_weight_does_not_change_it():
    head = spectral_norm(nn.Linear(96, 64)).train()  # too large for the iteration to have ended
    parts = head.parametrizations
    before = {name: value.clone() for name, value in head.state_dict().items()}
    weight, bias = read(head)
    assert bias is head.bias
    assert not weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    assert all(part.training for part in parts.modules())
    head.weight  # noqa: B018 - in train mode, this takes another step of the power iteration
    assert not all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    plain = nn.Linear(2, 2)
    assert read(plain)[0] is plain.weight


def test_a_version_changes_with_each_step():
    head = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    before = weight_version(head)
    assert weight_version(head) == before
    head(torch.ones(2, 4)).sum().backward()
    assert weight_version(head) == before
    optimizer.step()
    assert weight_version(head) != before
    assert weight_version(weight_norm(nn.Linear(4, 3))) is None
    assert weight_version(nn.LazyLinear(3)) is None
    with torch.inference_mode():
        assert weight_version(nn.Linear(4, 3)) is None
