"""What users get wrong is refused with a clear error before the first step."""

import pytest
import torch
from support.problems import unchecked_shapes
from support.training import BATCH, ROWS, Network, digits, fit, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nc import NeuralCollapseCallback


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
        (Network, {"classifier": "norm"}, None, ValueError, r"a linear map .*, but it is a BatchN"),
        (Network, {"layers": ["nek"]}, None, ValueError, r"Did you mean 'neck'"),
        (Network, {"class_names": ["a", "b"]}, None, ValueError, r"each of 10 classes, but got 2"),
        (Network, {"num_classes": 7}, None, ValueError, r"num_classes = 7 rows: 'fc\.weight' \(10"),
        (Network, {"target": "label"}, None, ValueError, r"target='label' gives a NoneType"),
        (Functional, {"classifier": "fc"}, None, RuntimeError, r"forward of 'fc' .* never fired"),
        (
            Views,
            {},
            None,
            ValueError,
            r"one label per feature, but got 96 features and labels of shape",
        ),
        (Soft, {}, loader(X, SOFT), ValueError, r"Are these soft labels \(mixup\?\)\?"),
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
    # as in a user's process: here, the checks of types would refuse some of them first
    with unchecked_shapes(), pytest.raises(ValueError, match=text):
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


def test_a_classifier_that_runs_in_validation_only_is_found_before_the_first_step():
    class Half(Network):
        def training_step(self, batch, batch_idx):
            x, y = batch
            logits = nn.functional.linear(self.features(x), self.fc.weight, self.fc.bias)
            return nn.functional.cross_entropy(logits, y)

    with pytest.raises(RuntimeError, match=r"forward of 'fc' .* never fired"):
        fit(Half(), [NeuralCollapseCallback(classifier="fc")])
