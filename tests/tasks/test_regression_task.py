"""What a target that is a number means: which rows count, what is refused, what the user is told."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import regression_oracles as oracles

from lightning_nc import LinearClassifier
from lightning_nc.functional import evaluate
from lightning_nc.functional.regression import centered_rows_of_own_rows
from lightning_nc.functional.table.regression import REGRESSION
from lightning_nc.tasks.regression import IGNORED, Regression
from lightning_nc.tasks.task import Around, Settings
from lightning_nc.values import Fate
from lightning_nc.values.joint import wrong_head
from lightning_nc.values.penalties import Penalties, penalties_of_weight_decay
from lightning_nc.values.training import Training
from lightning_nc.watch.rows import Rows

TASK = Regression()


def stage(h, y, weight=None, bias=None, around=None, **settings):
    """What a stage leaves of rows, with all that the task knows of it."""
    task = Regression(Settings(**settings))
    h, y = torch.as_tensor(h), task.read(torch.as_tensor(y))
    accumulator = task.accumulator(task.sizes(h.shape[1], y.shape[1]), "cpu")
    accumulator.add(*accumulator.check(h, y))
    head = None if weight is None else LinearClassifier(torch.as_tensor(weight), bias)
    whole = task.complete(accumulator.value(head), around)
    counted = centered_rows_of_own_rows(accumulator.own(), whole)
    return task, replace(whole, counts={"centered_rows": counted})


def told(*given, **settings):
    task, evidence = stage(*given, **settings)
    return task.notices(evidence, evaluate(REGRESSION, evidence))


def drawn(seed=0, rows=60, width=6, n=2, spread=0.2):
    h, y, weight = oracles.collapsed(np.random.default_rng(seed), rows, width, n, spread)
    return [torch.from_numpy(x).float() for x in (h, y, weight)]


def test_targets_are_rows_of_floats():
    assert TASK.read(torch.tensor([3, 5])).tolist() == [[3], [5]]
    for dtype, expected in (
        (torch.int64, torch.float64), (torch.int32, torch.float64), (torch.int16, torch.float32),
        (torch.bool, torch.float32), (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64),
    ):  # fmt: skip
        read = TASK.read(torch.ones(4, 2, dtype=dtype))
        assert (read.dtype, read.shape) == (expected, (4, 2))
    assert TASK.read(torch.ones(2, 3, 4)).shape == (2, 3, 4)
    for other in ([1.0, 2.0], torch.tensor(1.0), torch.ones(2, dtype=torch.complex64), None):
        assert TASK.read(other) is None
    assert TASK.rows_of(torch.ones(4, 2)) == 2


def test_whole_numbers_keep_their_digits():
    times = torch.tensor([1_700_000_001, 1_700_000_002])
    for dtype in (torch.int32, torch.int64):
        assert TASK.read(times.to(dtype)).flatten().tolist() == times.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_count_whose_targets_are_numbers(dtype):
    y = torch.tensor([[1, 2], [IGNORED, IGNORED], [torch.nan, 1], [1, -torch.inf], [IGNORED, 0]])
    found = TASK.encode(y.to(dtype))
    assert found.counts.tolist() == [True, False, False, False, True]
    assert found.wanted.tolist() == [True, False, True, True, True]
    assert found.label.tolist() == [0] * 5
    [faulty] = found.left_out
    assert faulty.tolist() == [False, False, True, True, False]


def test_a_mask_marks_rows_by_a_number_that_no_fault_is():
    assert TASK.ignored == IGNORED
    marked = torch.where(torch.tensor([[True], [False]]), torch.ones(2, 2), TASK.ignored)
    assert TASK.encode(marked).wanted.tolist() == [True, False]


def test_no_decision_is_asked_of_the_network():
    assert TASK.decide(torch.randn(4, 5, 2)).tolist() == [-1] * 20


def test_sizes_are_targets_and_features():
    assert TASK.sizes(7, 3) == (3, 7)
    accumulator = TASK.accumulator((3, 7, 0, 0), "cpu")
    assert accumulator.sizes == (3, 7)
    assert accumulator.size_names == ("targets", "features")


@pytest.mark.parametrize(
    ("settings", "sizes", "text"),
    [
        ({"covariance": "none"}, (7, 3), "'auto' or 'pooled' with task='regression', but got 'none'"),
        ({"covariance": "per_class"}, (7, 3), "but got 'per_class'. NRC1 and NRC2 are read from"),
        (
            {}, (10_000, 3),
            "1,073,741,824 bytes, but of 10,000 features and 3 targets they take 1,600,480,072.",
        ),
        ({}, (10_000, 3), "set covariance='pooled'; else measure a narrower layer, or pool it"),
        ({"num_classes": 1}, (7, 10), "a head of 1 row, one for each target, but got 10 rows. Are"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(settings, sizes, text):
    with pytest.raises(ValueError, match=text):
        Regression(Settings(**settings)).sizes(*sizes)


def test_what_was_asked_for_by_name_is_not_refused():
    assert Regression(Settings(covariance="pooled")).sizes(10_000, 3) == (3, 10_000)


def test_a_softmax_head_under_regression_names_the_right_task():
    accumulator = TASK.accumulator(TASK.sizes(6, 10), "cpu")
    text = "but got 10 rows. Are the targets class indices, .* Use task='multiclass'"
    with pytest.raises(ValueError, match=text):
        accumulator.check(torch.zeros(5, 6), TASK.read(torch.arange(5)))


def test_a_stage_is_completed_with_what_is_known_of_training():
    h, y, weight = drawn()
    around = Around(training=Training(torch.tensor([60])))
    penalties = Penalties(0.1, 0.0, 0.001)
    _, evidence = stage(h, y, weight, torch.zeros(2), around, penalties=penalties)
    assert evidence.limit_terms.row_penalty == pytest.approx(0.06)
    _, of_val = stage(h, y, weight, torch.zeros(2), replace(around, trains=False), penalties=penalties)
    assert of_val.limit_terms is None
    _, unknown = stage(h, y, weight, torch.zeros(2), penalties=penalties)
    assert unknown.limit_terms is None
    part = Around(training=Training(torch.tensor([60]), is_whole=False))
    _, of_part = stage(h, y, weight, torch.zeros(2), part, penalties=penalties)
    assert of_part.limit_terms is None


def test_a_penalty_of_the_features_without_the_rows_of_training_is_said():
    h, y, weight = drawn()
    part = Around(training=Training(torch.tensor([60]), is_whole=False))
    stated = {"penalties": Penalties(0.1, 0.0, 0.001)}
    given = h, y, weight, torch.zeros(2)
    text = told(*given, part, **stated)["rows of training"]
    assert "(yet): nrc1/surviving_directions, nrc3/limit_distance left out. Is a part of each" in text
    quiet = [
        told(*given, Around(training=Training(torch.tensor([60]))), **stated),
        told(*given, replace(part, trains=False), **stated),
        told(*given, part, penalties=Penalties(0.1)),
        told(*given, part, penalties=Penalties(features=0.1)),
        told(h, y, None, None, part, **stated),
    ]
    assert not any("rows of training" in texts for texts in quiet)


def test_a_single_row_of_a_regression_has_the_penalty_of_its_weight_decay():
    head = torch.nn.Linear(3, 1)
    sgd = torch.optim.SGD(head.parameters(), lr=0.1, weight_decay=0.02)
    given = sgd, head.weight, head.bias
    stated = penalties_of_weight_decay(*given, loss="mse_mean", num_classes=1)
    assert stated == Penalties(0.01, 0.01)
    text = "twice its weight decay. For a regression with one target, .* set num_classes=1"
    with pytest.raises(ValueError, match=text):
        penalties_of_weight_decay(*given, loss="mse_mean")


@pytest.mark.parametrize(
    ("rows", "targets", "text"),
    [
        (
            10,
            1,
            "Use task='multiclass'. Does the head put out more than the targets (means and variances",
        ),
        (
            10,
            1,
            "Make the map of the means a layer of its own, or set classifier=False and `features`.",
        ),
        (1, 7, "targets of shape (B, T)? Return target.unsqueeze(-1) by a `target` function."),
        (
            4,
            2,
            "Is another layer the head? Name a map of one row for each target as `classifier`. Does",
        ),
        (4, 2, "(means and variances, quantiles)? Make the map of the means a layer of its own"),
    ],
)
def test_a_head_of_other_rows_is_told_what_it_may_be(rows, targets, text):
    assert text in str(wrong_head(rows, targets))


def test_the_rows_that_are_looked_for_are_told_with_what_else_may_be_meant():
    one, several = Rows(None, 1, of_label=1).wanted, Rows(None, 1, of_label=7).wanted
    assert one.startswith(
        "has 1 row, as many as a label has entries (of a head for means and variances"
    )
    assert one.endswith("set classifier=False and `features`; class numbers are task='multiclass')")
    assert several.startswith("has 7 rows, as many")
    assert several.endswith(
        "one number for each position, (B, T), return target.unsqueeze(-1) by `target`)"
    )


def test_all_keys_have_their_values_or_a_reason():
    h, y, weight = drawn()
    around = Around(training=Training(torch.tensor([60])))
    given = h, y, weight, torch.zeros(2), around
    _, evidence = stage(*given, penalties=Penalties(0.1, 0.0, 0.001))
    outcomes = evaluate(REGRESSION, evidence)
    assert list(outcomes) == [measure.key for measure in REGRESSION]
    assert all(outcome.fate is Fate.VALUE for outcome in outcomes.values())
    x, z, w = (each.double().numpy() for each in (h, y, weight))
    expected = {
        "nrc0/r2_linear": oracles.r2_linear(x, z),
        "nrc0/r2_readout": oracles.r2_readout(x, z, w, np.zeros(2)),
        "nrc1/feature_collapse": oracles.feature_collapse(x, z),
        "nrc1/outside_variance": oracles.outside_variance(x, z),
        "nrc1/feature_collapse_centered": oracles.feature_collapse_centered(x, z),
        "nrc1/surviving_directions": 2,
        "nrc2/row_space": oracles.row_space_share(x, w),
        "nrc2/row_space_centered": oracles.row_space_share_centered(x, w),
        "nrc3/gram_distance": oracles.least_gram_distance(w, oracles.covariance(z))[0],
    }
    for key, value in expected.items():
        assert float(outcomes[key].value) == pytest.approx(value, rel=1e-6), key


def test_without_a_head_or_penalties_their_keys_are_left_out_quietly():
    h, y, _ = drawn()
    task, evidence = stage(h, y)
    outcomes = evaluate(REGRESSION, evidence)
    of_features = {
        "nrc0/num_samples",
        "nrc0/r2_linear",
        "nrc1/feature_collapse",
        "nrc1/outside_variance",
    }
    assert set(outcomes) == {*of_features, "nrc1/feature_collapse_centered"}
    assert task.notices(evidence, outcomes) == {}


def test_the_table_names_parts_that_there_are_and_the_three_headlines():
    parts = set(Regression.evidence.parts)
    assert all(set(measure.needs) <= parts for measure in REGRESSION)
    assert all(measure.min_classes == 0 for measure in REGRESSION)
    heads = {measure.headline: measure.key for measure in REGRESSION if measure.headline}
    assert heads == {
        "NRC1": "nrc1/feature_collapse", "NRC2": "nrc2/row_space", "NRC3": "nrc3/gram_distance",
    }  # fmt: skip
    by_name = [measure.key for measure in REGRESSION if not measure.default]
    assert by_name == ["nrc3/gram_distance_at_zero"]


def test_good_data_are_not_talked_about():
    assert told(*drawn(), torch.zeros(2)) == {}
    assert told(*drawn(n=3), torch.zeros(3)) == {}


def soiled(kind):
    h, y, weight = drawn()
    if kind == "non_finite":
        h[3, 2] = torch.nan
    if kind == "non_finite_targets":
        y[3:7, 1] = torch.nan
    if kind == "zero":
        h[:5] = 0
    if kind == "constant":
        y[:, 1] = 0.1
    if kind == "collinear":
        y[:, 1] = 2 * y[:, 0]
    if kind == "rank":
        weight[1] = -weight[0]
    return h, y, weight, torch.zeros(2)


TEXTS = {
    "non_finite": "1 row with a NaN or infinite feature left out. Has training diverged, or does",
    "non_finite_targets": "4 rows with a NaN or infinite target left out. Are targets missing?",
    "zero": "5 rows with features that are all 0: they have no direction, and NRC1 and NRC2 rest on",
    "constant": "Target 1 (from 0) is the same in all rows: W has nothing to learn there, and of",
    "collinear": "One target is a linear map of the others in these rows: their covariance is singular",
    "rank": "W has rank 1 for 2 targets: a direction of the targets has vanished, and nrc3/gram_dist",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_each_fault_of_the_data_is_told_once(kind):
    found = told(*soiled(kind))
    assert list(found) == [kind]
    assert found[kind].startswith(TEXTS[kind])


def test_directions_that_the_penalties_let_vanish_are_told():
    h, y, weight = drawn()
    around = Around(training=Training(torch.tensor([60])))
    least = float(np.linalg.eigvalsh(oracles.covariance(y.double().numpy()))[0])
    stated = Penalties(0.1, 0.0, 1.2 * least / 0.1 / 60)
    found = told(h, y, weight, torch.zeros(2), around, penalties=stated)
    assert list(found) == ["vanish"]
    assert found["vanish"].startswith(
        "1 of 2 directions of the targets survive the stated penalties: W"
    )
    assert "nrc3/gram_distance cannot reach 0. nrc3/limit_distance can." in found["vanish"]


@pytest.mark.parametrize(
    ("y", "looks"),
    [
        (torch.arange(60) % 10, True),
        (torch.arange(60) % 2, True),
        (torch.arange(60) % 2 * 2 - 1, True),
        ((torch.arange(60) % 10).float(), True),
        (torch.arange(60) % 25, False),  # an amount
        (torch.arange(60), False),
        (torch.arange(60) % 10 + 0.5, False),
        (torch.arange(60)[:, None] % torch.tensor([2, 5]), False),
    ],
)
def test_class_indices_are_taken_for_what_they_are(y, looks):
    n = y.shape[1] if y.ndim > 1 else 1
    h, _, weight = drawn(n=n)
    found = told(h, y, weight, torch.zeros(n))
    assert ("classes" in found) == looks
    if looks:
        assert "are these class indices? Then set task='multiclass', or 'binary'" in found["classes"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            drawn(n=1),
            "nrc3/gram_distance, nrc3/gamma, nrc3/gram_distance_at_zero left out: with a single target",
        ),
        (
            (*drawn(width=2)[:2], torch.eye(2)),
            "feature_collapse_centered left out: with 2 targets and 2 features it is 0 whatever the",
        ),
        (
            (drawn()[0], torch.full((60, 2), 0.5), drawn()[2]),
            "nrc3/gram_distance_at_zero left out: all targets are constant.",
        ),
        (
            (torch.ones(60, 6), *drawn()[1:]),
            "nrc1/outside_variance, nrc1/feature_collapse_centered left out: the features of all rows",
        ),
        ((*drawn()[:2], torch.zeros(2, 6)), "left out: W is 0"),
    ],
    ids=["one target", "n >= d", "constant", "features alike", "W is 0"],
)
def test_what_is_left_out_is_told_with_its_reason(given, text):
    assert any(text in said for said in told(*given, torch.zeros(given[1].shape[1])).values())


def test_the_task_goes_with_a_pickle():
    task = Regression(Settings(penalties=Penalties(0.1)))
    assert pickle.loads(pickle.dumps(task)).settings == task.settings


def test_an_offset_that_float32_cannot_hold_is_named_among_the_reasons():
    h, y, _ = drawn()
    assert (
        "offset so large that their differences are rounding? Then center"
        in told(h, y + 1e7)["collinear"]
    )
    assert "collinear" not in told(h, y + 1e3)
