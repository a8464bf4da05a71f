"""The table of pictures: each line draws what it promises, from what it needs."""

import pytest
from matplotlib.figure import Figure
from support.drawings import drawn, run, through_layers
from support.problems import evidence_of, gaussian_classes, problem, statistics_of

from lightning_nc.figures import PICTURES, Look, draw
from lightning_nc.figures.central_path import LOSSES, RATIOS
from lightning_nc.functional import ClassEvidence
from lightning_nc.values.history import History

OF_A_STAGE = [name for name, picture in PICTURES.items() if picture.when == "stage"]


def test_the_table_names_each_picture_once():
    assert all(name == picture.name for name, picture in PICTURES.items())
    of_classes = ["cosines", "plane", "spectra", "classes", "lengths"]
    assert [*of_classes, "tag_angles", "regression"] == OF_A_STAGE
    of_a_run = [
        "summary",
        "race",
        "loss_split",
        "snr",
        "depth",
        "graph_depth",
        "depth_map",
        "alignment",
    ]
    assert [*PICTURES][len(OF_A_STAGE) :] == of_a_run
    assert [name for name, picture in PICTURES.items() if picture.animated] == ["plane"]


@pytest.mark.parametrize("name", OF_A_STAGE)
@pytest.mark.parametrize("classes", ["random", "two classes", "missing classes"])
def test_every_picture_of_a_stage_is_drawn_from_evidence(name, classes):
    evidence = evidence_of(problem(classes))
    of_classes = name not in ("tag_angles", "regression")
    enough = evidence.num_classes >= PICTURES[name].min_classes
    assert PICTURES[name].suits(evidence) == (of_classes and enough)
    if not PICTURES[name].suits(evidence):
        return
    figure, _ = draw(name, evidence)
    assert isinstance(figure, Figure)
    assert len(figure.axes) >= 1
    drawn(figure)


@pytest.mark.parametrize("name", [name for name in OF_A_STAGE if PICTURES[name].takes_axes])
def test_a_picture_with_a_single_part_goes_into_given_axes(name):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    returned, axis = draw(name, evidence_of(problem("random")), ax=right)
    assert returned is figure
    assert axis is right
    assert right.has_data()
    assert not left.has_data()


@pytest.mark.parametrize(
    ("name", "ax", "message"),
    [
        (
            "summary",
            False,
            r"one of 'cosines', 'plane', 'spectra', 'classes', 'lengths', 'tag_angles', "
            r"'regression', but got 'summary'",
        ),
        ("classes", True, r"one of 'cosines', 'plane', 'spectra' \(with ax\), but got 'classes'"),
    ],
)
def test_other_pictures_are_refused_with_those_that_there_are(name, ax, message):
    axis = Figure().subplots() if ax else None
    with pytest.raises(ValueError, match=f"Expected picture to be {message}"):
        draw(name, evidence_of(problem("random")), ax=axis)


def test_a_picture_is_left_out_where_its_evidence_is_missing():
    bare = ClassEvidence.of(statistics_of(problem("random")))
    assert {name for name in OF_A_STAGE if PICTURES[name].suits(bare)} == {
        "cosines",
        "spectra",
        "classes",
    }
    one_class = ClassEvidence.of(statistics_of(problem("one class")))
    assert not [name for name in OF_A_STAGE if PICTURES[name].suits(one_class)]


@pytest.mark.parametrize("name", [name for name in PICTURES if name not in OF_A_STAGE])
def test_pictures_of_a_run_are_drawn_from_its_history(name):
    history = run(3, ("a", "b", "a.nodes"), prefix="my/")
    history = history.extended(3, 39, {f"my/{key}/val": 0.5 for key in (*LOSSES, *RATIOS)})
    look = Look(layers=("a", "a.nodes"), stage="val", prefix="my/")
    assert PICTURES[name].shows(history, look)
    figure, _ = PICTURES[name].draw(history, look, None)
    assert figure.axes[0].has_data()
    drawn(figure)


SHARE, ALIGNED = "layer/within_share", "layer/subspace_alignment"


@pytest.mark.parametrize(
    ("measures", "epochs", "shown"),
    [
        ([SHARE, ALIGNED], [0, 1], {"depth", "depth_map", "alignment"}),
        ([SHARE], [0], {"depth"}),
        (["nc1/cdnv"], [0, 1], {"depth"}),
        ([f"{ALIGNED}_centered"], [0], {"alignment"}),
        (["nc1/rank"], [0, 1], set()),
        ([], [], set()),
    ],
)
def test_a_picture_of_layers_is_drawn_where_it_has_something_to_show(measures, epochs, shown):
    history = through_layers(["a"], epochs, measures, prefix="my/")
    # of the classifier's input alone
    history = history.extended(9, 99, {"my/nc1/cdnv/val": 0.5, f"my/{ALIGNED}/val": 0.5})
    of_layers = {name: p for name, p in PICTURES.items() if p.when == "layers"}
    look = Look(layers=("a",), stage="val", prefix="my/")
    assert {name for name, p in of_layers.items() if p.shows(history, look)} == shown
    other = Look(layers=("a",), stage="test", prefix="my/")
    assert not [name for name, p in of_layers.items() if p.shows(history, other)]
    assert PICTURES["summary"].shows(History(), Look())


def test_the_classes_seen_keep_their_names():
    evidence = evidence_of(gaussian_classes([6, 9, 4, 9, 0], 6))
    names = ("ant", "bee", "cat", "dog", "elk")
    look = Look(class_names=names)
    assert look.names_of_seen(evidence) == ["ant", "bee", "cat", "dog"]
    assert Look().names_of_seen(evidence) is None
    shown = draw("cosines", evidence, look)[1][0].get_xticklabels()
    assert [label.get_text() for label in shown] == ["ant", "bee", "cat", "dog"]
    legend = draw("plane", evidence, look)[1].get_legend().get_texts()
    assert {"ant", "bee", "dog"} <= {text.get_text() for text in legend}
