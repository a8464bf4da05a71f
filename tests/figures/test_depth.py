"""Values by layer and epoch."""

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from support.drawings import block_names, collisions, drawn, run, through_layers

from lightning_nc.figures import depth_profile
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
    epochs = [int(line.get_label().split()[1]) for line in axes[1].lines]
    assert len(epochs) == 8
    assert epochs[0] == 0
    assert epochs[-1] == 49
    assert set(np.diff(epochs)) == {7}
    lightness = [sum(line.get_color()[:3]) for line in axes[1].lines]
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


SHARE = "layer/within_share"


def meshes(axis):
    return [artist for artist in axis.collections if isinstance(artist, QuadMesh)]


def short_names(count):
    return [f"body.{i}.in" for i in range(count)]


def test_depth_draws_three_measures_that_are_logged_for_a_layer():
    def titles(measures, layers=("a", "b")):
        history = through_layers(layers, [0, 1], measures)
        return [axis.get_title() for axis in depth_profile(history, "val", layers)[1]]

    share, pinv, mismatch, cdnv = SHARE, "nc1/within_between_pinv", "nc4/ncc_mismatch", "nc1/cdnv"
    assert titles([cdnv, mismatch, pinv, share]) == [share, pinv, mismatch]
    assert titles([cdnv, share]) == [share, cdnv]
    # of the classifier's input alone there is nothing to compare
    history = through_layers(["a"], [0], [share])
    history = history.extended(0, 9, {"nc4/ncc_mismatch/val": 0.5})
    assert [axis.get_title() for axis in depth_profile(history, "val", ["a"])[1]] == [share]
    assert titles([cdnv], layers=()) == [cdnv]


@pytest.mark.parametrize("prefix", ["", "my/"])
def test_more_than_a_dozen_layers_are_maps_of_layers_and_epochs(prefix):
    layers, epochs = short_names(13), [0, 5, 9]
    history = through_layers(layers, epochs, prefix=prefix)
    figure, axes = depth_profile(history, "val", layers, prefix=prefix)
    keys = [SHARE, "nc1/within_between_pinv", "nc4/ncc_mismatch"]
    for axis, key in zip(axes, keys, strict=True):
        assert not axis.lines
        [mesh] = meshes(axis)
        places = [*(f"{prefix}{key}/val/{layer}" for layer in layers), f"{prefix}{key}/val"]
        expected = [[row.value for row in history[place]] for place in places]
        np.testing.assert_allclose(mesh.get_array(), expected)
    assert [axis.get_title("left") for axis in axes] == [f"{key} → 0" for key in keys]
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names == [*layers, "features"]
    # the first layer at the top
    assert axes[0].get_ylim() == (13.5, -0.5)
    assert figure.get_suptitle() == "val, epochs 0 to 9"
    drawn(figure)
    _, axes = depth_profile(through_layers(layers[:12], epochs), "val", layers[:12])
    assert not meshes(axes[0])
    assert [len(line.get_ydata()) for line in axes[0].lines[:3]] == [13, 13, 13]


@pytest.mark.parametrize("count", [13, 60, 150])
def test_many_layers_of_a_single_epoch_are_lines_below_each_other(count):
    layers = short_names(count)
    history = through_layers(layers, [7])
    figure, axes = depth_profile(history, "val", layers)
    for axis in axes:
        assert not meshes(axis)
        assert len(axis.lines[0].get_ydata()) == count + 1
    assert len({axis.get_position().x0 for axis in axes}) == 1
    shown = [label.get_text() for label in axes[-1].get_xticklabels()]
    assert shown[0] == layers[0]
    assert shown[-1] == "features"
    assert len(shown) == {13: 14, 60: 61, 150: 51}[count]
    assert figure.get_suptitle() == "val, epoch 7"


@pytest.mark.parametrize("epochs", [[0], [0, 3, 50]])
@pytest.mark.parametrize(
    ("names", "count"),
    [(short_names, n) for n in (1, 3, 60)] + [(block_names, n) for n in (2, 12, 13, 60, 150)],
)
def test_the_names_of_layers_never_overlap(names, count, epochs):
    layers = names(count)
    figure, axes = depth_profile(through_layers(layers, epochs), "val", layers)
    assert collisions(figure) == []
    is_map = bool(meshes(axes[0]))
    assert is_map == (count > 12 and len(epochs) > 1)
    shown = axes[0].get_yticklabels() if is_map else axes[-1].get_xticklabels()
    texts = [label.get_text() for label in shown]
    assert len(set(texts)) == len(texts)
    assert texts[-1] == "features"


def test_names_are_told_apart_where_only_their_middle_differs():
    layers = block_names(12)
    _, axes = depth_profile(through_layers(layers, [0]), "val", layers, [SHARE])
    names = [label.get_text() for label in axes[0].get_xticklabels()]
    assert names[:2] == ["…0.blocks.0…", "…0.blocks.1…"]
    assert names[-2:] == ["…1.blocks.1…", "features"]


def dashed(axis):
    return [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"]


def test_the_within_share_says_where_collapse_begins_in_the_last_epoch():
    shares = {"a": [0.5, 0.6], "b": [0.01, 0.4], "c": [0.01, 0.05], "": [0.01, 0.001]}
    history = History()
    for epoch in (0, 1):
        values = {f"{SHARE}/val/{name}".strip("/"): v[epoch] for name, v in shares.items()}
        history = history.extended(epoch, epoch, {**values, "nc1/cdnv/val/a": 0.5})
    figure, axes = depth_profile(history, "val", ["a", "b", "c"], [SHARE, "nc1/cdnv"])
    np.testing.assert_allclose(dashed(axes[0]), [0.06])
    assert [text.get_text() for text in axes[0].texts] == ["below a tenth from c on"]
    assert not dashed(axes[1])
    assert not axes[1].texts
    # a layer that is not measured in the last epoch does not stand for the input
    later = history.extended(2, 2, {f"{SHARE}/val/b": 0.3, f"{SHARE}/val/c": 0.2, f"{SHARE}/val": 0.1})
    figure, axes = depth_profile(later, "val", ["a", "b", "c"], [SHARE])
    np.testing.assert_allclose(dashed(axes[0]), [0.03])
    assert "not reached" in axes[0].texts[0].get_text()
    low, _ = axes[0].get_ylim()
    assert low < 0.03
    drawn(figure)


@pytest.mark.parametrize("shares", [[0.0, 0.5], [float("nan"), 0.5], [0.5, float("nan")]])
def test_nothing_is_said_of_the_beginning_where_there_is_nothing_to_compare(shares):
    values = {f"{SHARE}/val/a": shares[0], f"{SHARE}/val": shares[1]}
    _, axes = depth_profile(History().extended(0, 0, values), "val", ["a"], [SHARE])
    assert not dashed(axes[0])
    assert not axes[0].texts


def test_maps_of_depth_take_gaps_and_say_what_gray_is():
    layers = short_names(14)
    entries = dict(through_layers(layers, [0, 1, 2]))
    entries[f"{SHARE}/val/{layers[3]}"] = entries[f"{SHARE}/val/{layers[3]}"][1:]
    entries["nc1/within_between_pinv/val"] = ()
    figure, axes = depth_profile(History(entries), "val", layers)
    gaps = [np.argwhere(np.ma.getmaskarray(meshes(axis)[0].get_array())).tolist() for axis in axes]
    assert gaps == [[[3, 0]], [[14, 0], [14, 1], [14, 2]], []]
    assert figure.get_suptitle() == "val, epochs 0 to 2   (gray: no value)"
    drawn(figure)
