"""Norm, spread and worst pairs of the classes."""

import numpy as np
import pytest
from support import oracles
from support.drawings import (
    collapsed,
    drawn,
    stage,
    training,
)
from support.problems import gaussian_classes

from lightning_nc import ClassStatistics
from lightning_nc.figures import (
    class_profile,
)
from lightning_nc.functional import MEASURES


def points(axis, label):
    [found] = [line for line in axis.lines if line.get_label() == label]
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def circled(axis):
    [found] = [line for line in axis.lines if line.get_markerfacecolor() == "none"]
    return np.asarray(found.get_xydata())


@pytest.mark.parametrize("num_classes", [2, 10, 100, 1000])
def test_the_profile_shows_norm_and_spread_by_count(num_classes):
    statistics, classifier = training(num_classes)
    statistics.counts[0] = 200  # an imbalance in any case
    figure, axes = class_profile(statistics, classifier)
    counts = statistics.counts.numpy()
    norms = np.linalg.norm(oracles.center_means(statistics.means.numpy()), axis=1)
    x, shown = points(axes[0], "class mean, centered")
    np.testing.assert_array_equal(x, counts)
    np.testing.assert_allclose(shown, norms / norms.mean())
    rows = np.linalg.norm(classifier.weight.double().numpy(), axis=1)
    np.testing.assert_allclose(points(axes[0], "classifier row")[1], rows / rows.mean(), rtol=1e-5)
    spreads = np.sqrt(statistics.sums_of_squares.numpy() / counts) / norms.mean()
    np.testing.assert_allclose(axes[1].lines[0].get_xydata(), np.stack([counts, spreads], 1))
    worst = np.argsort(norms)[:3]
    np.testing.assert_allclose(circled(axes[0])[:, 1], (norms / norms.mean())[worst])
    widest = np.argsort(-spreads)[:3]
    np.testing.assert_allclose(circled(axes[1])[:, 1], spreads[widest])
    assert axes[0].get_xscale() == axes[1].get_xscale() == axes[1].get_yscale() == "log"
    assert [axis.get_title().split(":")[0] for axis in axes[:2]] == ["shortest", "widest"]
    drawn(figure)


def bars(axis):
    names = [label.get_text() for label in axis.get_yticklabels()]
    return dict(zip(names, [patch.get_width() for patch in axis.patches], strict=True))


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_the_profile_names_the_worst_pairs(num_classes):
    statistics, _ = training(num_classes)
    names = [f"c{i}" for i in range(num_classes)]
    _, axes = class_profile(statistics, class_names=names)
    m = oracles.center_means(statistics.means.numpy())
    spread = statistics.sums_of_squares.numpy() / statistics.counts.numpy()
    cosine, cdnv = {}, {}
    for i in range(num_classes):
        for j in range(i + 1, num_classes):
            pair = f"c{i} / c{j}"
            cosine[pair] = oracles.cosine(m[i], m[j])
            cdnv[pair] = (spread[i] + spread[j]) / (2 * np.sum((m[i] - m[j]) ** 2))
    for axis, expected in zip(axes[2:], (cosine, cdnv), strict=True):
        worst = sorted(expected, key=expected.__getitem__, reverse=True)[:6]
        assert list(bars(axis)) == worst
        np.testing.assert_allclose(list(bars(axis).values()), [expected[pair] for pair in worst])
        low, high = sorted(axis.get_ylim())
        assert all(low < row < high for row in range(len(worst)))
        assert axis.yaxis_inverted()
    assert [line.get_xdata()[0] for line in axes[2].lines] == [pytest.approx(-1 / (num_classes - 1))]
    assert axes[3].get_xlabel().endswith(f"at collapse: {MEASURES['nc1/cdnv'].at_collapse}")


@pytest.mark.parametrize("num_classes", [2, 10, 100, 1000])
def test_the_profile_of_a_collapsed_network_is_flat(num_classes):
    figure, axes = class_profile(*collapsed(num_classes))
    np.testing.assert_allclose(points(axes[0], "class mean, centered")[1], 1)
    low, high = axes[0].get_ylim()
    assert low <= 0.9 < 1.1 <= high  # rounding does not look like imbalance
    np.testing.assert_allclose(list(bars(axes[2]).values()), -1 / (num_classes - 1))
    assert all(value < 1e-20 for value in bars(axes[3]).values())
    drawn(figure)


def test_balanced_classes_stand_in_their_own_order_with_their_names():
    _, statistics = stage()
    names = ["a", "b", "c", "d", "a name that is much too long"]
    figure, axes = class_profile(statistics, class_names=names)
    np.testing.assert_array_equal(points(axes[0], "class mean, centered")[0], range(5))
    labels = [label.get_text() for label in axes[0].get_xticklabels()]
    assert labels[:4] == names[:4]
    assert "…" in labels[4]
    assert len(labels[4]) < 20
    assert axes[0].get_xlabel() == "class (30 samples each)"
    drawn(figure)


def test_the_profile_names_seen_classes_only_by_their_own_numbers():
    given = gaussian_classes([9, 0, 9, 9, 0], 8)
    statistics = ClassStatistics.from_batch(given.features, given.target, 5)
    figure, axes = class_profile(statistics, given.classifier)
    assert set(bars(axes[2])) == {"0 / 2", "0 / 3", "2 / 3"}
    assert len(points(axes[0], "classifier row")[1]) == 3
    drawn(figure)


def test_single_samples_have_no_spread_to_show_on_a_logarithmic_axis():
    given = gaussian_classes([1, 1, 9, 9], 8)
    statistics = ClassStatistics.from_batch(given.features, given.target, 4)
    figure, axes = class_profile(statistics)
    assert np.isnan(axes[1].lines[0].get_ydata()).tolist() == [True, True, False, False]
    assert "2 not shown: spread 0" in [text.get_text() for text in axes[1].texts]
    drawn(figure)
