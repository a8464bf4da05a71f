"""EarlyStopping and ModelCheckpoint on our keys, at every setting of how often what is measured."""

import warnings

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader
from training import BATCH, ROWS, Network, digits, fit, trainer

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning


class Record(EarlyStopping):
    """Notes what it sees whenever it looks."""

    def __init__(self, key, **settings):
        super().__init__(key, mode="min", patience=100, **settings)
        self.seen = []

    def _run_early_stopping_check(self, trainer):
        super()._run_early_stopping_check(trainer)
        self.seen.append((trainer.current_epoch, float(trainer.callback_metrics[self.monitor])))


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
    # as the README says; if this ever passes, the advice there can go
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


@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
def test_windows_are_logged_at_their_own_steps(tmp_path):
    logger = CSVLogger(tmp_path)
    callback = NeuralCollapseCallback(every_n_steps=3, figures_every_n_epochs=0)
    look = Record("nc1/cdnv/train_online", check_on_train_epoch_end=True)
    # whatever log_every_n_steps says
    fit(Network(), [callback, look], logger=logger, max_epochs=3, log_every_n_steps=1000,
        default_root_dir=tmp_path)  # fmt: skip
    logger.save()
    lines = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    written = {
        int(row["step"]): float(row["nc1/cdnv/train_online"])
        for row in rows
        if row["nc1/cdnv/train_online"]
    }
    # twelve batches, numbered from 0
    assert sorted(written) == [2, 5, 8, 11]
    values = callback.history["nc1/cdnv/train_online"]
    assert [written[step] for step in sorted(written)] == pytest.approx([v.value for v in values])
    assert [epoch for epoch, _ in look.seen] == [0, 1, 2]


def test_a_window_longer_than_the_first_epoch_ends_with_it():
    callback = NeuralCollapseCallback(every_n_steps=5)
    look = Record("nc1/cdnv/train_online", check_on_train_epoch_end=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*bottleneck.*")
        warnings.filterwarnings("ignore", ".*LeafSpec.*")
        fit(Network(), [callback, look], max_epochs=4)
    samples = callback.history["nc0/num_samples/train_online"]
    assert [entry.step for entry in samples] == [4, 9, 14]
    assert [entry.value for entry in samples] == [ROWS, ROWS + 48, ROWS + 48]
    assert len(look.seen) == 4


@pytest.mark.filterwarnings("ignore:.*module.s. in eval mode at the start of training")
def test_a_second_run_does_not_inherit_what_the_first_has_logged():
    callback = NeuralCollapseCallback()
    run = fit(Network(), [callback], max_epochs=3)
    run.fit_loop.max_epochs = 5
    # the same Trainer goes on
    module = run.lightning_module
    run.fit(module, DataLoader(digits(), BATCH, shuffle=True), DataLoader(digits(ROWS, 96), BATCH))
    assert [v.epoch for v in callback.history["nc1/cdnv/val"]] == [0, 1, 2, 3, 4]
    # another one begins at the beginning
    fit(Network(), [callback], max_epochs=2)
    assert [v.epoch for v in callback.history["nc1/cdnv/val"]] == [0, 1]


def test_the_schedule_goes_on_from_a_checkpoint(tmp_path):
    def run(epochs, **settings):
        callback = NeuralCollapseCallback(online=False, every_n_epochs=3)
        keep = ModelCheckpoint(tmp_path, save_last=True)
        trained = fit(Network(), [callback, keep], max_epochs=epochs, enable_checkpointing=True,
                      default_root_dir=tmp_path, **settings)  # fmt: skip
        return trained, callback

    run(5)
    path = tmp_path / "last.ckpt"
    state = torch.load(path, weights_only=True)["callbacks"]
    [mine] = [value for key, value in state.items() if "NeuralCollapse" in key]
    assert mine["schedule"] == {"measured_in": {"val": 4}}
    callback = NeuralCollapseCallback(online=False, every_n_epochs=3)
    callback.load_state_dict(mine)
    assert [v.epoch for v in callback.history["nc1/cdnv/val"]] == [0, 3, 4]
    again = trainer([callback], max_epochs=9, default_root_dir=tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint.*")
        again.fit(
            Network(), DataLoader(digits(), 48), DataLoader(digits(ROWS, 96), BATCH), ckpt_path=path
        )
    assert [v.epoch for v in callback.history["nc1/cdnv/val"]] == [0, 3, 4, 7, 8]
