"""The history of a run."""

import pickle
import sys
from collections.abc import Mapping
from types import MappingProxyType

import pytest
import torch

from lightning_nc.values.history import History, Logged, UnknownKey
from lightning_nc.values.key import Key


def test_history_grows_without_changing_and_survives_a_checkpoint(tmp_path):
    first = History().extended(0, 9, {"nc1/cdnv/val": 0.5, "nc1/rank/val": 3.0})
    second = first.extended(1, 19, {"nc1/cdnv/val": 0.25})
    assert first["nc1/cdnv/val"] == (Logged(0, 9, 0.5),)
    assert second["nc1/cdnv/val"] == (Logged(0, 9, 0.5), Logged(1, 19, 0.25))
    assert list(second) == ["nc1/cdnv/val", "nc1/rank/val"]
    torch.save(second.state_dict(), tmp_path / "history.pt")
    state = torch.load(tmp_path / "history.pt", weights_only=True)
    assert History.from_state_dict(state) == second
    assert type(History.from_state_dict(state)["nc1/rank/val"][0].epoch) is int


def test_a_run_that_starts_at_a_step_has_what_was_logged_until_then_as_its_past():
    history = History().extended(0, 9, {"a": 0.5}).extended(1, 19, {"a": 0.25, "b": 1.0})
    assert history.until(9).entries == {"a": (Logged(0, 9, 0.5),)}
    assert history.until(19) == history
    assert history.until(8) == {}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("words", r"Expected a history to be a dict by key, but got str: 'words'\."),
        ({0: []}, r"Expected the keys of a history to be texts, but got int: 0\."),
        ({"a": 3}, r"Expected the history of 'a' to be a list, but got int: 3\."),
        ({"a": [[0, 9, 0.5], [1, 19]]}, r"of 'a' to be \[epoch, step, value\], .* got list: \[1, 19\]"),
        ({"a": [[True, 9, 0.5]]}, r"two whole numbers from 0 on .*, but got list: \[True, 9, 0.5\]"),
        ({"a": [[0, 9, None]]}, r"but got list: \[0, 9, None\]"),
    ],
)  # fmt: skip
def test_what_is_no_history_is_refused(state, message):
    with pytest.raises(ValueError, match=message):
        History.from_state_dict(state)


def test_a_long_one_is_not_told_at_length():
    with pytest.raises(ValueError, match="Expected a history") as raised:
        History.from_state_dict(list(range(10_000)))
    assert len(str(raised.value)) < 200


def test_a_history_is_a_mapping():
    history = History().extended(0, 9, {"a": 0.5, "b": 1.0}).extended(1, 19, {"a": 0.25})
    assert isinstance(history, Mapping)
    assert (len(history), bool(history), bool(History())) == (2, True, False)
    assert list(history.keys()) == list(history) == ["a", "b"]
    assert [key in history for key in ("a", "never", 3, None)] == [True, False, False, False]
    assert list(history.items()) == [("a", history["a"]), ("b", (Logged(0, 9, 1.0),))]
    assert list(history.values()) == [history["a"], history["b"]]
    assert {**history} == dict(history) == history
    assert (history.get("a"), history.get("never"), history.get("never", ())) == (
        history["a"],
        None,
        (),
    )


def test_histories_are_equal_to_mappings_of_the_same_rows():
    history = History().extended(0, 9, {"a": 0.5, "b": 1.0})
    assert history == {"b": (Logged(0, 9, 1.0),), "a": (Logged(0, 9, 0.5),)}
    assert history == MappingProxyType(dict(history))
    assert history != History().extended(0, 9, {"a": 0.5})
    assert history != History().extended(0, 9, {"a": 0.5, "b": 2.0})
    assert history != 3
    assert pickle.loads(pickle.dumps(history)) == history


@pytest.mark.parametrize(
    ("logged", "key", "text"),
    [
        (
            ["nc1/cdnv/val", "nc1/cdnv/train", "nc0/accuracy/val"],
            "nc1/cdnv/vall",
            "Expected a logged key, but got 'nc1/cdnv/vall'. Did you mean 'nc1/cdnv/val' or "
            "'nc1/cdnv/train'?",
        ),
        (["a", "b"], "never", "Expected a logged key, but got 'never'. There are 'a', 'b'."),
        (
            list("abcdefghijk"),
            "never",
            "Expected a logged key, but got 'never'. There are 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' "
            "and 3 more.",
        ),
        (
            [],
            "nc1/cdnv/val",
            "Expected a logged key, but got 'nc1/cdnv/val', and nothing was logged yet: a value comes "
            "when its stage has ended, such as an epoch of training. Has a Trainer run with this "
            "callback in its callbacks?",
        ),
    ],
    ids=["near", "few", "many", "nothing logged"],
)
def test_a_key_that_was_not_logged_is_told_with_those_that_were(logged, key, text):
    history = History().extended(0, 9, dict.fromkeys(logged, 1.0))
    with pytest.raises(KeyError) as raised:
        history[key]
    assert type(raised.value) is UnknownKey
    assert str(raised.value) == text
    assert raised.value.args == (key,)


ROW = {"epoch": 0, "step": 9, "value": 0.5}


def test_each_value_is_a_row_of_plain_types():
    history = History().extended(0, 9, {"nc1/cdnv/val": 0.5, "nc1/rank/val_1/body.0": 3.0})
    history = history.extended(1, 19, {"nc1/cdnv/val": 0.25})
    of_head = {"key": "nc1/cdnv/val", "measure": "nc1/cdnv", "stage": "val", "layer": ""}
    of_layer = {
        "key": "nc1/rank/val_1/body.0", "measure": "nc1/rank", "stage": "val_1", "layer": "body.0",
    }  # fmt: skip
    assert history.to_rows() == [
        of_head | ROW,
        of_head | {"epoch": 1, "step": 19, "value": 0.25},
        of_layer | ROW | {"value": 3.0},
    ]
    assert {type(value) for row in history.to_rows() for value in row.values()} == {str, int, float}
    assert History().to_rows() == []


@pytest.mark.parametrize("prefix", ["", "mine/", "mine_", "two/parts/", "val/", "nc1/cdnv/val/"])
@pytest.mark.parametrize(("stage", "layer"), [("train", ""), ("holdout", ""), ("holdout", "val.0")])
def test_the_prefix_is_in_the_key_and_nowhere_else_in_a_row(prefix, stage, layer):
    key = str(Key("nc1/cdnv", stage, layer, prefix))
    history = History(prefix=prefix).extended(0, 9, {key: 0.5})
    parts = {"key": key, "measure": "nc1/cdnv", "stage": stage, "layer": layer}
    assert history.to_rows() == [parts | ROW]


def test_the_prefix_stays_with_what_is_made_of_a_history():
    history = History(prefix="mine/").extended(0, 9, {"mine/nc1/cdnv/holdout": 0.5})
    again = History.from_state_dict(history.state_dict(), "mine/")
    made = [history, history.until(9), history.until(0), again, pickle.loads(pickle.dumps(history))]
    assert {each.prefix for each in made} == {"mine/"}
    assert again.to_rows() == history.to_rows()
    # the state is that of checkpoints from before there was a prefix
    assert history.state_dict() == {"mine/nc1/cdnv/holdout": [[0, 9, 0.5]]}


def test_a_text_that_is_no_key_of_ours_is_all_measure():
    [row] = History().extended(0, 9, {"loss": 0.5}).to_rows()
    assert row == {"key": "loss", "measure": "loss", "stage": "", "layer": ""} | ROW


def test_the_rows_become_a_table_of_pandas():
    pytest.importorskip("pandas")
    history = History().extended(0, 9, {"nc1/cdnv/val": 0.5, "nc1/rank/val/body.0": float("nan")})
    history = history.extended(1, 19, {"nc1/cdnv/val": 2.0})
    table = history.to_pandas()
    assert list(table.columns) == ["key", "measure", "stage", "layer", "epoch", "step", "value"]
    assert table.drop(index=2).to_dict("records") == history.to_rows()[:2]
    assert table["value"].isna().tolist() == [False, False, True]
    assert [table[name].dtype.kind for name in ("epoch", "step", "value")] == ["i", "i", "f"]
    empty = History().to_pandas()
    assert list(empty.columns) == list(table.columns)
    assert empty["value"].dtype == table["value"].dtype
    assert len(empty) == 0


def test_without_pandas_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    history = History().extended(0, 9, {"nc1/cdnv/val": 0.5})
    text = r"Expected pandas for to_pandas\(\).*pip install pandas\. Without it, take History\.to_rows"
    with pytest.raises(ImportError, match=text):
        history.to_pandas()
    assert len(history.to_rows()) == 1
