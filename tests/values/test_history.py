"""The history of a run."""

import pytest
import torch

from lightning_nc.values.history import History, Logged


def test_history_grows_without_changing_and_survives_a_checkpoint(tmp_path):
    first = History().extended(0, 9, {"nc1/cdnv/val": 0.5, "nc1/rank/val": 3.0})
    second = first.extended(1, 19, {"nc1/cdnv/val": 0.25})
    assert first["nc1/cdnv/val"] == (Logged(0, 9, 0.5),)
    assert second["nc1/cdnv/val"] == (Logged(0, 9, 0.5), Logged(1, 19, 0.25))
    assert second.keys() == ["nc1/cdnv/val", "nc1/rank/val"]
    assert second["never"] == ()
    torch.save(second.state_dict(), tmp_path / "history.pt")
    state = torch.load(tmp_path / "history.pt", weights_only=True)
    assert History.from_state_dict(state) == second
    assert type(History.from_state_dict(state)["nc1/rank/val"][0].epoch) is int


def test_a_run_that_starts_at_a_step_has_what_was_logged_until_then_as_its_past():
    history = History().extended(0, 9, {"a": 0.5}).extended(1, 19, {"a": 0.25, "b": 1.0})
    assert history.until(9).entries == {"a": (Logged(0, 9, 0.5),)}
    assert history.until(19) == history
    assert history.until(8).keys() == []


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
