"""The frozen pass of two ranks visits all rows, however they are shared among the ranks."""

import pytest
import torch
from support.ranks import assert_identical

from lightning_nc.values import ClassStatistics

pytestmark = pytest.mark.ddp

ODD = 193
WAYS = ("by hand", "by hand, limited", "own sampler", "Lightning's sampler")


def loader_of(rank, way, data):
    """A rank's training loader, and the Trainer's settings."""
    from torch.utils.data import DataLoader, DistributedSampler, Subset

    if way == "Lightning's sampler":
        return DataLoader(data, 49, shuffle=True), {}
    if way == "own sampler":
        return DataLoader(data, 49, sampler=DistributedSampler(data, 2, rank)), {}
    shard = Subset(data, range(rank, len(data), 2))  # 97 rows and 96
    limited = {"limit_train_batches": 1} if "limited" in way else {}
    return DataLoader(shard, 49, shuffle=True), {"use_distributed_sampler": False, **limited}


def train(rank, folder, way, watches=True):
    """Train, and leave what a test may want to compare."""
    from lightning.pytorch import seed_everything
    from support.training import Network, digits, fit

    from lightning_nc import NeuralCollapseCallback

    seed_everything(0, verbose=False)
    callback = NeuralCollapseCallback(online=False, frozen_every_n_epochs=1)
    module = Network()
    loader, settings = loader_of(rank, way, digits(rows=ODD))
    run = fit(
        module, [callback] * watches, train=loader, strategy="ddp", devices=2, max_epochs=1,
        default_root_dir=folder, **settings,
    )  # fmt: skip
    statistics = callback.statistics.get("train")
    return {
        "logged": {k: v.clone() for k, v in run.callback_metrics.items() if k.endswith("/train")},
        "state": module.state_dict(),
        "counts": None if statistics is None else statistics.counts,
        "means": None if statistics is None else statistics.means,
    }


def of_all_rows(state):
    """Counts and means of the classes over the whole data set, by the final weights alone."""
    from support.training import Network, digits

    module = Network()
    module.load_state_dict(state)
    module.eval()
    x, y = digits(rows=ODD).tensors
    with torch.no_grad():
        h = module.features(x)
    return ClassStatistics.from_batch(h, y, 10)


@pytest.mark.filterwarnings("ignore:.*measures as many batches as training runs")
@pytest.mark.parametrize("way", WAYS)
def test_each_row_of_the_data_is_visited_once(way, two_processes, tmp_path):
    first, second = two_processes.run(train, str(tmp_path), way)
    assert_identical(first["logged"], second["logged"])
    if "limited" in way:  # each rank as many batches of its own shard as training runs
        assert float(first["logged"]["nc0/num_samples/train"]) == 2 * 49
        return
    expected = of_all_rows(first["state"])
    assert float(first["logged"]["nc0/num_samples/train"]) == ODD
    assert first["counts"].tolist() == expected.counts.tolist()
    torch.testing.assert_close(first["means"], expected.means, rtol=1e-5, atol=1e-8)


def test_training_that_is_shared_by_hand_is_bit_identical_with_the_pass(two_processes, tmp_path):
    plain = two_processes.run(train, str(tmp_path), "by hand", False)
    seen = two_processes.run(train, str(tmp_path), "by hand")
    for one, other in zip(plain, seen, strict=True):
        assert_identical(one["state"], other["state"])
