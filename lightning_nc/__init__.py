"""Neural collapse, measured while you train: NC1 to NC4 in any Lightning logger, in one pass."""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from lightning_nc import functional as functional
from lightning_nc.metric import NeuralCollapse as NeuralCollapse
from lightning_nc.tasks.notices import NeuralCollapseWarning as NeuralCollapseWarning
from lightning_nc.values.history import History as History
from lightning_nc.values.statistics import ClassStatistics as ClassStatistics
from lightning_nc.values.statistics import FeatureSample as FeatureSample
from lightning_nc.values.statistics import Frame as Frame
from lightning_nc.values.statistics import LinearClassifier as LinearClassifier

if TYPE_CHECKING:
    from lightning_nc import figures as figures
    from lightning_nc.callback import NeuralCollapseCallback as NeuralCollapseCallback

try:
    __version__ = version("lightning-neural-collapse")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    # what needs Lightning or matplotlib is loaded on first use, so that the metric and the
    # functions import without them
    if name == "NeuralCollapseCallback":
        return importlib.import_module("lightning_nc.callback").NeuralCollapseCallback
    if name == "figures":
        return importlib.import_module("lightning_nc.figures")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
