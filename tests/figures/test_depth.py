"""Values by layer and epoch."""

import numpy as np
import pytest
from support.drawings import drawn, run

from lightning_nc.figures import (
    depth_profile,
)
from lightning_nc.functional import MEASURES
from lightning_nc.values.history import History


def test_depth_is_drawn_by_layer_and_epoch():
    history = run(5, prefix="my/")
    figure, axes = depth_profile(history, "val", ["b", "a"], ["nc1/cdnv", "nc4/ncc_accuracy"], "my/")
    assert [axis.get_title() for axis in axes] == ["nc1/cdnv", "nc4/ncc_accuracy"]
    for axis, key in zip(axes, ["nc1/cdnv", "nc4/ncc_accuracy"], strict=True):
        assert [label.get_text() for label in axis.get_xticklabels()] == ["b", "a", "features"]
        assert [line.get_label() for line in axis.lines] == [f"epoch {e}" for e in range(5)]
        for e, line in enumerate(axis.lines):
            places = [f"my/{key}/val/b", f"my/{key}/val/a", f"my/{key}/val"]
            np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2])
            np.testing.assert_allclose(line.get_ydata(), [history[p][e].value for p in places])
        assert axis.get_yscale() == "log"
    assert axes[0].get_ylabel() == f"at collapse: {MEASURES['nc1/cdnv'].at_collapse}"
    assert axes[1].get_ylabel() == ""
    assert len(figure.axes) == 3
    assert figure.axes[2].get_ylabel() == "epoch"
    drawn(figure)


def test_depth_shows_few_epochs_of_a_long_run_darkest_first():
    figure, axes = depth_profile(run(50), "val", ["a"])
    epochs = [int(line.get_label().split()[1]) for line in axes[0].lines]
    assert len(epochs) == 8
    assert epochs[0] == 0
    assert epochs[-1] == 49
    assert set(np.diff(epochs)) == {7}
    lightness = [sum(line.get_color()[:3]) for line in axes[0].lines]
    assert lightness == sorted(lightness)
    assert len(set(lightness)) == 8
    drawn(figure)


def test_depth_of_a_single_epoch_has_no_colorbar():
    figure, axes = depth_profile(run(1), "val", ["a"])
    assert len(figure.axes) == len(axes) == 3
    assert figure.get_suptitle() == "val, epoch 0"
    drawn(figure)


def test_depth_with_gaps_zeros_and_nothing_draws():
    nan, inf = float("nan"), float("inf")
    history = History().extended(
        0, 9, {"nc1/cdnv/val/a": 0.0, "nc1/cdnv/val/b": nan, "nc1/cdnv/val": 2.0}
    )
    history = history.extended(4, 19, {"nc1/cdnv/val/a": 0.5, "nc1/cdnv/val/b": inf})
    history = history.extended(
        4, 19, {"custom/mine/val/a": -1.0, "custom/mine/val": 2.0, "nc1/rank/val": nan}
    )
    figure, axes = depth_profile(
        history, "val", ["a", "b"], ["nc1/cdnv", "custom/mine", "nc1/rank", "nc4/ncc_mismatch"]
    )
    drawn(figure)
    first, zeros, second = axes[0].lines
    np.testing.assert_array_equal(first.get_ydata(), [nan, nan, 2])
    np.testing.assert_array_equal(second.get_ydata(), [0.5, nan, nan])
    assert (zeros.get_marker(), list(zeros.get_xdata()), list(zeros.get_ydata())) == ("v", [0], [0])
    assert axes[1].get_yscale() == "linear"
    assert [text.get_text() for text in (*axes[2].texts, *axes[3].texts)] == ["NaN", "not logged"]
    empty, axes = depth_profile(History(), "val", [])
    assert [axis.texts[0].get_text() for axis in axes] == ["not logged"] * 3
    drawn(empty)
    with pytest.raises(ValueError, match="at least one measure"):
        depth_profile(history, "val", ["a"], [])


def test_depth_takes_the_last_value_of_an_epoch():
    history = History().extended(0, 9, {"nc1/cdnv/val": 0.5}).extended(0, 19, {"nc1/cdnv/val": 0.25})
    _, axes = depth_profile(history, "val", [], ["nc1/cdnv"])
    assert axes[0].lines[0].get_ydata().tolist() == [0.25]
