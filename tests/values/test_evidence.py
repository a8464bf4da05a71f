"""What a stage leaves behind: of the classes seen, and by the names that measures ask for."""

import pytest
import torch
from support.problems import decisions_of, evidence_of, gaussian_classes, problem, statistics_of

from lightning_nc import LinearClassifier
from lightning_nc.functional import ClassEvidence


def test_evidence_refuses_a_classifier_of_other_classes():
    with pytest.raises(ValueError, match="Expected a classifier with num_classes = 10 rows, but got 3"):
        ClassEvidence.of(statistics_of(problem("random")), LinearClassifier(torch.ones(3, 32)))


def test_evidence_leaves_out_the_unseen_classes_and_their_rows():
    given = problem("missing classes")
    evidence = ClassEvidence.of(statistics_of(given), given.classifier)
    assert evidence.statistics.counts.tolist() == [50, 30, 40, 20]
    assert torch.equal(evidence.classifier.weight, given.weight[[0, 2, 5, 6]])
    assert torch.equal(evidence.classifier.bias, given.bias[[0, 2, 5, 6]])
    assert (evidence.num_classes, evidence.num_samples) == (4, 140)


def test_where_all_classes_are_seen_the_evidence_is_handed_on_as_it_is():
    evidence = evidence_of(problem("random"))
    assert evidence.statistics is evidence.all_classes
    assert evidence.classifier is evidence.head


def test_every_part_is_there_by_its_name():
    evidence = evidence_of(problem("random"))
    found = {name: evidence.part(name) for name in evidence.parts}
    assert [name for name, part in found.items() if part is None] == ["graphs"]  # of others
    assert torch.equal(found["means_frame"].vectors, evidence.statistics.centered_means)
    assert torch.equal(found["weights_frame"].vectors, evidence.head.weight.double())


def test_what_is_not_known_is_none():
    evidence = ClassEvidence.of(statistics_of(problem("random")))
    unknown = {
        "classifier", "decisions", "network_decisions", "weights_frame", "sample", "tallies", "weight",
        "product", "linear_head", "recalls", "probe_decisions", "graphs",
    }  # fmt: skip
    assert {name for name in evidence.parts if evidence.part(name) is None} == unknown
    assert evidence.part("weather") is None


def test_the_networks_own_decisions_are_asked_for_apart():
    given = problem("random")
    known = decisions_of(given)
    evidence = ClassEvidence.of(statistics_of(given), decisions=known)
    assert torch.equal(evidence.network_decisions.as_vector(), known.as_vector())
    counts = {"decisions": known.as_vector().index_fill(0, torch.tensor(0), 0)}
    centers_alone = ClassEvidence(statistics_of(given), counts=counts)
    assert centers_alone.decisions is not None
    assert centers_alone.network_decisions is None
    # a rank could not count: that is not the same as not to know
    failed = ClassEvidence(statistics_of(given), counts={"decisions": torch.full((6,), torch.nan)})
    assert failed.network_decisions is not None


def test_evidence_refers_to_other_stages_and_moves_without_them():
    train = evidence_of(problem("random"))
    val = ClassEvidence(train.all_classes, references={"train": train})
    assert val.part("references")["train"] is train
    assert val.to("cpu").references == {}


def test_evidence_moves_as_a_whole_to_another_device():
    given = gaussian_classes([3, 4], 5)
    moved = evidence_of(given).to("meta")
    parts = (moved.all_classes.means, moved.head.weight, moved.sample.features, *moved.tallies)
    assert {t.device.type for t in (*parts, *moved.counts.values())} == {"meta"}
    assert evidence_of(given).to("cpu").statistics.counts.tolist() == [3, 4]
    bare = ClassEvidence.of(statistics_of(given)).to("cpu")
    assert (bare.head, bare.sample, bare.tallies, bare.counts) == (None, None, None, {})


def test_the_zero_is_of_the_kind_of_the_means():
    zero = evidence_of(problem("random")).zero
    assert (zero.dtype, zero.ndim, float(zero)) == (torch.float64, 0, 0.0)
