"""The weight of a layer against the class means that it meets."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from support import depth_oracles as oracles
from support.ideal import collapsed
from support.problems import gaussian_classes, problem, rotation, statistics_of

from lightning_nc import ClassStatistics
from lightning_nc.functional import layer_weights
from lightning_nc.values import UndefinedMeasure


def weight_of(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("outputs", [3, 7, 16, 64, 400])
def test_the_weights_measures_are_those_of_the_reference(outputs):
    statistics, weight = statistics_of(problem("imbalanced")), weight_of((outputs, 16))
    w, means = weight.numpy(), statistics.means.numpy()
    centered, rank = means - means.mean(0), min(outputs, 6)
    for value, expected in [
        (layer_weights.stable_rank(weight), oracles.stable_rank(w)),
        (
            layer_weights.subspace_alignment_of(statistics, weight),
            oracles.subspace_alignment(w, means, rank),
        ),
        (
            layer_weights.subspace_alignment_centered_of(statistics, weight),
            oracles.subspace_alignment(w, centered, min(outputs, 5)),
        ),
        (
            layer_weights.weights_means_angle(statistics, weight),
            oracles.weights_means_angle(w, means),
        ),
    ]:
        assert value.dtype == torch.float64
        assert float(value) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("shape", [(40, 16), (9, 16)])
@pytest.mark.parametrize("condition", [1e2, 1e4, 1e5])
def test_directions_that_a_weight_hardly_passes_on_are_still_told(shape, condition):
    left, right = rotation(shape[0])[:, :9], rotation(16, seed=1)[:9]
    scales = torch.logspace(0, -math.log10(condition), 9, dtype=torch.float64)
    weight, means = left * scales @ right, weight_of((9, 16), seed=2)
    for rank in (3, 6, 9):
        value = layer_weights.subspace_alignment(weight, means[:rank], rank)
        expected = oracles.subspace_alignment(weight.numpy(), means[:rank].numpy(), rank)
        assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_tilt_by_30_degrees_of_one_of_two_directions():
    tilted = torch.tensor([[3.0, 0.0, 0.0], [0.0, math.sqrt(0.75), 0.5]], dtype=torch.float64)
    means = 4 * torch.eye(2, 3, dtype=torch.float64)
    value = layer_weights.subspace_alignment(tilted, means, rank=2)
    assert float(value) == pytest.approx(0.9330127, abs=1e-7)
    # the longer one of each alone
    first = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))
    assert float(layer_weights.subspace_alignment(tilted, first, rank=1)) == pytest.approx(1)
    assert float(layer_weights.subspace_alignment(tilted[:, [1, 2, 0]], first, rank=1)) < 1e-12


@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_values_where_a_layer_passes_on_the_class_means_alone(num_classes):
    means = 3 * rotation(12)[:num_classes]
    statistics = collapsed(means)
    weight = torch.cat([2 * means, torch.zeros(3, 12), means[:1]])
    assert float(layer_weights.subspace_alignment_of(statistics, weight)) == pytest.approx(1)
    assert float(layer_weights.weights_means_angle(statistics, weight)) < 1e-12
    assert float(layer_weights.stable_rank(means)) == pytest.approx(num_classes)
    through_centered = rotation(num_classes) @ (means - means.mean(0))
    for offset in (0.0, 50.0):
        value = layer_weights.subspace_alignment_centered_of(collapsed(means, offset), through_centered)
        assert float(value) == pytest.approx(1, rel=1e-9)


@settings(max_examples=40, deadline=None)
@for_all(st.integers(1, 9), st.integers(2, 6), st.integers(2, 8), st.integers(0, 10**6))
def test_rotations_scales_and_orders_change_nothing(outputs, num_classes, width, seed):
    weight, means = weight_of((outputs, width), seed), weight_of((num_classes, width), seed + 1)
    turn, order = rotation(width, seed), torch.randperm(num_classes, generator=torch.manual_seed(seed))
    statistics, moved = collapsed(means), collapsed(7 * (means @ turn)[order])
    for measure in (
        layer_weights.subspace_alignment_of,
        layer_weights.subspace_alignment_centered_of,
        layer_weights.weights_means_angle,
    ):
        value = float(measure(statistics, weight))
        assert float(measure(moved, 0.01 * weight @ turn)) == pytest.approx(value, rel=1e-6, abs=1e-6)
        assert 0 <= value <= (180 if measure is layer_weights.weights_means_angle else 1)
    plain = float(layer_weights.stable_rank(weight))
    assert 1 - 1e-12 <= plain <= min(outputs, width) + 1e-9
    assert float(layer_weights.stable_rank(5 * weight @ turn)) == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize(
    ("rank", "shape", "num_classes", "centered", "lowered"),
    [
        (10, (3, 8), 6, False, 3),
        (10, (9, 4), 6, False, 4),
        (10, (9, 8), 6, False, 6),
        (10, (9, 8), 6, True, 5),
        (2, (9, 8), 6, True, 2),
    ],
)
def test_the_rank_is_lowered_to_what_there_is(rank, shape, num_classes, centered, lowered):
    weight, means = weight_of(shape), weight_of((num_classes, shape[1]), seed=1)
    value = layer_weights.subspace_alignment(weight, means, rank, centered)
    compared = (means - means.mean(0) if centered else means).numpy()
    expected = oracles.subspace_alignment(weight.numpy(), compared, lowered)
    assert float(value) == pytest.approx(expected, rel=1e-9)
    assert value == layer_weights.subspace_alignment(weight, means, lowered, centered)


@pytest.mark.parametrize(("num_features", "rank"), [(96, 10), (2, 1), (5, 3), (16, 8), (300, 60)])
def test_chance_is_that_of_random_subspaces(num_features, rank):
    chance = layer_weights.subspace_chance(num_features, rank)
    draws = 4000 if rank < 5 else 300
    expected = oracles.subspace_chance(num_features, rank, draws, np.random.default_rng(1))
    assert chance == pytest.approx(expected, abs=0.015)


def test_chance_is_one_where_both_are_the_whole_space_without_a_draw(monkeypatch):
    monkeypatch.setattr(layer_weights, "_drawn_chance", lambda *_: pytest.fail("drawn"))
    assert layer_weights.subspace_chance(7, 7) == 1


def test_chance_is_far_from_zero_and_touches_no_global_state():
    assert layer_weights.subspace_chance(96, 10) == pytest.approx(0.27, abs=0.01)
    # the average |cosine| of an angle in the plane
    assert layer_weights.subspace_chance(2, 1) == pytest.approx(2 / math.pi, abs=0.013)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = layer_weights.subspace_chance(33, 4)
    layer_weights._drawn_chance.cache_clear()
    assert layer_weights.subspace_chance(33, 4) == first
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("num_features", "rank"), [(2, 1), (3, 2), (16, 8), (20, 10), (64, 20), (200, 1), (200, 150)]
)
def test_the_draws_are_enough_for_the_standard_error_that_is_promised(num_features, rank):
    rng = np.random.default_rng(0)
    drawn = [oracles.subspace_chance(num_features, rank, 1, rng) for _ in range(400)]
    assert np.std(drawn) / math.sqrt(18_000 / (num_features * rank)) < 0.005


def test_chance_is_asked_for_at_the_rank_that_is_compared():
    statistics = collapsed(weight_of((6, 20)))
    for weight, centered, rank in [
        (weight_of((9, 20)), False, 6),
        (weight_of((9, 20)), True, 5),
        (weight_of((3, 20)), False, 3),
        (weight_of((3, 20)), True, 3),
    ]:
        chance_of = (
            layer_weights.subspace_chance_centered_of if centered else layer_weights.subspace_chance_of
        )
        value = chance_of(statistics, weight)
        assert value.dtype == torch.float64
        assert float(value) == layer_weights.subspace_chance(20, rank)


def test_the_alignment_of_random_weights_is_chance():
    values = [
        float(layer_weights.subspace_alignment(weight_of((12, 40), i), weight_of((8, 40), 900 + i), 8))
        for i in range(60)
    ]
    assert np.mean(values) == pytest.approx(layer_weights.subspace_chance(40, 8), abs=0.015)


def test_angles_by_hand():
    statistics = collapsed(torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
    diagonal, opposite = torch.tensor([[1.0, 1.0]]), torch.tensor([[-1.0, -1.0]])
    assert float(layer_weights.weights_means_angle(statistics, diagonal)) == pytest.approx(45)
    assert float(layer_weights.weights_means_angle(statistics, opposite)) == pytest.approx(135)
    both = torch.tensor([[3.0, 0.0], [0.6, 0.8], [0.0, 0.0]])
    expected = math.degrees(math.atan2(0.6, 0.8)) / 4
    assert float(layer_weights.weights_means_angle(statistics, both)) == pytest.approx(expected)
    # a dead class has no direction, and so is never the closest
    dead = collapsed(torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, 0.0]]))
    assert float(layer_weights.weights_means_angle(dead, opposite)) == pytest.approx(135)


@pytest.mark.parametrize("angle", [1e-3, 1e-9, 1e-12])
def test_tiny_angles_keep_their_digits(angle):
    statistics = collapsed(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64))
    row = torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], dtype=torch.float64)
    value = layer_weights.weights_means_angle(statistics, row)
    assert float(value) == pytest.approx(math.degrees(angle), rel=1e-9, abs=1e-14)


def test_many_rows_are_compared_in_parts(monkeypatch):
    statistics, weight = statistics_of(problem("random")), weight_of((50, 32))
    expected = layer_weights.weights_means_angle(statistics, weight)
    monkeypatch.setattr(layer_weights, "_COSINES", 70)
    in_parts = layer_weights.weights_means_angle(statistics, weight)
    assert float(in_parts) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_of_few_digits_is_measured_in_float64_and_needs_no_gradient(dtype):
    statistics = statistics_of(problem("random"))
    weight = weight_of((20, 32), dtype=torch.float32).to(dtype)
    for measure in (
        layer_weights.subspace_alignment_of,
        layer_weights.weights_means_angle,
        lambda _, given: layer_weights.stable_rank(given),
    ):
        value = measure(statistics, weight.clone().requires_grad_())
        assert value.dtype == torch.float64
        assert not value.requires_grad
        assert value == measure(statistics, weight.double())


def test_zero_means_have_no_direction():
    zero = collapsed(torch.zeros(3, 4))
    assert layer_weights.subspace_alignment_of(zero, torch.ones(2, 4)).isnan()
    assert layer_weights.weights_means_angle(zero, torch.ones(2, 4)).isnan()
    equal = collapsed(torch.ones(3, 4))
    assert layer_weights.subspace_alignment_centered_of(equal, torch.ones(2, 4)).isnan()


READ_MEANS = [
    layer_weights.subspace_alignment_of,
    layer_weights.subspace_alignment_centered_of,
    layer_weights.weights_means_angle,
]
OF_BOTH = pytest.mark.parametrize(
    "measure",
    [*READ_MEANS, layer_weights.subspace_chance_of, layer_weights.subspace_chance_centered_of],
)


@OF_BOTH
def test_a_weight_that_does_not_fit_its_pooled_input_is_left_out_with_a_reason(measure):
    message = "takes another width than its pooled input: 128 columns for 32 features; use a pool that"
    with pytest.raises(UndefinedMeasure, match=message):
        measure(statistics_of(problem("random")), torch.ones(4, 128))


@OF_BOTH
@pytest.mark.parametrize("entry", [0.0, torch.nan])
def test_a_weight_of_nothing_is_nan_so_that_no_key_comes_later(measure, entry):
    weight = torch.full((4, 32), entry)
    assert measure(statistics_of(problem("random")), weight).isnan()
    assert layer_weights.stable_rank(weight).isnan()


@pytest.mark.parametrize("measure", READ_MEANS)
def test_unseen_classes_are_refused_by_name(measure):
    with pytest.raises(ValueError, match=r"got none of classes 1, 3, 4, 7, 8, 9\. Leave the unseen"):
        measure(statistics_of(problem("missing classes")), torch.ones(4, 16))


def test_a_single_class_has_no_centered_direction():
    single = ClassStatistics.from_batch(torch.ones(2, 4), torch.zeros(2).long(), 1)
    message = "but got rank = 0. A single centered mean is zero: are there two"
    with pytest.raises(ValueError, match=message):
        layer_weights.subspace_alignment_centered_of(single, torch.ones(2, 4))
    with pytest.raises(ValueError, match="rank = -1"):
        layer_weights.subspace_alignment(torch.ones(2, 4), torch.ones(3, 4), rank=-1)


@pytest.mark.parametrize("rank", [0, 9])
def test_chance_is_known_of_ranks_that_there_are(rank):
    message = f"a rank from 1 to the number of features, 8, but got {rank}. Is it the number of classes"
    with pytest.raises(ValueError, match=message):
        layer_weights.subspace_chance(8, rank)


@pytest.mark.parametrize("rows", ["binary", "simplex"])
def test_directions_that_a_weight_lacks_do_not_count(rows):
    # one row is read as two opposite ones, and the rows of a simplex add up to zero
    given = gaussian_classes([20, 30] if rows == "binary" else [20, 30, 25, 20], 12, offset=1.0)
    row = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
    weight = torch.cat([-row / 2, row / 2])
    if rows == "simplex":
        weight = (torch.eye(4) - 0.25) @ torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    found = []
    for seed in range(3):
        normal = torch.randn(12, 12, generator=torch.Generator().manual_seed(seed)).double()
        turn = torch.linalg.qr(normal).Q
        turned = replace(given, features=given.features.double() @ turn.T)
        statistics, seen = statistics_of(turned), weight.double() @ turn.T
        found.append(float(layer_weights.subspace_alignment_of(statistics, seen)))
    assert found == pytest.approx([found[0]] * 3, rel=1e-9)
    rank = len(weight) - 1
    means = oracles.class_means(turned.features.numpy(), turned.target.numpy())
    assert found[-1] == pytest.approx(oracles.subspace_alignment(seen.numpy(), means, rank), rel=1e-6)
    chance = layer_weights.subspace_chance_of(statistics, seen)
    assert chance == layer_weights.subspace_chance(12, rank)


def test_a_weight_that_has_changed_is_decomposed_anew():
    statistics, weight = statistics_of(problem("random")), torch.randn(20, 32)
    before = layer_weights.subspace_alignment_of(statistics, weight)
    weight.copy_(torch.randn(20, 32))
    after = layer_weights.subspace_alignment_of(statistics, weight)
    assert after == layer_weights.subspace_alignment_of(statistics, weight.clone())
    assert after != before
