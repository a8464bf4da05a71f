"""How the frozen pass runs the network on a batch."""

import lightning as L
import pytest
import torch
from support.training import ROWS, Network, assert_close, fit, forward_of_pair
from torch import nn

from lightning_nc import NeuralCollapseCallback
from lightning_nc.run.inference import Inference


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
    module = ByName()
    Inference().on(module, reopen=print)(batch, 0)
    assert module.seen == [expected]


@pytest.mark.parametrize(
    "inference", [forward_of_pair, "support.training.forward_of_pair", "predict_step"]
)
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


class NeedsTwo(Network):
    """Its forward has other inputs than a batch."""

    def forward(self, x, mask):
        raise AssertionError("never called")


class WrongWidth(Network):
    """Its forward takes the feature for the input, and has run a part of itself when it notices."""

    def forward(self, x):
        self.fc(torch.zeros(3, 16))
        return self.fc(x)


@pytest.mark.parametrize("network", [NeedsTwo, WrongWidth])
def test_where_forward_does_not_take_the_inputs_an_overridden_predict_step_is_run(network):
    module = network()
    run = fit(module, [NeuralCollapseCallback(online=False, frozen_every_n_epochs=1)])
    assert float(run.callback_metrics["nc0/num_samples/train"]) == ROWS
    assert_close(run.callback_metrics, module.reference("train", epoch=1), "train")


class WithoutPredict(L.LightningModule):
    """Its forward does not take the inputs, and its predict_step is Lightning's."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x, mask):
        raise AssertionError("never called")

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.fc(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_forward_that_does_not_take_the_inputs_is_explained_before_training():
    module = WithoutPredict()
    before = module.fc.weight.detach().clone()
    with pytest.raises(ValueError, match=r"Expected the forward of WithoutPredict .* Set inference to"):
        fit(module, [NeuralCollapseCallback(frozen_every_n_epochs=2)])
    assert torch.equal(module.fc.weight, before)


def test_the_way_is_decided_once_and_kept():
    class Changes(ByName):
        takes = True

        def forward(self, pixels):
            if not self.takes:
                raise TypeError("on purpose")
            return super().forward(pixels)

        def predict_step(self, batch, batch_idx):
            self.seen.append("predict_step")

    batch, reopened = [torch.zeros(2, 64), torch.zeros(2)], []
    module, inference = Changes(), Inference()
    inference.on(module, reopened.append)(batch, 0)
    module.takes = False
    with pytest.raises(ValueError, match="TypeError: on purpose"):
        inference.on(module, reopened.append)(batch, 1)
    assert reopened == []
    inference.forget()  # another run
    inference.on(module, reopened.append)(batch, 0)
    module.takes = True
    inference.on(module, reopened.append)(batch, 1)
    assert [each for each in module.seen if each == "predict_step"] == ["predict_step"] * 2
    assert len(reopened) == 1
