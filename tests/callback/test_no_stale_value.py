"""A key that has no value any more is NaN wherever somebody looks, not the value of another epoch."""

import csv
import math
import re
from contextlib import contextmanager

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from support.networks import Diverges
from support.training import BATCH, ROWS, Network, Record, digits, fit, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning

KEY = "nc1/cdnv/val"
VAL = digits(ROWS, 96)


class Tolerant(Network):
    """Its validation asks for no labels that count."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self(batch[0])


class ChangesItsData(Tolerant):
    """Validates on other data from the third epoch on."""

    def __init__(self, before, after):
        super().__init__()
        self.data = before, after

    def val_dataloader(self):
        loaders = self.data[self.current_epoch >= 2]
        return [DataLoader(each, BATCH) for each in loaders]

    def train_dataloader(self):
        return DataLoader(digits(), BATCH, shuffle=True)


def change_data(before, after, callback, epochs=3, **settings):
    """Train on data that change; beforehand all of them are of the classes."""
    run = trainer([callback], max_epochs=epochs, reload_dataloaders_every_n_epochs=1, **settings)
    run.fit(ChangesItsData(before, after))
    return run


def only(keep):
    """The rows of validation that are kept."""
    return Subset(VAL, [i for i, label in enumerate(VAL.tensors[1].tolist()) if keep(label)])


@contextmanager
def telling(*patterns):
    """Each of the patterns is told exactly once."""
    with pytest.warns(NeuralCollapseWarning) as told:
        yield
    texts = [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]
    for pattern in patterns:
        assert len([text for text in texts if re.search(pattern, text)]) == 1, (pattern, texts)


def values_of(history, key):
    return [entry.value for entry in history[key]]


def is_nan(values):
    return [math.isnan(value) for value in values]


def assert_gone(run, callback, stage, survivors=(), epochs=3):
    """All that the stage had logged is NaN, but for the survivors, in the history and for monitors."""
    keys = [key for key in callback.history if key.split("/")[2] == stage]
    assert len(keys) > len(survivors)
    for key in keys:
        entries = callback.history[key]
        gone = key not in survivors
        assert [entry.epoch for entry in entries] == list(range(epochs)), key
        assert math.isnan(entries[-1].value) == gone, key
        assert not any(is_nan(values_of(callback.history, key)[:2])), key
        for shown in (run.callback_metrics, run.logged_metrics):
            assert bool(shown[key].isnan()) == gone, key


@pytest.mark.parametrize("monitored", ["nc1/cdnv/val", "nc1/cdnv/train_online", "nc1/cdnv/train"])
def test_a_run_that_diverges_is_stopped_and_its_good_network_is_kept(monitored, tmp_path):
    callback = NeuralCollapseCallback(frozen_every_n_epochs=1)
    stop = EarlyStopping(monitored, mode="min", patience=9, check_finite=True)
    keep = ModelCheckpoint(
        tmp_path, monitor=monitored, mode="min", save_top_k=1, save_on_train_epoch_end=True
    )
    stage = monitored.split("/")[2]
    with telling(f"Stage {stage}: Expected at least one row with a label that counts"):
        run = fit(Diverges(), [callback, stop, keep], max_epochs=6, enable_checkpointing=True,
                  default_root_dir=tmp_path)  # fmt: skip
    # epochs 0 and 1, and the one that stopped it
    assert (run.current_epoch, stop.stopped_epoch) == (3, 2)
    good = values_of(callback.history, monitored)[:2]
    assert float(keep.best_model_score) == pytest.approx(min(good))
    kept = torch.load(keep.best_model_path, weights_only=True)
    assert kept["epoch"] == good.index(min(good))
    assert all(weight.isfinite().all() for weight in kept["state_dict"].values())
    assert_gone(run, callback, stage)


def test_the_loggers_get_the_nan_too_and_one_warning_says_why(tmp_path):
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "tb")]
    callback = NeuralCollapseCallback(online=False, figures_every_n_epochs=0)
    with telling("Stage val: Expected at least one row"):
        fit(Diverges(), [callback], max_epochs=4, logger=loggers, default_root_dir=tmp_path)
    with open(f"{loggers[0].log_dir}/metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row[KEY]]
    assert is_nan(float(row[KEY]) for row in rows) == [False, False, True, True]
    events = EventAccumulator(loggers[1].log_dir).Reload().Scalars(KEY)
    assert is_nan(event.value for event in events) == [False, False, True, True]


def test_the_warning_names_the_rows_that_were_there_and_could_not_count():
    with telling(r"Stage val: .* \(96 rows with a NaN or infinite feature were left out\)\.$"):
        fit(Diverges(), [NeuralCollapseCallback(online=False)], max_epochs=3)


IGNORED = TensorDataset(VAL.tensors[0], torch.full_like(VAL.tensors[1], -100))


class Nothing(IterableDataset):
    """A data set of unknown length that has come to its end."""

    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("after", "text"),
    [
        ([IGNORED], "Is the data loader empty, or is every label ignore_index"),
        ([Nothing()], "Is the data loader empty, or is every label ignore_index"),
        ([Subset(VAL, [])], "Is the data loader empty, or is every label ignore_index"),
    ],
    ids=["every label ignored", "a stream that has ended", "no rows"],
)
@pytest.mark.filterwarnings("ignore:Total length of `DataLoader` across ranks is zero")
def test_a_stage_without_rows_leaves_no_value_of_the_epoch_before(after, text):
    callback = NeuralCollapseCallback(online=False)
    with telling(text):
        run = change_data([VAL], after, callback)
    assert_gone(run, callback, "val")
    assert "val" not in callback.statistics or not int(callback.statistics["val"].num_samples)


@pytest.mark.filterwarnings("ignore:Total length of `DataLoader` across ranks is zero")
def test_one_loader_of_two_that_is_empty_takes_its_own_keys_alone():
    callback = NeuralCollapseCallback(online=False)
    with telling("Stage val_1: Expected at least one row"):
        run = change_data([VAL, VAL], [VAL, Subset(VAL, [])], callback)
    assert_gone(run, callback, "val_1")
    assert not any(is_nan(values_of(callback.history, KEY)))
    assert set(callback.statistics) == {"val"}


def test_keys_that_lose_their_meaning_are_nan_and_the_others_go_on():
    callback = NeuralCollapseCallback(online=False)
    with telling("Samples of a single class"):
        run = change_data([VAL], [only(lambda label: label == 3)], callback)
    counted = {f"nc0/{name}/val" for name in ("num_samples", "classes_seen", "accuracy")}
    assert_gone(run, callback, "val", survivors=counted)
    assert values_of(callback.history, "nc0/classes_seen/val") == [10, 10, 1]
    callback = NeuralCollapseCallback(online=False)
    with telling("needs at least 3 classes"):
        change_data([VAL], [only(lambda label: label in (3, 4))], callback)
    history = callback.history
    assert is_nan(values_of(history, KEY)) == [False, False, False]
    assert is_nan(values_of(history, "nc2/means_equiangularity/val")) == [False, False, True]


def test_keys_that_come_back_have_values_again():
    class Recovers(ChangesItsData):
        def val_dataloader(self):
            return DataLoader(self.data[self.current_epoch == 1][0], BATCH)

    callback = NeuralCollapseCallback(online=False)
    run = trainer([callback], max_epochs=3, reload_dataloaders_every_n_epochs=1)
    with telling("Is the data loader empty"):
        run.fit(Recovers([VAL], [IGNORED]))
    assert is_nan(values_of(callback.history, KEY)) == [False, True, False]
    assert not run.callback_metrics[KEY].isnan()


class FallsSilent(Network):
    """A layer beside the classifier that is used in the first two epochs alone."""

    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(16, 12)

    def features(self, x):
        h = super().features(x)
        if self.current_epoch < 2:
            self.extra(h)
        return h


@pytest.mark.parametrize("stage", ["train_online", "val"])
def test_a_layer_that_falls_silent_leaves_its_keys_nan(stage):
    callback = NeuralCollapseCallback(classifier="fc", layers=["extra"])
    with telling(rf"Stage {stage}: Expected the layers 'extra' to"):
        run = fit(FallsSilent(), [callback], max_epochs=3)
    of_layer = [key for key in callback.history if key.endswith(f"/{stage}/extra")]
    assert len(of_layer) > 5
    for key in of_layer:
        assert is_nan(values_of(callback.history, key)) == [False, False, True]
        assert run.callback_metrics[key].isnan()
    assert is_nan(values_of(callback.history, f"nc1/cdnv/{stage}")) == [False, False, False]
    assert f"{stage}/extra" not in callback.statistics


def test_what_was_never_logged_stays_unlogged():
    callback = NeuralCollapseCallback(online=False)
    with telling("Samples of a single class"):
        run = change_data([only(lambda label: label == 3)], [only(lambda label: label == 4)], callback)
    assert {key.split("/")[0] for key in callback.history} == {"nc0"}
    assert KEY not in run.callback_metrics


@pytest.mark.filterwarnings("ignore:.*module.s. in eval mode at the start of training")
def test_another_run_does_not_inherit_keys_that_it_cannot_log():
    callback = NeuralCollapseCallback(online=False)
    fit(Network(), [callback])
    with telling("Samples of a single class"):
        run = fit(Tolerant(), [callback], val=DataLoader(only(lambda label: label == 3), BATCH))
    assert {key.split("/")[0] for key in callback.history} == {"nc0"}
    assert KEY not in run.callback_metrics


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
def test_a_resumed_run_shows_nothing_of_what_is_no_longer_asked_for(tmp_path):
    first = NeuralCollapseCallback(online=False, layers=["neck", "norm"], measures=["nc1/*"])
    keep = ModelCheckpoint(tmp_path, save_last=True)
    fit(Network(), [first, keep], enable_checkpointing=True, default_root_dir=tmp_path)
    path = tmp_path / "last.ckpt"
    stored = torch.load(path, weights_only=True)
    again = NeuralCollapseCallback(online=False, layers=["neck"], measures=["nc1/cdnv", "nc0/*"])
    [state] = [s for key, s in stored["callbacks"].items() if "NeuralCollapse" in key]
    stored["callbacks"] = {again.state_key: state}
    torch.save(stored, path)
    look = Record(KEY)
    run = trainer([again, look], max_epochs=3, default_root_dir=tmp_path)
    run.fit(Network(), DataLoader(digits(), BATCH), DataLoader(VAL, BATCH), ckpt_path=path)
    ours = {key for key in run.callback_metrics if key.startswith("nc")}
    assert {key for key in ours if key.startswith("nc1")} == {KEY, f"{KEY}/neck"}
    assert [entry.epoch for entry in again.history[KEY]] == [0, 1, 2]
    # their past stays
    assert [entry.epoch for entry in again.history[f"{KEY}/norm"]] == [0, 1]
    assert not any(math.isnan(entry.value) for key in again.history for entry in again.history[key])


def test_the_progress_bar_does_not_go_on_with_the_last_value():
    callback = NeuralCollapseCallback(online=False, prog_bar=True)
    with telling("Stage val: Expected at least one row"):
        run = fit(Diverges(), [callback], max_epochs=3)
    assert math.isnan(run.progress_bar_metrics["NC1 val"])


def test_windows_of_steps_have_no_stale_value_either():
    callback = NeuralCollapseCallback(every_n_steps=4)
    with telling("Stage train_online: Expected at least one row"):
        run = fit(Diverges(), [callback], max_epochs=3)
    assert is_nan(values_of(callback.history, "nc1/cdnv/train_online")) == [False, False, True]
    assert run.callback_metrics["nc1/cdnv/train_online"].isnan()
