"""Chunks of one batch, put together in the labels' order."""

import pytest
import torch

from lightning_nc.watch.batch import Forward
from lightning_nc.watch.chunks import joined

H = torch.randn(6, 8, 3)
DECIDED = torch.arange(48).reshape(6, 8)


def forward(h, predicted=None, **layers):
    leading = tuple(h.shape[:-1])
    return Forward("head", h, predicted, dict(layers), shape=(*leading, 4), leading=leading)


@pytest.mark.parametrize("along", [0, 1])
@pytest.mark.parametrize("sizes", [[2, 2, 2], [1, 5], [6]])
def test_parts_of_the_batch_or_of_the_sequence_come_together(along, sizes):
    sizes = sizes if along == 0 else [*sizes, 2]
    parts = [
        forward(h, p.reshape(-1))
        for h, p in zip(H.split(sizes, along), DECIDED.split(sizes, along), strict=True)
    ]
    whole = joined(parts, (6, 8))
    assert torch.equal(whole.features, H)
    assert torch.equal(whole.predicted, DECIDED.reshape(-1))
    assert whole.leading == (6, 8)
    assert whole.shape == (6, 8, 4)


def test_flat_parts_come_together_in_their_order():
    flat = H.reshape(-1, 3)
    whole = joined([forward(h) for h in flat.split([40, 8])], (6, 8))
    assert torch.equal(whole.features, flat)
    assert whole.predicted is None


@pytest.mark.parametrize("sizes", [[2, 2], [2, 2, 3]])
def test_parts_that_do_not_add_up_are_refused(sizes):
    rows = torch.randn(sum(sizes), 3)
    text = r"chunks that add up to the labels, of shape \(6,\), but got \d forwards, on \(2,\), \(2,\)"
    with pytest.raises(ValueError, match=text):
        joined([forward(h) for h in rows.split(sizes)], (6,))


def test_layers_run_once_before_the_chunks_or_in_each_of_them():
    before, inside = torch.randn(6, 5), torch.randn(6, 2)
    first = forward(H[:2], before=before, inside=inside[:2])
    whole = joined([first, forward(H[2:], inside=inside[2:])], (6, 8))
    assert torch.equal(whole.layers["before"], before)
    assert torch.equal(whole.layers["inside"], inside)
    stretches = [forward(H[:, :3], inside=inside), forward(H[:, 3:], inside=inside.clone())]
    with pytest.raises(ValueError, match="Expected layer 'inside' to run once before the chunks"):
        joined(stretches, (6, 8))
