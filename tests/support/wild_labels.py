"""Random networks by their labels: tokens, tuples, names and language models."""

from collections import namedtuple

import torch
from support.wild_heads import plain
from support.wild_parts import balanced, head_of, meeting, token_body, tokens
from torch import nn


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
