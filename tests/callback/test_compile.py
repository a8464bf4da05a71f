"""Compiled networks: the hooks are part of the graph and cost no graph more; dead ones are explained.

In a process of their own, because the checks of shapes that these tests run under cannot be compiled.
"""

import pytest
import torch
from support.networks import Inner
from support.training import BATCH, ROWS, assert_close, digits, fit

from lightning_nc import NeuralCollapseCallback


def compiled(form):
    """A LightningModule in one of the usual forms, and what the Trainer is given."""
    module = given = Inner()
    match form:
        case "inner":
            module.net = torch.compile(module.net, backend="aot_eager", fullgraph=True)
        case "in place":
            module.compile(backend="aot_eager", fullgraph=True)
        case "inductor":
            module.net = torch.compile(module.net, fullgraph=True)
        case "whole":
            # what the step notes for the test makes graphs of its own
            torch._dynamo.config.recompile_limit = 64
            given = torch.compile(module, backend="aot_eager")
    return module, given


def lives(rank, form, callbacks, fits=1, **settings):
    """Compile a network and train it; the graphs that were made, and whether the values are right."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    module, given = compiled(form)
    for i in range(fits):
        module.noted.clear()
        mine = [NeuralCollapseCallback(**c) for c in callbacks[i]]
        run = fit(given, mine, **settings)
    if mine:
        for stage in ("train_online", "val"):
            assert_close(run.callback_metrics, module.reference(stage, run.current_epoch - 1), stage)
    return counters["stats"]["unique_graphs"], dict(counters["graph_break"])


NAMED, CHOSEN = {"classifier": "net.fc", "layers": ["net.body.3"]}, {}


@pytest.mark.parametrize("form", ["inner", "in place"])
def test_hooks_cost_no_graph_and_no_break(form, one_process):
    [(plain, _)] = one_process.run(lives, form, [[]])
    [(graphs, breaks)] = one_process.run(lives, form, [[NAMED]])
    assert (graphs, breaks) == (plain, {})
    # one that is found by itself is not looked for in the sanity check, and known after the first
    # training batch: one graph more for each
    [(graphs, breaks)] = one_process.run(lives, form, [[CHOSEN]])
    assert (graphs, breaks) == (plain + 2, {})


def test_a_whole_module_that_was_compiled_before_the_trainer_is_measured(one_process):
    one_process.run(lives, "whole", [[NAMED]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_the_default_compiler_compiles_the_hooks_too(one_process):
    one_process.run(lives, "inductor", [[NAMED]], timeout=240)


@pytest.mark.parametrize("form", ["inner", "in place"])
def test_a_second_fit_is_measured_as_well(form, one_process):
    one_process.run(lives, form, [[NAMED], [NAMED]], 2)


def runs_before_the_trainer(rank, seen):
    torch._dynamo.reset()
    module = Inner()
    module.net = torch.compile(module.net, backend="aot_eager")
    before = torch._dynamo.config.skip_nnmodule_hook_guards
    torch._dynamo.config.skip_nnmodule_hook_guards = not seen
    try:
        for batch_size in (BATCH, BATCH):
            module.train()(digits().tensors[0][:batch_size])
        run = fit(module, [NeuralCollapseCallback(**NAMED)], num_sanity_val_steps=0)
    finally:
        torch._dynamo.config.skip_nnmodule_hook_guards = before
    return float(run.callback_metrics["nc0/num_samples/train_online"])


def test_a_hook_that_was_compiled_away_is_explained_before_the_first_step(one_process):
    with pytest.raises(
        RuntimeError,
        match=r"(?s)hook never fired.*Was the network, or another of its class, compiled and",
    ):
        one_process.run(runs_before_the_trainer, False)
    assert one_process.run(runs_before_the_trainer, True) == [ROWS]
