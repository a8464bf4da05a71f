"""A model of the table is trained with the callback and without, and looked at by hooks of the test."""

import contextlib
import importlib
import re
import warnings

import lightning
import pytest
import torch
from lightning.pytorch import seed_everything
from model_cells import Call
from support.training import trainer

from lightning_nc import (
    ClassStatistics,
    FeatureSample,
    LinearClassifier,
    NeuralCollapseCallback,
    NeuralCollapseWarning,
    functional,
)

RELATIVE, ABSOLUTE = 1e-5, 1e-8
OF_FEW_ROWS = "the class means differ by no more than their sampling noise"


def check(model):
    """With the callback nothing differs, and what it says is right.

    The hooks of the test are on the run without the callback, so that neither meets the other.

    Args:
        model: A line of the table.
    """
    if model.refused:
        refuses(model)
        if not model.remedy:
            return
    hooks = Hooks(model.truth)
    callback = NeuralCollapseCallback(**{**model.sets, **model.remedy})
    with saying(None):
        plain, plain_run = trained(model, hooks)
    with saying(model.says):
        module, run = trained(model, callback)
    for (name, one), other in zip(
        plain.state_dict().items(), module.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), f"{name} has changed"
    assert others_values(plain_run) == others_values(run)
    mine = callback.statistics["val"]
    statistics, values = expected(hooks, plain, mine.num_classes)
    assert torch.equal(mine.counts, statistics.counts)
    assert_close(mine.means, statistics.means, "means")
    logged = {key: value for key, value in run.callback_metrics.items() if key.endswith("/val")}
    assert {key.removesuffix("/val") for key in logged if key.startswith("nc")} == set(values)
    for key, value in values.items():
        assert_close(logged[f"{key}/val"].double(), value, key)
    assert any(key.endswith("/train_online") for key in run.callback_metrics)


def refuses(model):
    """Without what has to be set, the fit ends with an error before its first step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = model.build()
        before = [parameter.detach().clone() for parameter in module.parameters()]
        with pytest.raises(ValueError, match=model.refused):
            trained(model, NeuralCollapseCallback(**model.sets), module)
    assert all(map(torch.equal, before, module.parameters()))


def assert_close(mine, reference, what):
    torch.testing.assert_close(
        mine, reference, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True, msg=lambda m: f"{what}: {m}"
    )


@contextlib.contextmanager
def saying(text):
    """Of what is said, our warnings matter alone: there is this one and no other, or none."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    ours = [str(w.message) for w in seen if issubclass(w.category, NeuralCollapseWarning)]
    ours = [said for said in ours if OF_FEW_ROWS not in said]
    assert all(text and re.search(text, said) for said in ours), ours
    assert ours or text is None, f"it has not said {text!r}"


def trained(model, callback, module=None):
    """The module after two epochs, and its Trainer; the same each time."""
    seed_everything(0, verbose=False)
    module = module or model.build()
    train, val = model.data()
    run = trainer([callback], importlib.import_module(model.namespace))
    run.fit(module, train, val)
    return module, run


def others_values(run):
    """What the module itself has logged."""
    values = {**run.logged_metrics, **run.callback_metrics}
    # as text, where NaN equals NaN; classes of tokens are unequal
    ours = "nc", "imbalance/"
    return {key: repr(float(value)) for key, value in values.items() if not key.startswith(ours)}


class Hooks(lightning.pytorch.Callback):
    """Plain hooks on some modules; keeps the rows of the latest validation."""

    def __init__(self, truth):
        self.truth, self.rows = truth, []

    def on_validation_epoch_start(self, trainer, pl_module):
        self.rows.clear()

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.calls = {path: [] for path in self.truth.hooks}
        self.handles = [
            pl_module.get_submodule(path).register_forward_hook(self.noting(path))
            for path in self.truth.hooks
        ]

    def noting(self, path):
        def note(module, inputs, output):
            first = inputs[0] if inputs else None
            self.calls[path].append(Call(copied(first), copied(output)))

        return note

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        for handle in self.handles:
            handle.remove()
        self.rows.append(self.truth.rows(self.calls, batch))


def copied(value):
    """What comes after may write into it."""
    return value.clone() if isinstance(value, torch.Tensor) else value


def expected(hooks, module, num_classes):
    """Statistics and values of the latest validation, by the functional API, in float64."""
    h, y, predicted = zip(*hooks.rows, strict=True)
    h = torch.cat([rows.flatten(0, -2) for rows in h]).double()
    y = torch.cat([labels.flatten() for labels in y]).long()
    head = None
    if hooks.truth.classifier is not None:
        head = [None if t is None else t.detach().double() for t in hooks.truth.classifier(module)]
    if predicted[0] is not None:
        predicted = torch.cat([decisions.flatten() for decisions in predicted])
    elif head is not None:
        predicted = torch.nn.functional.linear(h, *head).argmax(1)
    else:
        predicted = None
    rows = [t if t is None else t[y >= 0] for t in (h, y, predicted)]
    return evaluated(*rows, None if head is None else LinearClassifier(*head), num_classes)


def evaluated(h, y, predicted, head, num_classes):
    statistics = ClassStatistics.from_batch(h, y, num_classes)
    n = torch.tensor(len(y))
    decisions = functional.count_decisions(
        FeatureSample(h, y, predicted, seen=len(y)),
        statistics,
        stands_for=n,
        predicted=0 * n if predicted is None else n,
        correct=0 * n if predicted is None else (predicted == y).sum(),
    )
    evidence = functional.ClassEvidence.of(statistics, head, decisions)
    outcomes = functional.evaluate(functional.select(["default"]), evidence)
    return statistics, functional.values_of(outcomes)
