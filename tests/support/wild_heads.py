"""Random networks by the kind of their head."""

import torch
from support.wild_parts import (
    around_classes,
    balanced,
    head_of,
    linear_network,
    together,
    token_body,
    vectors,
)
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint


def plain(m):
    body, head, meet = linear_network(m)
    m.add(body=body, fc=head)
    m.run = lambda x, y: meet(body(x), y)


def function(m):
    draw = m.draw
    if draw.flip("more rows than the body is wide"):
        draw.classes = draw.between("classes", 5, 10)
        draw.seen, draw.width = draw.classes, draw.between("width", 3, draw.classes - 1)
        draw.rows = 3 * draw.seen
    body = vectors(m)
    how = draw.pick("how", "F.linear of a Linear", "F.linear", "h @ W.T", "h @ W", "einsum")
    if how == "F.linear of a Linear":
        head = head_of(draw)
        m.add(body=body, fc=head)
        weight, bias = head.weight, head.bias
    else:
        shape = (draw.width, draw.classes) if how == "h @ W" else (draw.classes, draw.width)
        weight = nn.Parameter(0.3 * torch.randn(shape))
        bias = nn.Parameter(torch.zeros(draw.classes)) if draw.flip("bias") else None
        m.add(body=body, weight=weight, bias=bias)

    def run(x, y):
        h = body(x)
        rows = weight.T if how == "h @ W" else weight
        if how == "einsum":
            logits = torch.einsum("nd,cd->nc", h, rows) + (0 if bias is None else bias)
        else:
            logits = F.linear(h, rows, bias)
        return m.learn(h, y, logits, rows, bias)

    m.run = run


def tied(m):
    draw = m.draw
    how = draw.pick("how", "embedding", "embedding", "shared Linear", "other layer", "transposed layer")
    if how in {"embedding", "shared Linear"}:
        _tied_embedding(m, how)
        return
    body = vectors(m)
    rows, columns = (draw.classes, draw.width)
    other = nn.Linear(columns, rows) if how == "other layer" else nn.Linear(rows, columns)
    back = nn.Linear(rows, columns) if how == "other layer" else nn.Linear(columns, rows)
    m.add(body=body, other=other, back=back)

    first, second = (other, back) if how == "other layer" else (back, other)

    def run(x, y):
        h = body(x)
        h = h + second(first(h).tanh())
        weight = other.weight if how == "other layer" else other.weight.T
        return m.learn(h, y, F.linear(h, weight), weight)

    m.run = run


def _tied_embedding(m, how):
    draw = m.draw
    draw.seen = draw.classes
    embedding, body = nn.Embedding(draw.classes, draw.width), token_body(draw, draw.width)
    bias = nn.Parameter(torch.zeros(draw.classes)) if draw.flip("bias") else None
    time, rows = draw.between("time", 2, 6), draw.between("rows", 6, 10)

    def batch():
        ids = balanced(draw, rows, time + 1)
        return ids[:, :-1], ids[:, 1:]

    head = nn.Linear(draw.width, draw.classes, bias=False)
    if how == "shared Linear":
        head.weight, bias = embedding.weight, None
        m.add(embedding=embedding, body=body, fc=head)
    else:
        m.add(embedding=embedding, body=body, bias=bias)

    def run(x, y):
        h = body(embedding(x))
        logits = head(h) if how == "shared Linear" else F.linear(h, embedding.weight, bias)
        return m.learn(h, y, logits, embedding.weight, bias)

    m.batch, m.run = batch, run


def chunked(m):
    draw = m.draw
    body = vectors(m)
    head = head_of(draw)
    parts = draw.between("chunks", 2, 3)
    as_module, again = draw.flip("as a module"), draw.pick("checkpoint", None, None, True, False)
    whole_outside = draw.flip("whole in validation", 0.3)
    m.add(body=body, fc=head)

    def part(h, y):
        logits = head(h) if as_module else F.linear(h, head.weight, head.bias)
        return m.loss(logits, y), logits

    def run(x, y):
        h = body(x)
        count = 1 if whole_outside and m.stage != "train_online" else parts
        losses, logits = [], []
        for rows, labels in zip(h.chunk(count), y.chunk(count), strict=True):
            of = part
            if again is not None:
                of = lambda *row: checkpoint(part, *row, use_reentrant=again)  # noqa: E731
            found = of(rows, labels)
            losses.append(found[0] * len(rows) / len(h))
            logits.append(found[1])
        m.keep(h, y, torch.cat(logits), head.weight, head.bias)
        return sum(losses)

    m.run = run


class Excited(nn.Module):
    """A body of feature maps, with linear layers that gate its channels."""

    def __init__(self, draw):
        super().__init__()
        inner = draw.any_width("inner")
        self.one, self.two = nn.Conv2d(1, inner, 3, padding=1), nn.Conv2d(inner, draw.width, 1)
        self.gate = nn.Linear(inner, inner) if draw.flip("excited") else None

    def forward(self, x):
        x = self.one(x).relu()
        if self.gate is not None:
            x = x * self.gate(x.mean((2, 3))).sigmoid()[..., None, None]
        return self.two(x).relu()


def convolution(m):
    draw = m.draw
    how = draw.pick("how", "average after", "average before", "3x3", "pixels")
    body = Excited(draw)
    head = nn.Conv2d(draw.width, draw.classes, 3 if how == "3x3" else 1, bias=draw.flip("bias", 0.8))
    m.add(body=body, fc=head)
    images = draw.between("images", 3, 5)

    def pixels():
        y = balanced(draw, images, 4, 4)
        return (torch.randn(y.shape) + y)[:, None], y

    m.batch = pixels if how == "pixels" else around_classes(draw, (1, 4, 4))

    def run(x, y):
        h = body(x)
        weight = head.weight.flatten(1)
        if how == "average before":
            h = h.mean((2, 3))
            logits = head(h[..., None, None]).flatten(1)
        elif how == "pixels":
            logits, h = head(h).permute(0, 2, 3, 1), h.permute(0, 2, 3, 1)
        else:
            logits, h = head(h).mean((2, 3)), h.mean((2, 3))
        return m.learn(None if how == "3x3" else h, y, logits, weight, head.bias)

    m.run = run


class CosineLinear(nn.Linear):
    scale, of_rows_only = 8.0, False

    def forward(self, x):
        x = x if self.of_rows_only else F.normalize(x, dim=1)
        return self.scale * F.linear(x, F.normalize(self.weight, dim=1))


class Margin(nn.Module):
    """Adds an angle to that of the right class."""

    def __init__(self, width, classes, scale):
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(classes, width)), scale

    def forward(self, x, y):
        cosine = F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))
        right = F.one_hot(y, len(self.weight)).bool()
        return self.scale * torch.where(right, (cosine.clamp(-0.99, 0.99).acos() + 0.2).cos(), cosine)


def cosine(m):
    draw = m.draw
    body = vectors(m)
    how = draw.pick("how", "function", "of columns", "subclass", "rows only", "margin")
    scale = draw.pick("scale", 1.0, 4.0, 16.0)
    if how in {"subclass", "rows only"}:
        head = CosineLinear(draw.width, draw.classes, bias=False)
        head.scale, head.of_rows_only = scale, how == "rows only"
    elif how == "margin":
        head = Margin(draw.width, draw.classes, scale)
    else:
        shape = (draw.width, draw.classes) if how == "of columns" else (draw.classes, draw.width)
        head = nn.Parameter(torch.randn(shape))
    m.add(body=body, fc=head)

    def run(x, y):
        h = body(x)
        unit = h if how == "rows only" else F.normalize(h, dim=1)
        weight = head if isinstance(head, nn.Parameter) else head.weight
        rows = scale * F.normalize(weight.T if how == "of columns" else weight, dim=1)
        logits = F.linear(unit, rows)
        used = head(h, y) if how == "margin" else head(h) if isinstance(head, nn.Module) else logits
        m.keep(unit, y, logits, rows)
        return m.loss(used, y)

    m.run = run


class Adapted(nn.Module):
    """LoRA around a linear layer: W x + 2 B A x, or one matrix that is made of them."""

    def __init__(self, draw, base, name):
        super().__init__()
        inner = draw.between(f"{name} rank", 1, 4)
        low = nn.Linear(base.in_features, inner, bias=False)
        high = nn.Linear(inner, base.out_features, bias=False)
        base.requires_grad_(not draw.flip(f"{name} base frozen"))
        if draw.flip(f"{name} B zero"):
            nn.init.zeros_(high.weight)
        self.how = draw.pick(f"{name} how", "base first", "adapter first", "one matrix")
        if draw.flip(f"{name} base registered first"):
            self.base_layer = base
        self.lora_A, self.lora_B = low, high
        self.linear = base

    def effective(self):
        return self.linear.weight + 2 * self.lora_B.weight @ self.lora_A.weight

    def forward(self, x):
        if self.how == "one matrix":
            return F.linear(x, self.effective(), self.linear.bias)
        first = self.how == "adapter first"
        return sum(together(lambda: self.linear(x), lambda: 2 * self.lora_B(self.lora_A(x)), first))


def adapter(m):
    draw = m.draw
    how = draw.pick("where", "head", "head", "body", "factors", "factors")
    body = vectors(m)
    head = head_of(draw)
    if how == "head":
        head = Adapted(draw, head, "head")
        m.add(body=body, fc=head)
    elif how == "body":
        inner = Adapted(draw, nn.Linear(draw.width, draw.width), "body")
        body = nn.Sequential(body, inner, nn.ReLU())
        m.add(body=body, fc=head)
    else:
        inner = draw.pick("inner", draw.classes, draw.classes, draw.between("inner", 2, 8))
        down, head = nn.Linear(draw.width, inner), nn.Linear(inner, draw.classes)
        m.add(body=body, down=down, up=head)

    def run(x, y):
        h = body(x)
        h = down(h) if how == "factors" else h
        logits = head(h)
        base = head.linear if how == "head" else head
        weight, bias = head.effective() if how == "head" else head.weight, base.bias
        return m.learn(h, y, logits, weight, bias)

    m.run = run


def frozen_head(m):
    """Fixed rows; as a simplex where there is room for one."""
    body, head, meet = linear_network(m)
    draw = m.draw
    simplex = torch.eye(draw.classes) - 1 / draw.classes
    turned = torch.linalg.qr(torch.randn(max(draw.width, draw.classes), draw.classes))[0][: draw.width]
    with torch.no_grad():
        head.weight.copy_(simplex @ turned.T)
    head.requires_grad_(False)
    how = draw.pick("how", "Linear", "Linear", "buffer")
    if how == "Linear":
        m.add(body=body, fc=head)
        m.run = lambda x, y: meet(body(x), y)
        return
    m.add(body=body)
    m.register_buffer("etf", head.weight.detach().clone())

    def run(x, y):
        h = body(x)
        return m.learn(h, y, h @ m.etf.T, m.etf)

    m.run = run


class Quantized(nn.Linear):
    """Rounds its weight in the forward, and the gradient passes."""

    levels, of_inputs_too = 4, False

    def rounded(self, t):
        step = t.detach().abs().max() / self.levels
        return t + ((t / step).round() * step - t).detach()

    def forward(self, x):
        x = self.rounded(x) if self.of_inputs_too else x
        return F.linear(x, self.rounded(self.weight), self.bias)


def quantized(m):
    draw = m.draw
    body = vectors(m)
    how = draw.pick("how", "weight", "weight", "weight and features", "weight_norm")
    if how == "weight_norm":
        head = parametrizations.weight_norm(head_of(draw))
        with torch.no_grad():
            head.parametrizations.weight.original0.mul_(1.5)
    else:
        head = Quantized(draw.width, draw.classes)
        head.levels, head.of_inputs_too = draw.pick("levels", 2, 4, 127), how == "weight and features"
    m.add(body=body, fc=head)

    def run(x, y):
        h = body(x)
        logits = head(h)
        weight = head.weight if how == "weight_norm" else head.rounded(head.weight)
        h = head.rounded(h) if how == "weight and features" else h
        return m.learn(h, y, logits, weight, head.bias)

    m.run = run
