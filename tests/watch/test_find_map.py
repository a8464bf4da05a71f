"""Which linear map a path names."""

import pytest
from torch import nn

from lightning_nc.watch.find_map import find_maps

MODULES = {"": nn.Identity(), "a": nn.Linear(3, 4), "act": nn.ReLU(), "b": nn.Linear(4, 2)}


def test_without_a_name_every_linear_layer_may_be_the_classifier():
    assert {n: m.module for n, m in find_maps(MODULES, None).items()} == {n: MODULES[n] for n in "ab"}
    assert find_maps(MODULES, "a")["a"].module is MODULES["a"]


class Adapted(nn.Module):
    """As peft wraps a layer."""

    def __init__(self):
        super().__init__()
        self.base_layer, self.down, self.up = nn.Linear(4, 3), nn.Linear(4, 2), nn.Linear(2, 3)


class NoisyLinear(nn.Module):
    """Another package's."""


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (nn.ReLU(), r"but it is a ReLU\. Of a head"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), r"it is a Sequential\. Did you mean m\.0\?"),
        (nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)), r"a Sequential\. Did you mean m\.1\?"),
        # none of several of one size is more likely than the others
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), r"Sequential\. Inside there are '0', '1'\."),
        (Adapted(), r"sum of 'base_layer', 'down', 'up': an adapter, .* \(peft: modules_to_save\)"),
        (NoisyLinear(), r", but it is a [\w.]*test_find_map\.NoisyLinear\."),
    ],
)
def test_a_module_that_is_not_linear_is_refused_with_what_is_inside(module, text):
    with pytest.raises(ValueError, match=f"Expected classifier='m' to be a linear map .*{text}"):
        find_maps({"m": module}, "m")


def test_a_network_without_a_linear_layer_has_no_head():
    text = r"as classifier, but there is none\. .* Any linear map or parameter can be named"
    with pytest.raises(ValueError, match=text):
        find_maps({"act": nn.ReLU()}, None)
