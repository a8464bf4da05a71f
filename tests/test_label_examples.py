"""The examples of several tags and of no classes, short and whole: what they print, draw and claim."""

import math

import pytest
from support.examples import EXAMPLES, require_picture, run, started, verdicts
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

NAMES = ("multilabel_digits", "regression")
BOTH = f"""
for name in {NAMES}:
    sys.argv = [name, "--quick"]
    runpy.run_path({str(EXAMPLES)!r} + f"/{{name}}.py", run_name="__main__")
    print("end of an example")
"""
WIDTHS = {"multilabel_digits": (17, 16), "regression": (25, 11)}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Both in one process, for a large part of the time is that of its imports."""
    folder = tmp_path_factory.mktemp("labels")
    process = started(BOTH, folder)
    assert process.returncode == 0, process.stderr
    return folder, dict(zip(NAMES, process.stdout.split("end of an example\n"), strict=False))


def table(name, out):
    """The numbers of each run, by the titles of the columns."""
    first, width = WIDTHS[name]
    header, *lines = out.split("\n\n")[1].splitlines()
    titles, found = _cells(header[first:], width), {}
    for line in lines:
        cells = [math.nan if c == "-" else float(c) for c in _cells(line[first:], width)]
        found[line[:first].strip()] = dict(zip(titles, cells, strict=True))
    return found


def _cells(text, width):
    return [text[i : i + width].strip() for i in range(0, len(text), width)]


def tags_logged(folder, *path):
    [version] = folder.joinpath(*path).iterdir()
    return EventAccumulator(str(version)).Reload().Tags()["scalars"]


@pytest.mark.slow
def test_pick_all_label_brings_pairs_to_the_sum_of_their_tags_and_binary_cross_entropy_does_not(short):
    folder, printed = short
    rows = table("multilabel_digits", printed["multilabel_digits"])
    picked, binary = rows["PAL, strong"], rows["BCE, strong"]
    assert picked["last ratio"] < 0.1
    assert picked["last ratio"] < binary["last ratio"] / 3
    assert picked["C_2 / C_1"] == pytest.approx(picked["predicted"], rel=0.05)
    assert math.isnan(binary["predicted"])
    assert min(picked["new rows right"], binary["new rows right"]) > 0.9
    found = verdicts(printed["multilabel_digits"])
    assert [text[:11] for text, shows in found.items() if not shows] == ["BCE, strong"]
    assert len(found) == 4
    require_picture(folder / "multilabel_digits.png")


@pytest.mark.slow
def test_features_of_a_regression_collapse_with_weight_decay_and_the_last_layers_meet_theory(short):
    folder, printed = short
    rows = table("regression", printed["regression"])
    plain, decayed, last = (rows[name] for name in ("no decay", "weight decay", "last layers"))
    for key in ("NRC1", "NRC2"):
        assert decayed[key] < plain[key] / 1000
        assert plain[key] > 0.3
    assert decayed["error"] < plain["error"]
    assert last["W W' gap"] < 0.05
    assert math.isnan(decayed["W W' gap"])
    found = verdicts(printed["regression"])
    assert len(found) == 8
    assert found["last layers: W W' is the closed form (to 5%)"]
    require_picture(folder / "regression.png")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_short_run_says_what_it_left_out_and_remarks_on_nothing_else(short, name):
    _, printed = short
    legend, _, reduced, rest = printed[name].split("\n\n", 3)
    assert reduced.startswith("reduced run: ")
    assert "too short for some verdicts" in reduced.replace("\n", " ")
    assert not any(word in rest for word in ("ReLU", "yeast", "linnerud"))
    assert "shows or not" not in legend


@pytest.mark.slow
def test_both_log_the_keys_of_their_task_to_tensorboard(short):
    folder, _ = short
    logged = tags_logged(folder, "runs", "multilabel", "PAL strong")
    assert {"tags/angle_ratio/train", "tags/subset_accuracy/val", "tags/scale_2/train"} <= {*logged}
    logged = tags_logged(folder, "runs", "regression", "last_layers")
    assert {"nrc1/outside_variance/train/body.1", "nrc3/limit_distance/train"} <= {*logged}
    assert not any(key.startswith("nc1/") for key in logged)


MUST_SHOW = {
    "multilabel_digits": (
        "PAL: ", "PAL / tags: ", "PAL, 5 a pair: ", "PAL, strong: ", "PAL, fixed head",
    ),
    "regression": (
        "weight decay: NRC1", "weight decay: NRC2", "weight decay: NRC3", "weight decay: a smaller",
        "weight decay: the variance", "last layers: W W'", "ReLU features: less their mean",
    ),
}  # fmt: skip
"""How the claims begin that a whole run has to show; of others, it says whether they do."""
MUST_NOT_SHOW = {
    "multilabel_digits": ("BCE: ", "PAL, ReLU: a pair", "BCE, ReLU: ", "BCE, strong: "),
    "regression": ("ReLU features: NRC1", "linnerud"),
}


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_a_whole_run_shows_what_it_must(name, tmp_path):
    out = run(name, tmp_path)
    print(out)
    found = verdicts(out)
    for expected, beginnings in ((True, MUST_SHOW[name]), (False, MUST_NOT_SHOW[name])):
        for beginning in beginnings:
            claims = {text: shows for text, shows in found.items() if text.startswith(beginning)}
            assert claims, beginning
            assert all(shows == expected for shows in claims.values()), claims
    require_picture(tmp_path / f"{name}.png")
