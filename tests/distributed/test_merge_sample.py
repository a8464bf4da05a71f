"""NC4 from samples that are smaller than the shards: each counts as many rows as it stands for."""

import numpy as np
import pytest
import torch
from support.oracles import nearest_class_center, two_pass_statistics
from support.ranks import NUM_CLASSES, Rows, accumulated, assert_identical, draw

pytestmark = pytest.mark.ddp


def sampled(rank, shards, seeds, sample_rows):
    """NC4 and this rank's sample, for every seed."""
    results = []
    for seed in seeds:
        settings = {"measures": ["nc4/*"], "sample_rows": sample_rows, "seed": seed}
        metric = accumulated(shards[rank], **settings)
        values = metric.compute()
        sample = metric.sample()
        results.append((values, sample.features, sample.target, sample.predicted))
    return results


def easy_and_noisy(world):
    """A large shard that is easy to decide, and a small noisy one with ignored rows."""
    noisy = draw(90, spread=4.0, blur=2.0)
    ignored = torch.arange(90) % 3 == 0
    noisy = Rows(noisy.features, noisy.target.masked_fill(ignored, -100), noisy.logits)
    return [draw(300, spread=0.5, blur=0.1), *[draw(40)] * (world - 2), noisy]


def shares(features, target, predicted, means):
    center = nearest_class_center(features.double().numpy(), means, np.arange(NUM_CLASSES))
    return np.array([np.mean(center != predicted.numpy()), np.mean(center == target.numpy())])


def shares_by_hand(dealt, results):
    """Shares in each rank's sample, and how many rows it stands for."""
    rows = Rows(*(torch.cat([getattr(d, n) for d in dealt]) for n in Rows.__dataclass_fields__))
    counted = rows[rows.target >= 0]
    _, means, _, _ = two_pass_statistics(counted.features.numpy(), counted.target.numpy(), NUM_CLASSES)
    stands_for = np.array([int((d.target >= 0).sum()) for d in dealt])
    of_each = np.array(
        [[shares(*sample, means) for _, *sample in of_rank] for of_rank in results]
    )  # rank, seed, measure
    exact = shares(counted.features, counted.target, counted.logits.argmax(1), means)
    return of_each, stands_for / stands_for.sum(), exact


def test_each_ranks_sample_counts_as_many_rows_as_it_stands_for(pool):
    dealt = easy_and_noisy(pool.size)
    results = pool.run(sampled, [d.batches(64) for d in dealt], range(3), 24)
    of_each, weights, _ = shares_by_hand(dealt, results)
    for seed in range(3):
        assert_identical(*(of_rank[seed][0] for of_rank in results))
        values = [float(v) for v in results[0][seed][0].values()]
        combined = weights @ of_each[:, seed]
        assert list(results[0][seed][0]) == ["nc4/ncc_mismatch", "nc4/ncc_accuracy"]
        assert values == pytest.approx(combined.tolist(), rel=1e-12)
        # every rank counted alike would be another number
        assert np.abs(of_each[:, seed].mean(0) - combined).min() > 0.05


def test_the_sampled_estimate_is_unbiased(pool):
    dealt = easy_and_noisy(pool.size)
    seeds = range(60)
    results = pool.run(sampled, [d.batches(64) for d in dealt], seeds, 24)
    of_each, _, exact = shares_by_hand(dealt, results)
    values = np.array([[float(v) for v in values.values()] for values, *_ in results[0]])
    error = values.std(0, ddof=1) / np.sqrt(len(seeds))
    assert (np.abs(values.mean(0) - exact) < 4 * error).all()
    # every rank counted alike would be seen
    assert (np.abs(of_each.mean((0, 1)) - exact) > 10 * error).all()


def test_a_sample_with_room_for_all_rows_is_exact(pool):
    dealt = easy_and_noisy(pool.size)
    results = pool.run(sampled, [d.batches(64) for d in dealt], [0], 400)
    _, _, exact = shares_by_hand(dealt, results)
    values = [float(v) for v in results[0][0][0].values()]
    assert values == pytest.approx(exact.tolist(), rel=1e-12)
