"""What the pictures show is what was measured: the arrays, points and names of their artists."""

import io
from itertools import pairwise

import numpy as np
import oracles
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from problems import gaussian_classes, problem, rotation, streamed

from lightning_nc import ClassStatistics, LinearClassifier, NeuralCollapse, functional
from lightning_nc.figures import (
    animate,
    class_profile,
    collapse_animation,
    collapse_picture,
    cosine_matrices,
    depth_profile,
    frame,
    spectra,
    summary,
)
from lightning_nc.figures.ordering import similarity_order
from lightning_nc.functional import MEASURES
from lightning_nc.values.history import History
from lightning_nc.values.statistics import Frame


def drawn(figure):
    """Render, which is where matplotlib warns."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def images(axes):
    return [np.asarray(axis.images[0].get_array()) for axis in axes]


def random_frame(num_vectors, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Frame(torch.randn(num_vectors, width, generator=generator))


def cosines(frame):
    rows = frame.vectors.numpy()
    return np.array([[oracles.cosine(a, b) for b in rows] for a in rows])


def ideal(num_classes):
    return np.where(np.eye(num_classes) == 1, 1, -1 / (num_classes - 1))


# ------------------------------------------------------------------------------------ cosine matrices


@pytest.mark.parametrize("num_classes", [2, 3, 10, 25])
def test_cosine_matrices_show_the_cosines_beside_the_ideal(num_classes):
    means, weights = random_frame(num_classes), random_frame(num_classes, seed=1)
    figure, axes = cosine_matrices(means, weights)
    assert isinstance(figure, Figure)
    assert [axis.get_title() for axis in axes] == ["class means", "classifier rows", "simplex ETF"]
    expected = [cosines(means), cosines(weights), ideal(num_classes)]
    for image, matrix in zip(images(axes), expected, strict=True):
        np.testing.assert_allclose(image, matrix, atol=1e-6)
    assert {axis.images[0].get_clim() for axis in axes} == {(-1.0, 1.0)}
    assert len({axis.images[0].get_cmap().name for axis in axes}) == 1
    assert [axis.get_xlabel() for axis in axes] == ["class"] * 3
    drawn(figure)


def test_without_a_classifier_its_panel_is_left_out():
    figure, axes = cosine_matrices(random_frame(5))
    assert [axis.get_title() for axis in axes] == ["class means", "simplex ETF"]
    drawn(figure)


def test_classes_are_named_while_there_is_room():
    names = [f"animal {i}" for i in range(100)]
    _, axes = cosine_matrices(random_frame(10), class_names=names[:10])
    for axis in axes:
        assert [label.get_text() for label in axis.get_xticklabels()] == names[:10]
        assert [label.get_text() for label in axis.get_yticklabels()] == names[:10]
    figure, axes = cosine_matrices(random_frame(100), class_names=names)
    drawn(figure)
    assert not {label.get_text() for label in axes[0].get_xticklabels()} & set(names)


@pytest.mark.parametrize("num_classes", [26, 100, 1000])
def test_many_classes_are_in_one_order_in_all_panels(num_classes):
    means, weights = random_frame(num_classes, 64), random_frame(num_classes, 64, seed=1)
    figure, axes = cosine_matrices(means, weights)
    order = similarity_order(means.cosines.numpy())
    assert sorted(order) == list(range(num_classes))
    assert order != sorted(order)
    matrices = [means.cosines.numpy(), weights.cosines.numpy(), ideal(num_classes)]
    for axis, image, matrix in zip(axes, images(axes), matrices, strict=True):
        np.testing.assert_allclose(image, matrix[np.ix_(order, order)], atol=1e-6)
        assert axis.get_xlabel() == "classes, ordered by similarity"
        for ticks, labels in (
            (axis.get_xticks(), axis.get_xticklabels()),
            (axis.get_yticks(), axis.get_yticklabels()),
        ):
            assert [int(label.get_text()) for label in labels] == [order[int(i)] for i in ticks]
    drawn(figure)


def test_the_order_brings_similar_classes_together():
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(100) % 10  # neighbors by number are in different groups
    vectors = torch.randn(10, 64, generator=generator)[group]
    vectors = vectors + 0.5 * torch.randn(100, 64, generator=generator)
    order = similarity_order(Frame(vectors).cosines.numpy())
    assert sum(a != b for a, b in pairwise(group[order].tolist())) == 9


def test_equal_cosines_keep_the_order_of_the_classes():
    etf = torch.from_numpy(oracles.simplex_etf(40, 64, np.random.default_rng(0)))
    assert similarity_order(Frame(etf).cosines.numpy()) == list(range(40))
    assert similarity_order(np.full((5, 5), np.nan)) == list(range(5))
    assert similarity_order(np.ones((1, 1))) == [0]


def test_ends_of_groups_meet_where_they_are_similar():
    angles = np.deg2rad([10, 0, 35, 50, 110, 80])
    assert similarity_order(np.cos(angles[:, None] - angles)) == [1, 0, 2, 3, 5, 4]


def test_a_sample_of_classes_is_named_by_its_numbers(monkeypatch):
    monkeypatch.setattr("lightning_nc.values.statistics.PAIRWISE_CLASSES", 30)
    means = random_frame(300)
    _, axes = cosine_matrices(means)
    order = means.sampled[similarity_order(means.cosines.numpy())].tolist()
    assert axes[0].get_xlabel() == "30 of 300 classes, ordered by similarity"
    shown = [int(label.get_text()) for label in axes[0].get_xticklabels()]
    assert shown == [order[int(i)] for i in axes[0].get_xticks()]


def test_many_classes_are_drawn_by_a_sample_against_the_ideal_of_all(monkeypatch):
    monkeypatch.setattr("lightning_nc.values.statistics.PAIRWISE_CLASSES", 20)
    means = random_frame(300)
    _, axes = cosine_matrices(means)
    chosen = means.sampled.numpy()
    shown, target = images(axes)
    np.testing.assert_allclose(shown, cosines(means)[np.ix_(chosen, chosen)], atol=1e-6)
    np.testing.assert_allclose(target, np.where(np.eye(20) == 1, 1, -1 / 299), atol=1e-6)


def test_the_means_are_drawn_into_given_axes():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    returned, axes = cosine_matrices(random_frame(4), random_frame(4, seed=1), ax=right)
    assert returned is figure
    assert axes is right
    np.testing.assert_allclose(images([right])[0], cosines(random_frame(4)), atol=1e-6)
    assert right.get_title() == "class means"
    assert not left.images
    drawn(figure)


def test_given_axes_of_a_subfigure_lead_to_its_figure():
    figure = Figure()
    axis = figure.subfigures(1, 2)[0].subplots()
    returned, _ = cosine_matrices(random_frame(4), ax=axis)
    assert returned is figure


@pytest.mark.parametrize(
    "vectors", [torch.zeros(3, 4), torch.eye(3)[:1], torch.tensor([[torch.nan] * 2] * 3)]
)
def test_cosines_that_do_not_exist_draw_without_a_warning(vectors):
    figure, _ = cosine_matrices(Frame(vectors))
    drawn(figure)


# ----------------------------------------------------------------------------------- collapse picture


def stage(num_classes=5, width=16, offset=0.0, spread=0.3):
    given = gaussian_classes([30] * num_classes, width, spread=spread, offset=offset)
    statistics = ClassStatistics.from_batch(given.features, given.target, num_classes)
    return given, statistics


def picture(given, statistics, **settings):
    return collapse_picture(
        given.features, given.target, statistics.means, statistics.global_mean, **settings
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
    etf = torch.from_numpy(oracles.simplex_etf(3, 8, np.random.default_rng(0)))
    h, y = (7 * etf + 100).repeat(4, 1), torch.arange(3).repeat(4)
    statistics = ClassStatistics.from_batch(h, y, 3)
    _, axis = collapse_picture(
        h, y, statistics.means, statistics.global_mean, classifier=LinearClassifier(0.2 * etf)
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


# ------------------------------------------------------------------------------------------ spectra


def collapsed(num_classes, rows=4):
    etf = torch.from_numpy(oracles.simplex_etf(num_classes, num_classes + 3, np.random.default_rng(0)))
    target = torch.arange(num_classes).repeat(rows)
    return ClassStatistics.from_batch(7 * etf[target], target, num_classes), LinearClassifier(etf)


def training(num_classes, width=16):
    rng = np.random.default_rng(0)
    counts = rng.integers(2, 40, num_classes).tolist()
    given = gaussian_classes(counts, width, spread=0.5, offset=3.0)
    return ClassStatistics.from_batch(given.features, given.target, num_classes), given.classifier


def curve(axis, start):
    [found] = [line for line in axis.lines if str(line.get_label()).startswith(start)]
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


@pytest.mark.parametrize("num_classes", [2, 10, 100, 1000])
def test_spectra_are_the_eigenvalues_relative_to_the_trace(num_classes):
    statistics, _ = training(num_classes)
    figure, axis = spectra(statistics)
    m = oracles.center_means(statistics.means.numpy())
    between = m.T @ m / num_classes
    within = statistics.scatter.numpy() / int(statistics.num_samples)
    rank = min(num_classes - 1, 16)
    for start, matrix, count in (("$\\Sigma_B$", between, rank), ("$\\Sigma_W$", within, 16)):
        index, values = curve(axis, start)
        expected = np.sort(np.linalg.eigvalsh(matrix))[::-1][:count] / np.trace(between)
        np.testing.assert_array_equal(index, np.arange(1, count + 1))
        np.testing.assert_allclose(values, expected, rtol=1e-8)
    assert axis.get_xscale() == axis.get_yscale() == "log"
    at, _ = curve(axis, f"C - 1 = {num_classes - 1}")
    assert set(at) == {num_classes - 1}
    assert axis.get_xlim()[1] > num_classes - 1
    drawn(figure)


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_at_collapse_the_between_spectrum_is_flat_and_the_within_spectrum_empty(num_classes):
    statistics, _ = collapsed(num_classes)
    exact = ClassStatistics(
        statistics.counts,
        statistics.means,
        torch.zeros_like(statistics.scatter),
        torch.zeros_like(statistics.sums_of_squares),
    )
    figure, axis = spectra(exact)
    _, values = curve(axis, f"$\\Sigma_B$, rank {num_classes - 1}")
    np.testing.assert_allclose(values, np.full(num_classes - 1, 1 / (num_classes - 1)))
    assert not [line for line in axis.lines if str(line.get_label()).startswith("$\\Sigma_W")]
    assert "$\\Sigma_W$ = 0" in axis.get_xlabel()
    drawn(figure)


def test_spectra_say_why_the_within_part_is_missing(monkeypatch):
    given, _ = stage()
    statistics = ClassStatistics.from_batch(given.features, given.target, 5, covariance="none")
    figure, axis = spectra(statistics)
    assert "was not kept" in axis.get_xlabel()
    assert len([line for line in axis.lines if "Sigma" in str(line.get_label())]) == 1
    drawn(figure)
    monkeypatch.setattr("lightning_nc.figures.spectrum._WIDEST", 15)
    _, axis = spectra(stage()[1])
    assert "left out: 16 features" in axis.get_xlabel()
    monkeypatch.setattr("lightning_nc.figures.spectrum._WIDEST", 16)
    assert spectra(stage()[1])[1].get_xlabel() == "index"


def test_spectra_leave_unseen_classes_out_and_refuse_an_empty_stage():
    given = gaussian_classes([9, 0, 9, 9, 0], 8)
    _, axis = spectra(ClassStatistics.from_batch(given.features, given.target, 5))
    assert set(curve(axis, "C - 1 = 2")[0]) == {2}
    for draw in (spectra, class_profile):
        with pytest.raises(ValueError, match="at least one sample"):
            draw(ClassStatistics.empty(3, 4))


@pytest.mark.parametrize("rows", [torch.zeros(4, 3), torch.ones(4, 3), torch.eye(4)])
def test_spectra_and_profile_of_coinciding_means_or_one_class_draw(rows):
    one = ClassStatistics.from_batch(rows, torch.zeros(4, dtype=torch.long), 1)
    same = ClassStatistics.from_batch(rows.repeat(2, 1), torch.arange(8) // 4, 2)
    for statistics in (one, same):
        figure, axis = spectra(statistics, ax=Figure().subplots())
        assert axis.figure is figure
        drawn(figure)
        drawn(class_profile(statistics)[0])


# ------------------------------------------------------------------------------------ class profile


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


# ------------------------------------------------------------------------------- history: depth


STAGES = ("train_online", "train", "val", "test")


def run(epochs, layers=("a", "b"), stages=STAGES, prefix=""):
    """A history with all measures, of which each value is another one."""
    history = History()
    for epoch in range(epochs):
        values = {}
        for s, name in enumerate(stages):
            for k, key in enumerate(MEASURES):
                value = (1 + s + 0.01 * k) * 0.8**epoch
                values[f"{prefix}{key}/{name}"] = 10 if key == "nc0/classes_seen" else value
                values |= {f"{prefix}{key}/{name}/{x}": value + i + 1 for i, x in enumerate(layers)}
        history = history.extended(epoch, 10 * epoch + 9, values)
    return history


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


# ------------------------------------------------------------------------------ history: summary


def by_label(axis):
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


@pytest.mark.parametrize("prefix", ["", "teacher_", "a/"])
def test_the_summary_has_a_panel_for_each_measure_and_a_line_for_each_stage(prefix):
    history = run(4, prefix=prefix).extended(4, 49, {"b/nc1/cdnv/val": 9.0, "loss": 3.0})
    figure, axes = summary(history, prefix)
    keys = [key for key in MEASURES if key not in ("nc0/num_samples", "nc0/classes_seen")]
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
    assert height <= 11.69
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


# ---------------------------------------------------------------------------------------- animation


def plates(count):
    """Figures that are told apart by how much of them is black."""
    made = []
    for i in range(count):
        figure = Figure(figsize=(2, 1))
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set_axis_off()
        axis.axvspan(0, (i + 1) / count, color="black")
        axis.set_xlim(0, 1)
        made.append(figure)
    return made


def decoded(data):
    with Image.open(io.BytesIO(data)) as image:
        shots, durations = [], []
        for i in range(image.n_frames):
            image.seek(i)
            shots.append(np.asarray(image.convert("L"), dtype=float))
            durations.append(image.info["duration"])
        return shots, durations, image.info.get("loop"), image.format


def test_the_animation_decodes_to_its_frames_and_loops():
    shots, durations, loop, kind = decoded(collapse_animation(plates(5), duration_ms=120))
    assert (kind, loop) == ("GIF", 0)
    assert durations == [120] * 4 + [480]
    assert {shot.shape for shot in shots} == {(240, 480)}
    dark = [(shot < 128).mean() for shot in shots]
    np.testing.assert_allclose(dark, [0.2, 0.4, 0.6, 0.8, 1.0], atol=0.01)


@pytest.mark.parametrize(
    ("count", "most", "kept"), [(9, 5, [1, 3, 5, 7, 9]), (4, 2, [1, 4]), (3, 1, [3])]
)
def test_a_long_animation_is_thinned_evenly_with_both_ends(count, most, kept):
    shots, *_ = decoded(collapse_animation(plates(count), max_frames=most))
    np.testing.assert_allclose([(s < 128).mean() for s in shots], np.array(kept) / count, atol=0.01)


def test_the_default_keeps_sixty_frames():
    images = [Image.new("RGB", (8, 8), (3 * i, 0, 0)) for i in range(80)]
    shots, *_ = decoded(animate(images))
    assert len(shots) <= 60


def test_the_animation_shows_the_colors_of_the_picture():
    given, statistics = stage()
    figure, _ = picture(given, statistics, limit=1.8)
    [shot] = [np.asarray(frame(figure), dtype=int)]
    with Image.open(io.BytesIO(collapse_animation([figure]))) as image:
        again = np.asarray(image.convert("RGB"), dtype=int)
    assert again.shape == shot.shape == (480, 480, 3)
    assert np.abs(again - shot).mean() < 3
    for color in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0, 0x9E, 0x73)):
        assert (np.abs(again - color).sum(2) < 30).sum() > 50


def test_an_animation_needs_frames_of_one_size():
    for nothing in ([], ()):
        with pytest.raises(ValueError, match="at least one frame, but got 0"):
            collapse_animation(nothing)
    with pytest.raises(ValueError, match="at least one frame"):
        collapse_animation(plates(2), max_frames=0)
    with pytest.raises(ValueError, match="frames of one size"):
        collapse_animation([Figure(figsize=(1, 1)), Figure(figsize=(1, 2))])


# ------------------------------------------------------------------------------------ all the figures


def test_names_and_settings_of_matplotlib_are_left_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    statistics, classifier = training(10)
    class_profile(statistics, classifier)
    spectra(statistics)
    summary(run(2))
    depth_profile(run(2), "val", ["a"])
    assert dict(matplotlib.rcParams) == before


def test_the_value_at_collapse_is_read_from_the_table(monkeypatch):
    import dataclasses

    changed = dataclasses.replace(MEASURES["nc1/cdnv"], at_collapse="0.5")
    monkeypatch.setitem(functional.MEASURES, "nc1/cdnv", changed)
    _, axes = summary(History().extended(0, 9, {"nc1/cdnv/val": 0.7}))
    assert axes[0].get_title("left") == "nc1/cdnv → 0.5"


# --------------------------------------------------------------------------------- from the metric


@pytest.mark.parametrize(
    "name", ["random", "missing classes", "binary head", "more classes than features"]
)
def test_a_metric_draws_its_cosines(name):
    given = problem(name)
    figure, axes = streamed(given).plot()
    assert isinstance(figure, Figure)
    seen = given.target.unique()
    statistics = ClassStatistics.from_batch(given.features, given.target, given.num_classes)
    means = oracles.center_means(statistics.means[seen].numpy())
    expected = [cosines(Frame(torch.from_numpy(means))), cosines(Frame(given.classifier.weight[seen]))]
    order = similarity_order(expected[0]) if len(seen) > 25 else range(len(seen))
    for image, matrix in zip(images(axes), [*expected, ideal(len(seen))], strict=True):
        np.testing.assert_allclose(image, matrix[np.ix_(order, order)], atol=1e-5)
    drawn(figure)


def test_a_metric_without_a_classifier_draws_the_means_alone():
    metric = NeuralCollapse(10, 32)
    metric.update(problem("random").features, problem("random").target)
    figure, axes = metric.plot()
    assert [axis.get_title() for axis in axes] == ["class means", "simplex ETF"]
    own = figure.axes[0]
    assert metric.plot(ax=own) == (figure, own)


def test_a_metric_without_samples_refuses_to_draw():
    with pytest.raises(RuntimeError, match="sample"):
        NeuralCollapse(3, 4).plot()


def test_drawing_leaves_pyplot_alone():
    from matplotlib import pyplot

    given, statistics = stage()
    figures = [cosine_matrices(random_frame(4)), picture(given, statistics), spectra(statistics)]
    figures += [class_profile(statistics), summary(run(3)), depth_profile(run(3), "val", ["a"])]
    collapse_animation([figure for figure, _ in figures[:1]])
    assert pyplot.get_fignums() == []
