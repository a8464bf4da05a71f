"""Which pictures a run gets."""

import io
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from lightning_nc import ClassStatistics, FeatureSample, LinearClassifier, figures
from lightning_nc.figures import PICTURES
from lightning_nc.report.album import _MAX_FRAMES, Album, Film
from lightning_nc.values import ClassEvidence, History
from lightning_nc.values.evidence import Evidence


def evidence_of(counts=(6, 9, 4, 9, 0), width=6):
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)])
    h = torch.randn(len(y), width, generator=generator) + 3 * torch.eye(len(counts), width)[y]
    return ClassEvidence(
        ClassStatistics.from_batch(h, y, len(counts)),
        LinearClassifier(torch.randn(len(counts), width, generator=generator)),
        FeatureSample(h, y, y, seen=len(y)),
    )


def labels_of(figure):
    return [text.get_text() for axis in figure.axes for text in axis.get_legend().get_texts()]


def test_a_stage_has_its_pictures_with_the_names_of_the_classes_that_were_seen():
    album = Album(class_names=["ant", "bee", "cat", "dog", "elk"], prefix="mine/")
    pictures = dict(album.of_stage("val", evidence_of()))
    assert list(pictures) == [
        f"mine/neural_collapse/{n}/val" for n in ("cosines", "plane", "spectra", "classes", "lengths")
    ]
    # the largest three of those that were seen
    assert {"ant", "bee", "dog"} <= set(labels_of(pictures["mine/neural_collapse/plane/val"]))
    shown = pictures["mine/neural_collapse/cosines/val"].axes[0].get_xticklabels()
    assert [label.get_text() for label in shown] == ["ant", "bee", "cat", "dog"]


def test_all_stages_show_the_same_classes_of_equal_counts_the_first():
    album = Album()
    first = dict(album.of_stage("train", evidence_of((5, 5, 5, 5))))["neural_collapse/plane/train"]
    second = dict(album.of_stage("val", evidence_of((1, 2, 3, 9))))["neural_collapse/plane/val"]
    for figure in (first, second):
        assert {"class 0", "class 1", "class 2"} <= set(labels_of(figure))
    # one that this stage has never seen gives way
    third = dict(album.of_stage("test", evidence_of((0, 2, 3, 9))))["neural_collapse/plane/test"]
    assert {"class 1", "class 2", "class 3"} <= set(labels_of(third))


def test_one_class_has_no_pictures_and_two_have_them():
    assert list(Album().of_stage("val", evidence_of((5, 0)))) == []
    assert len(list(Album().of_stage("val", evidence_of((5, 6))))) == 4


def test_a_picture_is_drawn_where_all_that_it_needs_is_there():
    without = replace(evidence_of(), sample=None)
    assert [key.split("/")[1] for key, _ in Album().of_stage("val", without)] == [
        "cosines", "spectra", "classes", "lengths"
    ]  # fmt: skip

    class Other(Evidence):
        num_samples = 3

    assert list(Album().of_stage("val", Other())) == []


def test_names_for_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"each of 5 classes, but got 2: 'a', 'b'"):
        list(Album(["a", "b"]).of_stage("val", evidence_of()))


def test_a_run_has_its_summary_and_where_layers_are_measured_their_depth_for_each_stage():
    history = History()
    for epoch in range(3):
        keys = [f"mine/nc1/cdnv/{stage}{layer}" for stage in ("train", "val") for layer in ("", "/a")]
        history = history.extended(epoch, epoch, dict.fromkeys(keys, 1.0 / (1 + epoch)))
    album = Album(prefix="mine/")
    alone = [key for key, _ in album.of_run(history, [])]
    assert alone == ["mine/neural_collapse/summary"]
    layered = [key for key, _ in album.of_run(history, ["a"])]
    assert layered == [*alone, *(f"mine/neural_collapse/depth/{stage}" for stage in ("train", "val"))]
    # in another stage no layer has a value
    history = history.extended(3, 3, {"mine/nc1/cdnv/test": 0.1})
    assert [key for key, _ in album.of_run(history, ["a"])] == layered


def test_a_run_has_the_pictures_of_layers_that_have_something_to_show():
    history = History()
    for epoch in range(2):
        keys = (
            "layer/within_share/val/a",
            "layer/within_share/val",
            "layer/subspace_alignment/train/a",
        )
        history = history.extended(epoch, epoch, dict.fromkeys(keys, 0.5))
    keys = [key.removeprefix("neural_collapse/") for key, _ in Album().of_run(history, ["a"])]
    assert keys == ["summary", "depth/val", "depth_map/val", "alignment/train"]


def test_each_stage_has_the_pictures_of_what_is_logged_in_it_whether_layers_are_measured_or_not():
    values = {"imbalance/gof/train": 0.5, "mse/snr_max/val": 0.5, "mse/loss_nc1/val": 0.5}
    history = History().extended(0, 0, values)
    for layers in ([], ["a"]):
        keys = [key.removeprefix("neural_collapse/") for key, _ in Album().of_run(history, layers)]
        assert keys == ["summary", "race/train", "loss_split/val", "snr/val"]


def test_a_stage_has_the_lengths_by_count_where_counts_are_unequal():
    names = {n: [key.split("/")[1] for key, _ in Album().of_stage("val", evidence_of(n))] for n in
             ((9, 4, 4), (8, 4, 4))}  # fmt: skip
    assert names[9, 4, 4] == [*names[8, 4, 4], "lengths"]


def test_frames_stay_in_bounds_and_evenly_over_the_run(monkeypatch):
    album, drawn = Album(), 0

    def draw(*_):
        nonlocal drawn
        drawn += 1
        return Figure(), None

    def frame(figure):
        return Image.new("RGB", (2, 2), (drawn - 1, 0, 0))

    monkeypatch.setattr(figures, "PICTURES", {"plane": replace(PICTURES["plane"], draw=draw)})
    monkeypatch.setattr(figures, "frame", frame)
    evidence = evidence_of()
    for _ in range(3 * _MAX_FRAMES):
        assert len(list(album.of_stage("val", evidence))) == 1
    [film] = album._films.values()
    assert len(film.frames) <= _MAX_FRAMES
    shades = [Image.open(io.BytesIO(frame)).getpixel((0, 0))[0] for frame in film.frames]
    assert shades == list(range(0, 4 * len(shades), 4))
    [(key, gif)] = album.animations()
    assert key == "neural_collapse/animation/val"
    with Image.open(io.BytesIO(gif)) as image:
        assert image.info["loop"] == 0


def test_a_single_frame_is_no_animation(monkeypatch):
    monkeypatch.setattr(figures, "frame", lambda figure: Image.new("RGB", (2, 2)))
    album = Album()
    list(album.of_stage("val", evidence_of()))
    assert list(album.animations()) == []
    film = Film()
    for _ in range(3):
        film.add(Figure())
    assert len(film.frames) == 3


def test_a_stage_of_one_class_does_not_choose_for_the_others():
    album = Album()
    assert list(album.of_stage("val", evidence_of((0, 0, 5, 0)))) == []
    plane = dict(album.of_stage("train", evidence_of((5, 5, 5, 5))))["neural_collapse/plane/train"]
    assert {"class 0", "class 1", "class 2"} <= set(labels_of(plane))
