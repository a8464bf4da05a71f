"""The measures under their symmetries."""

import pytest
import torch
from support.problems import Problem, assert_measures, measured, problem, rotation


def seen_through(given: Problem, name: str) -> tuple[Problem, dict[str, float]]:
    """The same network in other coordinates, and by what factor single measures change."""
    h, w = given.features.double(), given.weight.double()
    b = given.bias.double()
    y = given.target
    factors = {}
    if name == "rotation":
        turn = rotation(given.num_features, seed=3)
        h, w = h @ turn, w @ turn
    elif name == "reflection":
        flip = torch.ones(given.num_features, dtype=torch.float64).index_fill(0, torch.tensor([0]), -1)
        h, w = h * flip, w * flip
    elif name == "translation":
        step = torch.linspace(-5, 5, given.num_features, dtype=torch.float64)
        h, b = h + step, b - w @ step
    elif name == "scaling":
        h, b, factors = 1000 * h, 1000 * b, {"nc3/bias_collapse": 1000}
    elif name == "permutation of the classes":
        order = torch.randperm(given.num_classes, generator=torch.Generator().manual_seed(1))
        w, b, y = w[order], b[order], order.argsort()[y]
    elif name == "permutation of the samples":
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
        h, y = h[order], y[order]
    return Problem(h, y, given.num_classes, w, b), factors


@pytest.mark.parametrize(
    "change",
    [
        "rotation", "reflection", "translation", "scaling", "permutation of the classes",
        "permutation of the samples",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "name", ["random", "imbalanced", "two classes", "more classes than features", "missing classes"]
)
def test_the_measures_do_not_see_a_change_of_coordinates(name, change):
    given = problem(name)
    changed, factors = seen_through(given, change)
    expected = {key: value * factors.get(key, 1) for key, value in measured(given).items()}
    assert_measures(measured(changed), expected, relative=1e-9, absolute=1e-11)
