"""The summary: a panel for each measure, a line for each stage."""

import numpy as np
import pytest
from support.drawings import STAGES, collisions, drawn, run

from lightning_nc import functional
from lightning_nc.figures import (
    summary,
)
from lightning_nc.functional import MEASURES
from lightning_nc.values.history import History


def is_counted(key):
    """What a stage rests on."""
    counted = ("num_samples", "classes_seen", "pairs_seen")
    return key.endswith(counted) or key.startswith("tags/rows_")


def by_label(axis):
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


@pytest.mark.parametrize("prefix", ["", "teacher_", "a/"])
def test_the_summary_has_a_panel_for_each_measure_and_a_line_for_each_stage(prefix):
    history = run(4, prefix=prefix).extended(4, 49, {"b/nc1/cdnv/val": 9.0, "loss": 3.0})
    figure, axes = summary(history, prefix)
    keys = [key for key in MEASURES if not is_counted(key)]
    assert len(axes) == len(figure.axes) == len(keys)
    colors = {"train": "#0072B2", "train_online": "#E69F00", "val": "#009E73", "test": "#CC79A7"}
    for axis, key in zip(axes, keys, strict=True):
        ideal = MEASURES[key].at_collapse
        assert axis.get_title("left") == (f"{key} → {ideal}" if ideal else key)
        assert axis.get_yscale() == ("log" if ideal == "0" else "linear")
        lines = by_label(axis)
        assert {stage: line.get_color() for stage, line in lines.items()} == colors
        for name, line in lines.items():
            rows = history[f"{prefix}{key}/{name}"]
            np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2, 3])
            np.testing.assert_allclose(line.get_ydata(), [row.value for row in rows])
        texts = {text.get_color(): text.get_text() for text in axis.texts}
        for name, color in colors.items():
            assert float(texts[color]) == pytest.approx(
                history[f"{prefix}{key}/{name}"][-1].value, rel=6e-3
            )
    assert [text.get_text() for text in figure.legends[0].get_texts()][:4] == list(colors)
    width, height = figure.get_size_inches()
    assert width <= 8.27
    assert height <= 11.69 or len(axes) > 48  # one A4 sheet
    if not prefix:
        drawn(figure)


def test_last_values_stand_apart_and_in_the_order_of_the_curves():
    values = {f"nc1/cdnv/{name}": 0.5 + 1e-4 * i for i, name in enumerate(STAGES)}
    figure, axes = summary(History().extended(0, 9, {**values, "nc1/cdnv/val_1": 5.0}))
    heights = [text.get_position()[1] for text in axes[0].texts]
    assert np.diff(heights).min() >= 0.129
    assert [text.get_text() for text in axes[0].texts] == ["0.5", "0.5", "0.5", "0.5", "5"]
    order = [text.get_color() for text in axes[0].texts]
    assert order == ["#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00"]
    drawn(figure)


def test_the_rank_has_a_dashed_line_at_the_number_of_classes_less_one():
    values = {"nc1/rank/val": 3.0, "nc0/classes_seen/val": 10.0, "nc1/rank/test": 3.0}
    _, axes = summary(History().extended(0, 9, values))
    dashed = [line.get_ydata()[0] for line in axes[0].lines if line.get_linestyle() == "--"]
    assert dashed == [9.0]
    _, axes = summary(History().extended(0, 9, {"nc1/rank/val": 3.0}))
    assert not [line for line in axes[0].lines if line.get_linestyle() == "--"]


def test_the_summary_takes_gaps_zeros_negatives_and_single_entries():
    nan = float("nan")
    history = History().extended(3, 9, {"nc1/cdnv/val": nan, "nc4/ncc_mismatch/val": 0.5})
    history = history.extended(4, 19, {"nc1/cdnv/val": 0.5, "nc4/ncc_mismatch/val": 0.0})
    history = history.extended(4, 19, {"custom/mine/val_1": -1.0, "nc3/bias_collapse/val": nan})
    history = history.extended(
        4,
        19,
        {
            "nc1/within_between_ratio/val": 0.0,
            "nc3/self_duality/val": -1e-9,
            "nc3/self_duality/test": 0.5,
        },
    )
    figure, axes = summary(history)
    drawn(figure)
    panels = {axis.get_title("left").split(" ")[0]: axis for axis in axes}
    assert list(panels) == [
        "nc1/within_between_ratio",
        "nc1/cdnv",
        "nc3/self_duality",
        "nc3/bias_collapse",
        "nc4/ncc_mismatch",
        "custom/mine",
    ]
    alone = panels["nc1/cdnv"].lines[0]
    np.testing.assert_array_equal(alone.get_ydata(), [nan, 0.5])
    assert alone.get_markevery() == [1]
    shown, zeros = panels["nc4/ncc_mismatch"].lines
    np.testing.assert_array_equal(shown.get_ydata(), [0.5, nan])
    assert (zeros.get_marker(), list(zeros.get_xdata()), list(zeros.get_ydata())) == ("v", [4], [0])
    assert panels["nc4/ncc_mismatch"].texts[0].get_text() == "0"
    for key in ("nc1/within_between_ratio", "nc3/self_duality", "custom/mine"):
        assert panels[key].get_yscale() == "linear"
    assert panels["nc3/bias_collapse"].texts[0].get_text() == "NaN"
    assert by_label(panels["custom/mine"])["val_1"].get_color() == "#D55E00"


def test_windows_within_an_epoch_are_told_apart_by_their_steps():
    history = History().extended(0, 9, {"nc1/cdnv/val": 0.5}).extended(0, 19, {"nc1/cdnv/val": 0.25})
    _, axes = summary(history)
    assert list(axes[0].lines[0].get_xdata()) == [9, 19]
    assert axes[0].get_xlabel() == "optimizer step"
    _, axes = summary(run(2))
    assert axes[-1].get_xlabel() == "epoch"


@pytest.mark.parametrize(
    "history", [History(), run(1, prefix="x/"), History().extended(0, 1, {"a": 1.0})]
)
def test_an_empty_summary_says_so(history):
    figure, axes = summary(history)
    assert [text.get_text() for text in axes[0].texts] == ["nothing logged yet"]
    drawn(figure)


def test_the_value_at_collapse_is_read_from_the_table(monkeypatch):
    import dataclasses

    changed = dataclasses.replace(MEASURES["nc1/cdnv"], at_collapse="0.5")
    monkeypatch.setitem(functional.MEASURES, "nc1/cdnv", changed)
    _, axes = summary(History().extended(0, 9, {"nc1/cdnv/val": 0.7}))
    assert axes[0].get_title("left") == "nc1/cdnv → 0.5"


def test_a_curve_that_ends_has_no_last_value_beside_it():
    history = History().extended(0, 9, {"nc1/cdnv/val": 0.5, "nc1/cdnv/train": 0.4})
    history = history.extended(1, 19, {"nc1/cdnv/val": float("nan"), "nc1/cdnv/train": 0.2})
    figure, axes = summary(history)
    drawn(figure)
    assert {text.get_text() for text in axes[0].texts} == {"NaN", "0.2"}


def test_no_texts_overlap_where_all_measures_are_logged_and_layers_have_no_panels():
    figure, axes = summary(run(12, layers=("body.0.in", "body.1.in"), stages=STAGES[1:]))
    assert len(axes) == len([key for key in MEASURES if not is_counted(key)]) > 40
    assert collisions(figure) == []


def test_few_measures_have_three_columns_and_many_four():
    keys = [key for key in MEASURES if not is_counted(key)]

    def columns(count):
        values = {f"{key}/val": 0.5 for key in keys[:count]}
        return len(
            {round(axis.get_position().x0, 3) for axis in summary(History().extended(0, 0, values))[1]}
        )

    assert [columns(count) for count in (1, 2, 3, 24, 25)] == [1, 2, 3, 3, 4]
