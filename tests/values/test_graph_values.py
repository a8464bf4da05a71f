"""What is kept of graphs: their moments, sums over them, and what a stage leaves."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from lightning_nc.values.graphs import QUANTITIES, GraphAverages, GraphEvidence, GraphMoments
from lightning_nc.values.sample import Tallies


def moments(num_graphs, num_classes=3, start=0):
    """Each number another one."""
    numbers = start + torch.arange(1, num_graphs + 1, dtype=torch.float64)
    tables = numbers[:, None, None] + torch.arange(num_classes**2).view(num_classes, -1) / 100
    counts = (10 * numbers[:, None] + torch.arange(num_classes)).long()
    return GraphMoments(counts, numbers, tables, -tables, numbers + 0.1, numbers + 0.2)


def test_moments_of_some_graphs_follow_those_of_others():
    parts = [moments(2), GraphMoments.empty(3), moments(1, start=5)]
    whole = GraphMoments.cat(parts)
    assert (len(parts[0]), len(parts[1]), len(whole)) == (2, 0, 3)
    for each in fields(GraphMoments):
        one, _, other = (getattr(part, each.name) for part in parts)
        found = getattr(whole, each.name)
        assert found.dtype == one.dtype
        assert torch.equal(found[:2], one)
        assert torch.equal(found[2:], other)


def test_bytes_of_moments():
    assert GraphMoments.empty(3).num_bytes == 0
    assert moments(2).num_bytes == 2 * 8 * (3 + 1 + 9 + 9 + 1 + 1)


def averages_of(values, quantity):
    sums = torch.zeros(len(QUANTITIES), 3, dtype=torch.float64)
    v = torch.tensor(values, dtype=torch.float64)
    sums[QUANTITIES.index(quantity)] = torch.stack([torch.tensor(len(v)), v.sum(), v.square().sum()])
    return GraphAverages(sums)


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("values", [[1.5, -2.0], [3.0, 4.0, 8.0, 8.5], [-7.0 - 1e-3, -7.0 + 1e-3]])
def test_averages_with_standard_errors(quantity, values):
    averages = averages_of(values, quantity)
    assert averages.count(quantity).dtype == torch.int64
    assert int(averages.count(quantity)) == len(values)
    assert float(averages.mean(quantity)) == pytest.approx(np.mean(values), rel=1e-12)
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert float(averages.standard_error(quantity)) == pytest.approx(error, rel=1e-6)
    assert all(int(averages.count(other)) == 0 for other in QUANTITIES if other != quantity)


def test_values_that_are_all_alike_have_no_error():
    averages = averages_of([0.1] * 7, "snr")  # of which the squares round to less than the square
    assert float(averages.standard_error("snr")) == pytest.approx(0, abs=1e-9)
    short = GraphAverages(torch.tensor([[7.0, 0.7, 0.0699]] * 5))
    assert float(short.standard_error("snr")) == 0


def test_without_graphs_there_is_neither_average_nor_error():
    none, one = GraphAverages(torch.zeros(5, 3)), averages_of([4.0], "snr")
    assert none.mean("snr").isnan()
    assert none.standard_error("snr").isnan()
    assert float(one.mean("snr")) == 4
    assert one.standard_error("snr").isnan()


@pytest.fixture
def evidence():
    sums = torch.arange(15, dtype=torch.float64).view(5, 3)
    tallies = Tallies(*torch.tensor([0, 0, 0, 4, 5]))
    one = GraphEvidence(
        GraphAverages(sums), 1_200, torch.tensor([5, 0, 1_007]), incomplete=3, single=2, isolated=6,
        strays=7, tallies=tallies,
    )  # fmt: skip
    return replace(one, references={"train": one})


def test_what_evidence_says_of_the_data(evidence):
    assert evidence.num_samples == 1_012
    assert evidence.size == "1,200 graphs, 3 classes"
    assert evidence.num_classes is None
    assert evidence.rows_by_kind.tolist() == [5, 0, 1_007]
    assert evidence.lost == {
        "a NaN or infinite feature": 0, "a label outside the classes": 4,
        "a label that is no whole number": 5,
    }  # fmt: skip
    assert (evidence.zero.dtype, float(evidence.zero)) == (torch.float64, 0.0)
    assert evidence.occasions == {"graphs"}
    assert evidence.part("graphs") is evidence.graphs
    assert evidence.part("statistics") is None


def test_a_layer_does_not_say_again_what_was_lost(evidence):
    layer = GraphEvidence(evidence.graphs, 2, evidence.class_counts)
    assert layer.lost == {}
    assert layer.to("cpu").tallies is None


def test_evidence_on_another_device(evidence):
    there = evidence.to("meta")
    tensors = (there.graphs.sums, there.class_counts, *there.tallies)
    assert {each.device.type for each in tensors} == {"meta"}
    assert [each.dtype for each in tensors] == [torch.float64] + 6 * [torch.int64]
    here = evidence.to("cpu")
    assert torch.equal(here.graphs.sums, evidence.graphs.sums)
    assert here.class_counts.tolist() == [5, 0, 1_007]
    assert here.lost == evidence.lost
    for moved in (there, here):
        assert (moved.num_graphs, moved.incomplete, moved.single) == (1_200, 3, 2)
        assert (moved.isolated, moved.strays) == (6, 7)
        assert moved.references == {}
    assert evidence.references
