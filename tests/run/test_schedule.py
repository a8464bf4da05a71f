"""When a stage is due, without a Trainer."""

from types import SimpleNamespace

import pytest

from lightning_nc.run.schedule import Schedule, is_last_epoch


def epochs(schedule, stage, last):
    """The epochs in which a stage is measured, if it is asked for in each."""
    found = []
    for epoch in range(last + 1):
        if schedule.is_due(stage, epoch, is_last=epoch == last):
            schedule.measured(stage, epoch)
            found.append(epoch)
    return found


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (3, [0, 3, 5]), (9, [0, 5])]
)
def test_the_first_epoch_and_the_last_are_measured_and_every_so_many_between(every, expected):
    schedule = Schedule({"train": every}, default=1)
    assert epochs(schedule, "train", last=5) == expected
    assert epochs(schedule, "val", last=5) == [0, 1, 2, 3, 4, 5]


def test_a_stage_that_was_measured_in_an_epoch_is_due_in_it_again():
    schedule = Schedule(default=3)
    schedule.measured("val", 4)
    assert [schedule.is_due("val", epoch) for epoch in (4, 5, 6, 7)] == [True, False, False, True]
    assert (schedule.was_measured("val"), schedule.was_measured("test")) == (True, False)


def test_the_epochs_of_the_last_measurements_go_into_a_checkpoint():
    schedule = Schedule(default=3)
    schedule.measured("val", 4)
    other = Schedule(default=3)
    other.load_state_dict(schedule.state_dict())
    assert not other.is_due("val", 5)
    other.load_state_dict({})  # of an older version
    assert other.is_due("val", 5)
    schedule.forget()
    assert schedule.state_dict() == {"measured_in": {}}


def test_a_window_is_full_after_so_many_optimizer_steps():
    schedule = Schedule(every_n_steps=2)
    assert schedule.has_windows
    schedule.start_window(step=10)
    # an accumulated batch moves nothing; several optimizers move it by more than one
    steps = [10, 11, 11, 13]
    assert [schedule.ends_window(step) for step in steps] == [False, False, False, True]
    schedule.start_window(step=13)
    assert [schedule.ends_window(step) for step in (14, 15)] == [False, True]
    without = Schedule()
    assert not without.has_windows
    assert not any(without.ends_window(step) for step in range(9))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, False),
        ({"current_epoch": 9}, True),
        ({"max_epochs": -1, "max_steps": 40}, True),
        ({"max_epochs": -1, "max_steps": 41}, False),
        ({"should_stop": True}, True),
        ({"should_stop": True, "min_epochs": 7}, False),
        ({"should_stop": True, "min_steps": 41}, False),
        ({"should_stop": True, "min_epochs": 6, "min_steps": 40}, True),
    ],
)
def test_the_last_epoch_is_known_beforehand_or_by_a_wish_that_is_granted(state, expected):
    usual = {
        "current_epoch": 5, "global_step": 40, "max_epochs": 10, "max_steps": -1, "min_epochs": None,
        "min_steps": None, "should_stop": False,
    }  # fmt: skip
    assert is_last_epoch(SimpleNamespace(**(usual | state))) is expected
