"""The stages of a run are lines of one table."""

import pytest

from lightning_nc.values import STAGES, Stage, stage_of
from lightning_nc.values.stage import in_order


def test_the_names_of_the_table_are_those_that_are_logged():
    assert [stage.name for stage in STAGES] == ["train", "train_online", "val", "test"]


def test_weights_move_while_training_alone_and_both_of_its_stages_end_the_epoch():
    assert {stage.name for stage in STAGES if stage.weights_move} == {"train_online"}
    assert {stage.name for stage in STAGES if stage.ends_epoch} == {"train", "train_online"}


@pytest.mark.parametrize(
    ("loop", "loader", "name"),
    [
        ("fit", 0, "train_online"),
        ("frozen", 0, "train"),
        ("validate", 0, "val"),
        ("validate", 1, "val_1"),
        ("validate", 12, "val_12"),
        ("test", 2, "test_2"),
    ],
)
def test_further_loaders_of_a_loop_are_numbered(loop, loader, name):
    stage = stage_of(loop, loader)
    assert (stage.name, stage.loop, stage.loader) == (name, loop, loader)


def test_a_line_for_a_further_loader_gives_it_its_own_name(monkeypatch):
    shifted = Stage("shifted", "validate", loader=1, references=("train",))
    monkeypatch.setattr("lightning_nc.values.stage.STAGES", [*STAGES, shifted])
    assert stage_of("validate", 1) is shifted
    assert stage_of("validate", 2).name == "val_2"
    assert stage_of("validate", 2).references == ()
    assert in_order(["shifted", "val"]) == ["val", "shifted"]


def test_a_stage_is_a_value():
    assert stage_of("validate", 1) == stage_of("validate", 1)
    assert len({stage_of("validate", 1), stage_of("validate", 1), stage_of("validate")}) == 2


def test_stages_are_shown_once_in_the_order_of_the_table_and_others_after_them():
    names = ["val_1", "test", "a", "train_online", "val", "train", "test"]
    assert in_order(names) == ["train", "train_online", "val", "test", "a", "val_1"]
    assert in_order([]) == []
