"""One network under observation, batch by batch, as a loop without a Trainer would use it."""

import pytest
import torch
from torch import nn

from lightning_nc.functional import values_of
from lightning_nc.tasks import Multiclass, Settings
from lightning_nc.values import HEAD, stage_of
from lightning_nc.values import stage as stages
from lightning_nc.values.errors import RankFailed
from lightning_nc.values.stage import Stage
from lightning_nc.watch.capture import Places
from lightning_nc.watch.watch import Watch

ONLINE, VAL, TEST = stage_of("fit"), stage_of("validate"), stage_of("test")
X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


class Observed:
    """A network with hooks, and what is said of it."""

    def __init__(self, **places):
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.said, self.announced = {}, []
        self.watch = Watch(
            self.network, Places(**places), Multiclass(Settings()), self.said.__setitem__,
            self.announced.append,
        )  # fmt: skip

    def batch(self, stage, x=X, y=Y, forwards=1, **closes):
        self.watch.open((x, y), stage)
        for _ in range(forwards):
            self.network(x)
        self.watch.close(stage, **closes)

    def end(self, stage):
        return self.watch.end(stage, torch.device("cpu"), distributed=False)

    def count(self, stage):
        outcomes = self.end(stage).outcomes
        return float(values_of(outcomes[HEAD])["nc0/num_samples"]) if outcomes else 0


def test_batches_add_up_to_their_stage_alone():
    seen = Observed()
    seen.batch(ONLINE)
    seen.batch(VAL, X[:10], Y[:10])
    seen.batch(ONLINE, X[:5], Y[:5])
    seen.batch(ONLINE, adds=False)
    assert (seen.count(ONLINE), seen.count(VAL), seen.count(TEST)) == (29, 10, 0)
    seen.watch.reset(ONLINE, TEST)
    assert (seen.count(ONLINE), seen.count(VAL)) == (0, 10)
    assert seen.announced == [
        "NeuralCollapseCallback measures the input of '2', Linear(in_features=8, out_features=3, "
        "bias=True). Set `classifier` to choose another layer."
    ]
    assert seen.said == {}


def test_the_classifier_that_runs_is_known_while_a_batch_is_open():
    seen = Observed()
    assert (seen.watch.num_classes, seen.watch.classifier_name) == (None, None)
    seen.watch.open((X, Y), ONLINE)
    seen.network(X)
    assert seen.watch.num_classes == 3
    seen.watch.close(ONLINE)
    assert (seen.watch.num_classes, seen.watch.classifier_name) == (None, "2")


def test_a_step_is_noticed_and_the_classifier_is_the_one_before_it():
    seen = Observed(classifier="2")
    head = seen.network[2]
    met = head.weight.detach().clone()
    seen.watch.open((X, Y), ONLINE)
    seen.network(X).logsumexp(1).sum().backward()
    assert not seen.watch.has_stepped
    seen.watch.ask(ONLINE)
    torch.optim.SGD(head.parameters(), lr=1.0).step()
    assert seen.watch.has_stepped
    seen.watch.close(ONLINE)
    assert not torch.equal(head.weight, met)
    assert torch.equal(seen.end(ONLINE).evidence[HEAD].head.weight, met)


def test_before_the_first_step_what_does_not_fit_is_raised_and_nothing_is_added():
    seen = Observed()
    seen.watch.open((X, Y[:5]), ONLINE, first=True)
    seen.network(X)
    with pytest.raises(ValueError, match="Expected one label per feature"):
        seen.watch.ask(ONLINE, first=True)
    assert seen.count(ONLINE) == 0


def test_a_network_that_never_runs_is_an_error_in_each_phase_of_a_run():
    seen = Observed(classifier="2")
    with pytest.raises(RuntimeError, match=r"forward of '2' .* never fired"):
        seen.batch(VAL, forwards=0)
    seen.batch(VAL, forwards=0, needs_a_forward=False)
    seen.batch(VAL)
    seen.batch(VAL, forwards=0)
    seen.watch.expect_anew()
    with pytest.raises(RuntimeError, match="never fired"):
        seen.batch(ONLINE, forwards=0)
    # there were labels, so that the loader is not to blame
    seen.watch.reset(TEST)
    seen.batch(TEST, forwards=0, needs_a_forward=False)
    assert "never fired" in seen.end(TEST).notices["empty", HEAD]


def test_what_goes_wrong_in_a_hook_is_raised_where_the_batch_is_closed():
    seen = Observed(classifier="2", layers=["1"])
    seen.watch.hold_errors()
    seen.watch.open((X, Y), ONLINE)
    seen.network(torch.zeros(24, 2, 6))
    with pytest.raises(ValueError, match="Expected a pool for layer '1'"):
        seen.watch.close(ONLINE)
    seen.batch(ONLINE)
    assert seen.count(ONLINE) == 24


def test_several_forwards_are_said_once_the_classifier_is_known():
    seen = Observed(classifier="2")
    seen.batch(ONLINE, forwards=3)
    assert "3 forwards of the classifier ran in one step" in seen.said["several forwards"]
    assert seen.count(ONLINE) == 24
    quiet = Observed(classifier="2", forwards="all")
    quiet.batch(ONLINE, forwards=3)
    assert (quiet.said, quiet.count(ONLINE)) == ({}, 72)


def test_an_abandoned_stage_has_no_values():
    seen = Observed()
    seen.batch(VAL)
    seen.watch.abandon(VAL)
    with pytest.raises(RankFailed):
        seen.end(VAL)
    seen.watch.reset(VAL)
    assert seen.count(VAL) == 0


def test_a_stage_is_given_the_evidence_of_those_that_it_refers_to(monkeypatch):
    shifted = Stage("shifted", "test", references=("val",))
    monkeypatch.setattr(stages, "STAGES", [*stages.STAGES, shifted])
    monkeypatch.setattr("lightning_nc.watch.watch.STAGES", stages.STAGES)
    seen = Observed()
    seen.batch(VAL, X[:10], Y[:10])
    seen.batch(shifted)
    before = seen.end(VAL).evidence[HEAD]
    told = seen.end(shifted).evidence[HEAD]
    assert list(told.references) == ["val"]
    assert told.references["val"] is before
    assert seen.end(VAL).evidence[HEAD].references == {}


def test_no_hook_is_left_behind():
    seen = Observed(layers=["0", "1"])
    seen.watch.open((X, Y), ONLINE)
    seen.watch.detach()
    seen.watch.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in seen.network.modules())
