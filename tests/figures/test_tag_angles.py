"""Pairs of tags beside the sums of their tags, and scale and residual by the number of tags."""

import itertools
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.text import Text
from support.drawings import collisions, drawn
from support.problems import evidence_of, problem

from lightning_nc import ClassStatistics
from lightning_nc.figures import PICTURES, Look, draw, tag_angles
from lightning_nc.values.tag_evidence import TagEvidence
from lightning_nc.values.tags import TagMoments, TagStatistics, num_pairs, pair_tags


def rows_of(num_tags, multiplicity, rows, spread, mix, generator):
    """Features near 0.8 times the sum of their tags' corners, and what each set of tags adds to it."""
    sets = list(itertools.combinations(range(num_tags), multiplicity))
    corners = torch.eye(num_tags, num_tags + 3).double() - 1 / num_tags
    tags = torch.tensor(
        [[tag in each for tag in range(num_tags)] for each in sets for _ in range(rows)]
    ).double()
    own = torch.randn(len(sets), corners.shape[1], generator=generator).double()
    noise = torch.randn(len(tags), corners.shape[1], generator=generator).double()
    scale = 1.0 if multiplicity == 1 else 0.8
    own = own.repeat_interleave(rows, 0) * (mix if multiplicity > 1 else 0.0)
    return scale * tags @ corners + own + spread * noise, tags


def stage(num_tags, multiplicities=(2,), rows=3, spread=0.05, mix=0.2, lone=(), seed=0):
    """A stage's statistics, and its rows by their number of tags; ``lone`` tags have no rows alone."""
    generator = torch.Generator().manual_seed(seed)
    given = {
        m: rows_of(num_tags, m, rows, spread, mix, generator) for m in sorted({1, *multiplicities})
    }
    features, tags = given[1]
    kept = ~tags[:, list(lone)].any(1)
    given[1] = features[kept], tags[kept]
    singles = ClassStatistics.from_batch(given[1][0], given[1][1].argmax(1), num_tags)
    pairs = ClassStatistics.empty(num_pairs(num_tags), num_tags + 3, covariance="none")
    if 2 in given:
        numbers = torch.arange(num_pairs(num_tags)).repeat_interleave(rows)
        pairs = ClassStatistics.from_batch(given[2][0], numbers, num_pairs(num_tags), covariance="none")
    moments = {m: TagMoments.of_rows(*given[m]) for m in given if m > 1}
    return TagStatistics(singles, pairs, moments), given


def angle(u, v):
    return np.degrees(np.arccos(np.clip(u @ v / np.linalg.norm(u) / np.linalg.norm(v), -1, 1)))


def reference(given):
    """Angles by pair, and the mean of those of any two, by loops over the rows."""
    means = {
        tags: np.mean([h for h, t in rows if t == tags], 0)
        for rows in ([(h.numpy(), tuple(t.nonzero().flatten().tolist())) for h, t in zip(*given[m],
                     strict=True)] for m in (1, 2))
        for tags in {t for _, t in rows}
    }  # fmt: skip
    singles = sorted(t[0] for t in means if len(t) == 1)
    sums = {(i, j): means[i,] + means[j,] for i, j in itertools.combinations(singles, 2)}
    matched = {ij: angle(total, means[ij]) for ij, total in sums.items() if ij in means}
    every = [angle(total, means[kl]) for total in sums.values() for kl in matched]
    return matched, float(np.mean(every))


def lines(axis):
    return {line.get_label().split(":")[0]: line for line in axis.lines}


def heights(axis):
    return [bar.get_height() for bar in axis.patches]


@pytest.mark.parametrize("num_tags", [3, 7])
def test_the_angles_stand_between_the_ideal_and_those_of_unmatched_pairs(num_tags):
    statistics, given = stage(num_tags)
    figure, axes = tag_angles(statistics, stage="val")
    matched, unmatched = reference(given)
    degrees = np.array([*matched.values()])
    edges = [bar.get_x() for bar in axes[0].patches]
    right = axes[0].patches[-1].get_x() + axes[0].patches[-1].get_width()
    expected, _ = np.histogram(degrees, [*edges, right])
    np.testing.assert_array_equal(heights(axes[0]), expected)
    assert sum(expected) == len(matched) == num_pairs(num_tags)
    found = lines(axes[0])
    assert found["ideal"].get_xdata()[0] == 0
    np.testing.assert_allclose(found["mean"].get_xdata()[0], degrees.mean(), rtol=1e-7)
    np.testing.assert_allclose(found["unmatched"].get_xdata()[0], unmatched, rtol=1e-7)
    assert figure.get_suptitle() == f"val: angle ratio {degrees.mean() / unmatched:.3g}"
    legend = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert legend == ["ideal: 0", f"mean: {degrees.mean():.3g}", f"unmatched: {unmatched:.3g}"]
    assert axes[0].get_ylabel() == "pairs of tags"
    assert collisions(figure) == []


@pytest.mark.parametrize(("num_tags", "shown"), [(3, 3), (6, 8)])
def test_the_worst_pairs_are_named_with_their_angle_and_rows(num_tags, shown):
    statistics, given = stage(num_tags)
    # of the first pair half of the rows
    counts = statistics.pairs.counts.clone()
    counts[0] = 1
    statistics = replace(statistics, pairs=replace(statistics.pairs, counts=counts))
    names = [f"n{i}" for i in range(num_tags)]
    _, axes = tag_angles(statistics, names)
    matched, _ = reference(given)
    worst = sorted(matched, key=lambda pair: -matched[pair])[:shown]
    labels = [label.get_text() for label in axes[1].get_yticklabels()]
    assert labels == [f"n{i} / n{j}" for i, j in worst]
    np.testing.assert_allclose(
        [bar.get_width() for bar in axes[1].patches], [matched[p] for p in worst], rtol=1e-6
    )
    told = [text.get_text() for text in axes[1].texts]
    rows = {pair: "1 row" if pair == (0, 1) else "3 rows" for pair in worst}
    assert told == [f"{matched[pair]:.3g}°, {rows[pair]}" for pair in worst]


def explained(given, m):
    """Scale and residual of rows with m tags, by a least-squares fit of one number."""
    singles, tags = given[1][0].numpy(), given[1][1].numpy().argmax(1)
    means = np.array([singles[tags == k].mean(0) for k in range(tags.max() + 1)])
    h = given[m][0].numpy() - means.mean(0)
    sums = given[m][1].numpy() @ (means - means.mean(0))
    scale = (h * sums).sum() / (sums**2).sum()
    return scale, ((h - scale * sums) ** 2).sum() / (h**2).sum()


def test_scale_and_residual_go_by_the_number_of_tags_with_their_rows():
    statistics, given = stage(5, multiplicities=(2, 3, 4))
    _, axes = tag_angles(statistics)
    for axis, which in ((axes[2], 0), (axes[3], 1)):
        curve = next(line for line in axis.lines if line.get_markersize() == 5)
        np.testing.assert_array_equal(curve.get_xdata(), [2, 3, 4])
        expected = [explained(given, m)[which] for m in (2, 3, 4)]
        np.testing.assert_allclose(curve.get_ydata(), expected, rtol=1e-9)
        assert [text.get_text() for text in axis.texts] == [f"{value:.3g}" for value in expected]
    ticks = [[label.get_text() for label in axis.get_xticklabels()] for axis in axes[2:]]
    assert ticks == [["1\n15", "2\n30", "3\n30", "4\n15"], ["2\n30", "3\n30", "4\n15"]]
    start = next(line for line in axes[2].lines if line.get_markerfacecolor() == "white")
    assert (start.get_xdata(), start.get_ydata()) == ([1], [1])
    assert axes[3].get_yscale() == "log"
    assert axes[3].get_ylim()[1] > 1


def test_pairs_without_rows_and_tags_without_rows_alone_are_told():
    statistics, given = stage(6, multiplicities=(2, 3), lone=(4,))
    figure, axes = tag_angles(statistics)
    matched, unmatched = reference(given)
    assert axes[0].get_ylabel() == "pairs of tags (10 of 15 have rows)"
    assert sum(heights(axes[0])) == len(matched) == 10
    np.testing.assert_allclose(lines(axes[0])["unmatched"].get_xdata()[0], unmatched, rtol=1e-7)
    # the scale of two tags rests on the same pairs
    ticks = [label.get_text() for label in axes[3].get_xticklabels()]
    assert ticks == ["2\n30", "3\n60"]
    for axis in axes[2:]:
        told = " ".join(axis.get_title().split())
        assert told.startswith("m = 3 left out: rows with 3 tags have tag")
        curve = next(line for line in axis.lines if line.get_markersize() == 5)
        assert np.isnan(curve.get_ydata()).tolist() == [False, True]
    assert collisions(figure) == []
    drawn(figure)


@pytest.mark.parametrize(
    ("statistics", "told"),
    [
        (replace(stage(4)[0], pairs=None), "val: no angles: 4 tags have too many pairs to keep"),
        (stage(4, multiplicities=(3,))[0], "val: no angles: no row has two tags"),
        (stage(5, lone=(0, 1, 2, 3))[0], "val: no angles: 10 pairs of tags have rows, but of none"),
        (stage(2)[0], "val: no angles: it takes 3 tags that have rows of their own"),
        (replace(stage(4)[0], moments={}, pairs=None), "val: no angles: no row has two tags"),
    ],
)
def test_without_angles_the_headline_says_why_and_the_other_panels_are_there(statistics, told):
    figure, axes = tag_angles(statistics, stage="val")
    assert " ".join(figure.get_suptitle().split()).startswith(told)
    assert [axis.get_ylabel() for axis in axes] == [r"scale $C_m / C_1$", "residual"]
    assert len(figure.axes) == 2
    for axis in axes:
        if not axis.lines:
            # nothing there, and why
            expected = "no row has more than one tag" if not statistics.moments else "left out: "
            assert expected in axis.texts[0].get_text()
    assert collisions(figure) == []
    drawn(figure)


@pytest.mark.parametrize(
    ("num_tags", "spread"), [(3, 0.1), (10, 2.0), (10, 0.1), (10, 1e-6), (10, 0.0), (80, 0.1)]
)
def test_few_and_many_tags_are_readable_early_and_late(num_tags, spread):
    multiplicities = (2,) if num_tags == 80 else (2, 3)
    statistics, _ = stage(num_tags, multiplicities, rows=2, spread=spread, mix=spread)
    figure, axes = tag_angles(statistics, [f"a rather long name, {i}" for i in range(num_tags)], "val")
    assert sum(heights(axes[0])) == num_pairs(num_tags)
    assert len(axes[1].patches) == min(8, num_pairs(num_tags))
    assert axes[0].get_xlim()[1] >= 90
    assert collisions(figure) == []
    drawn(figure)


def test_at_collapse_a_residual_of_zero_is_a_mark_on_the_edge():
    statistics, _ = stage(4, spread=0.0, mix=0.0)
    # a power of two times the sums: nothing is rounded
    means = torch.eye(4)[pair_tags(4)].sum(1) / 2
    singles = ClassStatistics.from_batch(torch.eye(4), torch.arange(4), 4)
    exact = ClassStatistics.from_batch(means, torch.arange(6), 6, covariance="none")
    exact = TagStatistics(singles, exact, {2: TagMoments.of_rows(means, 2 * means)})
    for given in (statistics, exact):
        figure, axes = tag_angles(given)
        drawn(figure)
        assert heights(axes[0])[0] == 6
    assert axes[3].texts[0].get_text() == "0"
    assert lines(axes[0])["mean"].get_xdata()[0] == 0
    assert axes[1].get_xlim()[1] == 1


def test_a_pair_whose_mean_vanishes_has_no_angle():
    statistics, _ = stage(4)
    means = statistics.pairs.means.clone()
    means[2] = 0
    figure, axes = tag_angles(replace(statistics, pairs=replace(statistics.pairs, means=means)))
    assert sum(heights(axes[0])) == 5
    labels = [label.get_text() for label in axes[1].get_yticklabels()]
    assert len(labels) == 5
    assert "0 / 3" not in labels
    drawn(figure)


NAMES = ("cost $5", r"$\frac$", "a_$b$", "_hidden_")


def evidence(statistics):
    return TagEvidence(statistics.singles, tags=statistics)


def test_names_that_are_no_mathematics_are_drawn_as_they_are_and_without_latex():
    given = evidence(stage(4)[0])
    with matplotlib.rc_context({"text.usetex": True}):
        figure, axes = draw("tag_angles", given, Look(class_names=NAMES, stage="val"))
        drawn(figure)
    labels = [label.get_text() for label in axes[1].get_yticklabels()]
    assert sorted(labels) == sorted(f"{a} / {b}" for a, b in itertools.combinations(NAMES, 2))
    assert not any(label.get_parse_math() for label in axes[1].get_yticklabels())
    assert not any(text.get_usetex() for text in figure.findobj(Text))
    assert figure.get_suptitle().startswith("val: angle ratio ")


def test_a_run_has_it_where_rows_have_several_tags():
    picture = PICTURES["tag_angles"]
    several = evidence(stage(4)[0])
    assert picture.suits(several)
    assert picture.shows(several, Look())
    assert not picture.shows(evidence(replace(stage(4)[0], moments={})), Look())
    assert not picture.suits(evidence_of(problem("random")))
    assert not picture.shows(evidence_of(problem("random")), Look())
    without_singles = evidence(stage(4, lone=(0, 1, 2))[0])
    assert not picture.suits(without_singles)
