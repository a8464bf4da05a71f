"""One call without a Trainer: exact, the same as the callback's, and nothing of the network changes."""

import copy
import math
import random
import sys
import warnings
from contextlib import nullcontext, suppress
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from support.problems import assert_measures
from support.training import BATCH, NUM_CLASSES, ROWS, Network, digits, trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from lightning_nc import ClassStatistics, FeatureSample, LinearClassifier, NeuralCollapseCallback
from lightning_nc.functional import (
    ClassEvidence,
    count_decisions,
    evaluate,
    select,
    values_of,
)
from lightning_nc.measure import measure


def network(width=12):
    torch.manual_seed(3)
    body = nn.Sequential(nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.5))
    return nn.ModuleDict(
        {"body": body, "neck": nn.Linear(24, width), "fc": nn.Linear(width, NUM_CLASSES)}
    )


class Net(nn.Module):
    """No Lightning: BatchNorm, dropout, a neck and a head."""

    def __init__(self):
        super().__init__()
        self.parts = network()

    def forward(self, x):
        return self.parts["fc"](self.parts["neck"](self.parts["body"](x)).relu())


def trained():
    net = Net()
    steps = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        for x, y in DataLoader(digits(), BATCH):
            steps.zero_grad()
            cross_entropy(net(x), y).backward()
            steps.step()
    return net


@pytest.fixture(scope="module")
def net():
    return trained()


def loader(rows=96, **settings):
    return DataLoader(digits(ROWS, rows), BATCH, **settings)


def gathered(net, name, batches, of_output=False):
    """What a hook of one's own sees of a module in eval mode, in float64, and labels and decisions."""
    rows, labels, predicted = [], [], []

    def keep(module, args, output):
        rows.append((output if of_output else args[0]).detach().double())

    copied = copy.deepcopy(net).eval()
    handle = copied.get_submodule(name).register_forward_hook(keep)
    for x, y in batches:
        with torch.no_grad():
            predicted.append(copied(x).argmax(1))
        labels.append(y)
    handle.remove()
    return torch.cat(rows), torch.cat(labels), torch.cat(predicted)


def evaluated(h, y, predicted, head=None, names=("default",)):
    statistics = ClassStatistics.from_batch(h, y, NUM_CLASSES)
    sample = FeatureSample(h, y, predicted, len(y))
    n = torch.tensor(len(y))
    correct = (predicted == y).sum()
    decisions = count_decisions(sample, statistics, stands_for=n, predicted=n, correct=correct)
    classifier = None if head is None else LinearClassifier(head.weight.double(), head.bias.double())
    evidence = ClassEvidence.of(statistics, classifier, decisions)
    return {k: float(v) for k, v in values_of(evaluate(select(names), evidence)).items()}


# Exact


@pytest.mark.filterwarnings("ignore:.*(imbalance|mse)/")  # balanced classes, no penalty
def test_the_values_are_those_of_features_that_a_hook_of_ones_own_has_gathered(net):
    counted = {"recalls", "probe_decisions"}  # of the sample, which there is none of here
    names = [line.key for line in select(["*"]) if not counted & set(line.needs)]
    measurement = measure(net, loader(), measures=names, layers=["parts.neck"], covariance="pooled")
    head = evaluated(*gathered(net, "parts.fc", loader()), net.parts["fc"], names=names)
    assert_measures(measurement.by_layer[""], head, relative=1e-6, absolute=1e-8)
    neck = evaluated(*gathered(net, "parts.neck", loader(), of_output=True), names=names)
    neck = {key: value for key, value in neck.items() if not key.startswith("nc0/")}
    assert_measures(measurement.by_layer["parts.neck"], neck, relative=1e-6, absolute=1e-8)


def test_what_the_values_rest_on_is_there_too(net):
    measurement = measure(net, loader(), layers=["parts.neck"])
    h, y, _ = gathered(net, "parts.fc", loader())
    expected = ClassStatistics.from_batch(h, y, NUM_CLASSES)
    torch.testing.assert_close(measurement.statistics.means, expected.means)
    torch.testing.assert_close(measurement.statistics.counts, expected.counts)
    assert list(measurement.layers) == ["parts.neck"]
    assert measurement.layers["parts.neck"].num_features == 12
    assert measurement.classifier_name == "parts.fc"
    torch.testing.assert_close(measurement.classifier.weight, net.parts["fc"].weight.detach())
    assert all(type(value) is float for value in measurement.values.values())


def test_the_values_are_those_of_the_callback_in_a_validation():
    module = Network()
    run = trainer([NeuralCollapseCallback(layers=["hidden", "norm"])], max_epochs=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*this may be a bottleneck.*")
        run.fit(module, DataLoader(digits(), BATCH), loader())
        again = trainer([NeuralCollapseCallback(layers=["hidden", "norm"])])
        [logged] = again.validate(module, loader(), verbose=False)
    measurement = measure(module, loader(), layers=["hidden", "norm"])
    by_key = {
        "/".join([measure, "val", layer]).rstrip("/"): value
        for layer, values in measurement.by_layer.items()
        for measure, value in values.items()
    }
    assert_measures(by_key, logged, relative=1e-6, absolute=1e-8)


def test_a_list_a_generator_and_a_data_loader_are_the_same(net):
    batches = list(loader())
    expected = measure(net, loader()).values
    assert measure(net, batches).values == expected
    assert measure(net, (batch for batch in batches)).values == expected


def test_some_measures_and_no_others(net):
    assert set(measure(net, loader(), measures="nc4/*").values) == {
        "nc4/ncc_mismatch",
        "nc4/ncc_accuracy",
    }


# Nothing changes


def traces(net):
    """All of a network that a pass could leave something in."""
    modules = list(net.modules())
    hooks = [
        list(hooks)
        for m in modules
        for name, hooks in vars(m).items()
        if "hooks" in name and hooks is not None
    ]
    return (
        {name: (t.clone(), t._version) for name, t in net.state_dict(keep_vars=True).items()},
        {name: p.requires_grad for name, p in net.named_parameters()},
        {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()},
        [m.training for m in modules],
        [set(vars(m)) for m in modules],
        hooks,
    )


def assert_same_traces(net, before):
    now = traces(net)
    for (a, version), (b, other) in zip(now[0].values(), before[0].values(), strict=True):
        assert torch.equal(a, b)
        assert version == other
    for a, b in zip(now[2].values(), before[2].values(), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert (now[1], *now[3:]) == (before[1], *before[3:])


def mixed_modes():
    """In training mode, with a frozen BatchNorm, a parameter without gradient and a hook of its own."""
    net = trained().train()
    net.parts["body"][1].eval()
    net.parts["neck"].bias.requires_grad_(False)
    net.parts["fc"].register_forward_hook(lambda *_: None)
    return net


@pytest.mark.parametrize("classifier", [None, "parts.fc"])
def test_nothing_of_the_network_changes(classifier):
    net = mixed_modes()
    before = traces(net)
    seen = []
    net.parts["fc"].register_forward_hook(lambda *_: seen.append([m.training for m in net.modules()]))
    before[-1][:] = traces(net)[-1]
    measure(net, loader(), classifier, layers=["parts.neck"])
    assert seen
    assert not any(chain(*seen))  # in eval mode while it ran
    assert_same_traces(net, before)


class Caches(nn.Module):
    """Keeps what it has computed in eval mode, until it is trained again; weights may be NaN."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([0.5, math.nan]))
        self.kept, self.calls = None, []

    def train(self, mode=True):
        self.calls.append(mode)
        if mode:
            self.kept = None
        return super().train(mode)

    def forward(self, x):
        if not self.training and self.kept is None:
            self.kept = self.bias.detach().clone()
        return x + (self.bias if self.training else self.kept)[0]


@pytest.mark.parametrize("is_training", [True, False])
def test_what_a_network_does_in_its_own_eval_is_taken_back_by_its_own_train(is_training):
    net = trained()
    net.parts["body"].append(nn.Sequential(Caches(), nn.Sequential(Caches())))
    caches = [m for m in net.modules() if isinstance(m, Caches)]
    net.train(is_training)
    for cache in caches:
        cache.calls.clear()
    measure(net, loader(), "parts.fc")
    assert [m.calls for m in caches] == 2 * [[False, True] if is_training else []]
    assert [m.kept is None for m in caches] == 2 * [is_training]
    assert all(m.training == is_training for m in net.modules())


class FlipsAtTrain(nn.Linear):
    """Turns its rows around whenever it is to be trained, and freezes a bias."""

    def train(self, mode=True):
        if mode:
            self.weight.data = self.weight.data.flip(0)
            self.bias.requires_grad_(False)
        return super().train(mode)


def test_a_train_that_flips_the_rows_of_a_weight_leaves_it_as_it_was():
    net = trained().train()
    net.parts["neck"] = FlipsAtTrain(24, 12)
    before, place = traces(net), net.parts["neck"].weight.data_ptr()
    measure(net, loader(), "parts.fc")
    assert_same_traces(net, before)
    assert net.parts["neck"].weight.data_ptr() == place


class Counts(nn.Module):
    """A running mean that goes on in eval mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(24))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x):
        self.count += 1
        self.mean = self.mean + (x.mean(0) - self.mean) / self.count
        return x - self.mean


@pytest.mark.parametrize("fails", [False, True])
def test_buffers_that_change_in_eval_mode_are_put_back(fails):
    net = trained()
    net.parts["body"].append(Counts())
    before = {name: (b, b.clone()) for name, b in net.named_buffers()}

    def forward(model, batch):
        return model(batch[0]) if not fails else model(batch[0]) / None

    with pytest.raises(TypeError) if fails else nullcontext():
        measure(net, loader(), forward=forward)
    assert {name: b for name, (b, _) in before.items()} == dict(net.named_buffers())
    assert all(torch.equal(b, content) for b, content in before.values())


@pytest.mark.filterwarnings("ignore")  # tracing, which torch is about to give up
def test_a_part_that_was_traced_in_training_mode_keeps_its_statistics():
    net, x = trained().train(), digits(ROWS, 96)[:32][0]
    net.parts["body"] = torch.jit.trace(net.parts["body"][:2], x)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    measure(net, loader(), "parts.fc")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("where", ["loader", "forward", "labels"])
def test_nothing_of_the_network_changes_where_something_goes_wrong_halfway(where):
    net = mixed_modes()
    before = traces(net)

    def batches():
        for i, (x, y) in enumerate(loader()):
            if i == 1 and where == "loader":
                raise RuntimeError("no more")
            yield (x[:, :3] if i == 1 and where == "forward" else x), y

    def labels(batch):
        return batch[1][:-1] if where == "labels" else batch[1]

    with pytest.raises((RuntimeError, ValueError)):
        measure(net, batches(), layers=["parts.neck"], target=labels)
    assert_same_traces(net, before)


def test_no_gradient_is_recorded_and_grad_mode_is_left_alone(net):
    outputs = []

    def forward(model, batch):
        outputs.append(model(batch[0]))
        return outputs[-1]

    measure(net, loader(), forward=forward)
    assert torch.is_grad_enabled()
    assert all(not z.requires_grad and not z.is_inference() for z in outputs)


class Draws(Dataset):
    """Its augmentation takes from each of the global random states."""

    def __len__(self):
        return 96

    def __getitem__(self, index):
        x, y = digits(ROWS, 96)[index]
        return x + 0.01 * (torch.rand(()) + random.random() + float(np.random.rand())), y  # noqa: NPY002


def random_states():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


def states_around(rank, fails):
    """The global random states before and after; in a process whose types nobody checks at random."""
    net, data = Net(), DataLoader(Draws(), BATCH, shuffle=True)
    before = random_states()
    with suppress(ZeroDivisionError):
        measure(net, data, forward=(lambda model, batch: 1 / 0) if fails else None)
    return before, random_states()


@pytest.mark.parametrize("fails", [False, True])
def test_the_global_random_states_are_left_alone(one_process, fails):
    [(before, after)] = one_process.run(states_around, fails)
    assert before == after


def values_compiled(rank):
    """The values of a network as it is and compiled, its mode, and the hooks that are left."""
    torch._dynamo.reset()
    net = Net().train()
    expected = measure(net, loader(), layers=["parts.neck"]).values
    compiled = torch.compile(net, backend="eager")
    values = measure(compiled, loader(), layers=["parts.neck"]).values
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in compiled.modules())
    return expected, values, net.training, hooks


def test_a_compiled_network_is_measured_as_what_it_compiles(one_process):
    [(expected, values, is_training, hooks)] = one_process.run(values_compiled)
    assert_measures(values, expected, relative=1e-6, absolute=1e-8)
    assert (is_training, hooks) == (True, 0)


# What is said


def places_of_warnings(rank):
    batches = [(x, y % 9) for x, y in loader()]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        measure(Net(), batches)
    return {(Path(each.filename).name, each.category.__name__) for each in told}


def test_a_warning_points_to_the_line_of_the_call(one_process):
    assert one_process.run(places_of_warnings) == [{("test_measure.py", "NeuralCollapseWarning")}]


def test_what_there_is_to_say_of_the_data_is_said(net):
    batches = [(x, y % 9) for x, y in loader()]
    with pytest.warns(match="Expected samples of all 10 classes, but got none of class 9") as told:
        measure(net, batches, "parts.fc")
    assert "Or is" not in str(told[0].message)
    with pytest.warns(match=r"Or is 'parts.fc', which was found by itself, not the classifier\?"):
        measure(net, batches)


def test_which_classifier_was_found_goes_to_the_log_and_not_to_the_screen(net, caplog, capfd):
    with caplog.at_level("INFO", logger="lightning_nc"):
        measure(net, loader())
    assert "'parts.fc'" in caplog.text
    assert capfd.readouterr().out == ""


def test_there_is_no_bar_where_nobody_looks(net, monkeypatch):
    asked = []
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr("tqdm.tqdm", lambda *args, **kwargs: asked.append(args))
    measure(net, loader())
    assert not asked


class Terminal:
    """A stream that says that it is one."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize(("progress", "seconds"), [(True, 0.0), (True, 2.0), (False, 0.0)])
def test_a_bar_is_shown_in_a_terminal_while_a_pass_takes_long(net, monkeypatch, progress, seconds):
    import tqdm

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)

    def bar(*args, delay, **kwargs):
        assert delay == 2.0
        return std(*args, delay=seconds, mininterval=0.0, file=terminal, **kwargs)

    std = tqdm.tqdm
    monkeypatch.setattr("tqdm.tqdm", bar)
    measure(net, loader(), progress=progress)
    assert ("Neural collapse:" in terminal.text) == (progress and not seconds)
    assert not terminal.text or terminal.text.endswith("\r")  # it is gone
