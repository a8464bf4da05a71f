"""The last linear map."""

import pytest
import torch

from lightning_nc import LinearClassifier
from lightning_nc.tasks.multiclass import decide


def test_a_binary_head_is_read_as_two_rows():
    head = torch.nn.Linear(3, 1)
    read = LinearClassifier(head.weight, head.bias)
    h = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    logits = h @ read.weight.T + read.bias
    assert torch.equal(read.weight, torch.cat([-head.weight / 2, head.weight / 2]))
    assert torch.equal(read.bias, torch.cat([-head.bias / 2, head.bias / 2]))
    assert torch.equal(decide(logits), decide(head(h)))
    assert read.num_classes == 2


def test_a_single_row_left_over_by_a_restriction_stays_a_single_row():
    classifier = LinearClassifier(torch.eye(3), torch.arange(3.0))
    left = classifier.restrict(torch.tensor([False, True, False]))
    assert left.weight.tolist() == [[0, 1, 0]]
    assert left.bias.tolist() == [1]
    assert LinearClassifier(torch.eye(3)).restrict(torch.tensor([True, False, True])).bias is None


def test_a_classifier_follows_its_layer_and_a_snapshot_does_not():
    head = torch.nn.Linear(3, 4)
    read = LinearClassifier(head.weight, head.bias)
    kept = read.snapshot()
    before = head.weight.detach().clone()
    with torch.no_grad():
        head.weight.add_(1)
        head.bias.add_(1)
    assert not read.weight.requires_grad
    assert torch.equal(read.weight, head.weight)
    assert torch.equal(kept.weight, before)
    assert torch.equal(kept.bias + 1, head.bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_decisions_are_the_largest_of_w_h_plus_b_piece_by_piece(bias, dtype, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(50, 6, generator=generator).to(dtype)
    weight, b = torch.randn(7, 6, generator=generator), torch.randn(7, generator=generator)
    monkeypatch.setattr("lightning_nc.values.classifier._LOGITS", 7 * 8)  # eight rows at a time
    read = LinearClassifier(weight, b if bias else None)
    logits = h.double() @ weight.double().T + (b.double() if bias else 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert read.decide(h).tolist() == logits.argmax(1).tolist()
    assert read.decide(h[:0]).shape == (0,)


def test_a_binary_head_decides_by_its_sign():
    head, h = torch.nn.Linear(3, 1), torch.randn(20, 3)
    read = LinearClassifier(head.weight, head.bias)
    assert torch.equal(read.decide(h), (head(h)[:, 0] > 0).long())
