"""The history knows the prefix of its callback, wherever one is made."""

from types import SimpleNamespace

import pytest
from support.training import Network, fit

from lightning_nc import NeuralCollapseCallback

SETTINGS = {"prefix": "mine/", "online": False, "stage_names": ["holdout"], "layers": ["neck"]}


def parts_of(history):
    names = ("key", "measure", "stage", "layer")
    return {tuple(row[name] for name in names) for row in history.to_rows()}


def made(which):
    """A callback whose history has been made in one of three ways."""
    callback = NeuralCollapseCallback(**SETTINGS)
    if which == "of a checkpoint":
        callback.load_state_dict({"history": {"mine/nc1/cdnv/holdout": [[0, 9, 0.5]]}})
    elif which == "of a run that resumes":
        # from a checkpoint, which may hold nothing of ours
        callback.setup(SimpleNamespace(ckpt_path="last.ckpt", callbacks=[callback]), None, "fit")
    return callback


@pytest.mark.parametrize("which", ["new", "of a checkpoint", "of a run that resumes"])
def test_a_history_has_the_prefix_of_its_callback(which):
    assert made(which).history.prefix == "mine/"


def test_the_rows_of_a_run_have_measure_and_stage_under_any_prefix_and_stage_name():
    callback = made("of a checkpoint")
    assert parts_of(callback.history) == {("mine/nc1/cdnv/holdout", "nc1/cdnv", "holdout", "")}
    fit(Network(), [callback], max_epochs=1)
    found = parts_of(callback.history)
    assert ("mine/nc1/cdnv/holdout", "nc1/cdnv", "holdout", "") in found
    assert ("mine/nc1/cdnv/holdout/neck", "nc1/cdnv", "holdout", "neck") in found
    assert {stage for _, _, stage, _ in found} == {"holdout"}
    groups = {"layer", *(f"nc{i}" for i in range(5))}
    assert {measure.partition("/")[0] for _, measure, *_ in found} <= groups
