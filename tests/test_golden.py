"""The code computes what it did when the golden numbers were written, see golden.py."""

import copy
import functools
import math

import golden
import pytest

METRICS = {"relative": 1e-9, "absolute": 1e-12}
# training amplifies what another machine's BLAS rounds
TRAINERS = {"relative": 1e-4, "absolute": 1e-7}

read = functools.cache(golden.read)


def differences(found, expected, relative, absolute, where=""):
    """Where two trees of dictionaries, lists and numbers differ; NaN equals NaN."""
    if isinstance(expected, dict):
        if list(found) != list(expected):
            return [f"{where}: the keys {list(found)} in the place of {list(expected)}"]
        pairs = [(key, found[key], expected[key]) for key in expected]
    elif isinstance(expected, list):
        if len(found) != len(expected):
            return [f"{where}: {len(found)} entries in the place of {len(expected)}"]
        pairs = list(zip(range(len(found)), found, expected, strict=True))
    else:
        close = same(found, expected, relative, absolute)
        return [] if close else [f"{where}: {found!r} in the place of {expected!r}"]
    return [d for key, *two in pairs for d in differences(*two, relative, absolute, f"{where} > {key}")]


def same(found, expected, relative, absolute):
    if type(found) is not type(expected) or isinstance(expected, int):
        return type(found) is type(expected) and found == expected
    if math.isnan(expected):
        return math.isnan(found)
    return math.isclose(found, expected, rel_tol=relative, abs_tol=absolute)


def epochs(history, key):
    return [epoch for epoch, _, _ in history[key]]


@pytest.mark.parametrize("name", golden.METRICS)
def test_a_metric_has_its_golden_numbers(name):
    assert differences(golden.METRICS[name](), read("metrics.json")[name], **METRICS) == []


@pytest.mark.parametrize("name", golden.TRAINERS)
def test_a_trainer_logs_its_golden_numbers(name):
    assert differences(golden.TRAINERS[name](), read("trainers.json")[name], **TRAINERS) == []


def test_every_golden_number_is_compared():
    assert list(read("metrics.json")) == list(golden.METRICS)
    assert list(read("trainers.json")) == list(golden.TRAINERS)


def test_a_run_goes_on_from_a_checkpoint_that_an_older_version_has_written():
    saved, expected = (read("before.json")[key] for key in ("saved", "resumed"))
    run = golden.resumed(golden.FOLDER / "before.ckpt")
    # where layers are measured, further keys have joined since
    run["history"] = {k: v for k, v in run["history"].items() if not k.startswith("layer/")}
    run["logged"] = {k: v for k, v in run["logged"].items() if not k.startswith("layer/")}
    before, after = saved["history"], run["history"]
    assert (saved["epochs"], run["epochs"]) == (2, 4)
    assert list(after) == list(before)
    assert all(after[key][: len(rows)] == rows for key, rows in before.items())
    assert epochs(after, "nc1/cdnv/val/neck") == epochs(after, "nc1/cdnv/train_online") == [0, 1, 2, 3]
    # the last before was in epoch 1; who has forgotten that would measure in epoch 2
    assert epochs(after, "nc1/cdnv/train") == [0, 1, 3]
    assert differences(run["met"], saved["metric"], **METRICS) == []
    counts = saved["metric"]["statistics"]["counts"]
    assert run["metric"]["statistics"]["counts"] == [2 * count for count in counts]
    assert differences(run, expected, **TRAINERS) == []


EXPECTED = {"values": {"a": 0.5, "b": math.nan}, "rows": [[0, 3, 2.0], [1, 7, 1.0]]}


def changed(*path, to):
    tree = copy.deepcopy(EXPECTED)
    *parents, last = path
    functools.reduce(lambda inner, key: inner[key], parents, tree)[last] = to
    return tree


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        (changed("values", "a", to=0.5 * (1 + 1e-6)), " > values > a: "),
        (changed("values", "a", to=math.nan), " > values > a: "),
        (changed("values", "b", to=0.5), " > values > b: "),
        (changed("values", to={"a": 0.5}), " > values: the keys"),
        (changed("values", to={"b": math.nan, "a": 0.5}), " > values: the keys"),
        (changed("rows", 1, 1, to=8), " > rows > 1 > 1: "),
        (changed("rows", 1, 1, to=7.0), " > rows > 1 > 1: "),
        (changed("rows", to=[[0, 3, 2.0]]), " > rows: 1 entries"),
    ],
    ids=["value", "became NaN", "was NaN", "no key", "order", "step", "type", "no row"],
)
def test_the_comparison_can_fail(tree, where):
    [difference] = differences(tree, EXPECTED, **METRICS)
    assert difference.startswith(where)


def test_the_comparison_allows_rounding():
    assert differences(copy.deepcopy(EXPECTED), EXPECTED, **METRICS) == []
    assert differences(changed("values", "a", to=0.5 * (1 + 1e-10)), EXPECTED, **METRICS) == []
