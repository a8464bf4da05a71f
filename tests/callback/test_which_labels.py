"""Which labels are measured, and in which order: certain, or refused before the first step."""

from typing import NamedTuple

import lightning as L
import pytest
import torch
from support.oracles import reference_measures
from support.training import BATCH, Network, assert_close, digits, fit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_nc import NeuralCollapseCallback

CLASSES, WIDTH = 5, 8


def refused(module, text, train, **settings):
    before = {name: p.clone() for name, p in module.named_parameters()}
    with pytest.raises(ValueError, match=text):
        fit(module, [NeuralCollapseCallback(**settings)], train=train, val=train)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


class Tokens(L.LightningModule):
    """Notes rows in the order of its features, and labels in the same."""

    def __init__(self, batch_first=False, flat=False):
        super().__init__()
        self.body = nn.GRU(3, WIDTH, batch_first=batch_first)
        self.fc = nn.Linear(WIDTH, CLASSES)
        self.batch_first, self.flat = batch_first, flat
        self.noted = {"train_online": [], "val": []}

    def step(self, stage, batch):
        x, y = batch
        h, _ = self.body(x if self.batch_first else x.transpose(0, 1))
        h = h.contiguous().reshape(-1, WIDTH) if self.flat else h
        logits = self.fc(h)
        y = (y if self.batch_first else y.T).reshape(-1)
        rows = h.detach().reshape(-1, WIDTH), y, logits.detach().reshape(-1, CLASSES).argmax(1)
        self.noted[stage].append(
            (*rows, self.fc.weight.detach().clone(), self.fc.bias.detach().clone())
        )
        return F.cross_entropy(logits.reshape(-1, CLASSES), y)

    def training_step(self, batch, batch_idx):
        return self.step("train_online", batch)

    def validation_step(self, batch, batch_idx):
        return self.step("val", batch)

    def on_validation_start(self):
        self.noted["val"].clear()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def reference(self, stage):
        h, y, decided = (torch.cat([row[i] for row in self.noted[stage]]) for i in range(3))
        h, weight, bias = (t.double().numpy() for t in (h, *self.noted[stage][-1][3:]))
        return reference_measures(
            h, y.numpy(), CLASSES, predicted=decided.numpy(), weight=weight, bias=bias
        )


def sequences(time=6, rows=24, batch=8):
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(0, CLASSES, (rows, time), generator=draw)
    x = torch.randn(CLASSES, 3, generator=draw)[y] + 0.3 * torch.randn(rows, time, 3, generator=draw)
    return DataLoader(TensorDataset(x, y), batch)


def transposed(batch):
    return batch[1].T


def flattened(batch):
    return batch[1].T.reshape(-1)


def test_labels_in_another_order_than_the_features_are_refused():
    refused(
        Tokens(),
        r"of leading dimensions \(6, 8\) and labels of shape \(8, 6\), which differ.*Set target",
        sequences(),
    )


def test_where_both_dimensions_are_equal_the_order_has_to_be_told():
    square = sequences(time=8)
    refused(Tokens(), r"two of which are equal, so that the network may run sequence first", square)
    module = Tokens(batch_first=True)  # as its modules tell
    run = fit(module, [NeuralCollapseCallback()], train=square, val=square, max_epochs=1)
    assert_close(run.callback_metrics, module.reference("train_online"), "train_online")


@pytest.mark.parametrize(("flat", "target"), [(False, transposed), (True, flattened)])
@pytest.mark.parametrize("time", [6, 8])
def test_a_target_function_gives_the_labels_in_the_order_of_the_features(time, flat, target):
    module, data = Tokens(flat=flat), sequences(time)
    run = fit(module, [NeuralCollapseCallback(target=target)], train=data, val=data, max_epochs=1)
    for stage in ("train_online", "val"):
        assert_close(run.callback_metrics, module.reference(stage), stage)


def test_tokens_that_are_flattened_before_the_head_are_measured_where_their_order_shows():
    module, data = Tokens(batch_first=True, flat=True), sequences()
    run = fit(module, [NeuralCollapseCallback()], train=data, val=data, max_epochs=1)
    for stage in ("train_online", "val"):
        assert_close(run.callback_metrics, module.reference(stage), stage)
    # sequence first, and flat: nothing shows
    refused(Tokens(flat=True), r"leading dimensions \(6, 8\) and labels of shape \(8, 6\)", data)


# Language models


class Causal(L.LightningModule):
    """Its labels are its inputs, which it shifts inside."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, WIDTH)
        self.body = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.fc = nn.Linear(WIDTH, CLASSES)
        self.rows = []

    def training_step(self, batch, batch_idx):
        x, y = batch["input_ids"], batch["labels"]
        h, _ = self.body(self.embedding(x))
        logits = self.fc(h)[:, :-1].reshape(-1, CLASSES)
        shifted = y[:, 1:].reshape(-1)
        self.rows.append(
            (h[:, :-1].detach().reshape(-1, WIDTH), shifted, logits.detach().argmax(1),
             self.fc.weight.detach().clone(), self.fc.bias.detach().clone())
        )  # fmt: skip
        return F.cross_entropy(logits, shifted)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Text(Dataset):
    """It counts up; its labels are a copy of its inputs, but for a prompt that is left out."""

    def __init__(self, prompt=0):
        self.tokens = (torch.arange(24)[:, None] + torch.arange(7)) % CLASSES
        self.prompt = prompt

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, i):
        labels = self.tokens[i].clone()
        labels[: self.prompt] = -100
        return {"input_ids": self.tokens[i], "labels": labels}


@pytest.mark.parametrize("prompt", [0, 3])
def test_labels_that_are_the_inputs_are_refused(prompt):
    text = r"labels that are not the inputs.*\(8, 7\).*target_shift=1"
    refused(Causal(), text, DataLoader(Text(prompt), 8))


def test_the_label_of_a_token_is_the_next_one_if_asked_for():
    module, data = Causal(), DataLoader(Text(), 8)
    run = fit(module, [NeuralCollapseCallback(target_shift=1)], train=data, max_epochs=1,
              limit_val_batches=0)  # fmt: skip
    h, y, decided = (torch.cat([row[i] for row in module.rows]) for i in range(3))
    h, weight, bias = (t.double().numpy() for t in (h, *module.rows[-1][3:]))
    reference = reference_measures(
        h, y.numpy(), CLASSES, predicted=decided.numpy(), weight=weight, bias=bias
    )
    assert reference["nc0/num_samples"] == 24 * 6
    assert_close(run.callback_metrics, reference, "train_online")


def test_where_they_are_may_be_said_and_a_shift_needs_a_label_that_says_nothing():
    data = DataLoader(Text(), 8)
    run = fit(Causal(), [NeuralCollapseCallback(target="labels")], train=data, limit_val_batches=0)
    assert run.callback_metrics["nc0/num_samples/train_online"] == 24 * 7
    refused(Causal(), "an ignore_index with target_shift", data, target_shift=1, ignore_index=None)
    with pytest.raises(ValueError, match="target_shift to be at least 0, but got -1"):
        NeuralCollapseCallback(target_shift=-1)


# Batches with several that could be the labels

X, Y = digits().tensors
DOMAIN = torch.arange(len(Y)) % 3


class Triple(NamedTuple):
    x: torch.Tensor
    domain: torch.Tensor
    label: torch.Tensor


class TakesLast(Network):
    def note(self, stage, batch):
        x, _, y = batch.values() if isinstance(batch, dict) else batch
        return super().note(stage, (x, y))

    def training_step(self, batch, batch_idx):
        return self.note("train_online", batch)


def as_triples(rows):
    return Triple(*(torch.stack(column) for column in zip(*rows, strict=True)))


def as_dicts(rows):
    return dict(zip(("x", "category", "y"), as_triples(rows), strict=True))


def loader(collate=None):
    return DataLoader(TensorDataset(X, DOMAIN, Y), BATCH, collate_fn=collate)


def test_several_integer_tensors_are_a_doubt_that_target_settles():
    refused(
        TakesLast(), r"which of a batch are the labels.*where 1 and 2 could be\. Set target", loader()
    )
    module = TakesLast()
    run = fit(module, [NeuralCollapseCallback(target=2)], train=loader(), val=loader())
    assert_close(run.callback_metrics, module.reference("val", 1), "val")


def test_a_field_named_label_comes_before_positions():
    module, data = TakesLast(), loader(as_triples)
    run = fit(module, [NeuralCollapseCallback()], train=data, val=data)
    assert_close(run.callback_metrics, module.reference("val", 1), "val")


def test_a_key_named_y_beside_others_is_a_doubt():
    refused(TakesLast(), r"where 'y' and 'category' could be\. Set target", loader(as_dicts))


# The labels of the loss are those of the batch


class Shuffles(Network):
    """Reorders its rows, and their labels with them."""

    def note(self, stage, batch):
        order = torch.arange(len(batch[1])).flip(0)
        return super().note(stage, [each[order] for each in batch])


class Masks(Network):
    """Trains on some of the rows alone."""

    def note(self, stage, batch):
        x, y = batch
        return F.cross_entropy(self(x)[::2], y[::2])


class Grouped(Network):
    def note(self, stage, batch):
        return super().note(stage, (batch[0], batch[1] // 2))


class LeavesOut(Network):
    """Its loss leaves out a label."""

    def note(self, stage, batch):
        return F.cross_entropy(self(batch[0]), batch[1], ignore_index=0)


class Pretext(Network):
    """First another head with labels of its own is trained."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Linear(16, 12)

    def training_step(self, batch, batch_idx):
        h = self.features(batch[0])
        return F.cross_entropy(self.turn(h), torch.arange(len(h)) % 12)


class TimeMajor(Tokens):
    """Batch first, and flattened with time in front."""

    def step(self, stage, batch):
        h, _ = self.body(batch[0])
        return F.cross_entropy(self.fc(h.permute(1, 0, 2).flatten(0, 1)), batch[1].T.flatten())


PLAIN = DataLoader(digits(), BATCH)
OTHERS = r"to be those of the classifier's loss, but that has \d+ labels .*, and the batch \d+ labels"


@pytest.mark.parametrize(
    ("network", "data", "text"),
    [
        (Shuffles, PLAIN, OTHERS),
        (Masks, PLAIN, OTHERS),
        (Grouped, PLAIN, OTHERS),
        (Pretext, PLAIN, OTHERS),
        (
            LeavesOut,
            PLAIN,
            r"the loss leaves out label 0, and ignore_index is -100. Set ignore_index=0",
        ),
        (
            lambda: TimeMajor(batch_first=True),
            sequences(),
            r"leading dimensions \(48,\) and labels of shape \(8, 6\)",
        ),
    ],
)
@pytest.mark.parametrize("classifier", [None, "fc"])
def test_a_loss_of_other_labels_is_refused(network, data, text, classifier):
    if network is Pretext and classifier:
        text = r"forward of 'fc' to run in a step, but its hook never fired"
        with pytest.raises(RuntimeError, match=text):
            fit(network(), [NeuralCollapseCallback(classifier="fc")], num_sanity_val_steps=0)
        return
    refused(network(), text, data, classifier=classifier)


def halves(batch):
    y = batch[1].clone()
    y[1::2] = -100
    return y


def test_a_target_function_says_which_rows_a_loss_is_of():
    run = fit(Masks(), [NeuralCollapseCallback(target=halves)], train=PLAIN, val=PLAIN)
    assert run.callback_metrics["nc0/num_samples/train_online"] == len(digits()) // 2


class TwoLosses(Network):
    """One of the batch's labels, as mixup has it, and one of the others."""

    def keep(self, stage, h, y, logits):
        super().keep(stage, h, y, logits)
        self.other = F.cross_entropy(logits, y.flip(0), label_smoothing=0.1)

    def note(self, stage, batch):
        return 0.9 * super().note(stage, batch) + 0.1 * self.other


class Maps(Network):
    """Logits and labels of several dimensions."""

    def note(self, stage, batch):
        x, y = batch
        h = self.features(x)
        logits = self.fc(h)
        self.keep(stage, h, y, logits)
        return F.cross_entropy(logits.reshape(-1, 4, 10).mT, y.reshape(-1, 4))


@pytest.mark.parametrize("network", [TwoLosses, Maps])
@pytest.mark.parametrize("classifier", [None, "fc"])
def test_one_loss_of_the_batchs_labels_is_enough(network, classifier):
    module = network()
    run = fit(module, [NeuralCollapseCallback(classifier=classifier)])
    assert_close(run.callback_metrics, module.reference("train_online", 1), "train_online")
