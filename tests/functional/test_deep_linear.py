"""A head of several linear layers, without and with a bias on the last."""

import math

import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from support import depth_oracles as oracles
from support.ideal import collapsed, etf
from support.problems import as_numpy, gaussian_classes, problem, rotation, statistics_of

from lightning_nc import ClassStatistics, LinearClassifier
from lightning_nc import functional as F
from lightning_nc.functional import deep_linear

BIASES = pytest.mark.parametrize("with_bias", [False, True])


def product_of(rows, columns, with_bias, seed=0):
    """A product of weights of that shape, with the head's bias."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return LinearClassifier(weight, torch.ones(rows, dtype=torch.float64) if with_bias else None)


def distances(statistics, product):
    """All three."""
    return [
        float(deep_linear.weights_frame_distance(product)),
        float(deep_linear.means_frame_distance(statistics, product)),
        float(deep_linear.duality_frame_distance(statistics, product)),
    ]


@BIASES
@pytest.mark.parametrize(
    "name", ["random", "far from the origin", "imbalanced", "two classes", "more classes than features"]
)
def test_the_distances_are_those_of_the_reference(name, with_bias):
    given = problem(name)
    product = product_of(given.num_classes, given.num_features, with_bias)
    weight, means = product.weight.numpy(), oracles.class_means(*as_numpy(given))
    if with_bias:
        means = means - means.mean(0)
    pairs = [(weight, weight), (means, means), (weight, means)]
    expected = [oracles.frame_distance(*pair, simplex=with_bias) for pair in pairs]
    assert distances(statistics_of(given), product) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("num_classes", [2, 4, 10])
def test_the_frames_of_both_kinds_of_head(num_classes):
    orthogonal, simplex = 3 * rotation(12)[:num_classes], 2 * etf(num_classes, 12)
    bias = torch.zeros(num_classes, dtype=torch.float64)
    apart = math.sqrt(2 - 2 * math.sqrt((num_classes - 1) / num_classes))
    means = collapsed(orthogonal)
    assert distances(means, LinearClassifier(orthogonal)) == pytest.approx([0] * 3, abs=1e-7)
    # orthogonal means are a simplex once they are centered; the rows of the product are not centered
    expected = [apart, 0, 0]
    assert distances(means, LinearClassifier(orthogonal, bias)) == pytest.approx(expected, abs=1e-7)
    for offset in (0.0, 100.0):
        found = distances(collapsed(simplex, offset), LinearClassifier(simplex, bias))
        assert found == pytest.approx([0] * 3, abs=1e-7)
    found = distances(collapsed(simplex), LinearClassifier(simplex))
    assert found == pytest.approx([apart] * 3, abs=1e-7)


@BIASES
def test_a_product_that_is_the_opposite_of_the_means_is_two_away(with_bias):
    means = etf(4, 6) if with_bias else rotation(6)[:4]
    product = LinearClassifier(-means, torch.zeros(4).double() if with_bias else None)
    found = distances(collapsed(means), product)
    assert found == pytest.approx([0, 0, 2], abs=1e-7)


@BIASES
@pytest.mark.parametrize(("num_classes", "width"), [(6, 3), (10, 4), (10, 8), (40, 7)])
def test_with_too_many_classes_the_frame_is_out_of_reach(num_classes, width, with_bias):
    target = torch.eye(num_classes, dtype=torch.float64) - with_bias / num_classes
    values, vectors = torch.linalg.eigh(target)
    nearest = vectors[:, -width:] * values[-width:].sqrt()
    bias = torch.zeros(num_classes, dtype=torch.float64) if with_bias else None
    least = math.sqrt(2 - 2 * math.sqrt(width / (num_classes - with_bias)))
    found = distances(collapsed(nearest), LinearClassifier(nearest, bias))
    assert found == pytest.approx([least] * 3, abs=1e-7)
    for seed in range(20):
        product = product_of(num_classes, width, with_bias, seed)
        means = product_of(num_classes, width, with_bias, seed + 50).weight
        assert min(distances(collapsed(means), product)) >= least - 1e-9
    # no step from there leads nearer
    step = nearest.clone().requires_grad_()
    gram = step @ step.T
    (gram / gram.norm() - target / target.norm()).norm().backward()
    assert float(step.grad.norm()) < 1e-6


@settings(max_examples=40, deadline=None)
@for_all(st.integers(2, 8), st.integers(2, 8), st.booleans(), st.integers(0, 10**6))
def test_the_distances_follow_their_laws(num_classes, width, with_bias, seed):
    given = gaussian_classes([3] * num_classes, width, dtype=torch.float64, seed=seed)
    product, turn = product_of(num_classes, width, with_bias, seed), rotation(width, seed)
    order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(seed))
    shift = 10 if with_bias else 0
    moved = ClassStatistics.from_batch(
        5 * given.features @ turn + shift, order.argsort()[given.target], num_classes
    )
    turned = LinearClassifier(0.1 * (product.weight @ turn)[order], product.bias)
    plain = distances(statistics_of(given), product)
    assert distances(moved, turned) == pytest.approx(plain, rel=1e-7, abs=1e-7)
    assert all(0 <= value <= math.sqrt(2) for value in plain[:2])
    assert 0 <= plain[2] <= 2


def test_without_a_bias_the_logits_of_the_means_are_the_same_at_every_layer():
    shapes = [(7, 9), (6, 7), (4, 6)]
    weights = [product_of(*shape, False, seed).weight for seed, shape in enumerate(shapes)]
    given = gaussian_classes([5] * 4, 9, dtype=torch.float64)
    h, found = given.features, []
    for weight, product in zip(weights, deep_linear.partial_products(weights), strict=True):
        statistics = ClassStatistics.from_batch(h, given.target, 4)
        value = deep_linear.duality_frame_distance(statistics, LinearClassifier(product))
        found.append(float(value))
        h = h @ weight.T
    assert found == pytest.approx([found[0]] * 3, rel=1e-9)


def test_products_are_of_all_that_comes_after():
    shapes = [(7, 9), (6, 7), (4, 6)]
    one, two, three = (product_of(*shape, False, seed).weight for seed, shape in enumerate(shapes))
    found = deep_linear.partial_products([one, two, three])
    for product, expected in zip(found, [three @ two @ one, three @ two, three], strict=True):
        torch.testing.assert_close(product, expected)
    (alone,) = deep_linear.partial_products([three.float().requires_grad_()])
    assert alone.dtype == torch.float64
    assert not alone.requires_grad


@pytest.mark.parametrize("shapes", [[], [(4, 6), (6, 7)], [(7, 9), (4, 6)]])
def test_weights_that_do_not_chain_are_refused(shapes):
    message = r"each takes as many features as the one before puts out, but got the shapes \[.*Are they"
    with pytest.raises(ValueError, match=message):
        deep_linear.partial_products([torch.ones(shape) for shape in shapes])


def test_the_ratio_is_that_of_the_core_and_bears_a_dead_class():
    statistics = statistics_of(problem("imbalanced"))
    product = product_of(6, 16, with_bias=False)
    value = deep_linear.within_between_ratio(statistics, product)
    assert value == F.within_between_ratio(statistics)
    # of three classes the last one died, in the middle between the others
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1e-4]], dtype=torch.float64)
    noise = 0.05 * torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(3).repeat(20)
    dead = ClassStatistics.from_batch(means[labels] + noise - noise.mean(0), labels, 3)
    ratio = deep_linear.within_between_ratio(dead, product_of(3, 2, with_bias=False))
    assert float(ratio) < 0.01
    assert float(F.within_between_pinv(dead)) > 1


@BIASES
def test_what_is_zero_is_nan(with_bias):
    bias = torch.zeros(3) if with_bias else None
    zero, some = LinearClassifier(torch.zeros(3, 4), bias), LinearClassifier(torch.ones(3, 4), bias)
    statistics = collapsed(torch.zeros(3, 4))
    assert deep_linear.weights_frame_distance(zero).isnan()
    assert deep_linear.means_frame_distance(statistics, some).isnan()
    assert deep_linear.duality_frame_distance(statistics, some).isnan()
    assert deep_linear.duality_frame_distance(collapsed(torch.eye(3, 4)), zero).isnan()


@BIASES
def test_many_classes_are_recognized_from_a_sample_of_their_pairs(with_bias, monkeypatch):
    monkeypatch.setattr("lightning_nc.values.frame.PAIRWISE_CLASSES", 20)
    means = etf(60, 64) if with_bias else rotation(64)[:60]
    bias = torch.zeros(60, dtype=torch.float64) if with_bias else None
    product = LinearClassifier(means, bias)
    assert len(product.frame.gram) == 20
    assert distances(collapsed(means), product) == pytest.approx([0] * 3, abs=1e-7)


@pytest.mark.parametrize(
    "function", [deep_linear.means_frame_distance, deep_linear.duality_frame_distance]
)
def test_unseen_classes_and_other_shapes_are_refused(function):
    with pytest.raises(ValueError, match=r"got none of classes 1, 3, 4, 7, 8, 9\. Leave the unseen"):
        function(statistics_of(problem("missing classes")), product_of(10, 16, False))
    message = r"the layer's input, \(10, 32\), but got \(10, 31\)\. Are the features measured at the"
    with pytest.raises(ValueError, match=message):
        function(statistics_of(problem("random")), product_of(10, 31, False))
