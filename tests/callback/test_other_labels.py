"""Several tags, and targets that are numbers, in a Trainer: one argument of the same callback."""

import random
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from support.labeled import KINDS, Tags, Targets, loader
from support.problems import unchecked_shapes
from support.training import fit, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_nc import NeuralCollapseCallback, measure
from lightning_nc.values import NeuralCollapseWarning

both = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def run(
    kind, module=None, train=None, val=None, callbacks=(), epochs=2, trainer_settings=None, **chosen
):
    """A run of two epochs, and what it has warned of."""
    seed_everything(0, verbose=False)
    module = module or kind()
    settings = {"figures_every_n_epochs": 0, "task": kind.task, **chosen}
    callback = NeuralCollapseCallback(**settings)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = fit(
            module, [callback, *callbacks], train or loader(kind.data(), shuffle=True),
            val or loader(kind.data(128, seed=1)), max_epochs=epochs,
            **{"num_sanity_val_steps": 0, **(trainer_settings or {})},
        )  # fmt: skip
    said = [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]
    return callback, module, said, run


def logged(callback, stage, layer=""):
    end = f"/{stage}/{layer}".rstrip("/")
    return {
        k.removesuffix(end): rows[-1].value for k, rows in callback.history.items() if k.endswith(end)
    }


@both
def test_every_key_of_every_stage_equals_the_oracle(kind):
    callback, module, _, _ = run(kind, frozen_every_n_epochs=1)
    for stage in ("train_online", "val"):
        expected = module.reference(stage, 1)
        found = logged(callback, stage)
        assert found.keys() == expected.keys()
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-7), stage
    assert logged(callback, "train").keys() == expected.keys()
    assert {len(rows) for rows in callback.history.values()} == {2}


@both
def test_measure_gives_the_numbers_of_the_frozen_pass(kind):
    callback, module, _, _ = run(kind, frozen_every_n_epochs=1)
    found = measure(module, loader(kind.data()), task=kind.task, progress=False)
    assert found.values == pytest.approx(logged(callback, "train"), rel=1e-6, abs=1e-9)
    assert f"of {module.rows} {'tags' if kind is Tags else 'targets'}, 6 features" in repr(found)
    figure, _ = found.plot()
    assert ("angle ratio" if kind is Tags else "NRC1") in figure.get_suptitle()


def fingerprint(kind, *callbacks):
    seed_everything(0, verbose=False)
    module = kind()
    done = fit(module, callbacks, loader(kind.data(), shuffle=True), loader(kind.data(128, seed=1)))
    states = {
        **module.state_dict(),
        "torch": torch.get_rng_state(),
        "own": done.callback_metrics["own_loss"],
    }
    return states, np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


@both
def test_training_does_not_notice_it(kind):
    with unchecked_shapes():  # the checker draws from Python's global random state
        _require_unnoticed(kind)


def _require_unnoticed(kind):
    plain, *generators = fingerprint(kind)
    watched = NeuralCollapseCallback(
        task=kind.task, frozen_every_n_epochs=1, layers=["body.*"], figures_every_n_epochs=0
    )
    seen, *after = fingerprint(kind, watched)
    assert watched.history
    assert all(torch.equal(plain[name], seen[name]) for name in plain)
    assert generators == after


@both
def test_layers_are_measured_likewise(kind):
    callback, *_ = run(kind, layers=["body.0", "body.3"])
    names = {"multilabel": "tags/residual_2", "regression": "nrc1/outside_variance"}
    assert {f"{names[kind.task]}/val/body.0", f"{names[kind.task]}/val/body.3"} <= set(callback.history)
    # what the network decides, or what only W tells, is the head's alone
    heads = ("tags/iou/val/body.3", "nrc2/row_space/val/body.3", "tags/rows_2/val/body.3")
    assert not any(key in callback.history for key in heads)
    last = logged(callback, "val", "body.3")
    assert last == pytest.approx(
        {k: v for k, v in logged(callback, "val").items() if k in last}, rel=1e-6
    )


@both
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_it_resumes_and_can_be_monitored(kind, tmp_path):
    key = {"multilabel": "tags/angle_ratio/val", "regression": "nrc1/feature_collapse/val"}[kind.task]
    stopping = EarlyStopping(key, patience=50)
    saving = {"default_root_dir": tmp_path, "enable_checkpointing": True}
    first, _, _, done = run(kind, callbacks=[stopping], trainer_settings=saving)
    again = NeuralCollapseCallback(task=kind.task, figures_every_n_epochs=0)
    module = kind()
    resumed = trainer([again, EarlyStopping(key, patience=50)], max_epochs=3, **saving)
    resumed.fit(
        module, loader(kind.data(), shuffle=True), loader(kind.data(128, seed=1)),
        ckpt_path=done.checkpoint_callback.best_model_path,
    )  # fmt: skip
    assert [row.value for row in again.history[key]][:2] == [row.value for row in first.history[key]]
    assert len(again.history[key]) == 3
    least = min(row.value for row in first.history[key])
    assert float(stopping.best_score) == pytest.approx(least, rel=1e-6)


@both
def test_dashboard_card_and_pictures_are_the_tasks_own(kind, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="")
    run(kind, trainer_settings={"logger": logger}, figures_every_n_epochs=1, prog_bar=True)
    events = EventAccumulator(logger.log_dir, {"images": 0, "tensors": 0, "scalars": 0}).Reload()
    tags = events.Tags()
    own = {"multilabel": "tag_angles", "regression": "regression"}[kind.task]
    assert f"neural_collapse/{own}/val" in tags["images"]
    assert "neural_collapse/summary" in tags["images"]
    cosines = {image for image in tags["images"] if "cosines" in image or "plane" in image}
    assert bool(cosines) == (kind is Tags)
    [card] = [events.Tensors(tag) for tag in tags["tensors"] if "neural_collapse/text" in tag]
    text = card[-1].tensor_proto.string_val[0].decode()
    head = {"multilabel": "tags/angle_ratio", "regression": "nrc1/feature_collapse"}[kind.task]
    assert f"| {head} |" in text
    assert ("| nc1/" in text) == (kind is Tags)
    assert ("Farthest from the sum of its tags' means: " in text) == (kind is Tags)
    [layout] = [events.Tensors(tag)[-1] for tag in tags["tensors"] if "custom_scalars" in tag]
    charts = layout.tensor_proto.string_val[0].decode(errors="ignore")
    assert ("NRC1 feature_collapse" in charts) == (kind is Targets)
    assert ("TWA angle_ratio" in charts) == (kind is Tags)


def test_headlines_of_a_regression_stand_in_the_progress_bar():
    _, _, _, done = run(Targets, prog_bar=True)
    assert {"NRC1 val", "NRC2 val", "NRC3 val"} <= set(done.progress_bar_metrics)


@both
def test_no_key_comes_or_goes(kind, tmp_path):
    logger = CSVLogger(tmp_path, name="")
    callback, *_ = run(kind, trainer_settings={"logger": logger}, epochs=3)
    assert {len(rows) for rows in callback.history.values()} == {3}
    [header, *_] = (tmp_path / "version_0/metrics.csv").read_text().splitlines()
    assert set(callback.history) <= set(header.split(","))


# The predicted scale and the closed form need the penalties and the rows of training


def test_the_predicted_scale_goes_by_the_rows_of_training_in_every_stage():
    callback, module, said, _ = run(Tags, feature_penalty=1e-3)
    assert not any("feature_penalty is stated" in text for text in said)
    predicted = [logged(callback, stage)["tags/scale_2_predicted"] for stage in ("val", "train_online")]
    assert predicted[0] == pytest.approx(predicted[1], rel=1e-2)  # W has moved since
    alone = measure(
        module, loader(Tags.data()), task="multilabel", feature_penalty=1e-3, progress=False
    )
    assert alone.values["tags/scale_2_predicted"] == pytest.approx(predicted[0], rel=1e-6)
    others, *_ = run(Tags)
    assert "tags/scale_2_predicted" not in logged(others, "val")


def test_the_closed_form_of_a_regression_is_that_of_the_rows_of_training():
    penalty = {"weight": 1e-3, "bias": 0.0}
    callback, _, said, _ = run(Targets, feature_penalty=1e-3, penalty=penalty)
    assert not any("feature_penalty is stated" in text for text in said)
    assert "nrc3/limit_distance" in logged(callback, "train_online")
    assert "nrc3/limit_distance" not in logged(callback, "val")  # other targets
    others, *_ = run(Targets, penalty=penalty)
    assert "nrc3/limit_distance" not in logged(others, "train_online")


# Labels of other kinds, and in other places


class Dicts:
    """Labels as a collate function of the user's own gives them."""

    def __init__(self, data, change):
        self.data, self.change = data, change

    def __iter__(self):
        return (self.change(x, y) for x, y in loader(self.data))

    def __len__(self):
        return len(loader(self.data))


def lists(x, t):
    return [x, [row.nonzero().flatten().tolist() for row in t]]


def test_lists_of_tags_are_multi_hot_labels():
    seed_everything(0, verbose=False)
    module = Tags()
    expected = measure(module, loader(Tags.data()), task="multilabel", progress=False)
    found = measure(module, Dicts(Tags.data(), lists), task="multilabel", num_classes=5, progress=False)
    assert found.values == expected.values


@both
def test_a_mask_tells_which_rows_count(kind):
    seed_everything(0, verbose=False)
    module, data = kind(), kind.data()
    x, y = data.tensors
    keep = torch.arange(len(x)) % 3 > 0

    def batches():
        return [
            {"x": x[i : i + 32], "y": y[i : i + 32], "keep": keep[i : i + 32]}
            for i in range(0, 160, 32)
        ]

    def forward(model, batch):
        return model(batch["x"])

    found = measure(module, batches(), task=kind.task, mask="keep", forward=forward, progress=False)
    alone = measure(module, [(x[keep], y[keep])], task=kind.task, progress=False)
    assert found.values == pytest.approx(alone.values, rel=1e-6, abs=1e-9)


def test_one_target_may_have_no_dimension_of_its_own():
    x, y = Targets.data().tensors
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Linear(6, 1))
    with pytest.warns(NeuralCollapseWarning, match="nrc3/gamma left out: with a single target it is 0"):
        flat = measure(module, [(x, y[:, 0])], task="regression", progress=False)
    with pytest.warns(NeuralCollapseWarning, match="with a single target"):
        column = measure(module, [(x, y[:, :1])], task="regression", progress=False)
    assert flat.values == column.values
    assert "nrc3/gram_distance" not in flat.values


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8])
def test_multi_hot_labels_are_tags_whatever_their_dtype(dtype):
    seed_everything(0, verbose=False)
    module = Tags()
    expected = measure(module, loader(Tags.data()), task="multilabel", progress=False).values
    found = measure(module, loader(Tags.data(dtype=dtype)), task="multilabel", progress=False)
    assert found.values == expected


# What is refused, each before the first step


REFUSED = [
    ({"kind": Tags, "task": "regression"}, None),  # tags are numbers as well
    ({"kind": Targets, "task": "multilabel"}, "Expected multi-hot labels, of zeros and ones"),
    ({"kind": Targets, "task": "multiclass"}, "task='regression'"),
    ({"kind": Tags, "task": "multiclass"}, "task='multilabel'"),
    ({"kind": Tags, "predicted": "builtins.len"}, "predicted to be left out with task='multilabel'"),
    ({"kind": Targets, "class_names": ["a", "b"]}, "class_names to be left out with task='regression'"),
    ({"kind": Targets, "ignore_index": -1}, "ignore_index to be left out with task='regression'"),
    ({"kind": Tags, "shots": [1, 2]}, "shots to be left out with task='multilabel'"),
    ({"kind": Targets, "min_count": 2}, "min_count to be left out with task='regression'"),
    ({"kind": Targets, "threshold": 0.5}, "threshold to be left out with task='regression'"),
    ({"kind": Tags, "threshold": 2.0}, "threshold to be a probability between 0 and 1, but got 2"),
    ({"kind": Targets, "covariance": "none"}, "covariance to be 'auto' or 'pooled' with"),
]


@pytest.mark.parametrize(("chosen", "text"), REFUSED)
def test_what_does_not_go_together_is_refused_before_the_first_step(chosen, text):
    if text is None:
        callback, *_ = run(**chosen)
        assert logged(callback, "val")
        return
    with pytest.raises(ValueError, match=text):
        run(**chosen)


@pytest.mark.parametrize(("kind", "label"), [(Tags, 0.4), (Targets, torch.nan)])
def test_labels_that_are_wrong_later_on_are_left_out_and_told(kind, label):
    data = kind.data()
    data.tensors[1][-5:, 0] = label
    callback, _, said, _ = run(kind, train=loader(data))
    told = {
        Tags: "5 rows with a label that is neither 0 nor 1",
        Targets: "5 rows with a NaN or infinite target",
    }
    assert any(told[kind] in text for text in said)
    assert logged(callback, "train_online")


def test_the_head_is_the_map_with_as_many_rows_as_a_label_has_entries():
    class Wide(Targets):
        def __init__(self):
            super().__init__()
            self.aux = torch.nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.body(x))

        def note(self, stage, batch):
            self.aux(self.body(batch[0]))
            return super().note(stage, batch)

    callback, *_ = run(Wide)
    assert logged(callback, "val")

    class Doubtful(Targets):
        def __init__(self):
            super().__init__()
            self.other = torch.nn.Linear(6, 2)

        def note(self, stage, batch):
            h = self.body(batch[0])
            super().note(stage, batch)
            return self.loss(self.head(h), batch[1]) + self.loss(self.other(h), batch[1])

    with pytest.raises(ValueError, match="Expected to be certain which linear map is the classifier"):
        run(Doubtful)


STATED = {
    "multilabel": {"feature_penalty": 1e-3},
    "regression": {"feature_penalty": 1e-3, "penalty": {"weight": 1e-3, "bias": 0.0}},
}
PREDICTED = ("tags/scale_2_predicted", "nrc3/limit_distance")


@both
@pytest.mark.parametrize(
    ("chosen", "settings"),
    [
        ({}, {"limit_train_batches": 0.5}),
        ({"max_rows_per_batch": 30}, {}),
        ({"forwards": "all"}, {}),
        ({"every_n_steps": 2}, {}),
    ],
)
def test_a_part_of_the_rows_of_training_predicts_nothing_and_says_so(kind, chosen, settings):
    given = {**STATED[kind.task], **chosen, "trainer_settings": settings}
    callback, _, said, _ = run(kind, epochs=1, **given)
    assert not any(key.startswith(PREDICTED) for key in callback.history)
    assert any("feature_penalty is stated, but the rows of a whole training epoch" in t for t in said)


@both
def test_features_without_a_head_are_measured_by_what_the_labels_tell(kind):
    seed_everything(0, verbose=False)
    module, data = kind(), loader(kind.data())
    chosen = {"task": kind.task, "progress": False}
    whole = measure(module, data, **chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeuralCollapseWarning)  # nobody has decided on tags
        alone = measure(module, data, classifier=False, features="body", **chosen)
    key = {"multilabel": "tags/angle_ratio", "regression": "nrc1/feature_collapse"}[kind.task]
    assert alone.values[key] == pytest.approx(whole.values[key], rel=1e-9)
    assert set(alone.values) < set(whole.values)
    assert not any(name.startswith(("nrc2/", "nrc3/", "nc2/weights")) for name in alone.values)
