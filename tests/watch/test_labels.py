"""The labels in a batch."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from lightning_nc.tasks import Multiclass, Settings
from lightning_nc.watch.labels import find_target, labels_of, refuse_inputs, shifted
from lightning_nc.watch.places import Places


@dataclass
class Record:
    x: torch.Tensor
    labels: torch.Tensor


X, Y, Z = torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([1, 1])
Pair, Last = namedtuple("Pair", "x y"), namedtuple("Last", "x z label")


@pytest.mark.parametrize(
    ("batch", "where"),
    [
        ((X, Y), None),
        ([X, Y, X], None),
        ((X, Y, X[:, 0]), None),
        (Pair(X, Y), None),
        # names come before positions
        (Last(X, Z, Y), None),
        ({"x": Z, "label": Y, "domain": Z}, None),
        ({"x": X, "label": Y, "y": Y}, None),
        # of another shape, or no labels at all
        ({"x": torch.zeros(2, 3, dtype=torch.int64), "y": Y, "weight": X[:, 0]}, None),
        (Pair(Z, Y), None),
        # a single one is next to the inputs
        ((Z, Y), None),
        ((X, Z, Y), 2),
        ({"y": Y, "other": Z}, "y"),
        ({1: Y}, 1),
        ({"x": X, "target": Y}, None),
        ({"x": X, "targets": Y}, None),
        ({"x": X, "label": Y}, None),
        ({"x": X, "labels": Y}, None),
        ({"x": X, "y": Y}, None),
        (Record(X, Y), None),
        ((Y, X), 0),
        ((X, X, Y), "2"),
        ((X, X, Y), "-1"),
        ({"x": X, "class": Y}, "class"),
        (Record(X, Y), "labels"),
        ({"deep": {"er": Y}}, lambda batch: batch["deep"]["er"]),
        ({"deep": {"er": Y}}, "support.training.take_deep"),
        ({"deep": {"er": Y}}, "deep.er"),
        ({"first": (X, X), "second": [X, Y]}, "second.1"),
        ((X, Record(X, Y)), "1.labels"),
    ],
)
def test_labels_are_found_in_any_usual_batch(batch, where):
    assert find_target(batch, where) is Y


@pytest.mark.parametrize(
    ("batch", "where", "text"),
    [
        (
            X,
            None,
            r"as a tensor in the batch, but got a tensor of shape \(2, 3\)\. Set target to a position",
        ),
        ([X], None, r"but got a list of 1: a tensor"),
        ({"x": X, "class": Y}, None, r"a dict with the keys \['x', 'class'\]\. Set target"),
        ((X, Y), 5, r"where target=5 gives a NoneType"),
        ({"x": X}, "klass", r"target='klass' gives a NoneType"),
        ({"x": X}, "nowhere.f", r"target to name a function that can be imported"),
        ((X, ["a", "b"]), None, r"a tuple of 2"),
    ],
)
def test_a_batch_without_labels_is_refused_with_what_it_holds(batch, where, text):
    with pytest.raises(ValueError, match=text):
        find_target(batch, where)


@pytest.mark.parametrize(
    ("batch", "places"),
    [
        ((X, Z, Y), r"a tuple of 3: .*, where 1 and 2 could be"),
        ([X, Y, X, Y], r"a list of 4: .*, where 1 and 3 could be"),
        # by position it would be the second item, by kind another one
        ((X, X, Y), r"where 1 and 2 could be"),
        ({"label": Y, "y": Z}, r"with the keys \['label', 'y'\], where 'label' and 'y' could be"),
        ({"x": X, "y": Y, "domain": Z}, r"where 'y' and 'domain' could be"),
        (namedtuple("Two", "x target label")(X, Y, Z), r"where 'target' and 'label' could be"),
    ],
)
def test_a_batch_with_several_that_could_be_labels_is_refused(batch, places):
    text = f"certain which of a batch are the labels, but got .*{places}. Set target to one"
    with pytest.raises(ValueError, match=text):
        find_target(batch)


def test_a_function_may_say_that_there_are_none():
    assert find_target((X, Y), lambda batch: None) is None
    assert labels_of((X, Y), Places(target=lambda batch: None), "val", Multiclass(), looks=True) is None


TOKENS = torch.tensor([[3, 4, 5], [6, 7, 8]])


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (0, [[3, 4, 5], [6, 7, 8]]),
        (1, [[4, 5, -1], [7, 8, -1]]),
        (2, [[5, -1, -1], [8, -1, -1]]),
        (4, [[-1, -1, -1], [-1, -1, -1]]),
    ],
)
def test_shifted_labels_are_those_of_later_positions(by, expected):
    before = TOKENS.clone()
    assert shifted(TOKENS, by, ignored=-1).tolist() == expected
    assert torch.equal(TOKENS, before)


MASKED = torch.where(TOKENS > 6, TOKENS, -100)


@pytest.mark.parametrize(
    ("batch", "labels"),
    [
        ({"input_ids": TOKENS, "labels": TOKENS}, TOKENS),
        ({"input_ids": TOKENS, "labels": TOKENS.clone()}, "labels"),
        ((TOKENS, TOKENS.clone()), 1),
        (({"ids": TOKENS.int()}, TOKENS), 1),
        # those that do not count may differ
        ({"input_ids": TOKENS, "labels": MASKED}, "labels"),
    ],
)
def test_labels_that_are_the_inputs_are_refused(batch, labels):
    labels = labels if isinstance(labels, torch.Tensor) else batch[labels]
    text = (
        r"not the inputs, but an input of shape \(2, 3\) holds .* Set target_shift=1: .* set target to"
    )
    with pytest.raises(ValueError, match=text):
        refuse_inputs(batch, labels, ignored=-100)


@pytest.mark.parametrize(
    ("rest", "labels", "ignored"),
    [
        (TOKENS + 1, TOKENS, -100),
        (TOKENS.float(), TOKENS, -100),
        (TOKENS.reshape(3, 2), TOKENS, -100),
        (Y.clone(), Y, -100),  # one for each row, not for each token
        (X.clone(), X, -100),  # no numbers of classes
        (TOKENS, MASKED, None),
        (torch.full_like(TOKENS, -100), torch.full_like(TOKENS, -100), -100),
        (("a text", {"n": 1}), TOKENS, -100),
    ],
)
def test_labels_of_their_own_are_taken(rest, labels, ignored):
    refuse_inputs((rest, labels), labels, ignored)


def test_the_labels_are_compared_with_the_inputs_unless_the_user_vouches_for_them():
    batch = {"input_ids": TOKENS, "labels": TOKENS.clone()}

    def found(looks=True, ignored=-100, **places):
        task = Multiclass(Settings(ignore_index=ignored))
        return labels_of(batch, Places(**places), "val", task, looks).labels

    with pytest.raises(ValueError, match="labels that are not the inputs"):
        found()
    assert found(looks=False) is found(target="labels") is batch["labels"]
    assert found(target_shift=1).tolist() == [[4, 5, -100], [7, 8, -100]]
    assert found(target_shift=1, ignored=-7).tolist() == [[4, 5, -7], [7, 8, -7]]
    with pytest.raises(ValueError, match=r"an ignore_index with target_shift, for the rows"):
        found(target_shift=1, ignored=None)
