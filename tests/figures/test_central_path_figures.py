"""Parts of the squared error, and signal to noise, over a run."""

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch
from scipy.optimize import brentq
from support.drawings import collisions, drawn

from lightning_nc.figures import PICTURES, Look, loss_split, signal_to_noise
from lightning_nc.figures.central_path import fitted_law
from lightning_nc.functional.signal_to_noise import snr_flow
from lightning_nc.values.history import History

NAN = float("nan")
PARTS = ("loss_nc1", "loss_nc23", "loss_perp", "loss_least_squares")
SPLIT = {"loss_nc1": [0.2, 0.1, 0.03], "loss_nc23": [0.1, 0.05, 0.01], "loss_perp": [0.1, 0.05, 0.0]}


def history_of(values, prefix=""):
    history = History()
    for epoch in range(max(map(len, values.values()))):
        row = {f"{prefix}mse/{n}/val": v[epoch] for n, v in values.items() if epoch < len(v)}
        history = history.extended(epoch, 10 * epoch + 9, row)
    return history


def split(values, **settings):
    nc1, nc23 = np.array(values["loss_nc1"]), np.array(values["loss_nc23"])
    return loss_split(history_of({**values, "loss_least_squares": nc1 + nc23}), "val", **settings)


def columns(axis):
    return [patch.get_data() for patch in axis.patches if isinstance(patch, StepPatch)]


def curves(axis):
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


def test_shares_are_stacked_and_parts_stand_on_a_logarithmic_axis():
    figure, (left, right) = split(SPLIT)
    nc1, nc23, perp = (np.array(values) for values in SPLIT.values())
    total = nc1 + nc23 + perp
    below = np.zeros(3)
    for (tops, edges, base), part in zip(columns(left), (nc1, nc23, perp), strict=True):
        np.testing.assert_array_equal(edges, [-0.5, 0.5, 1.5, 2.5])
        np.testing.assert_allclose(base, below, atol=1e-15)
        np.testing.assert_allclose(tops - base, part / total, atol=1e-15)
        below = tops
    np.testing.assert_allclose(below, 1)
    [least] = left.lines
    np.testing.assert_allclose(least.get_ydata(), (nc1 + nc23) / total)
    found = curves(right)
    assert list(found) == ["least squares", "NC1", "NC2/3", "off the path"]
    np.testing.assert_allclose(found["least squares"].get_ydata(), nc1 + nc23)
    np.testing.assert_array_equal(found["NC2/3"].get_ydata(), nc23)
    np.testing.assert_array_equal(found["off the path"].get_ydata(), [0.1, 0.05, NAN])
    [zero] = [line for line in right.lines if line.get_marker() == "v"]
    assert zero.get_xdata().tolist() == [2]
    assert right.get_yscale() == "log"
    assert figure.get_suptitle() == "val, epoch 2: NC1 75%, NC2/3 25%, off the path 0%"
    assert collisions(figure) == []
    drawn(figure)


def test_without_a_stated_penalty_the_parts_are_those_of_the_best_classifier():
    for perp in ({}, {"loss_perp": [NAN, NAN, NAN]}):
        figure, (left, right) = split({**SPLIT, "loss_perp": []} | perp)
        assert len(columns(left)) == 2
        assert not left.lines  # it would be the upper edge
        assert list(curves(right)) == ["least squares", "NC1", "NC2/3"]
        drawn(figure)


def test_an_epoch_in_which_a_part_is_missing_has_no_shares():
    figure, (left, right) = split({**SPLIT, "loss_nc23": [0.1, NAN, 0.01]})
    for tops, _, _ in columns(left)[1:]:
        assert np.isnan(tops).tolist() == [False, True, False]
    assert curves(right)["NC2/3"].get_markevery() == [0, 2]
    drawn(figure)
    figure, _ = split({**SPLIT, "loss_nc23": [0.1, 0.1, NAN]})
    assert figure.get_suptitle() == "val, epoch 2: NC1 NaN, NC2/3 NaN, off the path NaN"
    drawn(figure)


def test_a_small_share_is_not_told_as_none():
    figure, _ = split({"loss_nc1": [0.1], "loss_nc23": [1e-9], "loss_perp": [0.1]})
    assert figure.get_suptitle() == "val, epoch 0: NC1 50%, NC2/3 5.00e-7%, off the path 50%"


@pytest.mark.parametrize("value", [0.3, 0.0, NAN])
def test_a_single_epoch_of_losses_is_drawn(value):
    figure, (left, right) = split({key: [value] for key in SPLIT})
    assert [text.get_text() for text in left.texts] == ([] if value == 0.3 else ["no value"])
    assert [text.get_text() for text in right.texts] == (["no value"] if np.isnan(value) else [])
    assert collisions(figure) == []
    drawn(figure)


def test_losses_that_are_all_zero_have_a_plain_axis():
    _, (left, right) = split({key: [0.0, 0.0] for key in SPLIT})
    assert right.get_yscale() == "linear"
    assert [text.get_text() for text in left.texts] == ["no value"]


@pytest.mark.parametrize("draw", [loss_split, signal_to_noise])
def test_nothing_logged_is_said(draw):
    figure, axes = draw(History(), "val")
    assert "no value" in [text.get_text() for text in axes[0].texts]
    assert figure.get_suptitle() == "val"
    drawn(figure)


@pytest.mark.parametrize("name", ["loss_split", "snr"])
def test_they_are_shown_where_their_keys_are_logged(name):
    keys = {"loss_split": PARTS, "snr": ("snr_min", "snr_max")}
    for picture, logged in keys.items():
        for key in logged:
            history = history_of({key: [0.5]}, prefix="my/")
            shows = PICTURES[name].shows(history, Look(stage="val", prefix="my/"))
            assert shows == (picture == name)
            assert not PICTURES[name].shows(history, Look(stage="train", prefix="my/"))


def flow(start, epochs):
    """By bisection of the law."""

    def ratio(goal):
        return brentq(lambda v: np.log(v) + v**2 + v**4 / 4 - goal, 1e-9, 1e3, xtol=1e-14)

    at_start = np.log(start) + start**2 + start**4 / 4
    return np.array([ratio(at_start + 0.7 * epoch) for epoch in range(epochs)])


def test_the_law_is_found_in_a_flow_that_follows_it():
    ratios, epochs = flow(0.4, 30), np.arange(30.0)
    np.testing.assert_allclose(fitted_law(epochs, ratios), ratios, rtol=1e-9)
    # another start and another unit of time
    np.testing.assert_allclose(fitted_law(50 + 1000 * epochs, ratios), ratios, rtol=1e-9)
    gaps = np.where(np.isin(epochs, [0, 3, 4, 29]), NAN, ratios)
    np.testing.assert_allclose(fitted_law(epochs, gaps), ratios, rtol=1e-9)
    np.testing.assert_allclose(fitted_law(epochs, ratios[::-1]), ratios[::-1], rtol=1e-9)


@pytest.mark.parametrize("growth", [0.02, 0.1, 0.3])
def test_no_other_law_is_nearer_to_ratios_that_follow_none(growth):
    epochs = np.arange(25.0)
    wave = 1 + 0.2 * np.sin(epochs)
    ratios = 0.3 * np.exp(growth * epochs) * wave
    law = fitted_law(epochs, ratios)
    least = np.sum(np.log(law / ratios) ** 2)
    left_side = np.log(law) + law**2 + law**4 / 4
    slope = (left_side[-1] - left_side[0]) / 24
    np.testing.assert_allclose(left_side, left_side[0] + slope * epochs, rtol=1e-9)
    one = torch.ones(1, dtype=torch.float64)
    for start, steeper in ((0.02, 1.0), (-0.02, 1.0), (0.0, 1.02), (0.0, 0.98)):
        goals = left_side[0] + start + steeper * slope * epochs
        other = snr_flow(one, torch.from_numpy(goals - 1.25), 1, 1)[:, 0].numpy()
        assert np.sum(np.log(other / ratios) ** 2) > least


@pytest.mark.parametrize(
    "ratios", [[], [1.0], [1.0, 2.0], [1.0, NAN, 2.0], [0.0, 1.0, 2.0], [NAN, NAN, NAN]]
)
def test_too_few_ratios_have_no_law(ratios):
    assert fitted_law(np.arange(float(len(ratios))), np.array(ratios)) is None


def test_ratios_are_a_band_with_the_law_of_their_geometric_mean():
    least, largest = flow(0.2, 12), flow(0.9, 12)
    history = history_of({"snr_min": least.tolist(), "snr_max": largest.tolist()})
    figure, (above, below) = signal_to_noise(history, "val")
    found = curves(above)
    np.testing.assert_array_equal(found["least"].get_ydata(), least)
    np.testing.assert_array_equal(found["largest"].get_ydata(), largest)
    [law] = [line for label, line in found.items() if "a + c t" in label]
    mean = np.sqrt(least * largest)
    np.testing.assert_allclose(law.get_ydata(), fitted_law(np.arange(12.0), mean))
    assert law.get_linestyle() == "--"
    off = np.expm1(np.sqrt(np.mean(np.log(mean / law.get_ydata()) ** 2)))
    assert law.get_label().endswith(f"typically off by {off:.0%}")
    assert above.get_yscale() == "log"
    assert len(above.collections) == 1
    np.testing.assert_array_equal(below.lines[0].get_ydata(), largest / least)
    assert below.get_ylim()[0] < 1
    assert [text.get_text() for text in below.texts] == ["equal at\ncollapse: 1"]
    shown = f"{least[-1]:.3g} to {largest[-1]:.3g}, max/min {largest[-1] / least[-1]:.3g}"
    assert figure.get_suptitle() == f"val, epoch 11: signal to noise {shown}"
    assert collisions(figure) == []
    drawn(figure)


def test_a_law_that_goes_astray_leaves_the_values_where_they_are_seen():
    # before the first known mean the law is next to nothing
    late = {"snr_min": [0.0, 0.0, 0.0, 0.5, 3.0, 3.1], "snr_max": [1.0, 1.0, 1.0, 1.1, 3.2, 3.3]}
    figure, (above, _) = signal_to_noise(history_of(late), "val")
    [law] = [line for label, line in curves(above).items() if "a + c t" in label]
    assert law.get_ydata()[0] < 1e-9
    low, high = above.get_ylim()
    assert 0.2 < low < 0.5
    assert 3.3 < high < 9
    drawn(figure)


def test_ratios_of_zero_and_gaps_are_drawn():
    given = {"snr_min": [0.0, 0.0, NAN, 0.5], "snr_max": [1.0, 2.0, NAN, 3.0]}
    figure, (above, below) = signal_to_noise(history_of(given), "val")
    [zeros] = [line for line in above.lines if line.get_marker() == "v"]
    assert zeros.get_xdata().tolist() == [0, 1]
    np.testing.assert_array_equal(below.lines[0].get_ydata(), [NAN, NAN, NAN, 6])
    drawn(figure)
    figure, (above, below) = signal_to_noise(
        history_of({**given, "snr_min": [0.0, 0.0, NAN, 0.0]}), "val"
    )
    assert [text.get_text() for text in below.texts] == ["no value: the least is 0"]
    assert figure.get_suptitle() == "val, epoch 3: signal to noise 0 to 3"
    drawn(figure)


@pytest.mark.parametrize("value", [0.7, 0.0, NAN])
def test_a_single_epoch_of_ratios_is_drawn(value):
    figure, axes = signal_to_noise(history_of({"snr_min": [value], "snr_max": [2 * value]}), "val")
    assert collisions(figure) == []
    assert axes[0].has_data() or [text.get_text() for text in axes[0].texts] == ["no value"]
    drawn(figure)
