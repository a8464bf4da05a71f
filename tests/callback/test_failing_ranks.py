"""Ranks that fail in measuring, and ranks that die."""

import os
import warnings
from dataclasses import replace

import pytest
from support.processes import Pool
from support.training import Network, fit

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning
from lightning_nc.functional.counts import COUNTS
from lightning_nc.stream.class_accumulator import ClassAccumulator

DDP = {"strategy": "ddp", "devices": 2}

# A rank that fails in measuring


def breaks(patch, which, is_time):
    """From now on, one of the steps at a stage's end fails when its time has come."""

    def failing(original):
        def step(*args, **kwargs):
            if is_time():
                raise MemoryError("on purpose")
            return original(*args, **kwargs)

        return step

    if which == "count":
        honest = COUNTS["decisions"]
        patch.setitem(COUNTS, "decisions", replace(honest, function=failing(honest.function)))
        return
    place, name = {
        "close": (ClassAccumulator, "settle"),
        "merge": (ClassAccumulator, "around"),
        "pass": (Network, "predict_step"),
    }[which]
    patch.setattr(place, name, failing(getattr(place, name)))


def lives_with(rank, which, stage):
    """Something goes wrong in measuring on rank 1 alone, in the second epoch; training goes on."""
    module = Network()

    def is_time():
        return rank == 1 and module.current_epoch == 1 and not module.trainer.sanity_checking

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        breaks(patch, which, is_time)
        callback = NeuralCollapseCallback(
            classifier="fc",
            online=stage != "train",
            frozen_every_n_epochs=int(stage == "train"),
            inference="predict_step",
        )
        run = fit(module, [callback], max_epochs=3, **DDP)
    texts = [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]
    keys = [key for key in callback.history.keys() if key.endswith(f"/{stage}")]  # noqa: SIM118
    values = {key: [str(entry.value) for entry in callback.history[key]] for key in keys}
    return run.current_epoch, values, texts, {k: v.sum().item() for k, v in module.state_dict().items()}


def nan_in_the_second_epoch(which, stage, pool):
    """Whether the values of each measure are NaN in that epoch only, and known in the others."""
    first, second = pool.run(lives_with, which, stage)
    assert first[0] == second[0] == 3
    assert first[1] == second[1]
    assert first[3] == second[3]
    assert any("MemoryError: on purpose" in text for text in second[2])
    is_nan = {
        key.removesuffix(f"/{stage}"): tuple(text == "nan" for text in row)
        for key, row in first[1].items()
    }
    assert set(is_nan.values()) <= {(False, True, False), (False, False, False)}
    return {key: row[1] for key, row in is_nan.items()}, first[2]


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("which", "stage"), [("close", "train_online"), ("close", "val"), ("pass", "train")]
)
def test_a_rank_that_cannot_measure_makes_nan_on_all_ranks_and_nobody_waits(
    which, stage, two_processes
):
    is_nan, said = nan_in_the_second_epoch(which, stage, two_processes)
    assert is_nan
    assert all(is_nan.values())
    assert any("Rank 1 could not take part" in text for text in said)


@pytest.mark.ddp
def test_where_a_rank_cannot_move_its_scatter_what_rests_on_means_and_counts_is_known(two_processes):
    is_nan, _ = nan_in_the_second_epoch("merge", "val", two_processes)
    assert is_nan["nc1/cdnv"]
    assert is_nan["nc1/within_between_pinv"]
    assert not is_nan["nc2/means_equinorm"]
    assert not is_nan["nc3/self_duality"]
    assert not is_nan["nc4/ncc_mismatch"]
    assert not is_nan["nc0/accuracy"]


@pytest.mark.ddp
def test_where_a_rank_cannot_count_all_the_rest_is_known(two_processes):
    is_nan, _ = nan_in_the_second_epoch("count", "val", two_processes)
    counted = {key for key in is_nan if key.startswith("nc4/")} | {"nc0/accuracy"}
    assert {key for key, value in is_nan.items() if value} == counted


# A rank that dies


def dies(rank, how):
    class Dies(Network):
        def training_step(self, batch, batch_idx):
            if self.current_epoch == 1 and batch_idx == 1 and rank == 1:
                if how == "exit":
                    os._exit(1)
                raise ValueError("on purpose")
            return super().training_step(batch, batch_idx)

        def on_exception(self, exception):
            pass

    module = Dies()
    try:
        fit(module, [NeuralCollapseCallback(classifier="fc")], **DDP)
    except BaseException as error:
        hooks = [m for m in module.modules() if m._forward_hooks or m._forward_pre_hooks]
        raise RuntimeError(f"hooks left: {len(hooks)}; {type(error).__name__}: {error}") from error


@pytest.mark.ddp
@pytest.mark.parametrize("how", ["exception", "exit"])
def test_a_rank_that_dies_leaves_neither_hooks_nor_a_hang(how):
    pool = Pool(2, timeout=40)
    try:
        with pytest.raises(RuntimeError) as failure:
            pool.run(dies, how)
    finally:
        pool.close()
    text = str(failure.value)
    assert "hooks left: 0" in text
    assert "hooks left: 1" not in text
    assert ("ValueError: on purpose" if how == "exception" else "rank 1 has died") in text
