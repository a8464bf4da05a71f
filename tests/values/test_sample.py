"""Rows of a stage, and counts of them."""

import torch

from lightning_nc.values import Decisions, FeatureSample


def test_a_sample_gives_its_valid_rows():
    sample = FeatureSample(
        torch.arange(6.0).reshape(3, 2), torch.tensor([1, -1, 0]), torch.tensor([1, 1, -1]), seen=9
    )
    valid = sample.valid()
    assert valid.features.tolist() == [[0, 1], [4, 5]]
    assert (valid.target.tolist(), valid.predicted.tolist(), valid.seen) == ([1, 0], [1, -1], 9)
    without = FeatureSample(sample.features, sample.target, None, seen=9)
    assert without.valid().predicted is None


def sample_of_three():
    return FeatureSample(torch.eye(3), torch.arange(3), torch.tensor([0, 2, 2]), seen=7)


def test_a_sample_of_valid_rows_is_handed_on_as_it_is():
    sample = sample_of_three()
    assert sample.valid() is sample


def test_a_copy_of_a_sample_has_memory_of_its_own():
    sample = sample_of_three()
    copied = sample.copy()
    for name in ("features", "target", "predicted"):
        assert torch.equal(getattr(copied, name), getattr(sample, name))
        getattr(sample, name).zero_()
    assert copied.target.tolist() == [0, 1, 2]
    assert copied.predicted.tolist() == [0, 2, 2]
    assert copied.features.sum() == 3
    assert copied.seen == 7


def test_a_sample_moves_with_and_without_decisions():
    moved = sample_of_three().to("meta")
    assert {moved.features.device.type, moved.target.device.type, moved.predicted.device.type} == {
        "meta"
    }
    without = FeatureSample(torch.eye(3), torch.arange(3), None, seen=7).to("meta")
    assert without.predicted is None


def test_decisions_become_a_vector_in_their_order_and_come_back():
    decisions = Decisions(*torch.arange(6.0))
    assert decisions.as_vector().tolist() == [0, 1, 2, 3, 4, 5]
    assert Decisions(*decisions.as_vector()).mismatched == 5
