"""What a dashboard says: TensorBoard's charts, and the latest values in words."""

from lightning_nc.functional import MEASURES, select
from lightning_nc.report.dashboard import card, headlines, layout, stages_of
from lightning_nc.values import History
from lightning_nc.values.regression import RegressionEvidence
from lightning_nc.values.tag_evidence import TagEvidence


def test_the_dashboard_has_the_headlines_first_and_then_all_in_their_order():
    charts = layout(MEASURES, prefix="a.b/")
    groups = [*(f"NC{i}" for i in range(5)), "TAGS", *(f"NRC{i}" for i in range(4))]
    groups += ["GRAPH", "LAYER", "LINEAR", "LM", "IMBALANCE", "MSE"]
    assert list(charts) == ["Neural collapse"] + [f"Neural collapse: all of {name}" for name in groups]
    heads = [title.split()[0] for title in charts["Neural collapse"]]
    assert heads[:8] == ["NC1", "NC2", "NC3", "NC4", "TWA", "NRC1", "NRC2", "NRC3"]
    assert heads[8:] == ["log10", "accuracy"]
    assert sum(len(inner) for title, inner in charts.items() if "all" in title) == len(MEASURES)
    assert charts["Neural collapse"]["NC4 ncc_mismatch"] == [
        "Multiline",
        [r".*a\.b/nc4/ncc_mismatch/.*"],
    ]


def test_the_headlines_are_those_of_the_task():
    of_tags, of_numbers = (
        layout([measure.key for measure in select(["default"], evidence)])
        for evidence in (TagEvidence, RegressionEvidence)
    )
    heads = [[title.split()[0] for title in each["Neural collapse"]] for each in (of_tags, of_numbers)]
    assert heads == [["NC1", "NC2", "NC3", "TWA"], ["NRC1", "NRC2", "NRC3"]]


def test_only_what_is_measured_has_a_chart():
    charts = layout(["nc4/ncc_mismatch", "custom/mine"])
    assert [list(inner) for inner in charts.values()] == [["NC4 ncc_mismatch"], ["ncc_mismatch"]]


def test_the_card_tells_values_trends_and_nothing_of_what_was_never_logged():
    history = History()
    for epoch, (cdnv, accuracy) in enumerate(
        [(4.0, 0.5), (2.0, 0.75), (0.25, 0.75), (float("nan"), 1.0)]
    ):
        values = {"nc1/cdnv/val": cdnv, "nc0/accuracy/val": accuracy, "nc0/num_samples/train": 12000.0}
        history = history.extended(epoch, epoch, values)
    lines = card(history).splitlines()
    assert "after epoch 3" in lines[0]
    assert "| nc1/cdnv | mean pairwise class-distance normalized variance |  | nan | 0 |" in lines
    assert any(line.startswith("| nc0/accuracy |") and "| 1 ↑ |" in line for line in lines)
    assert any("12,000 →" in line for line in lines)
    assert card(History()) == ""
    assert stages_of(history) == ["train", "val"]


def test_headlines_are_those_of_the_classifiers_input():
    assert headlines({"p/nc4/ncc_mismatch/val/neck": 1.0, "p/nc4/ncc_mismatch/val": 0.5}, "p/") == {
        "p/NC4 val": 0.5
    }
