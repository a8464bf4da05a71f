"""Where features of several tags stand: angles, scales and residuals."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from support import tag_oracles as oracles
from support.ideal import etf
from support.problems import rotation

from lightning_nc import ClassStatistics, LinearClassifier
from lightning_nc.functional import evaluate, values_of
from lightning_nc.functional import tags as of_tags
from lightning_nc.functional.measure import Measure
from lightning_nc.functional.table.tags import TAGS
from lightning_nc.functional.tags import measured
from lightning_nc.values import Fate
from lightning_nc.values.errors import NothingToCompare, UndefinedMeasure
from lightning_nc.values.penalties import Penalties
from lightning_nc.values.tag_evidence import TagEvidence
from lightning_nc.values.tags import TagDecisions, TagMoments, TagStatistics, num_pairs, pair_tags
from lightning_nc.values.training import Training

LINES = {measure.key: measure for measure in TAGS}
LAWFUL = ("tags/angle_ratio", "tags/angle_ratio_centered", "tags/scale_2", "tags/scale_3",
          "tags/residual_2", "tags/residual_3")  # fmt: skip


def statistics_of(rows, with_pairs=True):
    """What a stage would leave of these rows, by the definitions."""
    h, t = torch.from_numpy(rows.h), torch.from_numpy(rows.t)
    num_tags, count = t.shape[1], t.sum(1)
    slots = torch.full((num_tags, num_tags), -1)
    i, j = pair_tags(num_tags).T
    slots[i, j] = torch.arange(num_pairs(num_tags))
    ones, twos = count == 1, count == 2
    singles = ClassStatistics.from_batch(h[ones], t[ones].argmax(1), num_tags)
    of_two = t[twos].topk(2, dim=1).indices.sort(1).values
    pairs = ClassStatistics.from_batch(h[twos], slots[of_two[:, 0], of_two[:, 1]], len(i), "none")
    moments = {
        int(m): TagMoments.of_rows(h[count == m], t[count == m], h.mean(0))
        for m in count.unique()
        if m > 1
    }
    return TagStatistics(singles, pairs if with_pairs else None, moments)


def value(key, statistics):
    return float(LINES[key].function(statistics))


def averaged(num_tags=5, d=6, length=0.8, offset=0.0, spread=0.0, rows=40, most=3, seed=0):
    """Rows that are just multiples of the sums of single-tag means, or near them."""
    rng = np.random.default_rng(seed)
    means = etf(num_tags, d).numpy()
    t = oracles.all_sets(num_tags, dict.fromkeys(range(1, most + 1), rows))
    scale = np.where(t.sum(1, keepdims=True) == 1, 1.0, length)
    return oracles.Rows(scale * (t @ means) + offset + spread * rng.standard_normal((len(t), d)), t)


@pytest.mark.parametrize("seed", range(20))
def test_values_are_those_of_explicit_loops(seed):
    rows = oracles.drawn(seed)
    found, center = statistics_of(rows), rows.center
    angle, unmatched = oracles.angle(rows), oracles.unmatched(rows)
    assert value("tags/angle", found) == pytest.approx(angle, rel=1e-12)
    assert value("tags/angle_ratio", found) == pytest.approx(angle / unmatched, rel=1e-12)
    centered = oracles.angle(rows, center) / oracles.unmatched(rows, center)
    assert value("tags/angle_ratio_centered", found) == pytest.approx(centered, rel=1e-12)
    assert value("tags/pairs_seen", found) == len(rows.pairs)
    by_moments = statistics_of(rows, with_pairs=False)
    for m in (2, 3, 4):
        scale, residual = oracles.fit(rows, m)
        for each in (found, by_moments):
            assert value(f"tags/scale_{m}", each) == pytest.approx(scale, rel=1e-12)
            assert value(f"tags/residual_{m}", each) == pytest.approx(residual, rel=1e-12)
        assert value(f"tags/rows_{m}", found) == (rows.t.sum(1) == m).sum()


@pytest.mark.parametrize("seed", range(5))
def test_any_center_is_that_of_explicit_loops(seed):
    rows = oracles.drawn(seed)
    found = statistics_of(rows)
    pairs = of_tags.seen_pairs(found)
    for center in (np.zeros(5), np.full(5, 0.7)):
        g, scale_and_residual = torch.from_numpy(center), oracles.fit(rows, 2, center)
        assert (float(of_tags.pair_scale(pairs, g)), float(of_tags.pair_residual(pairs, g))) == (
            pytest.approx(scale_and_residual, rel=1e-12)
        )
        given_moments = found.singles.means, found.moments[3], g
        both = float(of_tags.tag_scale(*given_moments)), float(of_tags.tag_residual(*given_moments))
        assert both == pytest.approx(oracles.fit(rows, 3, center), rel=1e-12)
        angles = of_tags.pair_angles(*pairs[:3], g)
        assert float(angles.mean()) == pytest.approx(oracles.angle(rows, center), rel=1e-12)


@pytest.mark.parametrize(
    ("num_tags", "ideal"), [(3, 80.0), (4, 90.0), (7, 88.62884541), (10, 89.17736302)]
)
def test_the_mean_angle_of_any_two_at_an_exact_simplex(num_tags, ideal):
    k = num_tags
    share_a_tag = 2 * (k - 2) * math.degrees(math.acos((k - 4) / (2 * (k - 2))))
    share_none = math.comb(k - 2, 2) * math.degrees(math.acos(max(-1, -2 / (k - 2))))
    by_hand = (share_a_tag + share_none) / math.comb(k, 2)
    assert by_hand == pytest.approx(ideal, abs=6e-9)
    rows = averaged(num_tags, num_tags, rows=1, most=2)
    pairs = of_tags.seen_pairs(statistics_of(rows))
    found = of_tags.unmatched_angle(pairs.single_means, pairs.pair_means)
    assert float(found) == pytest.approx(by_hand, rel=1e-13)


@pytest.mark.parametrize("length", [0.5, 0.8, 1.0])
def test_exact_averages_have_the_values_of_collapse(length):
    found = statistics_of(averaged(length=length))
    for key in ("tags/angle", "tags/angle_ratio", "tags/angle_ratio_centered"):
        assert 0 <= value(key, found) < 1e-13
    for m in (2, 3):
        assert value(f"tags/scale_{m}", found) == pytest.approx(length, rel=1e-13)
        assert 0 <= value(f"tags/residual_{m}", found) < 1e-14
    far = statistics_of(averaged(length=length, offset=10.0))
    assert value("tags/angle_ratio_centered", far) < 1e-12
    assert value("tags/scale_3", far) == pytest.approx(length, rel=1e-12)
    # half of the sum stays half of it, wherever the origin is
    assert (value("tags/angle_ratio", far) > 0.2) == (length != 0.5)


def test_after_relu_single_means_are_orthogonal_and_only_what_is_not_centered_is_at_collapse():
    t = oracles.all_sets(5, {1: 2, 2: 2, 3: 2})
    rows = oracles.Rows(0.7 * t, t)
    found = statistics_of(rows)
    assert value("tags/angle_ratio", found) < 1e-13
    assert value("tags/angle_ratio_centered", found) > 0.05
    assert value("tags/residual_2", found) > 0.02
    zero = torch.zeros(5, dtype=torch.float64)
    assert float(of_tags.pair_residual(of_tags.seen_pairs(found), zero)) < 1e-15
    assert float(of_tags.tag_scale(found.singles.means, found.moments[3], zero)) == pytest.approx(1.0)


@settings(max_examples=20, deadline=None)
@for_all(st.integers(0, 10**6))
def test_turned_scaled_and_renamed_rows_have_the_same_values(seed):
    rows = oracles.drawn(seed % 1000)
    rng, before = np.random.default_rng(seed), statistics_of(rows)
    turn = rotation(rows.h.shape[1], seed).numpy()
    others = {
        "turned": oracles.Rows(rows.h @ turn, rows.t),
        "scaled": oracles.Rows(10.0 ** rng.uniform(-6, 6) * rows.h, rows.t),
        "renamed": oracles.Rows(rows.h, rows.t[:, rng.permutation(rows.t.shape[1])]),
        "moved": oracles.Rows(rows.h + 5 * rng.standard_normal(rows.h.shape[1]), rows.t),
    }
    for how, other in others.items():
        after = statistics_of(other)
        for key in LAWFUL[how == "moved" :]:
            assert value(key, after) == pytest.approx(value(key, before), rel=1e-9), (how, key)


@settings(max_examples=20, deadline=None)
@for_all(st.integers(0, 10**6), st.lists(st.integers(0, 120), max_size=4))
def test_moments_of_any_split_are_those_of_the_whole(seed, cuts):
    rows = oracles.drawn(seed % 1000)
    h, t = torch.from_numpy(rows.h), torch.from_numpy(rows.t)
    found = statistics_of(rows)
    for m in (2, 3):
        chosen, merged = (t.sum(1) == m).nonzero().flatten(), None
        for part in torch.tensor_split(chosen, sorted(cuts)):
            moments = TagMoments.of_rows(h[part], t[part], h[part].sum(0) / max(1, len(part)))
            merged = moments if merged is None else merged.merge(moments)
        split = replace(found, moments={m: merged}, pairs=None)
        for key in (f"tags/scale_{m}", f"tags/residual_{m}"):
            assert value(key, split) == pytest.approx(value(key, found), rel=1e-10)


def long_double_residual(rows, multiplicity):
    """Two passes with 64 bits of mantissa."""
    h, t = rows.h.astype(np.longdouble), rows.t.astype(np.longdouble)
    means = np.stack([h[(t.sum(1) == 1) & (t[:, k] == 1)].mean(0) for k in range(t.shape[1])])
    g, of_size = means.mean(0), t.sum(1) == multiplicity
    x, y = (t[of_size] @ (means - g)).ravel(), (h[of_size] - g).ravel()
    return float(((y - (x @ y) / (x @ x) * x) ** 2).sum() / (y @ y))


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-5, 1e-7])
def test_late_in_training_the_residual_keeps_its_digits(spread):
    rows = averaged(num_tags=10, d=32, offset=10.0, spread=spread, rows=20, most=2)
    reference, found = long_double_residual(rows, 2), statistics_of(rows)
    # float64 itself rounds features at 10 to 1e-15, of the spread
    assert value("tags/residual_2", found) == pytest.approx(reference, rel=1e-8, abs=0)
    by_moments = value("tags/residual_2", replace(found, pairs=None))
    assert by_moments == pytest.approx(reference, rel=1e-5, abs=1e-15)


def test_small_angles_of_means_far_from_the_origin_keep_their_digits():
    rows = averaged(num_tags=6, d=8, offset=1e3, spread=0.1, rows=3, most=2)
    rows = oracles.Rows(1e-3 * (rows.h - 1e3) + 1e3, rows.t)
    assert oracles.unmatched(rows) < 0.1
    ratio = oracles.angle(rows) / oracles.unmatched(rows)
    assert value("tags/angle_ratio", statistics_of(rows)) == pytest.approx(ratio, rel=1e-8)


def without(rows, *tags):
    """The same less the rows with just these tags."""
    there = np.zeros(rows.t.shape[1])
    there[list(tags)] = 1
    kept = ~(rows.t == there).all(1)
    return oracles.Rows(rows.h[kept], rows.t[kept])


def test_pairs_without_rows_and_tags_without_rows_of_their_own_are_left_out():
    rows = without(without(oracles.drawn(3), 0, 1), 4)
    found = statistics_of(rows)
    pairs = of_tags.seen_pairs(found)
    assert [tuple(tags) for tags in pairs.tags.tolist()] == list(rows.pairs)
    assert not any({0, 1} == set(tags) or 4 in tags for tags in rows.pairs)
    assert value("tags/pairs_seen", found) == len(rows.pairs) < num_pairs(5)
    ratio = oracles.angle(rows) / oracles.unmatched(rows)
    assert value("tags/angle_ratio", found) == pytest.approx(ratio, rel=1e-12)
    both = value("tags/scale_2", found), value("tags/residual_2", found)
    assert both == pytest.approx(oracles.fit(rows, 2), rel=1e-12)
    with pytest.raises(UndefinedMeasure, match=r"^rows with 3 tags have tag 4, of which no row"):
        value("tags/scale_3", found)
    with pytest.raises(UndefinedMeasure, match=r"^rows with 2 tags have tag"):
        value("tags/residual_2", replace(found, pairs=None))


def only(rows, *multiplicities):
    kept = np.isin(rows.t.sum(1), multiplicities)
    return oracles.Rows(rows.h[kept], rows.t[kept])


@pytest.mark.parametrize(
    ("rows", "key", "error", "text"),
    [
        (only(averaged(), 1), "tags/angle", NothingToCompare, "^no row has two tags$"),
        (only(averaged(), 1), "tags/pairs_seen", NothingToCompare, "^no row has two tags$"),
        (only(averaged(), 1), "tags/scale_2", NothingToCompare, "^no row has two tags$"),
        (only(averaged(), 1), "tags/rows_2", NothingToCompare, "^no row has 2 tags$"),
        (averaged(), "tags/residual_4", NothingToCompare, "^no row has 4 tags$"),
        (only(averaged(), 2), "tags/angle", UndefinedMeasure, "^10 pairs of tags have rows, but of "
                                                              "none of them do both tags have rows"),
        (averaged(2, most=2), "tags/angle_ratio", UndefinedMeasure, "^it takes 3 tags .* there are 2$"),
        (averaged(3), "tags/scale_3", UndefinedMeasure, "^the sums of the means .* are zero"),
        (averaged(3, offset=10.0), "tags/residual_3", UndefinedMeasure, "^the sums of the means"),
        (averaged(length=0.0), "tags/residual_2", UndefinedMeasure, "^the rows with two tags are zero"),
        (averaged(length=0.0), "tags/residual_3", UndefinedMeasure, "^the rows with so many tags are"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_says_why(rows, key, error, text):
    with pytest.raises(UndefinedMeasure, match=text) as raised:
        value(key, statistics_of(rows))
    assert type(raised.value) is error


@pytest.mark.parametrize("key", ["tags/angle", "tags/angle_ratio", "tags/scale_2", "tags/scale_3"])
def test_features_of_zero_have_no_direction(key):
    t = oracles.all_sets(4, {1: 2, 2: 2, 3: 1})
    with pytest.raises(UndefinedMeasure, match="zero"):
        value(key, statistics_of(oracles.Rows(np.zeros((len(t), 3)), t)))


def test_features_that_are_all_the_same_have_no_ratio():
    t = oracles.all_sets(7, {1: 3, 2: 3, 3: 1})
    # around their mean they are no zeros, but what rounding makes of them
    row = np.random.default_rng(0).standard_normal(50)
    same = statistics_of(oracles.Rows(np.tile(row, (len(t), 1)), t))
    assert (same.singles.means - same.singles.means.mean(0)).any()
    with pytest.raises(UndefinedMeasure, match="point in one direction"):
        value("tags/angle_ratio", same)
    for key in ("tags/angle_ratio_centered", "tags/scale_2", "tags/residual_3"):
        with pytest.raises(UndefinedMeasure, match="zero"):
            value(key, same)


def test_a_pair_whose_mean_is_zero_is_left_out():
    rows = averaged(num_tags=5, most=2)
    rows.h[(rows.t[:, 0] == 1) & (rows.t[:, 1] == 1)] = 0
    pairs = of_tags.seen_pairs(statistics_of(rows))
    angles = of_tags.pair_angles(*pairs[:3])
    assert angles.isnan().tolist() == [True] + 9 * [False]
    assert float(of_tags.tag_angle(*pairs[:3])) < 1e-12


def test_too_many_pairs_for_a_mean_of_each_say_so():
    found = statistics_of(averaged(), with_pairs=False)
    for key in ("tags/angle", "tags/pairs_seen"):
        with pytest.raises(UndefinedMeasure, match=r"^5 tags have too many pairs .* tags/residual_2"):
            value(key, found)
    assert value("tags/scale_2", found) == pytest.approx(0.8)


def test_a_rank_without_rows_of_a_multiplicity_leaves_nothing():
    found = statistics_of(averaged())
    none = TagMoments.of_rows(torch.zeros(0, 6), torch.zeros(0, 5), torch.zeros(6))
    for key in ("tags/scale_2", "tags/residual_2", "tags/rows_2"):
        with pytest.raises(NothingToCompare):
            value(key, replace(found, pairs=None, moments={2: none}))
    with pytest.raises(NothingToCompare):
        of_tags.tag_scale(found.singles.means, none)


def test_decisions():
    decisions = TagDecisions(*torch.tensor([8.0, 6.0, 5.0], dtype=torch.float64))
    assert float(measured.subset_accuracy(decisions)) == 0.75
    assert float(measured.iou(decisions)) == 0.625
    with pytest.raises(UndefinedMeasure, match="not known"):
        measured.iou(TagDecisions(*torch.zeros(3, dtype=torch.float64)))


def test_eighty_tags_with_all_pairs_take_about_a_second_and_bounded_memory():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(80, 512, generator=generator).double()
    pairs = pair_tags(80)
    of_pairs = means[pairs].sum(1) + 0.1 * torch.randn(len(pairs), 512, generator=generator)
    began = time.process_time()
    ratio = float(of_tags.tag_angle_ratio(means, of_pairs, pairs))
    assert time.process_time() - began < 4
    assert 0.04 < ratio < 0.06


def test_the_table_names_each_multiplicity():
    assert all(isinstance(each, Measure) and each.default for each in TAGS)
    assert len(LINES) == len(TAGS)
    assert {f"tags/{what}_{m}" for m in range(2, 9) for what in ("scale", "residual", "rows")} <= set(
        LINES
    )
    assert LINES["tags/angle_ratio"].headline == "TWA"
    assert LINES["tags/angle_ratio"].value_at_collapse(5) == 0
    assert LINES["tags/scale_2"].value_at_collapse(5) is None
    assert LINES["tags/scale_2_predicted"].needs == ("weight", "row_penalty")


def test_the_angle_has_its_digits_near_zero():
    tilt = 1e-9
    pair = torch.tensor([[math.cos(tilt), math.sin(tilt), 0.0]], dtype=torch.float64)
    means = torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [0, 0, 1.0]], dtype=torch.float64)
    angle = of_tags.tag_angle(means, pair, torch.tensor([[0, 1]]))
    assert float(angle) == pytest.approx(math.degrees(tilt), rel=1e-6, abs=0)


def evidence_of(rows, **others):
    found = statistics_of(rows)
    return TagEvidence(all_classes=found.singles, tags=found, **others)


def test_the_table_is_evaluated_on_what_a_stage_leaves():
    rows = averaged(num_tags=5, length=0.8)
    head = LinearClassifier(3 * etf(5, 6))
    whole = evidence_of(
        rows,
        head=head,
        penalties=Penalties(features=0.001),
        training=Training(counts=torch.tensor([len(rows.t)]), is_whole=True),
        tag_decisions=TagDecisions(*torch.tensor([4.0, 3.0, 2.0], dtype=torch.float64)),
    )
    outcomes = evaluate(TAGS, whole)
    values = values_of(outcomes)
    several = {f"tags/{what}_{m}" for m in (2, 3) for what in ("scale", "residual", "rows")}
    assert set(values) == several | {
        "tags/subset_accuracy", "tags/iou", "tags/angle", "tags/angle_ratio",
        "tags/angle_ratio_centered", "tags/pairs_seen", "tags/scale_2_predicted",
        "tags/scale_2_predicted_normalized",
    }  # fmt: skip
    assert all(each.fate is Fate.NOT_HERE for key, each in outcomes.items() if key not in values)
    rho, row_penalty = float(head.weight.square().sum()) / 4, 0.001 * len(rows.t)
    for normalized, key in enumerate(["tags/scale_2_predicted", "tags/scale_2_predicted_normalized"]):
        ours = of_tags.pick_all_label_scales(5, rho, row_penalty, normalized=bool(normalized))
        assert float(values[key]) == pytest.approx(ours[2] / ours[1], rel=1e-14)
    assert float(values["tags/rows_2"]) == 400


def test_the_prediction_takes_all_rows_of_the_classifier():
    rows = without(averaged(num_tags=5), 4)
    stated = {
        "head": LinearClassifier(3 * etf(5, 6)),
        "penalties": Penalties(features=0.001),
        "training": Training(counts=torch.tensor([1000]), is_whole=True),
    }
    key = "tags/scale_2_predicted"
    of_four, of_five = (evaluate([LINES[key]], evidence_of(r, **stated)) for r in (rows, averaged()))
    assert of_four[key].value == of_five[key].value


def test_what_is_not_stated_is_not_predicted():
    assert "tags/scale_2_predicted" not in evaluate(TAGS, evidence_of(averaged()))


def test_two_tags_have_no_angle():
    outcomes = evaluate(TAGS, evidence_of(averaged(num_tags=2, most=2)))
    assert "at least 3 classes" in outcomes["tags/angle_ratio"].reason
    assert outcomes["tags/scale_2"].reason.startswith(
        "the sums of the means of the rows' tags are zero"
    )
