"""Neural collapse, measured while you train: NC1 to NC4 in any Lightning logger, in one pass.

    L.Trainer(callbacks=[NeuralCollapseCallback()])

- NeuralCollapseCallback: the callback; its help tells every argument.
- measure: the same of any network and loader, in one call; a Measurement prints as a table, and compare
  puts several into a Comparison.
- NeuralCollapse: the same as a torchmetrics metric, for any other loop.
- ClassStatistics, LinearClassifier, FeatureSample, Frame, History: the values that they rest on.
- NeuralCollapseWarning: what they say, for warning filters.
- functional: one function per formula, and the table MEASURES of the logged keys.
- figures: the pictures, and their table PICTURES.
- nn: losses that bring it about.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from lightning_nc import functional as functional
from lightning_nc import nn as nn
from lightning_nc.measure import measure as measure
from lightning_nc.measurement import Comparison as Comparison
from lightning_nc.measurement import Measurement as Measurement
from lightning_nc.measurement import compare as compare
from lightning_nc.metric import NeuralCollapse as NeuralCollapse
from lightning_nc.values import ClassStatistics as ClassStatistics
from lightning_nc.values import FeatureSample as FeatureSample
from lightning_nc.values import Frame as Frame
from lightning_nc.values import History as History
from lightning_nc.values import LinearClassifier as LinearClassifier
from lightning_nc.values import NeuralCollapseWarning as NeuralCollapseWarning

if TYPE_CHECKING:
    from lightning_nc import figures as figures
    from lightning_nc.callback import NeuralCollapseCallback as NeuralCollapseCallback

__all__ = [
    "ClassStatistics",
    "Comparison",
    "FeatureSample",
    "Frame",
    "History",
    "LinearClassifier",
    "Measurement",
    "NeuralCollapse",
    "NeuralCollapseCallback",
    "NeuralCollapseWarning",
    "compare",
    "figures",
    "functional",
    "measure",
    "nn",
]

try:
    __version__ = version("lightning-neural-collapse")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0+unknown"


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    # what needs Lightning or matplotlib is loaded on first use, so that the metric and the
    # functions import without them
    if name == "NeuralCollapseCallback":
        return importlib.import_module("lightning_nc.callback").NeuralCollapseCallback
    if name == "figures":
        return importlib.import_module("lightning_nc.figures")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
