"""In which epochs, and at the end of which windows of steps, a stage is measured."""

import warnings

import pytest
from lightning.pytorch.loggers import CSVLogger
from support.training import ROWS, Network, Record, fit

from lightning_nc import NeuralCollapseCallback


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


def test_a_wish_to_stop_before_the_least_number_of_epochs_is_no_last_epoch():
    class Wishes(Network):
        def on_train_batch_end(self, *args):
            self.trainer.should_stop = True

    callback = NeuralCollapseCallback(every_n_epochs=10, frozen_every_n_epochs=10)
    fit(Wishes(), [callback], max_epochs=9, min_epochs=6)
    for stage in ("train", "val", "train_online"):
        assert [entry.epoch for entry in callback.history[f"nc1/cdnv/{stage}"]] == [0, 5]


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
