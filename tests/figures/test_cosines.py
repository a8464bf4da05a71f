"""The cosines of class means and classifier rows, beside the simplex ETF's."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from support.drawings import cosines, drawn, ideal, images, random_frame

from lightning_nc.figures import (
    cosine_matrices,
)
from lightning_nc.figures.ordering import similarity_order
from lightning_nc.values.statistics import Frame


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


def test_a_sample_of_classes_is_named_by_its_numbers(monkeypatch):
    monkeypatch.setattr("lightning_nc.values.frame.PAIRWISE_CLASSES", 30)
    means = random_frame(300)
    _, axes = cosine_matrices(means)
    order = means.sampled[similarity_order(means.cosines.numpy())].tolist()
    assert axes[0].get_xlabel() == "30 of 300 classes, ordered by similarity"
    shown = [int(label.get_text()) for label in axes[0].get_xticklabels()]
    assert shown == [order[int(i)] for i in axes[0].get_xticks()]


def test_many_classes_are_drawn_by_a_sample_against_the_ideal_of_all(monkeypatch):
    monkeypatch.setattr("lightning_nc.values.frame.PAIRWISE_CLASSES", 20)
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
