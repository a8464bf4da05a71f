"""Before anything else is imported: torchvision, where it was built for another torch."""

import importlib.util
from pathlib import Path

import torch


def _operators_of_torchvision():
    """Those that it declares as it is imported, where its own library of them cannot be loaded.

    Lightning imports torchvision where it is there, and without the operators no test would run. None
    of the models calls one.
    """
    found = importlib.util.find_spec("torchvision")
    built = [] if found is None else [*Path(found.origin).parent.glob("_C*.so")]
    try:
        for path in built:
            torch.ops.load_library(str(path))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


OPERATORS = _operators_of_torchvision()  # they live as long as this
