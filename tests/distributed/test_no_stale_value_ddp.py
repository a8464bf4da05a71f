"""What has no value any more is NaN on both ranks, and both of them stop."""

import math

import pytest
import torch
from support.ranks import assert_identical

pytestmark = pytest.mark.ddp

KEY = "nc1/cdnv/val"


def train(rank, folder):
    """A run whose weights are NaN from the third epoch on, and which would go on for six."""
    # imported here, because only these tests need Lightning in the processes
    from lightning.pytorch import seed_everything
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from support.networks import Diverges
    from support.training import fit

    from lightning_nc import NeuralCollapseCallback

    callback = NeuralCollapseCallback()
    stop = EarlyStopping(KEY, mode="min", patience=9)
    keep = ModelCheckpoint(folder, monitor=KEY, mode="min", save_top_k=1)
    seed_everything(0, verbose=False)
    run = fit(Diverges(), [callback, stop, keep], max_epochs=6, strategy="ddp", devices=2,
              default_root_dir=folder, enable_checkpointing=True)  # fmt: skip
    return {
        "history": {key: callback.history[key] for key in callback.history},
        "monitored": {key: value.clone() for key, value in run.callback_metrics.items()},
        "logged": {key: value.clone() for key, value in run.logged_metrics.items()},
        "epochs": (run.current_epoch, stop.stopped_epoch),
        "kept": keep.best_model_path,
    }


@pytest.fixture(scope="module")
def ranks(two_processes, tmp_path_factory):
    with pytest.warns(UserWarning, match="Expected at least one row with a label that counts"):
        return two_processes.run(train, str(tmp_path_factory.mktemp("diverges")))


def test_both_ranks_see_nan_under_every_key_that_they_had(ranks):
    first, second = ranks
    for run in ranks:
        keys = list(run["history"])
        assert {key.split("/")[2] for key in keys} == {"val", "train_online"}
        for key in keys:
            rows = run["history"][key]
            assert [math.isnan(row.value) for row in rows] == [False, False, True], key
            assert run["monitored"][key].isnan(), key
            assert run["logged"][key].isnan(), key
    assert list(first["history"]) == list(second["history"])
    assert list(first["monitored"]) == list(second["monitored"])
    # NaN is unlike itself
    finite = [{k: v.nan_to_num(-1) for k, v in run["monitored"].items()} for run in ranks]
    assert_identical(*finite)


def test_both_ranks_stop_in_that_epoch_and_keep_the_network_of_before(ranks):
    for run in ranks:
        assert run["epochs"] == (3, 2)
    assert ranks[0]["kept"] == ranks[1]["kept"]
    kept = torch.load(ranks[0]["kept"], weights_only=True)
    values = [row.value for row in ranks[0]["history"][KEY][:2]]
    assert kept["epoch"] == values.index(min(values))
    assert all(weight.isfinite().all() for weight in kept["state_dict"].values())
