"""A checkpoint whose state of the callback is damaged, foreign, older or newer: training resumes."""

import re
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from support.training import BATCH, ROWS, Network, digits, fit, trainer
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning
from lightning_nc.run.schedule import Schedule

KEY = "nc1/cdnv/val"
GOOD = {"history": {KEY: [[0, 4, 0.5]]}, "schedule": {"measured_in": {"val": 0}}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The checkpoint of two epochs, less our state."""
    folder = tmp_path_factory.mktemp("checkpoint")
    callback = NeuralCollapseCallback(online=False)
    keep = ModelCheckpoint(folder, save_last=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec.*")
        fit(Network(), [callback, keep], enable_checkpointing=True, default_root_dir=folder)
    return folder / "last.ckpt"


def resume(checkpoint, tmp_path, state):
    """Go on with another state of ours in the file; the callback, and what was warned of."""
    stored = torch.load(checkpoint, weights_only=True)
    callback = NeuralCollapseCallback(online=False)
    assert callback.state_key in stored["callbacks"]
    stored["callbacks"] = {callback.state_key: state}
    path = tmp_path / "changed.ckpt"
    torch.save(stored, path)
    run = trainer([callback], max_epochs=4, default_root_dir=tmp_path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run.fit(
            Network(),
            DataLoader(digits(), BATCH, shuffle=True),
            DataLoader(digits(ROWS, 96), BATCH),
            ckpt_path=path,
        )
    assert run.current_epoch == 4
    texts = [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]
    return callback, texts


def epochs_of(callback):
    return [entry.epoch for entry in callback.history[KEY]]


def with_history(history):
    return {**GOOD, "history": history}


def with_schedule(schedule):
    return {**GOOD, "schedule": schedule}


NOT_A_DICT = r"Expected the state of a NeuralCollapseCallback to be a dict with .*'history'.*, but got "
ENTRY = rf"Expected each entry in the history of '{KEY}' to be \[epoch, step, value\], .*, but got "
SCHEDULE = "Expected a schedule to be a dict with an epoch, .* by stage in 'measured_in', but got "
DAMAGED = {
    "a text": ("words", NOT_A_DICT + "str: 'words'"),
    "a list": ([1, 2], NOT_A_DICT + r"list: \[1, 2\]"),
    "a tensor": (torch.tensor(3.0), NOT_A_DICT + "Tensor: "),
    "a dict of something else": ({"patience": 3}, NOT_A_DICT + r"dict: \{'patience': 3\}"),
    "a history that is a list": (with_history([1]), r"Expected a history to be a dict by key, but got"),
    "a history that is a tensor": (with_history(torch.ones(3)), "Expected a history to be a dict"),
    "keys that are numbers": (with_history({3: [[0, 4, 0.5]]}), "to be texts, but got int: 3"),
    "rows that are a text": (
        with_history({KEY: "rows"}), f"the history of '{KEY}' to be a list, but got str: 'rows'"
    ),
    "rows that are a tensor": (with_history({KEY: torch.ones(2, 3)}), "to be a list, but got Tensor"),
    "an entry too short": (with_history({KEY: [[0, 4]]}), ENTRY + r"list: \[0, 4\]"),
    "an entry too long": (with_history({KEY: [[0, 4, 0.5], [1, 8, 0.5, 2]]}), ENTRY + r"list: \[1, 8"),
    "a value that is a text": (with_history({KEY: [[0, 4, "0.5"]]}), ENTRY + "list: .*'0.5'"),
    "a value that is a tensor": (with_history({KEY: [[0, 4, torch.tensor(0.5)]]}), ENTRY),
    "a value beyond all numbers": (with_history({KEY: [[0, 4, 10**400]]}), ENTRY),
    "an epoch that is a fraction": (with_history({KEY: [[0.5, 4, 0.5]]}), ENTRY),
    "an epoch before the first": (with_history({KEY: [[-1, 4, 0.5]]}), ENTRY),
    "an entry that is None": (with_history({KEY: [None]}), ENTRY + "NoneType: None"),
    "one bad entry among good keys": (with_history({"nc1/rank/val": [[0, 4, 9.0]], KEY: [[]]}), ENTRY),
    "a schedule that is a text": (with_schedule("soon"), SCHEDULE + "str: 'soon'"),
    "a schedule of texts": (with_schedule({"measured_in": {"val": "soon"}}), SCHEDULE + "dict: "),
    "a schedule of nothing": (with_schedule({"measured_in": None}), SCHEDULE),
    "a schedule of numbers": (with_schedule({"measured_in": {0: 1}}), SCHEDULE),
    "a schedule of tensors": (with_schedule({"measured_in": {"val": torch.tensor(1)}}), SCHEDULE),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_state_is_left_aside_as_a_whole_with_one_warning(name, checkpoint, tmp_path):
    state, pattern = DAMAGED[name]
    callback, [text] = resume(checkpoint, tmp_path, state)
    assert re.match(f".*{pattern}", text), text
    assert "Is the checkpoint damaged, or has something else written this state?" in text
    assert "It is left aside as a whole, and the run goes on without" in text
    # nothing of it is there, and what is measured from now on is
    assert epochs_of(callback) == [2, 3]
    assert {key.split("/")[2] for key in callback.history} == {"val"}
    assert min(entry.epoch for key in callback.history for entry in callback.history[key]) == 2


@pytest.mark.parametrize(
    ("state", "epochs"),
    [
        (GOOD, [0, 2, 3]),
        ({"history": GOOD["history"]}, [0, 2, 3]),
        ({"schedule": GOOD["schedule"]}, [2, 3]),
        (with_history({KEY: [(0, 4, 1)]}), [0, 2, 3]),
        (with_history({KEY: [[0, 4, float("nan")]]}), [0, 2, 3]),
    ],
    ids=["older", "no schedule", "no history", "tuples and a whole number", "NaN"],
)
def test_the_state_of_an_older_version_is_taken_up_without_a_word(state, epochs, checkpoint, tmp_path):
    callback, texts = resume(checkpoint, tmp_path, state)
    assert texts == []
    assert epochs_of(callback) == epochs
    assert all(type(entry.value) is float for entry in callback.history[KEY])


def test_what_a_later_version_has_added_is_told_and_the_rest_taken_up(checkpoint, tmp_path):
    callback, [text] = resume(checkpoint, tmp_path, {**GOOD, "moods": {"val": "good"}, 7: None})
    assert re.match(
        r"Expected the state of a NeuralCollapseCallback to have .*history, schedule, training, but "
        r"got 'moods', 7 as well\. Was the checkpoint written by a later version\?",
        text,
    )
    assert epochs_of(callback) == [0, 2, 3]


def test_a_schedule_that_cannot_be_read_changes_nothing():
    schedule = Schedule(default=3)
    schedule.measured("val", 4)
    with pytest.raises(ValueError, match="Expected a schedule to be a dict with an epoch"):
        schedule.load_state_dict({"measured_in": {"train": 3, "val": -1}})
    assert schedule.state_dict() == {"measured_in": {"val": 4}}


def test_a_damaged_state_leaves_what_is_there():
    callback = NeuralCollapseCallback()
    callback.load_state_dict(GOOD)
    with pytest.warns(NeuralCollapseWarning, match="Expected a schedule"):
        callback.load_state_dict({"history": {}, "schedule": 3})
    assert callback.state_dict() == {**callback.state_dict(), **GOOD}
