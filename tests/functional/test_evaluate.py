"""Every formula: against the independent reference, at closed-form values, under its symmetries."""

import math

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from problems import NAMES, VCI, Problem, assert_measures, gaussian_classes, problem, rotation

from lightning_nc import ClassStatistics, LinearClassifier
from lightning_nc import functional as F
from lightning_nc.dotted_path import import_function
from lightning_nc.functional import (
    MEASURES,
    Evidence,
    count_decisions,
    evaluate,
    nearest_center,
    select,
)
from lightning_nc.values.statistics import FeatureSample, Frame, UndefinedMeasure


def statistics_of(given: Problem, covariance: str = "pooled") -> ClassStatistics:
    return ClassStatistics.from_batch(given.features, given.target, given.num_classes, covariance)


def decisions_of(given: Problem):
    rows = len(given.target)
    sample = FeatureSample(given.features, given.target, given.predicted, seen=rows)
    return count_decisions(
        sample,
        statistics_of(given),
        stands_for=torch.tensor(rows),
        predicted=torch.tensor(rows),
        correct=(given.predicted == given.target).sum(),
    )


def measured(given: Problem) -> dict[str, float]:
    evidence = Evidence.of(statistics_of(given), given.classifier, decisions_of(given))
    values, _ = evaluate(MEASURES.values(), evidence)
    return {key: float(value) for key, value in values.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_measure_equals_the_reference(name):
    assert_measures(measured(problem(name)), problem(name).reference)


def test_the_problems_cover_every_measure():
    assert set(MEASURES) == {key for name in NAMES for key in problem(name).reference}


@pytest.mark.parametrize("name", ["bottleneck", "bottleneck off the origin"])
def test_rounding_to_float32_opens_no_direction(name):
    assert measured(problem(name))["nc1/rank"] == 4


def test_means_of_condition_1000_keep_their_rank():
    scales = torch.logspace(0, -3, 9, dtype=torch.float64)
    means = (torch.cat([torch.diag(scales), torch.zeros(1, 9)]) @ rotation(9) + 1).float()
    statistics = ClassStatistics.from_batch(means, torch.arange(10), num_classes=10)
    assert F.rank(statistics) == 9


# ------------------------------------------------------------------------------- closed forms


def etf(num_classes: int, num_features: int) -> torch.Tensor:
    return torch.from_numpy(oracles.simplex_etf(num_classes, num_features, np.random.default_rng(1)))


def around(means: torch.Tensor, delta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows per class and axis: the mean plus and minus delta along every axis of a basis."""
    axes = rotation(means.shape[1], seed=5) * delta
    rows = means[:, None] + torch.cat([axes, -axes])
    return rows.flatten(0, 1), torch.arange(len(means)).repeat_interleave(2 * means.shape[1])


def collapsed(means: torch.Tensor, offset: float = 0.0) -> ClassStatistics:
    """Two equal rows for each class."""
    rows = (means + offset).repeat(2, 1)
    return ClassStatistics.from_batch(rows, torch.arange(len(means)).repeat(2), len(means))


OFFSETS = pytest.mark.parametrize("offset", [0.0, 100.0])


@OFFSETS
@pytest.mark.parametrize(
    ("width", "key", "expected"),
    [
        (5, "nc1/within_between_pinv", 0.0045),
        (5, "nc1/cdnv", 0.00375),
        (5, "nc1/within_between_ratio", 0.01),
        # q_c = 10 * 0.09, so 0.1 / (9 - 3/4 * 0.1 / 10)
        (5, "nc1/within_between_ratio_debiased", 0.1 / 8.9925),
        (5, "nc1/rank", 3),
        (6, VCI, 0.004975124),
    ],
)
def test_symmetric_noise_around_an_etf(width, key, expected, offset):
    h, y = around(3 * etf(4, width) + offset, delta=0.3)
    values, _ = evaluate(select([key]), Evidence.of(ClassStatistics.from_batch(h, y, num_classes=4)))
    assert float(values[key]) == pytest.approx(expected, rel=1e-7)


@OFFSETS
def test_an_etf_has_all_limit_values(offset):
    statistics = collapsed(3 * etf(4, 6), offset)
    classifier = LinearClassifier(5 * etf(4, 6), -5 * offset * etf(4, 6).sum(1))
    values, reasons = evaluate(MEASURES.values(), Evidence.of(statistics, classifier))
    assert not reasons
    for key, value in values.items():
        expected = MEASURES[key].value_at_collapse(num_classes=4)
        if expected is not None:
            assert float(value) == pytest.approx(expected, abs=1e-6), key


@OFFSETS
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aligned", 0),
        ("orthogonal", 2),
        ("opposite", 4),
        ("moved on cyclically", 2 + 2 / 3),
        ("two rows swapped", 4 / 3),
    ],
)
def test_self_duality_of_an_etf(name, expected, offset):
    means = torch.cat([etf(4, 3), torch.zeros(4, 3)], dim=1)
    weight = (
        7
        * {
            "aligned": means,
            "orthogonal": means.roll(3, dims=1),
            "opposite": -means,
            "moved on cyclically": means.roll(1, dims=0),
            "two rows swapped": means[[1, 0, 2, 3]],
        }[name]
    )
    value = F.self_duality(collapsed(means, offset), LinearClassifier(weight))
    assert float(value) == pytest.approx(expected, abs=1e-9)


@OFFSETS
@pytest.mark.parametrize(("sign", "expected"), [(1, 0), (-1, 2)])
def test_duality_etf_distance_of_an_etf(sign, expected, offset):
    means = etf(4, 5)
    value = F.duality_etf_distance(collapsed(means, offset), LinearClassifier(sign * means))
    assert float(value) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("num_classes", [2, 4, 10])
def test_etf_distance_of_an_orthogonal_frame(num_classes):
    frame = Frame(3 * rotation(num_classes))
    expected = math.sqrt(2 - 2 * math.sqrt((num_classes - 1) / num_classes))
    assert float(F.etf_distance(frame)) == pytest.approx(expected, rel=1e-12)
    if num_classes == 4:
        assert expected == pytest.approx(0.51763809, abs=1e-8)


@OFFSETS
def test_an_etf_with_one_longer_row(offset):
    ideal = etf(4, 5)
    means = torch.cat([1.5 * ideal[:1], ideal[1:]])
    statistics = collapsed(means, offset)
    norms = [1.375, 1.0483121, 1.0483121, 1.0483121]
    assert statistics.frame.norms.tolist() == pytest.approx(norms, abs=1e-7)
    cosines = [-0.4372107, -0.4372107, -0.4372107, -0.2132701, -0.2132701, -0.2132701]
    first, second = torch.triu_indices(4, 4, offset=1)
    assert statistics.frame.cosines[first, second].tolist() == pytest.approx(cosines, abs=1e-7)
    assert float(F.equinorm(statistics.frame)) == pytest.approx(0.1251876, abs=1e-7)
    assert float(F.equiangularity(statistics.frame)) == pytest.approx(0.1119703, abs=1e-7)
    assert float(F.max_angle(statistics.frame)) == pytest.approx(0.1119703, abs=1e-7)
    assert float(F.etf_distance(statistics.frame)) == pytest.approx(0.3118107, abs=1e-7)
    assert float(F.self_duality(statistics, LinearClassifier(ideal))) == pytest.approx(
        0.0242433, abs=1e-7
    )


@OFFSETS
def test_log_distances_of_an_etf_are_all_the_same(offset):
    frame = collapsed(2 * etf(4, 5), offset).frame
    log_inverse = -0.5 * (2 - 2 * frame.cosines[0, 1:]).log()
    assert log_inverse.tolist() == pytest.approx([-0.4904146] * 3, abs=1e-7)
    assert float(F.log_distance_variation(frame)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("num_classes", [3, 4, 7])
def test_log_distances_of_an_orthogonal_frame_are_all_the_same(num_classes):
    frame = Frame(5 * rotation(num_classes))
    assert float(F.log_distance_variation(frame)) == pytest.approx(0, abs=1e-9)
    log_inverse = -0.5 * (2 - 2 * frame.cosines[0, 1:]).log()
    assert log_inverse.tolist() == pytest.approx([-0.3465736] * (num_classes - 1), abs=1e-7)


def test_bias_collapse_by_hand():
    statistics = collapsed(torch.tensor([[2.0, 1.0], [0.0, 1.0], [4.0, 1.0]]))
    classifier = LinearClassifier(
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([1.0, 2.0, 0.0])
    )
    assert float(F.bias_collapse(statistics, classifier)) == 0  # (2, 1, 3) + (1, 2, 0) is constant
    assert float(F.bias_collapse(statistics, LinearClassifier(classifier.weight))) == pytest.approx(
        math.sqrt(2)
    )


def test_debiased_ratio_does_not_depend_on_the_number_of_rows():
    debiased, plain = [], []
    for rows in (5, 200):
        drawn = [gaussian_classes([rows] * 10, 32, spread=3.0, seed=seed) for seed in range(12)]
        statistics = [statistics_of(given) for given in drawn]
        debiased.append(np.mean([float(F.within_between_ratio_debiased(s)) for s in statistics]))
        plain.append(np.mean([float(F.within_between_ratio(s)) for s in statistics]))
    assert debiased[0] == pytest.approx(debiased[1], rel=0.1)
    assert plain[0] < 0.5 * plain[1]


# --------------------------------------------------------------------------------- symmetries


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


@pytest.mark.parametrize(
    ("key", "factor"),
    [
        ("nc1/within_between_pinv", 4),
        ("nc1/within_between_ratio", 4),
        ("nc1/within_between_ratio_debiased", None),
        ("nc1/cdnv", 4),
    ],
)
def test_nc1_grows_with_the_square_of_the_spread_inside_the_classes(key, factor):
    means = 3 * etf(4, 6)
    one, two = (
        float(MEASURES[key].function(ClassStatistics.from_batch(*around(means, delta), 4)))
        for delta in (0.1, 0.2)
    )
    assert two > 3.9 * one
    if factor is not None:
        assert two == pytest.approx(factor * one, rel=1e-9)


# ---------------------------------------------------------------------------------- many classes


def test_an_etf_of_many_classes_is_recognized_from_a_sample_of_its_pairs(monkeypatch):
    monkeypatch.setattr("lightning_nc.values.statistics.PAIRWISE_CLASSES", 20)
    means = etf(60, 64)
    statistics = ClassStatistics.from_batch(*around(means, 0.01), num_classes=60)
    assert len(statistics.frame.sampled) == 20
    for measure in (F.max_angle, F.etf_distance, F.equiangularity, F.log_distance_variation):
        assert float(measure(statistics.frame)) == pytest.approx(0, abs=1e-7)
    assert float(F.duality_etf_distance(statistics, LinearClassifier(means))) < 1e-7
    # v (K - 1) / (2 r^2 K), as over all pairs
    assert float(F.cdnv(statistics)) == pytest.approx(1e-4 * 59 / 120, rel=1e-9)


def test_the_sampled_pairs_are_always_the_same_and_estimate_all_pairs(monkeypatch):
    given = gaussian_classes([4] * 100, 32)
    everything = F.cdnv(statistics_of(given))
    monkeypatch.setattr("lightning_nc.values.statistics.PAIRWISE_CLASSES", 50)
    sampled = F.cdnv(statistics_of(given))
    assert sampled != everything
    assert float(sampled) == pytest.approx(float(everything), rel=0.05)
    assert sampled == F.cdnv(statistics_of(given))


# ------------------------------------------------------------------- what has no value, and why


def reason(given: Problem, key: str) -> str:
    values, reasons = evaluate(select([key]), Evidence.of(statistics_of(given), given.classifier))
    assert key not in values or math.isnan(values[key])
    return reasons[key]


@pytest.mark.parametrize(
    ("name", "keys", "why"),
    [
        (
            "two classes",
            ["nc2/means_equinorm", "nc2/means_max_angle", "nc2/means_equiangularity",
             "nc2/means_etf_distance", "nc2/means_log_distance_variation",
             "nc2/weights_equiangularity"],
            "needs at least 3 classes with samples, and there are 2",
        ),
        (
            "one class",
            ["nc1/within_between_pinv", "nc2/weights_equinorm", "nc3/self_duality"],
            "needs at least 2 classes with samples, and there are 1",
        ),
        (
            "a class with one sample",
            ["nc1/within_between_ratio_debiased"],
            "a class has a single sample, whose variance is not known",
        ),
    ],
)  # fmt: skip
def test_a_key_without_meaning_is_left_out_with_its_reason(name, keys, why):
    assert [reason(problem(name), key) for key in keys] == [why] * len(keys)


def test_means_closer_than_their_noise_have_no_debiased_ratio():
    rows = torch.tensor([[1.0], [-1.0], [1.1], [-1.0]])
    statistics = ClassStatistics.from_batch(rows, torch.tensor([0, 0, 1, 1]), num_classes=2)
    with pytest.raises(UndefinedMeasure, match="differ by no more than their sampling noise"):
        F.within_between_ratio_debiased(statistics)


@pytest.mark.parametrize("function", [F.within_between_pinv, F.variability_collapse_index])
def test_without_a_covariance_its_measures_say_so(function):
    statistics = statistics_of(problem("random"), covariance="none")
    with pytest.raises(UndefinedMeasure, match=r"was not kept \(covariance='none'\); use 'pooled'"):
        function(statistics)


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        (F.ncc_mismatch, "the network's decisions are not known"),
        (F.accuracy, "the network's decisions are not known"),
        (F.ncc_accuracy, "no row was sampled"),
    ],
)
def test_decisions_that_were_never_seen_have_no_share(function, missing):
    nothing = FeatureSample(torch.zeros(0, 32), torch.zeros(0, dtype=torch.long), None, seen=0)
    zero = torch.tensor(0)
    statistics = statistics_of(problem("random"))
    decisions = count_decisions(nothing, statistics, stands_for=zero, predicted=zero, correct=zero)
    with pytest.raises(UndefinedMeasure, match=missing):
        function(decisions)


@pytest.mark.parametrize(
    "key",
    [
        "nc1/within_between_pinv", "nc1/within_between_ratio", "nc1/cdnv",
        "nc2/means_log_distance_variation", "nc2/means_equinorm", "nc3/self_duality",
    ],
)  # fmt: skip
def test_means_that_all_coincide_give_nan_with_a_reason(key):
    rows = torch.tensor([[1.0, 2.0], [3.0, 2.0]]).repeat(4, 1)
    statistics = ClassStatistics.from_batch(rows, torch.arange(4).repeat_interleave(2), num_classes=4)
    classifier = LinearClassifier(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    values, reasons = evaluate(select([key]), Evidence.of(statistics, classifier))
    assert math.isnan(values[key])
    assert reasons[key].startswith("NaN: class means or classifier rows coincide")


@pytest.mark.parametrize(("num_classes", "width"), [(3, 8), (3, 512), (4, 64), (10, 512), (13, 33)])
@pytest.mark.parametrize("key", ["nc1/cdnv", "nc2/means_log_distance_variation"])
def test_two_means_that_coincide_give_nan(key, num_classes, width):
    generator = torch.Generator().manual_seed(1000 * num_classes + width)
    means = torch.randn(num_classes, width, generator=generator, dtype=torch.float64)
    means[1] = means[0]
    y = torch.arange(num_classes).repeat_interleave(2)
    h = means[y] + torch.tensor([0.25, -0.25]).repeat(num_classes)[:, None]
    statistics = ClassStatistics.from_batch(h, y, num_classes)
    assert torch.equal(statistics.means[0], statistics.means[1])
    values, _ = evaluate(select([key]), Evidence.of(statistics))
    assert math.isnan(values[key])


@pytest.mark.parametrize("num_classes", [3, 7, 10])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e3])
def test_a_network_that_puts_out_a_constant_is_not_taken_for_collapsed(num_classes, size):
    given = gaussian_classes([8] * num_classes, 12)
    constant = (size * given.features[:1]).expand(8 * num_classes, -1).clone()
    dead = Problem(constant, given.target, num_classes, given.weight, given.bias)
    # without any variance the index is 1 by its formula; the reference calls it undefined
    values, expected = measured(dead), dead.reference
    assert values.pop(VCI) == 1
    assert math.isnan(expected.pop(VCI))
    assert_measures(values, expected)
    assert sum(map(math.isnan, values.values())) == 11


# where it is not certain that all directions of the means count, eigenvalues tell
@pytest.mark.parametrize(("name", "classes"), [("cholesky_ex", "random"), ("eigh", "bottleneck")])
def test_a_decomposition_that_fails_gives_nan_with_a_reason(name, classes, monkeypatch):
    def fails(*args, **kwargs):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, name, fails)
    values, reasons = evaluate(
        select(["nc1/within_between_pinv", "nc1/cdnv"]), Evidence.of(statistics_of(problem(classes)))
    )
    assert math.isnan(values["nc1/within_between_pinv"])
    assert not math.isnan(values["nc1/cdnv"])
    assert reasons == {
        "nc1/within_between_pinv": "NaN, because it failed: _LinAlgError: did not converge"
    }


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("spread", [1.0, 1e-9, 0.0])
def test_the_nearest_center_is_the_one_of_float64_however_near_the_second(spread, offset):
    generator = torch.Generator().manual_seed(0)
    means = offset + torch.randn(5, 16, generator=generator, dtype=torch.float64)
    means[1] = means[0] + 1e-9
    pairs = torch.combinations(torch.arange(5))
    between = means[pairs].mean(1)  # as far from one as from the other
    noise = torch.randn(200, 10, 16, generator=generator, dtype=torch.float64)
    rows = (between + spread * noise).reshape(-1, 16)
    statistics = ClassStatistics.from_batch(means, torch.arange(5), 5)
    distances = ((rows[:, None] - means) ** 2).sum(2)
    chosen = F.nearest_class_center(rows, statistics)
    lost = distances.gather(1, chosen[:, None])[:, 0] - distances.min(1).values
    assert float(lost.max()) <= 1e-9 * (1 + offset)
    # float32 alone would be seen: it cannot tell the first two apart
    told = ((rows[:, None].float() - means.float()) ** 2).sum(2).argmin(1)
    assert spread == 1.0 or bool((told != chosen).any())


SHAPES = pytest.mark.parametrize("shape", [(6, 20), (20, 6), (6, 6), (2, 9), (9, 1)])


def conditioned(shape, condition, offset=0.0):
    """Statistics of one row per class, whose features differ by this factor in their spread."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -math.log10(condition), shape[1], dtype=torch.float64)
    means = offset + torch.randn(shape, generator=generator, dtype=torch.float64) * scales
    return ClassStatistics.from_batch(means, torch.arange(shape[0]), shape[0])


@SHAPES
@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e3, 1e4, 1e6, 1e12])
def test_rank_and_whitening_are_those_of_a_decomposition_of_the_means(shape, condition, offset):
    statistics = conditioned(shape, condition, offset)
    means = statistics.means.numpy()
    _, values, vectors = np.linalg.svd(means - means.mean(0), full_matrices=False)
    counted = values > np.finfo(np.float32).eps * np.linalg.norm(means)
    whitened = vectors[counted] / values[counted, None]
    expected = whitened.T @ whitened
    whitening = F.between_class_whitening(statistics)
    assert int(F.rank(statistics)) == counted.sum()
    got = (whitening.T @ whitening).numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_cholesky_factor_takes_the_place_of_a_decomposition_just_where_all_directions_count():
    certain = {
        condition: conditioned((6, 6), condition).centered_means_cholesky is not None
        for condition in (1.0, 1e2, 1e7, 1e12)
    }
    assert certain == {1.0: True, 1e2: True, 1e7: False, 1e12: False}
    narrow = conditioned((20, 6), 10.0)
    assert narrow.centered_means_cholesky.shape == (6, 6)
    coinciding = ClassStatistics.from_batch(torch.ones(3, 4), torch.arange(3), 3)
    assert coinciding.centered_means_cholesky is None
    assert conditioned((6, 20), 1.0, offset=1e8).centered_means_cholesky is None
    assert conditioned((1, 20), 1.0).centered_means_cholesky is None


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_float32_statistics_from_a_device_without_float64_are_measured_on_a_cpu(shape):
    exact = conditioned(shape, 10.0)
    tensors = {name: t for name, t in exact._tensors() if t is not None}
    scatter = torch.eye(shape[1])
    short = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    statistics = ClassStatistics(**(short | {"scatter": scatter}))
    expected = ClassStatistics(**(tensors | {"scatter": scatter.double()}))
    for measure in select(["nc1/within_between_pinv", "nc1/rank", VCI, "nc1/cdnv"]):
        value, reference = measure.function(statistics), measure.function(expected)
        assert float(value) == pytest.approx(float(reference), rel=1e-4, abs=1e-6)
    found, directions = F.between_class_directions(statistics)
    torch.testing.assert_close(found, F.between_class_directions(expected)[0], rtol=1e-5, atol=1e-5)
    assert len(directions) == len(found) == int(F.rank(statistics))


def test_noise_of_float32_sums_counts_as_no_direction(monkeypatch):
    monkeypatch.setattr(
        "lightning_nc.values.statistics.accumulator_dtype", lambda device: torch.float32
    )
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        means = torch.randn(10, 5, generator=generator) @ torch.randn(5, 64, generator=generator)
        statistics = ClassStatistics(torch.ones(10).long(), means, torch.eye(64), torch.zeros(10))
        assert int(F.rank(statistics)) == 5
        assert statistics.centered_means_cholesky is None


@SHAPES
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6, 1e12])
def test_directions_are_those_of_a_decomposition_of_the_means_themselves(shape, condition):
    statistics = conditioned(shape, condition)
    means = statistics.means
    values, vectors = statistics.centered_means_svd
    expected = np.linalg.svd((means - means.mean(0)).numpy())[1]
    kept = min(len(values), len(expected))
    scale = expected[0]
    np.testing.assert_allclose(values[:kept], expected[:kept], rtol=1e-7, atol=1e-12 * scale)
    assert (expected[kept:] <= 1e-12 * scale).all()
    large = values > 1e-10 * scale
    torch.testing.assert_close(vectors[large] @ vectors[large].T, torch.eye(int(large.sum())).double())


# ------------------------------------------------------------------------------------ what is needed


def test_without_classifier_and_decisions_their_keys_are_left_out_silently():
    given = problem("random")
    values, reasons = evaluate(MEASURES.values(), Evidence.of(statistics_of(given)))
    assert not reasons
    reference = oracles.reference_measures(given.features.numpy(), given.target.numpy(), 10)
    del reference["nc4/ncc_accuracy"]
    assert_measures(values, reference)


UNSEEN = "got none of classes 1, 3, 4, 7, 8, 9. Leave the unseen classes out with"


@pytest.mark.parametrize(
    "function",
    [
        F.within_between_pinv, F.within_between_ratio, F.within_between_ratio_debiased, F.cdnv, F.rank,
        F.variability_collapse_index,
    ],
)  # fmt: skip
def test_unseen_classes_are_refused_by_name(function):
    with pytest.raises(ValueError, match=UNSEEN):
        function(statistics_of(problem("missing classes")))


@pytest.mark.parametrize(
    "function", [F.self_duality, F.duality_etf_distance, F.uniform_duality, F.bias_collapse]
)
def test_duality_refuses_unseen_classes_and_other_shapes(function):
    with pytest.raises(ValueError, match=UNSEEN):
        function(statistics_of(problem("missing classes")), problem("missing classes").classifier)
    narrow = LinearClassifier(torch.ones(10, 31))
    with pytest.raises(ValueError, match=r"shape of the class means, \(10, 32\), but got \(10, 31\)"):
        function(statistics_of(problem("random")), narrow)


def test_evidence_refuses_a_classifier_of_other_classes():
    with pytest.raises(ValueError, match="Expected a classifier with num_classes = 10 rows, but got 3"):
        Evidence.of(statistics_of(problem("random")), LinearClassifier(torch.ones(3, 32)))


def test_evidence_leaves_out_the_unseen_classes_and_their_rows():
    given = problem("missing classes")
    evidence = Evidence.of(statistics_of(given), given.classifier)
    assert evidence.statistics.counts.tolist() == [50, 30, 40, 20]
    assert torch.equal(evidence.classifier.weight, given.weight[[0, 2, 5, 6]])
    assert torch.equal(evidence.classifier.bias, given.bias[[0, 2, 5, 6]])


# ----------------------------------------------------------------------------------- nearest center


def test_the_nearest_class_center_equals_the_reference_far_from_the_origin():
    given = gaussian_classes([40] * 10, 32, spread=2.0, offset=1000.0)
    h, y = given.features, given.target
    counts, means, _, _ = oracles.two_pass_statistics(h.numpy(), y.numpy(), 10)
    expected = oracles.nearest_class_center(h.double().numpy(), means, np.flatnonzero(counts))
    assert F.nearest_class_center(h.double(), statistics_of(given)).tolist() == expected.tolist()


def test_a_tie_goes_to_the_first_class_and_an_unseen_class_is_never_chosen():
    rows = torch.tensor([[-1.0], [1.0]])
    statistics = ClassStatistics.from_batch(rows, torch.tensor([1, 3]), num_classes=4)
    tie = torch.zeros(2, 1, dtype=torch.float64)
    assert F.nearest_class_center(tie, statistics).tolist() == [1, 1]


@settings(max_examples=60, deadline=None)
@for_all(
    st.integers(2, 12),
    st.integers(1, 8),
    st.sampled_from([0.0, 1e-7, 1e-3, 0.3, 3.0]),
    st.sampled_from([0.0, 1000.0]),
    st.integers(0, 10**6),
)
def test_a_guess_changes_nothing_but_the_time(num_classes, width, spread, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    means = offset + torch.randn(num_classes, width, generator=generator)
    means[-1] = means[0] + spread * torch.randn(width, generator=generator)
    label = torch.randint(num_classes, (60,), generator=generator)
    h = means[label] + spread * torch.randn(60, width, generator=generator)
    h[:10] = (means[0] + means[label[:10]]) / 2  # as far from one as from the other
    statistics = ClassStatistics.from_batch(means, torch.arange(num_classes), num_classes)
    anything = torch.randint(num_classes, (60,), generator=generator)
    squares = (h.double()[:, None] - means.double()).square().sum(2)
    for guess in (None, label, anything):
        chosen = F.nearest_class_center(h, statistics, guess)
        excess = squares.gather(1, chosen[:, None])[:, 0] - squares.min(1).values
        assert float(excess.max()) <= 1e-11  # what float64 makes of products of the means


def test_a_guess_is_not_trusted_within_the_rounding_of_float32():
    means = torch.zeros(3, 4, dtype=torch.float64)
    means[1], means[2] = 1e-3, 777.777  # far away, so that the other two are coarse in float32
    share = torch.linspace(0.45, 0.55, 401, dtype=torch.float64)
    rows = share[:, None] * means[1]
    statistics = ClassStatistics.from_batch(means, torch.arange(3), 3)
    for guess in (0, 1):
        chosen = F.nearest_class_center(rows, statistics, torch.full((401,), guess))
        clear = (share - 0.5).abs() > 1e-6
        assert torch.equal(chosen[clear], (share > 0.5).long()[clear])


@pytest.mark.parametrize("scale", [1e-30, 1e-23, 1.0, 1e12, 1e19])
@pytest.mark.parametrize(
    ("offset", "dtype"), [(0.0, torch.float32), (0.0, torch.float64), (1e12 + 28e3, torch.float64)]
)
def test_the_nearest_center_is_found_at_any_scale_and_offset(scale, offset, dtype):
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(10, 6, generator=generator, dtype=torch.float64)
    pairs = torch.combinations(torch.arange(10))
    share = torch.linspace(0.49, 0.51, 40, dtype=torch.float64)[:, None, None]
    rows = (share * means[pairs[:, 0]] + (1 - share) * means[pairs[:, 1]]).reshape(-1, 6)
    rows, means = (((offset + t) * scale).to(dtype) for t in (rows, means))
    statistics = ClassStatistics.from_batch(means, torch.arange(10), 10)
    distances = (rows.double()[:, None] - means.double()).norm(dim=2)
    for guess in (None, pairs[:, 0].repeat(40), pairs[:, 1].repeat(40)):
        chosen = F.nearest_class_center(rows, statistics, guess)
        lost = distances.gather(1, chosen[:, None])[:, 0] / distances.min(1).values
        assert float(lost.max()) < 1 + (5e-4 if offset else 1e-6)


def test_no_rows_rows_with_a_gradient_and_guesses_without_samples_are_taken():
    statistics = ClassStatistics.from_batch(torch.eye(3)[1:], torch.tensor([1, 2]), 3)
    assert F.nearest_class_center(torch.zeros(0, 3), statistics).shape == (0,)
    rows = torch.eye(3, requires_grad=True)
    unseen = torch.tensor([0, 0, 0])
    assert F.nearest_class_center(rows, statistics).tolist()[1:] == [1, 2]
    assert F.nearest_class_center(rows, statistics, unseen).tolist()[1:] == [1, 2]


def test_a_good_guess_spares_the_distances_to_all_other_centers(monkeypatch):
    asked = []
    by_products = nearest_center._Float32Centers._by_products
    monkeypatch.setattr(
        nearest_center._Float32Centers, "_by_products",
        lambda self, rows, h: asked.append(len(rows)) or by_products(self, rows, h),
    )  # fmt: skip
    given = gaussian_classes([20, 0, 20, 20], 16, spread=1e-3)
    h, y, statistics = given.features, given.target, statistics_of(given)
    assert torch.equal(F.nearest_class_center(h, statistics, y), y)
    assert sum(asked) == 0
    assert torch.equal(F.nearest_class_center(h, statistics), y)
    assert sum(asked) == len(y)


def test_centers_are_found_in_blocks(monkeypatch):
    given = problem("random")
    whole = F.nearest_class_center(given.features.double(), statistics_of(given))
    monkeypatch.setattr("lightning_nc.functional.nearest_center._BLOCK_ENTRIES", 70)
    blocks = F.nearest_class_center(given.features.double(), statistics_of(given))
    assert torch.equal(whole, blocks)


def test_rows_without_a_known_decision_count_for_the_center_alone():
    given = problem("random")
    predicted = given.predicted.clone()
    predicted[:100] = -1
    h, y = given.features, given.target
    statistics = statistics_of(given)
    decisions = count_decisions(
        FeatureSample(h, y, predicted, seen=len(y)),
        statistics,
        stands_for=torch.tensor(len(y)),
        predicted=torch.tensor(500),
        correct=torch.tensor(77),
    )
    center = F.nearest_class_center(h.double(), statistics)
    wrong = (center != predicted)[100:].double().mean()
    assert float(F.ncc_mismatch(decisions)) == pytest.approx(float(wrong))
    assert float(F.ncc_accuracy(decisions)) == pytest.approx(float((center == y).double().mean()))
    assert float(F.accuracy(decisions)) == 77 / 500


# ------------------------------------------------------------------------------------ the table


def test_the_table_names_each_key_once_with_a_summary():
    assert all(key == measure.key for key, measure in MEASURES.items())
    assert all(measure.summary for measure in MEASURES.values())
    assert [key for key, m in MEASURES.items() if not m.default] == [VCI]


@pytest.mark.parametrize(
    ("key", "expected"),
    [("nc1/rank", 6.0), ("nc1/cdnv", 0.0), ("nc0/accuracy", None), ("nc4/ncc_accuracy", None)],
)
def test_the_value_at_collapse_is_a_number_or_none(key, expected):
    assert MEASURES[key].value_at_collapse(num_classes=7) == expected


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["nc4/*", "nc1/cdnv"], ["nc1/cdnv", "nc4/ncc_mismatch", "nc4/ncc_accuracy"]),
        (["nc1/cdnv", "nc1/c*"], ["nc1/cdnv"]),
        (["default"], [key for key, m in MEASURES.items() if m.default]),
        (["*"], list(MEASURES)),
        ("nc4/*", ["nc4/ncc_mismatch", "nc4/ncc_accuracy"]),
    ],
)
def test_measures_are_selected_by_key_and_glob_in_the_order_of_the_table(names, keys):
    assert [measure.key for measure in select(names)] == keys


def half_trace(statistics):
    """Half of the trace.

    More text.
    """
    return statistics.within_trace / 2


def refused(statistics, epoch):
    """Asks for what is not there."""
    return statistics.within_trace * epoch


not_a_function = 3


def test_a_function_of_ones_own_is_logged_under_custom():
    measure = select(["nc1/cdnv", "test_functional.half_trace"])[-1]
    assert (measure.key, measure.summary, measure.default) == (
        "custom/half_trace",
        "Half of the trace.",
        False,
    )
    statistics = statistics_of(problem("random"))
    values, _ = evaluate([measure], Evidence.of(statistics))
    assert values["custom/half_trace"] == statistics.within_trace / 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nc1/cdvn", r"but got 'nc1/cdvn'. Did you mean 'nc1/cdnv'"),
        ("defaults", r"Did you mean 'default'"),
        ("nc2/means_equinrom", r"Did you mean 'nc2/means_equinorm' or "),
        ("xyzzy", r"functions by dotted path, but got 'xyzzy'. $"),
        ("nc7/*", r"Expected measures to name logged keys, globs of them, 'default' or functions"),
        ("no_such_module.f", r"Expected measures to name a function that can be imported, but got "
                             r"'no_such_module.f': No module named"),
        ("math.no_such", r"module 'math' has no attribute 'no_such'. Is its module on the Python path"),
        ("test_functional.not_a_function", r"'test_functional.not_a_function' is a int"),
        ("test_functional.refused", r"Expected the parameters of test_functional.refused to be among "
                                    r".*but got \('statistics', 'epoch'\)"),
    ],
)  # fmt: skip
def test_an_unknown_measure_is_refused_with_near_names(name, message):
    with pytest.raises(ValueError, match=message):
        select([name])


@pytest.mark.parametrize("path", ["sqrt", "", ".math.sqrt", "math."])
def test_a_path_that_names_no_function_is_refused(path):
    with pytest.raises(ValueError, match="Expected pool to name a function that can be imported"):
        import_function(path, "pool")
