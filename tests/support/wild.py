"""Random small networks, each of which notes by itself what has met its classifier.

``wild(kind, seed)`` is one of them. The truth is written from what the word means: the classifier is
the linear map whose logits the network's own decision is taken from, its input the feature.
"""

import copy
import math
from collections import namedtuple

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader


class Draw:
    """What was drawn of a network, by name."""

    def __init__(self, kind, seed):
        self.kind = kind
        self.rng = np.random.default_rng([*kind.encode(), seed])
        self.drawn = {}
        self.classes = self.between("classes", 2, 8)
        self.seen = self.between("seen", 2, self.classes) if self.flip("unseen", 0.3) else self.classes
        self.width = self.any_width("width")
        self.rows = self.between("rows", 2 * self.seen, 2 * self.seen + 8)

    def pick(self, name, *options):
        self.drawn[name] = options[self.rng.integers(len(options))]
        return self.drawn[name]

    def between(self, name, low, high):
        self.drawn[name] = int(self.rng.integers(low, high + 1))
        return self.drawn[name]

    def flip(self, name, chance=0.5):
        self.drawn[name] = bool(self.rng.random() < chance)
        return self.drawn[name]

    def any_width(self, name):
        """Now and then as many as the classes, or between the labels that occur and the classes."""
        usual = int(self.rng.integers(4, 25))
        tempting = int(self.rng.integers(self.seen, self.classes + 1))
        return self.pick(name, usual, usual, usual, self.classes, tempting)


class Wild(L.LightningModule):
    """Its step, its data and its optimizers are set by the kind that it is of."""

    def __init__(self, draw):
        super().__init__()
        self.draw, self.noted, self.stage, self.steps = draw, {}, None, 0
        self.run, self.loss = None, loss_of(draw)
        self.pack, self.read = (lambda x, y: (x, y)), (lambda batch: batch)
        self.swap = self.swap_back = self.batch_ends = bool
        self.apart = [self]  # the modules that have an optimizer each

    def add(self, **parts):
        """Registered in an order that says nothing of when they run."""
        inside = self
        if self.draw.flip("nested", 0.3):
            self.net = inside = nn.Module()
        for name in self.draw.rng.permutation(sorted(parts)):
            setattr(inside, name, parts[name])

    def keep(self, h, y, logits, weight=None, bias=None):
        """Note the rows that met the classifier, and W and b at that moment; h None: none is linear."""
        if self.trainer.sanity_checking:
            return
        counts = y.flatten() >= 0
        rows = [t if t is None else t.detach().flatten(0, -2)[counts] for t in (h, logits)]
        met = [t if t is None else t.detach().double().numpy().copy() for t in (rows[0], weight, bias)]
        decided = rows[1].argmax(1).numpy()
        note = (met[0], y.flatten()[counts].numpy(), decided, *met[1:])
        self.noted.setdefault((self.stage, self.current_epoch), []).append(note)

    def learn(self, h, y, logits, weight=None, bias=None):
        """The loss, where the truth is noted and nothing else is to be done."""
        self.keep(h, y, logits, weight, bias)
        return self.loss(logits, y)

    def step(self, stage, batch):
        self.stage = stage
        return self.run(*self.read(batch))

    def training_step(self, batch, batch_idx):
        return self.step("train_online", batch)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.batch_ends()

    def on_before_optimizer_step(self, optimizer):
        self.steps += 1

    def validation_step(self, batch, batch_idx):
        self.swap()
        self.step("val", batch)
        self.swap_back()

    def test_step(self, batch, batch_idx):
        self.swap()
        self.step("test", batch)
        self.swap_back()

    def configure_optimizers(self):
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[self.draw.drawn["optimizer"]]
        return [kind(part.parameters(), lr=0.03) for part in self.apart]


# Parts


def mlp(draw, inputs, width, norm=None, depth=2, name="mlp"):
    """Linear layers; the last of them with or without an activation."""
    activation = getattr(nn, draw.pick(f"{name} act", "ReLU", "GELU", "Tanh", "LeakyReLU"))
    norm = draw.pick(f"{name} norm", "Identity", "BatchNorm1d", "LayerNorm") if norm is None else norm
    layers = []
    for i in range(draw.between(f"{name} depth", 0, depth)):
        hidden = draw.any_width(f"{name} hidden {i}")
        layers += [nn.Linear(inputs, hidden), getattr(nn, norm)(hidden), activation()]
        inputs = hidden
    dropout = [nn.Dropout(0.1)] if draw.flip(f"{name} dropout", 0.3) else []
    last = [activation()] if draw.flip(f"{name} last act", 0.6) else []
    return nn.Sequential(*layers, *dropout, nn.Linear(inputs, width), *last)


class Residual(nn.Module):
    def __init__(self, draw, inputs, width):
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        blocks = range(draw.between("blocks", 1, 2))
        self.blocks = nn.ModuleList(
            [mlp(draw, width, width, depth=1, name=f"block {i}") for i in blocks]
        )

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return x


class Recurrent(nn.Module):
    def __init__(self, draw, kind, inputs, width, batch_first=True):
        super().__init__()
        self.rnn = getattr(nn, kind)(inputs, width, batch_first=batch_first)

    def forward(self, x):
        return self.rnn(x)[0]


class Attention(nn.Module):
    def __init__(self, draw, inputs, width, batch_first=True):
        super().__init__()
        inner = 4 * draw.between("attention width / 4", 1, 3)
        self.embed = nn.Linear(inputs, inner)
        self.layer = nn.TransformerEncoderLayer(
            inner, 2, 2 * inner, draw.pick("attention dropout", 0.0, 0.1), batch_first=batch_first
        )
        self.out = (
            nn.Linear(inner, width) if draw.flip("attention out", 0.7) or inner != width else None
        )

    def forward(self, x):
        x = self.layer(self.embed(x))
        return x if self.out is None else self.out(x)


class Pooled(nn.Module):
    """Tokens become one row."""

    def __init__(self, draw, inner):
        super().__init__()
        self.inner, self.pool = inner, draw.pick("pooled", "mean", "first", "last")

    def forward(self, x):
        x = self.inner(x)
        return x.mean(1) if self.pool == "mean" else x[:, 0 if self.pool == "first" else -1]


def cnn(draw, width):
    channels = draw.between("channels", 3, 6)
    norm = getattr(nn, draw.pick("cnn norm", "BatchNorm2d", "Identity"))
    layers = [nn.Conv2d(1, channels, 3, padding=1), norm(channels), nn.ReLU()]
    if draw.flip("average", 0.5):
        last = nn.Conv2d(channels, width, 3, padding=1)
        return nn.Sequential(*layers, last, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    flat = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, width)]
    return nn.Sequential(*layers, *flat, nn.ReLU())


def token_body(draw, inputs, batch_first=True):
    """From tokens to tokens."""
    kind = draw.pick("body", "mlp", "GRU", "LSTM", "attention")
    if kind == "mlp":
        return mlp(draw, inputs, draw.width, norm="LayerNorm")
    if kind == "attention":
        return Attention(draw, inputs, draw.width, batch_first)
    return Recurrent(draw, kind, inputs, draw.width, batch_first)


def vector_body(draw):
    """From whatever to one row each, and the shape that it wants."""
    kind = draw.pick("input", "vectors", "vectors", "images", "sequences")
    inputs = draw.between("inputs", 3, 9)
    if kind == "images":
        return cnn(draw, draw.width), (1, 5, 5)
    if kind == "sequences":
        return Pooled(draw, token_body(draw, inputs)), (draw.between("time", 2, 6), inputs)
    if draw.flip("residual", 0.3):
        return Residual(draw, inputs, draw.width), (inputs,)
    return mlp(draw, inputs, draw.width), (inputs,)


def loss_of(draw):
    """From logits and labels of any leading shape to a loss."""
    kind = draw.pick("loss", "cross entropy", "cross entropy", "smoothed", "log softmax")

    def loss(logits, y):
        logits, y = logits.flatten(0, -2), y.flatten()
        if kind == "log softmax":
            return F.nll_loss(logits.log_softmax(1), y)
        return F.cross_entropy(logits, y, label_smoothing=0.1 * (kind == "smoothed"))

    return loss


def balanced(draw, *shape):
    """Labels of which each occurs, in any order."""
    count = math.prod(shape)
    return (torch.randperm(count) % draw.seen).reshape(shape)


def around_classes(draw, shape):
    """Batches of rows around a mean for each class."""
    centers = torch.randn(draw.seen, *shape)

    def batch():
        y = balanced(draw, draw.rows)
        return torch.randn(draw.rows, *shape) + centers[y], y

    return batch


def tokens(draw, inputs):
    """Batches of token features around a mean for each label, some of which do not count."""
    centers = torch.randn(draw.seen, inputs)
    time = draw.between("time", 2, 6)
    rows = math.ceil(draw.rows / time) + draw.between("more rows", 1, 4)
    rows += rows == time  # whose places could be taken for each other
    padded = draw.flip("padded", 0.3)

    def batch():
        y = balanced(draw, rows, time)
        x = torch.randn(rows, time, inputs) + centers[y]
        return x, torch.where(torch.rand(y.shape) < 0.2, -100, y) if padded else y

    return batch


def together(main, other, other_first):
    """What both return, whichever runs first."""
    if other_first:
        theirs = other()
        return main(), theirs
    return main(), other()


def head_of(draw):
    return nn.Linear(draw.width, draw.classes, bias=draw.flip("bias", 0.8))


def vectors(m):
    """A body and its data: what most kinds begin with."""
    body, shape = vector_body(m.draw)
    m.batch = around_classes(m.draw, shape)
    return body


def linear_network(m):
    """Body, head, and what comes of features and labels: the loss, and the truth noted."""
    body, head = vectors(m), head_of(m.draw)
    return body, head, meeting(m, head)


def meeting(m, head):
    return lambda h, y: m.learn(h, y, head(h), head.weight, head.bias)


# Heads


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


# Surroundings of a plain head


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


# Labels


def token_labels(m):
    draw = m.draw
    inputs = draw.between("inputs", 3, 9)
    body, head = token_body(draw, inputs), head_of(draw)
    m.batch, meet = tokens(draw, inputs), meeting(m, head)
    m.add(body=body, fc=head)
    m.run = lambda x, y: meet(body(x), y)


def sequence_first(m):
    """Features (T, B, d) with labels (B, T), and now and then labels in the features' order."""
    draw = m.draw
    inputs, time = draw.between("inputs", 3, 9), draw.between("time", 3, 6)
    body, head = token_body(draw, inputs, batch_first=False), head_of(draw)
    square, aligned = draw.flip("T = B"), draw.flip("labels sequence-first too", 0.2)
    centers = torch.randn(draw.seen, inputs)
    rows = time if square else time + draw.between("more rows", 1, 4)

    def batch():
        y = balanced(draw, rows, time)
        x = torch.randn(rows, time, inputs) + centers[y]
        return x, y.T.contiguous() if aligned else y

    m.add(body=body, fc=head)
    inside = draw.flip("turned inside")

    def run(x, y):
        h = body(x.transpose(0, 1))
        logits = head(h)
        if not aligned:
            h, logits = h.transpose(0, 1), logits.transpose(0, 1)
        return m.learn(h, y, logits, head.weight, head.bias)

    m.batch, m.run = batch, run
    if not inside:  # the batch itself is sequence-first, its labels are not
        m.pack = lambda x, y: (x.transpose(0, 1), y)
        m.read = lambda batch: (batch[0].transpose(0, 1), batch[1])


def _any_labels(m, forms):
    """A plain network whose batches are of one of these forms."""
    plain(m)
    form, domains = m.draw.pick("form", *forms), m.draw.between("domains", 2, 6)
    m.pack = lambda x, y: forms[form][0](x, y, torch.randint(domains, y.shape))
    m.read = forms[form][1]


def tuples(m):
    _any_labels(
        m,
        {
            "x, domain, label": (lambda x, y, d: (x, d, y), lambda b: (b[0], b[2])),
            "x, label, domain": (lambda x, y, d: (x, y, d), lambda b: (b[0], b[1])),
            "x, weight, label": (lambda x, y, d: (x, torch.rand(len(y)), y), lambda b: (b[0], b[2])),
            "x, (domain, label)": (lambda x, y, d: (x, (d, y)), lambda b: (b[0], b[1][1])),
            "index, x, label": (lambda x, y, d: (torch.arange(len(y)), x, y), lambda b: b[1:]),
            "x, index, label": (lambda x, y, d: (x, torch.arange(len(y)), y), lambda b: (b[0], b[2])),
            "label, x": (lambda x, y, d: (y, x), lambda b: (b[1], b[0])),
        },
    )


def named(m):
    def of(names):
        kind = namedtuple("Rows", names)
        values = {"image": 0, "label": 1, "y": 1, "target": 1, "domain": 2, "index": 2, "category": 1}

        def pack(x, y, d):
            return kind(*((x, y, d)[values[name]] for name in names.split()))

        label = next(name for name in names.split() if values[name] == 1)
        return pack, lambda b: (b.image, getattr(b, label))

    forms = ("image domain label", "image label", "label image", "image y domain",
             "domain image target", "image domain category", "image index label")  # fmt: skip
    _any_labels(m, {form: of(form) for form in forms})


def dicts(m):
    def of(x_key, y_key, d_key=None):
        def pack(x, y, d):
            rows = {x_key: x, y_key: y}
            return rows if d_key is None else {d_key: d, **rows}

        return pack, lambda b: (b[x_key], b[y_key])

    forms = (("image", "label"), ("x", "y"), ("pixel_values", "labels"), ("inputs", "targets"),
             ("image", "label", "domain"), ("image", "category"), ("image", "category", "domain"),
             ("image", "label", "target"), ("x", "category", "y"))  # fmt: skip
    _any_labels(m, {" ".join(form): of(*form) for form in forms})


def causal(m):
    """A language model whose labels are its inputs, shifted inside."""
    draw = m.draw
    draw.seen = draw.classes
    embedding, body = nn.Embedding(draw.classes, draw.width), token_body(draw, draw.width)
    head = head_of(draw)
    if draw.flip("tied", 0.2):
        head.weight = embedding.weight
    m.add(embedding=embedding, body=body, fc=head)
    time, rows = draw.between("time", 4, 7), draw.between("rows", 4, 8)
    form = draw.pick("form", "tuple", "same tensor", "dict", "dict with a mask", "prompt left out")

    def batch():
        ids = balanced(draw, rows, time)
        return ids, torch.where(torch.arange(time) < 2, -100, ids) if form == "prompt left out" else ids

    def pack(x, y):
        y = y if form == "same tensor" else y.clone()
        if form in {"tuple", "same tensor"}:
            return x, y
        mask = {"attention_mask": torch.ones_like(x)} if form == "dict with a mask" else {}
        return {"input_ids": x, **mask, "labels": y}

    def run(x, y):
        h = body(embedding(x))
        logits = head(h)
        return m.learn(h[:, :-1], y[:, 1:], logits[:, :-1], head.weight, head.bias)

    m.batch, m.pack, m.run = batch, pack, run
    m.read = lambda b: (b["input_ids"], b["labels"]) if isinstance(b, dict) else b


KINDS = {
    kind.__name__: kind
    for kind in (
        plain, function, tied, chunked, convolution, cosine, adapter, frozen_head, quantized,
        teacher, early_exit, auxiliary, frozen_backbone, swapped, unused, two_steps,
        token_labels, sequence_first, tuples, named, dicts, causal,
    )
}  # fmt: skip


def wild(kind, seed):
    """A network of a kind, with what it trains on; the same for the same seed."""
    draw = Draw(kind, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(draw.rng.integers(2**31)))
        draw.pick("optimizer", "sgd", "adam")
        module = Wild(draw)
        KINDS[kind](module)
        draw.pick("epochs, batches", (1, 2), (1, 3), (2, 1))
        draw.flip("sanity")
        batches = [module.pack(*module.batch()) for _ in range(5)]
    module.loaders = [DataLoader(rows, batch_size=None) for rows in (batches[:3], batches[3:])]
    drawn = {name: value for name, value in draw.drawn.items() if value is not False}
    module.about = ", ".join(f"{name}={value}" for name, value in drawn.items())
    return module
