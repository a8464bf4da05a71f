"""What the quick tier of the tests loads: no Lightning and no logger."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
QUICK = ("values", "functional", "stream", "tasks", "metric", "figures")
SLOW_TO_LOAD = {"lightning", "pytorch_lightning", "lightning_fabric", "wandb", "mlflow", "comet_ml"}
LOAD = """
import importlib.util, pathlib, sys
sys.path.insert(0, sys.argv[1])
for i, path in enumerate(map(pathlib.Path, ["conftest.py", *sys.argv[2:]])):
    spec = importlib.util.spec_from_file_location(path.stem, pathlib.Path(sys.argv[1], path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
print(*sys.modules)
"""


def quick_modules():
    return [path for folder in QUICK for path in sorted((TESTS / folder).glob("test_*.py"))]


def loaded_by(paths):
    """The packages that are there once these files have been imported."""
    command = [sys.executable, "-c", LOAD, str(TESTS), *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return {name.split(".")[0] for name in run.stdout.split()}


def test_the_quick_tier_loads_neither_lightning_nor_a_logger():
    paths = quick_modules()
    assert {path.parent.name for path in paths} == set(QUICK)
    packages = loaded_by(paths)
    assert {"lightning_nc", "torchmetrics", "matplotlib", *(path.stem for path in paths)} <= packages
    assert not packages & SLOW_TO_LOAD


def test_the_check_sees_a_test_that_loads_lightning(tmp_path):
    path = tmp_path / "test_slow_to_load.py"
    path.write_text("from lightning_nc import NeuralCollapseCallback\n")
    assert loaded_by([path]) & SLOW_TO_LOAD


@pytest.mark.parametrize("folder", [p for p in TESTS.iterdir() if p.is_dir()], ids=lambda p: p.name)
def test_no_folder_of_tests_is_a_package(folder):
    """Their files are found by names that are unique, and `support` by its own."""
    assert not list(folder.glob("__init__.py"))


def test_the_names_of_test_files_are_unique():
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert len(set(names)) == len(names)
