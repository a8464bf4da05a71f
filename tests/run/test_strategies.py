"""Ranks that fail, ranks that die, and strategies that nobody has tried."""

import os

import pytest
import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)
from processes import Pool
from situations import Sharded
from torch.utils.data import DataLoader
from training import BATCH, ROWS, Network, digits, fit, trainer

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning
from lightning_nc.run.strategies import doubt, refuse_frozen_pass

DDP = {"strategy": "ddp", "devices": 2}


def blank(strategy, **attributes):
    """An instance that was not set up: those for devices that are not there cannot be."""
    made = strategy.__new__(strategy)
    vars(made).update(attributes)
    return made


class OwnDDP(DDPStrategy):
    pass


class Own(SingleDeviceStrategy):
    pass


class Stranger:
    pass


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (SingleDeviceStrategy(torch.device("cpu")), None),
        (DDPStrategy(), None),
        (OwnDDP(), None),
        (blank(FSDPStrategy), None),
        (blank(ModelParallelStrategy, _tensor_parallel_size=1), None),
        (blank(ModelParallelStrategy, _tensor_parallel_size=2), "tensor parallelism: .* several times"),
        (blank(DeepSpeedStrategy), "DeepSpeedStrategy: compare nc0/num_samples"),
        (Stranger(), "Stranger: compare"),
    ],
)
def test_strategies_that_were_not_tested_are_said(strategy, text):
    said = doubt(strategy)
    if text is None:
        assert said is None
    else:
        import re

        assert re.search(f"has not been tested with {text}", said)


def test_a_doubt_is_said_when_the_run_begins(monkeypatch):
    monkeypatch.setattr("lightning_nc.run.strategies._TESTED", set())
    with pytest.warns(NeuralCollapseWarning, match="not been tested with SingleDeviceStrategy"):
        fit(Network(), [NeuralCollapseCallback()], max_epochs=1)


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy])
def test_a_frozen_pass_where_a_forward_is_a_collective_is_refused(strategy):
    with pytest.raises(ValueError, match=rf"but got {strategy.__name__}: .*stage val_1"):
        refuse_frozen_pass(blank(strategy))
    refuse_frozen_pass(DDPStrategy())


def refused_in_a_trainer(rank):
    callback = NeuralCollapseCallback(frozen_every_n_epochs=1)
    fit(Sharded(), [callback], strategy=ModelParallelStrategy(2, 1), devices=2)


@pytest.mark.ddp
def test_the_frozen_pass_is_refused_before_the_first_step(two_processes):
    with pytest.raises(RuntimeError, match="but got ModelParallelStrategy: there a forward waits"):
        two_processes.run(refused_in_a_trainer)


# A rank that fails in measuring


def lives_with(rank, which, stage):
    """Something goes wrong in measuring on rank 1 alone, in the second epoch; training goes on."""
    import warnings

    from lightning_nc.stream import sync
    from lightning_nc.watch import recorder

    module, callback = Network(), NeuralCollapseCallback(classifier="fc", online=stage != "train",
                                                         frozen_every_n_epochs=int(stage == "train"),
                                                         inference="predict_step")  # fmt: skip
    original = {
        "close": recorder.Recorder._accumulated,
        "merge": sync._rest,
        "pass": Network.predict_step,
    }

    def fails(*args, **kwargs):
        if rank == 1 and module.current_epoch == 1 and not module.trainer.sanity_checking:
            raise MemoryError("on purpose")
        return original[which](*args, **kwargs)

    place, name = {
        "close": (recorder.Recorder, "_accumulated"),
        "merge": (sync, "_rest"),
        "pass": (Network, "predict_step"),
    }[which]
    setattr(place, name, fails)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run = fit(module, [callback], max_epochs=3, **DDP)
    finally:
        setattr(place, name, original[which])
    texts = [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]
    keys = [key for key in callback.history.keys() if key.endswith(f"/{stage}")]  # noqa: SIM118
    values = {key: [str(entry.value) for entry in callback.history[key]] for key in keys}
    return run.current_epoch, values, texts, {k: v.sum().item() for k, v in module.state_dict().items()}


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("which", "stage"),
    [("close", "train_online"), ("close", "val"), ("merge", "val"), ("pass", "train")],
)
def test_a_rank_that_cannot_measure_makes_nan_on_all_ranks_and_nobody_waits(
    which, stage, two_processes
):
    first, second = two_processes.run(lives_with, which, stage)
    assert first[0] == second[0] == 3
    assert first[1] == second[1]
    assert first[3] == second[3]
    is_nan = {key: [text == "nan" for text in row] for key, row in first[1].items()}
    if which == "merge":  # what rests on the means alone is still known
        assert is_nan["nc1/cdnv/val"] == [False, True, False]
        assert is_nan["nc2/means_equinorm/val"] == [False, False, False]
        assert is_nan["nc4/ncc_mismatch/val"] == [False, True, False]
    else:
        assert set(map(tuple, is_nan.values())) == {(False, True, False)}
    assert any("MemoryError: on purpose" in text for text in second[2])
    if which != "merge":
        assert any("Rank 1 could not take part" in text for text in first[2])


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


# Processes that the Trainer starts


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*num_workers.*")
def test_the_callback_goes_along_to_spawned_processes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    module, callback = Network(), NeuralCollapseCallback(layers={"neck": "flatten"})
    run = trainer([callback], strategy="ddp_spawn", devices=2, max_epochs=1)
    run.fit(module, DataLoader(digits(), BATCH), DataLoader(digits(ROWS, 96), BATCH))
    assert float(run.callback_metrics["nc0/num_samples/train_online"]) == ROWS
    # on one process, from the weights that came back
    alone = trainer([NeuralCollapseCallback()])
    [values] = alone.validate(module, DataLoader(digits(ROWS, 96), BATCH), verbose=False)
    for key in ("nc1/within_between_ratio/val", "nc4/ncc_mismatch/val", "nc3/self_duality/val"):
        assert float(run.callback_metrics[key]) == pytest.approx(values[key], rel=1e-4)
