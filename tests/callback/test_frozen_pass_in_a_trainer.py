"""The frozen pass in real Trainers: it leaves no trace, and it never hangs."""

import multiprocessing
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import lightning as L
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers.logger import Logger
from support.problems import unchecked_shapes
from support.training import BATCH, ROWS, Network, Noisy, assert_close, digits, fit
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MetricCollection, MinMaxMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning
from lightning_nc.run import frozen_loader


class Told(Logger):
    """Notes what it is told, besides the keys of neural collapse."""

    name, version = "told", 0

    def __init__(self):
        super().__init__()
        self.told = []

    @property
    def experiment(self):
        return self

    def add_scalar(self, name, value):
        self.told.append((name, float(value)))

    def log_metrics(self, metrics, step=None):
        others = {k: v for k, v in metrics.items() if not k.startswith("nc")}
        if others.keys() != {"epoch"}:  # Lightning adds it to our own keys, too
            self.told.append((step, others))

    def log_hyperparams(self, *args, **kwargs):
        pass


class Metered(L.LightningModule):
    """Metrics of several kinds in validation, which the learning rate goes by, and every way to log."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.fc = nn.Linear(16, 10)
        self.body.accuracy = MulticlassAccuracy(10)
        self.several = MetricCollection([MulticlassAccuracy(10), MulticlassF1Score(10)])
        self.least = MinMaxMetric(MulticlassAccuracy(10))
        self.listed = [MulticlassAUROC(10)]

    @property
    def metrics(self):
        return [self.body.accuracy, self.several, self.least, *self.listed]

    def forward(self, x):
        for layer in list(self.body)[:4]:
            x = layer(x)
        return self.fc(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0]).softmax(1)
        for metric in self.metrics:
            metric.update(logits, batch[1])
        self.log("val_accuracy", self.body.accuracy)
        self.log_dict({"val_rows": float(len(logits))}, reduce_fx="sum", on_step=True, on_epoch=True)
        for logger in [self.logger, *self.trainer.loggers]:
            logger.log_metrics({"rows": float(len(logits))}, step=batch_idx)
            logger.experiment.add_scalar("largest", logits.max())

    def on_validation_epoch_end(self):
        for metric in self.metrics[1:]:
            self.logger.log_metrics({"computed": repr(metric.compute())})
            metric.reset()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, "max", 0.1, patience=0, threshold=0.15, threshold_mode="abs"
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val_accuracy"},
        }


def metered(callbacks, **settings):
    """What a run leaves behind: weights, buffers, what is known and told, updates and learning rate."""
    seed_everything(0, verbose=False)
    module, logger = Metered(), Told()
    run = fit(module, callbacks, logger=logger, max_epochs=4, **settings)
    known = {k: float(v) for k, v in run.callback_metrics.items() if not k.startswith("nc")}
    counts = [metric._update_count for metric in module.modules() if hasattr(metric, "_update_count")]
    rate = run.optimizers[0].param_groups[0]["lr"]
    return module.state_dict(), known, logger.told, counts, rate, run


@pytest.fixture
def new_processes():
    """Those of now that were not there before the test: other tests have some of their own."""
    before = set(multiprocessing.active_children())
    return lambda: set(multiprocessing.active_children()) - before


@pytest.mark.parametrize("inference", ["validation_step", None])
def test_the_modules_own_metrics_and_logs_are_as_without_the_callback(inference):
    callback = NeuralCollapseCallback(
        frozen_every_n_epochs=1, inference=inference, figures_every_n_epochs=0
    )
    plain = metered([])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*runs validation_step on the training data")
        seen = metered([callback])
    assert seen[1] == plain[1]  # the metrics of validation
    assert seen[2] == plain[2]  # what the loggers were told
    assert seen[3:5] == plain[3:5]  # updates of each metric; the learning rate that went by them
    assert plain[4] < 0.1
    for name, value in plain[0].items():
        assert torch.equal(seen[0][name], value), name
    assert float(seen[5].callback_metrics["nc0/num_samples/train"]) == ROWS


@pytest.mark.parametrize("inference", ["validation_step", "predict_step"])
def test_that_a_step_may_keep_what_it_sees_is_said_once(inference):
    callback = NeuralCollapseCallback(frozen_every_n_epochs=1, inference=inference)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(Network(), [callback])
    texts = ours(told)
    expected = 1 if inference == "validation_step" else 0
    assert len(texts) == expected
    assert all("lists and other attributes that it fills itself keep" in text for text in texts)


# eval() that does more than set modes


class LoRA(nn.Linear):
    """In the style of loralib: merged at eval, taken apart at train."""

    def __init__(self, merges):
        super().__init__(64, 32)
        self.weight.requires_grad = False
        self.lora_A = nn.Parameter(torch.randn(4, 64) / 8)
        self.lora_B = nn.Parameter(torch.zeros(32, 4))
        self.merges, self.merged = merges, False

    def train(self, mode=True):
        super().train(mode)
        if self.merges and self.merged is mode:
            self.weight.data += (-1 if mode else 1) * self.lora_B.data @ self.lora_A.data
            self.merged = not mode
        return self

    def forward(self, x):
        h = super().forward(x)
        return h if self.merged else h + x @ self.lora_A.T @ self.lora_B.T


def adapted(callbacks, merges=True, **settings):
    seed_everything(0, verbose=False)
    module = Network()
    module.hidden = LoRA(merges)
    run = fit(module, callbacks, max_epochs=3, **settings)
    return module.state_dict(), vars(module.hidden)["merged"], run


def ours(told):
    """The texts of our own warnings."""
    return [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]


def frozen(**settings):
    return NeuralCollapseCallback(online=False, frozen_every_n_epochs=1, **settings)


def test_weights_that_are_merged_at_eval_are_refused_and_training_goes_on_as_without():
    alone = {"limit_val_batches": 0}  # Lightning's own validation would leave them merged
    plain = adapted([], **alone)
    callback = frozen()
    with pytest.warns(NeuralCollapseWarning) as told:
        seen = adapted([callback], **alone)
    [text] = ours(told)
    assert "The frozen pass could not be measured" in text
    assert "the eval() of LoRA 'hidden' has changed the parameter 'hidden.weight'" in text
    assert "merge_weights=False" in text
    values = callback.history["nc1/cdnv/train"]
    assert [str(entry.value) for entry in values] == ["nan"] * 3
    assert seen[1] is plain[1] is False
    assert plain[0]["hidden.lora_B"].abs().sum() > 0  # it has learned something
    for name, value in plain[0].items():
        assert torch.equal(seen[0][name], value), name


@pytest.mark.parametrize("settings", [{"merges": False}, {"limit_val_batches": 1.0}])
def test_with_merging_off_or_done_by_lightning_before_all_is_measured(settings):
    plain, seen = adapted([], **settings), adapted([frozen()], **settings)
    assert float(seen[2].callback_metrics["nc0/num_samples/train"]) == ROWS
    assert seen[1] is plain[1]
    for name, value in plain[0].items():
        assert torch.equal(seen[0][name], value), name


def test_a_module_that_keeps_batch_norm_frozen_by_its_train_is_measured():
    class KeepsFrozen(Network):
        def train(self, mode=True):
            super().train(mode)
            self.frozen_norm.eval()
            return self

    module = KeepsFrozen()
    run = fit(module, [frozen(inference="predict_step")])
    assert_close(run.callback_metrics, module.reference("train", 1), "train")
    assert module.hidden.training
    assert not module.frozen_norm.training


# Data that do not survive a fork


class Pooled(Dataset):
    """Reads by a thread of its own, which a forked process does not have."""

    def __init__(self, lock=None):
        self.inner = digits()
        self.pool = ThreadPoolExecutor(1)
        self.pool.submit(int).result()  # the thread is there before the fork
        self.lock = lock or threading.Lock()

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        return self.pool.submit(self.inner.__getitem__, index).result()


class Locked(Pooled):
    """A lock that is held when the process is forked is never released in it."""

    def __getitem__(self, index):
        with self.lock:
            return self.inner[index]


def test_a_worker_that_waits_for_ever_is_refused_before_training(monkeypatch, new_processes):
    monkeypatch.setattr(frozen_loader, "LONGEST_WAIT", 1.0)
    module = Network()
    before = module.fc.weight.detach().clone()
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match=r"within 1 s, but none came.*frozen_num_workers=0"):
        fit(module, [frozen()], train=DataLoader(Pooled(), BATCH))
    assert time.monotonic() - begun < 20
    assert torch.equal(module.fc.weight, before)
    assert new_processes() == set()
    assert module.training


def test_a_worker_that_waits_for_ever_later_gives_nan_and_training_goes_on(monkeypatch, new_processes):
    class Holds(L.Callback):
        """Something else has the lock, when the second pass begins."""

        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                data.lock.acquire()
                monkeypatch.setattr(frozen_loader, "LONGEST_WAIT", 1.0)

        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                data.lock.release()
                monkeypatch.undo()

    data, callback = Locked(), frozen()
    with pytest.warns(NeuralCollapseWarning) as told:
        run = fit(Network(), [Holds(), callback], train=DataLoader(data, BATCH), max_epochs=3)
    [text] = ours(told)
    assert "none came" in text
    assert "frozen_num_workers=0" in text
    counts = [str(entry.value) for entry in callback.history["nc0/num_samples/train"]]
    assert counts == [f"{ROWS}.0", "nan", f"{ROWS}.0"]
    assert run.current_epoch == 3
    assert new_processes() == set()


def test_data_that_do_not_survive_a_fork_are_measured_in_this_process():
    module = Network()
    callback = frozen(frozen_num_workers=0, inference="predict_step")
    with pytest.warns(NeuralCollapseWarning) as told:
        run = fit(module, [callback], train=DataLoader(Pooled(), BATCH))
    [text] = ours(told)
    assert "With frozen_num_workers=0 the frozen pass reads the training data in this process" in text
    assert_close(run.callback_metrics, module.reference("train", 1), "train")


def test_in_this_process_the_global_random_states_are_still_put_back():
    def order(callbacks):
        seed_everything(0, verbose=False)
        module = Network()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*frozen_num_workers=0")
            fit(module, callbacks, train=DataLoader(digits(), BATCH, shuffle=True))
        return module.state_dict()

    plain, seen = order([]), order([frozen(frozen_num_workers=0)])
    for name, value in plain.items():
        assert torch.equal(seen[name], value), name


def test_fewer_workers_than_none_are_refused():
    with pytest.raises(ValueError, match="Expected frozen_num_workers to be at least 0, but got -1"):
        NeuralCollapseCallback(frozen_num_workers=-1)


# A pass that fails


def test_a_pass_that_fails_in_the_middle_puts_everything_back(new_processes):
    class Breaks(Metered):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            if not self.trainer.validating and not self.trainer.sanity_checking and batch_idx == 2:
                self.body[2].running_mean.add_(1)
                torch.rand(3)
                raise RuntimeError("on purpose")

    def run(callbacks):
        seed_everything(0, verbose=False)
        module, logger = Breaks(), Told()
        data = Noisy(digits())
        fit(module, callbacks, DataLoader(data, BATCH, shuffle=True), logger=logger)
        counts = [m._update_count for m in module.modules() if hasattr(m, "_update_count")]
        modes = [m.training for m in module.modules()]
        return module.state_dict(), logger.told, counts, modes, data.generator.bit_generator.state

    # the checker of shapes draws from Python's global random state, and so does the data set
    with unchecked_shapes():
        plain = run([])
    with unchecked_shapes(), pytest.warns(NeuralCollapseWarning) as told:
        seen = run([frozen(inference="validation_step", figures_every_n_epochs=0)])
    assert "RuntimeError: on purpose" in ours(told)[-1]
    assert seen[1:] == plain[1:]
    for name, value in plain[0].items():
        assert torch.equal(seen[0][name], value), name
    assert new_processes() == set()
