"""Tiny and huge features, small units and wide layers, in a Trainer."""

import warnings

import lightning as L
import numpy as np
import pytest
import torch
from support.oracles import index_of_rows
from support.training import NUM_CLASSES, ROWS, digits, trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning
from lightning_nc.stream import memory
from lightning_nc.values import covariance

VCI = "nc1/variability_collapse_index"


class Scaled(L.LightningModule):
    """Its features are those of a small network, each unit times a number."""

    def __init__(self, scales, rate=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body, self.rate = nn.Linear(64, len(scales)), rate
        self.fc = nn.Linear(len(scales), NUM_CLASSES, bias=False)
        with torch.no_grad():  # so few digits that they are kept where float32 has fewer
            for layer in (self.body, self.fc):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / 8)
            self.body.bias.copy_(torch.rand(len(scales), generator=generator))
        self.register_buffer("scales", scales)
        self.rows = []

    def forward(self, x):
        self.features = self.body(x).relu().bfloat16().float() * self.scales
        return self.fc(self.features)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self(batch[0])
        self.rows.append((self.features.double().numpy(), batch[1].numpy()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def fitted(module, epochs=1, **settings):
    """What was logged, the callback, and what was said."""
    callback = NeuralCollapseCallback("fc", figures_every_n_epochs=0, **settings)
    loaders = DataLoader(digits(), 48), DataLoader(digits(ROWS, 900), 300)
    run = trainer([callback], max_epochs=epochs, num_sanity_val_steps=0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", NeuralCollapseWarning)
        run.fit(module, *loaders)
    texts = [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]
    return {key: float(value) for key, value in run.callback_metrics.items()}, callback, texts


@pytest.mark.parametrize("exponent", [-33, -70, -100, -118, 66, 100])
@pytest.mark.parametrize("width", [16, 96])
def test_the_logged_ratios_do_not_depend_on_the_size_of_the_features(width, exponent):
    ones = torch.ones(width)
    settings = {"measures": ["default", VCI]}
    expected, _, said = fitted(Scaled(ones), **settings)
    values, _, also_said = fitted(Scaled(ones * 2.0**exponent), **settings)
    assert also_said == said
    ratios = {key for key in expected if not key.startswith("nc3/bias_collapse")}
    assert set(values) == set(expected)
    assert {key.split("/")[2] for key in ratios} == {"train_online", "val"}
    assert len(ratios) == 46
    for key in ratios:
        assert values[key] == pytest.approx(expected[key], rel=1e-6, abs=1e-10), key
    assert values["nc1/within_between_pinv/val"] > 0
    assert values["nc1/within_between_ratio/val"] > 0


def index_of_noted(rows):
    """The index of noted rows in float64."""
    return index_of_rows(*(np.concatenate(part) for part in zip(*rows, strict=True)))


@pytest.mark.parametrize("width", [16, 80])
def test_the_collapse_index_of_a_network_with_small_units_is_that_of_float64(width):
    module = Scaled(10.0 ** torch.linspace(-4, 0, width), rate=0.1)
    values, _, _ = fitted(module, measures=[VCI])
    assert values[f"{VCI}/val"] == pytest.approx(index_of_noted(module.rows), rel=2e-5)


class Decayed(Scaled):
    """Weight decay lets many of its units fade."""

    def __init__(self):
        super().__init__(torch.ones(48))
        self.first = nn.Linear(64, 64)

    def forward(self, x):
        self.features = self.body(self.first(x).relu()).relu()
        return self.fc(self.features)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)


def test_the_collapse_index_late_in_training_on_digits_is_that_of_float64():
    L.seed_everything(0, verbose=False)
    module = Decayed()
    values, _, _ = fitted(module, epochs=80, measures=[VCI], every_n_epochs=80, online=False)
    last = module.rows[-3:]
    assert values[f"{VCI}/val"] == pytest.approx(index_of_noted(last), rel=1e-5)


NEEDS = ("nc1/within_between_pinv",)


def test_a_covariance_beyond_the_limit_is_left_out_and_said_once_for_each_layer_and_stage(monkeypatch):
    monkeypatch.setattr(covariance, "AUTO_BYTES", 8 * 16**2 - 1)
    values, callback, texts = fitted(Scaled(torch.ones(16)), epochs=3, layers=["body"])
    assert not any(key.startswith(NEEDS) for key in values)
    assert values["nc1/within_between_ratio/val"] > 0
    assert values["nc1/cdnv/val/body"] > 0
    assert callback.statistics["val"].scatter is None
    reason = (
        "the within-class covariance was not kept: of 16 features it takes 2,048 bytes, and "
        "covariance='auto' keeps at most 2,047; if memory allows, set covariance='pooled'."
    )
    about = [text for text in texts if reason in text]
    assert sorted(text.removesuffix(reason) for text in about) == [
        f"Stage {stage}: {layer}nc1/within_between_pinv left out: "
        for stage in ("train_online", "val")
        for layer in ("Layer 'body': ", "")
    ]


def test_where_no_measure_needs_the_covariance_that_it_is_missing_is_said_all_the_same(monkeypatch):
    monkeypatch.setattr(covariance, "AUTO_BYTES", 8 * 16**2 - 1)
    _, _, texts = fitted(Scaled(torch.ones(16)), measures=["nc1/cdnv"], online=False)
    assert [text[:62] for text in texts] == [
        "Stage val: The within-class covariance was not kept: of 16 fea"
    ]


@pytest.mark.parametrize("setting", ["auto", "pooled", "none"])
def test_at_the_limit_and_by_name_it_is_as_the_setting_says(setting, monkeypatch):
    limit = 8 * 16**2 - (setting != "auto")
    monkeypatch.setattr(covariance, "AUTO_BYTES", limit)
    values, callback, texts = fitted(Scaled(torch.ones(16)), covariance=setting)
    is_kept = setting != "none"
    assert any(key.startswith(NEEDS) for key in values) == is_kept
    assert (callback.statistics["val"].scatter is not None) == is_kept
    assert any("covariance was not kept" in text for text in texts) != is_kept


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("pooled", "1 matrix of 16 x 16 need 2,048 bytes"),
        ("per_class", "10 matrices of 16 x 16 need 20,480"),
    ],
)
def test_by_name_it_is_refused_before_the_first_step_where_it_does_not_fit(setting, text, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2_047)
    module = Scaled(torch.ones(16), rate=1.0)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    with pytest.raises(ValueError, match=f"covariance='{setting}' to fit into memory, but {text}"):
        fitted(module, covariance=setting)
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
    values, _, _ = fitted(module)
    assert values["nc1/within_between_pinv/val"] > 0
