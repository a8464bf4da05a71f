"""Watching changes nothing and remembers nothing: what a fresh reading of the callback has found."""

import pytest
import situations as its
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from test_situations import BOTH, Situation, check
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader
from training import BATCH, ROWS, Network, assert_close, digits, fit, reference_of, trainer

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning
from lightning_nc.watch.capture import Capture


class Normalized(Network):
    """Its weights change when they are read in train mode."""

    def __init__(self):
        super().__init__()
        spectral_norm(self.hidden)
        spectral_norm(self.fc)

    def keep(self, stage, h, y, logits):
        parts = self.fc.parametrizations
        parts.eval()  # read without another step of the power iteration
        super().keep(stage, h, y, logits)
        parts.train(self.training)


class Counts(Network):
    """A buffer that each forward moves, also in eval mode, and that the loss rests on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def features(self, x):
        self.scale.mul_(0.99).add_(0.01 * x.abs().mean())
        return super().features(x) / self.scale


class StepsByItself(Network):
    """Steps an optimizer that Lightning does not see."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=False)
        loss = super().training_step(batch, batch_idx)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class BypassesTheWrapper(Network):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        optimizer_closure()
        optimizer.optimizer.step()


class FixedHead(Network):
    """A head without gradient, whose input is changed afterwards."""

    def __init__(self):
        super().__init__()
        self.fc.requires_grad_(False)

    def features(self, x):
        return super().features(x) * 1.0  # whose result no gradient needs

    def note(self, stage, batch):
        x, y = batch
        h = self.features(x)
        logits = self.fc(h)
        self.keep(stage, h, y, logits)
        loss = nn.functional.cross_entropy(logits, y)
        h.mul_(2)
        return loss


FROZEN = {"frozen_every_n_epochs": 1, "inference": "predict_step"}
SITUATIONS = {
    "spectral norm": Situation("a weight that changes when it is read", module=Normalized),
    "spectral norm, named": Situation(
        "the same", module=Normalized, callback={"classifier": "fc", "layers": ["neck"]}
    ),
    "buffers that move in eval mode": Situation(
        "they are put back after the frozen pass", module=Counts, callback=FROZEN, stages=BOTH
    ),
    "an optimizer of one's own": Situation(
        "no event tells of its step: W is copied in the forward", module=StepsByItself
    ),
    "an optimizer's wrapper left out": Situation("the same", module=BypassesTheWrapper),
    "fixed head": Situation("features that autograd does not keep", module=FixedHead),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_training_is_the_same_and_the_values_are_right(name, tmp_path, request):
    situation = SITUATIONS[name]
    check(situation, lambda rank, **run: its.live(rank, situation, **run), tmp_path, request)


@pytest.mark.parametrize(
    ("settings", "stage"),
    [
        ({"frozen_every_n_epochs": 3}, "train"),
        ({"every_n_epochs": 3}, "val"),
        ({"every_n_steps": 6}, "train_online"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_has_a_value_to_monitor_at_once(settings, stage, tmp_path):
    key = f"nc1/cdnv/{stage}"

    def run(epochs, **more):
        callback = NeuralCollapseCallback(**settings)
        # the training stages are there at the end of the training epoch
        stop = EarlyStopping(key, patience=9, check_on_train_epoch_end=True)
        keep = ModelCheckpoint(tmp_path, save_last=True, enable_version_counter=False)
        run = trainer([callback, stop, keep], max_epochs=epochs, enable_checkpointing=True,
                      default_root_dir=tmp_path)  # fmt: skip
        loaders = DataLoader(digits(), BATCH, shuffle=True), DataLoader(digits(ROWS, 96), BATCH)
        run.fit(Network(), *loaders, **more)
        return run, callback

    run(1)
    again, callback = run(2, ckpt_path=tmp_path / "last.ckpt")
    assert again.current_epoch == 2
    assert float(again.callback_metrics[key]) == pytest.approx(callback.history[key][-1].value)


def test_what_a_step_logs_in_the_frozen_pass_is_not_its_own_value():
    class Logs(Network):
        def validation_step(self, batch, batch_idx):
            loss = super().validation_step(batch, batch_idx)
            self.log("val_rows", float(len(batch[0])), reduce_fx="sum")
            return loss

    callback = NeuralCollapseCallback(frozen_every_n_epochs=1, inference="validation_step")
    run = fit(Logs(), [callback])
    assert float(run.callback_metrics["val_rows"]) == 96
    assert float(run.callback_metrics["nc0/num_samples/train"]) == ROWS


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
def test_a_checkpoint_that_is_only_tested_leaves_the_history_alone(tmp_path):
    callback = NeuralCollapseCallback()
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    run = fit(Network(), [callback, keep], max_epochs=3, enable_checkpointing=True,
              default_root_dir=tmp_path)  # fmt: skip
    path = str(tmp_path / "epoch=0.ckpt")
    run.test(Network(), DataLoader(digits(), BATCH), ckpt_path=path, verbose=False)
    assert [entry.epoch for entry in callback.history["nc1/cdnv/val"]] == [0, 1, 2]


def test_states_of_older_checkpoints_load():
    callback = NeuralCollapseCallback()
    callback.load_state_dict({"history": {"nc1/cdnv/val": [[0, 4, 0.5]]}})
    assert callback.history["nc1/cdnv/val"][0].value == 0.5
    callback.load_state_dict({})
    assert list(callback.history) == []


def test_a_wish_to_stop_before_the_least_number_of_epochs_is_no_last_epoch():
    class Wishes(Network):
        def on_train_batch_end(self, *args):
            self.trainer.should_stop = True

    callback = NeuralCollapseCallback(every_n_epochs=10, frozen_every_n_epochs=10)
    fit(Wishes(), [callback], max_epochs=9, min_epochs=6)
    for stage in ("train", "val", "train_online"):
        assert [entry.epoch for entry in callback.history[f"nc1/cdnv/{stage}"]] == [0, 5]


def test_a_classifier_that_runs_in_validation_only_is_found_before_the_first_step():
    class Half(Network):
        def training_step(self, batch, batch_idx):
            x, y = batch
            logits = nn.functional.linear(self.features(x), self.fc.weight, self.fc.bias)
            return nn.functional.cross_entropy(logits, y)

    with pytest.raises(RuntimeError, match=r"forward of 'fc' .* never fired"):
        fit(Half(), [NeuralCollapseCallback(classifier="fc")])


def test_a_classifier_that_stops_running_is_said_by_its_name():
    class Stops(Network):
        def training_step(self, batch, batch_idx):
            if self.current_epoch == 0:
                return super().training_step(batch, batch_idx)
            logits = nn.functional.linear(self.features(batch[0]), self.fc.weight, self.fc.bias)
            return nn.functional.cross_entropy(logits, batch[1])

    with pytest.warns(NeuralCollapseWarning, match=r"train_online: Expected the forward of 'fc' to"):
        fit(Stops(), [NeuralCollapseCallback()])


def test_each_run_tells_of_its_own_failures():
    class Fails(Network):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if batch_idx == 2:
                self(torch.cat([batch[0], batch[0]]))
            return loss

    callback = NeuralCollapseCallback()
    for _ in range(2):
        with pytest.warns(NeuralCollapseWarning, match="could not be measured"):
            fit(Fails(), [callback])


def test_a_batch_is_added_whole_or_not_at_all():
    class Odd(Network):
        def features(self, x):
            h = super().features(x)
            # the layer is run on too few rows, in the second batch of validation
            second = not self.training and len(self.noted.get(("val", 1), ())) == 1
            self.extra(h[:-1] if second else h)
            return h

        def __init__(self):
            super().__init__()
            self.extra = nn.Linear(16, 12)

    callback = NeuralCollapseCallback(classifier="fc", layers=["extra"], online=False)
    with pytest.warns(NeuralCollapseWarning, match="Expected one label per feature"):
        fit(Odd(), [callback])
    counts = {name: int(s.num_samples) for name, s in callback.statistics.items()}
    assert counts == {"val": 48, "val/extra": 48}


def test_of_several_forwards_only_those_that_can_count_are_held():
    head = nn.Linear(4, 3)
    for policy, held in (("first", 1), ("last", 1), ("all", 3)):
        capture = Capture(nn.Sequential(head), "0", forwards=policy)
        capture.attach()
        capture.begin(torch.Size([2]))
        for _ in range(3):
            head(torch.randn(2, 4))
        assert len(capture._finished) == held
        capture.detach()


def one_more_forward(rank, folder):
    """Ranks with different numbers of batches, and a forward that waits for all of them."""
    import torch.distributed as dist

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
