"""What goes wrong after the first step is told once, gives NaN, and training goes on."""

import pytest
import torch
from support.training import BATCH, ROWS, Network, fit
from torch import nn

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning


def test_an_error_after_the_first_step_is_told_and_training_goes_on():
    class LateViews(Network):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if self.current_epoch == 1 and batch_idx == 2:
                self(torch.cat([batch[0], batch[0]]))
            return loss

    module = LateViews()
    with pytest.warns(
        NeuralCollapseWarning, match=r"A batch of train_online could not be measured"
    ) as told:
        run = fit(module, [NeuralCollapseCallback()])
    assert sum("could not be measured" in str(w.message) for w in told) == 1
    assert any("Expected one label per feature" in str(w.message) for w in told)
    assert run.current_epoch == 2
    assert float(run.callback_metrics["nc0/num_samples/train_online"]) == ROWS - BATCH


def failing(statistics):
    raise KeyError("on purpose")


def vector(statistics):
    return statistics.means


def plain_number(statistics):
    return 0.5


def test_a_measure_of_ones_own_cannot_stop_training():
    own = [f"test_failures.{name}" for name in ("failing", "vector", "plain_number")]
    with pytest.warns(NeuralCollapseWarning) as told:
        run = fit(Network(), [NeuralCollapseCallback(online=False, measures=own)])
    texts = " ".join(str(w.message) for w in told)
    assert "custom/failing is NaN: because it failed: KeyError: 'on purpose'" in texts
    assert "custom/vector is NaN: because it failed: ValueError: expected a scalar" in texts
    assert run.callback_metrics["custom/failing/val"].isnan()
    assert run.callback_metrics["custom/plain_number/val"] == 0.5


def test_a_frozen_pass_that_fails_logs_neither_a_part_nor_the_last_one_again():
    class Breaks(Network):
        def predict_step(self, batch, batch_idx):
            if self.current_epoch == 1 and batch_idx == 2:
                raise RuntimeError("on purpose")
            return super().predict_step(batch, batch_idx)

    callback = NeuralCollapseCallback(online=False, frozen_every_n_epochs=1, inference="predict_step")
    with pytest.warns(NeuralCollapseWarning) as told:
        fit(Breaks(), [callback], max_epochs=3)
    texts = [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]
    assert len(texts) == 1
    assert texts[0].startswith("The frozen pass could not be measured")
    rows = callback.history["nc0/num_samples/train"]
    assert [(entry.epoch, str(entry.value)) for entry in rows] == [
        (0, f"{ROWS}.0"), (1, "nan"), (2, f"{ROWS}.0")
    ]  # fmt: skip


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


def test_a_classifier_that_stops_running_is_said_by_its_name():
    class Stops(Network):
        def training_step(self, batch, batch_idx):
            if self.current_epoch == 0:
                return super().training_step(batch, batch_idx)
            logits = nn.functional.linear(self.features(batch[0]), self.fc.weight, self.fc.bias)
            return nn.functional.cross_entropy(logits, batch[1])

    with pytest.warns(NeuralCollapseWarning, match=r"train_online: Expected the forward of 'fc' to"):
        fit(Stops(), [NeuralCollapseCallback()])
