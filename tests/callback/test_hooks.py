"""What the hooks see in real networks, what they hold, and that they go."""

import copy
import pickle
import warnings

import pytest
import torch
from support.training import BATCH, ROWS, Network, assert_close, digits, fit, trainer
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning


def test_hooks_are_gone_after_an_exception():
    class Fails(Network):
        def validation_step(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                raise RuntimeError("on purpose")

    module = Fails()
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(module, [NeuralCollapseCallback(classifier="fc")], num_sanity_val_steps=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_epochs_that_are_not_measured_hold_no_forward():
    held = []

    class Watch(NeuralCollapseCallback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            super().on_train_batch_end(trainer, pl_module, *args)
            capture = self._session._watch._capture
            held.append((capture.counted, capture.batch))

    fit(Network(), [Watch(forwards="all", every_n_epochs=3)], max_epochs=3)
    fit(Network(), [Watch(online=False)], num_sanity_val_steps=0)
    assert set(held) == {(None, None)}


def test_forwards_outside_a_measured_step_are_left_alone():
    class Wanders(Network):
        def on_train_epoch_end(self):
            self.neck(torch.zeros(2, 3, 32))  # a shape that no pool is told for

        def on_train_epoch_start(self):
            super().on_train_epoch_start()
            self.neck(torch.zeros(2, 3, 32))

    fit(Wanders(), [NeuralCollapseCallback(layers=["neck"], every_n_epochs=2)], max_epochs=3)


def test_a_copy_of_the_network_is_not_the_network():
    class Student(Network):
        def on_fit_start(self):
            self.__dict__["teacher"] = None

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if self.teacher is None:
                self.__dict__["teacher"] = copy.deepcopy(self.fc)
                pickle.loads(pickle.dumps(self.fc))
            self.teacher(torch.full((len(batch[0]), 16), 7.0))
            return loss

    module = Student()
    run = fit(module, [NeuralCollapseCallback()])
    assert_close(run.callback_metrics, module.reference("train_online", 1), "train_online")


@pytest.mark.filterwarnings("ignore:.*by no more than their sampling noise")
def test_the_first_of_several_forwards_meets_its_own_weights():
    class Twice(Network):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            for step in range(2):
                if step == 0:
                    loss = super().training_step(batch, batch_idx)
                else:
                    loss = self(torch.rand_like(batch[0])).square().mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

    module = Twice()
    run = fit(module, [NeuralCollapseCallback(forwards="first")])
    assert_close(run.callback_metrics, module.reference("train_online", 1), "train_online")
    with pytest.warns(NeuralCollapseWarning, match="2 forwards of the classifier ran in one step"):
        fit(Twice(), [NeuralCollapseCallback()])


def test_features_changed_in_place_after_the_classifier_are_measured_as_they_were():
    class InPlace(Network):
        def validation_step(self, batch, batch_idx):
            h = self.features(batch[0])
            kept = h.clone()
            logits = self.fc(h)
            h.mul_(0)
            self.noted.setdefault(("val", self.current_epoch), []).append(
                (kept, batch[1], logits.argmax(1), self.fc.weight.clone(), self.fc.bias.clone())
            )

    module = InPlace()
    run = fit(module, [NeuralCollapseCallback(online=False)], num_sanity_val_steps=0)
    assert_close(run.callback_metrics, module.reference("val", 1), "val")


def test_a_transformer_with_padding_keeps_its_kernels_and_is_measured():
    class Encoder(Network):
        def __init__(self):
            super().__init__()
            layer = torch.nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
            self.encoder = torch.nn.TransformerEncoder(layer, 2)
            self.fc = torch.nn.Linear(16, 10)

        def features(self, x):
            tokens = x.view(len(x), 4, 16)
            padding = torch.zeros(len(x), 4, dtype=torch.bool)
            padding[::2, -2:] = True
            return self.encoder(tokens, src_key_padding_mask=padding)[:, 0]

    module = Encoder()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*nested tensors.*")
        run = fit(module, [NeuralCollapseCallback()], max_epochs=1)
    assert_close(run.callback_metrics, module.reference("val", 0), "val")
    named = NeuralCollapseCallback(classifier="fc")
    named.on_fit_start(run, module)
    assert not any(m._forward_hooks for m in module.encoder.modules())
    named.teardown(run, module, "fit")


def test_batches_without_labels_are_left_out_by_the_target_function():
    module = Network()
    labels = iter([None, digits(ROWS, 96).tensors[1][BATCH:]])
    run = trainer([NeuralCollapseCallback(target=lambda batch: next(labels))])
    run.test(module, DataLoader(digits(ROWS, 96), BATCH), verbose=False)
    assert float(run.callback_metrics["nc0/num_samples/test"]) == BATCH
