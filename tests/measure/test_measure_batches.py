"""How the network is run on a batch: certain, or refused with what to write."""

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from lightning_nc.measure import _device, _moved, measure

Y = torch.arange(40) % 4
X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) + 4 * torch.eye(4, 6)[Y]
KEEP = torch.arange(40) < 30
Pair = namedtuple("Pair", ["image", "label"])


class One(nn.Module):
    """Its forward takes one argument."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.body, self.fc = nn.Linear(6, 5), nn.Linear(5, 4)

    def logits(self, x):
        return self.fc(self.body(x).relu())

    def forward(self, x):
        return self.logits(x)


class Several(One):
    """As many a transformer: one argument is needed, and others are taken."""

    def forward(self, x, attention_mask=None, labels=None):
        return self.logits(x if attention_mask is None else x * attention_mask)


class Keywords(One):
    def forward(self, x, **more):
        assert set(more) == {"labels"}
        return self.logits(x)


class Needs(One):
    def forward(self, x, lengths):
        return self.logits(x * lengths)


class OfObject(One):
    def forward(self, data):
        return self.logits(data.x)


class Wraps(nn.Module):
    """Takes anything, as a parallel wrapper does."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@dataclass
class Data:
    x: torch.Tensor
    y: torch.Tensor


EXPECTED = measure(One(), [(X, Y)]).values

RUNS: dict[str, tuple[nn.Module, Any, dict]] = {
    "a pair": (One(), (X, Y), {}),
    "a list": (One(), [X, Y], {}),
    "a named tuple": (One(), Pair(X, Y), {}),
    "a pair, and more could be taken": (Several(), (X, Y), {}),
    "labels come first": (Several(), (Y, X), {"target": 0}),
    "labels come last": (One(), (X, X + 1, Y), {"target": 2}),
    "an index comes third": (One(), (X, Y, torch.arange(40)), {"target": 1}),
    "several labels": (Several(), (X, (Y, Y // 2)), {"target": "1.0"}),
    "labels by a function": (
        One(),
        (X, nn.functional.one_hot(Y)),
        {"target": lambda b: b[1].argmax(1)},
    ),
    "a mapping": (One(), {"x": X, "label": Y}, {}),
    "a mapping of labels": (One(), {"x": X, "all": {"fine": Y}}, {"target": "all.fine"}),
    "a mapping whose labels are taken": (Several(), {"x": X, "labels": Y}, {}),
    "a mapping, all of it taken": (Keywords(), {"x": X, "labels": Y}, {}),
    "a mapping of another kind": (One(), UserDict({"x": X, "label": Y}), {}),
    "inputs in a mapping": (Several(), ({"x": X}, Y), {}),
    "an object": (OfObject(), Data(X, Y), {}),
    "a wrapper": (Wraps(One()), {"x": X, "label": Y}, {}),
    "a wrapper of a wrapper": (Wraps(Wraps(OfObject())), Data(X, Y), {}),
    "by a function": (Needs(), (X, Y), {"forward": lambda model, batch: model(batch[0], 1)}),
    "by a dotted path": (OfObject(), (X, Y), {"forward": "test_measure_batches.of_pair"}),
}


def of_pair(model, batch):
    return model(Data(*batch))


@pytest.mark.parametrize("name", RUNS)
def test_a_batch_goes_into_the_network(name):
    model, batch, settings = RUNS[name]
    assert measure(model, [batch], **settings).values == EXPECTED


@pytest.mark.parametrize(
    "batch",
    [{"x": X, "y": Y, "keep": KEEP}, (X, Y, KEEP), (X, KEEP, Y)],
    ids=["mapping", "last", "middle"],
)
def test_a_mask_is_no_input(batch):
    where = {"mask": "keep"} if isinstance(batch, dict) else {}
    if not where:
        at = next(i for i, item in enumerate(batch) if item is KEEP)
        where = {"mask": at, "target": 3 - at}
    values = measure(Several(), [batch], **where).values
    assert values == measure(One(), [(X[:30], Y[:30])]).values
    assert values["nc0/num_samples"] == 30


TAKES = r"forward of {} takes a {} as batch, but "
REMEDY = (
    r"\. Set forward to a function of the model and the batch that calls it, such as "
    r"forward=lambda model, batch: model\(batch{}\)\.$"
)

REFUSED: dict[str, tuple[nn.Module, Any, dict, str]] = {
    "a key that is not taken": (
        One(), {"image": X, "name": "a", "label": Y}, {},
        TAKES.format("One", "dict") + r"it does not take 'image', 'name'\. It takes \(x\)"
        + REMEDY.format(r"\['image'\]"),
    ),
    "a key that is missing": (
        Needs(), {"x": X, "label": Y}, {},
        TAKES.format("Needs", "dict") + r"a call with it fails \(missing .*'lengths'\)",
    ),
    "an argument that is missing": (
        Needs(), (X, Y), {},
        TAKES.format("Needs", "tuple") + r"a call with it fails .*" + REMEDY.format(r"\[0\]"),
    ),
    "a mask that could be meant": (
        Several(), (X, torch.ones(40, 6), Y), {"target": 2},
        TAKES.format("Several", "tuple") + r"it could take more than one argument\. It takes "
        r"\(x, attention_mask, labels\)" + REMEDY.format(r"\[0\]"),
    ),
    "an object, of which parts could be meant": (
        Several(), Data(X, Y), {},
        TAKES.format("Several", "Data") + r"it could take more than one .*" + REMEDY.format(r"\.x"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_where_it_is_not_certain_it_is_refused_with_what_to_write(name):
    model, batch, settings, text = REFUSED[name]
    with pytest.raises(ValueError, match=text):
        measure(model, [batch], **settings)


class TakesAny(One):
    def forward(self, *args):
        return self.logits(args[0])


def test_a_forward_of_any_arguments_takes_a_pair_and_no_longer_batch():
    assert measure(TakesAny(), [(X, Y)]).values == EXPECTED
    with pytest.raises(ValueError, match=r"could take more than one argument\. It takes \(args\)"):
        measure(TakesAny(), [(X, Y, torch.arange(40))], target=1)


def always_two(batch, outputs):
    assert outputs.shape == (len(batch[0]), 4)
    return torch.full((len(batch[0]),), 2)


@pytest.mark.parametrize("predicted", [always_two, "test_measure_batches.always_two"])
def test_decisions_come_from_what_the_network_returns(predicted):
    assert measure(One(), [(X, Y)], predicted=predicted).values["nc0/accuracy"] == 0.25
    assert EXPECTED["nc0/accuracy"] != 0.25


def test_features_without_a_head():
    measurement = measure(One(), [(X, Y)], classifier=False, features="body", num_classes=4)
    assert measurement.classifier is None
    assert measurement.classifier_name is None
    assert measurement.statistics.num_features == 5
    assert "nc1/cdnv" in measurement.values
    assert not any("weights" in key for key in measurement.values)
    assert str(measurement).startswith("Neural collapse: 40 samples of 4 classes, 5 features")


def test_classes_of_few_rows_are_left_out():
    few = torch.where(torch.arange(40) < 3, 3, Y % 3)
    chosen = {"measures": ["nc0/classes_*"]}
    assert set(measure(One(), [(X, few)], **chosen).values.values()) == {4}
    with pytest.warns(match="class 3"):
        values = measure(One(), [(X, few)], min_count=5, **chosen).values
    assert values == {"nc0/classes_seen": 4, "nc0/classes_kept": 3}


# Devices

META = torch.device("meta")


class OwnKind(dict):
    """A mapping with something of its own."""

    note = "kept"


class MovesItself:
    """As a graph, or what a tokenizer gives."""

    def __init__(self, x):
        self.x = x

    def to(self, device):
        self.x = self.x.to(device)
        return self


def packed():
    return nn.utils.rnn.pack_sequence([torch.ones(2), torch.ones(1)])


BATCHES: dict[str, tuple[Any, Any]] = {
    "tensor": (torch.ones(2), lambda b: [b]),
    "dict": ({"x": torch.ones(2), "name": "a"}, lambda b: [b["x"]]),
    "ordered": (OrderedDict(x=torch.ones(2)), lambda b: [b["x"]]),
    "with a default": (defaultdict(list, x=[torch.ones(2)]), lambda b: b["x"]),
    "of its own kind": (OwnKind(x=torch.ones(2)), lambda b: [b["x"]]),
    "user dict": (UserDict(x=torch.ones(2)), lambda b: [b["x"]]),
    "list": ([torch.ones(2), "a", None, 3], lambda b: [b[0]]),
    "tuple in a list": ([(torch.ones(2), torch.ones(1))], lambda b: list(b[0])),
    "named tuple": (Pair(torch.ones(2), torch.ones(2)), lambda b: [b.image, b.label]),
    "data class": (Data(torch.ones(2), torch.ones(2)), lambda b: [b.x, b.y]),
    "moves itself": (MovesItself(torch.ones(2)), lambda b: [b.x]),
    "packed": (packed(), lambda b: [b.data]),
}


@pytest.mark.parametrize("name", BATCHES)
def test_all_tensors_of_a_batch_are_moved_and_the_given_one_stays(name):
    batch, tensors_of = BATCHES[name]
    there = _moved(batch, META)
    assert type(there) is type(batch)
    assert all(t.device == META for t in tensors_of(there))
    assert all(t.device.type == "cpu" for t in tensors_of(batch))
    if name == "of its own kind":
        assert there.note == "kept"


def test_a_batch_goes_where_the_network_is():
    assert _device(One(), None) == torch.device("cpu")
    assert _device(One().to(META), None) == META
    assert _device(One(), "cpu") == torch.device("cpu")
    assert _device(nn.ReLU(), None) is None
    assert _device(nn.ReLU(), "meta") == META


def test_of_a_network_on_several_devices_the_batches_stay_unless_one_is_named():
    model = nn.Sequential(One(), One().to(META))
    assert _device(model, None) is None
    assert _device(model, "meta") == META


def test_a_network_on_another_device_is_refused():
    text = r"Expected the model on meta, as device asks for, but it is on cpu\. Move it, model\.to"
    with pytest.raises(ValueError, match=text):
        measure(One(), [(X, Y)], device="meta")
