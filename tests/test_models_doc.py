"""docs/models.md: what each row of its table sets is enough, and right."""

import re
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from support.heads import HEADS, assert_right, train

from lightning_nc import NeuralCollapseWarning

DOCS = Path(__file__).parents[1] / "docs" / "models.md"
LINE = re.compile(r"^\| *(.+?) *\| *(.+?) *\| *(.*?) *\|$", flags=re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def rows_of(text):
    """What to set, for each callback, by the words for the head."""
    lines = LINE.findall(text)[2:]
    return {words: settings_of(what) for words, what, _ in lines}


def settings_of(what):
    if what == "nothing":
        return [{}]
    return [eval(f"dict({span})") for span in re.findall(r"`([^`]+)`", what)]


ROWS = rows_of(DOCS.read_text())


@pytest.fixture(scope="module", autouse=True)
def my_code():
    """The functions that the document shows, as the module that its rows name."""
    module = types.ModuleType("my_code")
    for block in BLOCK.findall(DOCS.read_text()):
        exec(block, module.__dict__)
    sys.modules["my_code"] = module
    yield module
    del sys.modules["my_code"]


def test_each_row_has_a_network_and_each_network_a_row():
    assert set(ROWS) == set(HEADS)


@pytest.mark.parametrize(
    "words", ROWS, ids=lambda words: HEADS[words].__name__ if words in HEADS else words
)
def test_what_a_row_sets_measures_its_head_and_leaves_training_as_it_is(words):
    kind = HEADS[words]
    if kind.package:
        pytest.importorskip(kind.package)
    told = pytest.warns(NeuralCollapseWarning, match=kind.says) if kind.says else nullcontext()
    with told:
        module, run = train(kind, *ROWS[words])
    stages = ("train_online", *kind.loaders)
    for which, settings in enumerate(ROWS[words]):
        for stage in stages:
            assert_right(module, run, stage, which, settings.get("prefix", ""))
    assert {key.rpartition("/")[2] for key in run.callback_metrics} == set(stages)
    alone, _ = train(kind)
    assert all(map(torch.equal, alone.state_dict().values(), module.state_dict().values()))


REFUSED = [words for words, kind in HEADS.items() if kind.refused]


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: HEADS[words].__name__)
def test_where_nothing_is_set_a_head_that_needs_it_is_refused_before_the_first_step(words):
    kind = HEADS[words]
    if kind.package:
        pytest.importorskip(kind.package)
    with pytest.raises((ValueError, RuntimeError), match=kind.refused):
        train(kind, {})
