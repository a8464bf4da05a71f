"""What the pictures show is what was measured: the arrays, points and names of their artists."""

import io

import numpy as np
import oracles
import pytest
import torch
from matplotlib.figure import Figure
from problems import gaussian_classes, problem, streamed

from lightning_nc import ClassStatistics, LinearClassifier, NeuralCollapse
from lightning_nc.figures import collapse_picture, cosine_matrices
from lightning_nc.values import Frame


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


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
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


def test_many_classes_are_drawn_by_a_sample_against_the_ideal_of_all(monkeypatch):
    monkeypatch.setattr("lightning_nc.values.PAIRWISE_CLASSES", 20)
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


def test_two_classes_are_refused():
    with pytest.raises(ValueError, match="three"):
        picture(*stage(2))


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
    for image, matrix in zip(images(axes), [*expected, ideal(len(seen))], strict=True):
        np.testing.assert_allclose(image, matrix, atol=1e-5)
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

    cosine_matrices(random_frame(4))
    picture(*stage())
    assert pyplot.get_fignums() == []
