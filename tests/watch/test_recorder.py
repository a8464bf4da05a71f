"""One stage without a Trainer: forwards in, values out."""

import numpy as np
import pytest
import torch
from oracles import reference_measures

from lightning_nc.watch.capture import Forward
from lightning_nc.watch.recorder import Recorder

C, D = 4, 6


def rows(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(C, (n,), generator=generator)
    h = torch.randn(n, D, generator=generator) + 3 * torch.eye(C, D)[y]
    return h, y


WEIGHT = torch.randn(C, D, generator=torch.Generator().manual_seed(1))


def forward(h, **layers):
    return Forward("fc", h, (h @ WEIGHT.T).argmax(1), layers)


def test_a_stage_comes_to_the_values_of_the_reference():
    h, y = rows(90)
    recorder = Recorder(layers=["early"])
    for part in range(0, 90, 30):
        chosen = slice(part, part + 30)
        recorder.add(forward(h[chosen], early=2 * h[chosen, :3]), y[chosen], num_rows=C)
        recorder.keep_classifier(WEIGHT, None)
    recorded = recorder.close("cpu")
    predicted = (h @ WEIGHT.T).argmax(1).numpy()
    reference = reference_measures(h.numpy(), y.numpy(), C, predicted=predicted, weight=WEIGHT.numpy())
    early = reference_measures((2 * h[:, :3]).numpy(), y.numpy(), C, predicted=predicted)
    reference |= {f"{k}/early": v for k, v in early.items() if not k.startswith("nc0/")}
    reference = {k: v for k, v in reference.items() if "variability_collapse_index" not in k}
    assert set(recorded.values) == set(reference)
    for key, value in reference.items():
        assert float(recorded.values[key]) == pytest.approx(value, rel=1e-5, abs=1e-8), key
    assert not recorded.notices


def test_the_kept_classifier_is_a_copy():
    h, y = rows(40)
    weight = WEIGHT.clone()
    recorder = Recorder()
    recorder.add(forward(h), y, C)
    recorder.keep_classifier(weight, None)
    before = recorder.close("cpu").values["nc3/self_duality"].clone()
    weight.mul_(-1)
    assert torch.equal(recorder.close("cpu").values["nc3/self_duality"], before)


def test_reset_forgets_rows_and_classifier():
    h, y = rows(40)
    recorder = Recorder()
    recorder.add(forward(100 * h), y, C)
    recorder.keep_classifier(WEIGHT, None)
    recorder.reset()
    assert not recorder.keeps_classifier
    recorder.add(forward(h), y, C)
    values = recorder.close("cpu").values
    assert "nc3/self_duality" not in values
    assert float(values["nc0/num_samples"]) == 40


def test_an_empty_stage_is_explained():
    recorded = Recorder().close("cpu")
    assert recorded.values == {}
    assert "Is the data loader empty" in recorded.notices["empty"]


def test_a_subset_of_the_rows_is_uniform_and_seeded():
    h, y = rows(60)
    marked = torch.cat([torch.arange(60.0)[:, None], h[:, 1:]], dim=1)
    chosen = []
    for seed in (0, 0, 1):
        recorder = Recorder(max_rows_per_batch=20, seed=seed)
        recorder.add(forward(marked), y, C)
        sample = recorder.close("cpu").accumulated[""].sample
        assert len(sample.target) == 20
        index = sample.features[:, 0].long()
        assert torch.equal(y[index], sample.target)
        chosen.append(index.tolist())
    assert chosen[0] == chosen[1] != chosen[2]
    counts = np.zeros(60)
    for seed in range(300):
        recorder = Recorder(max_rows_per_batch=20, seed=seed, measures=["nc0/num_samples"])
        recorder.add(forward(marked), y, C)
        counts[recorder.close("cpu").accumulated[""].sample.features[:, 0].long().numpy()] += 1
    # 300 draws with probability 1/3: 100 +- 8.2
    assert np.abs(counts - 100).max() < 5 * 8.2


def test_classes_that_do_not_fit_are_refused():
    h, y = rows(10)
    with pytest.raises(ValueError, match=r"num_classes = 3 rows, but got 4\. Leave num_classes out"):
        Recorder(num_classes=3).add(forward(h), y, C)
