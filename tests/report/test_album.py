"""Which pictures a run gets, and what its dashboard says."""

import io

import pytest
import torch
from PIL import Image

from lightning_nc.report import gallery
from lightning_nc.report.album import _MAX_FRAMES, Album
from lightning_nc.report.dashboard import card, headlines, layout, stages_of
from lightning_nc.report.gallery import Gallery
from lightning_nc.stream.sync import count_own_decisions
from lightning_nc.values.history import History
from lightning_nc.values.statistics import (
    Accumulated,
    ClassStatistics,
    FeatureSample,
    LinearClassifier,
    Tallies,
)


def accumulated(counts=(6, 9, 4, 9, 0), width=6):
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)])
    h = torch.randn(len(y), width, generator=generator) + 3 * torch.eye(len(counts), width)[y]
    none = torch.tensor(0)
    return count_own_decisions(
        Accumulated(
            ClassStatistics.from_batch(h, y, len(counts)),
            FeatureSample(h, y, y, seen=len(y)),
            Tallies(torch.tensor(len(y)), torch.tensor(len(y)), none, none, none),
            LinearClassifier(torch.randn(len(counts), width, generator=generator)),
        )
    )


def labels_of(figure):
    return [text.get_text() for axis in figure.axes for text in axis.get_legend().get_texts()]


def test_a_stage_has_its_pictures_with_the_names_of_the_classes_that_were_seen():
    album = Album(class_names=["ant", "bee", "cat", "dog", "elk"], prefix="mine/")
    pictures = dict(album.of_stage("val", accumulated()))
    assert list(pictures) == [
        f"mine/neural_collapse/{n}/val" for n in ("cosines", "plane", "spectra", "classes")
    ]
    # the largest three of those that were seen
    assert {"ant", "bee", "dog"} <= set(labels_of(pictures["mine/neural_collapse/plane/val"]))
    shown = pictures["mine/neural_collapse/cosines/val"].axes[0].get_xticklabels()
    assert [label.get_text() for label in shown] == ["ant", "bee", "cat", "dog"]


def test_all_stages_show_the_same_classes_of_equal_counts_the_first():
    album = Album()
    first = dict(album.of_stage("train", accumulated((5, 5, 5, 5))))["neural_collapse/plane/train"]
    second = dict(album.of_stage("val", accumulated((1, 2, 3, 9))))["neural_collapse/plane/val"]
    for figure in (first, second):
        assert {"class 0", "class 1", "class 2"} <= set(labels_of(figure))
    # one that this stage has never seen gives way
    third = dict(album.of_stage("test", accumulated((0, 2, 3, 9))))["neural_collapse/plane/test"]
    assert {"class 1", "class 2", "class 3"} <= set(labels_of(third))


def test_one_class_has_no_pictures_and_two_have_them():
    assert list(Album().of_stage("val", accumulated((5, 0)))) == []
    assert len(list(Album().of_stage("val", accumulated((5, 6))))) == 4


def test_names_for_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"each of 5 classes, but got 2: 'a', 'b'"):
        list(Album(["a", "b"]).of_stage("val", accumulated()))


def test_frames_stay_in_bounds_and_evenly_over_the_run(monkeypatch):
    from matplotlib.figure import Figure

    from lightning_nc import figures

    album = Album()

    def frame(figure):
        return Image.new("RGB", (2, 2), (album._drawn["val"] - 1, 0, 0))

    monkeypatch.setattr(figures, "frame", frame)
    for _ in range(3 * _MAX_FRAMES):
        album._keep_frame("val", Figure())
    assert len(album._frames["val"]) <= _MAX_FRAMES
    shades = [Image.open(io.BytesIO(frame)).getpixel((0, 0))[0] for frame in album._frames["val"]]
    assert shades == list(range(0, 4 * len(shades), 4))
    [(key, gif)] = album.animations()
    assert key == "neural_collapse/animation/val"
    with Image.open(io.BytesIO(gif)) as image:
        assert image.info["loop"] == 0


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


def test_the_dashboard_has_the_headlines_first_and_then_all_in_their_order():
    from lightning_nc.functional import MEASURES

    charts = layout(MEASURES, prefix="a.b/")
    assert list(charts) == ["Neural collapse"] + [f"Neural collapse: all of NC{i}" for i in range(5)]
    assert [title[:3] for title in charts["Neural collapse"]] == ["NC1", "NC2", "NC3", "NC4", "acc"]
    assert sum(len(inner) for title, inner in charts.items() if "all" in title) == len(MEASURES)
    assert charts["Neural collapse"]["NC4 ncc_mismatch"] == [
        "Multiline",
        [r".*a\.b/nc4/ncc_mismatch/.*"],
    ]


def test_the_card_tells_values_trends_and_nothing_of_what_was_never_logged():
    history = History()
    for epoch, (cdnv, accuracy) in enumerate(
        [(4.0, 0.5), (2.0, 0.75), (0.25, 0.75), (float("nan"), 1.0)]
    ):
        values = {"nc1/cdnv/val": cdnv, "nc0/accuracy/val": accuracy, "nc0/num_samples/train": 12000.0}
        history = history.extended(epoch, epoch, values)
    lines = card(history).splitlines()
    assert "after epoch 3" in lines[0]
    assert "| nc1/cdnv | mean pairwise class-distance normalized variance |  | nan | 0 |" in lines
    assert any(line.startswith("| nc0/accuracy |") and "| 1 ↑ |" in line for line in lines)
    assert any("12,000 →" in line for line in lines)
    assert card(History()) == ""
    assert stages_of(history) == ["train", "val"]
    assert headlines({"p/nc4/ncc_mismatch/val/neck": 1.0, "p/nc4/ncc_mismatch/val": 0.5}, "p/") == {
        "p/NC4 val": 0.5
    }


def test_the_metric_draws_its_own_pictures():
    from lightning_nc import NeuralCollapse

    given = accumulated()
    metric = NeuralCollapse(5, 6)
    metric.update(given.sample.features, given.sample.target)
    assert len(metric.plot()[1]) == 2
    assert metric.plot(picture="spectra")[0].axes[0].get_legend() is not None
    assert len(metric.plot(picture="classes")[0].axes) == 4
    with pytest.raises(
        ValueError, match="'cosines', 'spectra' or, without ax, 'classes', but got 'plane'"
    ):
        metric.plot(picture="plane")
