"""Distances from the geometries of theory over a run."""

import math

import numpy as np
import pytest
from support.drawings import collisions, drawn, run

from lightning_nc.figures import PICTURES, Look, race
from lightning_nc.figures.over_run import over_run
from lightning_nc.figures.race import FAMILY_COLORS, RACES
from lightning_nc.functional import MEASURES
from lightning_nc.functional.imbalance.nearest import TOLERANCE
from lightning_nc.values.history import History

NAN = float("nan")
LEFT, RIGHT = ("of", "gof", "relu_ce", "ce_ufm"), ("etf", "gof_centered", "seli")


def history_of(values, stage="val", prefix=""):
    """From values of each geometry, one for each epoch."""
    history = History()
    for epoch in range(max(map(len, values.values()))):
        row = {f"{prefix}imbalance/{n}/{stage}": v[epoch] for n, v in values.items() if epoch < len(v)}
        history = history.extended(epoch, 10 * epoch + 9, row)
    return history


def curves(axis):
    """What is drawn, by the first word of the legend."""
    return {
        line.get_label().split()[0]: line for line in axis.lines if not line.get_label().startswith("_")
    }


def triangles(axis):
    return [line for line in axis.lines if line.get_marker() == "v"]


def test_all_geometries_are_drawn_by_their_center_and_each_has_a_color():
    assert set(RACES) == {f"imbalance/{name}" for name in (*LEFT, *RIGHT)}
    assert set(RACES) <= set(MEASURES)
    assert len(set(FAMILY_COLORS.values())) == len(LEFT + RIGHT)
    values = {n: [0.9, 0.5 + 0.01 * i, 0.3 + 0.01 * i] for i, n in enumerate(LEFT + RIGHT)}
    figure, axes = race(history_of(values, prefix="my/"), "val", prefix="my/")
    for axis, names in zip(axes, (LEFT, RIGHT), strict=True):
        found = curves(axis)
        assert set(found) == set(names)
        for name in names:
            np.testing.assert_array_equal(found[name].get_xdata(), [0, 1, 2])
            np.testing.assert_array_equal(found[name].get_ydata(), values[name])
            assert found[name].get_color() == FAMILY_COLORS[name]
        assert axis.get_yscale() == "log"
        [tolerance] = [line for line in axis.lines if line.get_label().startswith("_")]
        assert set(tolerance.get_ydata()) == {TOLERANCE}
    assert figure.get_suptitle() == "val, epoch 2, nearest: of 0.3 as they are, etf 0.34 centered"
    assert collisions(figure) == []
    drawn(figure)


def test_the_nearest_one_comes_first_with_the_thickest_line():
    _, (left, right) = race(history_of({"of": [0.1, 0.4], "gof": [0.3, 0.02], "seli": [0.5]}), "val")
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["gof 0.02", "of 0.4"]
    found = curves(left)
    assert found["gof"].get_linewidth() > found["of"].get_linewidth()
    # its value of the last epoch is missing
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["seli NaN"]


def test_a_geometry_without_a_last_value_is_not_the_nearest():
    figure, axes = race(history_of({"of": [0.1, NAN], "gof": [0.3, 0.2], "etf": [0.2, NAN]}), "val")
    assert list(curves(axes[0])) == ["gof", "of"]
    assert figure.get_suptitle() == "val, epoch 1, nearest: gof 0.2 as they are"


def test_gaps_and_values_without_neighbors_are_seen():
    _, axes = race(history_of({"of": [0.5, NAN, 0.4, math.inf, 0.3, 0.2]}), "val")
    line = curves(axes[0])["of"]
    np.testing.assert_array_equal(line.get_ydata(), [0.5, NAN, 0.4, NAN, 0.3, 0.2])
    assert line.get_markevery() == [0, 2]


def test_distances_too_small_to_matter_are_triangles_on_the_lower_edge():
    figure, axes = race(history_of({"of": [0.5, 1e-9, 0.0], "gof": [0.5, 0.2, 2e-4]}), "val")
    [marks] = triangles(axes[0])
    np.testing.assert_array_equal(marks.get_xdata(), [1, 2])
    assert axes[0].get_ylim() == (1e-4, 2)
    assert "of 0" in [text.get_text() for text in axes[0].get_legend().get_texts()]
    drawn(figure)
    # without such values the axis ends near the least one, and always shows the tolerance
    assert race(history_of({"of": [0.5, 3e-3]}), "val")[1][0].get_ylim() == pytest.approx((2e-3, 2))
    assert race(history_of({"of": [0.5]}), "val")[1][0].get_ylim()[0] < TOLERANCE


@pytest.mark.parametrize("value", [0.3, 0.0, NAN])
def test_a_single_epoch_is_drawn(value):
    figure, axes = race(history_of({"of": [value]}), "val")
    texts = [text.get_text() for text in axes[0].texts]
    assert ("no value" in texts) == math.isnan(value)
    assert "no value" in [text.get_text() for text in axes[1].texts]
    if not math.isnan(value):
        assert axes[0].get_xlim() == (-1, 1)
    assert collisions(figure) == []
    drawn(figure)


def test_nothing_logged_is_said():
    figure, axes = race(History(), "val")
    assert all("no value" in [text.get_text() for text in axis.texts] for axis in axes)
    assert figure.get_suptitle() == "val"
    drawn(figure)


def test_several_values_in_an_epoch_are_told_apart_by_their_steps():
    history = History()
    for step in (9, 19, 29):
        history = history.extended(0, step, {"imbalance/of/val": 1 / step})
    _, axes = race(history, "val")
    np.testing.assert_array_equal(curves(axes[0])["of"].get_xdata(), [9, 19, 29])
    assert axes[0].get_xlabel() == "optimizer step"


def test_columns_meet_half_way_between_their_values():
    history = history_of({"of": [0.1, 0.2]}).extended(5, 59, {"imbalance/of/val": 0.3})
    found = over_run(history, ["imbalance/of"], "val")
    np.testing.assert_array_equal(found.edges, [-0.5, 0.5, 3, 7])
    one = over_run(history_of({"of": [0.1]}), ["imbalance/of"], "val")
    np.testing.assert_array_equal(one.edges, [-1, 1])


def test_it_is_shown_for_stages_in_which_a_geometry_is_logged_of_the_features():
    history = history_of({"seli": [0.5]}, prefix="my/")
    history = history.extended(9, 99, {"my/imbalance/of/test/a": 0.5, "my/nc1/cdnv/train": 0.5})
    shows = {s: PICTURES["race"].shows(history, Look(stage=s, prefix="my/")) for s in
             ("val", "test", "train")}  # fmt: skip
    assert shows == {"val": True, "test": False, "train": False}
    assert PICTURES["race"].shows(run(2), Look(stage="train"))
