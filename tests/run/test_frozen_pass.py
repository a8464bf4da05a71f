"""The extra inference pass: how it runs the network, and that it leaves no trace."""

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import TQDMProgressBar
from support.training import (
    BATCH,
    ROWS,
    Network,
    assert_close,
    digits,
    fit,
    reference_of,
    trainer,
)
from torch.utils.data import (
    DataLoader,
    Dataset,
    get_worker_info,
)

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning
from lightning_nc.run import progress
from lightning_nc.run.frozen_loader import frozen_loader
from lightning_nc.run.frozen_pass import frozen_pass


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
    bar = TQDMProgressBar()  # Lightning takes another one where rich is installed
    fit(Network(), [NeuralCollapseCallback(frozen_every_n_epochs=1), bar], enable_progress_bar=True)
    assert "Neural collapse, frozen pass:   0%|" in capsys.readouterr().err

    said = []
    monkeypatch.setattr(progress, "_SECONDS_OF_SILENCE", 0.0)
    monkeypatch.setattr(progress, "rank_zero_info", said.append)
    fit(Network(), [NeuralCollapseCallback(frozen_every_n_epochs=2)], max_epochs=1)
    said = [text for text in said if "batches" in text]  # besides that the first one is waited for
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

    def fail(batch, outputs):
        raise RuntimeError("on purpose")

    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="on purpose"):
        frozen_pass(run, module, loader, before=lambda batch: torch.rand(3), after=fail)
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)


def test_what_a_step_logs_in_the_frozen_pass_is_not_its_own_value():
    class Logs(Network):
        def validation_step(self, batch, batch_idx):
            loss = super().validation_step(batch, batch_idx)
            self.log("val_rows", float(len(batch[0])), reduce_fx="sum")
            return loss

    callback = NeuralCollapseCallback(frozen_every_n_epochs=1, inference="validation_step")
    with pytest.warns(NeuralCollapseWarning, match="runs validation_step on the training data"):
        run = fit(Logs(), [callback])
    assert float(run.callback_metrics["val_rows"]) == 96
    assert float(run.callback_metrics["nc0/num_samples/train"]) == ROWS


def one_more_forward(rank, folder):
    """Ranks with different numbers of batches, and a forward that waits for all of them."""

    class Waits(Network):
        def features(self, x):
            if dist.is_initialized():
                dist.all_reduce(torch.zeros(1))
            return super().features(x)

    module = Waits()
    callback = NeuralCollapseCallback(frozen_every_n_epochs=1, inference="predict_step")
    run = fit(
        module,
        [callback],
        train=DataLoader(digits(rows=193), 96, drop_last=True),
        strategy="ddp",
        devices=2,
        max_epochs=1,
        default_root_dir=folder,
        num_sanity_val_steps=0,
    )
    rows = module.noted["train", 0][1:]  # without the check before the first step
    return {k: float(v) for k, v in run.callback_metrics.items()}, rows, len(rows)


@pytest.mark.ddp
def test_all_ranks_make_as_many_forwards_in_the_frozen_pass(tmp_path, two_processes):
    runs = two_processes.run(one_more_forward, str(tmp_path))
    assert runs[0][2] == runs[1][2] == 2
    # the last forward of the second rank repeats its batch and does not count
    rows = [*runs[0][1], runs[1][1][0]]
    assert sum(len(row[0]) for row in rows) == 193
    assert_close(runs[1][0], reference_of(rows), "train")
