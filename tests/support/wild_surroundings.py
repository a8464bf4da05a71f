"""Random networks by what surrounds a plain head: teachers, exits, other heads, swaps and critics."""

import copy

import torch
from support.wild_parts import (
    around_classes,
    head_of,
    linear_network,
    meeting,
    mlp,
    together,
    vector_body,
    vectors,
)
from torch import nn
from torch.nn import functional as F


def teacher(m):
    draw = m.draw
    body, head = vectors(m), head_of(draw)
    other = copy.deepcopy(nn.Sequential(body, head))
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    if draw.flip("teacher frozen", 0.8):
        other.requires_grad_(False)
    if draw.flip("teacher in eval mode"):
        other.eval()
    hidden, first = draw.flip("teacher not registered", 0.2), draw.flip("teacher first")
    m.add(body=body, fc=head, **({} if hidden else {"teacher": other}))

    def student(x):
        h = body(x)
        return h, head(h)

    def taught(x):
        with torch.no_grad():
            return other(x).softmax(1)

    def run(x, y):
        (h, logits), soft = together(lambda: student(x), lambda: taught(x), first)
        distance = F.kl_div(logits.log_softmax(1), soft, reduction="batchmean")
        return m.learn(h, y, logits, head.weight, head.bias) + distance

    m.run = run


def early_exit(m):
    draw = m.draw
    inner = draw.any_width("middle")
    first, shape = vector_body(_as_wide(draw, inner))
    second = mlp(draw, inner, draw.width, norm="LayerNorm", name="second")
    m.batch = around_classes(draw, shape)
    head, way_out = head_of(draw), nn.Linear(inner, draw.classes)
    m.add(first=first, second=second, fc=head, exit=way_out)
    before, meet = draw.flip("exit first"), meeting(m, head)

    def run(x, y):
        middle = first(x)
        late, early = lambda: meet(second(middle), y), lambda: 0.5 * m.loss(way_out(middle), y)
        return sum(together(late, early, before))

    m.run = run


def _as_wide(draw, width):
    """The same draw, for a part of another width."""
    other = copy.copy(draw)
    other.width = width
    return other


def auxiliary(m):
    body, head, meet = linear_network(m)
    draw = m.draw
    kind = draw.pick("auxiliary", "rotation", "domain", "projection", "decoder", "probe")
    few, more = max(draw.classes - 2, 2), draw.classes + draw.between("more", 1, 20)
    rows = draw.pick("auxiliary rows", few, draw.classes, more, more)
    rows = draw.classes if kind == "probe" else rows
    other = nn.Linear(draw.width, rows)
    if kind == "projection" and draw.flip("projector"):
        other = mlp(draw, draw.width, rows, norm="LayerNorm", name="projector")
    before = draw.flip("auxiliary first")
    m.add(body=body, fc=head, aux=other)

    def side(h, y):
        if kind == "probe":
            return F.cross_entropy(other(h.detach()), y)
        out = other(h)
        if kind == "projection":
            out = F.normalize(out, dim=1)
            return (out @ out.T).square().mean()
        if kind == "decoder":
            return out.square().mean()
        return F.cross_entropy(out, torch.arange(len(y)) % rows)

    def run(x, y):
        h = body(x)
        return sum(together(lambda: meet(h, y), lambda: 0.3 * side(h, y), before))

    m.run = run


def frozen_backbone(m):
    body, head, meet = linear_network(m)
    body.requires_grad_(False)
    without = m.draw.flip("no_grad")
    m.add(body=body, fc=head)

    def run(x, y):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not without):
            h = body(x)
        return meet(h, y)

    m.run = run


def swapped(m):
    """Averaged weights take the place of the trained ones, without a trace in their versions."""
    body, head, meet = linear_network(m)
    m.add(body=body, fc=head)
    draw = m.draw
    parts = list((head if draw.flip("head only") else nn.Sequential(body, head)).parameters())
    averages = [p.detach() + 0.3 * torch.randn(p.shape) for p in parts]
    how = draw.pick("how", "after the forward", "around the forward", "around it, to the end")

    assigned = draw.flip("assigned", 0.3)

    def swap():
        for i, p in enumerate(parts):
            kept, other = p.data if assigned else p.data.clone(), averages[i]
            averages[i] = kept
            if assigned:
                p.data = other
            else:
                p.data.copy_(other)

    if draw.flip("in validation"):
        m.swap = m.swap_back = swap
    if how != "around the forward":
        m.batch_ends = swap

    def run(x, y):
        if m.stage != "train_online":
            return meet(body(x), y)
        if how != "after the forward":
            swap()
        found = meet(body(x), y)
        if how != "around it, to the end":
            swap()
        return found

    m.run = run


def unused(m):
    body, head, meet = linear_network(m)
    draw = m.draw
    other = nn.Linear(draw.width, draw.classes)
    runs = draw.pick("other", "never", "never", "in validation, after", "in validation, before")
    m.add(body=body, fc=head, other=other)

    def run(x, y):
        h = body(x)
        if runs == "never" or m.stage == "train_online":
            return meet(h, y)
        return together(lambda: meet(h, y), lambda: other(h), runs.endswith("before"))[0]

    m.run = run


def two_steps(m):
    """Optimized by hand, with a critic that has steps of its own."""
    body, head, meet = linear_network(m)
    draw = m.draw
    rows = draw.pick("critic rows", 1, 2, draw.classes, draw.classes + 2)
    critic = nn.Linear(draw.width, rows)
    if draw.flip("deep critic"):
        critic = mlp(draw, draw.width, rows, norm="LayerNorm", name="critic")
    m.add(body=body, fc=head, critic=critic)
    m.automatic_optimization = False
    m.apart = [nn.ModuleList([body, head]), critic]
    steps = draw.pick("steps", "critic first", "critic last", "critic last, fooled")

    def descend(optimizer, loss):
        optimizer.zero_grad()
        m.manual_backward(loss)
        optimizer.step()

    def criticize(h, y):
        return F.softplus(critic(torch.randn_like(h))).mean() + F.softplus(-critic(h.detach())).mean()

    def run(x, y):
        if m.stage != "train_online":
            meet(body(x), y)
            return
        ours, theirs = m.optimizers()
        h = body(x)
        if steps == "critic first":
            descend(theirs, criticize(h, y))
        total = meet(h, y)
        if steps.endswith("fooled"):
            total = total + F.softplus(critic(h)).mean()
        descend(ours, total)
        if steps != "critic first":
            descend(theirs, criticize(h, y))

    m.run = run
