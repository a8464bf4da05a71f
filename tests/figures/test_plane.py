"""Features in the plane of three class means."""

import numpy as np
import pytest
import torch
from support.drawings import (
    drawn,
    picture,
    stage,
)
from support.ideal import etf
from support.problems import rotation

from lightning_nc import ClassStatistics, LinearClassifier
from lightning_nc.figures import (
    collapse_picture,
)


def markers(axis, symbol):
    return np.array([line.get_xydata()[0] for line in axis.lines if line.get_marker() == symbol])


def vertices(axis):
    return np.array([line.get_xydata()[1] for line in axis.lines if line.get_linestyle() == "--"])


def distances(points):
    return np.array([np.linalg.norm(points[i] - points[j]) for i, j in ((0, 1), (0, 2), (1, 2))])


@pytest.mark.parametrize("num_classes", [3, 10, 100])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_picture_keeps_the_distances_of_the_three_means(num_classes, offset):
    given, statistics = stage(num_classes, offset=offset)
    figure, axis = picture(given, statistics, classes=(2, 0, 1))
    means = markers(axis, "o")
    norms = np.linalg.norm(means, axis=1)
    assert norms.mean() == pytest.approx(1)
    chosen = statistics.means[[2, 0, 1]].numpy()
    true = distances(chosen)
    np.testing.assert_allclose(distances(means) / true, (distances(means) / true)[0])
    drawn(figure)


def test_the_features_lie_around_their_means_in_the_same_scale():
    given, statistics = stage(offset=20.0)
    _, axis = picture(given, statistics)
    assert len(axis.collections) == 3
    for c, points in enumerate(axis.collections):
        offsets = np.asarray(points.get_offsets())
        assert len(offsets) == int((given.target == c).sum())
        np.testing.assert_allclose(offsets.mean(0), markers(axis, "o")[c], atol=1e-5)
    # projected onto the plane of the three means: computed anew, up to a rotation of the plane
    means = statistics.means[:3].numpy()
    sides = np.stack([means[1] - means[0], means[2] - means[0]])
    basis = np.linalg.qr(sides.T)[0]
    centered = (means - statistics.global_mean.numpy()) @ basis
    scale = np.linalg.norm(centered, axis=1).mean()
    rows = given.features[given.target == 1].double().numpy() - statistics.global_mean.numpy()
    expected = np.linalg.norm(rows @ basis, axis=1) / scale
    shown = np.linalg.norm(np.asarray(axis.collections[1].get_offsets()), axis=1)
    np.testing.assert_allclose(shown, expected, rtol=1e-6)


def test_the_ideal_is_a_triangle_at_120_degrees_turned_to_the_means():
    _, axis = picture(*stage(10))
    corners = vertices(axis)
    np.testing.assert_allclose(corners @ corners.T, np.where(np.eye(3) == 1, 1, -0.5), atol=1e-12)
    means = markers(axis, "o")

    def gap(candidate):
        return np.sum((candidate - means) ** 2)

    best = gap(corners)
    for angle in np.linspace(0, 2 * np.pi, 60):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        assert gap(corners @ turn) >= best - 1e-9
        assert gap(corners @ turn * [1, -1]) >= best - 1e-9


def test_a_collapsed_network_draws_means_and_classifier_on_the_ideal():
    frame = etf(3, 8)
    h, y = (7 * frame + 100).repeat(4, 1), torch.arange(3).repeat(4)
    statistics = ClassStatistics.from_batch(h, y, 3)
    _, axis = collapse_picture(
        h, y, statistics.means, statistics.global_mean, classifier=LinearClassifier(0.2 * frame)
    )
    np.testing.assert_allclose(markers(axis, "o"), vertices(axis), atol=1e-9)
    np.testing.assert_allclose(markers(axis, "^"), vertices(axis), atol=1e-9)
    for c, points in enumerate(axis.collections):
        np.testing.assert_allclose(points.get_offsets(), [vertices(axis)[c]] * 4, atol=1e-9)


def test_the_classes_are_named_and_told_apart():
    given, statistics = stage()
    _, axis = picture(given, statistics, classes=(4, 1, 2))
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "class 4",
        "class 1",
        "class 2",
    ]
    names = ["a", "b", "c", "d", "e"]
    _, axis = picture(given, statistics, classes=(4, 1, 2), class_names=names)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["e", "b", "c"]
    colors = {tuple(points.get_facecolor()[0][:3]) for points in axis.collections}
    assert len(colors) == 3
    assert axis.get_aspect() == 1


@pytest.mark.parametrize("width", [1, 2, 3])
def test_narrow_features_are_drawn_too(width):
    given, statistics = stage(4, width)
    figure, axis = picture(given, statistics, classifier=given.classifier)
    assert np.isfinite(markers(axis, "o")).all()
    drawn(figure)


def test_features_of_low_precision_and_a_class_without_features_are_drawn():
    given, statistics = stage()
    some = given.target != 1
    figure, axis = collapse_picture(
        given.features[some].bfloat16(), given.target[some], statistics.means, statistics.global_mean
    )
    assert len(axis.collections[1].get_offsets()) == 0
    drawn(figure)


@pytest.mark.parametrize("classes", [(0, 1, 1), (2, 2, 2)])
def test_three_different_classes_are_asked_for(classes):
    with pytest.raises(ValueError, match="Expected three different classes out of 5 to draw, but got"):
        picture(*stage(), classes=classes)


def test_three_of_two_classes_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"three.*Of two classes, give classes=\(0, 1\)"):
        picture(*stage(2))


@pytest.mark.parametrize("classes", [(0, 0), (0, 7), (0,), (0, 1, 2, 3)])
def test_other_choices_are_refused(classes):
    with pytest.raises(ValueError, match="different classes out of 5 to draw"):
        picture(*stage(), classes=classes)


def test_two_classes_are_drawn_along_their_line_and_across_it_where_they_spread():
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(2).repeat(200)
    means = torch.zeros(2, 8)
    means[0, 3], means[1, 3] = 5.0, 9.0
    spread = torch.tensor([0.1, 1.5, 0.1, 0.5, 0.1, 0.1, 0.1, 0.1])
    features = means[target] + spread * torch.randn(400, 8, generator=generator)
    statistics = ClassStatistics.from_batch(features, target, 2)
    classifier = LinearClassifier(statistics.centered_means.float())
    figure, axis = collapse_picture(
        features, target, statistics.means, statistics.global_mean, classifier, classes=(0, 1)
    )
    np.testing.assert_allclose(markers(axis, "o"), [[-1, 0], [1, 0]], atol=1e-12)
    np.testing.assert_allclose(markers(axis, "^"), [[-1, 0], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(vertices(axis), [[-1, 0], [1, 0]])
    half = float((statistics.means[1] - statistics.means[0]).norm()) / 2
    along = (statistics.means[1] - statistics.means[0]).numpy() / (2 * half)
    for c, points in enumerate(axis.collections):
        offsets = np.asarray(points.get_offsets())
        rows = features[target == c].double().numpy() - statistics.global_mean.numpy()
        np.testing.assert_allclose(offsets[:, 0], rows @ along / half, atol=1e-9)
        # column 1 is where nearly all of the spread is
        assert abs(np.corrcoef(offsets[:, 1], rows[:, 1])[0, 1]) > 0.99
    assert axis.get_xlabel().startswith("line of the two class means")
    drawn(figure)


@pytest.mark.parametrize("width", [1, 2])
def test_two_classes_of_narrow_or_collapsed_features_are_drawn(width):
    given, statistics = stage(2, width, spread=0.0)
    figure, axis = picture(given, statistics, classes=(0, 1), classifier=given.classifier)
    np.testing.assert_allclose(markers(axis, "o"), [[-1, 0], [1, 0]], atol=1e-6)
    drawn(figure)


def test_the_limit_fixes_both_axes_and_the_legend():
    given, statistics = stage()
    _, axis = picture(given, statistics, limit=1.8)
    assert axis.get_xlim() == axis.get_ylim() == (-1.8, 1.8)
    _, free = picture(given, statistics)
    assert free.get_xlim() != (-1.8, 1.8)


def test_the_picture_does_not_turn_with_the_features():
    given, statistics = stage()
    turn = rotation(16)
    features = (given.features.double() @ turn).float()
    turned = ClassStatistics.from_batch(features, given.target, 5)
    _, axis = picture(given, statistics)
    _, other = collapse_picture(features, given.target, turned.means, turned.global_mean)
    np.testing.assert_allclose(markers(axis, "o"), markers(other, "o"), atol=1e-5)
    np.testing.assert_allclose(vertices(other)[0], [0, 1], atol=1e-12)
