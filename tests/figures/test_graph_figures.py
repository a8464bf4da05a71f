"""NC1 and trace ratio of the nodes of graphs by depth."""

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from support.drawings import collisions, drawn

from lightning_nc.figures import DepthCurve, graph_depth
from lightning_nc.values.history import History

NAN, INF = float("nan"), float("inf")
LAYERS = ["convs.0", "convs.1", "convs.2"]


def curve(name="network", pool="nodes", start=2.0, depths=3, error=0.1):
    """Values of which each is another one, lower for NC1."""
    ratio = tuple(start - 0.7 * i for i in range(depths))
    pinv = tuple(value - 1.1 for value in ratio)
    errors = [tuple(error * scale for _ in ratio) for scale in (1, 2)]
    return DepthCurve(name, tuple(range(1, depths + 1)), ratio, pinv, *errors, pool)


def history_of(epochs=2, prefix=""):
    """What a callback logs of three layers with both pools."""
    history = History(prefix=prefix)
    for epoch in range(epochs):
        values = {}
        for i, layer in enumerate(LAYERS):
            for j, pool in enumerate(("nodes", "neighborhood_mean")):
                for k, kind in enumerate(("ratio", "pinv")):
                    key = f"{prefix}graph/within_between_{kind}_log10"
                    value = 2 - i - 0.1 * j - 0.01 * k - 0.5 * epoch
                    values[f"{key}/val/{layer}.{pool}"] = value
                    values[f"{key}_se/val/{layer}.{pool}"] = 0.1 + 0.01 * i + 0.001 * k
        history = history.extended(epoch, 10 * epoch + 9, values)
    return history


def bands(axis):
    """The lower and upper edges of each band, by depth."""
    found = []
    for band in axis.collections:
        points = [tuple(v) for path in band.get_paths() for v in path.vertices]
        found.append({x: (min(y for a, y in points if a == x), max(y for a, y in points if a == x))
                      for x, _ in points})  # fmt: skip
    return found


def test_both_measures_are_drawn_as_powers_of_ten_with_their_errors():
    curves = [curve(), curve(pool="neighborhood_mean", start=1.0), curve("spectral", start=2.5)]
    figure, axes = graph_depth(curves, "val", 9)
    assert [axis.get_title() for axis in axes] == ["NC1, tr(Sw Sb+)/C", "trace ratio, tr Sw / tr Sb"]
    for axis, kind in zip(axes, ("pinv", "ratio"), strict=True):
        assert axis.get_yscale() == "log"
        for drawn_line, given, band in zip(axis.lines, curves, bands(axis), strict=True):
            log10 = np.array(getattr(given, f"{kind}_log10"))
            error = np.array(getattr(given, f"{kind}_se"))
            np.testing.assert_array_equal(drawn_line.get_xdata(), given.depths)
            np.testing.assert_allclose(drawn_line.get_ydata(), 10**log10)
            edges = np.array([band[depth] for depth in given.depths])
            np.testing.assert_allclose(edges[:, 0], 10 ** (log10 - error))
            np.testing.assert_allclose(edges[:, 1], 10 ** (log10 + error))
    assert figure.get_suptitle() == "val, epoch 9: trace ratio 3.98 at depth 3 (network)"
    assert collisions(figure) == []
    drawn(figure)


def test_names_differ_in_color_and_marker_and_rows_in_line_and_filling():
    curves = [curve(), curve(pool="neighborhood_mean"), curve("a"), curve("b")]
    figure, axes = graph_depth(curves, "val")
    nodes, means, *others = axes[0].lines
    assert nodes.get_color() == means.get_color()
    assert nodes.get_marker() == means.get_marker()
    assert (nodes.get_linestyle(), means.get_linestyle()) == ("-", "--")
    assert nodes.get_markerfacecolor() == nodes.get_color()
    assert means.get_markerfacecolor() == "white"
    named = (nodes, *others)
    assert len({line.get_color() for line in named}) == len({x.get_marker() for x in named}) == 3
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:3] == ["network, nodes", "network, means over their neighbors", "a, nodes"]


@pytest.mark.parametrize("prefix", ["", "my/"])
def test_a_curve_is_made_of_what_a_callback_has_logged(prefix):
    history = history_of(prefix=prefix)
    found = DepthCurve.of_history(history, "val", LAYERS, "neighborhood_mean", "deep")
    assert (found.name, found.pool, found.depths) == ("deep", "neighborhood_mean", (1, 2, 3))
    assert found.ratio_log10 == pytest.approx((1.4, 0.4, -0.6))
    assert found.pinv_log10 == pytest.approx((1.39, 0.39, -0.61))
    assert found.ratio_se == pytest.approx((0.1, 0.11, 0.12))
    assert found.pinv_se == pytest.approx((0.101, 0.111, 0.121))
    first = DepthCurve.of_history(history, "val", {0: "convs.0", 2: "convs.2"}, epoch=0)
    assert (first.name, first.pool, first.depths) == ("network", "nodes", (0, 2))
    assert first.ratio_log10 == pytest.approx((2, 0))


def test_what_is_not_logged_is_a_gap():
    history = history_of()
    found = DepthCurve.of_history(history, "val", ["convs.0", "convs.7"])
    assert np.isnan([found.ratio_log10[1], found.pinv_log10[1], found.ratio_se[1]]).all()
    other = [DepthCurve.of_history(history, "test", LAYERS),
             DepthCurve.of_history(history, "val", LAYERS, epoch=7)]  # fmt: skip
    assert all(np.isnan([*each.ratio_log10, *each.pinv_se]).all() for each in other)


def test_gaps_infinities_and_a_single_graph_are_drawn():
    given = DepthCurve("n", (1, 2, 3, 4), (1.0, NAN, INF, -1.0), (0.5, 0.4, -INF, 400.0),
                       (NAN,) * 4, (0.1, INF, 0.1, 0.1))  # fmt: skip
    figure, axes = graph_depth([given], "test")
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), [10, NAN, NAN, 0.1])
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), [10**0.5, 10**0.4, NAN, NAN])
    assert figure.get_suptitle() == "test: trace ratio 0.1 at depth 4 (n)"
    drawn(figure)


def test_a_panel_without_values_says_so():
    nothing = (NAN, NAN)
    given = DepthCurve("n", (1, 2), nothing, (0.0, -1.0), nothing, (0.1, 0.1))
    figure, axes = graph_depth([given], "val", 3)
    assert [[text.get_text() for text in axis.texts] for axis in axes] == [[], ["no value"]]
    assert figure.get_suptitle() == "val, epoch 3"
    drawn(figure)


@pytest.mark.parametrize(("curves", "depths"), [(1, 1), (4, 10), (9, 64)])
def test_any_number_of_curves_and_depths_fits(curves, depths):
    given = [curve(f"a method with a long name, of number {i}", start=2 + i, depths=depths)
             for i in range(curves)]  # fmt: skip
    figure, _ = graph_depth(given, "val", 9)
    assert collisions(figure) == []


def test_deep_collapse_fits_on_the_axis():
    figure, axes = graph_depth([curve(depths=24, error=0.0)], "val")
    assert axes[1].lines[0].get_ydata()[-1] == pytest.approx(10**-14.1)
    assert collisions(figure) == []


@pytest.mark.parametrize("name", ["cost $5", "a_$b$", r"$\frac$", "_hidden_"])
def test_names_are_drawn_as_they_are(name):
    figure, _ = graph_depth([curve(name)], "val")
    drawn(figure)
    assert figure.legends[0].get_texts()[0].get_text() == f"{name}, nodes"
    assert figure.get_suptitle().endswith(f"({name})")
    named = [text for text in figure.findobj(Text) if name in text.get_text()]
    assert not any(text.get_parse_math() for text in named)


def test_it_is_drawn_without_latex():
    with matplotlib.rc_context({"text.usetex": True}):
        figure, _ = graph_depth([curve("x_1 & #2")], "val", 3)
    assert not any(text.get_usetex() for text in figure.findobj(Text))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"Expected at least one curve to draw, but got none\."):
        graph_depth([], "val")
    with pytest.raises(ValueError, match=r"of the curve 'a' to be one of 'nodes', 'neighborhood_mean', "
                       "but got 'edges'"):  # fmt: skip
        curve("a", pool="edges")
    with pytest.raises(ValueError, match=r"at each depth of the curve 'a', but got 2 depths, 1 "
                       r"ratio_log10, 2 pinv_log10, 2 ratio_se, 2 pinv_se. Write NaN"):  # fmt: skip
        DepthCurve("a", (1, 2), (0.1,), (0.1, 0.2), (0.1, 0.2), (0.1, 0.2))
