"""EarlyStopping and ModelCheckpoint on our keys, at every setting of how often what is measured."""

import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from support.training import BATCH, Network, Record, digits, fit
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning

README = Path(__file__).parents[2] / "README.md"


def watch(stage, tmp_path, callback_settings, trainer_settings):
    """Train with both monitors on a stage; what they saw, and what was measured."""
    key = f"nc1/cdnv/{stage}"
    callback = NeuralCollapseCallback(**callback_settings)
    training = stage != "val"
    look = Record(key, check_on_train_epoch_end=training)
    keep = ModelCheckpoint(
        tmp_path, monitor=key, mode="min", save_top_k=-1, filename="{epoch}",
        auto_insert_metric_name=False, save_on_train_epoch_end=training,
    )  # fmt: skip
    run = fit(
        Network(),
        # in front of ours and behind it: the order does not matter
        [look, callback, keep],
        max_epochs=6,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
        **trainer_settings,
    )
    return run, callback.history[key], look, keep


@pytest.mark.parametrize("every", [1, 2, 3, 10])
@pytest.mark.parametrize(
    "trainer_settings",
    [{}, {"check_val_every_n_epoch": 2}, {"val_check_interval": 0.5}],
    ids=["every epoch", "every other epoch", "mid-epoch"],
)
@pytest.mark.parametrize("stage", ["train_online", "train", "val"])
def test_a_monitor_sees_the_latest_value_from_the_first_time_it_looks(
    stage, trainer_settings, every, tmp_path
):
    settings = {"every_n_epochs": every}
    if stage == "train":
        settings = {"frozen_every_n_epochs": every, "online": False}
    _, measured, look, keep = watch(stage, tmp_path, settings, trainer_settings)
    # the sanity check sees nothing
    assert look.seen
    assert len(look.seen) >= 6 // trainer_settings.get("check_val_every_n_epoch", 1)
    for epoch, value in look.seen:
        known = [entry for entry in measured if entry.epoch <= epoch]
        # several validation loops in an epoch: it sees each
        assert value in [pytest.approx(e.value) for e in known if e.epoch == known[-1].epoch]
    assert float(keep.best_model_score) == pytest.approx(min(entry.value for entry in measured))
    assert measured[0].epoch == look.seen[0][0]


def test_lightnings_defaults_look_too_early_for_the_training_stages(tmp_path):
    # as the docs/training.md says; if this ever passes, the advice there can go
    stop = EarlyStopping("nc1/cdnv/train_online", mode="min")
    with pytest.raises(RuntimeError, match="not available"):
        fit(Network(), [NeuralCollapseCallback(), stop], val_check_interval=0.5)


class Breaks(Network):
    def predict_step(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise RuntimeError("on purpose")
        return super().predict_step(batch, batch_idx)


def test_a_stage_that_failed_is_no_longer_the_best_and_stops_only_who_wants_to(tmp_path):
    key = "nc1/cdnv/train"

    def run(check_finite):
        callback = NeuralCollapseCallback(
            online=False, frozen_every_n_epochs=1, inference="predict_step"
        )
        stop = EarlyStopping(key, mode="min", patience=9, check_finite=check_finite)
        keep = ModelCheckpoint(tmp_path / str(check_finite), monitor=key, mode="min", save_top_k=1,
                               save_on_train_epoch_end=True)  # fmt: skip
        with pytest.warns(NeuralCollapseWarning, match="The frozen pass could not be measured"):
            run = fit(Breaks(), [callback, stop, keep], max_epochs=3, enable_checkpointing=True,
                      default_root_dir=tmp_path)  # fmt: skip
        return run, callback.history[key], keep

    run_, values, keep = run(check_finite=False)
    assert run_.current_epoch == 3
    assert [str(v.value) == "nan" for v in values] == [False, True, False]
    assert float(keep.best_model_score) == pytest.approx(min(values[0].value, values[2].value))
    run_, _, _ = run(check_finite=True)
    assert run_.current_epoch == 2


def test_early_stopping_and_checkpoints_see_the_values_from_the_first_epoch(tmp_path):
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


class Plain(Network):
    """Without the normalizations, which hide how few directions the means have at first."""

    def __init__(self):
        super().__init__(width=64)

    def features(self, x):
        return self.neck(self.hidden(x).relu()).relu()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def stopped_by(measure, seed):
    """Train for eight epochs, or until this value has not fallen for three."""
    key = f"{measure}/val"
    callback, stop = NeuralCollapseCallback(online=False), EarlyStopping(key, mode="min", patience=3)
    seed_everything(seed, verbose=False)
    train, val = digits(0, 1000), digits(1000, 400)
    run = fit(
        Plain(), [callback, stop], DataLoader(train, BATCH, shuffle=True), DataLoader(val, 200),
        max_epochs=8,
    )  # fmt: skip
    logged = (callback.history[k] for k in (key, "nc0/accuracy/val"))
    return run.current_epoch, *([entry.value for entry in entries] for entries in logged)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_monitor_of_the_pseudo_inverse_stops_a_network_that_learns_and_the_readmes_does_not(seed):
    # the means spread into one direction after the other, and each new one is short at first: its
    # reciprocal is what tr(Sw Sb^+) adds up
    epochs, values, accuracies = stopped_by("nc1/within_between_pinv", seed)
    assert epochs == 4
    assert values[0] < 0.9 < 1.1 < max(values)
    assert accuracies[0] < 0.65 < 0.85 < accuracies[-1]
    [monitored] = re.findall(r'monitor="([^"]+)/val"', README.read_text())
    epochs, values, accuracies = stopped_by(monitored, seed)
    assert (epochs, monitored) == (8, "nc1/cdnv")
    assert values[-1] < 0.6 * values[0]
    assert accuracies[-1] > 0.9
