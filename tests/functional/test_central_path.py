"""The squared error of one-hot labels, split along the central path; and penalties of the objective."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from support import path_oracles as oracles
from support.ideal import collapsed, etf
from support.problems import gaussian_classes, problem, rotation, statistics_of, streamed
from torch import nn, optim

from lightning_nc import ClassStatistics, LinearClassifier
from lightning_nc.functional import central_path
from lightning_nc.functional.noise import directions
from lightning_nc.values import UndefinedMeasure
from lightning_nc.values.penalties import (
    LOSSES,
    Penalties,
    objective_penalty,
    penalties_of_weight_decay,
)

PARTS = (central_path.loss_nc1, central_path.loss_nc23, central_path.loss_perp)
OF_FEATURES = (central_path.loss_nc1, central_path.loss_nc23, central_path.loss_least_squares)
MODES = {
    "the same": lambda lw, lb: (lw, lw, True),
    "another": lambda lw, lb: (lw, lb, True),
    "free": lambda lw, lb: (lw, 0.0, True),
    "no bias": lambda lw, lb: (lw, 0.0, False),
}


def as_statistics(rows):
    h, y = torch.from_numpy(rows.h), torch.from_numpy(rows.y)
    return ClassStatistics.from_batch(h, y, int(y.max()) + 1)


def as_classifier(weight, bias):
    return LinearClassifier(torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias))


def drawn_problem(seed, mode):
    """Rows, a classifier of any size, and penalties from 1e-4 to 1."""
    rng = np.random.default_rng(seed)
    rows = oracles.drawn(rng)
    lw, lb = 10.0 ** rng.uniform(-4, 0, 2)
    lw, lb, has_bias = MODES[mode](float(lw), float(lb))
    classes, d = rows.labels.shape[1], rows.h.shape[1]
    weight = rng.standard_normal((classes, d)) * rng.choice([0.01, 1.0])
    return rows, weight, rng.standard_normal(classes) if has_bias else None, lw, lb


@pytest.mark.parametrize("mode", MODES)
def test_the_parts_are_those_of_the_rows_and_add_up_to_the_loss(mode):
    first = 125 * list(MODES).index(mode)
    for seed in range(first, first + 125):
        rows, weight, bias, lw, lb = drawn_problem(seed, mode)
        given = as_statistics(rows), as_classifier(weight, bias), Penalties(lw, lb)
        found = [float(part(*given)) for part in PARTS]
        assert min(found) >= 0
        expected = oracles.parts(rows, weight, bias, lw, lb)
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-14)
        whole = oracles.loss(rows, weight, bias, lw, lb)
        assert math.fsum(found) == pytest.approx(whole, rel=1e-12)
        assert float(central_path.loss(*given)) == pytest.approx(whole, rel=1e-13)
        least = float(central_path.loss_least_squares(*given))
        assert least == pytest.approx(found[0] + found[1], rel=1e-14)


@pytest.mark.parametrize("mode", MODES)
def test_the_best_classifier_is_on_the_path(mode):
    for seed in range(50):
        rows, _, bias, lw, lb = drawn_problem(seed, mode)
        weight, bias = oracles.best(rows, lw, lb, bias is not None)
        statistics, penalties = as_statistics(rows), Penalties(lw, lb)
        found = central_path.least_squares(statistics, penalties, bias is not None)
        np.testing.assert_allclose(found.weight, weight, rtol=1e-9, atol=1e-10)
        assert (found.bias is None) == (bias is None)
        if bias is not None:
            np.testing.assert_allclose(found.bias, bias, rtol=1e-9, atol=1e-10)
        assert float(central_path.loss_perp(statistics, as_classifier(weight, bias), penalties)) < 1e-25
        # and nothing is less
        least = oracles.loss(rows, weight, bias, lw, lb)
        for size in (1e-3, 1.0):
            other = weight + size * np.random.default_rng(seed).standard_normal(weight.shape)
            assert oracles.loss(rows, other, bias, lw, lb) > least


def test_an_exact_etf():
    statistics, zero = collapsed(2 * etf(4, 6)), LinearClassifier(torch.zeros(4, 6), torch.zeros(4))
    penalties = Penalties(weight=0.05)
    found = central_path.least_squares(statistics, penalties, has_bias=True)
    torch.testing.assert_close(found.weight, 0.180722891566265 * statistics.means)
    assert found.bias.tolist() == pytest.approx([0.238095238095238] * 4, rel=1e-12)
    values = [float(part(statistics, zero, penalties)) for part in PARTS]
    assert values == pytest.approx([0.01873324, 0.00077336, 0.48049340], abs=5e-9)
    assert float(central_path.loss(statistics, zero, penalties)) == pytest.approx(0.5, rel=1e-14)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=15, deadline=None)
@for_all(st.integers(0, 10**6))
def test_a_rotation_of_the_features_with_the_classifier_changes_nothing(mode, seed):
    rows, weight, bias, lw, lb = drawn_problem(seed, mode)
    turn = rotation(rows.h.shape[1], seed).numpy()
    turned = oracles.Rows(rows.h @ turn, rows.y)
    for part in PARTS:
        plain = part(as_statistics(rows), as_classifier(weight, bias), Penalties(lw, lb))
        moved = part(as_statistics(turned), as_classifier(weight @ turn, bias), Penalties(lw, lb))
        assert float(moved) == pytest.approx(float(plain), rel=1e-9, abs=1e-12)


def test_a_free_bias_takes_any_offset():
    rows, weight, bias, lw, _ = drawn_problem(3, "free")
    away = oracles.Rows(rows.h + 1e4, rows.y)
    moved = as_classifier(weight, bias - weight.sum(1) * 1e4)
    for part in PARTS:
        plain = float(part(as_statistics(rows), as_classifier(weight, bias), Penalties(lw, 0.0)))
        assert float(part(as_statistics(away), moved, Penalties(lw, 0.0))) == pytest.approx(
            plain, rel=1e-7
        )
    held = Penalties(lw, 0.1)
    parts = [float(part(as_statistics(away), moved, held)) for part in PARTS]
    assert math.fsum(parts) == pytest.approx(oracles.loss(away, *as_arrays(moved), lw, 0.1), rel=1e-10)


def as_arrays(classifier):
    return classifier.weight.numpy(), classifier.bias.numpy()


def test_a_bias_is_penalized_like_the_weight_unless_it_is_stated_otherwise():
    given = problem("imbalanced")
    statistics = statistics_of(given)

    def bias_of(*penalties):
        return central_path.least_squares(statistics, Penalties(*penalties), has_bias=True).bias

    assert torch.equal(bias_of(0.1), bias_of(0.1, 0.1))
    assert not torch.allclose(bias_of(0.1), bias_of(0.1, 0.0))
    assert torch.equal(bias_of(), bias_of(0.0, 0.0))
    assert not torch.allclose(bias_of(None, 0.3), bias_of(None))
    assert central_path.least_squares(statistics, Penalties(0.1), has_bias=False).bias is None


def test_what_depends_on_the_features_alone_has_a_value_without_a_penalty():
    given = problem("imbalanced")
    statistics, classifier = statistics_of(given), given.classifier
    for part in OF_FEATURES:
        free = float(part(statistics, classifier, Penalties()))
        assert free == float(part(statistics, classifier, Penalties(weight=0.0)))
        assert free != float(part(statistics, classifier, Penalties(weight=0.01)))
    for part in (central_path.loss_perp, central_path.loss):
        for unstated in (Penalties(), Penalties(bias=0.1)):
            with pytest.raises(UndefinedMeasure, match="which is not stated; set `penalty`"):
                part(statistics, classifier, unstated)
        assert float(part(statistics, classifier, Penalties(weight=0.0))) > 0


@pytest.mark.parametrize("part", [*PARTS, central_path.loss])
def test_missing_covariances_unseen_classes_and_other_shapes(part):
    given, penalties = problem("random"), Penalties(weight=0.1)
    with pytest.raises(UndefinedMeasure, match=r"was not kept \(covariance='none'\); use 'pooled'"):
        part(statistics_of(given, covariance="none"), given.classifier, penalties)
    lacking = problem("missing classes")
    with pytest.raises(ValueError, match=r"got none of classes 1, 3, 4, 7, 8, 9\. Leave the unseen"):
        part(statistics_of(lacking), lacking.classifier, penalties)
    wrong = LinearClassifier(torch.zeros(10, 31))
    message = r"of the class means, \(10, 32\), but got \(10, 31\)\. Are the features the input"
    with pytest.raises(ValueError, match=message):
        part(statistics_of(given), wrong, penalties)


WITHOUT_PENALTY = [
    ([3, 2, 4], 20), ([1, 1, 1], 2), ([1, 1, 1, 1], 6), ([4, 5], 9), ([30, 9, 4], 5),
]  # fmt: skip


@pytest.mark.parametrize(("counts", "width"), WITHOUT_PENALTY)
@pytest.mark.parametrize("has_bias", [True, False])
def test_without_a_penalty_it_is_the_one_of_least_norm(counts, width, has_bias):
    given = gaussian_classes(counts, width, offset=1.0, dtype=torch.float64)
    rows = oracles.Rows(given.features.numpy(), given.target.numpy())
    weight, bias = oracles.best(rows, 0.0, 0.0, has_bias)
    found = central_path.least_squares(statistics_of(given), Penalties(), has_bias)
    np.testing.assert_allclose(found.weight, weight, rtol=1e-7, atol=1e-9)
    if has_bias:
        np.testing.assert_allclose(found.bias, bias, rtol=1e-7, atol=1e-9)
    classifier = as_classifier(weight, bias)
    parts = [float(p(statistics_of(given), classifier, Penalties(weight=0.0))) for p in PARTS]
    assert parts[:2] == pytest.approx(oracles.parts(rows, weight, bias, 0.0, 0.0)[:2], abs=1e-12)
    assert parts[2] < 1e-18


@pytest.mark.parametrize("width", [40, 300])
@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("spread", [0.5, 1e-4])
@pytest.mark.parametrize("has_bias", [True, False])
def test_rounding_to_float32_opens_no_direction(width, offset, spread, has_bias):
    """Units that are sums of ten others, of sizes from 1 to 1e-4, and some that do not vary at all."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(2000) % 5
    ten = torch.randn(5, 10, generator=generator, dtype=torch.float64)[target]
    ten = ten + spread * torch.randn(2000, 10, generator=generator, dtype=torch.float64)
    mixed = ten @ torch.randn(10, width, generator=generator, dtype=torch.float64)
    mixed = mixed * torch.logspace(0, -4, width, dtype=torch.float64) + offset
    exact = oracles.Rows(np.hstack([mixed.numpy(), np.zeros((2000, 2))]), target.numpy())
    weight, bias = oracles.best(exact, 0.0, 0.0, has_bias)
    expected = oracles.parts(exact, weight, bias, 0.0, 0.0)[:2]
    rounded = torch.from_numpy(exact.h).float()
    batch = ClassStatistics.from_batch(rounded, target, 5)
    classifier = as_classifier(weight, bias)
    found = [float(part(batch, classifier, Penalties())) for part in PARTS[:2]]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8 if spread < 0.1 else 0)
    there_are = 10 + (offset > 0 and not has_bias)
    opened = directions(batch, penalty=0.0, mean_share=0.0 if has_bias else 1.0).signals.shape[1]
    assert opened <= there_are
    # a spread of 1e-4 sinks in what rounding makes of units that are as small, far from the origin
    assert opened == there_are or (spread < 0.1 and offset > 0)


@pytest.mark.parametrize("nc1", [1e-2, 1e-6, 1e-10, 1e-13])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_near_collapse_the_small_parts_keep_their_digits(nc1, offset):
    rng = np.random.default_rng(0)
    means, y = rng.standard_normal((5, 12)) + offset, np.arange(200) % 5
    rows = oracles.Rows(means[y] + math.sqrt(nc1) * rng.standard_normal((200, 12)), y)
    values = np.linalg.svd(oracles.signal_to_noise(rows), compute_uv=False)[:4]
    # equal counts: L_LS = 1/(2K) sum 1/(1 + v^2), of which v^2/(1 + v^2) is the noise's
    shares = 1 / (1 + values**2)
    classifier = LinearClassifier(torch.zeros(5, 12), torch.zeros(5))
    nc1_part, least = (
        float(part(as_statistics(rows), classifier, Penalties()))
        for part in (central_path.loss_nc1, central_path.loss_least_squares)
    )
    weight, _ = oracles.best(rows, 0.0, 0.0, has_bias=True)
    found = central_path.least_squares(as_statistics(rows), Penalties(), has_bias=True).weight
    np.testing.assert_allclose(found, weight, rtol=0, atol=1e-6 * np.abs(weight).max())
    assert nc1_part == pytest.approx(np.sum(shares * (1 - shares)) / 10, rel=1e-4)
    assert least == pytest.approx(np.sum(shares) / 10, rel=1e-4)


@pytest.mark.parametrize("penalty", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("mode", ["the same", "free", "no bias"])
def test_a_small_penalty_is_no_rounding(mode, penalty):
    """Of fewer rows than features: in most directions it is all that holds the weight."""
    given = gaussian_classes([5, 2, 3], 40, offset=1.0, dtype=torch.float64)
    rows = oracles.Rows(given.features.numpy(), given.target.numpy())
    lw, lb, has_bias = MODES[mode](penalty, penalty)
    weight, bias = given.weight.double().numpy(), given.bias.double().numpy() if has_bias else None
    asked = statistics_of(given), as_classifier(weight, bias), Penalties(lw, lb)
    whole = oracles.loss(rows, weight, bias, lw, lb)
    assert math.fsum(float(part(*asked)) for part in PARTS) == pytest.approx(whole, rel=1e-12)
    best_weight, best_bias = oracles.best(rows, lw, lb, has_bias)
    least = oracles.loss(rows, best_weight, best_bias, lw, lb)
    assert float(central_path.loss_least_squares(*asked)) == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_penalty_below_rounding_is_none(has_bias):
    for seed in range(30):
        given = gaussian_classes([2, 2], 5, offset=1.0, dtype=torch.float64, seed=seed)
        statistics = statistics_of(given)
        tiny = central_path.least_squares(statistics, Penalties(1e-17), has_bias).weight
        none = central_path.least_squares(statistics, Penalties(), has_bias).weight
        torch.testing.assert_close(tiny, none, rtol=0, atol=1e-9)


def test_streamed_statistics_give_what_two_passes_give():
    for name in ("imbalanced", "far from the origin", "fewer rows than features", "tight"):
        given = problem(name)
        classifier = given.classifier
        for penalties in (Penalties(), Penalties(weight=0.01)):
            for part in OF_FEATURES:
                plain = float(part(statistics_of(given), classifier, penalties))
                found = float(part(streamed(given).statistics(), classifier, penalties))
                assert found == pytest.approx(plain, rel=1e-5, abs=1e-8), (name, penalties)


def test_it_is_computed_once_for_all_parts(monkeypatch):
    solved = []
    solve = central_path.least_squares_weight
    monkeypatch.setattr(
        central_path, "least_squares_weight", lambda *asked: solved.append(asked) or solve(*asked)
    )
    given = problem("imbalanced")
    statistics = statistics_of(given)
    for part in (*PARTS, central_path.loss_least_squares):
        part(statistics, given.classifier, Penalties(weight=0.1))
    assert len(solved) == 1
    central_path.loss_nc1(statistics, given.classifier, Penalties(weight=0.2))
    assert len(solved) == 2


def test_many_classes_are_taken_in_parts(monkeypatch):
    given = gaussian_classes([3] * 40, 5)
    statistics, penalties = statistics_of(given), Penalties(weight=0.1)
    whole = central_path.loss_nc23(statistics, given.classifier, penalties)
    monkeypatch.setattr(central_path, "_ERRORS", 40 * 7)
    in_parts = central_path.loss_nc23(statistics, given.classifier, penalties)
    torch.testing.assert_close(in_parts, whole)


# Penalties of the objective


@pytest.mark.parametrize("name", ["weight", "bias", "features"])
@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf])
def test_a_penalty_is_a_finite_number_that_is_not_negative(name, value):
    with pytest.raises(ValueError, match=f"Expected the penalty of the {name} to be a finite number"):
        Penalties(**{name: value})
    with pytest.raises(ValueError, match="Expected weight_decay to be a finite number"):
        objective_penalty(value, "cross_entropy")


def test_decays_become_penalties():
    assert [objective_penalty(0.01, loss, 10) for loss in LOSSES] == [0.05, 0.01, 0.01]
    with pytest.raises(ValueError, match=r"Expected loss to be one of \('mse_mean', .* but got 'mse'"):
        objective_penalty(0.01, "mse", 10)
    with pytest.raises(ValueError, match="Expected num_classes with loss='mse_mean', but got None"):
        objective_penalty(0.01, "mse_mean")


KINDS = {
    "SGD": lambda p, wd: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=wd),
    "SGD, maximize": lambda p, wd: optim.SGD(p, lr=0.1, weight_decay=wd, maximize=True),
    "Adam": lambda p, wd: optim.Adam(p, lr=0.1, weight_decay=wd),
    "NAdam": lambda p, wd: optim.NAdam(p, lr=0.1, weight_decay=wd),
    "RAdam": lambda p, wd: optim.RAdam(p, lr=0.1, weight_decay=wd),
    "Adamax": lambda p, wd: optim.Adamax(p, lr=0.1, weight_decay=wd),
    "RMSprop": lambda p, wd: optim.RMSprop(p, lr=0.1, weight_decay=wd),
    "Adagrad": lambda p, wd: optim.Adagrad(p, lr=0.1, weight_decay=wd),
    "Adadelta": lambda p, wd: optim.Adadelta(p, lr=0.1, weight_decay=wd),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_decay_of_the_optimizers_that_are_taken_is_a_part_of_the_gradient(kind):
    start, slope = torch.tensor([[1.0, -2.0], [3.0, 0.5]]), torch.tensor([[0.3, 0.1], [-0.2, 0.4]])
    ends = []
    for decay in (0.25, 0.0):
        weight = nn.Parameter(start.clone())
        optimizer = KINDS[kind]([weight], decay)
        for _ in range(3):
            sign = -1 if "maximize" in kind else 1
            weight.grad = slope if decay else slope + sign * 0.25 * weight.detach()
            optimizer.step()
        ends.append(weight.detach())
        found = penalties_of_weight_decay(optimizer, weight, loss="cross_entropy")
        assert found == Penalties(weight=decay)
    torch.testing.assert_close(*ends)
    assert not torch.allclose(ends[0], start)


def test_each_parameter_has_the_decay_of_its_group():
    head = nn.Linear(3, 4)
    groups = [{"params": [head.bias], "weight_decay": 0.0}, {"params": [head.weight]}]
    sgd = optim.SGD(groups, lr=0.1, weight_decay=0.5)
    found = penalties_of_weight_decay(sgd, head.weight, head.bias, loss="mse_mean", features=0.01)
    assert found == Penalties(weight=1.0, bias=0.0, features=0.02)
    wider = penalties_of_weight_decay(sgd, head.weight, loss="mse_mean", num_classes=8)
    assert wider == Penalties(weight=2.0)
    with pytest.raises(ValueError, match="Expected the weight among the parameters of the optimizer"):
        penalties_of_weight_decay(sgd, head.weight.detach(), loss="cross_entropy")
    with pytest.raises(ValueError, match="Expected the bias among the parameters of the optimizer"):
        penalties_of_weight_decay(sgd, head.weight, nn.Linear(3, 4).bias, loss="cross_entropy")
    single = nn.Linear(3, 1)
    with pytest.raises(ValueError, match=r"got a single row.*state twice its weight decay"):
        penalties_of_weight_decay(optim.SGD(single.parameters()), single.weight, loss="cross_entropy")


class Lion(optim.Optimizer):
    """Of another package, with a decay that may be anything."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1, "weight_decay": 0.1})


class WrappedSGD(optim.SGD):
    """What a wrapper changes is not known."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (optim.AdamW, "but that of AdamW is decoupled"),
        (lambda p: optim.Adam([{"params": p, "decoupled_weight_decay": True}]), "Adam is decoupled"),
        (optim.Rprop, "Expected an optimizer with weight decay, but Rprop has none"),
        (optim.LBFGS, "but LBFGS has none"),
        (optim.ASGD, "but got ASGD, whose weight decay may be no penalty"),
        (optim.Adafactor, "but got Adafactor"),
        (Lion, "SGD, Adam, NAdam, .*, but got Lion"),
        (WrappedSGD, r"but got WrappedSGD.*A wrapper\? Pass the optimizer inside"),
    ],
)
def test_a_decay_that_belongs_to_no_objective_is_refused(make, message):
    weight = nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=message):
        penalties_of_weight_decay(make([weight]), weight, loss="cross_entropy")


def zero_head(width, classes):
    """A classifier that starts at 0."""
    head = nn.Linear(width, classes, dtype=torch.float64)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head


LOSS_FUNCTIONS = {
    "mse_mean": lambda out, y: nn.functional.mse_loss(out, nn.functional.one_hot(y).to(out)),
    "mse_sum_half": lambda out, y: 0.5 * (out - nn.functional.one_hot(y)).square().sum() / len(out),
}


@pytest.mark.parametrize("loss", LOSS_FUNCTIONS)
@pytest.mark.parametrize("of_bias", [0.1, 0.0])
def test_a_trained_classifier_is_on_the_path_of_its_penalty_and_of_no_other(loss, of_bias):
    given = gaussian_classes([20, 9, 5], 4, dtype=torch.float64)
    head = zero_head(4, 3)
    groups = [{"params": [head.weight]}, {"params": [head.bias], "weight_decay": of_bias}]
    sgd = optim.SGD(groups, lr=0.3, momentum=0.9, weight_decay=0.1)
    for _ in range(400):
        sgd.zero_grad()
        LOSS_FUNCTIONS[loss](head(given.features), given.target).backward()
        sgd.step()
    statistics = statistics_of(given)
    classifier = LinearClassifier(head.weight, head.bias)
    right = penalties_of_weight_decay(sgd, head.weight, head.bias, loss=loss)
    assert float(central_path.loss_perp(statistics, classifier, right)) < 1e-18
    for factor in (0.1, 10):
        wrong = Penalties(right.weight * factor, right.bias * factor)
        assert float(central_path.loss_perp(statistics, classifier, wrong)) > 1e-4


def test_a_classifier_trained_by_cross_entropy_is_at_rest_with_its_penalty():
    given = gaussian_classes([20, 9, 5], 4, dtype=torch.float64)
    head = zero_head(4, 3)
    sgd = optim.SGD(head.parameters(), lr=0.3, momentum=0.9, weight_decay=0.1)
    for _ in range(600):
        sgd.zero_grad()
        nn.functional.cross_entropy(head(given.features), given.target).backward()
        sgd.step()
    penalties = penalties_of_weight_decay(sgd, head.weight, head.bias, loss="cross_entropy")
    objective = nn.functional.cross_entropy(head(given.features), given.target)
    for parameter, penalty in ((head.weight, penalties.weight), (head.bias, penalties.bias)):
        objective = objective + penalty / 2 * parameter.square().sum()
    slopes = torch.autograd.grad(objective, [head.weight, head.bias])
    assert all(float(slope.abs().max()) < 1e-9 for slope in slopes)
