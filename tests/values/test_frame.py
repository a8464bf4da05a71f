"""Vectors and what is pairwise between them."""

import math

import pytest
import torch

from lightning_nc.values import Frame


def test_a_frame_of_many_vectors_pairs_a_seeded_sample_of_them(monkeypatch):
    vectors = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    everything = Frame(vectors).cosines
    monkeypatch.setattr("lightning_nc.values.frame.PAIRWISE_CLASSES", 10)
    state = torch.get_rng_state()
    frame, again = Frame(vectors), Frame(vectors)
    assert len(set(frame.sampled.tolist())) == 10
    assert frame.sampled.tolist() == sorted(frame.sampled.tolist()) == again.sampled.tolist()
    assert frame.num_vectors == len(frame.norms) == 50
    chosen = frame.sampled
    torch.testing.assert_close(frame.cosines, everything[chosen][:, chosen])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_frame_keeps_float64_and_no_graph():
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    frame = Frame(weight)
    assert not frame.vectors.requires_grad
    assert frame.vectors.dtype == torch.float64
    assert frame.norms.tolist() == [5, 0]
    assert math.isnan(frame.cosines[0, 1])


def test_a_frame_of_few_vectors_pairs_all_of_them():
    rows = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frame = Frame(rows)
    assert frame.sampled.tolist() == list(range(12))
    assert frame.of_sample(rows) is rows
    torch.testing.assert_close(frame.gram, rows @ rows.T)
    torch.testing.assert_close(frame.squared_distances, torch.cdist(rows, rows).square())


def test_vectors_that_rounding_alone_tells_apart_have_no_distance():
    rows = 1e3 + torch.tensor([[0.0, 0.0], [1e-12, 0.0], [1.0, 0.0]], dtype=torch.float64)
    distances = Frame(rows).squared_distances
    assert distances[0, 1] == 0
    assert distances[0, 2] > 0


@pytest.mark.parametrize(
    ("size", "dtype", "kept"),
    [
        (1e-45, torch.float64, True), (3e38, torch.float64, True), (0.0, torch.float64, True),
        (1e-76, torch.float64, False), (1e76, torch.float64, False),
        (1e-10, torch.float32, True), (1e-16, torch.float32, False), (1e16, torch.float32, False),
    ],
)  # fmt: skip
def test_a_frame_tells_where_products_of_its_vectors_have_no_digits(size, dtype, kept, monkeypatch):
    monkeypatch.setattr("lightning_nc.values.frame.accumulator_dtype", lambda device: dtype)
    frame = Frame(torch.tensor([[size, 0.0], [0.0, size / 2]], dtype=torch.float64))
    text = frame.leaves_range
    assert (text == "") == kept
    assert kept or text.startswith(
        f"their largest entry is {size:.0e}, and {str(dtype)[6:]} holds prod"
    )
