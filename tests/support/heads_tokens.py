"""Networks whose rows are tokens."""

import torch
from support.heads_parts import IGNORED, PAD, C, D, Head, balanced, truth_of
from torch import nn
from torch.nn import functional as F


class Tokens(Head):
    """An embedding and a layer for each position; the label of a token is a function of it."""

    vocabulary, time = 12, 5

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(self.vocabulary, D)
        self.body = nn.Sequential(nn.Linear(D, D), nn.ReLU())

    def batch(self):
        y = balanced(8, self.time)
        return torch.randint(0, self.vocabulary // C, y.shape) * C + y, y

    def features(self, x):
        return self.body(self.embedding(x))

    def logits(self, batch):
        return self.head(self.features(batch[0])).movedim(-1, 1)

    def truth(self, batch):
        return truth_of(self.features(batch[0]), batch[1], self.head)


class TokenLabels(Tokens):
    def batch(self):
        x, y = super().batch()
        return x, torch.where(torch.rand(y.shape) < 0.2, IGNORED, y)


class Chunks(Tokens):
    refused, along = "concat", 0

    def loss(self, batch):
        parts = zip(*(t.chunk(3, self.along) for t in (self.features(batch[0]), batch[1])), strict=True)
        return sum(F.cross_entropy(self.head(h).movedim(-1, 1), y, reduction="sum") for h, y in parts)


class Stretches(Chunks):
    refused, along = "one label per feature", 1


class SequenceFirst(Tokens):
    refused = "target"

    def loss(self, batch):
        return F.cross_entropy(self.logits((batch[0].t(),)), batch[1].t())


class LastToken(Tokens):
    refused = "pool"

    def batch(self):
        (x, _), y = super().batch(), balanced(8)
        last = torch.randint(1, self.time, (8, 1))
        x = x.scatter(1, last, x.gather(1, last) // C * C + y[:, None])
        marks = torch.arange(self.time) <= last
        return {"input_ids": x.where(marks, PAD), "attention_mask": marks.long(), "labels": y}

    def last(self, batch, h):
        return h[torch.arange(len(h)), batch["attention_mask"].sum(1) - 1]

    def loss(self, batch):
        logits = self.head(self.features(batch["input_ids"]))
        return F.cross_entropy(self.last(batch, logits), batch["labels"])

    def truth(self, batch):
        h = self.features(batch["input_ids"])
        return truth_of(self.last(batch, h), batch["labels"], self.head)


class MeanAfter(Tokens):
    refused = "pool"

    def batch(self):
        (x, _), y = super().batch(), balanced(8)
        return x - x % C + y[:, None], y

    def logits(self, batch):
        return self.head(self.features(batch[0])).mean(1)

    def truth(self, batch):
        return truth_of(self.features(batch[0]).mean(1), batch[1], self.head)


class LanguageModel(Tokens):
    """The vocabulary is the classes, and the labels are the inputs."""

    vocabulary = C

    def batch(self):
        ids = (balanced(8)[:, None] + torch.arange(self.time)) % C
        ids = torch.where(torch.rand(ids.shape) < 0.2, balanced(*ids.shape), ids)
        return {"input_ids": ids, "labels": ids}

    def logits(self, batch):
        return self.head(self.features(batch["input_ids"]))

    def loss(self, batch):
        logits, ids = self.logits(batch), batch["labels"]
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    def truth(self, batch):
        ids = batch["input_ids"]
        return truth_of(self.features(ids)[:, :-1], ids[:, 1:], self.head)


class Causal(LanguageModel):
    refused = "target_shift"


class TiedEmbedding(LanguageModel):
    refused, unseen = "target_shift", ("train_online",)

    def __init__(self):
        super().__init__()
        del self.head

    def logits(self, batch):
        return F.linear(self.features(batch["input_ids"]), self.embedding.weight)

    def truth(self, batch):
        ids = batch["input_ids"]
        return truth_of(self.features(ids)[:, :-1], ids[:, 1:], self.embedding.weight)


class FirstToken(MeanAfter):
    """A function decides on the first token of what the body puts out."""

    unseen, refused = ("train_online",), "features"

    def logits(self, batch):
        return F.linear(self.features(batch[0])[:, 0], self.head.weight, self.head.bias)

    def truth(self, batch):
        return truth_of(self.features(batch[0])[:, 0], batch[1], self.head)
