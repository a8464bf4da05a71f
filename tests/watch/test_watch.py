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
from lightning_nc.watch.choice import Choice
from lightning_nc.watch.places import Places
from lightning_nc.watch.watch import Watch

ONLINE, VAL, TEST = stage_of("fit"), stage_of("validate"), stage_of("test")
FROZEN = stage_of("frozen")
X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


class Observed:
    """A network with hooks, and what is said of it."""

    def __init__(self, choice=None, num_classes=None, middle=None, **places):
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(6, 8), middle or nn.ReLU(), nn.Linear(8, 3))
        self.said, self.announced = {}, []
        self.watch = Watch(
            self.network, Places(**places), Multiclass(Settings(num_classes=num_classes)),
            self.said.__setitem__, self.announced.append, choice=choice,
        )  # fmt: skip

    def batch(self, stage, x=X, y=Y, forwards=1, **closes):
        self.watch.open((x, y), stage)
        for _ in range(forwards):
            self.network(x)
        self.watch.close(stage, **{"chooses": True, **closes})

    def lose(self, x=X, y=Y):
        """As far as the backward of a training batch."""
        self.watch.open((x, y), ONLINE)
        loss = nn.functional.cross_entropy(self.network(x), y)
        self.watch.note_loss(loss)
        loss.backward()

    def end(self, stage):
        return self.watch.end(stage, torch.device("cpu"), distributed=False, is_whole=True)

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
        "Neural collapse is measured at the input of '2', Linear(in_features=8, out_features=3, "
        "bias=True). Set `classifier` to choose another layer."
    ]
    assert seen.said == {}


def test_the_classifier_is_known_once_it_is_settled():
    seen = Observed()
    assert (seen.watch.num_classes, seen.watch.classifier_name, seen.watch.choice) == (None, None, None)
    seen.lose()
    assert (seen.watch.num_classes, seen.watch.classifier_name) == (None, None)
    seen.watch.settle()
    seen.watch.settle()
    assert (seen.watch.num_classes, seen.watch.classifier_name) == (3, "2")
    assert len(seen.announced) == 1
    seen.watch.close(ONLINE)
    assert (seen.watch.num_classes, seen.watch.classifier_name) == (None, "2")
    assert seen.watch.choice == Choice("2", rows=3, width=8)
    assert seen.count(ONLINE) == 24


def test_a_batch_that_must_not_choose_is_not_measured():
    seen = Observed()
    seen.watch.open((X, Y), VAL, may_choose=False)
    seen.network(X)
    seen.watch.close(VAL, chooses=True)
    assert (seen.watch.classifier_name, seen.count(VAL)) == (None, 0)
    seen.batch(VAL, chooses=False)  # nor does one in which nothing was settled
    assert (seen.watch.classifier_name, seen.count(VAL)) == (None, 0)
    seen.batch(VAL)
    seen.watch.open((X, Y), VAL, may_choose=False)
    seen.network(X)
    seen.watch.close(VAL)
    assert seen.count(VAL) == 48


def test_all_stages_and_later_runs_measure_what_was_chosen():
    made = Observed(choice=Choice("0", rows=8, width=6))
    made.batch(TEST)
    assert (made.watch.classifier_name, made.announced) == ("0", [])
    assert made.end(TEST).evidence[HEAD].head.weight.shape == (8, 6)


def test_a_classifier_that_is_not_certain_is_refused():
    seen = Observed(num_classes=5)
    seen.lose()
    with pytest.raises(ValueError, match="nothing that the loss applies last has num_classes = 5 rows"):
        seen.watch.settle()
    with pytest.raises(ValueError, match=r"no nn\.Linear ran that has num_classes = 5 rows"):
        seen.batch(VAL)
    assert seen.watch.classifier_name is None


def test_a_frozen_pass_in_which_the_classifier_does_not_run_is_refused():
    seen = Observed()
    seen.watch.open((X, Y), FROZEN)
    seen.network[:2](X)
    seen.watch.close(FROZEN)
    seen.lose()
    with pytest.raises(
        ValueError,
        match=r"classifier '2' to run in the frozen pass as in training, but there only '0' did\. Set "
        r"inference to a method that runs the whole network, such as 'predict_step'\.",
    ):
        seen.watch.settle()
    whole = Observed()
    whole.batch(FROZEN, chooses=False)
    whole.lose()
    whole.watch.settle()
    assert whole.watch.classifier_name == "2"


@pytest.mark.parametrize("classifier", ["2", None])
def test_a_step_is_noticed_and_the_classifier_is_the_one_before_it(classifier):
    seen = Observed(classifier=classifier)
    head = seen.network[2]
    met = head.weight.detach().clone()
    seen.lose()
    seen.watch.settle()
    assert not seen.watch.has_stepped
    torch.optim.SGD(head.parameters(), lr=1.0).step()
    # which cannot be told in the batch in which it was found
    assert seen.watch.has_stepped == (classifier is not None)
    seen.watch.close(ONLINE)
    assert not torch.equal(head.weight, met)
    assert torch.equal(seen.end(ONLINE).evidence[HEAD].head.weight, met)
    assert not seen.watch.has_stepped


@pytest.mark.parametrize("classifier", ["2", None])
def test_weights_that_are_swapped_after_the_forward_are_not_those_that_the_features_met(classifier):
    seen = Observed(classifier=classifier)
    seen.lose()
    met = seen.network[2].weight.detach().clone()
    seen.network[2].weight.data.copy_(torch.ones(3, 8))  # which its version does not tell
    seen.watch.settle()
    seen.watch.close(ONLINE)
    assert torch.equal(seen.end(ONLINE).evidence[HEAD].head.weight, met)
    for step in range(2):  # where weights rest, the first batch tells them
        nn.init.constant_(seen.network[2].weight, step)
        seen.batch(VAL)
    assert not seen.end(VAL).evidence[HEAD].head.weight.any()


def test_before_the_first_step_what_does_not_fit_is_raised_and_nothing_is_added():
    seen = Observed(classifier="2")
    seen.watch.open((X, Y[:5]), ONLINE, first=True)
    seen.network(X)
    with pytest.raises(ValueError, match="Expected one label per feature"):
        seen.watch.check(ONLINE)
    seen.watch.open((X, Y), ONLINE, first=True)
    seen.network(X)
    seen.watch.check(ONLINE)
    assert seen.count(ONLINE) == 0
    seen.watch.expect_anew()
    seen.watch.open((X, Y), ONLINE)
    with pytest.raises(RuntimeError, match="never fired"):
        seen.watch.check(ONLINE)


def test_an_output_that_is_not_linear_in_the_features_is_refused_in_each_stage_and_epoch():
    seen = Observed(classifier="2")
    seen.network[2].forward = lambda h: nn.functional.linear(h, 2 * seen.network[2].weight)
    for stage in (ONLINE, VAL):
        with pytest.raises(ValueError, match=r"classifier '2' to be W h \+ b, but they differ by"):
            seen.batch(stage)
        assert seen.count(stage) == 0
    del seen.network[2].forward
    seen.batch(ONLINE)
    seen.network[2].forward = lambda h: nn.functional.linear(h, 2 * seen.network[2].weight)
    seen.batch(ONLINE)  # looked at once in an epoch, which waits for the device
    seen.watch.reset(ONLINE)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"to be W h \+ b"):
            seen.batch(ONLINE)
    assert seen.count(ONLINE) == 0


SQUARE = torch.arange(16).reshape(4, 4) % 3


def test_tokens_whose_order_does_not_show_are_refused_unless_it_is_a_rehearsal():
    x = torch.randn(4, 4, 6)
    seen = Observed(classifier="2")
    with pytest.raises(
        ValueError, match=r"leading dimensions agree in their order, .* two of which are"
    ):
        seen.batch(VAL, x, SQUARE)
    seen.batch(VAL, x, SQUARE, is_rehearsal=True)
    with pytest.raises(ValueError, match="which differ"):
        seen.batch(VAL, torch.randn(5, 4, 6), torch.zeros(4, 5, dtype=torch.int64))
    seen.batch(ONLINE, torch.randn(4, 5, 6), torch.zeros(4, 5, dtype=torch.int64))
    seen.batch(VAL, x, SQUARE)
    told = Observed(classifier="2", target=1)
    told.batch(VAL, x, SQUARE)
    assert told.count(VAL) == 16


def test_labels_are_compared_with_the_inputs_in_the_first_batch_of_a_stage():
    seen, tokens = Observed(classifier="2"), (SQUARE, SQUARE.clone())
    for stage in (ONLINE, ONLINE, VAL):
        with pytest.raises(ValueError, match="labels that are not the inputs"):
            seen.watch.open(tokens, stage)
    seen.batch(ONLINE)
    seen.watch.open(tokens, ONLINE)
    shifted = Observed(classifier="2", target_shift=1)
    shifted.watch.open(tokens, ONLINE)


def test_a_batch_without_labels_is_left_alone_where_it_may_be():
    seen = Observed(classifier="2")
    with pytest.raises(ValueError, match="Expected labels as a tensor in the batch"):
        seen.watch.open(X, TEST)
    seen.watch.open(X, TEST, needs_labels=False)
    seen.network(X)
    seen.watch.close(TEST)
    assert seen.count(TEST) == 0
    assert not any(m._forward_hooks for m in seen.network.modules())


def test_dropout_right_before_the_classifier_is_said_where_weights_move():
    for stage, kinds in ((ONLINE, ["dropout"]), (VAL, [])):
        seen = Observed(classifier="2", middle=nn.Dropout(0.5))
        seen.watch.open((X, Y), stage, first=True)
        seen.network(X)
        seen.watch.close(stage)
        assert list(seen.said) == kinds


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
    seen.network(torch.zeros(24, 2, 2, 6))
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
    assert seen.watch.classifier_name == "2"
    seen.watch.abandon(VAL)
    with pytest.raises(RankFailed):
        seen.end(VAL)
    seen.watch.reset(VAL)
    assert seen.count(VAL) == 0


def test_a_stage_is_given_the_evidence_of_those_that_it_refers_to(monkeypatch):
    shifted = Stage("shifted", "test", references=("val",))
    monkeypatch.setattr(stages, "STAGES", [*stages.STAGES, shifted])
    monkeypatch.setattr("lightning_nc.watch.stages.STAGES", stages.STAGES)
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
