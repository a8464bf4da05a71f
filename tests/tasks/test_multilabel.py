"""What several tags mean: sets of them, rows that do not count, decisions, and what is refused."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.problems import unchecked_shapes
from support.tagged import Tagged, drawn

from lightning_nc import LinearClassifier
from lightning_nc.functional import values_of
from lightning_nc.stream import tag_accumulator
from lightning_nc.stream.accumulator import wrong_number
from lightning_nc.tasks import Multiclass, Multilabel, Settings
from lightning_nc.tasks.task import Around
from lightning_nc.values.penalties import Penalties
from lightning_nc.values.tags import pair_tags
from lightning_nc.values.training import Training


def encoded(rows, **chosen):
    return Multilabel(Settings(**chosen)).encode_tags(torch.as_tensor(rows))


def test_sets_of_tags_and_why_rows_do_not_count():
    found = encoded(
        [[0, 0, 1.0], [1, 0, 1], [1, 1, 1], [0, 0, 0], [1, 0.5, 0], [-100] * 3, [1, -100, 0]]
    )
    assert found.multiplicity.tolist() == [1, 2, 3, 0, 0, 0, 0]
    assert found.of_row.label.tolist() == [2, 4, 0, 0, 0, 0, 0]
    assert found.of_row.counts.tolist() == [True, True, *[False] * 5]
    assert found.of_row.wanted.tolist() == [True, True, True, True, True, False, True]
    without, not_binary = found.of_row.left_out
    assert without.tolist() == [False, False, False, True, False, False, False]
    assert not_binary.tolist() == [False, False, False, False, True, False, True]
    assert not found.tags[3:].any()


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int8, torch.int64, torch.float16, torch.float64]
)
def test_tags_of_any_dtype_mean_the_same(dtype):
    found = encoded(torch.tensor([[0, 1, 0, 1]]).to(dtype))
    assert found.of_row.label.tolist() == [4 + 4]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**16))
def test_slots_are_those_of_the_pairs_in_their_order(num_tags, seed):
    with unchecked_shapes():
        rng = np.random.default_rng(seed)
        rows = torch.tensor(rng.random((30, num_tags)) < 2 / num_tags)
        found, pairs = encoded(rows), pair_tags(num_tags).tolist()
        for tags, slot, counts in zip(rows, found.of_row.label, found.of_row.counts, strict=True):
            numbers = tags.nonzero().flatten().tolist()
            assert bool(counts) == (len(numbers) in (1, 2))
            if len(numbers) == 1:
                assert [int(slot)] == numbers
            elif len(numbers) == 2:
                assert pairs[int(slot) - num_tags] == numbers


def test_without_means_of_pairs_only_single_tags_have_a_slot(monkeypatch):
    monkeypatch.setattr(tag_accumulator, "MOST_SLOTS", 5)
    assert encoded([[1, 1, 0], [0, 1, 0]]).of_row.counts.tolist() == [False, True]


def test_lists_of_tags_need_the_number_of_tags():
    assert Multilabel(Settings(num_classes=4)).read([[0, 2], (3,), []]).tolist() == [
        [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="Expected num_classes with labels that are lists of tags"):
        Multilabel().read([[0, 2]])
    with pytest.raises(ValueError, match="Expected tags from 0 to 3, but row 1 of a batch has 4"):
        Multilabel(Settings(num_classes=4)).read([[0], [4]])
    assert Multilabel(Settings(num_classes=4)).read({"a": 1}) is None
    assert Multilabel(Settings(num_classes=4)).read(([0, 2], [1])).tolist() == [
        [1, 0, 1, 0], [0, 1, 0, 0],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            [[2], [0, 1, 0, 0, 1]],
            r"row 1 of a batch has tag 0 twice. Is this a multi-hot row\? Then pass a",
        ),
        (
            [[0], [1.0, 2.0]],
            r"to hold whole numbers, but row 1 of a batch is \[1.0, 2.0\]. Numbers to be",
        ),
        (([0], ["cat"]), r"row 1 of a batch is \['cat'\]. .*names of tags need numbers"),
        (
            [torch.tensor([0, 1]), torch.tensor([2, 3])],
            "but got 2 tensors. Did the default collate fun",
        ),
        ((torch.zeros(2, 5), [[0], [1]]), "several kinds of labels\\? Set `target` to one of them"),
    ],
)
def test_lists_that_hold_no_numbers_of_tags_are_refused(found, text):
    with pytest.raises(ValueError, match=text):
        Multilabel(Settings(num_classes=5)).read(found)


@pytest.mark.parametrize("threshold", [None, 0.3, 0.8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decisions_equal_those_by_loops(threshold, dtype):
    rows = drawn(seed=4, num_tags=5)
    scores = rows.scores.to(dtype)
    correct, overlap = Multilabel(Settings(threshold=threshold)).judge(scores, rows.t.bool())
    given_scores = Tagged(rows.h, rows.t, rows.weight, rows.bias)
    expected = given_scores.reference(threshold=threshold)
    assert (dtype == torch.float32) or _are_exact(scores, rows.t.bool(), threshold)
    rel = 1e-5 if dtype == torch.float32 else 2e-2
    assert float(correct.double().mean()) == pytest.approx(expected["tags/subset_accuracy"], abs=rel)
    assert float(overlap.double().mean()) == pytest.approx(expected["tags/iou"], rel=rel)


def _are_exact(scores, tags, threshold):
    """Whether scores of few digits are judged as the same numbers in float32 are."""
    task = Multilabel(Settings(threshold=threshold))
    return all(map(torch.equal, task.judge(scores, tags), task.judge(scores.float(), tags)))


def test_a_tie_is_no_decision_and_all_tags_are_one():
    judged = Multilabel().judge(torch.zeros(2, 3), torch.tensor([[True, False, False], [True] * 3]))
    assert judged[0].tolist() == [False, True]


REFUSED = [
    (torch.tensor([0, 2, 1]), r"shape \(3,\)\. One class number per row is task='multiclass'"),
    (torch.tensor([0.5, 2.0]), r"shape \(2,\)\. One float per row is task='regression'"),
]


@pytest.mark.parametrize(("labels", "text"), REFUSED)
def test_labels_of_another_task_are_refused(labels, text):
    with pytest.raises(ValueError, match=text):
        Multilabel().read(labels)


@pytest.mark.parametrize("value", [0.9, 2.0, -1.0])
def test_what_is_no_tag_is_refused(value):
    labels = torch.tensor([[1.0, 0.0], [value, 0.0]])
    with pytest.raises(ValueError, match=re.escape(f"but they hold {value:g}. Are these soft labels")):
        Multilabel().require(labels)
    Multilabel().require(torch.tensor([[1, 0], [-100, -100]]))


def test_rows_that_are_known_in_part_are_refused_as_such():
    labels = torch.tensor([[1, 0], [1, -100]])
    with pytest.raises(ValueError, match="some rows are partly unknown, with ignore_index = -100"):
        Multilabel().require(labels)
    with pytest.raises(ValueError, match=r"but they hold -100\. Are these soft labels"):
        Multilabel(Settings(ignore_index=None)).require(labels)


def test_a_head_of_other_rows_and_a_single_tag_are_refused():
    with pytest.raises(ValueError, match="num_classes = 3 rows, one for each tag, but got 5"):
        Multilabel(Settings(num_classes=3)).sizes(8, 5)
    with pytest.raises(ValueError, match="A single tag that is there or not is task='binary'"):
        Multilabel().sizes(8, 1)
    with pytest.raises(ValueError, match=r"co-moments .* of 5,000 tags and 1,024 features they take"):
        Multilabel().sizes(1024, 5000)
    accumulator = Multilabel().accumulator((5, 8), "cpu")
    with pytest.raises(ValueError, match=r"labels of 5 tags, .* but got shape \(2, 4\)"):
        accumulator.check(torch.zeros(2, 8), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="'auto', 'pooled' or 'none' with task='multilabel'"):
        Multilabel(Settings(covariance="per_class")).accumulator((5, 8), "cpu")


def test_multi_hot_labels_under_multiclass_name_the_tasks_they_belong_to():
    labels = torch.tensor([[0, 1, 1], [1, 0, 0]])
    text = str(wrong_number(torch.zeros(2, 4), labels, labels.shape))
    assert "task='multilabel'" in text
    assert "task='regression'" in text
    with pytest.raises(ValueError, match="task='multilabel'"):
        Multiclass(Settings(num_classes=3)).accumulator((3, 4), "cpu").check(torch.zeros(2, 4), labels)


def said(rows, slots=4096, head=None, around=None, **chosen):
    """The notices of a stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tag_accumulator, "MOST_SLOTS", slots)
        task = Multilabel(Settings(**chosen))
        accumulator = task.accumulator((rows.t.shape[1], rows.h.shape[1]), "cpu")
        accumulator._labels_are_known = True
        accumulator.add(rows.h, rows.t, rows.scores)
        evidence = task.complete(accumulator.value(head), around)
        return task.notices(evidence, task.evaluate(evidence))


def changed(rows, change):
    t = rows.t.clone()
    change(t)
    return Tagged(rows.h, t, rows.weight, rows.bias)


def no_tag(t):
    t[:3] = 0


def soft(t):
    t[0] = 0.3


def many(t):
    t[:2] = 1


def one_each(t):
    t[:] = torch.eye(t.shape[1]).to(t)[t.argmax(1)]


def never_alone(t):
    t[(t.sum(1) == 1) & (t[:, 0] == 1), 1] = 1


SAID = {
    "no_tag": (no_tag, "3 rows without a tag left out: pick-all-labels has no loss for them"),
    "not_binary": (soft, "1 row with a label that is neither 0 nor 1 left out"),
    "many_tags": (
        many,
        "2 rows with more than 8 tags: they count for tags/subset_accuracy and tags/iou",
    ),
    "single_tags": (one_each, "Every row has exactly one tag"),
    "absent": (never_alone, "No row has only tag 0: NC1 to NC3 are of the other tags"),
}


@pytest.mark.parametrize("kind", SAID)
def test_what_is_said_of_rows_and_tags(kind):
    change, text = SAID[kind]
    rows = drawn(num_tags=10, rows=300)
    assert kind not in said(rows)
    assert text in said(changed(rows, change))[kind]


def test_a_tag_that_is_never_alone_takes_what_rests_on_all_rows_with_it():
    texts = said(changed(drawn(num_tags=6, most=3), never_alone))
    assert any("tags/scale_3" in kind for kind in texts)
    assert not any("tags/angle" in kind or "tags/scale_2" in kind for kind in texts)


def test_too_many_pairs_for_a_mean_each_are_said():
    texts = said(drawn(), slots=5)
    assert "6 tags have more pairs than the 4,096 that a mean is kept of" in texts["pairs"]
    assert "pairs" not in said(drawn())


def test_two_tags_have_no_angle_that_could_be_compared():
    rng = np.random.default_rng(0)
    t = torch.tensor([[1, 0], [0, 1], [1, 1]]).repeat(10, 1)
    rows = Tagged(
        torch.tensor(rng.standard_normal((30, 4))), t, torch.eye(2, 4).double(), torch.zeros(2)
    )
    assert any("tags/angle_ratio" in kind for kind in said(rows))


def test_min_count_leaves_small_tags_out():
    rows = drawn(num_tags=6, rows=200)
    counts = rows.t[rows.t.sum(1) == 1].sum(0)
    least = int(counts.max())
    text = said(rows, min_count=least)["min_count"]
    assert f"fewer than min_count = {least} rows of their own, with no other tag: NC1 to NC3" in text
    assert "nc1/within_between_pinv left out; nc1/cdnv and nc1/within_between_ratio do" in text
    assert "per_class" not in text  # which is refused


def values(rows, **chosen):
    task = Multilabel(Settings(**chosen))
    accumulator = task.accumulator((rows.t.shape[1], rows.h.shape[1]), "cpu")
    accumulator.add(rows.h, rows.t, rows.scores)
    return values_of(task.evaluate(task.complete(accumulator.value())))


def test_small_tags_are_as_if_they_were_never_alone():
    rows = drawn(num_tags=6, rows=200)
    is_single = rows.t.sum(1) == 1
    counts = rows.t[is_single].sum(0)
    least = int(counts.min()) + 1
    is_small = is_single & (rows.t @ (counts < least).to(rows.t) > 0)
    found, without = values(rows, min_count=least), values(rows[~is_small])
    assert not torch.equal(found["tags/angle"], values(rows)["tags/angle"])
    for key in ("angle", "angle_ratio", "angle_ratio_centered", "pairs_seen", "scale_2", "residual_2"):
        assert float(found[f"tags/{key}"]) == pytest.approx(float(without[f"tags/{key}"]), rel=1e-6), (
            key
        )
    assert float(found["nc1/cdnv"]) == pytest.approx(float(without["nc1/cdnv"]), rel=1e-6)


def test_without_rows_of_one_tag_nothing_is_said_of_single_samples():
    rows = drawn(num_tags=5)
    texts = said(rows[rows.t.sum(1) > 1])
    assert "absent" in texts
    assert "single_samples" not in texts


@pytest.mark.parametrize(
    ("training", "features", "is_said"),
    [
        (Training(), 0.01, True),
        (Training(torch.tensor([240]), is_whole=False), 0.01, True),
        (Training(torch.tensor([240])), 0.01, False),
        (Training(), None, False),
    ],
)
def test_a_penalty_of_the_features_without_the_rows_of_training_is_said(training, features, is_said):
    rows, around = drawn(num_tags=5, d=6), Around(training=training)
    stated = {"penalties": Penalties(features=features), "around": around}
    texts = said(rows, head=LinearClassifier(rows.weight, rows.bias), **stated)
    assert ("rows of training" in texts) == is_said
    if is_said:
        known = "the rows of a whole training epoch are not known (yet): tags/scale_2_predicted, tags/"
        assert known in texts["rows of training"]
    # no key would be logged without W, or was not asked for
    assert "rows of training" not in said(rows, **stated)
    head = LinearClassifier(rows.weight, rows.bias)
    assert "rows of training" not in said(rows, head=head, measures=("nc1/*",), **stated)
