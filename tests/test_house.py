"""The walls of the house stand, and who looks at them can see a fault; nothing heavy loads unasked."""

import ast
import subprocess
import sys
from typing import get_args

import house
import pytest

import lightning_nc
from lightning_nc.tasks import TASKS


@pytest.mark.parametrize("path", sorted(house.PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_a_file_keeps_the_rules(path):
    assert list(house.findings(path, path.read_text())) == []


def test_each_room_has_its_line():
    rooms = {house.room(path) for path in house.PACKAGE.rglob("*.py")}
    assert rooms == set(house.ALLOWED)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("values", "from lightning_nc.metric import NeuralCollapse"),
        ("values", "def f():\n    from lightning_nc import stream"),
        ("functional", "import torchmetrics"),
        ("functional", "from lightning_nc.stream.products import fold_"),
        ("stream", "from lightning_nc.functional import cdnv"),
        ("stream", "importlib.import_module('matplotlib')"),
        ("tasks", "import lightning_nc.watch.watch"),
        ("watch", "import lightning as L"),
        ("watch", "if TYPE_CHECKING:\n    from torchmetrics import Metric"),
        ("figures", "from lightning.pytorch import Trainer"),
        ("run", "from lightning_nc.values import Stage"),
        ("report", "from lightning_nc.watch.recorder import Recorder"),
        ("metric", "from lightning.pytorch import Callback"),
        ("callback", "from matplotlib.figure import Figure"),
        ("callback", "from lightning_nc.functional import cdnv"),
        ("a new room", "from lightning_nc.values import Stage"),
    ],
)
def test_a_forbidden_import_is_seen(room, source):
    assert house.forbidden(room, source)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("x = 1\n" * 321, "321 lines"),
        ("def f():\n" + "    x = 1\n" * 31, "f has 31 lines of code"),
        (
            "class A:\n    def f(self):\n" + "".join(f"        self.{c} = 1\n" for c in "abcdef"),
            "A changes 6 attributes: a, b, c, d, e, f",
        ),
    ],
)
def test_what_is_too_long_is_seen(source, text):
    [found] = house.findings(house.PACKAGE / "values" / "new.py", source)
    assert text in found


def test_what_is_just_short_enough_passes():
    source = 'def f():\n    """A docstring\n\n    of some length."""\n' + "    x = 1\n" * 30
    assert list(house.findings(house.PACKAGE / "values" / "new.py", source)) == []


def test_the_metric_loads_matplotlib_inside_plot_only():
    tree = ast.parse((house.PACKAGE / "metric.py").read_text())
    outside = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "figures" not in house.imports("\n".join(map(ast.unparse, outside)))
    [plot] = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "plot"]
    assert house.imports(ast.unparse(plot)) == {"figures"}


def loaded_after(code):
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return {name.split(".")[0] for name in out.stdout.split()}


def test_the_metric_works_without_loading_lightning():
    code = """
import torch
from lightning_nc import ClassStatistics, LinearClassifier, NeuralCollapse, functional
metric = NeuralCollapse(2, 2)
h, y = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 6.0]]), torch.tensor([0, 0, 1, 1])
metric.update(h, y, logits=h, classifier=LinearClassifier(torch.eye(2)))
assert float(metric.compute()["nc0/accuracy"]) == 1
functional.cdnv(metric.statistics())
"""
    modules = loaded_after(code)
    assert "lightning_nc" in modules
    assert not modules & {"lightning", "pytorch_lightning", "lightning_fabric"}
    assert "lightning" in loaded_after("from lightning_nc import NeuralCollapseCallback")


def test_every_public_name_is_there_and_shown():
    assert set(dir(lightning_nc)) == {*lightning_nc.__all__, "__version__"}
    for name in ("NeuralCollapseCallback", "NeuralCollapse", "ClassStatistics", "LinearClassifier"):
        assert getattr(lightning_nc, name).__name__ == name
    assert callable(lightning_nc.functional.cdnv)
    assert callable(lightning_nc.figures.cosine_matrices)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lightning_nc.nonsense  # noqa: B018


def test_the_help_shows_the_choices():
    callback = lightning_nc.NeuralCollapseCallback
    assert all(f'"{name}"' in callback.__doc__ for name in TASKS)
    hints = callback.__init__.__annotations__
    assert get_args(get_args(hints["covariance"])[0]) == ("auto", "pooled", "per_class", "none")
    assert hints["forwards"].__args__ == ("first", "last", "all", "concat")
