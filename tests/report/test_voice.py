"""What goes wrong is told by what it costs, and by what it began with."""

import re
from dataclasses import replace

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from support.training import Network, fit
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning, figures
from lightning_nc.report.voice import Lost, Voice
from lightning_nc.report.writers import to_each
from lightning_nc.values.errors import OutOfStep


def texts_of(told):
    return [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]


@pytest.mark.parametrize(
    ("lost", "text"),
    [
        (Lost.BATCH, "could not be measured and is left out: the values rest on the other batches;"),
        (Lost.VALUES, "could not be measured: its values are NaN;"),
        (
            Lost.LOG,
            "has failed: its values of this time are missing from the logs or from the history;",
        ),
        (Lost.PICTURES, "has failed: pictures of this time are missing, and the values are logged"),
    ],
)
def test_each_failure_says_what_it_costs_and_nothing_else(lost, text):
    def fail_twice(voice):
        for _ in range(2):
            with voice.harmless("This", lost=lost):
                raise KeyError("on purpose")

    with pytest.warns(NeuralCollapseWarning) as told:
        fail_twice(Voice())
    [message] = texts_of(told)
    assert message.startswith(f"This {text}")
    assert "KeyError: 'on purpose'" in message
    assert ("NaN" in message) == (lost is Lost.VALUES)


def test_what_would_hang_the_other_ranks_is_raised():
    with pytest.raises(OutOfStep), Voice().harmless("This"):
        raise OutOfStep("on purpose")


def test_a_picture_that_fails_costs_no_value_and_says_so(tmp_path, monkeypatch):
    def breaks(*args):
        raise RuntimeError("no such font")

    broken = replace(figures.PICTURES["plane"], draw=breaks)
    of_run = replace(figures.PICTURES["summary"], draw=breaks)
    monkeypatch.setattr(figures, "PICTURES", {"plane": broken, "summary": of_run})
    logger = CSVLogger(tmp_path)
    callback = NeuralCollapseCallback(online=False)
    with pytest.warns(NeuralCollapseWarning) as told:
        fit(Network(), [callback], logger=logger, default_root_dir=tmp_path)
    texts = texts_of(told)
    assert [text.split(":")[0] for text in texts] == [
        "Drawing stage val has failed", "Drawing the run has failed"
    ]  # fmt: skip
    for text in texts:
        assert "pictures of this time are missing, and the values are logged all the same" in text
        assert "NaN" not in text
        assert "no such font" in text
    assert all(entry.value == entry.value for entry in callback.history["nc1/cdnv/val"])


def test_a_batch_that_fails_is_not_said_to_cost_the_stage():
    class Fails(Network):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if batch_idx == 2:
                self(batch[0].repeat(2, 1))
            return loss

    callback = NeuralCollapseCallback()
    with pytest.warns(NeuralCollapseWarning, match="rest on the other batches") as told:
        fit(Fails(), [callback])
    assert not any("NaN" in text.splitlines()[0] for text in texts_of(told))
    assert [entry.value for entry in callback.history["nc0/num_samples/train_online"]] == [144, 144]


FULL = OSError(28, "No space left on device")


class Disk:
    """Full from the first epoch's end on, for some writes; then somebody has made room."""

    def __init__(self, wrapped, writes):
        self.wrapped, self.writes = wrapped, writes

    def __get__(self, instance, owner):
        return lambda *args, **kwargs: self(instance, *args, **kwargs)

    def __call__(self, instance, *args, **kwargs):
        if self.writes:
            self.writes -= 1
            raise FULL
        return self.wrapped(instance, *args, **kwargs)


class FullDisk(Network):
    """Finds the disk full when the validation of its first epoch has begun."""

    def __init__(self, fill):
        super().__init__()
        self.fill = fill

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking and self.current_epoch == 0:
            self.fill()


def run_full(logger, fill, tmp_path):
    callback = NeuralCollapseCallback(online=False, figures_every_n_epochs=0)
    with pytest.warns(NeuralCollapseWarning) as told:
        run = fit(FullDisk(fill), [callback], logger=logger, default_root_dir=tmp_path)
    assert run.current_epoch == 2
    assert len(callback.history["nc1/cdnv/val"]) == 2
    [text] = texts_of(told)
    return text


def test_a_full_disk_is_named_where_tensorboard_calls_it_a_wrong_value(tmp_path, monkeypatch):
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)

    def fill():
        monkeypatch.setattr(EventFileWriter, "add_event", Disk(EventFileWriter.add_event, 1))

    # ours is the first to write: nothing else is logged
    text = run_full(logger, fill, tmp_path)
    assert re.match(
        r"TensorBoardLogger could not take the values of NeuralCollapseCallback, and training goes on "
        r"without: OSError: \[Errno 28\] No space left on device \(told as ValueError: you tried to "
        r"log [\d.]+ which is currently not supported\.",
        text,
    )
    assert text.endswith("This is said once; monitors and the history have them.")


def test_a_full_disk_is_named_by_the_csv_logger(tmp_path, monkeypatch):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)

    def fill():
        kind = type(logger.experiment)
        monkeypatch.setattr(kind, "save", Disk(kind.save, 1))

    text = run_full(logger, fill, tmp_path)
    assert "without: OSError: [Errno 28] No space left on device. This is said once" in text
    assert "figures" not in text


def cause_told(error):
    told = []

    def write(_):
        raise error

    to_each(["logger"], write, lambda kind, text: told.append(text), "values")
    [text] = told
    return text.split("without: ")[1].split(". This is said")[0]


def raised(error, before=None, hides=False):
    """An error as it arrives: with the one that it was told in the place of."""
    try:
        try:
            if before is not None:
                raise before
        finally:
            raise error from (None if hides else before)
    except Exception as arrived:
        return arrived


def test_the_root_of_a_chain_is_told_with_what_it_became():
    assert cause_told(ValueError("a")) == "ValueError: a"
    assert cause_told(raised(ValueError("a"), FULL)) == (
        "OSError: [Errno 28] No space left on device (told as ValueError: a)"
    )
    middle = raised(KeyError("b"), FULL)
    assert cause_told(raised(ValueError("a"), middle)) == (
        "OSError: [Errno 28] No space left on device (told as ValueError: a)"
    )
    hidden = raised(ValueError("a"), KeyError("b"), hides=True)
    assert cause_told(hidden) == "ValueError: a"
    implicit = ValueError("a")
    implicit.__context__ = KeyError("b")
    assert cause_told(implicit) == "KeyError: 'b' (told as ValueError: a)"
    around = KeyError("b")
    around.__cause__, implicit.__cause__ = implicit, around
    assert cause_told(implicit) == "KeyError: 'b' (told as ValueError: a)"


def test_values_and_pictures_that_a_logger_cannot_take_are_told_apart():
    told = {}

    def write(_):
        raise FULL

    for what in ("values", "pictures", "values"):
        to_each(["logger"], write, told.__setitem__, what)
    assert len(told) == 2
    assert [text.partition("This is said once")[2] for text in told.values()] == [
        "; monitors and the history have them.", "; figures_every_n_epochs=0 turns them off."
    ]  # fmt: skip
