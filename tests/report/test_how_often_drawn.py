"""In which epochs there are pictures: those that were asked for, or those that the run can afford."""

import logging
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from support.training import BATCH, ROWS, Network, fit

from lightning_nc import NeuralCollapseCallback, figures
from lightning_nc.figures import Picture
from lightning_nc.report import gallery


class Clock:
    """Stands still, but for what is told to take time."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(gallery, "time", clock)
    return clock


@pytest.fixture
def slow(clock, monkeypatch):
    """One picture, which takes ten seconds."""

    def draw(evidence, look, ax):
        clock.passes(10)
        return Figure(figsize=(1, 1)), None

    picture = Picture("slow", draw, needs=("statistics",))
    monkeypatch.setattr(figures, "PICTURES", {"slow": picture})


class Timed(Network):
    """Its epochs take ten seconds each."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self.clock.passes(10)


def epochs_drawn(tmp_path, clock, epochs, **settings):
    """The epochs with a picture."""
    logger = CSVLogger(tmp_path)
    callback = NeuralCollapseCallback(online=False, **settings)
    fit(Timed(clock), [callback], max_epochs=epochs, logger=logger, default_root_dir=tmp_path)
    # named by the last of an epoch's batches
    last = sorted(int(path.stem) for path in Path(logger.log_dir).rglob("*.png"))
    return [step // (ROWS // BATCH) for step in last]


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [0, 1, 2, 3, 4, 5, 6]), (2, [0, 2, 4, 6]), (5, [0, 5, 6]), (0, [])]
)
def test_what_was_asked_for_is_drawn_whatever_it_takes(every, expected, tmp_path, clock, slow, caplog):
    with caplog.at_level(logging.INFO):
        assert epochs_drawn(tmp_path, clock, 7, figures_every_n_epochs=every) == expected
    assert "pictures" not in caplog.text


def test_left_to_itself_it_draws_every_ten_epochs_what_the_run_can_afford(
    tmp_path, clock, slow, caplog
):
    with caplog.at_level(logging.INFO):
        # 10 s of drawing in 120 s, and the last one in any case
        assert epochs_drawn(tmp_path, clock, 14) == [0, 10, 13]
    assert "pictures" not in caplog.text


def test_pictures_that_wait_are_said_once_with_the_remedy(tmp_path, clock, slow, caplog, monkeypatch):
    monkeypatch.setattr(gallery, "AFFORDED", 0.05)
    with caplog.at_level(logging.INFO):
        drawn = epochs_drawn(tmp_path, clock, 36)
    # due in epoch 10, and affordable 200 s after the start
    assert drawn == [0, 18, 35]
    [text] = [record.getMessage() for record in caplog.records if "pictures" in record.getMessage()]
    assert text == (
        "NeuralCollapseCallback has spent 10.0 s on pictures, more than 5% of the run so far, and "
        "leaves out those of epoch 10 and others until they take less, but for the last epoch. Set "
        "figures_every_n_epochs=10 to have them every 10 epochs, however long they take, or 0 to have "
        "none."
    )
    assert NeuralCollapseCallback(figures_every_n_epochs=10)._plan.figures_every == 10


def test_the_remedy_is_one(tmp_path, clock, slow, caplog, monkeypatch):
    monkeypatch.setattr(gallery, "AFFORDED", 0.05)
    with caplog.at_level(logging.INFO):
        drawn = epochs_drawn(tmp_path, clock, 36, figures_every_n_epochs=10)
    assert drawn == [0, 10, 20, 30, 35]
    assert "pictures" not in caplog.text
