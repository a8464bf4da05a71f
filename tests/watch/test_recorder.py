"""One stage without a Trainer: forwards in, values out."""

import numpy as np
import pytest
import torch
from support.oracles import reference_measures
from support.problems import of_default

from lightning_nc.functional import values_of
from lightning_nc.tasks import Multiclass, Settings
from lightning_nc.values import HEAD
from lightning_nc.values.errors import RankFailed
from lightning_nc.watch.batch import Forward
from lightning_nc.watch.recorder import Recorder

C, D = 4, 6


def recorder_of(layers=(), max_rows_per_batch=None, **settings):
    return Recorder(Multiclass(Settings(**settings)), layers, max_rows_per_batch)


def rows(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(C, (n,), generator=generator)
    h = torch.randn(n, D, generator=generator) + 3 * torch.eye(C, D)[y]
    return h, y


WEIGHT = torch.randn(C, D, generator=torch.Generator().manual_seed(1))


def forward(h, **layers):
    return Forward("fc", h, (h @ WEIGHT.T).argmax(1), layers)


def values(recorder):
    """Of the classifier's input."""
    return values_of(recorder.close().outcomes[HEAD])


def test_a_stage_comes_to_the_values_of_the_reference():
    h, y = rows(90)
    recorder = recorder_of(["early"])
    for part in range(0, 90, 30):
        chosen = slice(part, part + 30)
        recorder.add(forward(h[chosen], early=2 * h[chosen, :3]), y[chosen], num_rows=C)
        recorder.classifier.keep(WEIGHT, None)
    recorded = recorder.close()
    predicted = (h @ WEIGHT.T).argmax(1).numpy()
    reference = reference_measures(h.numpy(), y.numpy(), C, predicted=predicted, weight=WEIGHT.numpy())
    early = reference_measures((2 * h[:, :3]).numpy(), y.numpy(), C, predicted=predicted)
    expected = {HEAD: reference, "early": {k: v for k, v in early.items() if not k.startswith("nc0/")}}
    assert list(recorded.outcomes) == list(expected) == list(recorded.evidence)
    for module, of_module in expected.items():
        found = values_of(recorded.outcomes[module])
        of_module = of_default(of_module)
        assert set(found) == set(of_module)
        for key, value in of_module.items():
            assert float(found[key]) == pytest.approx(value, rel=1e-5, abs=1e-8), (module, key)
    assert not recorded.notices


def test_the_kept_classifier_is_a_copy():
    h, y = rows(40)
    weight = WEIGHT.clone()
    recorder = recorder_of()
    recorder.add(forward(h), y, C)
    recorder.classifier.keep(weight, None)
    before = values(recorder)["nc3/self_duality"].clone()
    weight.mul_(-1)
    assert torch.equal(values(recorder)["nc3/self_duality"], before)


def test_reset_forgets_rows_and_classifier():
    h, y = rows(40)
    recorder = recorder_of()
    recorder.add(forward(100 * h), y, C)
    recorder.classifier.keep(WEIGHT, None)
    recorder.reset()
    assert not recorder.classifier.is_kept
    recorder.add(forward(h), y, C)
    found = values(recorder)
    assert "nc3/self_duality" not in found
    assert float(found["nc0/num_samples"]) == 40


def test_a_stage_that_no_measure_suits_is_not_called_empty():
    h, y = rows(40)
    recorder = recorder_of(measures=("nc2/means_equinorm",))
    recorder.add(forward(h[y < 2]), y[y < 2], num_rows=C)
    recorded = recorder.close()
    assert values_of(recorded.outcomes[HEAD]) == {}
    [left_out] = [text for (kind, _), text in recorded.notices.items() if kind != "absent"]
    assert left_out.startswith("nc2/means_equinorm left out: needs at least 3 classes")


def test_an_empty_stage_is_explained():
    recorded = recorder_of().close()
    assert recorded.outcomes == {}
    assert recorded.evidence == {}
    assert "Is the data loader empty" in recorded.notices["empty", HEAD]


def test_a_stage_without_a_label_that_counts_is_explained():
    h, _ = rows(10)
    recorder = recorder_of()
    recorder.add(forward(h), torch.full((10,), -100), C)
    recorded = recorder.close()
    assert recorded.outcomes == {}
    assert "is every label ignore_index?" in recorded.notices["empty", HEAD]


def test_a_layer_that_does_not_run_is_said():
    h, y = rows(20)
    recorder = recorder_of(["early", "late"])
    recorder.add(forward(h, early=h), y, C)
    recorded = recorder.close()
    assert list(recorded.outcomes) == [HEAD, "early"]
    assert "Expected the layers 'late' to run in each forward" in recorded.notices["silent", HEAD]


def test_a_layer_of_other_rows_has_no_decisions_of_its_own():
    h, y = rows(20)
    recorder = recorder_of(["tokens"], measures=("*",))
    # of a classifier that decides once for each pair of labels
    recorder.add(Forward("fc", h, torch.zeros(10, dtype=torch.int64), {"tokens": h}), y, C)
    recorded = recorder.close()
    for module in (HEAD, "tokens"):
        found = values_of(recorded.outcomes[module])
        assert "nc0/accuracy" not in found
        assert "nc4/ncc_mismatch" not in found
        assert "nc1/cdnv" in found


def test_an_abandoned_stage_tells_no_values_until_it_is_reset():
    h, y = rows(20)
    recorder = recorder_of()
    recorder.add(forward(h), y, C)
    recorder.abandon()
    with pytest.raises(RankFailed, match="could not take part"):
        recorder.close()
    recorder.reset()
    recorder.add(forward(h), y, C)
    assert float(values(recorder)["nc0/num_samples"]) == 20


def test_a_subset_of_the_rows_is_uniform_and_seeded():
    h, y = rows(60)
    marked = torch.cat([torch.arange(60.0)[:, None], h[:, 1:]], dim=1)
    chosen = []
    for seed in (0, 0, 1):
        recorder = recorder_of(max_rows_per_batch=20, seed=seed)
        recorder.add(forward(marked), y, C)
        sample = recorder.close().evidence[HEAD].sample
        assert len(sample.target) == 20
        index = sample.features[:, 0].long()
        assert torch.equal(y[index], sample.target)
        chosen.append(index.tolist())
    assert chosen[0] == chosen[1] != chosen[2]
    counts = np.zeros(60)
    for seed in range(300):
        recorder = recorder_of(max_rows_per_batch=20, seed=seed, measures=("nc0/num_samples",))
        recorder.add(forward(marked), y, C)
        counts[recorder.close().evidence[HEAD].sample.features[:, 0].long().numpy()] += 1
    # 300 draws with probability 1/3: 100 +- 8.2
    assert np.abs(counts - 100).max() < 5 * 8.2


def test_classes_that_do_not_fit_are_refused():
    h, y = rows(10)
    with pytest.raises(ValueError, match=r"num_classes = 3 rows, but got 4\. Leave num_classes out"):
        recorder_of(num_classes=3).add(forward(h), y, C)
    # and before anything is added
    with pytest.raises(ValueError, match=r"num_classes = 3 rows, but got 4\. Leave num_classes out"):
        recorder_of(num_classes=3).check(forward(h), y, C)


def test_a_forward_is_added_whole_or_not_at_all():
    h, y = rows(10)
    recorder = recorder_of(["early"])
    with pytest.raises(ValueError, match="Expected one label per feature"):
        recorder.add(forward(h, early=h[:-1]), y, C)
    assert recorder.close().evidence == {}
    with pytest.raises(ValueError, match="Expected one label per feature"):
        recorder.check(forward(h, early=h[:-1]), y, C)


def test_all_layers_keep_the_same_rows_as_their_sample():
    narrow, wide = torch.randn(300, 4), torch.randn(300, 9)
    y = torch.arange(300) % 3
    recorder = recorder_of(("narrow", "wide"), num_classes=3, sample_rows=50)
    for part in torch.arange(300).split(70):
        layers = {"narrow": narrow[part], "wide": wide[part]}
        recorder.add(Forward(features=narrow[part], layers=layers), y[part], num_rows=3)
    evidence = recorder.close().evidence
    kept = evidence["narrow"].sample.features
    rows = [int((narrow == row).all(1).nonzero()) for row in kept]
    assert len(set(rows)) == 50
    assert torch.equal(evidence["wide"].sample.features, wide[rows])
