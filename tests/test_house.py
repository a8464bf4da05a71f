"""Which module may import what: the core stays free of Lightning, the shell free of formulas."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_nc

PACKAGE = Path(lightning_nc.__file__).parent
OURS = "lightning_nc"
WATCHED = ("lightning", "pytorch_lightning", "torchmetrics", "matplotlib")

# folder, or file at the top: what it may import of ours and of the watched libraries
ALLOWED = {
    "values": {"stream"},
    "dotted_path": set(),
    "functional": {"values", "dotted_path", "stream"},
    "stream": {"values", "functional", "tasks"},
    "tasks": {"values", "functional", "stream"},
    "watch": {"values", "functional", "tasks", "stream", "dotted_path", "metric"},
    "figures": {"values", "functional", "matplotlib"},
    "run": {"lightning", "dotted_path"},
    "report": {"values", "functional", "figures", "tasks", "lightning", "matplotlib"},
    "metric": {"values", "tasks", "stream", "functional", "torchmetrics", "figures", "matplotlib"},
    "callback": {
        "watch", "run", "report", "tasks", "values", "functional", "stream",
        "lightning", "pytorch_lightning",
    },
    "__init__": {"functional", "metric", "tasks", "values", "figures", "callback"},
}  # fmt: skip


def module_name(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source):
    """The imported names that matter, those inside functions and under TYPE_CHECKING too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        for name in names:
            top, *rest = name.split(".")
            if top == OURS and rest:
                found.append(rest[0])
            elif top in WATCHED:
                found.append(top)
    return found


def forbidden(name, source):
    return sorted(set(imports(source)) - ALLOWED[name] - {name})


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_a_module_imports_only_what_it_may(path):
    assert forbidden(module_name(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("values", "from lightning_nc.metric import NeuralCollapse"),
        ("values", "def f():\n    from lightning_nc import metric"),
        ("functional", "import torchmetrics"),
        ("metric", "from lightning.pytorch import Callback"),
        ("watch", "import lightning as L"),
        ("watch", "import lightning_nc.figures"),
        ("callback", "from matplotlib.figure import Figure"),
        ("stream", "importlib.import_module('matplotlib')"),
    ],
)
def test_the_check_sees_a_forbidden_import(name, source):
    assert forbidden(name, source)


def test_the_metric_loads_matplotlib_inside_plot_only():
    tree = ast.parse((PACKAGE / "metric.py").read_text())
    outside = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "figures" not in imports("\n".join(map(ast.unparse, outside)))
    [plot] = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "plot"]
    assert imports(ast.unparse(plot)) == ["figures"]


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


def test_every_public_name_is_there():
    for name in ("NeuralCollapseCallback", "NeuralCollapse", "ClassStatistics", "LinearClassifier"):
        assert getattr(lightning_nc, name).__name__ == name
    assert callable(lightning_nc.functional.cdnv)
    assert callable(lightning_nc.figures.cosine_matrices)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lightning_nc.nonsense  # noqa: B018
