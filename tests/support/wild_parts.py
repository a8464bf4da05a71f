"""What random networks are made of: draws by name, a module that notes its truth, bodies, losses."""

import math

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


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
