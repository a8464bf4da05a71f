"""How a measurement is shown, and several of them side by side."""

import math
import pickle
import sys
from html.parser import HTMLParser

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure
from support.toy_task import GroupEvidence
from torch import nn

from lightning_nc import ClassStatistics
from lightning_nc.measure import measure
from lightning_nc.measurement import Comparison, Measurement, compare

Y = torch.arange(400) % 4
X = torch.randn(400, 8, generator=torch.Generator().manual_seed(0)) + 9 * torch.eye(4, 8)[Y]


def network(depth=3):
    torch.manual_seed(2)
    layers = [nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU(0.9)) for _ in range(depth)]
    return nn.ModuleDict({"blocks": nn.Sequential(*layers), "head": nn.Linear(8, 4)})


def run(model, batch):
    return model["head"](model["blocks"](batch[0]))


def measured(depth=3, layers=("blocks.?", "blocks.??"), **settings):
    layers = list(layers) if depth > 10 else [glob for glob in layers if glob != "blocks.??"]
    return measure(network(depth), [(X, Y)], layers=layers, forward=run, **settings)


@pytest.fixture(scope="module")
def small():
    return measured()


@pytest.fixture(autouse=True)
def _a_terminal_of_its_own(monkeypatch):
    """A worker of pytest-xdist has been told the width of the terminal that started it."""
    monkeypatch.setenv("COLUMNS", "100")


def lines_of(text):
    return [line.split() for line in text.splitlines()]


def test_a_measurement_prints_as_a_table_grouped_by_phenomenon(small):
    lines = str(small).splitlines()
    assert lines[0] == "Neural collapse at 'head': 400 samples of 4 classes, 8 features"
    assert lines[2].split() == ["at", "collapse", "(features)", "blocks.0", "blocks.1", "blocks.2"]
    groups = [line[:5].strip() for line in lines[3:] if line[:5].strip()]
    assert groups == ["NC0", "NC1", "NC2", "NC3", "NC4", "LAYER"]
    assert len(lines) == 3 + len(small.by_layer[""])
    [cdnv] = [line for line in lines_of(str(small)) if "cdnv" in line]
    expected = [small.values["nc1/cdnv"], *(small.values[f"nc1/cdnv/blocks.{i}"] for i in range(3))]
    assert [float(cell) for cell in cdnv[-4:]] == pytest.approx(expected, rel=1e-3)
    [rank] = [line for line in lines_of(str(small)) if "rank" in line]
    assert rank == ["rank", "3", "3", "3", "3", "3"]  # C - 1, and what was found
    assert repr(small) == str(small)


def test_without_layers_there_is_one_column_of_values():
    lines = str(measured(layers=[])).splitlines()
    assert lines[2].split() == ["at", "collapse", "value"]


@pytest.mark.filterwarnings("ignore:.*(imbalance|mse)/")  # balanced classes, no penalty
@pytest.mark.parametrize("width", [80, 120])
def test_twelve_layers_and_all_measures_fit_into_a_terminal(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    text = str(measured(12, measures=["*"]))
    assert max(map(len, text.splitlines())) <= width
    blocks = text.split("\n\n")[1:]
    shown = [name for block in blocks for name in block.splitlines()[0].split()]
    assert shown == ["at", "collapse", "(features)", *(f"blocks.{i}" for i in range(12))]
    rows = [len(block.splitlines()) - 1 for block in blocks]
    some = measured(12, measures=["*"]).by_layer
    assert rows[0] == len(some[""]) > 55
    # below, only the rows that layers have
    of_layers = {key for layer, values in some.items() if layer for key in values}
    assert set(rows[1:]) == {len(of_layers)}
    assert 25 < len(of_layers) < len(some[""]) - 20


def test_a_column_wider_than_the_terminal_stands_alone(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    blocks = str(measured()).split("\n\n")[1:]
    assert [len(block.splitlines()[0].split()) for block in blocks] == [2, 1, 1, 1, 1]


def test_a_value_that_is_nan_or_missing_can_be_told_from_others():
    values = {"": {"nc1/cdnv": math.nan, "nc1/rank": 3.0}, "a": {"nc1/cdnv": 1.5e-9}}
    text = str(Measurement(values, measured(layers=[]).evidence))
    assert ["NC1", "cdnv", "0", "nan", "1.5e-09"] in lines_of(text)
    assert ["rank", "3", "3"] in lines_of(text)
    assert text.startswith("Neural collapse: 400 samples")


class Cells(HTMLParser):
    """The texts of a table's cells by row, its title, and the attributes that it has."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.title, self.attributes, self._tag = [], "", set(), ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        self.attributes |= set(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self._tag == "caption":
            self.title += data
        else:
            self.rows[-1][-1] += data


def test_in_a_notebook_it_is_a_table_in_the_notebooks_own_colors(small):
    cells = Cells(small._repr_html_())
    assert cells.title == "Neural collapse at 'head': 400 samples of 4 classes, 8 features"
    assert cells.rows[0] == ["", "", "at collapse", "(features)", "blocks.0", "blocks.1", "blocks.2"]
    assert [row[0] for row in cells.rows if row[0]] == ["NC0", "NC1", "NC2", "NC3", "NC4", "LAYER"]
    assert cells.attributes == {("style", "text-align: left")}
    text = [line for line in lines_of(str(small)) if line][2:]
    assert [[cell for cell in row if cell] for row in cells.rows[1:]] == text


def test_names_are_escaped_in_a_notebook():
    html = compare({"<b>one</b>": measured(layers=[])})._repr_html_()
    assert "<b>" not in html
    assert "<b>one</b>" in Cells(html).rows[0]


def test_the_values_as_rows_and_as_a_frame(small):
    rows = small.to_rows()
    parts = {"key": "nc0/accuracy", "measure": "nc0/accuracy", "layer": ""}
    assert rows[0] == parts | {"value": small.values["nc0/accuracy"]}
    # "key" is what `values`, the rows of a comparison and those of a History go by
    assert {row["key"]: row["value"] for row in rows} == small.values
    frame = small.to_pandas()
    assert list(frame.columns) == ["key", "measure", "layer", "value"]
    assert frame.to_dict("records") == rows
    wide = frame.pivot(index="measure", columns="layer", values="value")
    assert wide.loc["nc1/cdnv", "blocks.1"] == small.values["nc1/cdnv/blocks.1"]


def test_without_pandas_it_is_said_what_to_do(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    text = r"Expected pandas for to_pandas\(\).*pip install pandas\. Without it, take "
    for each in (small, compare({"a": small})):
        with pytest.raises(ImportError, match=f"{text}{type(each).__name__}"):
            each.to_pandas()


def test_a_table_without_rows_has_columns_of_the_same_types(small):
    empty = Measurement({"": {}}, small.evidence).to_pandas()
    assert empty.dtypes.to_dict() == small.to_pandas().dtypes.to_dict()


def test_a_task_without_classes_has_no_statistics_and_prints_all_the_same(small):
    groups = GroupEvidence(torch.tensor([3.0, 4.0]), torch.tensor([0.5, 1.5]))
    measurement = Measurement({"": {"group/gap": 1.0}}, {"": groups, "neck": groups})
    assert str(measurement).startswith("Neural collapse: 7 samples\n")
    text = r"Expected a task with classes, but it has left GroupEvidence: look at `evidence`\."
    for name in ("statistics", "layers"):
        with pytest.raises(ValueError, match=text):
            getattr(measurement, name)
    assert isinstance(small.statistics, ClassStatistics)
    assert {type(each) for each in small.layers.values()} == {ClassStatistics}


def test_it_can_be_pickled(small):
    again = pickle.loads(pickle.dumps(small))
    assert again.values == small.values
    assert str(again) == str(small)


# Pictures


def test_a_measurement_draws_its_pictures(small):
    for picture in ("cosines", "plane", "spectra", "classes"):
        figure, _ = small.plot(picture)
        assert isinstance(figure, Figure)
    figure, axes = small.plot()
    assert axes[0].get_title() == "class means"
    assert len(axes) == 3
    assert len(small.plot(layer="blocks.0")[1]) == 2  # a layer has no classifier
    own = Figure().subplots()
    assert small.plot("spectra", ax=own)[1] is own
    assert "matplotlib.pyplot" not in sys.modules or not matplotlib.pyplot.get_fignums()


@pytest.mark.filterwarnings("ignore:Expected samples of all|Samples of a single class")
def test_a_picture_or_a_layer_that_there_is_not(small):
    with pytest.raises(
        ValueError, match=r"Expected layer to be one of \('', 'blocks\.0', .*but got 'bloks'"
    ):
        small.plot(layer="bloks")
    with pytest.raises(ValueError, match="Expected picture to be one of 'cosines'"):
        small.plot("summary")
    alone = measure(network(), [(X, Y * 0)], "head", forward=run, measures=["nc0/num_samples"])
    with pytest.raises(ValueError, match="Expected at least 2 classes with samples"):
        alone.plot()


# Several of them


def test_several_measurements_side_by_side(small):
    other = measured(layers=["blocks.0"], measures=["nc1/*", "nc0/num_samples"])
    comparison = compare({"before": small, "after training": other})
    assert isinstance(comparison, Comparison)
    assert comparison.values == {"before": small.values, "after training": other.values}
    lines = str(comparison).splitlines()
    assert lines[0] == "Neural collapse"
    assert lines[2].split() == ["at", "collapse", "before", "after", "training"]
    rows = lines_of(str(comparison))
    [cdnv] = [row for row in rows if "cdnv/blocks.0" in row]
    assert cdnv[-2:] == 2 * [f"{small.values['nc1/cdnv/blocks.0']:.4g}"]
    [cdnv] = [row for row in rows if "cdnv/blocks.1" in row]
    assert len(cdnv) == 3  # the other one has no such layer
    [rank] = [line for line in lines if " rank " in line]
    assert rank.split()[1:4] == ["C", "-", "1"]
    assert Cells(comparison._repr_html_()).rows[0] == [
        "",
        "",
        "at collapse",
        "before",
        "after training",
    ]


def test_a_comparison_as_a_frame_has_a_row_for_each_key_and_a_column_for_each_name(small):
    other = measured(layers=[], measures=["nc1/*"])
    frame = compare({"a": small, "b": other}).to_pandas()
    assert list(frame.columns) == ["a", "b"]
    assert frame.index.name == "key"
    assert set(frame.index) == set(small.values) | set(other.values)
    assert frame.loc["nc1/cdnv", "b"] == other.values["nc1/cdnv"]
    assert math.isnan(frame.loc["nc4/ncc_accuracy", "b"])
    assert list(frame.index[:2]) == ["nc0/accuracy", "nc0/num_samples"]


def test_nothing_to_compare_is_refused(small):
    with pytest.raises(
        ValueError, match="Expected measurements by name, at least one, but got an empty dict"
    ):
        compare({})
    one, other = measured(layers=[], measures=["nc1/*"]), measured(layers=[], measures=["nc4/*"])
    with pytest.raises(ValueError, match="keys in common, but 'a', 'b' share none"):
        compare({"a": one, "b": other})
    assert compare({"a": one, "b": small}).measurements["b"] is small


def test_a_comparison_does_not_follow_later_changes_of_the_mapping(small):
    given = {"a": small}
    comparison = compare(given)
    given["b"] = small
    assert list(comparison.measurements) == ["a"]
