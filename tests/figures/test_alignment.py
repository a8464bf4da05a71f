"""The weights of the layers against the class means, and against chance."""

import numpy as np
import pytest
from support.drawings import block_names, collisions, drawn, through_layers

from lightning_nc.figures import alignment
from lightning_nc.values.history import History

CENTERED, PLAIN = "layer/subspace_alignment_centered", "layer/subspace_alignment"
BY_CHANCE = {CENTERED: "layer/subspace_chance_centered", PLAIN: "layer/subspace_chance"}
NAN = float("nan")


def history_of(measure=CENTERED, prefix=""):
    """Of two epochs, in which a layer without a weight and one of the first epoch alone."""
    first = {"a.in": 0.3, "c.in": 0.4, "d.in": 0.35, "": 0.25}
    last = {"a.in": 0.7, "c.in": 0.8, "": 0.95}
    chance = {"a.in": 0.2, "c.in": 0.3, "": 0.1}
    history = History()
    for epoch, values in ((2, first), (8, last)):
        row = {f"{prefix}{measure}/val/{name}".rstrip("/"): v for name, v in values.items()}
        row |= {f"{prefix}{BY_CHANCE[measure]}/val/{name}".rstrip("/"): v for name, v in chance.items()}
        history = history.extended(epoch, epoch, row)
    return history


LAYERS = ["a.in", "b.in", "c.in", "d.in"]


def by_label(axis):
    return {line.get_label(): line for line in axis.lines}


@pytest.mark.parametrize("measure", [CENTERED, PLAIN])
@pytest.mark.parametrize("prefix", ["", "my/"])
def test_dots_are_the_values_of_the_first_and_of_the_last_epoch(measure, prefix):
    figure, axis = alignment(history_of(measure, prefix), "val", LAYERS, prefix)
    names = [label.get_text() for label in axis.get_xticklabels()]
    assert names == ["a.in", "c.in", "d.in", "classifier"]
    lines = by_label(axis)
    assert list(lines) == ["by chance", "epoch 2", "epoch 8"]
    np.testing.assert_array_equal(lines["epoch 2"].get_ydata(), [0.3, 0.4, 0.35, 0.25])
    np.testing.assert_array_equal(lines["epoch 8"].get_ydata(), [0.7, 0.8, NAN, 0.95])
    np.testing.assert_array_equal(lines["by chance"].get_ydata(), [0.2, 0.3, NAN, 0.1])
    assert axis.get_title() == measure
    assert axis.get_ylabel() == "at collapse: 1"
    assert figure.get_suptitle() == "val, epoch 8: mean 0.82, by chance 0.20"
    [stems] = axis.collections
    spans = {tuple(np.round(stem[:, 1], 6)) for stem in stems.get_segments() if len(stem)}
    assert {(0.2, 0.7), (0.3, 0.8), (0.1, 0.95)} <= spans
    drawn(figure)


def test_the_centered_alignment_is_drawn_where_it_is_logged():
    both = History({**history_of(CENTERED), **history_of(PLAIN)})
    assert alignment(both, "val", LAYERS)[1].get_title() == CENTERED
    # the classifier's alone does not count
    key = f"{CENTERED}/val"
    few = History({**history_of(PLAIN), key: both[key]})
    assert alignment(few, "val", LAYERS)[1].get_title() == PLAIN


def test_a_single_epoch_has_no_dots_of_a_first_one():
    history = through_layers(["a.in"], [4])
    _, axis = alignment(history, "val", ["a.in"])
    assert [line.get_label() for line in axis.lines] == ["by chance", "epoch 4"]


def test_without_chance_the_dots_stand_alone():
    history = through_layers(["a.in"], [0, 4], [PLAIN])
    figure, axis = alignment(history, "val", ["a.in"])
    assert np.isnan(by_label(axis)["by chance"].get_ydata()).all()
    assert "chance" not in figure.get_suptitle()
    drawn(figure)


@pytest.mark.parametrize(
    ("history", "text"),
    [
        (History(), "not logged"),
        (History().extended(0, 0, {f"{CENTERED}/val/a.in": NAN}), "NaN"),
    ],
)
def test_nothing_to_draw_is_said(history, text):
    figure, axis = alignment(history, "val", ["a.in"])
    assert [t.get_text() for t in axis.texts] == [text]
    assert not axis.lines
    drawn(figure)


@pytest.mark.parametrize("count", [1, 2, 3, 12, 13, 60, 150])
def test_names_along_the_alignment_never_overlap(count):
    for layers in ([f"body.{i}.in" for i in range(count)], block_names(count)):
        figure, axis = alignment(through_layers(layers, [0, 9]), "val", layers)
        assert collisions(figure) == []
        assert len(axis.lines[-1].get_ydata()) == count + 1
        assert [label.get_text() for label in axis.get_xticklabels()][-1] == "classifier"
