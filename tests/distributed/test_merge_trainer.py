"""A Lightning run over two ranks."""

import re
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from support.oracles import reference_measures
from support.problems import of_default
from support.ranks import assert_identical, assert_same_values, noted_collectives

from lightning_nc import LinearClassifier

pytestmark = pytest.mark.ddp


def train(rank, folder, watches, monitored, settings):
    """Train in the processes that are there already; everything that a test may want to compare."""
    # imported here, because only these tests need Lightning in the processes
    from lightning.pytorch import seed_everything
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from support.training import Network, fit

    from lightning_nc import NeuralCollapseCallback

    callback = NeuralCollapseCallback(frozen_every_n_epochs=1)
    # this value never rises: training stops after the second epoch
    stop = EarlyStopping("nc0/num_samples/val", mode="max", patience=1)
    keep = ModelCheckpoint(folder, monitor="nc1/cdnv/val", mode="min")
    seed_everything(0, verbose=False)
    module = Network()
    with noted_collectives() as calls:
        run = fit(
            module,
            [callback] * watches + [stop, keep] * monitored,
            strategy="ddp",
            devices=2,
            default_root_dir=folder,
            enable_checkpointing=monitored,
            **settings,
        )
    return {
        "logged": {key: v.clone() for key, v in run.callback_metrics.items()},
        "history": callback.history,
        "epochs": run.current_epoch,
        "state": module.state_dict(),
        "rows": module.noted["train_online", run.current_epoch - 1],
        "calls": [name for name, _ in calls],
        "stopped": (stop.stopped_epoch, stop.best_score),
        "kept": (keep.best_model_path, keep.best_model_score),
    }


@pytest.fixture(scope="module")
def runs(two_processes, tmp_path_factory):
    """What is left of two epochs without the callback, with it, and with monitors of its keys."""
    folder = str(tmp_path_factory.mktemp("runs"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plain = two_processes.run(train, folder, False, False, {})
        watched = two_processes.run(train, folder, True, False, {})
        monitored = two_processes.run(train, folder, True, True, {"max_epochs": 5})
    texts = [str(w.message) for w in caught]
    return {"plain": plain, "watched": watched, "monitored": monitored, "said": texts}


def by_hand(state, data):
    """The measures of all rows, from the final weights and the functions alone."""
    from support.training import Network

    from lightning_nc import FeatureSample, functional
    from lightning_nc.values.statistics import ClassStatistics

    module = Network()
    module.load_state_dict(state)
    module.eval()
    x, y = data.tensors
    with torch.no_grad():
        h = module.features(x)
        predicted = module.fc(h).argmax(1)
    statistics = ClassStatistics.from_batch(h, y, 10)
    n = torch.tensor(len(y))
    sample = FeatureSample(h, y, predicted, seen=len(y))
    correct = (predicted == y).sum()
    decisions = functional.count_decisions(
        sample, statistics, stands_for=n, predicted=n, correct=correct
    )
    classifier = LinearClassifier(module.fc.weight, module.fc.bias)
    evidence = functional.ClassEvidence.of(statistics, classifier, decisions)
    outcomes = functional.evaluate(functional.select(["default"]), evidence)
    assert {outcome.reason for outcome in outcomes.values()} == {""}
    return functional.values_of(outcomes)


def of_stage(logged, stage):
    return {key.removesuffix(f"/{stage}"): v for key, v in logged.items() if key.endswith(f"/{stage}")}


@pytest.mark.parametrize("name", ["watched", "monitored"])
def test_both_ranks_of_a_trainer_log_the_same_bits(name, runs):
    first, second = runs[name]
    assert_identical(first["logged"], second["logged"])
    assert first["history"] == second["history"]
    assert {key.split("/")[2] for key in first["logged"]} == {"val", "train_online", "train"}


@pytest.mark.parametrize("stage", ["val", "train"])
def test_a_trainers_values_equal_the_functions_on_all_rows_and_the_final_weights(stage, runs):
    from support.training import ROWS, digits

    data = {"val": digits(ROWS, 96), "train": digits()}[stage]
    run, _ = runs["watched"]
    assert_same_values(of_stage(run["logged"], stage), by_hand(run["state"], data), rel=1e-5)


def test_online_values_equal_the_reference_on_the_features_that_both_ranks_met(runs):
    from support.training import ROWS

    rows = [row for run in runs["watched"] for row in run["rows"]]
    h, y, predicted = (torch.cat([row[i] for row in rows]).numpy() for i in range(3))
    weight, bias = (runs["watched"][0]["rows"][-1][i].numpy() for i in (3, 4))
    reference = reference_measures(h, y, 10, predicted=predicted, weight=weight, bias=bias)
    assert len(y) == ROWS
    values = of_stage(runs["watched"][0]["logged"], "train_online")
    assert_same_values(values, of_default(reference), rel=1e-5)


@pytest.mark.parametrize("name", ["watched", "monitored"])
def test_parameters_on_both_ranks_are_bit_identical_with_and_without_the_callback(name, runs):
    for plain, other in zip(runs["plain"], runs[name], strict=True):
        assert plain["epochs"] == other["epochs"] == 2
        assert_identical(plain["state"], other["state"])


def test_early_stopping_and_checkpoints_agree_on_both_ranks(runs):
    first, second = runs["monitored"]
    entries = [entry.value for entry in first["history"]["nc1/cdnv/val"]]
    path, score = first["kept"]
    assert torch.load(path, weights_only=True)["epoch"] == np.argmin(entries)
    assert float(score) == pytest.approx(min(entries))
    assert (path, score) == second["kept"]
    assert first["stopped"] == second["stopped"] == (1, 96)


def test_nothing_is_warned_of_and_no_sync_dist_is_advised(runs):
    known = "LeafSpec|this may be a bottleneck|does not have many workers"
    assert [text for text in runs["said"] if not re.search(known, text)] == []


def test_a_trainer_makes_four_all_reduces_per_stage_and_a_broadcast_per_frozen_pass(runs):
    for plain, watched in zip(runs["plain"], runs["watched"], strict=True):
        more = Counter(watched["calls"])
        more.subtract(Counter(plain["calls"]))
        stages, epochs = 3, 2
        # one batch of the frozen pass is tried before training
        # and before the first validation the training rows so far are counted
        expected = {"all_reduce": 4 * stages * epochs + 3, "broadcast": epochs + 1}
        assert {name: n for name, n in more.items() if n} == expected


def test_the_frozen_pass_without_validation_measures_the_network_that_is_saved(two_processes, tmp_path):
    from support.training import digits

    settings = {"limit_val_batches": 0}
    plain = two_processes.run(train, str(tmp_path), False, False, settings)
    watched = two_processes.run(train, str(tmp_path), True, False, settings)
    # without a validation loop, in which DDP shares the buffers, each rank ends with its own
    assert not torch.equal(*(run["state"]["norm.running_mean"] for run in plain))
    for one, other in zip(plain, watched, strict=True):
        assert_identical(one["state"], other["state"])
    values = of_stage(watched[0]["logged"], "train")
    assert_same_values(values, by_hand(watched[0]["state"], digits()), rel=1e-5)
