"""A measure over layers and epochs, as a map."""

import numpy as np
import pytest
from matplotlib.patches import StepPatch
from support.drawings import block_names, collisions, drawn, through_layers

from lightning_nc.figures import depth_map
from lightning_nc.figures.by_layer import by_layer, names_of
from lightning_nc.figures.style import spread
from lightning_nc.values.history import History

SHARE = "layer/within_share"
NAN = float("nan")


def history_of(rows, measure=SHARE, epochs=None):
    """Rows of values of the layers "a", "b", ... and of the classifier's input, one for each epoch."""
    history = History()
    for epoch, row in zip(epochs or range(len(rows)), rows, strict=True):
        places = [*(f"{measure}/val/{name}" for name in "abcdef"[: len(row) - 1]), f"{measure}/val"]
        values = {place: v for place, v in zip(places, row, strict=True) if v is not None}
        history = history.extended(epoch, epoch, values)
    return history


def mesh_of(axis):
    [mesh] = [artist for artist in axis.collections if hasattr(artist, "get_coordinates")]
    return mesh


def colors_of(axis):
    """By layer and epoch, as they are drawn."""
    mesh = mesh_of(axis)
    return mesh.to_rgba(mesh.get_array())


def test_the_map_has_a_row_for_each_layer_and_a_column_for_each_epoch():
    rows = [[0.6, 0.5, 0.4], [0.5, 0.2, 0.1], [0.5, 0.1, 0.01]]
    figure, axis = depth_map(history_of(rows, epochs=[0, 10, 40]), "val", ["a", "b"])
    np.testing.assert_allclose(mesh_of(axis).get_array(), np.transpose(rows))
    edges = mesh_of(axis).get_coordinates()[0, :, 0]
    np.testing.assert_allclose(edges, [-5, 5, 25, 55])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b", "features"]
    assert axis.get_ylim() == (2.5, -0.5)
    assert axis.get_title("left") == f"{SHARE} → 0"
    assert figure.get_suptitle() == "val, epochs 0 to 40"
    lightness = colors_of(axis)[..., :3].sum(-1).ravel()
    assert list(np.argsort(lightness)) == list(np.argsort(-np.transpose(rows).ravel(), kind="stable"))
    drawn(figure)


def test_a_zero_is_white_and_what_is_missing_gray():
    rows = [[0.5, 0.0, None], [0.5, 0.1, NAN], [0.5, 0.01, float("inf")]]
    figure, axis = depth_map(history_of(rows), "val", ["a", "b"])
    colors = colors_of(axis)
    assert colors[1, 0].tolist() == [1, 1, 1, 1]
    assert (colors[2, :, 3] == 0).all()
    assert (colors[:2, :, 3] == 1).all()
    assert axis.get_facecolor() == (0.75, 0.75, 0.75, 1)
    assert sum((color == 1).all() for color in colors.reshape(-1, 4)) == 1
    bar = figure.axes[1]
    assert [text.get_text() for text in bar.texts] == ["0"]
    assert figure.get_suptitle() == "val, epochs 0 to 2   (gray: no value)"
    assert collisions(figure) == []
    drawn(figure)


@pytest.mark.parametrize(
    ("rows", "low", "high"),
    [
        ([[-1.0, 2.0], [0.0, 1.0]], -1, 2),  # no logarithm
        ([[0.0, 0.0], [0.0, 0.0]], -0.5, 0.5),
        ([[0.5, 0.5], [0.5, 0.5]], 0.25, 1),
        ([[0.5, 0.0], [0.0, 0.5]], 0.25, 1),
        ([[NAN, 0.5]], 0.25, 1),
    ],
)
def test_any_values_have_colors(rows, low, high):
    figure, axis = depth_map(history_of(rows, "custom/mine"), "val", ["a"], "custom/mine")
    mesh = mesh_of(axis)
    assert (mesh.norm.vmin, mesh.norm.vmax) == (low, high)
    assert axis.get_title("left") == "custom/mine"
    known = ~np.isnan(np.transpose(rows))
    assert (colors_of(axis)[..., 3] == known).all()
    drawn(figure)


@pytest.mark.parametrize(("rows", "text"), [([], "not logged"), ([[NAN, NAN]], "NaN")])
def test_a_map_of_nothing_says_so(rows, text):
    figure, axis = depth_map(history_of(rows), "val", ["a"])
    assert [t.get_text() for t in axis.texts] == [text]
    assert not axis.collections
    drawn(figure)


def test_a_line_shows_where_collapse_begins():
    rows = [[0.5, 0.4, 0.3], [0.5, 0.3, 0.04], [0.5, 0.01, 0.01], [NAN, 0.5, 0.01]]
    figure, axis = depth_map(history_of(rows), "val", ["a", "b"])
    [line] = [patch for patch in axis.patches if isinstance(patch, StepPatch)]
    np.testing.assert_array_equal(line.get_data().values, [NAN, 1.5, 0.5, 1.5])
    np.testing.assert_allclose(line.get_data().edges, [-0.5, 0.5, 1.5, 2.5, 3.5])
    [text] = axis.get_legend().get_texts()
    assert text.get_text() == "collapse begins (last epoch: features)"
    drawn(figure)
    _, axis = depth_map(history_of(rows[:1]), "val", ["a", "b"])
    assert not axis.patches
    _, axis = depth_map(history_of(rows, "nc1/cdnv"), "val", ["a", "b"], "nc1/cdnv")
    assert not axis.patches
    _, axis = depth_map(history_of([*rows, rows[0]]), "val", ["a", "b"])
    assert axis.get_legend().get_texts()[0].get_text() == "collapse begins (last epoch: nowhere)"


def test_of_a_long_run_some_epochs_are_drawn_the_first_and_the_last_among_them():
    layers = ["a", "b"]
    _, axis = depth_map(through_layers(layers, list(range(400))), "val", layers)
    edges = mesh_of(axis).get_coordinates()[0, :, 0]
    assert 60 < len(edges) <= 121
    assert edges[0] < 0
    assert edges[-1] > 399


@pytest.mark.parametrize("count", [1, 2, 3, 12, 13, 60, 150])
def test_names_of_a_map_never_overlap(count):
    for layers in ([f"body.{i}.in" for i in range(count)], block_names(count)):
        figure, axis = depth_map(
            through_layers(layers, [0, 1, 5], prefix="my/"), "val", layers, prefix="my/"
        )
        assert collisions(figure) == []
        texts = [label.get_text() for label in axis.get_yticklabels()]
        assert len(texts) == {60: 31, 150: 51}.get(count, count + 1)
        assert texts[0] == names_of(layers)[0]
        assert texts[-1] == "features"


@pytest.mark.parametrize(
    ("rows", "is_map"),
    [
        ([[0.5, 0.4], [0.3, 0.2]], True),
        ([[0.5, None], [None, 0.2]], True),
        ([[0.5, 0.4]], False),
        ([[0.5, None], [0.3, None]], False),
        ([[0.5, 0.4], [NAN, NAN]], False),
        ([], False),
    ],
)
def test_a_map_compares_two_layers_and_two_epochs(rows, is_map):
    assert by_layer(history_of(rows), SHARE, "val", ["a"]).is_map == is_map


def test_names_lose_what_all_of_them_share_if_they_are_long_and_their_middle_if_they_still_are():
    tails = ["attention.query.in", "mlp.in"]
    layers = [f"model.encoder.layers.{i}.{tail}" for i in (0, 1) for tail in tails]
    assert names_of(layers) == [
        "…0.attention.query…", "…0.mlp…", "…1.attention.query…", "…1.mlp…", "features"
    ]  # fmt: skip
    assert names_of(["short.in", "shorter.in"]) == ["short.in", "shorter.in", "features"]
    nested = ["a" * 20 + ".b" * 10, "a" * 20 + ".b" * 11]
    assert len(set(names_of(nested))) == 3
    alone = names_of(["x" * 50 + ".in"])
    assert [len(name) for name in alone] == [32, 8]
    assert alone[0].endswith("xx.in")


@pytest.mark.parametrize("most", [2, 3, 8, 50])
def test_a_row_is_thinned_out_evenly(most):
    for count in range(1, 200):
        kept = spread(count, most)
        assert len(kept) <= most or count <= most
        assert kept[0] == 0
        assert kept[-1] == count - 1
        if count <= most:
            assert kept == list(range(count))
        else:
            assert np.ptp(np.diff(kept)) <= 1
