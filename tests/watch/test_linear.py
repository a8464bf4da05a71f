"""Kinds of linear maps: W and b as each of them holds it, against what its own forward puts out."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_nc.watch.find_map import find_map
from lightning_nc.watch.linear import Adapter, LinearMap, Lone, Pointwise, Tied, Weighted

torch.manual_seed(0)


class OtherLinear(nn.Module):
    """Another package's, whose bias is added elsewhere where it has another shape."""

    def __init__(self, bias=(3,)):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6))
        self.bias = nn.Parameter(torch.randn(bias)) if bias else None

    def forward(self, h):
        return h @ self.weight.T + (0 if self.bias is None else self.bias)


class LowRank(nn.Module):
    """As peft's layers are made, in what is read of them."""

    def __init__(self, biased=False, active=("one", "two"), merged=False, disabled=False):
        super().__init__()
        self.base_layer = nn.Linear(6, 3)
        names = ("one", "two")
        self.lora_A = nn.ModuleDict({n: nn.Linear(6, 2, bias=False) for n in names})
        self.lora_B = nn.ModuleDict({n: nn.Linear(2, 3, bias=biased) for n in names})
        self.scaling = {"one": 0.5, "two": 2.0}
        self.active_adapters, self.merged, self.disable_adapters = list(active), merged, disabled

    def get_delta_weight(self, name):
        return self.lora_B[name].weight @ self.lora_A[name].weight * self.scaling[name]

    def forward(self, h):
        z = self.base_layer(h)
        if not self.merged and not self.disable_adapters:
            for name in self.active_adapters:
                z = z + self.lora_B[name](self.lora_A[name](h)) * self.scaling[name]
        return z


class HandsOn(nn.Module):
    """An adapter of another kind: its weight is that of the layer that it adapts."""

    def __init__(self):
        super().__init__()
        self.base_layer = nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.full((6,), 2.0))

    @property
    def weight(self):
        return self.base_layer.weight

    def forward(self, h):
        return self.base_layer(h * self.scale)


RUNS = {
    "nn.Linear": (nn.Linear(6, 3), LinearMap),
    "without bias": (nn.Linear(6, 3, bias=False), LinearMap),
    "parametrized": (weight_norm(nn.Linear(6, 3)), LinearMap),
    "another package's": (OtherLinear(), Weighted),
    "another package's, without bias": (OtherLinear(bias=()), Weighted),
    "adapted": (LowRank(), Adapter),
    "adapted, with biases": (LowRank(biased=True), Adapter),
    "one of two adapters": (LowRank(active=["two"]), Adapter),
    "merged": (LowRank(merged=True), Adapter),
    "adapters off": (LowRank(disabled=True), Adapter),
}
CONVOLUTIONS = {
    1: nn.Conv1d(6, 3, 1),
    2: nn.Conv2d(6, 3, 1, bias=False),
    3: nn.Conv3d(6, 3, (1, 1, 1), padding="same"),
}


def map_of(module):
    return find_map({"": nn.Identity(), "head": module}, "head")


@pytest.mark.parametrize("name", RUNS)
def test_what_is_read_of_a_map_is_what_it_applies(name):
    module, kind = RUNS[name]
    linear, h = map_of(module), torch.randn(5, 6)
    assert type(linear) is kind
    weight, bias = linear.read()
    assert (linear.rows, linear.width) == tuple(weight.shape) == (3, 6)
    torch.testing.assert_close(nn.functional.linear(h, weight, bias), module(h))
    own, _ = linear.copied()
    assert own.data_ptr() != weight.data_ptr()
    assert linear.has_forward
    assert linear.is_whole
    assert linear.is_trained


@pytest.mark.parametrize("dimensions", CONVOLUTIONS)
@pytest.mark.parametrize("batch", [(2,), ()])
def test_a_convolution_maps_each_position(dimensions, batch):
    module = CONVOLUTIONS[dimensions]
    linear, x = map_of(module), torch.randn(*batch, 6, *range(2, 2 + dimensions))
    assert type(linear) is Pointwise
    h, z = linear.channels_last(x), linear.channels_last(module(x))
    assert h.shape == (*batch, *range(2, 2 + dimensions), 6)
    torch.testing.assert_close(nn.functional.linear(h, *linear.read()), z)
    assert linear.is_batch_first


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            nn.Conv2d(6, 3, 3),
            r"Conv2d\. Kernel \(3, 3\), stride \(1, 1\), padding \(0, 0\), groups 1: it",
        ),
        (nn.Conv2d(6, 3, 1, stride=2), r"stride \(2, 2\), padding"),
        (nn.Conv2d(6, 3, 1, padding=1), r"padding \(1, 1\), groups"),
        (nn.Conv2d(6, 3, 1, groups=3), r"groups 3: it does not map each position by itself"),
        (nn.ConvTranspose2d(6, 3, 1), r"but it is a ConvTranspose2d\."),
        (HandsOn(), r"but it is a HandsOn\. Did you mean head\.base_layer\?"),
        (nn.LayerNorm(6), r"but it is a LayerNorm\."),
    ],
)
def test_what_is_no_map_of_single_rows_is_refused(module, text):
    with pytest.raises(ValueError, match=text):
        map_of(module)


def test_an_adapter_of_another_form_that_begins_as_a_low_rank_one_is_refused():
    module = LowRank()
    module.lora_variant = {"two": nn.Identity()}
    with pytest.raises(ValueError, match=r"its adapter 'two' is a Identity.* modules_to_save"):
        map_of(module)


def test_an_embedding_and_a_parameter_are_applied_as_functions():
    network = nn.Module()
    network.embedding = nn.Embedding(9, 4)
    network.register_buffer("etf", torch.randn(3, 4))
    network.head = nn.Parameter(torch.randn(4, 5))
    modules = dict(network.named_modules())
    tied, buffer, columns = (find_map(modules, p) for p in ("embedding", "etf", "head.T"))
    assert [type(each) for each in (tied, buffer, columns)] == [Tied, Lone, Lone]
    assert not any(each.has_forward for each in (tied, buffer, columns))
    assert [(m.rows, m.width) for m in (tied, buffer, columns)] == [(9, 4), (3, 4), (5, 4)]
    assert torch.equal(columns.read()[0], network.head.T)
    assert [m.is_trained for m in (tied, buffer, columns)] == [True, False, True]
    weight = find_map(modules, "embedding.weight.T")
    assert torch.equal(weight.read()[0], network.embedding.weight.T)


def test_the_version_of_a_map_changes_with_its_parts():
    for module in (nn.Linear(6, 3), nn.Conv1d(6, 3, 1), LowRank()):
        linear = map_of(module)
        before = linear.version
        assert linear.version == before
        with torch.no_grad():
            next(iter(module.parameters())).add_(1)
        assert linear.version != before


def test_the_copy_that_an_adapter_trains_is_the_one_in_use():
    wrapper = nn.Module()
    wrapper.original_module = nn.Linear(6, 3)
    wrapper.modules_to_save = nn.ModuleDict({"default": nn.Linear(6, 3)})
    wrapper.active_adapters, wrapper.disable_adapters = ["default"], False
    network = nn.ModuleDict({"head": wrapper})
    modules = dict(network.named_modules())
    assert find_map(modules, "head").name == "head.modules_to_save.default"
    wrapper.disable_adapters = True
    with pytest.raises(ValueError, match="to be a linear map"):
        find_map(modules, "head")


def test_a_parameter_that_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match=r"'bias' to be a two-dimensional parameter.* shape \(3,\)"):
        find_map({"": nn.Linear(6, 3)}, "bias")


def test_a_path_that_names_nothing_is_refused_with_what_is_near():
    modules = dict(nn.ModuleDict({"head": nn.Linear(6, 3)}).named_modules())
    with pytest.raises(ValueError, match=r"there is no 'hed'\. Did you mean 'head'"):
        find_map(modules, "hed")
    with pytest.raises(ValueError, match=r"no 'head\.wight'\. Did you mean 'head\.weight'"):
        find_map(modules, "head.wight")
