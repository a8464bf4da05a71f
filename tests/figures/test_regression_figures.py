"""The spectrum of a regression's features, and its head's rows beside what the targets ask for."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from support.drawings import collisions, drawn, images
from support.problems import evidence_of, problem

from lightning_nc import LinearClassifier
from lightning_nc.figures import PICTURES, Look, draw, regression_spectrum
from lightning_nc.values.joint import JointMoments
from lightning_nc.values.regression import RegressionEvidence

ROWS = 60


def rows_of(num_targets, width, spread=0.2, offset=0.0, seed=0):
    """Features that read the targets along W, with a spread; the targets; and W."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(ROWS, num_targets)) @ (
        np.eye(num_targets) + 0.3 * rng.normal(size=(num_targets, num_targets))
    )
    y = y - y.mean(0)
    square = rng.normal(size=2 * (max(width, num_targets),))
    weight = np.linalg.qr(square)[0][:num_targets, :width]
    weight = weight * np.linspace(1, 2, num_targets)[:, None]
    h = y @ np.linalg.pinv(weight).T + spread * rng.normal(size=(ROWS, width)) + offset
    return h, y, weight


def evidence(h, y, weight=None):
    head = None if weight is None else LinearClassifier(torch.as_tensor(weight))
    joint = JointMoments.from_batch(torch.as_tensor(h), torch.as_tensor(y))
    return RegressionEvidence(joint=joint, head=head)


def stage(*args, **settings):
    return evidence(*rows_of(*args, **settings))


def by_start(axis, start):
    found = next(line for line in axis.lines if str(line.get_label()).startswith(start))
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def root(covariance):
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values) @ vectors.T


def normalized(matrix):
    return matrix / np.linalg.norm(matrix)


def test_the_eigenvalues_are_relative_to_their_sum_and_change_color_at_the_targets():
    h, y, weight = rows_of(3, 10)
    _, axes = regression_spectrum(evidence(h, y, weight))
    values = np.linalg.eigvalsh(np.cov(h.T))[::-1]
    shares = values / values.sum()
    for start, at in (("the first 3", [1, 2, 3]), ("the others", [4, 5, 6, 7, 8, 9, 10])):
        index, shown = by_start(axes[0], start)
        np.testing.assert_array_equal(index, at)
        np.testing.assert_allclose(shown, shares[index - 1], rtol=1e-9)
    assert set(by_start(axes[0], "n = 3 targets")[0]) == {3}
    assert axes[0].get_xscale() == axes[0].get_yscale() == "log"
    assert axes[0].get_xlabel() == "index"


def test_the_values_are_told_in_words():
    h, y, weight = rows_of(2, 6, offset=0.3)
    figure, axes = regression_spectrum(evidence(h, y, weight), stage="val")
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(h.T))
    basis = np.linalg.qr(weight.T)[0]
    nrc1 = 1 - np.mean(np.sum((unit @ vectors[:, -2:]) ** 2, 1))
    nrc2 = 1 - np.mean(np.sum((unit @ basis) ** 2, 1))
    covariance = np.cov(y.T, bias=True)
    gammas = np.linspace(0, np.linalg.eigvalsh(covariance)[0], 20001)
    distances = [
        np.sum((normalized(weight @ weight.T) - normalized(root(covariance) - g**0.5 * np.eye(2))) ** 2)
        for g in gammas[:-1]
    ]
    nrc3, gamma = min(distances), gammas[int(np.argmin(distances))]
    outside = 1 - values[-2:].sum() / values.sum()
    assert figure.get_suptitle() == f"val: NRC1 {nrc1:.3g}, NRC2 {nrc2:.3g}, NRC3 {nrc3:.3g}"
    assert axes[0].get_title("left").split("\n") == [
        f"NRC1 {nrc1:.3g}: unit rows outside the features' 2 main directions",
        f"NRC2 {nrc2:.3g}: unit rows outside the row space of W",
        f"{outside:.3g} of the features' variance outside their 2 main directions",
    ]
    told = figure.subfigs[1].get_supxlabel()
    start, _, shown = told.partition(r"$\gamma$ = ")
    assert start == f"NRC3 {nrc3:.3g}: squared distance of the two, with "
    assert float(shown) == pytest.approx(gamma, rel=6e-3, abs=1e-3)
    without_stage, _ = regression_spectrum(evidence(h, y, weight))
    assert without_stage.get_suptitle().startswith("NRC1 ")


@pytest.mark.parametrize("num_targets", [2, 3, 6, 7, 12, 13, 40])
def test_both_matrices_have_the_same_colors_and_numbers_where_there_is_room(num_targets):
    h, y, weight = rows_of(num_targets, 50)
    # with W as it is wanted for a gamma in the middle of its range
    covariance = np.cov(y.T, bias=True)
    least = np.linalg.eigvalsh(covariance)[0]
    wanted = root(covariance) - 0.5 * np.sqrt(least) * np.eye(num_targets)
    weight = root(wanted) @ np.linalg.qr(weight.T)[0].T
    figure, axes = regression_spectrum(evidence(h, y, weight))
    shown = images(axes[1:])
    np.testing.assert_allclose(shown[0], normalized(weight @ weight.T), atol=1e-9)
    np.testing.assert_allclose(shown[1], normalized(wanted), atol=1e-6)
    most = max(abs(shown[0]).max(), abs(shown[1]).max())
    for axis in axes[1:]:
        assert axis.images[0].get_clim() == (-most, most)
        assert axis.images[0].get_cmap().name == "RdBu_r"
        assert len(axis.texts) == (num_targets**2 if num_targets <= 12 else 0)
        ticks = [label.get_text() for label in axis.get_xticklabels()]
        assert (ticks[0], ticks[-1]) == ("0", str(num_targets - 1))
        assert len(ticks) == min(num_targets, len(ticks)) <= 12
    if num_targets <= 12:
        numbers = [float(text.get_text()) for text in axes[1].texts]
        np.testing.assert_allclose(numbers, shown[0].flatten(), atol=0.0051)
    assert collisions(figure) == []
    drawn(figure)


def told_of(axis):
    return " ".join(" ".join(text.get_text() for text in axis.texts).split())


def test_a_single_target_has_no_matrices_and_the_panel_says_why():
    figure, axes = regression_spectrum(stage(1, 8), stage="val")
    assert len(axes) == len(figure.axes) == 2
    assert told_of(axes[1]).startswith("NRC3 left out: with a single target")
    assert figure.get_suptitle().endswith("NRC3 left out")
    assert axes[0].get_title("left").startswith("NRC1 ")
    assert "outside the features' main direction\n" in axes[0].get_title("left")
    assert by_start(axes[0], "the first")[0].tolist() == [1]
    assert set(by_start(axes[0], "n = 1 target")[0]) == {1}
    assert collisions(figure) == []
    drawn(figure)


@pytest.mark.parametrize(
    ("given", "left", "right"),
    [
        (evidence(*rows_of(3, 8)[:2]), ["NRC1 0.", "NRC2 left out: the head"], "the head is not known"),
        (stage(4, 3), ["NRC1 left out: ", "NRC2 left out: "], None),
        (
            evidence(np.zeros((9, 4)), rows_of(2, 4)[1][:9], np.zeros((2, 4))),
            ["NRC1 left out: ", "NRC2 left out: "],
            "W is 0",
        ),
        (evidence(rows_of(2, 4)[0], np.ones((ROWS, 2)), np.ones((2, 4))), ["NRC1 0."], "constant"),
        (evidence(np.ones((1, 4)), np.ones((1, 2)), np.eye(2, 4)), ["NRC1 left out: "], "constant"),
    ],
    ids=["no head", "more targets than features", "all zero", "constant targets", "one row"],
)
def test_what_has_no_value_is_told_and_the_rest_is_drawn(given, left, right):
    figure, axes = regression_spectrum(given, stage="val")
    words = " ".join(axes[0].get_title("left").split())
    assert [start for start in left if start not in words] == []
    if right is None:
        assert len(images(axes[1:])) == 2
    else:
        assert told_of(axes[1]).startswith("NRC3 left out: ")
        assert right in told_of(axes[1])
    if not axes[0].lines:
        assert told_of(axes[0]).startswith("no eigenvalues: ")
    assert collisions(figure) == []
    drawn(figure)


@pytest.mark.parametrize("spread", [3.0, 0.2, 1e-5, 0.0])
def test_the_spectrum_falls_from_early_to_collapse(spread):
    figure, axes = regression_spectrum(stage(3, 20, spread=spread), stage="val")
    labels = axes[0].get_legend_handles_labels()[1]
    assert ("the others" in labels) == (spread > 0)
    assert axes[0].get_xlabel() == ("index" if spread else "index   (3 of 20, the others are 0)")
    assert axes[0].get_ylim()[0] <= 1e-3
    assert axes[0].get_xlim()[1] > 20
    assert collisions(figure) == []
    drawn(figure)


def test_a_mean_outside_shows_in_nrc1_and_not_in_the_variance():
    title = regression_spectrum(stage(2, 30, spread=1e-3, offset=3.0))[1][0].get_title("left")
    nrc1, _, outside = [line.replace(":", "").split() for line in title.split("\n")]
    assert float(nrc1[1]) > 0.5
    assert float(outside[0]) < 1e-3


def test_it_is_the_only_picture_of_a_regression_and_no_picture_of_classes():
    given = stage(3, 8)
    of_a_stage = {name: p for name, p in PICTURES.items() if p.when == "stage"}
    assert [name for name, p in of_a_stage.items() if p.suits(given)] == ["regression"]
    assert PICTURES["regression"].shows(given, Look())
    assert not PICTURES["regression"].suits(evidence_of(problem("random")))
    figure, axes = draw("regression", given, Look(stage="val_1"))
    assert isinstance(figure, Figure)
    assert figure.get_suptitle().startswith("val_1: NRC1 ")
    assert len(axes) == 3


def test_it_is_drawn_without_latex_where_that_is_asked_for():
    with matplotlib.rc_context({"text.usetex": True}):
        figure, _ = draw("regression", stage(3, 8), Look(stage="val"))
        drawn(figure)
    assert not any(text.get_usetex() for text in figure.findobj(Text))
