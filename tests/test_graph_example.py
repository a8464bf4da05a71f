"""The example of graphs, short and whole: what it prints, draws and claims."""

import pytest
from support.examples import numbers, require_picture, run, verdicts
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    return folder, run("graph_sbm", folder, "--quick")


def by_depth(out, name):
    """log10 of the trace ratio, after each layer or step."""
    [found] = numbers(out, name)
    return found


def end(out, name):
    """The values of a run in the end, by the titles of the columns."""
    [titles] = [line for line in out.splitlines() if line.startswith("At the end")]
    titles = [titles[14:][i : i + 15].strip() for i in range(0, len(titles) - 14, 15)]
    [values] = [row for row in numbers(out, name) if len(row) == len(titles)]
    return dict(zip(titles, values, strict=True))


def falls_every_second(values):
    return all(b < a for a, b in zip(values, values[2:], strict=False))


@pytest.mark.slow
def test_nodes_of_new_graphs_collapse_from_layer_to_layer_and_in_part(short):
    _, out = short
    nodes, means = (by_depth(out, f"MSE, {rows}") for rows in ("nodes", "means over neighbors"))
    assert len(nodes) == len(means) == 11
    assert falls_every_second(nodes)
    assert all(mean < node for mean, node in zip(means, nodes, strict=True))
    found = end(out, "MSE")
    assert 0.1 < found["ratio"] < 5
    assert found["ratio"] == pytest.approx(10 ** nodes[-1], rel=0.02)
    assert found["NC1"] < found["ratio"]
    assert found["overlap"] > 0.7
    assert found["train overlap"] > 0.85
    assert found["eval overlap"] < found["overlap"] / 2
    assert found["snr"] > 1
    assert 0.05 < found["gap"] < 0.2


@pytest.mark.slow
def test_free_features_collapse_just_on_graphs_that_admit_it(short):
    _, out = short
    free = out.split("Features that are free")[1]
    [regular], [random] = numbers(free, "regular"), numbers(free, "random")
    assert max(regular[:2]) < 1e-9
    assert regular[2] == 0
    assert min(random[:2]) > 1e-3
    assert random[2] > 0.05


@pytest.mark.slow
def test_power_iteration_of_each_method_lowers_the_trace_ratio(short):
    for name in ("normalized Laplacian", "Bethe-Hessian"):
        steps = by_depth(short[1], name)
        assert len(steps) == 10
        assert falls_every_second(steps)
        assert steps[-1] < 0.5


@pytest.mark.slow
def test_a_short_run_says_what_it_left_out_and_what_shows(short):
    folder, out = short
    assert "reduced run: 1 of 4 settings" in out
    assert "Heterophilic communities are" not in out
    found = verdicts(out)
    assert found["free features, regular: collapse, to below 1e-9"]
    assert found["MSE: collapse is partial, the trace ratio of new graphs ends above 0.1"]
    assert not found["MSE: new graphs are told in eval mode as well (overlap above 0.95)"]
    assert not any("karate" in text for text in found)
    require_picture(folder / "graph_sbm.png")


@pytest.mark.slow
def test_values_of_every_layer_and_pool_are_logged_to_tensorboard(short):
    [version] = short[0].joinpath("runs", "graphs", "MSE").iterdir()
    logged = {*EventAccumulator(str(version)).Reload().Tags()["scalars"]}
    assert {"graph/overlap/val", "graph/condition_gap/train_online", "graph/num_graphs/test"} <= logged
    for measure in ("within_between_ratio_log10", "within_between_pinv_log10_se"):
        for layer in ("proj", "convs.0", "convs.9"):
            keys = {f"graph/{measure}/val/{layer}.{pool}" for pool in ("nodes", "neighborhood_mean")}
            assert keys <= logged
    assert not any(key.startswith("nc1/") for key in logged)


MUST_SHOW = (
    "MSE: the trace ratio", "MSE: collapse is partial", "MSE: means over neighbors",
    "MSE: new graphs are told as", "a classifier of digits", "normalized Laplacian: after ten steps",
    "Bethe-Hessian: after ten steps", "heterophilic, normalized Laplacian, other end: ",
    "heterophilic, Bethe-Hessian, other end: ", "free features, regular: ",
    "free features, regular, no W1: ", "free features, random: ", "free features, random, no W1: ",
    "free features: the condition gap", "karate: members",
)  # fmt: skip
"""How the claims begin that a whole run has to show; of others, it says whether they do."""
MUST_NOT_SHOW = (
    "MSE: new graphs are told in eval mode", "CE: new graphs are told in eval mode",
    "regular: training graphs", "heterophilic, normalized Laplacian: ", "heterophilic, Bethe-Hessian: ",
)  # fmt: skip


@pytest.mark.full
def test_a_whole_run_shows_what_it_must(tmp_path):
    out = run("graph_sbm", tmp_path)
    print(out)
    found = verdicts(out)
    for expected, beginnings in ((True, MUST_SHOW), (False, MUST_NOT_SHOW)):
        for beginning in beginnings:
            claims = {text: shows for text, shows in found.items() if text.startswith(beginning)}
            assert claims, beginning
            assert all(shows == expected for shows in claims.values()), claims
    require_picture(tmp_path / "graph_sbm.png")
