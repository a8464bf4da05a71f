"""The examples on unequal counts and on the central path, short and whole: what they print and draw."""

import pytest
from support.examples import numbers, require_picture, run, verdicts

FREE = [f"free features, M = {depth}" for depth in (1, 3)]
VANISHING = (
    "M = 1: a class vanishes at the count that the penalties set (within one row)",
    "M = 3, a class that lives goes on living down to the spinodal (within one row)",
    "M = 3, a class at zero stays there, with any count tried",
    "M = 3: to live costs more below the count of the global minimum (within one row)",
)


def require_shown(found, *beginnings):
    for beginning in beginnings:
        claims = {text: shows for text, shows in found.items() if text.startswith(beginning)}
        assert claims, beginning
        assert all(claims.values()), claims


@pytest.fixture(scope="module")
def imbalanced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imbalanced")
    return folder, run("imbalanced", folder, "--quick")


@pytest.mark.full
def test_free_features_reach_their_frame_and_a_small_class_vanishes_where_it_must(imbalanced):
    found = verdicts(imbalanced[1])
    assert len(found) == 18
    require_shown(found, *FREE, *VANISHING)


@pytest.mark.full
def test_the_table_of_runs_tells_verdict_parameter_and_distances(imbalanced):
    table = imbalanced[1].split("\n\n")[0].splitlines()[2:]
    rows = {line[:22].strip(): line[22:].split() for line in table}
    assert [*rows] == [*FREE, "MSE", "CE, ReLU", "CE, both signs", "MSE, decay 5e-3"]
    for name, tau in zip(FREE, (1e-4, 6.4e-9), strict=True):
        verdict, shape, logits, penalties, nearest, second, runner_up, *_ = rows[name]
        assert (verdict, runner_up) == ("gof", "gof_limit")
        assert [float(x) for x in (shape, logits, penalties)] == pytest.approx([tau] * 3, rel=1e-3)
        assert float(nearest) < 1e-4 < float(second)
    assert rows["CE, both signs"][0] == "ce_ufm"
    assert rows["MSE, decay 5e-3"][0] == "none"
    require_picture(imbalanced[0] / "imbalanced.png")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("path")
    return folder, run("central_path", folder, "--quick")


@pytest.mark.full
def test_the_parts_of_the_squared_error_add_up_to_what_the_network_logs(path):
    rows = numbers(path[1], " +[0-9]+")
    assert len(rows) == 9
    for nc1, nc23, off, best, _, _, logged in rows:
        assert nc1 + nc23 + off == pytest.approx(logged, rel=0.01)  # of three digits
        assert nc1 + nc23 == pytest.approx(best, rel=0.01)
    assert rows[-1][-1] < rows[0][-1] / 5


@pytest.mark.full
def test_the_table_of_the_path_says_what_shows(path):
    found = verdicts(path[1])
    assert len(found) == 10
    require_shown(
        found, "the three parts add up", "the signal-to-noise ratios grow", "and become alike"
    )
    assert not found["NC1 is the larger part of the best loss, in every epoch"]  # not in the first
    require_picture(path[0] / "central_path.png")


MUST_SHOW = {
    "imbalanced": (
        *FREE, *VANISHING, "MSE: ", "MSE, free bias: gof_centered", "MSE, M = 3: gof", "CE, ReLU: ",
        "CE, both signs: ",
    ),
    "central_path": (
        "the three parts add up", "the classifier stays near the best one once", "in the end",
        "the signal-to-noise ratios grow", "and become alike", "warning: with 10 lambda",
    ),
}  # fmt: skip
"""How the claims begin that a whole run has to show; of others, it says whether they do."""


@pytest.mark.full
@pytest.mark.parametrize("name", MUST_SHOW)
def test_a_whole_run_shows_what_it_must(name, tmp_path):
    out = run(name, tmp_path)
    print(out)
    found = verdicts(out)
    require_shown(found, *MUST_SHOW[name])
    decayed = [shows for text, shows in found.items() if "plain weight decay" in text]
    assert not any(decayed)
    require_picture(tmp_path / f"{name}.png")
