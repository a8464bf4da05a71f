"""What users get wrong: each with a clear error before the first step, or one warning after it."""

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from training import BATCH, ROWS, Network, digits, fit, trainer

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning


def loader(x, y):
    return DataLoader(TensorDataset(x, y), BATCH)


class Functional(Network):
    """Applies its classifier as a function, so that no module runs."""

    def forward(self, x):
        return nn.functional.linear(self.features(x), self.fc.weight, self.fc.bias)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    validation_step = training_step


class Views(Network):
    """Two views of each sample in one forward: twice as many features as labels."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self(torch.cat([x, x])), torch.cat([y, y]))


class Soft(Network):
    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    validation_step = training_step


X, Y = digits().tensors
SOFT = torch.full((ROWS, 10), 0.1)
FRACTIONS = Y + 0.5


@pytest.mark.parametrize(
    ("module", "settings", "train", "error", "text"),
    [
        (Network, {"classifier": "head"}, None, ValueError, r"there is no 'head'"),
        (Network, {"classifier": "norm"}, None, ValueError, r"an nn\.Linear, but it is a BatchNorm1d"),
        (Network, {"layers": ["nek"]}, None, ValueError, r"Did you mean 'neck'"),
        (Network, {"class_names": ["a", "b"]}, None, ValueError, r"each of 10 classes, but got 2"),
        (Network, {"num_classes": 7}, None, ValueError, r"num_classes = 7 rows, but got 10"),
        (Network, {"target": "label"}, None, ValueError, r"target='label' gives a NoneType"),
        (Functional, {"classifier": "fc"}, None, RuntimeError, r"forward of 'fc' .* never fired"),
        (
            Views,
            {},
            None,
            ValueError,
            r"one label per feature, but got 96 features and labels of shape",
        ),
        (Soft, {}, loader(X, SOFT), ValueError, r"one-hot or soft labels \(mixup\?\)"),
    ],
)
@pytest.mark.parametrize("sanity", [0, 2])
def test_settings_that_cannot_work_raise_before_the_first_step(
    module, settings, train, error, text, sanity
):
    network = module()
    before = {k: v.clone() for k, v in network.named_parameters()}
    with pytest.raises(error, match=text):
        fit(network, [NeuralCollapseCallback(**settings)], train=train, val=train,
            num_sanity_val_steps=sanity)  # fmt: skip
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_fractional_labels_raise_before_the_first_step():
    class Regress(Network):
        def training_step(self, batch, batch_idx):
            return (self(batch[0]).sum(1) - batch[1]).square().mean()

        validation_step = training_step

    network = Regress()
    before = network.fc.weight.detach().clone()
    data = loader(X, FRACTIONS)
    with pytest.raises(ValueError, match=r"integer class labels, but got floats .* such as \d+\.5"):
        fit(network, [NeuralCollapseCallback()], train=data, val=data, num_sanity_val_steps=0)
    assert torch.equal(network.fc.weight, before)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"task": "regress"}, r"Expected task to be one of .* but got 'regress'"),
        ({"every_n_epochs": 0}, r"every_n_epochs to be at least 1, but got 0"),
        ({"frozen_every_n_epochs": -1}, r"frozen_every_n_epochs to be at least 0, but got -1"),
        ({"num_classes": 1}, r"num_classes to be at least 2, but got 1"),
        ({"max_rows_per_batch": 0}, r"max_rows_per_batch to be at least 1"),
        ({"task": "binary", "num_classes": 3}, r"num_classes to be 2 for task='binary', but got 3"),
        ({"covariance": "full"}, r"covariance to be one of .* but got 'full'"),
        ({"measures": ["nc1/cdnw"]}, r"but got 'nc1/cdnw'\. Did you mean 'nc1/cdnv'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        NeuralCollapseCallback(**arguments)


def test_two_callbacks_with_equal_keys_are_refused():
    pair = [NeuralCollapseCallback(), NeuralCollapseCallback(classifier="fc")]
    with pytest.raises(ValueError, match=r"log different keys, but two of them log nc0/accuracy"):
        fit(Network(), pair)
    with pytest.raises(RuntimeError, match="more than one stateful callback"):
        fit(Network(), [NeuralCollapseCallback(), NeuralCollapseCallback()])
    pair = [NeuralCollapseCallback(), NeuralCollapseCallback(layers=["neck"], prefix="second/")]
    run = fit(Network(), pair)
    for key in ("nc1/cdnv/val", "nc1/cdnv/train_online"):
        assert run.callback_metrics[key] == run.callback_metrics[f"second/{key}"]


def warned(callback, *args, **kwargs):
    with pytest.warns(NeuralCollapseWarning) as told:
        run = fit(Network(), [callback], *args, **kwargs)
    texts = [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]
    assert len(texts) == len(set(texts))
    return run, texts


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
    import re

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


def test_an_error_after_the_first_step_is_told_and_training_goes_on():
    class LateViews(Network):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if self.current_epoch == 1 and batch_idx == 2:
                self(torch.cat([batch[0], batch[0]]))
            return loss

    module = LateViews()
    with pytest.warns(
        NeuralCollapseWarning, match=r"A batch of train_online could not be measured"
    ) as told:
        run = fit(module, [NeuralCollapseCallback()])
    assert sum("could not be measured" in str(w.message) for w in told) == 1
    assert any("Expected one label per feature" in str(w.message) for w in told)
    assert run.current_epoch == 2
    assert float(run.callback_metrics["nc0/num_samples/train_online"]) == ROWS - BATCH


def test_an_empty_validation_loader_logs_nothing():
    callback = NeuralCollapseCallback()
    run = fit(Network(), [callback], limit_val_batches=0)
    assert all(key.endswith("train_online") for key in callback.history)
    assert run.current_epoch == 2


def test_validation_of_a_network_whose_hook_never_fires_is_refused():
    with pytest.raises(RuntimeError, match="never fired"):
        trainer([NeuralCollapseCallback(classifier="fc")]).validate(
            Functional(), DataLoader(digits(), BATCH), verbose=False
        )


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")
def test_a_step_that_takes_its_batches_itself_is_refused():
    class Iterates(Network):
        def training_step(self, dataloader_iter):
            batch, batch_idx, _ = next(dataloader_iter)
            return super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match=r"one that takes `dataloader_iter`.*online=False"):
        fit(Iterates(), [NeuralCollapseCallback()])
    run = fit(Iterates(), [NeuralCollapseCallback(online=False)])
    assert "nc1/cdnv/val" in run.callback_metrics


def test_unlabelled_training_goes_with_labelled_validation():
    class Unlabelled(Network):
        def training_step(self, batch, batch_idx):
            return self(batch).square().mean()

    run = fit(Unlabelled(), [NeuralCollapseCallback(online=False)], train=DataLoader(X, BATCH),
              num_sanity_val_steps=0)  # fmt: skip
    assert "nc1/cdnv/val" in run.callback_metrics
    with pytest.raises(ValueError, match=r"but got a tensor of shape \(48, 64\)"):
        fit(Unlabelled(), [NeuralCollapseCallback()], train=DataLoader(X, BATCH))


class Unhooked(Functional):
    """Its classifier is applied as a function, by hand or only every other batch."""


@pytest.mark.parametrize(("manual", "accumulate"), [(True, 1), (False, 2)])
def test_a_hook_that_never_fires_is_found_without_an_optimizer_step_per_batch(manual, accumulate):
    module = Unhooked()
    module.automatic_optimization = not manual
    if manual:
        module.training_step = lambda batch, batch_idx: None
    settings = {} if manual else {"accumulate_grad_batches": accumulate}
    with pytest.raises(RuntimeError, match=r"forward of 'fc' .* never fired"):
        fit(module, [NeuralCollapseCallback(classifier="fc")], num_sanity_val_steps=0, **settings)


def failing(statistics):
    raise KeyError("on purpose")


def vector(statistics):
    return statistics.means


def plain_number(statistics):
    return 0.5


def test_a_measure_of_ones_own_cannot_stop_training():
    own = [f"test_bad_input.{name}" for name in ("failing", "vector", "plain_number")]
    with pytest.warns(NeuralCollapseWarning) as told:
        run = fit(Network(), [NeuralCollapseCallback(online=False, measures=own)])
    texts = " ".join(str(w.message) for w in told)
    assert "custom/failing is NaN: because it failed: KeyError: 'on purpose'" in texts
    assert "custom/vector is NaN: because it failed: ValueError: expected a scalar" in texts
    assert run.callback_metrics["custom/failing/val"].isnan()
    assert run.callback_metrics["custom/plain_number/val"] == 0.5


def test_a_frozen_pass_that_fails_logs_neither_a_part_nor_the_last_one_again():
    class Breaks(Network):
        def predict_step(self, batch, batch_idx):
            if self.current_epoch == 1 and batch_idx == 2:
                raise RuntimeError("on purpose")
            return super().predict_step(batch, batch_idx)

    callback = NeuralCollapseCallback(online=False, frozen_every_n_epochs=1, inference="predict_step")
    with pytest.warns(NeuralCollapseWarning) as told:
        fit(Breaks(), [callback], max_epochs=3)
    texts = [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]
    assert len(texts) == 1
    assert texts[0].startswith("The frozen pass could not be measured")
    rows = callback.history["nc0/num_samples/train"]
    assert [(entry.epoch, str(entry.value)) for entry in rows] == [
        (0, f"{ROWS}.0"), (1, "nan"), (2, f"{ROWS}.0")
    ]  # fmt: skip


def test_layers_that_do_not_run_before_the_classifier_are_said():
    module = Network()
    module.unused = nn.Linear(3, 3)
    with pytest.warns(NeuralCollapseWarning, match=r"Expected the layers 'unused', 'fc' to run"):
        run = fit(module, [NeuralCollapseCallback(online=False, layers=["neck", "unused", "fc"],
                                                  classifier="fc")])  # fmt: skip
    assert "nc1/cdnv/val/neck" in run.callback_metrics


def test_a_layer_that_was_chosen_by_itself_is_doubted_where_the_classes_do_not_fit():
    class Extra(Network):
        def __init__(self):
            super().__init__()
            self.aux = nn.Linear(16, 12)

        def forward(self, x):
            h = self.features(x)
            logits = self.fc(h)
            self.aux(h)
            return logits

        def validation_step(self, batch, batch_idx):
            self(batch[0])

    with pytest.warns(
        NeuralCollapseWarning, match="Or is 'aux', chosen as the last nn.Linear that ran"
    ):
        fit(Extra(), [NeuralCollapseCallback(online=False)])
