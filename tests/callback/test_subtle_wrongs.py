"""What once gave a wrong value, or another training, without a word."""

import copy
import functools

import pytest
import torch
from support import heads
from support import heads_linear as linear
from support import heads_tokens as tokens
from support import heads_unseen as unseen
from support.heads import assert_right, network_of, quiet, train
from support.heads_parts import IGNORED, C, D, Head, Truth, truth_of
from support.problems import assert_measures, of_default, unchecked_shapes
from support.training import assert_close, trainer
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune, weight_norm
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning
from lightning_nc.measure import measure

HEAD = {"classifier": "model.head"}
BY_NAME = {"classifier": "model.head", "features": "model.body"}
BY_WEIGHT = {"classifier": "model.head.weight", "features": "model.body"}
OTHER_LABELS = "labels in the batch to be those of the classifier's loss"


def changed(before, module):
    """The names of what is other than it was."""
    return [name for name, t in module.state_dict().items() if not torch.equal(t, before[name])]


refused = functools.partial(heads.refused, error=ValueError)


def measured(model, batches, **settings):
    """Of a network that takes the whole batch."""
    return measure(
        model, batches, forward=lambda model, batch: model(batch), progress=False, **settings
    )


def validate(kind, **settings):
    """In inference mode, without a training before."""
    module, run = network_of(kind), trainer([NeuralCollapseCallback(**settings)])
    with quiet():
        run.validate(module, DataLoader(heads.batches_of(kind)[1], batch_size=None), verbose=False)
    return module, run


def assert_layer_right(module, run, stage, which=0, epoch=0):
    """What is logged of model.body; it has no counts of its own."""
    reference = module.reference(stage, epoch, which).items()
    reference = {key: value for key, value in reference if not key.startswith("nc0/")}
    assert_close(run.callback_metrics, reference, stage, "/model.body")


# A weight that is made anew whenever it is read


def normalized(head):
    """In train mode, each look at the weight is a step of an iteration that has not come to rest."""
    head = spectral_norm(head)
    with torch.no_grad():
        head.parametrizations.weight.original.normal_()
    return head


class Spectral(linear.Plain):
    def __init__(self):
        super().__init__()
        self.head = normalized(self.head)


class OtherSpectral(linear.Other):
    def __init__(self):
        super().__init__()
        self.head = normalized(self.head)


class Cached(Spectral):
    """Whoever reads the weight first, without gradients, would be the one who made it."""

    def loss(self, batch):
        with parametrize.cached():
            return super().loss(batch)


@pytest.mark.parametrize("settings", [BY_WEIGHT, BY_NAME, HEAD], ids=["weight", "features", "head"])
@pytest.mark.parametrize("kind", [Spectral, OtherSpectral, Cached])
def test_a_weight_that_each_look_changes_is_looked_at_without_a_change(kind, settings):
    plain, _ = train(kind)
    module, run = train(kind, settings)
    assert changed(plain.state_dict(), module) == []
    assert_right(module, run)


@pytest.mark.parametrize("name", ["head.weight", "head"])
@pytest.mark.parametrize("kind", [Spectral, OtherSpectral])
def test_measure_looks_at_it_without_a_change(kind, name):
    model = network_of(kind).model
    before = copy.deepcopy(model.state_dict())
    measured(model, heads.batches_of(kind)[1], classifier=name, features="body")
    assert changed(before, model) == []


# Rows that the next module changes in place


class InPlace(tokens.TokenLabels):
    def __init__(self):
        super().__init__()
        self.body, self.act = nn.Linear(D, D), nn.ReLU(inplace=True)
        with torch.no_grad():  # tokens of a class are alike
            classes = torch.arange(self.vocabulary) % C
            self.embedding.weight.copy_(self.embedding.weight / 4 + 2 * F.one_hot(classes, D))

    def logits(self, batch):
        return self.head(self.act(self.features(batch[0]))).movedim(-1, 1)

    def truth(self, batch):
        """That of the layer, with the network's decisions."""
        predicted, h = self.logits(batch).argmax(1), self.features(batch[0])
        return Truth(self.rows(h), batch[1].reshape(-1), predicted.reshape(-1))

    def rows(self, h):
        return h.reshape(-1, D)


class InPlaceFirst(InPlace):
    def batch(self):
        x, _ = super().batch()
        return x - x % C + x[:, :1] % C, x[:, 0] % C

    def logits(self, batch):
        return self.head(self.act(self.features(batch[0]))[:, 0])

    def rows(self, h):
        return h[:, 0]


class InPlaceFlat(InPlaceFirst):
    def rows(self, h):
        return h.flatten(1)


@pytest.mark.parametrize(
    ("kind", "pool"), [(InPlace, "auto"), (InPlaceFirst, "first"), (InPlaceFlat, "flatten")]
)
def test_a_layer_is_measured_before_the_next_changes_it_in_inference_mode(kind, pool):
    assert_layer_right(*validate(kind, **HEAD, layers={"model.body": pool}), "val")


# W is the one that the head has applied


class Tells(Head):
    """Keeps what it has met: W changes between the body and the head, and cannot be copied before."""

    def make(self):
        """Its weight, between the body and the head."""

    def loss(self, batch):
        h = self.body(batch[0])
        self.make()
        logits = self.head(h)
        met = truth_of(h, batch[1], self.head, logits)
        self.met = Truth(*(t.detach().clone() for t in met))
        return F.cross_entropy(logits, batch[1])


class Pruned(Tells):
    def __init__(self):
        super().__init__()
        prune.l1_unstructured(self.head, "weight", amount=0.5)


class OldWeightNorm(Tells):
    def __init__(self):
        super().__init__()
        self.head = weight_norm(self.head)


class NormalizedByTheStep(Tells):
    def make(self):
        with torch.no_grad():
            self.head.weight.copy_(F.normalize(self.head.weight))


class Told(heads.Runs):
    """Notes what the network says it has met."""

    def keep(self, stage, batch):
        loss = self.model(batch)
        if not self.trainer.sanity_checking:
            self.noted.setdefault((stage, self.current_epoch), []).append([self.model.met])
        return loss

    def training_step(self, batch, batch_idx):
        return self.keep("train_online", batch)

    def validation_step(self, batch, batch_idx):
        return self.keep("val", batch)


MADE_ANEW = pytest.mark.parametrize("kind", [Pruned, OldWeightNorm, NormalizedByTheStep])
OLD_WEIGHT_NORM = "ignore:.*weight_norm.* is deprecated:FutureWarning"


@pytest.mark.filterwarnings(OLD_WEIGHT_NORM)
@MADE_ANEW
def test_the_weight_is_the_one_that_the_head_applied(kind):
    module, run = train(kind, BY_NAME, module=Told(network_of(kind).model))
    assert_right(module, run)
    module.model.unseen = ("train_online",)
    assert_right(module, run, "train_online")


@pytest.mark.filterwarnings(OLD_WEIGHT_NORM)
@MADE_ANEW
def test_measure_takes_the_weight_that_the_head_applied(kind):
    module = Told(network_of(kind).model)
    with torch.no_grad():  # what is made of these is made again as the head runs
        for p in module.model.parameters():
            p.mul_(1 + torch.arange(len(p)).reshape(-1, *[1] * (p.ndim - 1)))
    met = []
    module.model.register_forward_hook(lambda model, args, output: met.append([model.met]))
    found = measured(module.model, heads.batches_of(kind)[1], classifier="head", features="body")
    module.noted["val", 0] = met
    assert_measures(found.values, of_default(module.reference("val", 0)))


# Rows and labels in one order


class InOrder(Head):
    """A loss in chunks of the batch."""

    def chunks(self, t):
        return t.split(6)

    def loss(self, batch):
        parts = zip(*map(self.chunks, (self.body(batch[0]), batch[1])), strict=True)
        return sum(F.cross_entropy(self.head(h), y, reduction="sum") for h, y in parts)


class Interleaved(InOrder):
    def chunks(self, t):
        return [t[k::2] for k in range(2)]


class LastFirst(InOrder):
    def chunks(self, t):
        return t.split(6)[::-1]


def test_chunks_in_the_order_of_the_labels_are_right():
    module, run = train(InOrder, {**HEAD, "forwards": "concat"})
    for stage in ("train_online", "val"):
        assert_right(module, run, stage)


@pytest.mark.parametrize("kind", [Interleaved, LastFirst])
def test_chunks_in_another_order_are_refused(kind):
    refused(kind, {**HEAD, "forwards": "concat"}, OTHER_LABELS)


class Permuted(unseen.Fused):
    """Takes rows and labels in another order, and applies its weight as a function."""

    def loss(self, batch):
        return super().loss([t.flip(0) for t in batch])


class PermutedModule(linear.Plain):
    def loss(self, batch):
        return super().loss([t.flip(0) for t in batch])


@pytest.mark.parametrize("kind", [Permuted, PermutedModule])
def test_rows_that_the_step_permutes_before_the_features_are_refused(kind):
    refused(kind, BY_NAME, OTHER_LABELS)


def test_decisions_in_another_order_of_dimensions_are_refused():
    model, batches = network_of(tokens.Tokens).model, heads.batches_of(tokens.Tokens)[1]
    settings = {"classifier": "head", "features": "body", "target": 1, "progress": False}

    def run(model, batch):
        return model.head(model.features(batch[0])).argmax(-1)

    truths = [model.truth(batch) for batch in batches]
    found = measure(model, batches, forward=run, predicted=lambda batch, out: out, **settings)
    assert found.values["nc0/accuracy"] == pytest.approx(
        float(torch.cat([truth.predicted == truth.y for truth in truths]).double().mean())
    )
    text = r"of shape \(8, 5\), but got torch\.int64 of shape \(5, 8\)"
    with unchecked_shapes(), pytest.raises(ValueError, match=text):
        measure(model, batches, forward=run, predicted=lambda batch, out: out.t(), **settings)


# Which rows count


def counts_of(classes, labels, mask=None, shift=0):
    """Rows of each class that a network with so many finds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, classes), nn.Linear(classes, classes))
    batch = {"x": torch.randn(*labels.shape, 5), "y": labels, "counts": mask}
    places = {"target": "y", "target_shift": shift, "mask": None if mask is None else "counts"}
    settings = {"forward": lambda model, batch: model(batch["x"]), "measures": "nc0/*"}
    found = measure(model, [batch], classifier="1", progress=False, **places, **settings)
    return found.statistics.counts.tolist()


# -100 is 156 in uint8, and True in bool
BYTES = torch.arange(480).reshape(8, 60).mul(7).remainder(200).to(torch.uint8)
MARKS = torch.arange(480).reshape(8, 60) % 3 > 0
YES_OR_NO = torch.arange(40) % 5 < 2


def test_labels_of_bytes_count_where_a_mask_marks_them():
    assert counts_of(200, BYTES, MARKS) == BYTES[MARKS].bincount(minlength=200).tolist()


def test_labels_of_bytes_count_with_a_shift():
    assert counts_of(200, BYTES, shift=1) == BYTES[:, 1:].reshape(-1).bincount(minlength=200).tolist()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_labels_of_yes_or_no_count_at_row_numbers(dtype):
    rows = torch.tensor([0, 3, 4, 11, 20, 22, 39])
    expected = YES_OR_NO[rows].long().bincount(minlength=2).tolist()
    assert counts_of(2, YES_OR_NO.to(dtype), rows) == expected


class LeftPadded(tokens.LanguageModel):
    """No padding is a row or a label."""

    def batch(self):
        starts = torch.arange(8)[:, None] % 3
        return {**super().batch(), "attention_mask": (torch.arange(self.time) >= starts).long()}

    def next_tokens(self, batch):
        marks = batch["attention_mask"].bool()
        return batch["labels"][:, 1:].where(marks[:, 1:] & marks[:, :-1], IGNORED)

    def loss(self, batch):
        logits = self.logits(batch)[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), self.next_tokens(batch).flatten())

    def truth(self, batch):
        h = self.features(batch["input_ids"])[:, :-1]
        return truth_of(h, self.next_tokens(batch), self.head)


def test_padding_on_the_left_does_not_count():
    settings = {**HEAD, "target": "labels", "target_shift": 1, "mask": "attention_mask"}
    module, run = train(LeftPadded, settings)
    for stage in ("train_online", "val"):
        assert_right(module, run, stage)


# Layers


class Consistent(linear.Plain):
    """The body runs again before the head, on other rows."""

    def loss(self, batch):
        h = self.body(batch[0])
        other = self.body(-batch[0])
        return F.cross_entropy(self.head(h), batch[1]) + 1e-3 * other.square().mean()

    def truths(self, batch):
        met = self.truth(batch)
        return [met, Truth(self.body(-batch[0]), batch[1], met.predicted)]


def test_a_layer_that_runs_twice_before_the_head_is_said_once():
    with pytest.warns(NeuralCollapseWarning) as said:
        module, run = train(Consistent, {**HEAD, "layers": ["model.body"]})
    [text] = [str(w.message) for w in said if w.category is NeuralCollapseWarning]
    assert "Layers 'model.body' ran several times before the classifier did, and the last" in text
    for stage in ("train_online", "val"):
        assert_right(module, run, stage)
        assert_layer_right(module, run, stage, which=1, epoch=1)


class Encoder(Head):
    """torch's own encoder leaves padding out in eval mode: its tokens are a nested tensor there."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(D, 2, 8, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)

    def batch(self):
        x, y = super().batch()
        padding = torch.arange(7) >= torch.tensor([7, 5])[torch.arange(len(y)) % 2, None]
        return torch.randn(len(y), 7, D) + F.pad(x, (0, 1))[:, None], y, padding

    def logits(self, batch):
        return self.head(self.body(batch[0], src_key_padding_mask=batch[2])[:, 0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_layers_whose_tokens_are_nested_are_refused():
    text = r"to be a dense tensor, but it is nested\..*enable_nested_tensor=False"
    with unchecked_shapes(), pytest.raises(ValueError, match=text):
        validate(Encoder, **HEAD, target=1, layers={"model.body.layers.*": "first"})


# A head of another package, a refusal


class BiasOfOneRow(linear.Other):
    def __init__(self):
        super().__init__()
        self.head.bias = nn.Parameter(2 * torch.randn(1, C))

    def truth(self, batch):
        h, logits = self.body(batch[0]), self.logits(batch)
        return truth_of(h, batch[1], self.head.weight, logits)._replace(bias=self.head.bias.reshape(-1))


@pytest.mark.parametrize("settings", [HEAD, BY_NAME], ids=["head", "features"])
def test_a_bias_of_one_row_counts(settings):
    assert_right(*train(BiasOfOneRow, settings))


def test_a_refusal_leaves_no_hook_on_a_compiled_network():
    net = nn.Sequential(nn.Linear(5, D), nn.Linear(D, C))
    compiled = torch.compile(net, backend="eager")
    with pytest.raises(ValueError, match="Expected num_classes with classifier=False"):
        measure(compiled, heads.batches_of(Head)[1], classifier=False, features="0", progress=False)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in compiled.modules())
