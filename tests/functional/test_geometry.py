"""NC2: the geometry of vectors against that of the simplex ETF."""

import math

import pytest
import torch
from support.ideal import around, collapsed, etf
from support.problems import rotation

from lightning_nc import ClassStatistics, LinearClassifier
from lightning_nc import functional as F
from lightning_nc.values import Frame

OFFSETS = pytest.mark.parametrize("offset", [0.0, 100.0])


@pytest.mark.parametrize("num_classes", [2, 4, 10])
def test_etf_distance_of_an_orthogonal_frame(num_classes):
    frame = Frame(3 * rotation(num_classes))
    expected = math.sqrt(2 - 2 * math.sqrt((num_classes - 1) / num_classes))
    assert float(F.etf_distance(frame)) == pytest.approx(expected, rel=1e-12)
    if num_classes == 4:
        assert expected == pytest.approx(0.51763809, abs=1e-8)


@OFFSETS
def test_an_etf_with_one_longer_row(offset):
    ideal = etf(4, 5)
    means = torch.cat([1.5 * ideal[:1], ideal[1:]])
    statistics = collapsed(means, offset)
    norms = [1.375, 1.0483121, 1.0483121, 1.0483121]
    assert statistics.frame.norms.tolist() == pytest.approx(norms, abs=1e-7)
    cosines = [-0.4372107, -0.4372107, -0.4372107, -0.2132701, -0.2132701, -0.2132701]
    first, second = torch.triu_indices(4, 4, offset=1)
    assert statistics.frame.cosines[first, second].tolist() == pytest.approx(cosines, abs=1e-7)
    assert float(F.equinorm(statistics.frame)) == pytest.approx(0.1251876, abs=1e-7)
    assert float(F.equiangularity(statistics.frame)) == pytest.approx(0.1119703, abs=1e-7)
    assert float(F.max_angle(statistics.frame)) == pytest.approx(0.1119703, abs=1e-7)
    assert float(F.etf_distance(statistics.frame)) == pytest.approx(0.3118107, abs=1e-7)
    assert float(F.self_duality(statistics, LinearClassifier(ideal))) == pytest.approx(
        0.0242433, abs=1e-7
    )


@OFFSETS
def test_log_distances_of_an_etf_are_all_the_same(offset):
    frame = collapsed(2 * etf(4, 5), offset).frame
    log_inverse = -0.5 * (2 - 2 * frame.cosines[0, 1:]).log()
    assert log_inverse.tolist() == pytest.approx([-0.4904146] * 3, abs=1e-7)
    assert float(F.log_distance_variation(frame)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("num_classes", [3, 4, 7])
def test_log_distances_of_an_orthogonal_frame_are_all_the_same(num_classes):
    frame = Frame(5 * rotation(num_classes))
    assert float(F.log_distance_variation(frame)) == pytest.approx(0, abs=1e-9)
    log_inverse = -0.5 * (2 - 2 * frame.cosines[0, 1:]).log()
    assert log_inverse.tolist() == pytest.approx([-0.3465736] * (num_classes - 1), abs=1e-7)


def test_an_etf_of_many_classes_is_recognized_from_a_sample_of_its_pairs(monkeypatch):
    monkeypatch.setattr("lightning_nc.values.frame.PAIRWISE_CLASSES", 20)
    means = etf(60, 64)
    statistics = ClassStatistics.from_batch(*around(means, 0.01), num_classes=60)
    assert len(statistics.frame.sampled) == 20
    for measure in (F.max_angle, F.etf_distance, F.equiangularity, F.log_distance_variation):
        assert float(measure(statistics.frame)) == pytest.approx(0, abs=1e-7)
    assert float(F.duality_etf_distance(statistics, LinearClassifier(means))) < 1e-7
    # v (K - 1) / (2 r^2 K), as over all pairs
    assert float(F.cdnv(statistics)) == pytest.approx(1e-4 * 59 / 120, rel=1e-9)
