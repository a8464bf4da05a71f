"""Several tags, and targets, over two and three ranks: against one process, and the oracles."""

import warnings

import pytest
import torch
from support.labeled import KINDS, loader
from support.ranks import assert_identical

from lightning_nc import measure

pytestmark = pytest.mark.ddp


def train(rank, kind, folder):
    """Two epochs; the last logged values of validation and training, and the state that is left."""
    from lightning.pytorch import seed_everything
    from support.training import fit

    from lightning_nc import NeuralCollapseCallback

    warnings.simplefilter("ignore")
    seed_everything(0, verbose=False)
    module = KINDS[kind]()
    callback = NeuralCollapseCallback(
        task=kind, layers=["body.1"], frozen_every_n_epochs=1, figures_every_n_epochs=0
    )
    fit(
        module, [callback], loader(module.data(), 8), loader(module.data(96, seed=1), 8),
        max_epochs=2, strategy="ddp", devices=2, num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    return {
        "logged": {key: rows[-1].value for key, rows in callback.history.items()},
        "noted": module.noted["train_online", 1],
        "state": module.state_dict(),
    }


@pytest.fixture(scope="module", params=KINDS)
def runs(request, two_processes, tmp_path_factory):
    kind = request.param
    return kind, two_processes.run(train, kind, str(tmp_path_factory.mktemp("labels")))


def of_stage(logged, stage):
    end = f"/{stage}"
    return {key.removesuffix(end): value for key, value in logged.items() if key.endswith(end)}


def test_all_ranks_have_the_same_values(runs):
    _, (first, second) = runs
    assert first["logged"] == second["logged"]
    assert_identical(first["state"], second["state"])


def test_one_process_and_several_agree(runs):
    kind, found = runs
    module = KINDS[kind]()
    module.load_state_dict(found[0]["state"])
    batches = loader(module.data(96, seed=1))
    alone = measure(module, batches, task=kind, layers=["body.1"], progress=False).by_layer[""]
    several = of_stage(found[0]["logged"], "val")
    assert several.keys() == alone.keys()
    assert several == pytest.approx(alone, rel=1e-6, abs=1e-9)


def test_the_rows_of_all_ranks_give_the_oracles_values(runs):
    """In training, W moves on alike on all ranks."""
    kind, found = runs
    noted = [row for run in found for row in run["noted"]]
    rows = [torch.cat([row[i] for row in noted]).double().numpy() for i in range(3)]
    last = found[0]["noted"][-1]
    expected = KINDS[kind].expected(*rows, *(last[i].double().numpy() for i in (3, 4)))
    several = of_stage(found[0]["logged"], "train_online")
    several = {key: value for key, value in several.items() if not key.startswith("layer/")}
    assert several.keys() == expected.keys()
    assert several == pytest.approx(expected, rel=1e-5, abs=1e-8)


def merged(rank, kind, shares):
    """What a stage comes to, of which each rank sees its own rows; some may see none."""
    from lightning_nc.functional import values_of
    from lightning_nc.stream.sync import Ranks
    from lightning_nc.tasks import Settings, make_task
    from lightning_nc.watch.batch import Forward
    from lightning_nc.watch.recorder import Recorder

    recorder = Recorder(make_task(kind, Settings()))
    x, labels = KINDS[kind].data(96).tensors
    head = torch.nn.Linear(8, labels.shape[1])
    with torch.no_grad():
        for number, parameter in enumerate(head.parameters()):
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            )
    for rows in torch.tensor(shares[rank], dtype=torch.long).split(7):
        if len(rows):
            recorder.classifier.keep(head.weight.detach(), head.bias.detach())
            scores = head(x[rows]).detach()
            recorder.add(Forward("head", x[rows], scores), labels[rows], labels.shape[1])
    recorded = recorder.close(Ranks() if len(shares) > 1 else None)
    return {key: float(value) for key, value in values_of(recorded.outcomes[""]).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_three_ranks_and_one_agree_whoever_has_the_rows(kind, three_processes):
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0)).tolist()
    alone = merged(0, kind, [order])
    for shares in ([order[:50], order[50:60], order[60:]], [[], order, []]):
        for found in three_processes.run(merged, kind, shares):
            assert found.keys() == alone.keys()
            assert found == pytest.approx(alone, rel=1e-6, abs=1e-9)
