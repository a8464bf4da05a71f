"""Every layer: its own weight, the linear head, and what globs find."""

import warnings

import pytest
import torch
from lightning.pytorch import seed_everything
from support.deep_head import CHANCE, HEAD, LAYERS, DeepHead, reference
from support.problems import unchecked_shapes
from support.training import digits, fit
from torch import nn
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback, measure

MEASURES = ["default", "layer", "linear"]


def run(module, **settings):
    seed_everything(0, verbose=False)
    callback = NeuralCollapseCallback(figures_every_n_epochs=0, **settings)
    return fit(module, [callback], num_sanity_val_steps=0), callback


def seeded(**settings):
    seed_everything(0, verbose=False)
    return DeepHead(**settings)


def of_modules(history, stage, groups=("layer", "linear")):
    """The latest values by module and measure."""
    found = {}
    for key in history:
        group, name, its_stage, *layer = key.split("/")
        if group in groups and its_stage == stage:
            found.setdefault("/".join(layer), {})[f"{group}/{name}"] = history[key][-1].value
    return found


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stage", ["val", "train_online"])
def test_layers_and_head_equal_the_oracle_on_what_the_network_has_met(stage, bias):
    module = seeded(bias=bias)
    _, callback = run(module, layers=["body.[02]:in"], measures=MEASURES)
    expected = reference(module.noted[stage, 1], bias)
    found = of_modules(callback.history, stage)
    assert found.keys() == {"", "head.0.in", "head.1.in", *LAYERS}
    for name, values in expected.items():
        mine = {key: value for key, value in found[name].items() if key not in CHANCE}
        assert mine == pytest.approx(values, rel=1e-5, abs=1e-8), name
        assert mine.keys() == values.keys()


def test_training_and_its_logs_are_the_same_with_and_without():
    plain = seeded()
    seed_everything(0, verbose=False)
    fit(plain, num_sanity_val_steps=0)
    watched = seeded()
    run(watched, layers=["**", "**:in"], measures=[*MEASURES, "lm"])
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


def test_measure_gives_the_same_as_validation():
    module = seeded()
    _, callback = run(module, layers=["body.[02]:in"], measures=MEASURES)
    values = measure(
        module, DataLoader(digits(192, 96), 48), layers=["body.[02]:in"], measures=MEASURES
    ).values
    for name, expected in of_modules(callback.history, "val").items():
        for key, value in expected.items():
            assert values[f"{key}/{name}" if name else key] == pytest.approx(value, rel=1e-6)


def test_a_head_of_one_layer_has_keys_without_a_layer():
    module = seeded()
    module.head = nn.Linear(20, 10)
    module.note = lambda stage, batch: nn.functional.cross_entropy(module(batch[0]), batch[1])
    _, callback = run(module, measures=["linear"])
    assert {key for key in callback.history if "/val" in key} == {
        f"linear/{name}/val" for name in (
            "within_between_ratio", "weights_frame_distance", "means_frame_distance",
            "duality_frame_distance",
        )
    }  # fmt: skip


class Between(DeepHead):
    """ReLU by a function where modules show none."""

    def note(self, stage, batch):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def forward(self, x):
        return self.head[2](self.head[1](self.head[0](self.body(x)).relu()))


def test_what_comes_between_by_a_function_ends_the_head(capfd):
    seed_everything(0, verbose=False)
    _, callback = run(Between(), measures=["linear"])
    layers = {key.split("/", 3)[3] for key in callback.history if key.count("/") == 3}
    assert layers == {"head.1.in"}


def test_the_head_that_was_found_is_announced(caplog):
    with caplog.at_level("INFO"):
        run(seeded(), measures=["linear"])
    assert f"The linear head is M = 3: {', '.join(map(repr, HEAD))}." in caplog.text


class Swapped(DeepHead):
    """The last layer in the order of modules is not the last one that runs."""

    def __init__(self):
        super().__init__()
        self.aside = nn.Linear(20, 7)


def test_a_head_that_ends_elsewhere_asks_for_the_classifier():
    with pytest.raises(ValueError, match=r"Expected the linear head to end in .* Set classifier="):
        run(Swapped(), measures=["linear"])
    _, callback = run(Swapped(), measures=["linear"], classifier="head.2")
    assert "linear/weights_frame_distance/val/head.0.in" in callback.history


def test_a_single_row_has_no_frame_of_its_own():
    module = seeded()
    module.head[2] = nn.Linear(12, 1, bias=False)
    with pytest.raises(
        ValueError, match=r"a row for each class for the measures linear/\*, but 'head.2'"
    ):
        run(module, measures=["linear"], classifier="head.2", task="binary")


# Families and occasions


def test_shares_join_where_layers_are_measured():
    _, plain = run(seeded())
    assert not any(key.startswith("layer/") for key in plain.history)
    _, callback = run(seeded(), layers=["body.1"])
    assert {key for key in callback.history if key.startswith("layer/")} == {
        f"layer/{name}/{stage}{layer}"
        for name in ("within_share", "within_share_classwise")
        for stage in ("val", "train_online")
        for layer in ("", "/body.1")
    }


def test_classes_kept_join_where_small_ones_are_left_out():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, callback = run(seeded(), min_count=10)
    kept, seen = (callback.history[f"nc0/classes_{name}/val"][-1].value for name in ("kept", "seen"))
    counts = digits(192, 96).tensors[1].bincount(minlength=10)
    assert (kept, seen) == (int((counts >= 10).sum()), 10)
    assert kept < seen


# A covariance for each layer


def test_each_layer_has_the_covariance_that_it_was_given():
    settings = {"layers": ["body.1", "body.3"], "covariance": {"": "per_class", "body.*": "none"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what needs the scatter
        _, callback = run(seeded(), **settings)
    statistics = callback.statistics
    assert statistics["val"].class_scatter is not None
    assert statistics["val/body.1"].scatter is None
    settings["covariance"] = {"body.3": "none"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, callback = run(seeded(), **settings)
    scatters = [callback.statistics[f"val{name}"].scatter for name in ("", "/body.1", "/body.3")]
    assert [scatter is None for scatter in scatters] == [False, False, True]


def test_a_covariance_for_what_is_not_measured_is_refused():
    with pytest.raises(ValueError, match=r"Expected covariance to name measured layers.*'neck'"):
        run(seeded(), layers=["body.1"], covariance={"neck": "none"})
    with unchecked_shapes(), pytest.raises(ValueError, match="Expected covariance to be one of"):
        NeuralCollapseCallback(covariance={"body.1": "all"})


# What globs find


class Branches(DeepHead):
    """Modules that hand on, that give no rows, that repeat a part of theirs, that come too late."""

    def __init__(self):
        super().__init__()
        self.same, self.drop = nn.Identity(), nn.Dropout(0.0)
        self.nested = nn.Sequential(nn.Sequential(nn.Linear(64, 64), nn.Tanh()))
        self.tokens, self.late, self.unused = nn.Tanh(), nn.Softmax(1), nn.Linear(3, 3)
        self.zero = nn.Linear(64, 64)
        nn.init.zeros_(self.zero.weight)
        nn.init.zeros_(self.zero.bias)

    def forward(self, x):
        x = self.drop(self.same(self.nested(x)))
        self.tokens(x.reshape(len(x), 2, 4, 8))
        x = x + self.zero(x)
        return self.late(self.head(self.body(x)))

    def note(self, stage, batch):
        return nn.functional.nll_loss(self(batch[0]).clamp(min=1e-9).log(), batch[1])


@pytest.mark.parametrize("sanity", [0, 2])
def test_two_stars_take_what_can_be_measured(sanity, caplog):
    seed_everything(0, verbose=False)
    callback = NeuralCollapseCallback("head.2", layers=["**"], figures_every_n_epochs=0)
    with caplog.at_level("INFO"):
        fit(Branches(), [callback], num_sanity_val_steps=sanity)
    measured = {key.split("/", 3)[3] for key in callback.history if key.count("/") == 3}
    assert measured == {
        "nested.0.0", "nested.0.1", "zero", "body.0", "body.1", "body.2", "body.3", "head.0",
    }  # fmt: skip
    assert "1 of which it is not certain how they become rows ('tokens')" in caplog.text
    assert "that put out what a part of them has put out ('nested.0', 'nested', 'body')" in caplog.text
    assert "1 that put out, or are given, what the classifier is given ('head.1')" in caplog.text
    assert "that did not run before the classifier, or hold it ('head', 'head.2', 'late'" in caplog.text


def test_layers_are_told_in_the_order_in_which_they_run():
    from lightning_nc.session import Session

    seen = []
    show = Session._show

    def note(self, trainer, stage, recorded):
        seen.append(self._watch.layers)
        return show(self, trainer, stage, recorded)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "_show", note)
        seed_everything(0, verbose=False)
        module = Branches()
        callback = NeuralCollapseCallback("head.2", layers=["**"], figures_every_n_epochs=0)
        fit(module, [callback], num_sanity_val_steps=0)
    assert [*module._modules][:2] == ["body", "head"]
    logged = [key.split("/", 3)[3] for key in callback.history if key.startswith("nc1/cdnv/val/")]
    assert logged == list(seen[-1])
    assert seen[-1] == (
        "nested.0.0", "nested.0.1", "zero", "body.0", "body.1", "body.2", "body.3", "head.0",
    )  # fmt: skip


def test_what_is_named_is_refused_where_it_cannot_be_measured():
    with pytest.raises(ValueError, match="it is not certain which dimension"):
        run(Branches(), classifier="head.2", layers=["tokens"])


def test_a_layer_whose_values_equal_another_only_at_first_is_measured():
    # a block that adds zeros at first puts out what it is given
    class Zero(Branches):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Linear(64, 64))
            self.added = nn.ReLU()

        def forward(self, x):
            first = self.nested(x)
            return self.head(self.body(self.added(first.relu() + self.zero(first))))

        def note(self, stage, batch):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

    _, callback = run(Zero(), classifier="head.2", layers=["**"])
    assert "layer/within_share/val/added" in callback.history


def test_notices_of_many_layers_are_one_warning():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run(seeded(), layers=["body.*"], covariance="none")
    texts = [str(w.message) for w in told if "covariance" in str(w.message)]
    together = [text for text in texts if "Layers 'body.0', 'body.1', 'body.2' and 1 more: " in text]
    assert len(together) == 2  # stages


def test_what_goes_into_a_part_is_measured_once_at_the_part_that_has_the_weight():
    _, callback = run(seeded(), layers=["**:in"], measures=["layer"])
    layers = {key.split("/", 3)[3] for key in callback.history if key.count("/") == 3}
    # body and head are given what their first layers are, and the last one what the classifier is
    assert layers == {"body.0.in", "body.1.in", "body.2.in", "body.3.in", "head.0.in", "head.1.in"}
    assert "layer/stable_rank/val/body.0.in" in callback.history


def test_the_profile_of_a_run_has_the_classifier_last():
    _, callback = run(seeded(), layers=["body.*"])
    profile = callback.history.profile("layer/within_share", "val")
    assert list(profile) == ["body.0", "body.1", "body.2", "body.3", ""]
    assert profile[""] == callback.history["layer/within_share/val"][-1].value


def test_measures_as_a_text_are_refused():
    with unchecked_shapes(), pytest.raises(ValueError, match=r"Expected a list of .*\['layer'\]\?"):
        NeuralCollapseCallback(measures="layer")


def test_a_layer_with_a_bias_in_front_of_the_head_is_told(caplog):
    module = seeded()
    module.head[1] = nn.Linear(16, 12)
    with caplog.at_level("INFO"):
        run(module, measures=["linear"])
    assert (
        "The linear head is M = 1: 'head.2'. It ends before 'head.1', which has a bias." in caplog.text
    )
