"""What is said where more classes than d + 1 leave no room for an ETF."""

import math

import pytest
import torch
from support.problems import evidence_of, gaussian_classes

from lightning_nc import ClassStatistics, LinearClassifier
from lightning_nc.functional import MEASURES, ClassEvidence, duality, evaluate, geometry
from lightning_nc.tasks.notices import least_etf_distance, notices
from lightning_nc.values import Fate, Outcome, frame
from lightning_nc.values.frame import Frame

INSTEAD = (
    "Read nc2/means_log_distance_variation as uniformity, the smaller the better, and "
    "nc3/uniform_duality, which can."
)
SEVEN = "7 classes in 3 features: a simplex ETF needs at least 6 features, so"


def said(keys, counts=(5,) * 7, width=3):
    evidence = evidence_of(gaussian_classes(list(counts), width))
    texts = notices(evidence, evaluate([MEASURES[key] for key in keys], evidence))
    return {kind: text for kind, text in texts.items() if kind == "wide"}


def test_the_keys_that_cannot_reach_0_are_named_with_how_near_they_can_come():
    text = (
        f"{SEVEN} nc2/means_equiangularity, nc2/weights_equiangularity, nc2/means_max_angle, "
        "nc2/weights_max_angle, nc2/means_etf_distance, nc2/weights_etf_distance, "
        "nc2/means_log_distance_variation, nc3/duality_etf_distance, imbalance/etf, "
        "imbalance/gof_centered, imbalance/seli cannot reach 0 (an etf_distance: no less than "
        f"0.765). {INSTEAD}"
    )
    assert said(MEASURES) == {"wide": text}
    assert math.sqrt(2 - 2 * math.sqrt(3 / 6)) == pytest.approx(0.765, abs=5e-4)


def test_an_orthogonal_frame_needs_one_feature_more():
    evidence = evidence_of(gaussian_classes([5] * 4, 3))
    texts = notices(evidence, evaluate([MEASURES["imbalance/of"], MEASURES["imbalance/gof"]], evidence))
    assert texts["wide for orthogonal frames"] == (
        "4 classes in 3 features: an orthogonal frame needs 4, so imbalance/of cannot reach 0."
    )
    assert "wide" not in texts


def test_only_keys_with_a_value_are_named_and_without_one_nothing_is_said():
    assert said(["nc2/means_max_angle"]) == {
        "wide": f"{SEVEN} nc2/means_max_angle cannot reach 0. {INSTEAD}"
    }
    assert said(["nc1/cdnv", "nc3/uniform_duality", "nc2/means_equinorm"]) == {}
    nan = Outcome(torch.tensor(torch.nan), Fate.NAN, "they coincide")
    evidence = evidence_of(gaussian_classes([5] * 7, 3))
    assert "wide" not in notices(evidence, {"nc2/means_etf_distance": nan})


def test_nothing_is_said_where_an_etf_fits():
    assert said(MEASURES, counts=[5] * 4) == {}
    assert said(MEASURES, counts=[5] * 5)["wide"].startswith("5 classes in 3 features")
    # of classes without rows nothing is asked
    assert said(MEASURES, counts=[5, 5, 0, 5, 5]) == {}


def frame_nearest_to_an_etf(num_classes, width):
    """Found by descent, not by the formula."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_classes, width, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    descent = torch.optim.LBFGS([x], max_iter=500, line_search_fn="strong_wolfe")

    def loss():
        descent.zero_grad()
        gram = x @ x.T
        distance = (gram / gram.norm() - target / target.norm()).square().sum()
        distance.backward()
        return distance

    descent.step(loss)
    return x.detach()


@pytest.mark.parametrize(("num_classes", "width"), [(5, 1), (7, 3), (12, 10), (12, 11)])
def test_no_frame_comes_nearer_to_an_etf_than_the_formula_says(num_classes, width):
    x = frame_nearest_to_an_etf(num_classes, width)
    least = least_etf_distance(num_classes, width)
    assert float(geometry.etf_distance(Frame(x))) == pytest.approx(least, abs=1e-4)
    x = x - x.mean(0)
    statistics = ClassStatistics.from_batch(x, torch.arange(num_classes), num_classes)
    for sign in (1, -1):
        value = float(duality.duality_etf_distance(statistics, LinearClassifier(sign * x)))
        assert value == pytest.approx(least, abs=1e-3) if sign == 1 else value >= least


def test_of_a_sample_of_the_classes_the_least_distance_is_that_of_the_sample(monkeypatch):
    monkeypatch.setattr(frame, "PAIRWISE_CLASSES", 8)
    monkeypatch.setattr("lightning_nc.tasks.notices.PAIRWISE_CLASSES", 8)
    least = least_etf_distance(num_classes=20, num_features=3)
    assert least < math.sqrt(2 - 2 * math.sqrt(3 / 19))  # that of all of them
    generator = torch.Generator().manual_seed(0)
    target = torch.eye(8, dtype=torch.float64) - 1 / 20
    values, directions = torch.linalg.eigh(target)
    vectors = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    chosen = Frame(vectors).sampled
    assert len(chosen) == 8
    vectors[chosen] = directions[:, -3:] * values[-3:].sqrt()
    assert float(geometry.etf_distance(Frame(vectors))) == pytest.approx(least, abs=1e-9)
    assert least_etf_distance(num_classes=20, num_features=8) == 0


def test_a_layer_is_told_of_its_own_keys():
    given = gaussian_classes([5] * 7, 3)
    evidence = evidence_of(given)
    layer = ClassEvidence(evidence.all_classes, tallies=evidence.tallies)
    text = notices(layer, evaluate(MEASURES.values(), layer))["wide"]
    keys = "nc2/means_equiangularity, nc2/means_max_angle, nc2/means_etf_distance"
    assert text.startswith(f"{SEVEN} {keys}, nc2/means_log_distance_variation cannot reach 0 (an")
