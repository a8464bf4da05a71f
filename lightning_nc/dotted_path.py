"""Functions named in a config: found by their dotted path."""

import importlib
from collections.abc import Callable
from typing import Any


def import_function(path: str, argument: str) -> Callable[..., Any]:
    """The function at a dotted path.

    Args:
        path: ``package.module.function``.
        argument: The name of the setting, for the message.

    Returns:
        The function.

    Raises:
        ValueError: If there is none.

    Example:
        >>> import_function("math.sqrt", argument="pool")(4)
        2.0
    """
    module_name, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {argument} to name a function that can be imported, but got {path!r}: "
            f"{error}. Is its module on the Python path, and the function defined at its top level?"
        ) from error
    if not callable(function):
        raise ValueError(
            f"Expected {argument} to name a function, but {path!r} is a {type(function).__name__}."
        )
    return function
