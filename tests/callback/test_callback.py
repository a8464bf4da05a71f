"""The callback in real Trainers: what it logs is right, and training does not notice it."""

import copy
import pickle
import random
import warnings

import jaxtyping
import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader
from training import BATCH, ROWS, Network, Noisy, assert_close, digits, fit, trainer

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning


def situation(name):
    """Training data and Trainer settings of a situation."""
    settings = {}
    data = Noisy(digits()) if "augmentation" in name else digits()
    own = torch.Generator().manual_seed(3) if "generator" in name else None
    workers = {"num_workers": 1, "persistent_workers": True} if "workers" in name else {}
    if "mid-epoch" in name:
        settings["val_check_interval"] = 0.5
    loader = DataLoader(data, BATCH, shuffle=True, generator=own, **workers)
    return loader, settings


def fingerprint(name, callbacks=()):
    """Everything that training leaves behind."""
    seed_everything(0, verbose=False)
    loader, settings = situation(name)
    module = Network()
    run = fit(module, callbacks, train=loader, **settings)
    drawn = loader.dataset.generator.bit_generator.state if isinstance(loader.dataset, Noisy) else None
    return {
        "module": module,
        "logged": dict(run.callback_metrics),
        "state": {k: v.clone() for k, v in module.state_dict().items()},
        "order": torch.cat(module.order),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "generator": None if loader.generator is None else loader.generator.get_state(),
        "augmentation": drawn,
        "modes": [m.training for m in module.modules()],
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()),
    }


MODES = {
    "val only": {"online": False},
    "online": {},
    "frozen": {"frozen_every_n_epochs": 1, "inference": "predict_step"},
}
SITUATIONS = (
    "plain",
    "persistent workers",
    "mid-epoch validation",
    "own generator",
    "own augmentation",
    "own augmentation, mid-epoch validation, persistent workers, own generator",
)


@pytest.fixture(scope="module", autouse=True)
def _no_shape_checks():
    # the checker draws from Python's global random state, which is compared here
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def without():
    return {name: fingerprint(name) for name in SITUATIONS}


@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_training_is_bit_identical_and_the_logged_values_are_right(mode, name, without):
    callback = NeuralCollapseCallback(**MODES[mode])
    seen, plain = fingerprint(name, [callback]), without[name]
    for key, value in plain["state"].items():
        assert torch.equal(seen["state"][key], value), key
    for key in ("order", "torch"):
        assert torch.equal(seen[key], plain[key]), key
    for key in ("numpy", "python", "augmentation", "modes", "hooks"):
        assert seen[key] == plain[key], key
    assert (seen["generator"] is None) == (plain["generator"] is None)
    if plain["generator"] is not None:
        assert torch.equal(seen["generator"], plain["generator"])

    module, logged = seen["module"], seen["logged"]
    assert_close(logged, module.reference("val", epoch=1), "val")
    stages = {key.split("/")[2] for key in logged if key.startswith("nc")}
    expected = {"val only": {"val"}, "online": {"val", "train_online"}}
    assert stages == expected.get(mode, {"val", "train_online", "train"})
    if mode != "val only":
        assert_close(logged, module.reference("train_online", epoch=1), "train_online")
    if mode == "frozen":
        assert float(logged["nc0/num_samples/train"]) == ROWS
        rows = module.noted["train", 1]
        assert sum(len(row[0]) for row in rows) == ROWS
        assert_close(logged, module.reference("train", epoch=1), "train")


def test_the_fingerprint_sees_a_callback_that_draws_a_random_number(without):
    class Meddler(NeuralCollapseCallback):
        def on_validation_epoch_end(self, trainer, pl_module):
            torch.rand(1)

    seen = fingerprint("plain", [Meddler(online=False)])
    assert not torch.equal(seen["torch"], without["plain"]["torch"])
    assert not all(
        torch.equal(seen["state"][key], value) for key, value in without["plain"]["state"].items()
    )


def test_val_values_equal_the_functional_api_on_features_computed_by_hand():
    from lightning_nc import LinearClassifier, functional
    from lightning_nc.values.statistics import ClassStatistics, FeatureSample

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
    evidence = functional.Evidence.of(statistics, classifier, decisions)
    values, reasons = functional.evaluate(functional.select(["default"]), evidence)
    assert not reasons
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
    from oracles import reference_measures

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


def test_early_stopping_and_checkpoints_see_the_values_from_the_first_epoch(tmp_path):
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

    stop = EarlyStopping("nc1/cdnv/train", mode="min", patience=5)
    keep = ModelCheckpoint(tmp_path, monitor="nc1/cdnv/val", mode="min", save_top_k=1)
    callback = NeuralCollapseCallback(frozen_every_n_epochs=1)
    fit(
        Network(),
        [stop, keep, callback],
        max_epochs=3,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    )
    best = min(entry.value for entry in callback.history["nc1/cdnv/val"])
    assert float(keep.best_model_score) == pytest.approx(best)
    best = min(entry.value for entry in callback.history["nc1/cdnv/train"])
    assert float(stop.best_score) == pytest.approx(best)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_history_survives_a_checkpoint(tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    first = NeuralCollapseCallback()
    keep = ModelCheckpoint(tmp_path, save_last=True)
    fit(Network(), [first, keep], enable_checkpointing=True, default_root_dir=tmp_path)
    again = NeuralCollapseCallback()
    run = trainer(
        [again, ModelCheckpoint(tmp_path, save_last=True)],
        max_epochs=4,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    )
    run.fit(
        Network(),
        DataLoader(digits(), BATCH, shuffle=True),
        DataLoader(digits(ROWS, 96), BATCH),
        ckpt_path=keep.last_model_path,
    )
    assert [entry.epoch for entry in again.history["nc1/cdnv/val"]] == [0, 1, 2, 3]
    assert again.history["nc1/cdnv/val"][:2] == first.history["nc1/cdnv/val"]


def test_tensorboard_holds_the_logged_keys(tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    callback = NeuralCollapseCallback(prefix="run/", figures_every_n_epochs=0)
    fit(Network(), [callback], logger=logger, default_root_dir=tmp_path)
    events = EventAccumulator(logger.log_dir).Reload()
    assert set(callback.history) <= set(events.Tags()["scalars"])
    assert all(key.startswith("run/nc") for key in callback.history)
    for key in callback.history:
        written = [event.value for event in events.Scalars(key)]
        assert written == pytest.approx([entry.value for entry in callback.history[key]])


def test_hooks_are_gone_after_an_exception():
    class Fails(Network):
        def validation_step(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                raise RuntimeError("on purpose")

    module = Fails()
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(module, [NeuralCollapseCallback(classifier="fc")], num_sanity_val_steps=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def val_epochs(callback):
    return [entry.epoch for entry in callback.history["nc1/cdnv/val"]]


@pytest.mark.parametrize(
    ("every", "check", "expected"),
    [(1, 1, [0, 1, 2, 3, 4, 5, 6]), (2, 2, [1, 3, 5]), (3, 2, [1, 5]), (10, 3, [2])],
)
def test_val_is_measured_at_its_first_loop_and_then_every_so_many_epochs(every, check, expected):
    callback = NeuralCollapseCallback(online=False, every_n_epochs=every)
    fit(Network(), [callback], max_epochs=7, check_val_every_n_epoch=check)
    assert val_epochs(callback) == expected


def test_the_last_epoch_is_known_from_max_steps_too():
    callback = NeuralCollapseCallback(online=False, frozen_every_n_epochs=10)
    fit(Network(), [callback], max_epochs=-1, max_steps=12)
    assert [entry.epoch for entry in callback.history["nc1/cdnv/train"]] == [0, 2]


def test_epochs_that_are_not_measured_hold_no_forward():
    held = []

    class Watch(NeuralCollapseCallback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            super().on_train_batch_end(trainer, pl_module, *args)
            capture = self._observed.capture
            held.append((capture.counted, capture._current.features))

    fit(Network(), [Watch(forwards="all", every_n_epochs=3)], max_epochs=3)
    fit(Network(), [Watch(online=False)], num_sanity_val_steps=0)
    assert set(held) == {(None, None)}


def test_forwards_outside_a_measured_step_are_left_alone():
    class Wanders(Network):
        def on_train_epoch_end(self):
            self.neck(torch.zeros(2, 3, 32))  # a shape that no pool is told for

        def on_train_epoch_start(self):
            super().on_train_epoch_start()
            self.neck(torch.zeros(2, 3, 32))

    fit(Wanders(), [NeuralCollapseCallback(layers=["neck"], every_n_epochs=2)], max_epochs=3)


def test_a_copy_of_the_network_is_not_the_network():
    class Student(Network):
        def on_fit_start(self):
            self.__dict__["teacher"] = None

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if self.teacher is None:
                self.__dict__["teacher"] = copy.deepcopy(self.fc)
                pickle.loads(pickle.dumps(self.fc))
            self.teacher(torch.full((len(batch[0]), 16), 7.0))
            return loss

    module = Student()
    run = fit(module, [NeuralCollapseCallback()])
    assert_close(run.callback_metrics, module.reference("train_online", 1), "train_online")


@pytest.mark.filterwarnings("ignore:.*by no more than their sampling noise")
def test_the_first_of_several_forwards_meets_its_own_weights():
    class Twice(Network):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            for step in range(2):
                if step == 0:
                    loss = super().training_step(batch, batch_idx)
                else:
                    loss = self(torch.rand_like(batch[0])).square().mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

    module = Twice()
    run = fit(module, [NeuralCollapseCallback(forwards="first")])
    assert_close(run.callback_metrics, module.reference("train_online", 1), "train_online")
    with pytest.warns(NeuralCollapseWarning, match="2 forwards of the classifier ran in one step"):
        fit(Twice(), [NeuralCollapseCallback()])


def test_features_changed_in_place_after_the_classifier_are_measured_as_they_were():
    class InPlace(Network):
        def validation_step(self, batch, batch_idx):
            h = self.features(batch[0])
            kept = h.clone()
            logits = self.fc(h)
            h.mul_(0)
            self.noted.setdefault(("val", self.current_epoch), []).append(
                (kept, batch[1], logits.argmax(1), self.fc.weight.clone(), self.fc.bias.clone())
            )

    module = InPlace()
    run = fit(module, [NeuralCollapseCallback(online=False)], num_sanity_val_steps=0)
    assert_close(run.callback_metrics, module.reference("val", 1), "val")


def test_a_transformer_with_padding_keeps_its_kernels_and_is_measured():
    class Encoder(Network):
        def __init__(self):
            super().__init__()
            layer = torch.nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
            self.encoder = torch.nn.TransformerEncoder(layer, 2)
            self.fc = torch.nn.Linear(16, 10)

        def features(self, x):
            tokens = x.view(len(x), 4, 16)
            padding = torch.zeros(len(x), 4, dtype=torch.bool)
            padding[::2, -2:] = True
            return self.encoder(tokens, src_key_padding_mask=padding)[:, 0]

    module = Encoder()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*nested tensors.*")
        run = fit(module, [NeuralCollapseCallback()], max_epochs=1)
    assert_close(run.callback_metrics, module.reference("val", 0), "val")
    named = NeuralCollapseCallback(classifier="fc")
    named.on_fit_start(run, module)
    assert not any(m._forward_hooks for m in module.encoder.modules())
    named.teardown(run, module, "fit")


def test_batches_without_labels_are_left_out_by_the_target_function():
    module = Network()
    labels = iter([None, digits(ROWS, 96).tensors[1][BATCH:]])
    run = trainer([NeuralCollapseCallback(target=lambda batch: next(labels))])
    run.test(module, DataLoader(digits(ROWS, 96), BATCH), verbose=False)
    assert float(run.callback_metrics["nc0/num_samples/test"]) == BATCH
