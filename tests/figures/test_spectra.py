"""The eigenvalues of both covariances."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
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
    spectra,
)


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
