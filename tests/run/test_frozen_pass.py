"""The extra inference pass: which rows it visits, and that it puts everything back."""

import random

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)
from training import BATCH, ROWS, Network, digits, fit, forward_of_pair, trainer

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning
from lightning_nc.run.frozen_pass import _eval_mode, _isolated_random_state, frozen_loader, frozen_pass

DATA = TensorDataset(torch.arange(50))


def visited(loader, num_batches=None, **settings):
    private = frozen_loader(loader, num_batches or len(loader), seed=0, **settings)
    return torch.cat([batch[0] for batch in private]).tolist()


@pytest.mark.parametrize(
    ("loader", "num_batches", "expected"),
    [
        (DataLoader(DATA, 8), None, range(50)),
        (DataLoader(DATA, 8, shuffle=True), None, range(50)),
        (DataLoader(DATA, 8, shuffle=True, drop_last=True), None, range(50)),
        (DataLoader(DATA, 8, sampler=SubsetRandomSampler(range(5, 15))), None, range(5, 15)),
        (DataLoader(DATA, 8, sampler=DistributedSampler(DATA, 2, 0)), None, range(50)),
        (DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 8, False)), None, range(50)),
        (DataLoader(DATA, batch_size=None, shuffle=True), None, range(50)),
        (DataLoader(DATA, 8, sampler=[3, 1, 2]), None, [1, 2, 3]),
        # training sees the first rows only, and so does the pass
        (DataLoader(DATA, 8), 2, range(16)),
    ],
)
def test_the_rows_of_training_are_visited_once(loader, num_batches, expected):
    if loader.batch_size is None and loader.batch_sampler is None:
        rows = [int(batch[0]) for batch in frozen_loader(loader, len(loader), seed=0)]
    else:
        rows = visited(loader, num_batches)
    assert sorted(rows) == list(expected)
    assert len(rows) < 5 or rows != sorted(rows)


def test_shuffled_training_cut_short_is_measured_on_as_many_random_rows():
    rows = visited(DataLoader(DATA, 8, shuffle=True), num_batches=2)
    assert len(set(rows)) == 16
    assert max(rows) > 16
    assert rows == visited(DataLoader(DATA, 8, shuffle=True), num_batches=2)


def test_ranks_share_the_rows_without_padding():
    shares = [visited(DataLoader(DATA, 8), rank=r, world_size=3) for r in range(3)]
    assert sorted(row for share in shares for row in share) == list(range(50))
    assert [len(share) for share in shares] == [17, 17, 16]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(50))


class Odd(BatchSampler):
    pass


@pytest.mark.parametrize(
    ("loader", "text"),
    [
        (DataLoader(Stream(), 8), r"map-style .* got the iterable-style Stream.*one more validation"),
        (
            DataLoader(DATA, 8, sampler=WeightedRandomSampler([1.0] * 50, 50)),
            r"but got a WeightedRandomSampler, which does not tell .*validation loader",
        ),
        (
            DataLoader(DATA, batch_sampler=Odd(SequentialSampler(DATA), 8, False)),
            r"but got a Odd, which does not tell",
        ),
        ({"a": DataLoader(DATA, 8)}, r"Expected a single DataLoader .* but got a dict"),
    ],
)
def test_data_that_cannot_be_visited_apart_are_refused_with_the_alternative(loader, text):
    with pytest.raises(ValueError, match=text):
        frozen_loader(loader, 3, seed=0)


@pytest.mark.parametrize("fails", [False, True])
def test_modes_and_random_states_are_put_back(fails):
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3).eval(), nn.Linear(3, 3))
    network.train()
    network[1].eval()
    before = [m.training for m in network.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    try:
        with _eval_mode(network), _isolated_random_state(torch.device("cpu")):
            assert not any(m.training for m in network.modules())
            torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert [m.training for m in network.modules()] == before
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]


class ByName(L.LightningModule):
    """A forward with named inputs, and batches as mappings."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
        self.seen = []

    def forward(self, pixels, scale=None):
        self.seen.append((tuple(pixels.shape), scale is not None))
        return self.fc(pixels)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"pixels": torch.zeros(2, 64), "label": torch.zeros(2)}, ((2, 64), False)),
        ({"pixels": torch.zeros(2, 64), "scale": torch.ones(2), "y": 1}, ((2, 64), True)),
        ([torch.zeros(2, 64), torch.zeros(2)], ((2, 64), False)),
        (torch.zeros(2, 64), ((2, 64), False)),
    ],
)
def test_forward_gets_the_inputs_of_the_batch(batch, expected):
    from lightning_nc.run.frozen_pass import _runner

    module = ByName()
    _runner(module, None)(batch, 0)
    assert module.seen == [expected]


@pytest.mark.parametrize("inference", [forward_of_pair, "training.forward_of_pair", "predict_step"])
def test_the_way_to_run_the_network_can_be_given(inference):
    module = Network()
    run = fit(
        module, [NeuralCollapseCallback(online=False, frozen_every_n_epochs=2, inference=inference)]
    )
    assert float(run.callback_metrics["nc0/num_samples/train"]) == ROWS


@pytest.mark.parametrize(
    ("inference", "text"),
    [
        ("predict", r"Expected inference to name a method of Network .* no 'predict'"),
        ("nowhere.f", r"Expected inference to name a function that can be imported"),
    ],
)
def test_a_wrong_way_to_run_the_network_is_refused_before_training(inference, text):
    module = Network()
    before = module.fc.weight.detach().clone()
    with pytest.raises(ValueError, match=text):
        fit(module, [NeuralCollapseCallback(frozen_every_n_epochs=2, inference=inference)])
    assert torch.equal(module.fc.weight, before)


def test_a_forward_that_does_not_take_the_inputs_is_explained_before_training():
    class NeedsTwo(Network):
        def forward(self, x, mask):
            raise AssertionError("never called")

    module = NeedsTwo()
    with pytest.raises(ValueError, match=r"Expected the forward of NeedsTwo to run .* 'predict_step'"):
        fit(module, [NeuralCollapseCallback(frozen_every_n_epochs=2)])


def test_limited_training_is_said_once():
    with pytest.warns(NeuralCollapseWarning) as told:
        run = fit(
            Network(),
            [NeuralCollapseCallback(online=False, frozen_every_n_epochs=1)],
            limit_train_batches=2,
        )
    texts = [str(w.message) for w in told if "limit_train_batches, overfit_batches" in str(w.message)]
    assert texts == [
        "The frozen pass measures as many batches as training runs, 2 of 4 (limit_train_batches, "
        "overfit_batches)."
    ]
    assert float(run.callback_metrics["nc0/num_samples/train"]) == 2 * BATCH


def test_progress_is_shown_in_a_bar_or_said(monkeypatch, capsys):
    from lightning_nc.run import frozen_pass as module

    bar = TQDMProgressBar()  # Lightning takes another one where rich is installed
    fit(Network(), [NeuralCollapseCallback(frozen_every_n_epochs=1), bar], enable_progress_bar=True)
    assert "Neural collapse, frozen pass:   0%|" in capsys.readouterr().err

    said = []
    monkeypatch.setattr(module, "_SECONDS_OF_SILENCE", 0.0)
    monkeypatch.setattr(module, "rank_zero_info", said.append)
    fit(Network(), [NeuralCollapseCallback(frozen_every_n_epochs=2)], max_epochs=1)
    assert said == [f"Neural collapse, frozen pass: {s}% of 4 batches" for s in (25, 50, 75, 100)]


class AtHome(Dataset):
    """Refuses to be read in another process, as a data set of CUDA tensors would."""

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        if get_worker_info() is not None:
            raise OSError("not here")
        return digits()[index]


def test_data_that_do_not_load_in_another_process_are_refused_with_the_alternative():
    callback = NeuralCollapseCallback(frozen_every_n_epochs=1)
    with pytest.raises(RuntimeError, match=r"(?s)of the frozen pass's own.*OSError.*val_1"):
        fit(Network(), [callback], train=DataLoader(AtHome(), BATCH))


def test_an_error_in_the_pass_leaves_training_as_it_was():
    module = Network()
    run = trainer()
    run.strategy.connect(module)
    module.train()
    loader = frozen_loader(DataLoader(digits(), BATCH), 4, seed=0)

    def fail(batch):
        raise RuntimeError("on purpose")

    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="on purpose"):
        frozen_pass(run, module, loader, before=lambda batch: torch.rand(3), after=fail)
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)
