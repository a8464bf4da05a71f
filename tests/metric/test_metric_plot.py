"""The pictures that a metric draws by itself."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from support import oracles
from support.drawings import (
    cosines,
    drawn,
    ideal,
    images,
)
from support.problems import gaussian_classes, problem, streamed

from lightning_nc import ClassStatistics, NeuralCollapse
from lightning_nc.figures.ordering import similarity_order
from lightning_nc.values.statistics import Frame


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


def with_rows(counts=(6, 9, 4, 9, 0), width=6):
    given = gaussian_classes(counts, width)
    metric = NeuralCollapse(len(counts), width)
    metric.update(given.features, given.target)
    return metric


def test_the_metric_draws_its_own_pictures():
    metric = with_rows()
    assert len(metric.plot()[1]) == 2
    assert metric.plot(picture="spectra")[0].axes[0].get_legend() is not None
    assert len(metric.plot(picture="classes")[0].axes) == 4


def test_what_needs_the_sample_can_be_drawn_too():
    figure, axis = with_rows().plot(picture="plane")
    assert figure.axes == [axis]
    assert axis.get_legend() is not None


def test_a_picture_that_there_is_not_is_refused_with_those_that_there_are():
    listed = r"'cosines', 'plane', 'spectra', 'classes', 'lengths', 'tag_angles', 'regression', but got"
    with pytest.raises(ValueError, match=f"Expected picture to be one of {listed}"):
        with_rows().plot(picture="summary")
