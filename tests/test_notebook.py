"""docs/notebooks/measure.ipynb runs in a kernel, and shows its tables and pictures where it stands."""

import copy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).parents[1] / "docs" / "notebooks" / "measure.ipynb"

pytestmark = [
    pytest.mark.slow,
    # raised inside the client, which our code cannot change
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def shown(notebook):
    """What each code cell shows, by its source: kinds of output, and their texts."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return {cell.source: [dict(out.get("data", {})) for out in cell.outputs] for cell in cells}


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(PATH, as_version=4)


@pytest.fixture(scope="module")
def executed(stored):
    fresh = copy.deepcopy(stored)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(fresh, timeout=240, kernel_name="python3").execute()
    return shown(fresh)


def of(cells, text):
    """The output of the cell whose source ends with these words."""
    [found] = [outputs for source, outputs in cells.items() if source.endswith(text)]
    [output] = found
    return output


def test_a_measurement_is_shown_as_a_table(executed):
    html = of(executed, "early")["text/html"]
    assert "<td>1,400</td>" in html
    assert html.count("within_between_pinv") == 1


@pytest.mark.parametrize("call", ["late.plot();", 'late.plot("spectra");'])
def test_a_plot_is_one_picture_in_its_place(executed, call):
    assert "image/png" in of(executed, call)


def test_several_measurements_are_columns(executed):
    [html] = [out[0]["text/html"] for source, out in executed.items() if "compare(" in source]
    for name in ("epoch 2", "epoch 62", "epoch 62, unseen"):
        assert f"<th>{name}</th>" in html


def test_a_frame_of_pandas_has_a_row_for_each_value(executed):
    html = of(executed, 'startswith("nc1/cdnv")]')["text/html"]
    assert "dataframe" in html
    assert html.count("<td>nc1/cdnv</td>") == 4  # the key of the features is the measure


def test_what_is_stored_is_what_it_shows(stored, executed):
    for source, outputs in shown(stored).items():
        assert [sorted(d) for d in outputs] == [sorted(d) for d in executed[source]], source
    # the network has learned, and what is said of the numbers holds
    [html] = [out[0]["text/html"] for source, out in executed.items() if "compare(" in source]
    cells = html.split("within_between_pinv</th>")[1].split("</tr>")[0].split("<td>")[2:]
    early, late, unseen = (float(cell.split("<")[0]) for cell in cells)
    assert late < unseen < early
