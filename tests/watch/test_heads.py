"""The last linear map: found, and read without a trace."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from lightning_nc.watch.heads import find_heads, is_trained, is_whole, read, weight_version

MODULES = {"": nn.Identity(), "a": nn.Linear(3, 4), "act": nn.ReLU(), "b": nn.Linear(4, 2)}


def test_without_a_name_every_linear_layer_may_be_the_classifier():
    assert find_heads(MODULES, None) == {name: MODULES[name] for name in ("a", "b")}
    assert find_heads(MODULES, "a") == {"a": MODULES["a"]}


def test_a_module_that_is_not_linear_is_refused_with_the_last_one_inside():
    modules = {"neck": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))}
    with pytest.raises(ValueError, match=r"it is a Sequential\. Did you mean neck\.1\?"):
        find_heads(modules, "neck")
    with pytest.raises(ValueError, match=r"but it is a ReLU\.$"):
        find_heads(MODULES, "act")
    with pytest.raises(ValueError, match="as classifier, but there is none"):
        find_heads({"act": nn.ReLU()}, None)


def test_a_weight_is_whole_unless_a_rank_keeps_a_share_of_it():
    head = nn.Linear(4, 3)
    assert is_whole(head)
    assert is_whole(weight_norm(nn.Linear(4, 3)))
    flat = nn.Linear(4, 3)
    flat.weight = nn.Parameter(torch.zeros(5))
    assert not is_whole(flat)
    del head.weight
    assert not is_whole(head)


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
    with torch.inference_mode():
        assert weight_version(nn.Linear(4, 3)) is None


def test_a_module_is_trained_if_any_of_its_parameters_is():
    head = nn.Linear(4, 3)
    head.weight.requires_grad_(False)
    assert is_trained(head)
    head.bias.requires_grad_(False)
    assert not is_trained(head)
