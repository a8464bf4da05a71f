"""Modules whose own train() or eval() does more than set modes."""

from contextlib import suppress

import pytest
import torch
from torch import nn

from lightning_nc.run.frozen_loader import ALTERNATIVE
from lightning_nc.unchanged import eval_mode


class Merged(nn.Linear):
    """LoRA in the style of loralib: merged at eval, taken apart at train."""

    def __init__(self, merges=True):
        super().__init__(4, 3)
        self.lora_A = nn.Parameter(torch.randn(2, 4))
        self.lora_B = nn.Parameter(torch.zeros(3, 2))
        self.merges, self.merged = merges, False

    def train(self, mode=True):
        super().train(mode)
        if self.merges and self.merged is mode:
            sign = -1 if mode else 1
            self.weight.data += sign * self.lora_B.data @ self.lora_A.data
            self.merged = not mode
        return self


class Replaced(nn.Linear):
    """Takes another parameter at eval, and notes it."""

    def __init__(self):
        super().__init__(4, 3)

    def train(self, mode=True):
        if not mode:
            self.weight = nn.Parameter(self.weight.detach() + 1)
            self.is_folded = True
        return super().train(mode)


class Elsewhere(nn.Linear):
    """Puts other memory below its parameter."""

    def __init__(self):
        super().__init__(4, 3)

    def train(self, mode=True):
        if not mode:
            self.weight.data = self.weight.data + 1
        return super().train(mode)


def state_of(network):
    """Each parameter, where it is in memory, what it holds, and what the modules say of themselves."""
    places = [(name, p, p.data_ptr(), p.detach().clone()) for name, p in network.named_parameters()]
    plain = [{k: v for k, v in vars(m).items() if isinstance(v, bool | int)} for m in network.modules()]
    return places, plain


def assert_as_before(network, before):
    places, plain = state_of(network)
    assert plain == before[1]
    for now, then in zip(places, before[0], strict=True):
        assert now[:1] + now[2:3] == then[:1] + then[2:3]
        assert now[1] is then[1]
        assert torch.equal(now[3].view(torch.int32), then[3].view(torch.int32))


@pytest.mark.parametrize("kind", [Merged, Replaced, Elsewhere])
def test_weights_that_change_at_eval_are_put_back_and_refused(kind):
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(), kind()), nn.Linear(3, 3))
    network.train()
    if kind is Merged:
        nn.init.normal_(network[1][1].lora_B)
    before = state_of(network)
    text = (
        r"Expected the weights to stay .* in eval mode, but the eval\(\) of "
        rf"{kind.__name__} '1.1' has changed the parameter '1.1.weight'.*merge_weights=False.*val_1"
    )
    with pytest.raises(ValueError, match=text), eval_mode(network, ALTERNATIVE):
        raise AssertionError("never here")
    assert_as_before(network, before)


@pytest.mark.parametrize("merges", [True, False])
def test_weights_that_nothing_is_merged_into_are_no_reason_to_refuse(merges):
    network = nn.Sequential(Merged(merges), nn.BatchNorm1d(3))
    if not merges:
        nn.init.normal_(network[0].lora_B)
    with torch.no_grad():  # a run that has diverged
        network[0].weight[0, 0] = torch.nan
    before = state_of(network)
    with eval_mode(network, ALTERNATIVE):
        assert network[0].merged is merges
        assert not network[0].training
    assert_as_before(network, before)


@pytest.mark.parametrize("fails", [False, True])
def test_plain_attributes_are_put_back(fails):
    class Counts(nn.Linear):
        calls, last = 0, None

        def train(self, mode=True):
            self.calls += 1
            self.last = mode
            return super().train(mode)

    network = nn.Sequential(Counts(4, 3))
    network[0].calls = 5
    before = dict(vars(network[0]))
    try:
        with eval_mode(network, ALTERNATIVE):
            assert network[0].calls == 6
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert vars(network[0]) == before


class Fuses(nn.Sequential):
    """Takes its first layer out at eval, and holds another one; a note becomes None, a list stays."""

    def __init__(self):
        super().__init__(nn.Linear(4, 4), nn.Linear(4, 3))
        self.note, self.size, self.steps = torch.ones(2), 2, []

    def train(self, mode=True):
        if not mode:
            del self[0]
            self.fused = nn.Parameter(torch.zeros(3))
            self.note, self.size = None, 0
        self.steps.append(mode)
        return super().train(mode)


def test_parts_and_attributes_that_eval_takes_out_are_there_again_in_their_order():
    network = nn.Sequential(Fuses())
    before, attributes = list(network.named_parameters()), dict(vars(network[0]))
    with eval_mode(network, ALTERNATIVE):
        assert network[0].note is None
        network[0].note, network[0].size = torch.ones(3), 3
    assert [name for name, _ in network.named_parameters()] == [name for name, _ in before]
    assert all(p is q for p, (_, q) in zip(network.parameters(), before, strict=True))
    assert vars(network[0]) == attributes
    assert network[0].note is attributes["note"]
    assert network[0].steps == [False, True]  # its own train() was called as well


class Notes(nn.Sequential):
    """Has a train of its own, which does nothing."""

    def train(self, mode=True):
        return super().train(mode)


@pytest.mark.filterwarnings("ignore")  # scripting, which torch is about to give up
def test_parts_that_are_lazy_or_scripted_go_on():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    network = Notes(scripted, nn.LazyLinear(3))
    with eval_mode(network, ALTERNATIVE):
        assert not any(m.training for m in network.modules())
        network(torch.randn(2, 4))
    assert all(m.training for m in network.modules())
    assert (network[1].in_features, type(network[1])) == (4, nn.Linear)
    assert network(torch.randn(2, 4)).shape == (2, 3)


class FreezesStages(nn.Sequential):
    """As backbones of detectors do whenever modes are set; somebody has made them trainable since."""

    def train(self, mode=True):
        self[0].requires_grad_(False)
        return super().train(mode)


def test_what_requires_a_gradient_still_does():
    network = nn.Sequential(FreezesStages(nn.Linear(4, 4)), nn.Linear(4, 3).requires_grad_(False))
    before = [p.requires_grad for p in network.parameters()]
    assert before == [True, True, False, False]
    with eval_mode(network, ALTERNATIVE):
        pass
    assert [p.requires_grad for p in network.parameters()] == before


@pytest.mark.parametrize("fails", [False, True])
def test_a_train_that_changes_weights_is_no_reason_to_refuse(fails):
    class Noisy(nn.Linear):
        def train(self, mode=True):
            if mode:
                self.weight.data[0] += 1
                self.weight.data = self.weight.data.double()
                if fails:
                    raise RuntimeError("on purpose")
            return super().train(mode)

    network = nn.Sequential(nn.Dropout(), Noisy(4, 3))
    before = state_of(network)
    with suppress(RuntimeError), eval_mode(network, ALTERNATIVE):
        assert not network[1].training
    assert_as_before(network, before)
    assert all(m.training for m in network)


def test_nothing_is_called_or_put_back_where_all_are_in_eval_mode_already():
    network = Fuses().eval()
    with eval_mode(network, ALTERNATIVE):
        network.note = torch.ones(3)  # a cache that is good as long as the mode stays
    assert network.steps == [False]
    assert len(network.note) == 3


def test_an_eval_that_fails_leaves_modes_and_weights_as_they_were():
    class Breaks(Merged):
        def train(self, mode=True):
            super().train(mode)
            raise RuntimeError("on purpose")

    network = nn.Sequential(nn.Dropout(), Breaks(), nn.Dropout().eval())
    nn.init.normal_(network[1].lora_B)
    before = state_of(network)
    with pytest.raises(RuntimeError, match="on purpose"), eval_mode(network, ALTERNATIVE):
        raise AssertionError("never here")
    assert_as_before(network, before)
    assert [m.training for m in network] == [True, True, False]


def test_a_train_that_keeps_batch_norm_frozen_is_as_it_was():
    class KeepsFrozen(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[1].eval()
            return self

    network = KeepsFrozen(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    with eval_mode(network, ALTERNATIVE):
        assert not any(m.training for m in network.modules())
    assert [m.training for m in network.modules()] == [True, True, False]
