"""Places that are none, or hold what does not fit, are refused before the first step."""

import pytest
import torch
from support import heads
from support import heads_linear as linear
from support import heads_tokens as tokens
from support import heads_unseen as unseen
from support.heads import train
from support.heads_parts import C, D, Head, truth_of
from support.problems import unchecked_shapes
from torch import nn
from torch.nn import functional as F

BY_NAME = {"classifier": "model.head", "features": "model.body"}


def refused(kind, settings, text, **of_trainer):
    """With a sanity check and without."""
    for checks in (2, 0):
        heads.refused(kind, settings, text, num_sanity_val_steps=checks, **of_trainer)


# Paths


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"classifier": "model.haed"}, r"classifier.*there is no 'model\.haed'.*'model\.head'"),
        ({"classifier": "head"}, r"classifier.*there is no 'head'.*'model\.head'"),
        (
            {"classifier": "model.head.wieght"},
            r"classifier.*'model\.head\.wieght'.*'model\.head\.weight'",
        ),
        ({"classifier": ""}, r"[Ee]xpected .*classifier"),
        ({**BY_NAME, "features": "model.boby"}, r"features.*there is no 'model\.boby'.*'model\.body'"),
        (
            {**BY_NAME, "features": "model.boby:in"},
            r"features.*there is no 'model\.boby'.*'model\.body'",
        ),
        ({**BY_NAME, "features": "model.body:inn"}, r"'model\.body:inn'"),
        ({**BY_NAME, "features": "model.head.weight"}, r"features.*'model\.head\.weight'"),
        ({**BY_NAME, "features": ""}, r"features"),
        ({"layers": ["model.boby"]}, r"layers.*there is no 'model\.boby'.*'model\.body'"),
        ({"layers": ["model.body.*", "modle.*"]}, r"layers.*'modle\.\*'"),
        ({"layers": {"model.boby": "first"}}, r"layers.*there is no 'model\.boby'.*'model\.body'"),
        ({"layers": {"model.body": "frist"}}, r"Expected pool to be 'auto', one of .*but got 'frist'"),
        ({"layers": ["model.boby:in"]}, r"layers.*'model\.boby'.*'model\.body'"),
        ({"layers": "model.body"}, r"list of layers, but got the string 'model\.body'"),
        ({"pool": "men"}, r"Expected pool to be 'auto', one of .*but got 'men'"),
        ({"forwards": "joined"}, r"forwards to be one of .*'concat'.*but got 'joined'"),
        ({"target": "lables"}, r"target='lables' gives"),
        ({"target": 7}, r"target=7 gives"),
        ({"mask": "keep"}, r"mask='keep' names nothing in a list of 2"),
        ({"mask": 5}, r"mask=5 names nothing"),
        ({"mask": "meta.keep"}, r"mask"),
        ({"target": {"train_online": 1}}, r"target for each stage that runs.*not for 'val'"),
    ],
    ids=str,
)
def test_a_path_that_names_nothing_is_refused_with_near_names(settings, text):
    if "'val'" in text:  # without a sanity check, validation comes after the first step
        with unchecked_shapes(), pytest.raises(ValueError, match=text):
            train(linear.Plain, settings)
    else:
        refused(linear.Plain, settings, text)


# Masks


def masked_by(function):
    """Vectors with a mask that a function makes of the labels."""

    class Masked(Head):
        def batch(self):
            x, y = super().batch()
            return {"x": x, "label": y, "keep": function(y)}

        def loss(self, batch):
            return F.cross_entropy(self.head(self.body(batch["x"])), batch["label"])

        def truth(self, batch):
            return truth_of(self.body(batch["x"]), batch["label"], self.head)

    return Masked


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            lambda y: torch.ones(15, dtype=torch.bool),
            r"boolean mask of the labels' shape \(16,\).*torch\.bool of shape \(15,\)",
        ),
        (
            lambda y: torch.ones(16, 2, dtype=torch.bool),
            r"boolean mask of the labels' shape \(16,\).*torch\.bool of shape \(16, 2\)",
        ),
        (
            lambda y: torch.ones(16),
            r"but got torch\.float32 of shape \(16,\)\. Convert it with mask\.bool\(\)",
        ),
        (lambda y: [True] * 16, r"but got a list"),
        (lambda y: "train", r"but got a str"),
        (
            lambda y: torch.zeros(16, dtype=torch.bool),
            r"marks some rows of the first batch, but none of 16",
        ),
        (lambda y: torch.arange(0), r"marks some rows of the first batch, but it is empty"),
        (lambda y: torch.arange(16) - 3, r"row numbers from 0 to 15, but it holds -3"),
        (lambda y: torch.arange(8) + 9, r"row numbers from 0 to 15, but it holds 16"),
        (lambda y: (y > 0).long(), r"zeros and ones: convert it with mask\.bool\(\)"),
        (
            lambda y: torch.ones(16, dtype=torch.uint8),
            r"zeros and ones: convert it with mask\.bool\(\)",
        ),
        (lambda y: torch.arange(4).reshape(2, 2), r"torch\.int64 of shape \(2, 2\)"),
        (lambda y: torch.tensor(3), r"torch\.int64 of shape \(\)"),
    ],
)
def test_a_mask_that_is_none_is_refused(function, text):
    refused(masked_by(function), {"mask": "keep", "target": "label"}, text)


def test_a_stage_without_a_mask_is_refused():
    settings = {"mask": {"val": "keep"}, "target": "label"}
    text = r"mask for each stage that runs.*for val and not for 'train_online'\. Add 'train_online'"
    refused(masked_by(lambda y: y > 0), settings, text)


@pytest.mark.parametrize("as_numbers", [False, True])
def test_a_mask_of_tokens_has_their_shape(as_numbers):
    class Masked(tokens.Tokens):
        def batch(self):
            x, y = super().batch()
            return x, y, torch.arange(4) if as_numbers else torch.ones(y.shape[0], dtype=torch.bool)

    text = r"labels' shape \(8, 5\), or the numbers of the rows that count, but got torch\.(int64|bool)"
    refused(Masked, {"mask": 2, "target": 1}, text)


def test_a_mask_needs_a_label_for_what_it_leaves_out():
    keep = masked_by(lambda y: y > 0)
    text = r"Expected an ignore_index with mask.*Set ignore_index to a number that is no label"
    refused(keep, {"mask": "keep", "target": "label", "ignore_index": None}, text)


# What does not fit


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {**BY_NAME, "features": "model.wide"},
            r"features of the width of 'model\.head', 6, but the output of 'model\.wide' has 9",
        ),
        (
            {**BY_NAME, "features": "model.wide:in", "classifier": "model.square"},
            r"width of 'model\.square', 4, .*has 6.*'model\.square\.T'",
        ),
        (
            {**BY_NAME, "num_classes": 7},
            r"num_classes",
        ),
        (
            {**BY_NAME, "features": "model.unused"},
            r"features='model\.unused' to run in a step, but its hook never fired",
        ),
        (
            {**BY_NAME, "features": "model.pair"},
            r"features='model\.pair' to put out a tensor.*but got a dict",
        ),
        (
            {**BY_NAME, "features": "model.one"},
            r"one label per feature|features",
        ),
    ],
    ids=str,
)
def test_features_that_do_not_fit_are_refused(settings, text):
    refused(Wide, settings, text)


class Pair(nn.Module):
    def forward(self, x):
        return {"x": x}


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(0, keepdim=True)


class Wide(unseen.Fused):
    """Modules of all kinds, beside what counts."""

    def __init__(self):
        super().__init__()
        self.wide, self.pair, self.one = nn.Linear(D, 9), Pair(), Mean()
        self.unused = nn.Linear(D, D)
        self.square = nn.Parameter(torch.randn(D, C))

    def logits(self, batch):
        h = self.body(batch[0])
        for module in (self.wide, self.pair, self.one):
            module(h)
        return F.linear(h, self.head.weight, self.head.bias)


@pytest.mark.parametrize(
    ("edit", "listed"),
    [
        (lambda parts: parts[:-1], r"\(8, 5\), but got 2 forwards, on \(3, 5\), \(3, 5\)"),
        (lambda parts: [*parts, parts[0]], r"\(8, 5\), but got 4 forwards, on \(3, 5\), .*\(3, 5\)\."),
        (lambda parts: [h[:, :4] for h in parts], r"\(8, 5\), but got 3 forwards, on \(3, 4\)"),
    ],
)
def test_chunks_that_do_not_add_up_to_the_labels_are_refused(edit, listed):
    class Chunks(tokens.Tokens):
        def loss(self, batch):
            parts = edit(self.features(batch[0]).chunk(3))
            return sum(self.head(h).square().mean() for h in parts)

    text = rf"chunks that add up to the labels, of shape {listed}.*Does the step leave out positions"
    refused(Chunks, {"forwards": "concat", "classifier": "model.head"}, text)
