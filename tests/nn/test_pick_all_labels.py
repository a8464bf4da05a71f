"""The pick-all-label losses."""

import pytest
import torch
from torch import nn

from lightning_nc.nn import NormalizedPickAllLabelLoss, PickAllLabelLoss, pick_all_label_loss

FORMS = {False: PickAllLabelLoss, True: NormalizedPickAllLabelLoss}


def drawn(rows=12, num_tags=5, dtype=torch.float64, empty=0):
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(rows, num_tags, generator=generator, dtype=dtype)
    tags = torch.rand(rows, num_tags, generator=generator) < 0.4
    tags[:, 0] |= ~tags.any(1)
    tags[:empty] = False
    return logits, tags


def by_tag(logits, tags, normalized):
    """Cross-entropy with each tag, one after another."""
    losses = []
    for z, row in zip(logits, tags, strict=True):
        chosen = row.nonzero().flatten().tolist()
        terms = [nn.functional.cross_entropy(z[None], torch.tensor([k])) for k in chosen]
        total = torch.stack(terms).sum() if terms else z.new_zeros(())
        losses.append(total / max(1, len(chosen)) if normalized else total)
    return torch.stack(losses)


@pytest.mark.parametrize("normalized", FORMS)
@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.uint8, torch.float32])
def test_a_row_has_the_cross_entropies_with_its_tags(normalized, kind):
    logits, tags = drawn(empty=2)
    expected = by_tag(logits, tags, normalized)
    found = {r: FORMS[normalized](r)(logits, tags.to(kind)) for r in ("none", "sum", "mean")}
    torch.testing.assert_close(found["none"], expected)
    torch.testing.assert_close(found["sum"], expected.sum())
    torch.testing.assert_close(found["mean"], expected.sum() / 10)


def test_the_normalized_form_is_torchs_with_soft_targets():
    logits, tags = drawn()
    soft = tags / tags.sum(1, keepdim=True).double()
    for reduction in ("none", "sum", "mean"):
        expected = nn.CrossEntropyLoss(reduction=reduction)(logits, soft)
        found = NormalizedPickAllLabelLoss(reduction)(logits, tags)
        torch.testing.assert_close(found, expected)


def test_of_one_tag_both_forms_are_the_cross_entropy():
    logits, labels = drawn()[0], torch.arange(12) % 5
    expected = nn.functional.cross_entropy(logits, labels)
    for form in FORMS.values():
        torch.testing.assert_close(form()(logits, nn.functional.one_hot(labels, 5)), expected)


@pytest.mark.parametrize("normalized", FORMS)
def test_rows_without_a_tag_do_not_count(normalized):
    logits, tags = drawn(empty=4)
    logits.requires_grad_()
    loss = FORMS[normalized]()(logits, tags)
    torch.testing.assert_close(loss, FORMS[normalized]()(logits[4:], tags[4:]))
    loss.backward()
    assert not logits.grad[:4].any()
    none = FORMS[normalized]()(logits, torch.zeros_like(tags))
    assert none == 0
    none.backward()
    assert logits.grad.isfinite().all()


def test_a_logit_of_minus_infinity_rules_a_tag_out():
    logits, tags = drawn()
    tags[:, 3] = False
    masked = logits.clone().index_fill(1, torch.tensor([3]), -torch.inf).requires_grad_()
    kept = [0, 1, 2, 4]
    loss = pick_all_label_loss(masked, tags)
    torch.testing.assert_close(loss, pick_all_label_loss(logits[:, kept], tags[:, kept]))
    loss.backward()
    assert masked.grad.isfinite().all()


@pytest.mark.parametrize("normalized", FORMS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_its_gradients_are_those_of_differences(normalized, reduction):
    logits, tags = drawn(rows=5, empty=1)
    logits.requires_grad_()
    loss = FORMS[normalized](reduction)
    assert torch.autograd.gradcheck(lambda z: loss(z, tags), logits)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, tags), logits)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_logits_are_taken_in_float32(kind, autocast):
    logits, tags = drawn(dtype=torch.float32)
    logits = logits.to(kind).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = PickAllLabelLoss()(logits, tags)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, PickAllLabelLoss()(logits.detach().float(), tags))
    loss.backward()
    assert logits.grad.dtype == kind


def test_leading_dimensions_are_rows():
    logits, tags = drawn()
    found = pick_all_label_loss(logits.view(3, 4, 5), tags.view(3, 4, 5), reduction="none")
    torch.testing.assert_close(found, pick_all_label_loss(logits, tags, reduction="none").view(3, 4))


def test_the_modules_hold_nothing_and_show_what_is_set():
    for form in FORMS.values():
        assert not list(form().state_dict())
        assert not list(form().parameters())
    assert repr(PickAllLabelLoss()) == "PickAllLabelLoss()"
    assert repr(NormalizedPickAllLabelLoss("sum")) == "NormalizedPickAllLabelLoss(reduction='sum')"


@pytest.mark.parametrize("shape", [(12,), (12, 4), (11, 5)])
def test_tags_of_another_shape_are_refused(shape):
    logits, _ = drawn()
    plain = getattr(
        pick_all_label_loss, "__wrapped__", pick_all_label_loss
    )  # less the checks of shapes
    with pytest.raises(
        ValueError, match=r"of the shape of the logits, \(12, 5\), but got .*class indices"
    ):
        plain(logits, torch.zeros(shape))


@pytest.mark.parametrize("form", FORMS.values())
def test_another_reduction_is_refused(form):
    with pytest.raises(ValueError, match=r"one of \('mean', 'sum', 'none'\), but got 'average'"):
        getattr(form.__init__, "__wrapped__", form.__init__)(form(), "average")


def compiled(rank, backend):
    """By the compiler, in one graph: what both forms give, less what they give without."""
    gaps = []
    for form in FORMS.values():
        logits, tags = drawn(dtype=torch.float32, empty=2)
        ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        loss = torch.compile(form(), fullgraph=True, backend=backend)(ours, tags)
        expected = form()(plain, tags)
        loss.backward()
        expected.backward()
        gaps += [loss.detach() - expected.detach(), (ours.grad - plain.grad).abs().max()]
    return torch.stack(gaps).abs().tolist()


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_it_is_one_graph(one_process, backend):
    # in a process without the checks of shapes, which cannot be compiled
    [gaps] = one_process.run(compiled, backend, timeout=240)
    assert max(gaps) < 1e-6
