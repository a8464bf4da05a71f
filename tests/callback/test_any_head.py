"""Heads and labels beyond the table of docs/models.md: right, or refused with what to set."""

from types import SimpleNamespace

import pytest
import torch
from support import heads
from support import heads_labels as labels
from support import heads_linear as linear
from support import heads_tokens as tokens
from support import heads_unseen as unseen
from support.heads import assert_right, network_of, refused, train
from support.heads_parts import IGNORED, C, D, Head, balanced, truth_of
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lightning_nc import NeuralCollapseCallback

HEAD = {"classifier": "model.head"}
BY_NAME = {"classifier": "model.head", "features": "model.body"}


# Convolutions


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"kernel_size": 1, "padding": 1}, r"padding \(1, 1\)"),
        ({"kernel_size": 1, "stride": 2}, r"stride \(2, 2\)"),
        ({"kernel_size": 1, "groups": 2}, r"groups 2"),
        ({"kernel_size": 3, "padding": 1}, r"Kernel \(3, 3\)"),
    ],
)
def test_a_convolution_that_does_not_map_each_position_by_itself_is_refused(settings, shown):
    class Odd(linear.Maps):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(D, C, **settings)

    refused(Odd, HEAD, rf"it is a Conv2d\..*{shown}.*does not map each position by itself")


@pytest.mark.parametrize("dimensions", [1, 3])
@pytest.mark.parametrize("of_one_row", [False, True])
def test_convolutions_of_any_dimension_map_positions(dimensions, of_one_row):
    kinds = {1: nn.Conv1d, 3: nn.Conv3d}
    # two sizes that are equal do not matter: the head says that it is batch first
    shape = (*((4,) if not of_one_row else ()), *(4, 3, 4)[:dimensions], *((12,) if of_one_row else ()))

    class Volumes(linear.Maps):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(kinds[dimensions](1, D, 1), nn.ReLU())
            self.head = kinds[dimensions](D, C, 1, bias=False)

        def batch(self):
            y = balanced(*shape[: dimensions + (not of_one_row)])
            x = 0.5 * torch.randn(y.shape) + y
            return x.unsqueeze(0 if of_one_row else 1), y

        def loss(self, batch):
            if of_one_row:
                return F.cross_entropy(self.logits(batch)[None], batch[1][None])
            return super().loss(batch)

        def truth(self, batch):
            h = self.body(batch[0]).movedim(0 if of_one_row else 1, -1)
            return truth_of(h, batch[1], self.head)

    module, run = train(Volumes, HEAD)
    for stage in ("train_online", "val"):
        assert_right(module, run, stage)


def test_segmentation_of_as_many_images_as_rows_and_columns_is_in_order():
    class Cube(linear.Maps):
        def batch(self):
            y = balanced(5, 5, 5)
            return (0.5 * torch.randn(y.shape) + y)[:, None], y

    module, run = train(Cube, HEAD)
    for stage in ("train_online", "val"):
        assert_right(module, run, stage)


def test_segmentation_whose_labels_are_columns_first_is_refused():
    class Turned(linear.Maps):
        def batch(self):
            x, y = super().batch()
            return x.transpose(2, 3), y

        def loss(self, batch):
            return F.cross_entropy(self.logits(batch), batch[1].transpose(1, 2))

    refused(Turned, HEAD, r"labels whose leading dimensions agree in their order")


# Names


@pytest.mark.parametrize(
    ("kind", "settings", "text"),
    [
        (unseen.Fused, {**BY_NAME, "classifier": "model.head.T"}, r"there is no 'model\.head\.T'"),
        (
            unseen.Fused,
            {**BY_NAME, "classifier": "model.head.bias"},
            r"two-dimensional parameter.*shape \(4,\)\. Is it a bias",
        ),
        (
            unseen.Fused,
            {**BY_NAME, "classifier": "model.body"},
            r"but it is a Sequential\. Did you mean model\.body\.0\?",
        ),
        (
            tokens.TiedEmbedding,
            {"classifier": "model.embedding", "target_shift": 1},
            r"Expected features with classifier='model\.embedding'.*applied as a function",
        ),
        (
            unseen.Parameter,
            HEAD,
            r"Expected features with classifier='model\.head'.*shape \(4, 6\) is applied as a function",
        ),
        (
            unseen.Fused,
            {**BY_NAME, "features": "model.body.0:out"},
            r"model\.body\.0:out",
        ),
    ],
)
def test_what_a_name_cannot_be_is_said(kind, settings, text):
    refused(kind, settings, text)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"classifier": False}, r"Expected features with classifier=False, but got none"),
        ({"features": "model.body"}, r"Expected a classifier with features='model\.body'"),
        ({"classifier": True}, r"dotted path of a linear map.*got True"),
    ],
)
def test_features_and_classifier_belong_together(settings, text):
    with pytest.raises(ValueError, match=text):
        NeuralCollapseCallback(**settings)


def test_features_without_a_head_need_a_number_of_classes():
    refused(unseen.Headless, {"classifier": False, "features": "model.body"}, r"Set num_classes")


def test_features_of_another_width_than_the_classifier_offer_its_columns():
    class Square(unseen.Parameter):
        def __init__(self):
            super().__init__()
            self.head = nn.Parameter(0.3 * torch.randn(D, C))

        def logits(self, batch):
            return self.body(batch[0]) @ self.head

    text = r"width of 'model\.head', 4, but the output of 'model\.body' has 6.*\('model\.head\.T'\)\?"
    refused(Square, BY_NAME, text)


def test_the_input_of_a_module_may_be_the_feature():
    module, run = train(
        unseen.Fused, {**BY_NAME, "features": "model.tail:in"}, module=network_of(Tailed)
    )
    for stage in ("train_online", "val"):
        assert_right(module, run, stage)


class Tailed(unseen.Fused):
    """Between features and head there is a module that only looks."""

    def __init__(self):
        super().__init__()
        self.tail = nn.Identity()

    def logits(self, batch):
        return F.linear(self.tail(self.body(batch[0])), self.head.weight, self.head.bias)


def test_the_weight_of_a_linear_layer_brings_its_bias():
    module, run = train(unseen.Fused, {**BY_NAME, "classifier": "model.head.weight"})
    for stage in ("train_online", "val"):
        assert_right(module, run, stage)


def test_features_of_more_rows_than_labels_are_refused_without_a_pool():
    refused(tokens.FirstToken, BY_NAME, "Set pool")


def test_a_checkpoint_around_the_loss_is_not_recomputed_once_more():
    class Checkpointed(linear.Plain):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(5, D), nn.BatchNorm1d(D))

        def forward(self, batch):
            return checkpoint(self.loss, batch, use_reentrant=False)

    module, run = train(Checkpointed, {})
    for stage in ("train_online", "val"):
        assert_right(module, run, stage)
    alone, _ = train(Checkpointed)
    assert all(map(torch.equal, alone.state_dict().values(), module.state_dict().values()))


def test_another_linear_layer_may_add_its_bias_outside_of_what_autocast_casts():
    module, run = train(linear.Other, HEAD, precision="bf16-mixed")
    assert_right(module, run)


# Chunks


class Flat(tokens.Chunks):
    """Chunks of all tokens, of unequal sizes."""

    sizes = (7, 1, 20, 12)

    def __init__(self):
        super().__init__()
        self.norm = nn.Linear(D, D)
        self.inside = nn.Linear(D, D)

    def features(self, x):
        return self.norm(super().features(x))

    def loss(self, batch):
        x, y = batch
        h, y = self.features(x).flatten(0, 1), y.flatten()
        parts = zip(h.split(self.sizes), y.split(self.sizes), strict=True)
        return (
            sum(F.cross_entropy(self.head(self.inside(a)), b, reduction="sum") for a, b in parts) / 40
        )

    def truth(self, batch):
        return truth_of(self.inside(self.features(batch[0])), batch[1], self.head)


class FlatByRow(Flat):
    """Of the rows, with all their tokens."""

    def loss(self, batch):
        x, y = batch
        parts = zip(self.features(x).split((1, 5, 2)), y.split((1, 5, 2)), strict=True)
        each = (F.cross_entropy(self.head(self.inside(a)).flatten(0, 1), b.flatten()) for a, b in parts)
        return sum(each)


@pytest.mark.parametrize("kind", [Flat, FlatByRow])
@pytest.mark.parametrize("classifier", [None, "model.head"])
def test_chunks_of_any_size_are_put_together_with_layers_before_and_inside(kind, classifier):
    layers = {"model.norm": "tokens", "model.inside": "tokens"}
    # flat chunks are in the order of the labels: the place of these vouches for it
    settings = {"forwards": "concat", "classifier": classifier, "layers": layers, "target": 1}
    module, run = train(kind, settings)
    for stage in ("train_online", "val"):
        mine = {k: v for k, v in run.callback_metrics.items() if k.endswith(f"/{stage}")}
        reference = module.reference(stage, 1)
        heads.assert_close(mine, reference, stage)
        # the layer inside puts out the head's input; the one before other rows, of the same labels
        for key in ("nc1/cdnv", "nc1/within_between_pinv"):
            inside = run.callback_metrics[f"{key}/{stage}/model.inside"]
            assert inside == pytest.approx(reference[key], rel=1e-5)
            assert run.callback_metrics[f"{key}/{stage}/model.norm"] != inside


def test_chunks_that_leave_rows_out_are_refused():
    class Short(tokens.Chunks):
        def loss(self, batch):
            x, y = batch
            h, y = self.features(x)[:, :-1], y[:, 1:]
            parts = zip(h.chunk(3), y.chunk(3), strict=True)
            return sum(F.cross_entropy(self.head(a).movedim(-1, 1), b) for a, b in parts)

    text = r"chunks that add up to the labels, of shape \(8, 5\), but got 3 forwards, on \(3, 4\),"
    refused(Short, {"forwards": "concat"}, text)


def test_a_layer_inside_chunks_of_the_sequence_is_refused():
    class Inside(tokens.Stretches):
        def __init__(self):
            super().__init__()
            self.inside = nn.Identity()

        def loss(self, batch):
            parts = zip(self.features(batch[0]).chunk(3, 1), batch[1].chunk(3, 1), strict=True)
            return sum(
                F.cross_entropy(self.head(self.inside(h)).movedim(-1, 1), y, reduction="sum")
                for h, y in parts
            )

    settings = {"forwards": "concat", "layers": {"model.inside": "tokens"}}
    refused(Inside, settings, r"'model\.inside' to run once before the chunks")


# Adapters of peft

FROM_PEFT = pytest.mark.filterwarnings("ignore:Already (found a `peft_config`|following adapters)")


def adapted(edit, **settings):
    peft = pytest.importorskip("peft")

    class Adapted(Head):
        def __init__(self):
            super().__init__()
            config = peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["head"], **settings)
            for name in ("default", "other"):
                peft.inject_adapter_in_model(config, self, adapter_name=name)
            self.body.requires_grad_(True)
            edit(self.head)

        def truth(self, batch):
            h, y = self.body(batch[0]), batch[1]
            layer = self.head
            weight, bias = layer.base_layer.weight, layer.base_layer.bias
            for name in () if layer.disable_adapters or layer.merged else layer.active_adapters:
                high, scale = layer.lora_B[name], layer.scaling[name]
                weight = weight + scale * high.weight @ layer.lora_A[name].weight
                bias = bias if high.bias is None else bias + scale * high.bias
            return truth_of(h, y, weight, F.linear(h, weight, bias))._replace(bias=bias)

    return Adapted


@pytest.mark.parametrize(
    ("edit", "settings"),
    [
        (lambda layer: layer.set_adapter(["default", "other"]), {}),
        (lambda layer: layer.set_adapter("other"), {}),
        (lambda layer: layer.merge(), {}),
        (lambda layer: layer.enable_adapters(False), {}),
        (lambda layer: None, {"lora_bias": True}),
        (lambda layer: None, {"use_rslora": True, "lora_alpha": 3}),
    ],
    ids=["two", "the second", "merged", "disabled", "bias", "rslora"],
)
@FROM_PEFT
def test_the_active_adapters_are_in_w(edit, settings):
    module, run = train(adapted(edit, **settings), HEAD)
    for stage in ("train_online", "val"):
        assert_right(module, run, stage)


@FROM_PEFT
def test_dropout_inside_an_adapter_is_refused_in_training_and_measured_in_validation():
    kind = adapted(lambda layer: None, lora_dropout=0.5)
    refused(kind, HEAD, r"with Dropout, it is W h \+ b in eval mode alone: online=False")
    module, run = train(kind, {**HEAD, "online": False})
    assert_right(module, run)
    assert not [key for key in run.callback_metrics if key.endswith("/train_online")]


@FROM_PEFT
def test_the_name_of_a_head_that_peft_has_copied_is_that_of_the_copy_in_use():
    pytest.importorskip("peft")
    module, run = train(linear.Saved, HEAD)
    for stage in ("train_online", "val"):
        assert_right(module, run, stage)


# What the remarks of the table say


class OneForward(unseen.Views):
    """Both views together."""

    def loss(self, batch):
        one, other = F.normalize(self.head(self.body(torch.cat([batch[0], batch[0] + 0.1])))).chunk(2)
        return -F.log_softmax(5 * one @ other.T, 1).diagonal().mean()


class TiedLinear(tokens.LanguageModel):
    def __init__(self):
        super().__init__()
        self.head.weight = self.embedding.weight


class Padded(tokens.LanguageModel):
    def batch(self):
        marks = torch.arange(self.time) < torch.randint(3, self.time + 1, (8, 1))
        return {**super().batch(), "attention_mask": marks.long()}

    def marked(self, batch):
        return torch.where(batch["attention_mask"].bool(), batch["labels"], IGNORED)

    def loss(self, batch):
        logits, y = self.logits(batch), self.marked(batch)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), y[:, 1:].flatten())

    def truth(self, batch):
        h = self.features(batch["input_ids"])
        return truth_of(h[:, :-1], self.marked(batch)[:, 1:], self.head)


class InDictionary(labels.Nodes):
    def batch(self):
        graph = super().batch()
        return {name: getattr(graph, name) for name in ("x", "y", "train_mask", "val_mask")}

    def loss(self, batch):
        return super().loss(SimpleNamespace(**batch))

    def truth(self, batch):
        return super().truth(SimpleNamespace(**batch))


class Listed(unseen.Parameter):
    """The same with the parameter in a list."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ParameterList([torch.zeros(3, D), self.head])
        del self.head

    @property
    def head(self):
        return self.heads[1]


HEADLESS = {"classifier": False, "features": "model.body", "num_classes": C}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (OneForward, {**HEADLESS, "target": lambda batch: batch[1].repeat(2)}),
        (TiedLinear, {"target_shift": 1}),
        (Padded, {"target_shift": 1, "mask": "attention_mask"}),
        (InDictionary, {"mask": "train_mask", "target": "y"}),
        (Listed, {"classifier": "model.heads.1", "features": "model.body"}),
        (linear.Segmentation, {**HEAD, "max_rows_per_batch": 4096}),
    ],
)
def test_what_the_remarks_say_is_right(kind, settings):
    module, run = train(kind, settings)
    for stage in ("train_online", "val"):
        assert_right(module, run, stage)
