"""Classes of unequal size in a Trainer: which keys join, by which counts, and what they say."""

import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from support.imbalance_oracles import reference
from support.training import fit, trainer
from support.unequal import COUNTS, Network, loader, unequal_digits

from lightning_nc import NeuralCollapseCallback, measure
from lightning_nc.values import NeuralCollapseWarning

UNEQUAL, EQUAL = unequal_digits(), unequal_digits((12,) * 10)
HELD_OUT = unequal_digits((8,) * 10, first=130)


def run(module=None, train=UNEQUAL, val=HELD_OUT, epochs=2, shown=False, run_settings=None, **settings):
    """A run, and what it has warned of."""
    seed_everything(0, verbose=False)
    callback = NeuralCollapseCallback(figures_every_n_epochs=0, **settings)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fitted = fit(
            module or Network(), [callback], loader(train, shuffle=True), loader(val),
            max_epochs=epochs, **{"num_sanity_val_steps": 0, **(run_settings or {})},
        )  # fmt: skip
    said = [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]
    return callback, said, fitted


def keys_of(callback, stage="", group="imbalance"):
    return {k.split("/")[1] for k in callback.history if k.startswith(f"{group}/") and f"/{stage}" in k}


def seeded(**settings):
    seed_everything(0, verbose=False)
    return Network(**settings)


RACE = {"etf", "of", "gof", "gof_centered", "seli", "relu_ce", "margin"}
ALARMS = {"minority_cosine", "norm_ratio", "recall_many", "recall_medium", "recall_few"}


@pytest.mark.parametrize("bias", [True, False])
def test_where_counts_are_unequal_the_keys_join_and_equal_the_oracle(bias):
    module = seeded(bias=bias)
    callback, _, _ = run(module)
    assert keys_of(callback, "val") == keys_of(callback, "train_online") == RACE | ALARMS
    rows = module.noted["val", 1]
    h, y = torch.cat([r[1] for r in rows]).double().numpy(), torch.cat([r[2] for r in rows]).numpy()
    last = module.head[-1]
    weight = last.weight.detach().double().numpy()
    expected = reference(h, y, weight, last.bias, training_counts=COUNTS)
    found = {key: callback.history[f"{key}/val"][-1].value for key in expected}
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_where_counts_are_equal_none_does():
    callback, _, _ = run(train=EQUAL)
    assert keys_of(callback) == set()
    by_name, _, _ = run(train=EQUAL, measures=["imbalance/gof", "imbalance/of"])
    assert keys_of(by_name, "val") == {"gof", "of"}
    for row in zip(
        by_name.history["imbalance/gof/val"], by_name.history["imbalance/of/val"], strict=True
    ):
        assert row[0].value == pytest.approx(row[1].value, abs=1e-12)


def test_no_key_comes_or_goes():
    """What is logged in the first epoch is logged in all of them."""
    callback, _, _ = run(epochs=3)
    assert {len(rows) for rows in callback.history.values()} == {3}


def test_counts_are_those_of_training_and_not_of_the_stage():
    callback, _, _ = run()
    told = measure(
        Network(), loader(HELD_OUT), measures=["imbalance"], class_counts=COUNTS, progress=False
    )
    assert told.evidence[""].linear_head.counts.tolist() == list(COUNTS)
    state = callback.state_dict()["training"]
    assert state["training"]["counts"].tolist() == list(COUNTS)
    assert state["joined"] == {"val": True, "train_online": True}


def test_before_training_is_known_nothing_joins_and_what_was_asked_for_says_why():
    callback, said, _ = run(online=False)
    assert keys_of(callback) == set()
    assert not [text for text in said if "imbalance" in text]
    by_name, said, _ = run(online=False, measures=["imbalance"])
    assert keys_of(by_name) == set()
    assert any("counts of the classes in training are not known yet" in text for text in said)
    stated, _, _ = run(online=False, measures=["imbalance"], class_counts=list(COUNTS))
    assert keys_of(stated, "val") == RACE | ALARMS | {"ce_ufm"}


def test_the_frozen_pass_counts_as_training():
    callback, _, _ = run(online=False, frozen_every_n_epochs=1)
    assert keys_of(callback, "train") == RACE | ALARMS
    assert keys_of(callback, "val") == set()  # decided before anything was known


def test_validation_in_the_middle_of_the_first_epoch_knows_a_part_of_the_rows():
    asked = ["default", "imbalance"]
    callback, said, _ = run(run_settings={"val_check_interval": 0.5}, measures=asked)
    assert keys_of(callback, "val") == RACE | ALARMS | {"ce_ufm"}
    assert any("not those of a whole epoch" in text for text in said)
    values = [row.value for row in callback.history["imbalance/recall_few/val"]]
    assert len(values) < len(callback.history["imbalance/gof/val"])
    assert np.isfinite(values).all()


def test_a_resumed_run_goes_on_with_its_keys_and_a_test_has_its_counts(tmp_path):
    saved = {"default_root_dir": tmp_path, "enable_checkpointing": True}
    callback, _, first = run(run_settings=saved)
    path = first.checkpoint_callback.best_model_path
    again = NeuralCollapseCallback(figures_every_n_epochs=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resumed = trainer([again], max_epochs=3, num_sanity_val_steps=0)
        # balanced from here on: the keys of the run stay
        resumed.fit(Network(), loader(EQUAL), loader(HELD_OUT), ckpt_path=path)
        assert len(again.history["imbalance/gof/val"]) == 3
        assert again.state_dict()["training"]["training"]["counts"].tolist() == [12] * 10
        tested = NeuralCollapseCallback(figures_every_n_epochs=0)
        trainer([tested]).test(Network(), loader(HELD_OUT), ckpt_path=path, verbose=False)
    assert keys_of(tested, "test") == RACE | ALARMS
    known = callback.history["imbalance/recall_few/val"][-1].value
    assert tested.history["imbalance/recall_few/test"][-1].value == pytest.approx(known)


def test_a_state_that_is_damaged_is_left_aside():
    callback = NeuralCollapseCallback()
    state = callback.state_dict()
    for broken in ({"training": {"counts": [1.5]}}, {"training": {}, "joined": {"val": 3}}, 7):
        with pytest.warns(NeuralCollapseWarning, match="left aside"):
            NeuralCollapseCallback().load_state_dict(state | {"training": broken})


def test_a_head_of_several_layers_is_a_doubt_unless_it_is_looked_at():
    callback, said, _ = run(seeded(bias=False, depth=3))
    assert keys_of(callback) & RACE == set()
    assert any("may be a part of its head" in text for text in said)
    assert "recall_few" in keys_of(callback)


def test_each_layer_of_a_head_is_held_against_its_own_target():
    module = seeded(bias=False, depth=3)
    callback, _, _ = run(module, measures=["default", "imbalance/gof", "imbalance/of"])
    rows = module.noted["val", 1]
    h, y = torch.cat([r[0] for r in rows]).double(), torch.cat([r[2] for r in rows])
    weights = [layer.weight.detach().double() for layer in module.head]
    product = [weights[2] @ weights[1] @ weights[0], weights[2] @ weights[1], weights[2]]
    entering = [h, h @ weights[0].T, h @ weights[0].T @ weights[1].T]
    for layer, name in ((1, "/head.0.in"), (2, "/head.1.in"), (3, "")):
        expected = reference(
            entering[layer - 1].numpy(), y.numpy(), product[layer - 1].numpy(), None, COUNTS,
            m=3, layer=layer,
        )  # fmt: skip
        for key in ("imbalance/gof", "imbalance/of"):
            found = callback.history[f"{key}/val{name}"][-1].value
            assert found == pytest.approx(expected[key], rel=1e-4), (key, layer)


def test_a_single_row_has_none_of_these_geometries():
    class Binary(Network):
        def training_step(self, batch, batch_idx):
            logit = self(batch[0])[:, 0]
            return torch.nn.functional.binary_cross_entropy_with_logits(logit, batch[1].float())

        def validation_step(self, batch, batch_idx):
            self(batch[0])

    two = unequal_digits((120, 20) + (0,) * 8)
    asked = ["default", "imbalance"]
    callback, said, _ = run(Binary(rows=1), train=two, val=two, task="binary", measures=asked)
    assert keys_of(callback) & RACE == set()
    assert any("a single row" in text for text in said)
    assert {"recall_many", "recall_medium"} <= keys_of(callback)


def test_a_class_without_rows_in_a_stage_leaves_the_geometry_out():
    lacking = unequal_digits((8,) * 9 + (0,), first=130)
    callback, said, _ = run(val=lacking)
    assert keys_of(callback, "val") & RACE == set()
    assert keys_of(callback, "train_online") == RACE | ALARMS
    assert not [text for text in said if "imbalance" in text]  # nobody has asked
    _, said, _ = run(val=lacking, measures=["default", "imbalance"])
    assert any("1 of the classes of training have no rows here" in text for text in said)


def test_classes_that_are_left_out_leave_the_geometry_out():
    callback, said, _ = run(min_count=11, measures=["default", "imbalance"])
    assert keys_of(callback, "train_online") & RACE == set()
    assert any("min_count leaves classes out" in text for text in said)


def test_a_subset_of_the_rows_does_not_count_them():
    callback, said, _ = run(max_rows_per_batch=32, measures=["default", "imbalance"])
    assert {"recall_many", "recall_medium", "recall_few"} & keys_of(callback) == set()
    assert any("not those of a whole epoch with all of its rows" in text for text in said)
    assert keys_of(callback) >= RACE
    stated, _, _ = run(max_rows_per_batch=32, class_counts=list(COUNTS))
    assert keys_of(stated) == RACE | ALARMS


def test_what_few_and_many_are_can_be_set():
    callback, _, _ = run(shots=[15, 50])
    counts, by_default = np.array(COUNTS), run()[0]
    few = callback.history["imbalance/recall_few/train_online"][-1].value
    wider = by_default.history["imbalance/recall_few/train_online"][-1].value
    assert (counts < 15).sum() != (counts < 20).sum()
    assert few != wider


def test_the_penalty_reaches_the_measures_of_the_squared_error():
    callback, said, _ = run(measures=["mse"], penalty=0.01)
    names = {"loss_nc1", "loss_nc23", "loss_perp", "loss_least_squares", "snr_min", "snr_max",
             "probe_accuracy", "probe_agreement"}  # fmt: skip
    assert keys_of(callback, "val", "mse") | {"snr_min", "snr_max"} == names
    without, said, _ = run(measures=["mse"])
    assert "loss_perp" not in keys_of(without, "val", "mse")
    assert any("set `penalty`" in text for text in said)
    first = callback.history["mse/loss_least_squares/train_online"][-1].value
    assert first > without.history["mse/loss_least_squares/train_online"][-1].value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": -1.0}, "penalty"),
        ({"penalty": {"bias": 0.1}}, "Expected penalty to be a number, or a mapping with 'weight'"),
        ({"penalty": {"weight": 0.1, "head": 0.1}}, "Set feature_penalty for the features"),
        ({"class_counts": [3]}, "Expected class_counts to be the rows of each class"),
        ({"class_counts": [3, -1]}, "whole numbers in the order of at least two"),
        ({"shots": [100, 20]}, "Expected shots to be two numbers"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        NeuralCollapseCallback(**settings)


def test_counts_of_other_classes_are_refused_before_the_first_step():
    with pytest.raises(
        ValueError, match="Expected class_counts to have a number for each of 10 classes"
    ):
        run(class_counts=[3, 2])


def test_training_is_the_same_with_and_without():
    plain = seeded()
    seed_everything(0, verbose=False)
    fit(plain, (), loader(UNEQUAL, shuffle=True), loader(HELD_OUT), num_sanity_val_steps=0)
    watched = seeded()
    seed_everything(0, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        callback = NeuralCollapseCallback(
            measures=["default", "imbalance", "mse"], penalty=0.1, figures_every_n_epochs=0
        )
        fit(
            watched, [callback], loader(UNEQUAL, shuffle=True), loader(HELD_OUT), num_sanity_val_steps=0
        )
    for (name, one), other in zip(
        plain.state_dict().items(), watched.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_the_card_says_the_verdicts_and_the_worst_classes(tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seed_everything(0, verbose=False)
    names = [f"digit {i}" for i in range(10)]
    callback = NeuralCollapseCallback(figures_every_n_epochs=1, class_names=names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(
            Network(), [callback], loader(UNEQUAL, shuffle=True), loader(HELD_OUT),
            logger=TensorBoardLogger(tmp_path), max_epochs=1,
        )  # fmt: skip
    events = EventAccumulator(str(next(tmp_path.rglob("events*")).parent), {"tensors": 0}).Reload()
    words = events.Tensors("neural_collapse/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "**train_online**: Nearest geometry, class means as they are: none" in words
    assert "less the mean of all rows:" in words
    assert "Least recognized by the nearest class center: digit" in words
    assert "rows in training)" in words


def many(rows_each, num_classes=20, seed=0):
    """Rows of many equal classes, in an order of chance."""
    labels = torch.arange(num_classes).repeat(rows_each)
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=rng)
    features = torch.randn(len(labels), 64, generator=rng)
    return torch.utils.data.TensorDataset(features, labels[order])


@pytest.mark.parametrize(
    ("run_settings", "settings"),
    [
        ({"val_check_interval": 0.25}, {}),
        ({"limit_train_batches": 3}, {}),
        ({"max_steps": 3}, {}),
        ({}, {"every_n_steps": 3}),
        ({}, {"max_rows_per_batch": 8}),
    ],
)
def test_a_part_of_balanced_rows_is_unequal_by_chance_alone(run_settings, settings):
    data = many(32)
    seed_everything(0, verbose=False)
    module = Network(rows=20)
    callback, _, _ = run(module, train=data, val=data, run_settings=run_settings, **settings)
    assert keys_of(callback) == set()


def test_a_run_that_is_cut_short_keeps_the_counts_of_its_whole_epoch():
    steps = -(-sum(COUNTS) // 64)
    callback, _, _ = run(epochs=3, run_settings={"max_steps": 2 * steps + 2})
    assert callback.state_dict()["training"]["training"]["counts"].tolist() == list(COUNTS)
    cut, said, _ = run(run_settings={"max_steps": 2}, measures=["imbalance"])
    assert "recall_few" not in keys_of(cut)
    assert any("not those of a whole epoch" in text for text in said)
    doubled, _, _ = run(forwards="all", measures=["imbalance"])
    assert "recall_few" not in keys_of(doubled)


def test_windows_count_all_rows_that_they_have_shown():
    callback, _, _ = run(epochs=2, every_n_steps=3)
    counts = callback.state_dict()["training"]["training"]["counts"]
    assert int(counts.sum()) > 5 * 64
    assert not callback.state_dict()["training"]["training"]["is_whole"]
    assert {len(callback.history[k]) for k in callback.history if "norm_ratio/train" in k} == {
        len(callback.history["nc1/cdnv/train_online"])
    }


def test_another_number_of_classes_is_not_compared():
    callback, _, _ = run()
    seed_everything(0, verbose=False)
    five = unequal_digits((8,) * 5 + (0,) * 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer([callback]).test(Network(rows=5), loader(five), verbose=False)
    assert np.isfinite(callback.history["nc1/cdnv/test"][-1].value)
    assert keys_of(callback, "test") == set()


def test_classes_that_are_noise_are_not_recognized_by_their_own_rows():
    torch.manual_seed(0)
    counts = [400, 100, 20, 5]
    y = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    noise = torch.utils.data.TensorDataset(torch.randn(len(y), 64), y)
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(64, 4))
    keys = ["imbalance/recall_few", "imbalance/recall_many"]
    found = measure(model, loader(noise, batch=128), progress=False, measures=keys)
    few = found.values["imbalance/recall_few"]
    assert few <= 0.4  # by their own rows, it would be 1
    assert found.values["imbalance/recall_many"] < 0.6


def test_programs_are_not_solved_for_many_classes():
    data = many(4, num_classes=60)
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(64, 60))
    with pytest.warns(NeuralCollapseWarning, match="ce_ufm left out: it is found up to 50 classes"):
        found = measure(
            model, loader(data), progress=False, measures=["imbalance/ce_ufm", "nc0/num_samples"]
        )
    assert "imbalance/ce_ufm" not in found.values
