"""What `measure` cannot do it refuses, with what to do; and it needs no Lightning."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_nc.measure import measure

ROOT = Path(__file__).parents[2]
Y = torch.arange(40) % 4
X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) + 4 * torch.eye(4, 6)[Y]


def network(*more):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), *more)


def test_a_loader_without_labels():
    with pytest.raises(
        ValueError, match=r"Expected labels as a tensor in the batch, but got a list of 1: "
    ):
        measure(network(), [[X]])


@pytest.mark.parametrize(
    "loader", [[], iter([]), (x for x in ())], ids=["list", "iterator", "generator"]
)
def test_a_loader_without_batches(loader):
    text = (
        r"Expected at least one batch, but the loader gave none\. Is its data set empty, does drop_last"
    )
    with pytest.raises(ValueError, match=text):
        measure(network(), loader)


def test_a_loader_whose_rows_are_all_ignored():
    with pytest.raises(
        ValueError, match="Expected at least one row with a label that counts, but got none"
    ):
        measure(network(), [(X, torch.full_like(Y, -100))], "2")


def test_a_loader_whose_features_are_all_nan():
    text = r"at least one row .* but got none.*\(40 rows with a NaN or infinite feature were left out\)"
    with pytest.raises(ValueError, match=text):
        measure(network(), [(X * torch.nan, Y)], "2", layers=["0"])


def test_batches_of_which_a_function_says_that_they_have_no_labels():
    with pytest.raises(
        ValueError, match="Expected at least one row with a label that counts, but got none"
    ):
        measure(network(), [(X, Y)], "2", target=lambda batch: None)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"classifier": "3"}, r"Expected classifier to be the dotted path .*, but there is no '3'"),
        ({"layers": ["body.*"]}, r"Expected layers to .* 'body\.\*'"),
        (
            {"task": "ranking"},
            r"Expected task to be one of \('multiclass', 'binary', .*\), but got 'ranking'",
        ),
        ({"num_classes": 1}, "Expected num_classes to be at least 2, but got 1"),
        (
            {"num_classes": 7, "classifier": "2"},
            "Expected a classifier with num_classes = 7 rows, but got 4",
        ),
        ({"target_shift": -1}, "Expected target_shift to be at least 0, but got -1"),
        ({"min_count": 0}, "Expected min_count to be at least 1, but got 0"),
        ({"seed": -1}, "Expected seed to be at least 0, but got -1"),
        ({"measures": ["nc1/cdn"]}, "Did you mean 'nc1/cdnv'"),
        ({"forward": "nowhere.run"}, "Expected forward to name a function that can be imported"),
        ({"target": "labels"}, "Expected labels as a tensor in the batch"),
        ({"classifier": False, "features": "0"}, "Expected num_classes with classifier=False"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit(settings, text):
    net = network()
    with pytest.raises(ValueError, match=text):
        measure(net, [(X, Y)], **settings)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_classifier_that_is_not_certain():
    two = nn.ModuleDict({"a": nn.Linear(6, 4), "b": nn.Linear(6, 4)})

    def forward(model, batch):
        return model["a"](batch[0]) + model["b"](batch[0])

    with pytest.raises(
        ValueError, match=r"certain which linear map is the classifier, but 'b' .* 'a\.weight'"
    ):
        measure(two, [(X, Y)], forward=forward)
    assert measure(two, [(X, Y)], "a", forward=forward, measures=["nc1/cdnv"]).classifier_name == "a"


def test_a_classifier_that_does_not_run():
    net = network(nn.Linear(4, 4))
    with pytest.raises(RuntimeError, match="Expected the forward of '3' to run"):
        measure(net, [(X, Y)], "3", forward=lambda model, batch: model[:3](batch[0]))


class Merges(nn.Linear):
    """As an adapter that adds its weights to the others in eval mode."""

    def train(self, mode=True):
        if self.training != mode:
            self.weight.data += -1 if mode else 1
        return super().train(mode)


class Flips(nn.Linear):
    """Turns the rows around at eval, which no sum of them shows, and never back."""

    def train(self, mode=True):
        if not mode:
            self.weight.data = self.weight.data.flip(0)
        return super().train(mode)


class FlipsBack(Flips):
    """And back at train."""

    def train(self, mode=True):
        if mode and not self.training:
            self.weight.data = self.weight.data.flip(0)
        return super().train(mode)


@pytest.mark.parametrize("kind", [Merges, Flips, FlipsBack])
def test_a_network_whose_eval_changes_weights_has_to_be_in_eval_mode(kind):
    net = network(kind(4, 4))
    places = [(p.data_ptr(), p.detach().clone()) for p in net.parameters()]
    text = (
        rf"the eval\(\) of {kind.__name__} '3' has changed the parameter '3\.weight'\. .* put back, .*"
        r"Call model\.eval\(\) before measuring, and model\.train\(\) after it"
    )
    with pytest.raises(ValueError, match=text):
        measure(net, [(X, Y)], "3")
    for now, (place, content) in zip(net.parameters(), places, strict=True):
        assert now.data_ptr() == place
        assert torch.equal(now, content)
    assert all(m.training for m in net.modules())
    net.eval()
    measured = net[3].weight.clone()
    assert measure(net, [(X, Y)], "3", measures=["nc0/num_samples"]).values == {"nc0/num_samples": 40.0}
    assert torch.equal(net[3].weight, measured)
    assert not torch.equal(measured, places[-2][1])  # what it does itself, when asked, it still does


# In a process of its own: the types that these tests check on each call refuse some of it before

WITHOUT_LIGHTNING = """
import sys
for name in ("lightning", "pytorch_lightning", "lightning_fabric"):
    sys.modules[name] = None  # an import of it fails
import torch
from torch import nn
from torch.utils.data import TensorDataset
from lightning_nc.measure import measure
from lightning_nc.measurement import compare

y = torch.arange(40) % 4
x = torch.randn(40, 6) + 4 * torch.eye(4, 6)[y]
net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
for call in (
    lambda: measure(lambda x: x, [(x, y)]), lambda: measure(net, TensorDataset(x, y)),
    lambda: measure(net, 3), lambda: compare([1]), lambda: compare({"a": net}),
):
    try:
        call()
    except ValueError as error:
        print(error)
measurement = measure(net, [(x, y)], layers=["0"])
print(measurement)
print(compare({"a": measurement, "b": measurement}))
measurement.plot()
"""


@pytest.mark.slow
def test_lightning_is_not_needed_and_what_is_no_network_or_no_loader_is_refused():
    command = [sys.executable, "-c", WITHOUT_LIGHTNING]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].startswith(
        "Expected model to be an nn.Module, but got a function. Pass the network"
    )
    wrap = "Is it a data set? Wrap it: torch.utils.data.DataLoader(dataset, batch_size=256)."
    assert lines[1] == f"Expected loader to give batches, but got a TensorDataset. {wrap}"
    assert lines[2] == f"Expected loader to give batches, but got a int. {wrap}"
    assert lines[3].startswith(
        "Expected measurements by name, at least one, but got a list. Pass a dict"
    )
    assert lines[4].startswith("Expected each value to be a Measurement, but got a Sequential for 'a'.")
    assert lines[5] == "Neural collapse at '2': 40 samples of 4 classes, 5 features"
    assert "Neural collapse" in lines[6:]
