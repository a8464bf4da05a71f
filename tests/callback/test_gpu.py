"""On a GPU: a table of situations once more, and no wait for the device; skipped without one."""

import functools
import os

import pytest
import torch
from support import networks
from support.situations import BOTH, Situation, check, live

from lightning_nc import NeuralCollapseCallback

GPU = {"accelerator": "gpu", "devices": 1}
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("restored_precision"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
]


class NeverWaits(NeuralCollapseCallback):
    """Makes torch raise where one of our hooks waits for the device."""


def never_waiting(name):
    def hook(self, *args, **kwargs):
        torch.cuda.set_sync_debug_mode("error")
        try:
            getattr(NeuralCollapseCallback, name)(self, *args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return hook


for event in (
    "on_train_batch_start",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
):
    setattr(NeverWaits, event, never_waiting(event))


def compile_with_cuda_graphs(module):
    torch._dynamo.reset()
    module.net = torch.compile(module.net, mode="reduce-overhead")


def compile_by_default(module):
    torch._dynamo.reset()
    module.net = torch.compile(module.net)


SITUATIONS = {
    "placement": Situation("states follow the module to the device", trainer=GPU),
    "deterministic": Situation(
        "every operation has a deterministic kernel", trainer=GPU | {"deterministic": True}
    ),
    "16-mixed": Situation("float16 features from autocast", trainer=GPU | {"precision": "16-mixed"}),
    "bf16-mixed": Situation("bfloat16 features", trainer=GPU | {"precision": "bf16-mixed"}),
    "TF32": Situation(
        "the scatter's product keeps float32",
        trainer=GPU,
        prepare=lambda module: torch.set_float32_matmul_precision("high"),
    ),
    "frozen pass": Situation(
        "the device's random state is put back",
        trainer=GPU,
        callback={"frozen_every_n_epochs": 1, "inference": "predict_step"},
        stages=(*BOTH, "train"),
    ),
    "no wait": Situation(
        "no hook of a batch waits for the device",
        kind=NeverWaits,
        callback={"layers": ["neck", "hidden"], "classifier": "fc"},
        trainer=GPU,
    ),
    "subset of rows": Situation(
        "nor where a part of a batch is taken",
        kind=NeverWaits,
        callback={"max_rows_per_batch": 1000, "classifier": "fc"},
        trainer=GPU,
    ),
    "inductor": Situation(
        "compiled by default",
        module=networks.Inner,
        prepare=compile_by_default,
        callback={"classifier": "net.fc"},
        trainer=GPU,
        processes=1,
    ),
    "CUDA graphs": Situation(
        "mode='reduce-overhead': a batch is consumed before the next one overwrites it",
        module=networks.Inner,
        prepare=compile_with_cuda_graphs,
        callback={"classifier": "net.fc"},
        trainer=GPU,
        processes=1,
    ),
}


def live_by_name(rank, name, watched, folder):
    # what deterministic kernels of cuBLAS need
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return live(rank, SITUATIONS[name], watched, folder)


@pytest.fixture(autouse=True)
def _same_determinism():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", SITUATIONS)
def test_training_on_a_gpu_is_the_same_and_the_values_are_right(name, tmp_path, request):
    check(SITUATIONS[name], functools.partial(live_by_name, name=name), tmp_path, request)
