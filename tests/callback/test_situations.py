"""Safe in anyone's training run: a table of situations, each run twice in a real Trainer.

Without the callback and with it, from the same seed: parameters, buffers, random states, modes, hooks
and the order of the data have to be equal to the last bit, and every logged value equal to what an
independent reference computes from the features that the network has noted by itself.
"""

import functools

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder, StochasticWeightAveraging
from support import networks, ways
from support.situations import BOTH, Situation, check, live
from support.training import BATCH, ROWS, assert_close, reference_of

from lightning_nc import NeuralCollapseCallback

pytestmark = pytest.mark.usefixtures("restored_precision")


def counts(**expected):
    """The number of samples behind the last value of a stage."""

    def check(runs):
        for stage, number in expected.items():
            assert runs[0]["logged"][f"nc0/num_samples/{stage}"] == number

    return check


def only_the_history(runs):
    [run] = runs
    assert not any(key.startswith("nc") for key in run["logged"])
    entries = {key: run["history"][key][-1].value for key in run["history"].keys()}  # noqa: SIM118
    for stage in BOTH:
        assert_close(entries, reference_of(run["noted"][stage, 1]), stage)


def windows(size):
    """Each window of so many batches has its values; what is left over has none."""

    def check(runs):
        [run] = runs
        rows = [row for epoch in range(run["epochs"]) for row in run["noted"]["train_online", epoch]]
        cdnv = run["history"]["nc1/cdnv/train_online"]
        ends = range(size, len(rows) + 1, size)
        assert [entry.step for entry in cdnv] == list(ends)
        for i, end in enumerate(ends):
            entries = {
                key: run["history"][key][i].value
                for key in run["history"].keys()  # noqa: SIM118
                if key.endswith("/train_online")
            }
            assert_close(entries, reference_of(rows[end - size : end]), "train_online")

    return check


def steps(*expected):
    """The optimizer steps at which windows ended."""

    def check(runs):
        assert [entry.step for entry in runs[0]["history"]["nc1/cdnv/train_online"]] == [*expected]

    return check


def keeps_precision(name):
    def check(runs):
        assert torch.get_float32_matmul_precision() == name

    return check


def has_epochs(*expected):
    def check(runs):
        assert [entry.epoch for entry in runs[0]["history"]["nc1/cdnv/val"]] == [*expected]

    return check


# Precision

PRECISION = {
    "bf16-mixed": Situation(
        "bfloat16 features from autocast; statistics in float64 outside of it",
        trainer={"precision": "bf16-mixed"},
    ),
    "bf16-true": Situation(
        "bfloat16 parameters; casting the module does not cast the states",
        trainer={"precision": "bf16-true"},
    ),
    "16-true": Situation("float16 parameters", trainer={"precision": "16-true"}),
    "64-true": Situation("float64 features take the float64 product", trainer={"precision": "64-true"}),
    "matmul high": Situation(
        "TF32 allowed: the scatter's product keeps float32, and the setting stays",
        prepare=lambda module: torch.set_float32_matmul_precision("high"),
        also=keeps_precision("high"),
    ),
    "matmul medium": Situation(
        "bfloat16 products allowed",
        prepare=lambda module: torch.set_float32_matmul_precision("medium"),
        also=keeps_precision("medium"),
    ),
}

# Averaged weights and namespaces


def averaging():
    callbacks = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging")
    return [callbacks.WeightAveraging()]


def ema():
    module = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging")
    if not hasattr(module, "EMAWeightAveraging"):
        pytest.skip("this Lightning has no EMAWeightAveraging")
    return [module.EMAWeightAveraging(decay=0.9)]


def the_twin():
    import pytorch_lightning

    return pytorch_lightning


WEIGHTS_AND_NAMESPACES = {
    "weight averaging": Situation(
        "validation runs on swapped weights: W is the one that the features met", others=averaging
    ),
    "exponential averaging": Situation("the same with a moving average", others=ema),
    "stochastic weight averaging": Situation(
        "an extra epoch without an optimizer step",
        others=lambda: [StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)],
        trainer={"max_epochs": 3},
        epoch=3,
        ignored=(".*Swapping scheduler.*", ".*lr_scheduler.step.*"),
    ),
    "pytorch_lightning": Situation(
        "the other namespace's Trainer and LightningModule", module=networks.Twin, package=the_twin
    ),
}

# torch.compile


def compile_inner(module):
    torch._dynamo.reset()
    module.net = torch.compile(module.net, backend="aot_eager")


def compile_module(module):
    torch._dynamo.reset()
    module.compile(backend="aot_eager")


COMPILED = {
    "inner network compiled": Situation(
        "torch.compile inside the LightningModule; paths leave its wrapper out",
        module=networks.Inner,
        prepare=compile_inner,
        callback={"classifier": "net.fc", "layers": ["net.body.3"]},
        processes=1,
    ),
    "module.compile()": Situation(
        "the LightningModule compiled in place",
        module=networks.Inner,
        prepare=compile_module,
        processes=1,
    ),
}

# Shapes of a training step

STEPS = {
    "accumulated gradients": Situation(
        "one optimizer step every three batches", trainer={"accumulate_grad_batches": 3}
    ),
    "activation checkpointing": Situation(
        "the hook fires again in backward and is ignored", module=networks.Recomputes
    ),
    "reentrant checkpointing": Situation(
        "the older kind, whose first forward has no graph", module=networks.RecomputesReentrantly
    ),
    "LBFGS": Situation(
        "several closures in a step: the last one counts, with the W that it met",
        module=networks.Closures,
        says="forwards of the classifier ran in one step",
    ),
    "last of three forwards": Situation(
        "forwards='last', and it is said",
        module=networks.Views,
        says="3 forwards of the classifier ran",
    ),
    "first of three forwards": Situation(
        "forwards='first'", module=networks.FirstView, callback={"forwards": "first"}
    ),
    "all of three forwards": Situation(
        "forwards='all'",
        module=networks.AllViews,
        callback={"forwards": "all"},
        also=counts(train_online=3 * ROWS, val=3 * 96),
    ),
    "manual optimization": Situation(
        "two optimizers stepped by hand, the classifier's first", module=networks.Manual
    ),
    "mixup": Situation(
        "soft labels in the loss, hard ones found by `target`",
        module=networks.Mixup,
        train=functools.partial(ways.shuffled, ways.mixed),
        callback={"target": lambda batch: batch[-1]},
    ),
    "training_step returns None": Situation(
        "a batch without an optimizer step; its features count",
        module=networks.Skips,
        ignored=("`training_step` returned `None`",),
    ),
    "batch of None": Situation(
        "a collate function that drops batches",
        train=functools.partial(ways.shuffled, ways.sometimes_none),
        ignored=("train_dataloader yielded None",),
    ),
    "dictionary": Situation(
        "labels under a usual key",
        module=networks.Dictionaries,
        train=functools.partial(ways.shuffled, ways.as_dictionary),
        val=functools.partial(ways.validation, ways.as_dictionary),
    ),
    "nested batch": Situation(
        "labels by a path",
        module=networks.Nested,
        train=functools.partial(ways.shuffled, ways.as_nested),
        val=functools.partial(ways.validation, ways.as_nested),
        callback={"target": "pair.1"},
    ),
    "two training loaders": Situation(
        "a dictionary of batches",
        module=networks.TwoSources,
        train=ways.two_sources,
        callback={"target": ways.labels_of_two_sources},
    ),
    "iterable data set": Situation("no length, no sampler", train=ways.stream),
    "two validation loaders": Situation(
        "a stage for each",
        module=networks.TwoValidations,
        val=ways.two_validations,
        stages=(*BOTH, "val_1"),
    ),
    "two instances": Situation(
        "with prefixes of their own",
        others=lambda: [NeuralCollapseCallback(prefix="other/", layers=["neck"])],
        also=lambda runs: assert_close(
            {k.removeprefix("other/"): v for k, v in runs[0]["logged"].items() if k[:6] == "other/"},
            reference_of(runs[0]["noted"]["val", 1]),
            "val",
        ),
    ),
    "pictures": Situation(
        "drawing in TensorBoard, in the first epoch and the last",
        trainer={"logger": True},
        callback={"layers": ["neck"], "prog_bar": True},
        stages=(),
        also=lambda runs: assert_close(
            {k: v for k, v in runs[0]["logged"].items() if k.count("/") == 2},
            reference_of(runs[0]["noted"]["val", 1]),
            "val",
        ),
    ),
    "frozen pass": Situation(
        "an extra pass in eval mode leaves no trace",
        callback={"frozen_every_n_epochs": 1, "inference": "predict_step"},
        stages=(*BOTH, "train"),
    ),
}

# When epochs begin and end

# the learning rate finder of lightning 2.5.0 leaves a first epoch without a batch
OLD = tuple(map(int, L.__version__.split(".")[:2])) < (2, 6)
EMPTY_EPOCH = ("Stage train_online: Expected at least one row",) * OLD
OTHER_CALLBACKS = ".*callbacks used to create the checkpoint need to be provided.*"


EPOCHS = {
    "val_check_interval": Situation(
        "validation in the middle of the training epoch", trainer={"val_check_interval": 0.5}
    ),
    "check_val_every_n_epoch": Situation("fewer validations", trainer={"check_val_every_n_epoch": 2}),
    "no sanity check": Situation("training comes first", trainer={"num_sanity_val_steps": 0}),
    "max_steps": Situation(
        "training ends in mid-epoch: the values are those of the part",
        trainer={"max_steps": 6, "max_epochs": -1},
        stages=("train_online",),
        also=counts(train_online=2 * BATCH),
    ),
    "should_stop": Situation(
        "stopped in mid-epoch",
        module=networks.StopsInMidEpoch,
        also=counts(train_online=2 * BATCH),
    ),
    "the rest is skipped": Situation(
        "on_train_batch_start returns -1, and there is no validation",
        module=networks.SkipsTheRest,
        stages=("train_online",),
        also=counts(train_online=2 * BATCH),
    ),
    "overfit_batches": Situation(
        "a part of the data, in order",
        train=ways.in_order,
        trainer={"overfit_batches": 2},
        callback={"frozen_every_n_epochs": 1, "inference": "predict_step"},
        stages=("train_online", "train"),
        says=r"as many batches as training runs, 2 of 4 \(limit_train_batches, overfit_batches\)",
    ),
    "fast_dev_run": Situation(
        "one batch of everything",
        trainer={"fast_dev_run": True},
        epoch=0,
        says="a class has a single sample",
    ),
    "barebones": Situation(
        "nothing is logged; the history has it",
        trainer={"barebones": True},
        stages=(),
        also=only_the_history,
        ignored=(".*barebones.*",),
    ),
    "learning rate finder": Situation(
        "the tuner's batches are not measured",
        module=networks.WithLearningRate,
        others=lambda: [LearningRateFinder(num_training_steps=20, early_stop_threshold=None)],
        ignored=(".*module.s. in eval mode at the start of training.*", *EMPTY_EPOCH),
        also=counts(train_online=ROWS, val=96),
    ),
    "batch size finder": Situation(
        "nor those of the other tuner",
        module=networks.SizedByTheTuner,
        others=ways.batch_size_finder,
        run=ways.fits_own_data,
        ignored=(".*module.s. in eval mode at the start of training.*",),
        also=counts(train_online=ROWS, val=96),
    ),
    "validate, fit, test": Situation(
        "one callback, one Trainer; states made in inference mode",
        run=ways.validates_fits_tests,
        stages=("test",),
        epoch=2,
        also=counts(test=96),
    ),
    "windows of steps": Situation(
        "every_n_steps: values of three batches each, across the epochs' ends",
        callback={"every_n_steps": 3},
        trainer={"max_epochs": 3},
        stages=(),
        also=windows(3),
    ),
    "windows of accumulated steps": Situation(
        "a step is an optimizer step: four batches for two steps",
        callback={"every_n_steps": 2},
        trainer={"accumulate_grad_batches": 2},
        stages=(),
        also=steps(2, 4),
    ),
    "resumed at an epoch's end": Situation(
        "the history goes on",
        run=functools.partial(ways.goes_on_from, {"every_n_epochs": 1}),
        ignored=(OTHER_CALLBACKS,),
        also=has_epochs(0, 1),
    ),
    "resumed in mid-epoch": Situation(
        "the online values are those of the rest of the epoch",
        run=functools.partial(ways.goes_on_from, {"every_n_train_steps": 6}),
        also=counts(train_online=2 * BATCH),
        ignored=(OTHER_CALLBACKS, ".*resuming from a checkpoint that ended before the epoch ended.*",
                 ".*mid-epoch.*"),
    ),
}  # fmt: skip

# What goes wrong

INTERRUPTED = {
    "exception": Situation(
        "hooks are gone, and a second fit works",
        run=functools.partial(ways.breaks_and_fits, ValueError("on purpose")),
    ),
    "Ctrl-C": Situation(
        "the same after an interrupt",
        run=functools.partial(ways.breaks_and_fits, KeyboardInterrupt()),
        ignored=(".*attempting graceful shutdown.*",),
    ),
}

# Several processes

DDP = {"strategy": "ddp", "devices": 2}


def ddp(**settings):
    def strategy():
        from lightning.pytorch.strategies import DDPStrategy

        return DDPStrategy(**settings)

    return {"strategy": strategy, "devices": 2}


DISTRIBUTED = {
    "ddp": Situation("values of all ranks together, on all ranks", trainer=DDP, processes=2),
    "ddp, precision bf16-mixed": Situation(
        "bfloat16 features of two ranks", trainer=DDP | {"precision": "bf16-mixed"}, processes=2
    ),
    "ddp, unused parameters": Situation(
        "find_unused_parameters: a hook adds nothing to the graph",
        module=networks.Unused,
        trainer=ddp(find_unused_parameters=True),
        processes=2,
    ),
    "ddp, static graph": Situation(
        "static_graph: nor to a graph that may not change", trainer=ddp(static_graph=True), processes=2
    ),
    "ddp, accumulated gradients": Situation(
        "no_sync steps", trainer=DDP | {"accumulate_grad_batches": 2}, processes=2
    ),
    "ddp, uneven batches": Situation(
        "the last batch is smaller; the sampler's padding counts as it trains",
        train=functools.partial(ways.shuffled, rows=ROWS - 7),
        trainer=DDP,
        processes=2,
    ),
    "ddp, windows of steps": Situation(
        "all ranks close a window at the same step",
        callback={"every_n_steps": 2},
        trainer=DDP,
        processes=2,
    ),
    "ddp, max_steps": Situation(
        "ends in mid-epoch",
        trainer=DDP | {"max_steps": 3, "max_epochs": -1},
        stages=("train_online",),
        processes=2,
    ),
    "ddp, resumed": Situation(
        "from a checkpoint at an epoch's end",
        run=functools.partial(ways.goes_on_from, {"every_n_epochs": 1}),
        ignored=(OTHER_CALLBACKS,),
        trainer=DDP,
        processes=2,
    ),
    "ddp, validate, fit, test": Situation(
        "one callback",
        run=ways.validates_fits_tests,
        trainer=DDP,
        processes=2,
        stages=("test",),
        epoch=2,
        ignored=(".*Using `DistributedSampler` with the dataloaders.*",
                 ".*recommended to use `devices=1`.*"),
    ),
    "FSDP1": Situation(
        "W is whole inside the forward only",
        module=networks.Sharded,
        trainer={"strategy": ways.fsdp1_on_cpu, "devices": 2},
        callback={"classifier": "net.fc"},
        processes=2,
    ),
    "FSDP1, every layer wrapped": Situation(
        "paths leave FSDP's wrappers out; the classifier is found by itself",
        module=networks.Sharded,
        trainer={"strategy": ways.fsdp1_wrapping_on_cpu, "devices": 2},
        ignored=("Both mixed precision and an auto_wrap_policy",),
        processes=2,
    ),
    "FSDP2": Situation(
        "W is a DTensor outside of the forward",
        module=networks.Sharded,
        trainer={"strategy": ways.fsdp2, "devices": 2},
        processes=2,
    ),
    "FSDP2, the feature by its module": Situation(
        "W is put together at the stage's end, as the features have met it",
        module=networks.Sharded,
        trainer={"strategy": ways.fsdp2, "devices": 2},
        callback={"classifier": "net.fc", "features": "net.body"},
        stages=("val",),
        processes=2,
    ),
}  # fmt: skip

SITUATIONS = PRECISION | WEIGHTS_AND_NAMESPACES | COMPILED | STEPS | EPOCHS | INTERRUPTED | DISTRIBUTED


def live_by_name(rank, name, watched, folder):
    return live(rank, SITUATIONS[name], watched, folder)


@pytest.mark.parametrize("name", SITUATIONS)
def test_training_is_the_same_and_the_values_are_right(name, tmp_path, request):
    check(SITUATIONS[name], functools.partial(live_by_name, name=name), tmp_path, request)
