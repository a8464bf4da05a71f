"""When there is something to look at, and to whom it is shown."""

from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure

from lightning_nc import ClassStatistics
from lightning_nc.report import gallery
from lightning_nc.report.gallery import Gallery
from lightning_nc.values import ClassEvidence, History, stage_of


class Logs:
    """A logger that takes all that there is, and notes it."""

    def __init__(self):
        self.experiment, self.taken = self, []

    def add_figure(self, key, figure, global_step, close):
        self.taken.append(("figure", key, global_step))

    def add_custom_scalars(self, charts):
        self.taken.append(("layout", *charts))

    def add_text(self, key, text, global_step):
        self.taken.append(("text", key, global_step))


@pytest.fixture
def logger():
    return Logs()


def trainer_of(*loggers, batches=8, rank=0):
    """As much of a Trainer as a gallery looks at."""
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=batches))
    return SimpleNamespace(loggers=list(loggers), is_global_zero=rank == 0, fit_loop=loop)


def of_three_classes():
    y = torch.arange(12) % 3
    h = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(3, 4)[y]
    return ClassEvidence(ClassStatistics.from_batch(h, y, 3))


def test_drawing_waits_until_the_run_can_afford_it(monkeypatch):
    now = iter([0.0, 1.0, 5.0, 90.0])
    monkeypatch.setattr(gallery.time, "monotonic", lambda: next(now))
    shown = Gallery(["nc1/cdnv"], "", None, say=print)
    assert shown.affords(epoch=0, is_last=False)
    shown._spent = 8.0
    assert not shown.affords(epoch=10, is_last=False)
    # decided once for all stages of an epoch, but the last one is drawn in any case
    assert shown.affords(epoch=10, is_last=True)
    assert shown.affords(epoch=20, is_last=False)


def test_the_layout_is_given_once_and_on_the_first_rank_alone(logger):
    shown = Gallery(["nc1/cdnv"], "", None, say=print)
    shown.hang(trainer_of(logger, rank=1), History())
    shown.hang(trainer_of(), History())
    assert logger.taken == []
    for _ in range(2):
        shown.hang(trainer_of(logger), History())
    assert logger.taken == [("layout", "Neural collapse", "Neural collapse: all of NC1")]


@pytest.mark.parametrize(("loop", "step"), [("fit", 7), ("frozen", 7), ("validate", 8), ("test", 8)])
def test_pictures_of_a_stage_are_at_the_step_of_its_values(loop, step, logger):
    shown, stage = Gallery(["nc1/cdnv"], "mine/", ["a", "b", "c"], say=print), stage_of(loop)
    shown.show_stage(trainer_of(logger), stage, of_three_classes())
    keys = [f"mine/neural_collapse/{name}/{stage.name}" for name in ("cosines", "spectra", "classes")]
    assert logger.taken == [("figure", key, step) for key in keys]
    assert shown._spent > 0


def test_a_run_has_pictures_and_words(logger):
    shown = Gallery(["nc1/cdnv"], "mine/", None, say=print)
    history = History().extended(0, 7, {"mine/nc1/cdnv/val": 0.5})
    shown.show_run(trainer_of(logger), history, layers=[])
    assert logger.taken == [
        ("figure", "mine/neural_collapse/summary", 7), ("text", "mine/neural_collapse", 7)
    ]  # fmt: skip
    logger.taken.clear()
    shown.show_run(trainer_of(logger), History(), layers=[], is_last=True)
    assert [kind for kind, *_ in logger.taken] == ["figure"]


def test_animations_come_with_the_last_epoch(logger, monkeypatch):
    shown, moved = Gallery([], "", None, say=print), []
    monkeypatch.setattr(shown._album, "of_run", lambda *_: [("run", Figure())])
    monkeypatch.setattr(shown._album, "animations", lambda: [("a", b"GIF89a")])
    monkeypatch.setattr(
        "lightning_nc.report.writers.TensorBoardWriter.animation", lambda _, *args: moved.append(args)
    )
    shown.show_run(trainer_of(logger), History(), layers=[])
    assert moved == []
    shown.show_run(trainer_of(logger), History(), layers=[], is_last=True)
    assert moved == [("a", b"GIF89a", 7)]


def test_a_logger_that_raises_is_said_once_and_the_others_are_written_to(logger):
    class Raises(Logs):
        def add_figure(self, *args, **kwargs):
            raise OSError("disk full")

    told = []
    shown = Gallery([], "", None, say=lambda kind, text: told.append((kind, text)))
    shown.show_stage(trainer_of(Raises(), logger), stage_of("validate"), of_three_classes())
    assert len(logger.taken) == 3
    assert len({kind for kind, _ in told}) == 1
    assert all("OSError: disk full" in text for _, text in told)
