"""Names are drawn as they are: no mathematics in them, and no LaTeX."""

import matplotlib
import pytest
from matplotlib.texmanager import TexManager
from matplotlib.text import Text
from support.drawings import drawn, run
from support.problems import evidence_of, gaussian_classes

from lightning_nc.figures import PICTURES, Look, collapse_animation, draw
from lightning_nc.values.history import History

# broken mathtext, whole mathtext, and what LaTeX and legends read in their own way
NAMES = ("cost $5", "a_$b$", "50%$", r"$\frac$", "_hidden_", "x_1 & #2")
OF_OTHER_TASKS = ("tag_angles", "regression")  # which have tests of their own
OF_A_STAGE = [n for n, p in PICTURES.items() if p.when == "stage" and n not in OF_OTHER_TASKS]
WITH_NAMES = {"cosines": NAMES, "plane": NAMES[:3], "classes": NAMES}


def shown(figure):
    """All texts of a figure that has been drawn, in one."""
    return "\n".join(text.get_text() for text in figure.findobj(Text) if text.get_visible())


def of_named_classes():
    return evidence_of(gaussian_classes([9] * len(NAMES), 8))


def history_of(layers):
    """With collapse at the last of them."""
    measures = ("layer/within_share", "layer/subspace_alignment")
    history = History()
    for epoch in (0, 1):
        values = {f"{m}/val/{layer}": 0.5 for m in measures for layer in layers}
        values |= {f"{m}/val/{layers[-1]}": 0.01 for m in measures}
        history = history.extended(epoch, epoch, {**values, **{f"{m}/val": 0.005 for m in measures}})
    return history


@pytest.mark.parametrize("name", OF_A_STAGE)
def test_names_that_are_no_mathematics_are_drawn_as_they_are(name):
    figure, _ = draw(name, of_named_classes(), Look(class_names=NAMES))
    drawn(figure)
    for expected in WITH_NAMES.get(name, ()):
        assert expected in shown(figure)


@pytest.mark.parametrize("classes", [(3, 4, 5), (4, 5)])
def test_each_class_of_the_plane_has_its_name_in_the_legend(classes):
    look = Look(class_names=NAMES, classes=classes)
    figure, axis = draw("plane", of_named_classes(), look)
    drawn(figure)
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    assert names == [NAMES[i] for i in classes]


def test_classes_along_an_axis_and_above_a_panel_keep_their_names():
    figure, axes = draw("classes", of_named_classes(), Look(class_names=NAMES))
    drawn(figure)
    assert [label.get_text() for label in axes[0].get_xticklabels()] == list(NAMES)
    # broken into lines where it is long, and nowhere else changed
    title = " ".join(axes[0].get_title().split())
    assert sum(name in title for name in NAMES) == 3


NAMING = [
    n for n, p in PICTURES.items() if p.when == "layers" and n != "graph_depth"
]  # it numbers them


@pytest.mark.parametrize("name", NAMING)
def test_layers_are_drawn_by_their_names(name):
    for last in (NAMES[1], NAMES[3]):  # whole and broken mathematics
        layers = [*(n for n in NAMES if n != last), last]
        figure, _ = PICTURES[name].draw(
            history_of(layers), Look(layers=tuple(layers), stage="val"), None
        )
        drawn(figure)
        for expected in layers:
            assert expected in shown(figure).split("\n")
        if name != "alignment":
            told = {
                "depth": f"below a tenth from {last} on",
                "depth_map": f"begins (last epoch: {last})",
            }
            assert told[name] in shown(figure)
        with_names = [text for text in figure.findobj(Text) if any(n in text.get_text() for n in NAMES)]
        assert not any(text.get_parse_math() for text in with_names)


@pytest.fixture
def without_an_installation(monkeypatch):
    """LaTeX is asked for, and is not there."""

    def missing(*args, **kwargs):
        raise RuntimeError("latex could not be found")

    for name in ("make_dvi", "get_text_width_height_descent", "make_png"):
        if hasattr(TexManager, name):
            monkeypatch.setattr(TexManager, name, missing)
    with matplotlib.rc_context({"text.usetex": True}):
        yield


@pytest.mark.parametrize("name", [name for name in PICTURES if name not in OF_OTHER_TASKS])
def test_every_picture_is_drawn_and_saved_without_latex(name, without_an_installation):
    if name in OF_A_STAGE:
        figure, _ = draw(name, of_named_classes(), Look(class_names=NAMES))
    else:
        look = Look(layers=("a", "b"), stage="val")
        figure, _ = PICTURES[name].draw(run(3), look, None)
    drawn(figure)
    assert not any(text.get_usetex() for text in figure.findobj(Text))
    assert matplotlib.rcParams["text.usetex"]  # as it was
    if PICTURES[name].animated:
        assert collapse_animation([figure]).startswith(b"GIF89a")


def test_given_axes_are_drawn_into_without_latex(without_an_installation):
    with matplotlib.rc_context({"text.usetex": False}):
        figure = matplotlib.figure.Figure()
        axis = figure.subplots()
    draw("cosines", of_named_classes(), Look(class_names=NAMES), ax=axis)
    drawn(figure)
