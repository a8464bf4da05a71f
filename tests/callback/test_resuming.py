"""Checkpoints, and runs that follow one another."""

import warnings

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from support.training import BATCH, ROWS, Network, digits, fit, trainer
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_history_survives_a_checkpoint(tmp_path):
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


@pytest.mark.parametrize(
    ("settings", "stage"),
    [
        ({"frozen_every_n_epochs": 3}, "train"),
        ({"every_n_epochs": 3}, "val"),
        ({"every_n_steps": 6}, "train_online"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_has_a_value_to_monitor_at_once(settings, stage, tmp_path):
    key = f"nc1/cdnv/{stage}"

    def run(epochs, **more):
        callback = NeuralCollapseCallback(**settings)
        # the training stages are there at the end of the training epoch
        stop = EarlyStopping(key, patience=9, check_on_train_epoch_end=True)
        keep = ModelCheckpoint(tmp_path, save_last=True, enable_version_counter=False)
        run = trainer([callback, stop, keep], max_epochs=epochs, enable_checkpointing=True,
                      default_root_dir=tmp_path)  # fmt: skip
        loaders = DataLoader(digits(), BATCH, shuffle=True), DataLoader(digits(ROWS, 96), BATCH)
        run.fit(Network(), *loaders, **more)
        return run, callback

    run(1)
    again, callback = run(2, ckpt_path=tmp_path / "last.ckpt")
    assert again.current_epoch == 2
    assert float(again.callback_metrics[key]) == pytest.approx(callback.history[key][-1].value)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
def test_a_checkpoint_that_is_only_tested_leaves_the_history_alone(tmp_path):
    callback = NeuralCollapseCallback()
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    run = fit(Network(), [callback, keep], max_epochs=3, enable_checkpointing=True,
              default_root_dir=tmp_path)  # fmt: skip
    path = str(tmp_path / "epoch=0.ckpt")
    run.test(Network(), DataLoader(digits(), BATCH), ckpt_path=path, verbose=False)
    assert [entry.epoch for entry in callback.history["nc1/cdnv/val"]] == [0, 1, 2]


def test_states_of_older_checkpoints_load():
    callback = NeuralCollapseCallback()
    callback.load_state_dict({"history": {"nc1/cdnv/val": [[0, 4, 0.5]]}})
    assert callback.history["nc1/cdnv/val"][0].value == 0.5
    callback.load_state_dict({})
    assert list(callback.history) == []


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
