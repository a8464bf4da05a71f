"""Pictures and scalars in real loggers: what they have stored is read back."""

import json
import re
import zipfile
from pathlib import Path

import pytest
from lightning.pytorch.loggers import (
    CometLogger,
    CSVLogger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from PIL import Image
from support.training import BATCH, ROWS, Network, digits, fit, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning, figures
from lightning_nc.report.dashboard import layout

STAGES = ("train_online", "val")
PICTURES = {f"neural_collapse/{name}/{stage}" for name in ("cosines", "plane", "spectra", "classes")
            for stage in STAGES} | {"neural_collapse/summary"}  # fmt: skip
ANIMATIONS = {f"neural_collapse/animation/{stage}" for stage in STAGES}


@pytest.fixture(autouse=True)
def _draw_whatever_it_takes(monkeypatch):
    monkeypatch.setattr("lightning_nc.report.gallery.AFFORDED", float("inf"))


NAMES = list("abcdefghij")
FEW = {f"neural_collapse/plane/{stage}" for stage in STAGES}


@pytest.fixture
def few_pictures(monkeypatch):
    """The plane of three classes alone: drawing takes longer than what is tested."""
    monkeypatch.setattr(figures, "PICTURES", {"plane": figures.PICTURES["plane"]})


def train(logger, tmp_path, epochs=4, **settings):
    callback = NeuralCollapseCallback(figures_every_n_epochs=2, class_names=NAMES, **settings)
    run = fit(Network(), [callback], max_epochs=epochs, logger=logger, default_root_dir=tmp_path)
    return run, callback


def test_tensorboard_has_pictures_layout_words_and_an_animation_on_one_axis(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    _, callback = train(logger, tmp_path)
    events = EventAccumulator(logger.log_dir, {"images": 0, "tensors": 0}).Reload()
    assert set(events.Tags()["images"]) == PICTURES | ANIMATIONS
    # epochs 0 and 2, and the last
    scalars = [event.step for event in events.Scalars("nc1/cdnv/val")]
    for stage in STAGES:
        steps = [event.step for event in events.Images(f"neural_collapse/plane/{stage}")]
        of_stage = [event.step for event in events.Scalars(f"nc1/cdnv/{stage}")]
        assert steps == [of_stage[i] for i in (0, 2, 3)]
    assert [event.step for event in events.Images("neural_collapse/summary")] == [
        scalars[i] for i in (0, 2, 3)
    ]
    [layout] = events.Tensors("custom_scalars__config__")
    text = layout.tensor_proto.string_val[0].decode("latin1")
    assert text.index("NC1 within_between_pinv") < text.index("NC4 ncc_mismatch")
    words = events.Tensors("neural_collapse/text_summary")
    assert len(words) == 3
    last = words[-1].tensor_proto.string_val[0].decode()
    assert "after epoch 3" in last
    shown = f"{callback.history['nc1/cdnv/val'][-1].value:.3g}"
    assert any("| nc1/cdnv |" in line and shown in line for line in last.splitlines())
    [gif] = events.Images("neural_collapse/animation/val")
    assert gif.encoded_image_string.startswith(b"GIF89a")
    with Image.open(Path(logger.log_dir) / "neural_collapse/animation/val.gif") as image:
        assert (image.n_frames, image.info["loop"]) == (3, 0)


def test_the_charts_find_their_scalars_behind_a_logger_prefix(tmp_path, few_pictures):
    logger = TensorBoardLogger(tmp_path, prefix="run/7", sub_dir="deep")
    _, callback = train(logger, tmp_path, prefix="mine/", layers=["neck"])
    events = EventAccumulator(logger.log_dir).Reload()
    tags = events.Tags()["scalars"]
    charts = layout({measure.key for measure in callback._plan.task.measures}, "mine/")
    for title, chart in charts["Neural collapse"].items():
        [pattern] = chart[1]
        found = [tag for tag in tags if re.match(pattern, tag)]
        # a layer has neither an accuracy nor a classifier of its own
        layered = 0 if title.startswith(("accuracy", "NC3")) else 2
        assert len(found) == len(STAGES) + layered, (title, found)
    assert {f"mine/{name}" for name in FEW | ANIMATIONS} == set(events.Tags()["images"])


def test_without_a_way_to_take_figures_they_are_files_beside_the_logs(tmp_path):
    logger = CSVLogger(tmp_path)
    _, callback = train(logger, tmp_path, epochs=2)
    folder = Path(logger.log_dir)
    files = {str(p.parent.relative_to(folder)) for p in folder.rglob("*.png")}
    assert files == PICTURES
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 150
            assert len(image.convert("RGB").getcolors(2**24)) > 20  # something is drawn
    assert {str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.gif")} == ANIMATIONS
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert set(callback.history.keys()) <= set(header)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:There is a wandb run already in progress")
def test_weights_and_biases_offline_has_pictures_and_scalars(tmp_path, monkeypatch, few_pictures):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="digits")
    _, callback = train(logger, tmp_path)
    stored = dict(logger.experiment.summary)
    folder = Path(logger.experiment.dir) / "media/images"
    wandb.finish()
    for key in callback.history.keys():  # noqa: SIM118
        assert stored[key] == pytest.approx(callback.history[key][-1].value, nan_ok=True)
    shown = {str(path.relative_to(folder)).rsplit("_", 2)[0] for path in folder.rglob("*.png")}
    assert shown == FEW
    videos = folder.with_name("videos")
    assert {str(p.relative_to(videos)).rsplit("_", 2)[0] for p in videos.rglob("*.gif")} == ANIMATIONS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_mlflow_on_a_local_store_has_pictures_and_scalars(tmp_path, few_pictures):
    pytest.importorskip("mlflow")
    logger = MLFlowLogger(
        "digits",
        tracking_uri=f"sqlite:///{tmp_path}/runs.db",
        artifact_location=f"file://{tmp_path}/files",
    )
    _, callback = train(logger, tmp_path)
    client, run_id = logger.experiment, logger.run_id
    metrics = client.get_run(run_id).data.metrics
    for key in callback.history.keys():  # noqa: SIM118
        assert metrics[key] == pytest.approx(callback.history[key][-1].value, nan_ok=True)

    def files(folder):
        for item in client.list_artifacts(run_id, folder):
            if item.is_dir:
                yield from files(item.path)
            else:
                yield item.path

    stored = list(files("neural_collapse"))
    assert {str(Path(path).parent) for path in stored if path.endswith(".png")} == FEW
    assert {path.removesuffix(".gif") for path in stored if path.endswith(".gif")} == ANIMATIONS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_comet_offline_has_pictures_and_scalars(tmp_path, monkeypatch, few_pictures):
    comet = pytest.importorskip("comet_ml")
    monkeypatch.setenv("COMET_LOGGING_CONSOLE", "ERROR")
    monkeypatch.setenv("COMET_API_KEY", "none, since nothing is sent")
    logger = CometLogger(online=False, offline_directory=str(tmp_path))
    # the one that Lightning starts does not live without a network
    logger._experiment = comet.OfflineExperiment(
        offline_directory=str(tmp_path), log_code=False, log_git_metadata=False, log_env_details=False
    )
    _, callback = train(logger, tmp_path)
    logger.experiment.end()
    [archive] = tmp_path.glob("*.zip")
    with zipfile.ZipFile(archive) as stored:
        messages = [json.loads(line) for line in stored.read("messages.json").decode().splitlines()]
    text = json.dumps(messages)
    for key in callback.history.keys():  # noqa: SIM118
        assert key in text
    for key in FEW:
        assert key in text


def test_several_loggers_at_once_and_one_that_raises(tmp_path, few_pictures):
    class Raises(CSVLogger):
        @property
        def experiment(self):
            return self

        def add_figure(self, *args, **kwargs):
            raise OSError("disk full")

        def log_metrics(self, *args, **kwargs):
            pass

        def save(self):
            pass

    good = [CSVLogger(tmp_path / "one"), CSVLogger(tmp_path / "two")]
    with pytest.warns(
        NeuralCollapseWarning, match="Raises could not take .* OSError: disk full"
    ) as told:
        run, _ = train([good[0], Raises(tmp_path / "bad"), good[1]], tmp_path)
    assert len([w for w in told if "disk full" in str(w.message)]) == 1
    assert run.current_epoch == 4
    names = [sorted(p.name for p in Path(logger.log_dir).rglob("*.png")) for logger in good]
    assert names[0] == names[1]
    assert len(names[0]) == 3 * len(FEW)


def test_without_a_logger_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_nc.report.album.Album.of_stage", lambda *args: pytest.fail("drawn"))
    train(False, tmp_path)
    assert list(tmp_path.rglob("*.png")) == []


def test_figures_can_be_turned_off(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    callback = NeuralCollapseCallback(figures_every_n_epochs=0)
    fit(Network(), [callback], logger=logger, default_root_dir=tmp_path)
    events = EventAccumulator(logger.log_dir).Reload()
    assert events.Tags()["images"] == []
    assert "custom_scalars__config__" in events.Tags()["tensors"]


def test_test_and_validate_have_their_pictures(tmp_path):
    logger = CSVLogger(tmp_path)
    run = trainer([NeuralCollapseCallback()], logger=logger, default_root_dir=tmp_path)
    run.test(Network(), DataLoader(digits(ROWS, 96), BATCH), verbose=False)
    folder = Path(logger.log_dir) / "neural_collapse"
    assert {p.parent.relative_to(folder).as_posix() for p in folder.rglob("*.png")} == {
        "cosines/test", "plane/test", "spectra/test", "classes/test"
    }  # fmt: skip


def test_the_progress_bar_shows_one_value_for_each_property(tmp_path):
    callback = NeuralCollapseCallback(prog_bar=True)
    run = fit(Network(), [callback])
    shown = {key: value for key, value in run.progress_bar_metrics.items() if key.startswith("NC")}
    assert set(shown) == {f"NC{i} {stage}" for i in (1, 2, 3, 4) for stage in STAGES}
    assert shown["NC4 val"] == pytest.approx(
        float(run.callback_metrics["nc4/ncc_mismatch/val"]), abs=1e-3
    )
    plain = fit(Network(), [NeuralCollapseCallback()])
    assert not any(key.startswith("NC") for key in plain.progress_bar_metrics)
