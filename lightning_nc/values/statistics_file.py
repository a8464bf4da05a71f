"""A file of statistics: plain tensors by name, checked before they are believed."""

import os
from typing import Any

import torch
from torch import Tensor

_SHAPES = {
    "counts": "C",
    "means": "Cd",
    "scatter": "dd",
    "sums_of_squares": "C",
    "class_scatter": "Cdd",
}
_MAY_BE_NONE = ("scatter", "class_scatter")


def read_statistics(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the tensors that ``ClassStatistics.save`` wrote, onto the CPU.

    Args:
        path: Of the file.

    Returns:
        Tensors by name.

    Raises:
        ValueError: If it holds anything else; a file that cannot be opened raises an OSError.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever bytes can do to an unpickler
        what = f"one that torch.load refuses ({type(error).__name__})"
        raise _not_statistics(path, what, "Was it cut short, or written by another program") from error
    _require_fields(path, content)
    _require_shapes(path, content)
    return content


def _require_fields(path: str | os.PathLike[str], content: Any) -> None:
    if not isinstance(content, dict):
        what = f"one that holds a {type(content).__name__}"
        raise _not_statistics(path, what, "Was it written by torch.save")
    unknown = [str(name) for name in content if name not in _SHAPES]
    if unknown:
        what = f"one that holds {', '.join(map(repr, unknown[:3]))}"
        raise _not_statistics(path, what, "Is it a model's state dict or a checkpoint")
    missing = [name for name in _SHAPES if name not in content and name != "class_scatter"]
    if missing:
        what = f"one without {', '.join(map(repr, missing))}"
        raise _not_statistics(path, what, "Was it written by another version")
    for name, value in content.items():
        if not (isinstance(value, Tensor) or (value is None and name in _MAY_BE_NONE)):
            what = f"one whose {name!r} is a {type(value).__name__}"
            raise _not_statistics(path, what, "Was it changed after it was written")


def _require_shapes(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    means = content["means"]
    sizes = dict(zip("Cd", means.shape, strict=True)) if means.ndim == 2 else {}
    for name in ("means", *_SHAPES):  # first of all what tells C and d
        tensor = content.get(name)
        if tensor is None:
            continue
        expected = tuple(sizes.get(axis, axis) for axis in _SHAPES[name])
        whole = name == "counts"
        if tuple(tensor.shape) != expected or tensor.is_floating_point() == whole:
            dtype = str(tensor.dtype).removeprefix("torch.")
            what = f"one whose {name!r} is {dtype} of shape {tuple(tensor.shape)}"
            shape = f"({', '.join(map(str, expected))})"
            kind = "integers" if whole else "floats"
            raise _not_statistics(path, f"{what} in the place of {kind} of shape {shape}",
                                  "Do its tensors come from different statistics")  # fmt: skip


def _not_statistics(path: str | os.PathLike[str], what: str, cause: str) -> ValueError:
    return ValueError(
        f"Expected a file that ClassStatistics.save wrote, but {os.fspath(path)!r} is {what}. {cause}? "
        "Save the statistics once more, with statistics.save(path)."
    )
