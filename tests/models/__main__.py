"""Train unmodified models of other packages under the callback: ``python tests/models``.

Runs the tests of this folder, and tells which packages were there and which were not.
"""

import sys
from importlib import metadata
from pathlib import Path

import pytest

DISTRIBUTIONS = {
    "torchgeo.trainers": "torchgeo",
    "torch_geometric": "torch-geometric",
    "torch_uncertainty": "torch-uncertainty",
    "pytorch_metric_learning": "pytorch-metric-learning",
    "pytorch_tabular": "pytorch-tabular",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
}
"""The names of distributions, where they differ from that of the module that is imported."""


class Noted:
    """Notes which packages a cell needs, and whether it ran.

    Attributes:
        ran: Packages of the cells that ran.
        skipped: Why the others did not, by package.
    """

    def __init__(self) -> None:
        self.ran: set[str] = set()
        self.skipped: dict[str, str] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        model = item.callspec.params.get("model") if hasattr(item, "callspec") else None
        packages = () if model is None else model.packages
        if report.when == "call" and packages:
            if report.skipped:
                self.skipped.setdefault(packages[0], report.longrepr[2])
            else:
                self.ran.update(packages)
        return report


def distribution(package: str) -> str:
    return DISTRIBUTIONS.get(package, package)


def version(package: str) -> str:
    return f"{distribution(package)} {metadata.version(distribution(package))}"


def absence(package: str, reason: str) -> str:
    """The name alone where it is not installed; else what it lacks."""
    is_plain = f"No module named '{package.split('.')[0]}'" in reason
    return distribution(package) + ("" if is_plain else f" ({reason})")


def main() -> int:
    """Run the folder, and print both lists."""
    noted = Noted()
    code = pytest.main([str(Path(__file__).parent), "-q", *sys.argv[1:]], plugins=[noted])
    print("\nran:", ", ".join(map(version, sorted(noted.ran))) or "none")
    absent = {name: why for name, why in noted.skipped.items() if name not in noted.ran}
    print("absent:", ", ".join(absence(*each) for each in sorted(absent.items())) or "none")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
