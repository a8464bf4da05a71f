"""Each promise in docs/contracts.md names tests, and these are there."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs" / "contracts.md"
LINE = re.compile(r"^\| *([1-9S]\w*) *\| *(.+?) *\| *(.*?) *\|$", flags=re.MULTILINE)


def promises(text):
    """Number, promise and the names of its tests, line by line."""
    return [
        (number, said, re.findall(r"`([^`]+)`", named)) for number, said, named in LINE.findall(text)
    ]


def names_in(path):
    """The names of the tests in a file, without running it."""
    nodes = ast.walk(ast.parse(path.read_text()))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {function.name for function in functions if function.name.startswith("test_")}


def missing(names):
    """Those of the names that are no test, and no file with tests."""
    return [name for name in names if not is_there(*name.partition("::"))]


def is_there(file, separator, function):
    path = TESTS / file
    if not (path.name.startswith("test_") and path.is_file()):
        return False
    found = names_in(path)
    return function in found if separator else bool(found)


PROMISES = promises(DOCS.read_text())


@pytest.mark.parametrize(("number", "said", "named"), PROMISES, ids=[number for number, *_ in PROMISES])
def test_the_tests_of_a_promise_are_there(number, said, named):
    assert named
    assert missing(named) == []


def test_each_contract_and_the_statistics_have_promises_and_each_promise_its_number():
    numbers = [number for number, *_ in PROMISES]
    assert {number[0] for number in numbers} == {*"123456789", "S"}
    assert len(set(numbers)) == len(numbers)
    # the heads and the line below them are no promises
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith("|")]
    assert len(lines) == len(numbers) + 2


@pytest.mark.parametrize(
    "name",
    [
        "callback/test_hooks.py::test_made_up",
        "callback/test_made_up.py",
        "callback/test_made_up.py::test_hooks_are_gone_after_an_exception",
        "test_hooks.py::test_hooks_are_gone_after_an_exception",
        "test_contracts.py::missing",
        "test_contracts.py::",
        "house.py",
        "callback",
        "",
    ],
)
def test_a_name_that_is_no_test_is_noticed(name):
    assert missing(["test_contracts.py", name]) == [name]


def test_a_promise_without_tests_is_read_and_one_with_several_has_them_all():
    text = "| 1a | It is kept. | |\n| S2 | It is, too. | `a.py::b`, `c.py` |\n| | promise | tests |\n"
    assert promises(text) == [("1a", "It is kept.", []), ("S2", "It is, too.", ["a.py::b", "c.py"])]
