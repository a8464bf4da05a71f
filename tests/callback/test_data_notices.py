"""What the data do not allow, or make doubtful, is explained once."""

import re

import pytest
import torch
from lightning.pytorch import seed_everything
from support.training import BATCH, ROWS, Network, digits, fit
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning


def loader(x, y):
    return DataLoader(TensorDataset(x, y), BATCH)


X, Y = digits().tensors
SORTED = Y.argsort()
TWO = SORTED[:40]


@pytest.mark.parametrize(
    ("x", "y", "settings", "text"),
    [
        (X.clone().fill_(torch.nan), Y, {}, r"nothing is logged"),
        (X, Y + 5, {}, r"with a label outside \[0, 10\) left out\. Is num_classes too small"),
        (X[Y != 3], Y[Y != 3], {}, r"none of class 3: left out of every formula"),
        (X[:10], Y[:10], {}, r"Every class has a single sample"),
        (X[Y == 2], Y[Y == 2], {}, r"Samples of a single class"),
        (X, torch.full_like(Y, -100), {}, r"Is the data loader empty, or is every label ignore_index"),
        (X[SORTED], Y[SORTED], {"limit_val_batches": 1}, r"sorted by class and cut short"),
        (X[TWO], Y[TWO], {}, r"nc2/means_equinorm, .* left out: needs at least 3 classes"),
    ],
)
def test_data_that_allow_no_measure_are_explained_once(x, y, settings, text):
    class Tolerant(Network):
        def validation_step(self, batch, batch_idx):
            self(batch[0])

    callback = NeuralCollapseCallback(online=False)
    with pytest.warns(NeuralCollapseWarning) as told:
        fit(Tolerant(), [callback], val=loader(x, y), **settings)
    texts = [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]
    assert len(texts) == len(set(texts))
    assert any(t.startswith("Stage val: ") for t in texts)
    assert any(re.search(text, t) for t in texts), texts


def test_more_classes_than_the_features_can_hold_are_said():
    callback = NeuralCollapseCallback(online=False)
    seed_everything(0, verbose=False)
    with pytest.warns(NeuralCollapseWarning, match=r"10 classes in 4 features: a simplex ETF needs"):
        run = fit(Network(width=4), [callback])
    assert float(run.callback_metrics["nc1/rank/val"]) <= 4


def test_dropout_right_before_the_feature_is_said_once():
    class Dropped(Network):
        def features(self, x):
            return self.drop(super().features(x).relu())

    with pytest.warns(NeuralCollapseWarning, match=r"Active Dropout directly precedes the feature"):
        fit(Dropped(), [NeuralCollapseCallback()])
    fit(Dropped(dropout=0.0), [NeuralCollapseCallback()])  # a warning would be an error
    fit(Dropped(), [NeuralCollapseCallback(online=False)])


def test_layers_that_do_not_run_before_the_classifier_are_said():
    module = Network()
    module.unused = nn.Linear(3, 3)
    with pytest.warns(NeuralCollapseWarning, match=r"Expected the layers 'unused', 'fc' to run"):
        run = fit(module, [NeuralCollapseCallback(online=False, layers=["neck", "unused", "fc"],
                                                  classifier="fc")])  # fmt: skip
    assert "nc1/cdnv/val/neck" in run.callback_metrics


def test_a_layer_that_was_found_by_itself_is_doubted_where_the_classes_do_not_fit():
    x, y = digits(ROWS, 96).tensors
    data = DataLoader(TensorDataset(x, y.clamp(max=7)), BATCH)
    with pytest.warns(NeuralCollapseWarning, match="Or is 'fc', which was found by itself, not"):
        fit(Network(), [NeuralCollapseCallback(online=False)], val=data)


def test_an_empty_validation_loader_logs_nothing():
    callback = NeuralCollapseCallback()
    run = fit(Network(), [callback], limit_val_batches=0)
    assert all(key.endswith("train_online") for key in callback.history)
    assert run.current_epoch == 2
