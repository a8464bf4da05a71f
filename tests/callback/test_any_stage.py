"""Any head in any stage: frozen passes, tests, resumed runs, few rows, decisions, names of loaders."""

import copy
import pickle

import pytest
import torch
from support import heads
from support import heads_labels as labels
from support import heads_linear as linear
from support import heads_unseen as unseen
from support.heads import assert_right, network_of, refused, train
from support.heads_parts import IGNORED, ROWS, C, truth_of
from support.oracles import reference_measures
from support.problems import of_default, unchecked_shapes
from support.training import trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning

HEAD = {"classifier": "model.head"}
BY_NAME = {"classifier": "model.head", "features": "model.body"}


HEADLESS = {"classifier": False, "features": "model.body", "num_classes": C}


# The frozen pass, tests, resumed runs


class Predicts(heads.Runs):
    """Runs on a batch in stages of its own."""

    def note(self, stage, batch):
        self.model.stage = stage
        super().note(stage, batch)

    def predict_step(self, batch, batch_idx):
        self.note("train", batch)
        return self.model(batch)

    def test_step(self, batch, batch_idx):
        self.note("test", batch)
        return self.model(batch)


class Split(labels.NodesByStage):
    """What counts depends on the stage, not on the mode."""

    def truth(self, batch):
        mask = batch.train_mask if self.stage.startswith("train") else batch.val_mask
        return truth_of(self.body(batch.x)[mask], batch.y[mask], self.head)


def by_cosine(batch, outputs):
    return outputs["cosine"].argmax(1)


BY_COSINE = {"classifier": "model.head.weight", "features": "model.body", "predicted": by_cosine}
BY_MASK = {"mask": {"train_online": "train_mask", "val": "val_mask", "test": "val_mask"}}
EVERYWHERE = [
    (unseen.Fused, BY_NAME),
    (unseen.Headless, HEADLESS),
    (unseen.Margin, BY_COSINE),
    (linear.Segmentation, HEAD),
    (Split, BY_MASK),
]


def predicts(kind):
    module = network_of(kind)
    return Predicts(module.model)


def val_of(kind):
    return DataLoader(heads.batches_of(kind)[1], batch_size=None)


@pytest.mark.filterwarnings("ignore:With frozen_num_workers=0")
@pytest.mark.parametrize(("kind", "settings"), EVERYWHERE)
def test_the_frozen_pass_and_a_test_measure_the_same_way(kind, settings):
    often = {"frozen_every_n_epochs": 1, "frozen_num_workers": 0}
    module, run = train(kind, {**settings, **often}, module=predicts(kind))
    for stage in ("train_online", "train", "val"):
        assert_right(module, run, stage)
    with heads.quiet():
        run.test(module, val_of(kind), verbose=False)
    [epoch] = {epoch for stage, epoch in module.noted if stage == "test"}
    assert_right(module, run, "test", epoch=epoch)


@pytest.mark.parametrize(("kind", "settings"), EVERYWHERE)
def test_validation_alone_measures_the_same_way(kind, settings):
    module = predicts(kind)
    run = trainer([NeuralCollapseCallback(**settings)])
    with heads.quiet():
        run.validate(module, val_of(kind), verbose=False)
    assert_right(module, run, "val", epoch=0)


@pytest.mark.parametrize(("kind", "settings"), EVERYWHERE[:3])
def test_a_resumed_run_goes_on(kind, settings, tmp_path):
    _, run = train(kind, settings, module=predicts(kind), max_epochs=1)
    run.save_checkpoint(tmp_path / "one.ckpt")
    module = predicts(kind)
    callback = NeuralCollapseCallback(**settings)
    again = trainer([callback], max_epochs=2)
    with heads.quiet():
        again.fit(module, *map(loader, heads.batches_of(kind)), ckpt_path=tmp_path / "one.ckpt")
    for stage in ("train_online", "val"):
        assert_right(module, again, stage)
    assert [logged.epoch for logged in callback.history["nc1/cdnv/val"]] == [0, 1]


def loader(batches):
    return DataLoader(batches, batch_size=None)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda callback: pickle.loads(pickle.dumps(callback))]
)
def test_copies_of_a_callback_measure_as_it_does(copied):
    kind = unseen.Margin
    callback = copied(NeuralCollapseCallback(**BY_COSINE, prefix="nc/"))
    module, run = network_of(kind), trainer([callback])
    with heads.quiet():
        run.fit(module, *map(loader, heads.batches_of(kind)))
    assert_right(module, run, prefix="nc/")


# Classes with few rows


class Fewer(labels.Rare):
    """So many rows of the rare class in each batch; 0: a single one in the first of a stage."""

    each, drawn = 2, 0
    least = 7

    def batch(self):
        _, y = super().batch()
        count = self.each or int(self.drawn in {0, 3})
        self.drawn += 1
        y = torch.where(torch.arange(len(y)) < count, 3, y % 3)
        return torch.randn(len(y), 5) + 1.5 * F.one_hot(y, 5), y


class Single(Fewer):
    each, least = 0, 2


@pytest.mark.parametrize("kind", [Fewer, Single])
@pytest.mark.parametrize("covariance", ["per_class", "pooled", "none"])
def test_classes_with_few_rows_are_left_out(kind, covariance):
    # a single row adds nothing to the scatter
    lacks = covariance == "none" or (covariance == "pooled" and kind is Fewer)
    with pytest.warns(NeuralCollapseWarning) as said:
        module, run = train(kind, {"min_count": kind.least, "covariance": covariance})
    texts = [str(warning.message) for warning in said]
    assert any("class 3 with fewer than min_count" in text for text in texts)
    assert any("pinv left out" in text for text in texts) == (covariance == "none")
    told = any("pinv have no value; covariance='per_class' keeps them apart" in text for text in texts)
    assert told == (lacks and covariance == "pooled")
    for stage in ("train_online", "val"):
        reference = of_default(module.reference(stage, 1))
        for key in {"nc1/within_between_pinv"} if lacks else set():
            assert f"{key}/{stage}" not in run.callback_metrics
            del reference[key]
        assert reference["nc0/classes_seen"] == 4
        assert run.callback_metrics[f"nc0/classes_kept/{stage}"] == 3
        values = {key: run.callback_metrics[f"{key}/{stage}"].item() for key in reference}
        assert values == pytest.approx(reference, rel=1e-5, abs=1e-8)


# Several forwards, batches without labels


def test_a_layer_after_the_head_is_not_taken_for_one_of_the_next_forward():
    class Twice(linear.Plain):
        def __init__(self):
            super().__init__()
            self.post = nn.Identity()

        def loss(self, batch):
            unlabeled, labeled = (self.post(self.logits((x,))) for x in (-batch[0], batch[0]))
            return F.cross_entropy(labeled, batch[1]) + 0 * unlabeled.sum()

    with pytest.warns(NeuralCollapseWarning, match="2 forwards|'model.post' to run in each forward"):
        module, run = train(Twice, {**HEAD, "layers": ["model.post"]})
    key = "nc1/cdnv/val/model.post"
    if key in run.callback_metrics:
        truths = [truths[0] for truths in module.noted["val", 1]]
        h = torch.cat([F.linear(truth.h, truth.weight, truth.bias) for truth in truths])
        y = torch.cat([truth.y for truth in truths])
        right = reference_measures(h.detach().double().numpy(), y.numpy(), C)["nc1/cdnv"]
        assert run.callback_metrics[key].item() == pytest.approx(right, rel=1e-5)


def test_a_batch_without_labels_needs_no_mask():
    class Some(linear.Plain):
        drawn = 0

        def batch(self):
            x, y = super().batch()
            self.drawn += 1
            return (
                {"x": x} if self.drawn == 2 else {"x": x, "label": y, "keep": y.new_ones(ROWS).bool()}
            )

        def loss(self, batch):
            logits = self.head(self.body(batch["x"]))
            return (
                F.cross_entropy(logits, batch["label"]) if "label" in batch else logits.square().mean()
            )

        def truth(self, batch):
            y = batch.get("label", torch.full((ROWS,), IGNORED))
            return truth_of(self.body(batch["x"]), y, self.head)

    module, run = train(Some, {"target": lambda batch: batch.get("label"), "mask": "keep"})
    for stage in ("train_online", "val"):
        assert_right(module, run, stage)


# Decisions


@pytest.mark.parametrize(
    ("predicted", "text"),
    [
        (lambda batch, outputs: None, r"but got a NoneType\. Does it return logits"),
        (
            lambda batch, outputs: outputs["cosine"],
            r"of shape \(16,\), but got torch\.float32 of shape \(16, 4\)",
        ),
        (lambda batch, outputs: outputs["cosine"].argmax(1)[1:], r"torch\.int64 of shape \(15,\)"),
        (lambda batch, outputs: outputs["cosine"].amax(1), r"torch\.float32 of shape \(16,\)"),
        ("my_code.gone", r"predicted to name a function that can be imported, but got 'my_code\.gone'"),
    ],
)
def test_decisions_that_are_none_are_refused(predicted, text):
    refused(unseen.Margin, {**BY_COSINE, "predicted": predicted}, text)


def test_decisions_by_a_function_that_is_not_there_are_refused_without_a_validation():
    settings = {**BY_COSINE, "predicted": "my_code.gone"}
    refused(unseen.Margin, settings, "predicted to name a function", num_sanity_val_steps=0)


# Names of loaders


def test_named_loaders_and_the_frozen_pass_clash():
    settings = {"stage_names": ["train", "val"]}
    with pytest.raises(
        ValueError, match=r"other than 'test', 'train', 'train_online'.*which other stages"
    ):
        NeuralCollapseCallback(**settings, frozen_every_n_epochs=1)
    NeuralCollapseCallback(**settings)


@pytest.mark.parametrize(
    "names", [["train_online"], ["test"], ["a/b"], ["a:b"], [""], ["a", "a"], "train"]
)
def test_names_of_loaders_that_cannot_be_are_refused(names):
    with unchecked_shapes(), pytest.raises(ValueError, match=r"Expected stage_names to be a list"):
        NeuralCollapseCallback(stage_names=names)


def test_loaders_without_a_name_are_refused():
    refused(labels.TwoLoaders, {"stage_names": ["train"]}, r"stage_names=\['train'\] and 2 of them")


def test_names_without_a_loader_are_refused():
    refused(linear.Plain, {"stage_names": ["val", "shifted"]}, r"stage_names")


def test_named_loaders_follow_the_schedule():
    settings = {"stage_names": ["train", "val"], "every_n_epochs": 2}
    module, run = train(labels.TwoLoaders, settings, max_epochs=4)
    for stage in ("train", "val", "train_online"):
        assert_right(module, run, stage, epoch=3)
    [callback] = [c for c in run.callbacks if isinstance(c, NeuralCollapseCallback)]
    for stage in ("train", "val"):
        assert [logged.epoch for logged in callback.history[f"nc1/cdnv/{stage}"]] == [0, 2, 3]


# Configs


def test_a_config_may_hold_any_of_them(monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(NeuralCollapseCallback, "callback")
    config = parser.parse_string(CONFIG)
    callback = parser.instantiate_classes(config).callback
    places = callback._plan.places
    assert places.classifier is False
    assert places.mask == {"train_online": "train_mask", "val": 3}
    assert places.target == {"train_online": "y", "val": None}
    assert places.layers == {"body.*": ["first", "last"], "neck:in": "flatten"}
    assert config.callback.predicted == "operator.getitem"


CONFIG = """
callback:
  classifier: false
  features: body
  num_classes: 4
  mask: {train_online: train_mask, val: 3}
  target: {train_online: y, val: null}
  layers: {"body.*": [first, last], "neck:in": flatten}
  predicted: operator.getitem
"""
