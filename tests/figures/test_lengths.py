"""Lengths of class means and classifier's rows against the counts of training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from support.drawings import collisions, drawn
from support.problems import evidence_of, gaussian_classes

from lightning_nc import ClassStatistics, LinearClassifier
from lightning_nc.figures import PICTURES, Look, class_lengths, draw
from lightning_nc.figures.race import FAMILY_COLORS
from lightning_nc.functional import ClassEvidence
from lightning_nc.functional.frames import gof_shape
from lightning_nc.functional.imbalance import race
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.training import Training

COUNTS = (60, 48, 38, 30, 24, 19, 15, 12, 10, 8)


def evidence(counts=COUNTS, bias=False, spread=0.01, width=4, seed=0):
    """Of a network near the general orthogonal frame of a head without a bias."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.tensor(counts)
    num_classes, target = len(counts), torch.repeat_interleave(torch.arange(len(counts)), rows)
    shares = rows.double() / rows.sum()
    shape = gof_shape(shares, float(0.2 * shares.min()))
    means = (
        torch.eye(num_classes, num_classes + width).double() * shape.means.diagonal().sqrt()[:, None]
    )
    weight = torch.eye(num_classes, num_classes + width).double()
    weight = weight * shape.weights.diagonal().sqrt()[:, None]
    means = means[target] + spread * torch.randn(
        len(target), num_classes + width, generator=generator, dtype=torch.float64
    )
    head = LinearClassifier(weight.float(), torch.zeros(num_classes) if bias else None)
    return ClassEvidence.of(ClassStatistics.from_batch(means.float(), target, num_classes), head)


def curves(axis):
    return {line.get_label().split()[0]: line for line in axis.lines if line.get_label()[0] != "_"}


def relative(rows):
    lengths = np.linalg.norm(rows, axis=1)
    return lengths / np.sqrt(np.mean(lengths**2))


def centered(statistics):
    shares = statistics.counts.numpy() / statistics.counts.sum().item()
    means = statistics.means.double().numpy()
    return means - shares @ means


@pytest.mark.parametrize("bias", [False, True])
def test_measured_lengths_stand_beside_those_of_all_geometries_of_their_center(bias):
    given = evidence(bias=bias)
    figure, axes = class_lengths(given, stage="val")
    head = given.linear_head
    ranked = race.race_centered(head) if bias else race.race_as_they_are(head)
    means = centered(given.statistics) if bias else given.statistics.means.double().numpy()
    measured = head.product.weight.double().numpy(), means
    for i, axis in enumerate(axes):
        found = curves(axis)
        np.testing.assert_array_equal(found["measured"].get_xdata(), COUNTS)
        np.testing.assert_allclose(found["measured"].get_ydata(), relative(measured[i]))
        assert list(found) == [*(fit.family for fit in ranked.fits), "measured"]
        for fit in ranked.fits:
            squares = fit.member[i].diagonal().numpy()[::-1]  # by rising counts
            line = found[fit.family]
            np.testing.assert_array_equal(line.get_xdata(), COUNTS[::-1])
            np.testing.assert_allclose(line.get_ydata(), np.sqrt(squares / squares.mean()))
            assert line.get_color() == FAMILY_COLORS[fit.family]
        nearest, *others = [found[fit.family].get_linewidth() for fit in ranked.fits]
        assert nearest > max(others)
        assert axis.get_xscale() == "log"
    assert axes[1].get_title().startswith(f"class means, {'centered' if bias else 'as they are'}\n")
    told = "gof" if not bias else f"none ({ranked.reason})"
    assert figure.get_suptitle() == f"val: {told}"
    assert collisions(figure) == []
    drawn(figure)


def test_the_verdict_is_told_with_why_it_is_none():
    figure, _ = class_lengths(evidence_of(gaussian_classes([30, 9, 5], 8)), stage="train")
    assert figure.get_suptitle().startswith("train: none (")
    assert class_lengths(evidence())[0].get_suptitle() == "gof"


def test_the_classes_farthest_off_are_circled_and_named():
    given = evidence()
    weight = given.head.weight.clone()
    for row, factor in ((2, 1.8), (7, 0.2), (4, 1.5)):
        weight[row] *= factor
    names = [f"class {letter}" for letter in "abcdefghij"]
    names[7] = "a name that is much too long for a title"
    figure, axes = class_lengths(replace(given, head=LinearClassifier(weight)), names)
    title = " ".join(axes[0].get_title().split())
    measured = curves(axes[0])["measured"].get_ydata()
    told = [f"{name} ({measured[i]:.3g})" for name, i in (("a name t…a title", 7), ("class c", 2),
            ("class e", 4))]  # fmt: skip
    assert title == f"classifier's rows farthest off: {', '.join(told)}"
    circles = next(line for line in axes[0].lines if line.get_markerfacecolor() == "none")
    assert set(circles.get_xdata()) == {COUNTS[2], COUNTS[7], COUNTS[4]}
    assert collisions(figure) == []
    drawn(figure)


@pytest.mark.parametrize("num_classes", [2, 3, 200])
def test_few_and_many_classes_are_drawn(num_classes):
    counts = [max(2, int(300 * 0.01 ** (i / num_classes))) for i in range(num_classes)]
    figure, axes = class_lengths(evidence(counts), [f"n{i}" for i in range(num_classes)], "val")
    marks = curves(axes[0])["gof"].get_marker()
    assert (marks == "o") == (num_classes < 25)  # of more they would hide what is measured
    assert collisions(figure) == []
    drawn(figure)


def test_balanced_classes_stand_in_their_own_order():
    figure, axes = class_lengths(evidence([20] * 5, spread=1e-4))
    np.testing.assert_array_equal(curves(axes[0])["measured"].get_xdata(), range(5))
    assert axes[0].get_xscale() == "linear"
    low, high = axes[0].get_ylim()
    assert low <= 0.9 < 1.1 <= high
    drawn(figure)


def test_classes_without_rows_keep_their_numbers_for_the_others():
    given = evidence_of(gaussian_classes([30, 0, 9, 5, 0], 8))
    title = " ".join(class_lengths(given)[1][0].get_title().split())
    assert {word for word in title.split() if word in "01234"} == {"0", "2", "3"}


def test_names_that_are_no_mathematics_are_drawn_as_they_are():
    names = ("cost $5", r"$\frac$", "a_$b$")
    figure, _ = draw("lengths", evidence((40, 12, 5)), Look(class_names=names, stage="val"))
    drawn(figure)
    named = [text for text in figure.findobj(Text) if "farthest off" in text.get_text()]
    for text in named:
        assert all(name in " ".join(text.get_text().split()) for name in names)
        assert not text.get_parse_math()
    assert len(named) == 2


def test_weights_that_are_zero_have_no_nearest_geometry():
    given = evidence()
    zero = replace(given, head=LinearClassifier(torch.zeros_like(given.head.weight)))
    figure, axes = class_lengths(zero, stage="val")
    assert figure.get_suptitle() == "val: none (weights or class means are zero)"
    assert list(curves(axes[0])) == ["measured"]
    assert "shortest: " in axes[0].get_title()
    drawn(figure)


def shows(given):
    picture = PICTURES["lengths"]
    return picture.suits(given) and picture.shows(given, Look())


def test_a_run_has_it_where_counts_of_training_are_unequal():
    given = evidence()
    assert shows(given)
    balanced = evidence((20, 20, 20))
    assert not shows(balanced)
    assert shows(replace(balanced, occasions=frozenset({"unequal_counts"})))
    # what counts are those of training
    assert shows(replace(balanced, training=Training(torch.tensor([90, 9, 9]))))
    assert not shows(replace(given, training=Training(torch.tensor([9] * len(COUNTS)))))
    assert not shows(replace(evidence((60, 30, 30)), occasions=frozenset()))
    assert shows(evidence((61, 30, 30)))


def test_a_run_has_it_not_where_geometries_cannot_be_compared(monkeypatch):
    given = evidence()
    without_counts = replace(given, training=Training())
    assert PICTURES["lengths"].suits(without_counts)
    assert not shows(without_counts)
    assert not shows(replace(given, doubt="it may be another head"))
    assert not shows(replace(given, head=None))
    with pytest.raises(UndefinedMeasure, match="counts of the classes in training are not known"):
        class_lengths(without_counts)
    with pytest.raises(UndefinedMeasure, match="no linear classifier whose lengths"):
        class_lengths(replace(given, head=None))

    def refuse(head):
        raise UndefinedMeasure("there are too many classes")

    monkeypatch.setattr("lightning_nc.figures.lengths.race_of", refuse)
    assert not shows(given)
    with pytest.raises(UndefinedMeasure, match="there are too many classes"):
        class_lengths(given)
