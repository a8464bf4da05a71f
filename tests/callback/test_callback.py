"""The callback in real Trainers: what it logs is right, and where it is found."""

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from support.oracles import reference_measures
from support.training import BATCH, ROWS, Network, assert_close, digits, fit, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from lightning_nc import (
    ClassStatistics,
    FeatureSample,
    LinearClassifier,
    NeuralCollapseCallback,
    functional,
)


def test_val_values_equal_the_functional_api_on_features_computed_by_hand():
    module, callback = Network(), NeuralCollapseCallback()
    data = digits(ROWS, 96)
    run = fit(module, [callback], val=DataLoader(data, 40))
    module.eval()
    x, y = data.tensors
    with torch.no_grad():
        h = module.features(x)
        predicted = module.fc(h).argmax(1)
    statistics = ClassStatistics.from_batch(h, y, 10)
    n = torch.tensor(len(y))
    decisions = functional.count_decisions(
        FeatureSample(h, y, predicted, seen=len(y)),
        statistics,
        stands_for=n,
        predicted=n,
        correct=(predicted == y).sum(),
    )
    classifier = LinearClassifier(module.fc.weight, module.fc.bias)
    evidence = functional.ClassEvidence.of(statistics, classifier, decisions)
    outcomes = functional.evaluate(functional.select(["default"]), evidence)
    assert not any(outcome.reason for outcome in outcomes.values())
    values = functional.values_of(outcomes)
    assert set(values) == set(outcomes)
    for key, value in values.items():
        torch.testing.assert_close(
            run.callback_metrics[f"{key}/val"].double(), value, rtol=1e-5, atol=1e-8
        )
    torch.testing.assert_close(callback.statistics["val"].means, statistics.means)


def test_forward_on_the_inputs_is_the_default_of_the_frozen_pass():
    module, callback = Network(), NeuralCollapseCallback(online=False, frozen_every_n_epochs=2)
    run = fit(module, [callback])
    module.eval()
    with torch.no_grad():
        module.predict_step(digits().tensors, 0)
    assert_close(run.callback_metrics, module.reference("train", module.current_epoch), "train")


def test_validate_and_test_and_fit_follow_each_other_with_one_callback():
    module, callback = Network(), NeuralCollapseCallback(frozen_every_n_epochs=1)
    data = DataLoader(digits(ROWS, 96), BATCH)
    run = trainer([callback])
    [before] = run.validate(module, data, verbose=False)
    run.fit(module, DataLoader(digits(), BATCH, shuffle=True), data)
    [tested] = run.test(module, data, verbose=False)
    [after] = run.validate(module, data, verbose=False)
    assert after["nc0/accuracy/val"] > before["nc0/accuracy/val"]
    for key, value in after.items():
        assert tested[key.replace("/val", "/test")] == value
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_each_validation_loader_is_a_stage_of_its_own():
    module = Network()
    loaders = [DataLoader(digits(ROWS, 96), BATCH), DataLoader(digits(0, ROWS), BATCH)]
    run = trainer([NeuralCollapseCallback()])
    module.validation_step = lambda batch, batch_idx, dataloader_idx=0: module.note(
        f"val{dataloader_idx}", batch
    )
    run.validate(module, loaders, verbose=False)
    assert_close(run.callback_metrics, module.reference("val0", 0), "val")
    assert_close(run.callback_metrics, module.reference("val1", 0), "val_1")


def test_the_classifier_of_an_epoch_is_the_one_that_the_last_features_met():
    module = Network()
    run = fit(module, [NeuralCollapseCallback()], max_epochs=1)
    met = module.noted["train_online", 0][-1][3]
    assert not torch.equal(met, module.fc.weight)  # the optimizer has stepped since
    reference = module.reference("train_online", 0)
    assert_close(run.callback_metrics, reference, "train_online")


def test_further_layers_are_logged_with_their_name():
    module = Network(dropout=0.0)
    callback = NeuralCollapseCallback(layers=["nor*", "hidden"])
    run = fit(module, [callback])
    module.eval()
    x, y = digits(ROWS, 96).tensors
    with torch.no_grad():
        h = module.hidden(module.frozen_norm(x))
        predicted = module(x).argmax(1)
    for name, features in (("hidden", h), ("norm", module.norm(h).detach())):
        reference = reference_measures(features.numpy(), y.numpy(), 10, predicted=predicted.numpy())
        reference = {k: v for k, v in reference.items() if not k.startswith("nc0/")}
        assert_close(run.callback_metrics, reference, "val", f"/{name}")
    assert set(callback.statistics) == {
        f"{stage}{layer}" for stage in ("val", "train_online") for layer in ("", "/hidden", "/norm")
    }


def test_history_and_statistics_hold_what_was_logged():
    callback = NeuralCollapseCallback(every_n_epochs=2, frozen_every_n_epochs=3)
    run = fit(Network(), [callback], max_epochs=5)
    epochs = [entry.epoch for entry in callback.history["nc1/cdnv/val"]]
    assert epochs == [0, 2, 4]
    assert [entry.epoch for entry in callback.history["nc1/cdnv/train"]] == [0, 3, 4]
    last = callback.history["nc1/cdnv/train"][-1]
    assert last.value == pytest.approx(float(run.callback_metrics["nc1/cdnv/train"]))
    assert int(callback.statistics["train"].num_samples) == ROWS


def test_tensorboard_holds_the_logged_keys(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    callback = NeuralCollapseCallback(prefix="run/", figures_every_n_epochs=0)
    fit(Network(), [callback], logger=logger, default_root_dir=tmp_path)
    events = EventAccumulator(logger.log_dir).Reload()
    assert set(callback.history) <= set(events.Tags()["scalars"])
    assert all(key.startswith("run/nc") for key in callback.history)
    for key in callback.history:
        written = [event.value for event in events.Scalars(key)]
        assert written == pytest.approx([entry.value for entry in callback.history[key]])
