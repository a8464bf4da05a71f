"""One class for each kind of logger: which it is, and what it is given."""

from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from matplotlib.figure import Figure

from lightning_nc.report.writers import (
    WRITERS,
    CometWriter,
    FileWriter,
    MlflowWriter,
    TensorBoardWriter,
    WandbWriter,
    to_each,
    writer_for,
)

GIF = b"GIF89a, and more"
METHODS = {
    WandbWriter: ("log_image", "log_video"),
    TensorBoardWriter: ("add_figure", "add_custom_scalars", "add_text"),
    MlflowWriter: ("log_figure", "log_artifact"),
    CometWriter: ("log_figure", "log_image"),
    FileWriter: (),
}
CALLS = {
    WandbWriter: ["log_image", "log_video"],
    TensorBoardWriter: ["add_figure", "add_custom_scalars", "add_text"],
    MlflowWriter: ["log_figure", "log_artifact"],
    CometWriter: ["log_figure", "log_image"],
    FileWriter: [],
}


def logger_like(kind, folder, *, only=None):
    """A logger that can do what one of this kind can, and the calls that it gets."""
    calls = []

    def noting(name):
        return lambda *args, **kwargs: calls.append((name, args, kwargs))

    able = SimpleNamespace(**{name: noting(name) for name in only or METHODS[kind]})
    logger = SimpleNamespace(experiment=able, save_dir=str(folder))
    if kind is WandbWriter:
        vars(logger).update(vars(able))
    if kind is MlflowWriter:
        logger.run_id = "run 7"
    return logger, calls


@pytest.mark.parametrize("kind", WRITERS)
def test_each_kind_of_logger_has_its_writer_and_is_given_what_it_takes(kind, tmp_path):
    logger, calls = logger_like(kind, tmp_path)
    writer = writer_for(logger)
    assert type(writer) is kind
    writer.figure("neural_collapse/plane/val", Figure(), 7)
    writer.animation("neural_collapse/plane/val", GIF, 7)
    writer.layout({"Neural collapse": {"NC1": ["Multiline", [".*"]]}})
    writer.text("neural_collapse", "words", 7)
    assert [name for name, _, _ in calls] == CALLS[kind]
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*"))
    gif = [] if kind is MlflowWriter else ["neural_collapse/plane/val.gif"]
    png = ["neural_collapse/plane/val/00000007.png"] if kind is FileWriter else []
    assert files == [*gif, *png]
    for file in files[: len(gif)]:
        assert (tmp_path / file).read_bytes() == GIF


def test_every_kind_of_writer_is_in_the_table_and_files_come_last():
    kinds, waiting = [], [FileWriter]
    while waiting:
        kinds.append(waiting.pop())
        waiting += kinds[-1].__subclasses__()
    assert set(kinds) == set(WRITERS)
    assert WRITERS[-1] is FileWriter


@pytest.mark.parametrize(
    ("kind", "only"),
    [
        (WandbWriter, ["log_image"]), (TensorBoardWriter, ["add_figure"]), (CometWriter, ["log_figure"])
    ],
)  # fmt: skip
def test_a_logger_that_takes_figures_alone_is_given_those(kind, only, tmp_path):
    logger, calls = logger_like(kind, tmp_path, only=only)
    writer = writer_for(logger)
    assert type(writer) is kind
    writer.figure("plane", Figure(), 7)
    writer.animation("plane", GIF, 7)
    writer.layout({})
    writer.text("plane", "words", 7)
    assert [name for name, _, _ in calls] == only
    assert (tmp_path / "plane.gif").read_bytes() == GIF


def test_the_loggers_of_lightning_have_their_writers(tmp_path):
    assert type(writer_for(TensorBoardLogger(tmp_path))) is TensorBoardWriter
    assert type(writer_for(CSVLogger(tmp_path))) is FileWriter


def test_one_that_fails_is_said_and_the_others_are_written_to():
    written, told = [], []

    def write(logger):
        if logger == "bad":
            raise OSError("disk full")
        written.append(logger)

    to_each(["good", "bad", "also good"], write, lambda kind, text: told.append(text))
    assert written == ["good", "also good"]
    [text] = told
    assert "str could not take" in text
    assert "OSError: disk full" in text


def test_a_logger_that_accepts_anything_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = writer_for(DummyLogger())
    writer.figure("a", Figure(), 1)
    writer.animation("a", b"GIF89a", 1)
    assert list(tmp_path.iterdir()) == []
