"""The conversions to other tools' values hold, each under its conditions alone, see conversions.py."""

import re
from dataclasses import replace
from pathlib import Path

import conversions
import pytest
from support.conversion_table import CONVERSIONS, SAME
from support.packages import CALLS, MODULES, package_value

from lightning_nc.functional import MEASURES

DOCS = Path(__file__).parents[1] / "docs" / "conversions.md"
LINES = [line for line in CONVERSIONS if line.keys]
# of a package: some of its values are float32
ROUNDING, OF_A_PACKAGE, ANOTHER_QUANTITY = 1e-12, 1e-6, 1e-3


def name(line):
    return re.sub(r"[^\w ]", "", f"{line.source} {line.theirs}", flags=re.ASCII)


@pytest.mark.parametrize("line", LINES, ids=name)
def test_a_line_holds_where_its_conditions_are_met(line):
    assert conversions.where_met(line, line.by_formula) < ROUNDING


@pytest.mark.parametrize("line", [line for line in LINES if line.needs], ids=name)
def test_a_line_does_not_hold_where_one_of_its_conditions_is_not_met(line):
    for condition in line.needs:
        assert conversions.where_broken(line, condition) > ANOTHER_QUANTITY


@pytest.mark.parametrize("package", MODULES)
def test_a_package_that_is_installed_comes_to_what_its_formula_does(package):
    lines = [line for line in LINES if line.source == package]
    values = [package_value(line.source, line.theirs) for line in lines]
    if not any(values):
        pytest.skip(f"{package} is not installed")
    for line, value in zip(lines, values, strict=True):
        assert value is None or conversions.where_met(line, value) < OF_A_PACKAGE


def test_a_wrong_conversion_and_a_condition_left_out_are_noticed():
    for line in LINES:
        if line.how != SAME and not line.how.words.startswith(SAME.words):
            wrong = replace(line, how=SAME)
            assert conversions.where_met(wrong, line.by_formula) > ANOTHER_QUANTITY, line.cells
        if line.needs:
            bold = replace(line, needs=line.needs[1:])
            assert conversions.where_met(bold, line.by_formula) > ANOTHER_QUANTITY, line.cells


def test_the_table_of_the_docs_is_that_of_the_lines():
    assert conversions.table() in DOCS.read_text()


def test_every_line_names_measures_and_every_package_a_line():
    assert {key for line in LINES for key in line.keys} <= set(MEASURES)
    assert set(CALLS) <= {(line.source, line.theirs) for line in CONVERSIONS}


def test_the_program_prints_each_line_with_what_it_comes_to(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["conversions.py"])
    conversions.main()
    heads, *lines = capsys.readouterr().out.splitlines()
    assert "largest difference" in heads
    assert len(lines) >= len(LINES)
    [zhous] = [line for line in lines if "NC3, W less its mean row" in line]
    assert re.search(r"\| \d\.\de-1\d \| not where W's rows sum to 0: .*, not balanced: ", zhous)
