"""In a notebook a picture is shown below the cell that asks for it, and no other one is."""

import pickle
import sys
from types import SimpleNamespace

import matplotlib
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from support.drawings import collapsed, stage

from lightning_nc import NeuralCollapse, figures
from lightning_nc.values.evidence import ClassEvidence

FRESH = """
import torch
from matplotlib.figure import Figure
from lightning_nc import ClassStatistics, NeuralCollapse, figures

target = torch.arange(3).repeat(6)
features = torch.randn(18, 4) + 3 * torch.eye(3, 4)[target]
statistics = ClassStatistics.from_batch(features, target, 3)
figure, axis = figures.spectra(statistics)
figure
"""
RUN = """
import warnings
import lightning as L
from lightning.pytorch.loggers import CSVLogger
from matplotlib import pyplot
from torch.utils.data import DataLoader, TensorDataset
from lightning_nc import NeuralCollapseCallback

class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(4, 3)
    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self.head(batch[0]), batch[1])
    def validation_step(self, batch, _):
        self.head(batch[0])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

class Counts(L.Callback):
    most = 0
    def on_train_batch_start(self, *_):
        self.most = max(self.most, len(pyplot.get_fignums()))

warnings.filterwarnings("error", "More than")
loader, counts = DataLoader(TensorDataset(features, target), 6), Counts()
trainer = L.Trainer(
    max_epochs=4, logger=CSVLogger("logs"), accelerator="cpu", enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
    callbacks=[NeuralCollapseCallback(classifier="head", figures_every_n_epochs=1), counts],
)
trainer.fit(Net(), loader, loader)
"""
AFTER_RUN = """
from pathlib import Path
assert len(list(Path("logs").rglob("*.png"))) > 20, list(Path("logs").rglob("*"))
assert counts.most == 0
assert pyplot.get_fignums() == []
"""
METRIC = "metric = NeuralCollapse(3, 4)\nmetric.update(features, target)\n"

# each cell, and how many pictures are shown below it
CELLS = {
    "a figure of ours as the last line, the first of all": (FRESH, 1),
    "a picture as the last line": ("figures.spectra(statistics)", 1),
    "a picture that is not shown": ("kept = figures.spectra(statistics)", 0),
    "the same one, later": ("kept", 1),
    "the metric's": (METRIC + "metric.plot()", 1),
    "the metric's, assigned": ("figure, axes = metric.plot()", 1),
    "the metric's, assigned and as the last line": ("kept = metric.plot()\nkept", 1),
    "two": ("metric.plot(picture='spectra')\nmetric.plot()", 2),
    "axes of pyplot": ("from matplotlib import pyplot\nmetric.plot(ax=pyplot.subplots()[1])", 1),
    "axes of one's own": ("figure, _ = metric.plot(ax=Figure().subplots())", 0),
    "a run": (RUN, 0),
    "after the run": (AFTER_RUN, 0),
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What a Jupyter kernel answers to each of the cells."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source, _ in CELLS.values()]
    )
    folder = str(tmp_path_factory.mktemp("notebook"))
    where = {"metadata": {"path": folder}}
    nbclient.NotebookClient(book, kernel_name="python3", timeout=300, resources=where).execute()
    return {name: cell.outputs for name, cell in zip(CELLS, book.cells, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_a_notebook_shows_each_picture_once(name, outputs):
    shown = [output for output in outputs[name] if "image/png" in output.get("data", {})]
    assert len(shown) == CELLS[name][1]
    # and no tuple of objects beside it
    assert all(output["data"]["text/plain"].startswith("<Figure size") for output in shown)
    assert "More than" not in "".join(output.get("text", "") for output in outputs[name])


@pytest.fixture
def kernel(monkeypatch):
    """As in a Jupyter kernel, but that nobody looks at what pyplot holds."""
    monkeypatch.setattr("lightning_nc.figures.inline._in_notebook", lambda: True)
    yield
    pyplot.close("all")


def evidence():
    return ClassEvidence.of(collapsed(3)[0])


def metric():
    given, _ = stage(3)
    metric = NeuralCollapse(3, 16)
    metric.update(given.features, given.target)
    return metric


def open_figures():
    return [pyplot.figure(number) for number in pyplot.get_fignums()]


@pytest.mark.usefixtures("kernel")
def test_in_a_kernel_pyplot_is_given_what_is_to_be_shown_once():
    figure, axes = metric().plot()
    assert open_figures() == [figure]
    drawn = figures.shown((figure, axes))
    drawn._ipython_display_()
    assert open_figures() == [figure]
    assert drawn == (figure, axes)
    other, _ = metric().plot(picture="spectra")
    assert open_figures() == [figure, other]


@pytest.mark.usefixtures("kernel")
def test_a_figure_that_was_closed_is_shown_again_when_asked_for():
    drawn = figures.spectra(stage()[1])
    figures.shown(drawn)
    pyplot.close("all")
    other = pyplot.figure()
    assert other.number == drawn[0].number
    figures.shown(drawn)
    assert open_figures() == [other, drawn[0]]


@pytest.mark.usefixtures("kernel")
def test_in_a_kernel_drawing_alone_shows_nothing():
    drawn = figures.class_profile(*collapsed(3))
    figures.PICTURES["cosines"].draw(evidence(), figures.Look(), None)
    figures.draw("cosines", evidence())
    axis = Figure().subplots()
    metric().plot(ax=axis)
    assert pyplot.get_fignums() == []
    drawn._ipython_display_()  # which is what a notebook does with its last line
    assert open_figures() == [drawn[0]]


def test_elsewhere_nothing_is_shown_and_pyplot_is_not_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delattr(matplotlib, "pyplot")
    with pytest.raises(ImportError):
        from matplotlib import pyplot  # noqa: F401
    drawn = metric().plot()
    assert figures.shown(drawn) == drawn
    with pytest.raises(NotImplementedError):  # IPython goes on to print the text
        drawn._ipython_display_()
    assert repr(drawn) == repr(tuple(drawn))


def test_ipython_in_a_terminal_prints_the_text(monkeypatch):
    formatters = pytest.importorskip("IPython.core.formatters")
    shell = SimpleNamespace(kernel=None)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    data, _ = formatters.DisplayFormatter().format(figures.spectra(stage()[1]))
    assert list(data) == ["text/plain"]
    assert data["text/plain"].startswith("(<Figure size")


def test_what_is_drawn_is_a_pair_that_survives_pickling():
    figure, axes = again = pickle.loads(pickle.dumps(figures.draw("cosines", evidence())))
    assert figure.axes[:-1] == axes  # the last one is the bar of colors
    assert type(again) is type(figures.shown(again))
