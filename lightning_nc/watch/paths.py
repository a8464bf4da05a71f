"""Submodules by their dotted paths, wrappers left out."""

from collections.abc import Mapping
from difflib import get_close_matches

from torch import nn

# torch.compile, FSDP and activation checkpointing put a module around another; paths leave them out
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def modules_by_path(root: nn.Module) -> dict[str, nn.Module]:
    """All submodules by their paths; of a wrapper and what it wraps, the latter.

    Example:
        >>> list(modules_by_path(nn.Sequential(nn.Linear(1, 1))))
        ['', '0']
    """
    # of the two, the one that is wrapped comes second
    return {without_wrappers(name): module for name, module in root.named_modules()}


def without_wrappers(path: str) -> str:
    """A path less the names of wrappers.

    Example:
        >>> without_wrappers("_orig_mod.body.0")
        'body.0'
    """
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)


def require_path(modules: Mapping[str, nn.Module], path: str, argument: str) -> None:
    """Raise a ValueError with what may have been meant, if there is no such submodule.

    Args:
        modules: By path.
        path: What was asked for.
        argument: The name of the setting, for the message.

    Raises:
        ValueError: If it is not there.
    """
    if path in modules and path:
        return
    names = [name for name in modules if name]
    near = get_close_matches(path, names, n=3, cutoff=0.5)
    linear = [name for name in names if isinstance(modules[name], nn.Linear)]
    listed = near or (linear if argument == "classifier" else names)[:8]
    raise ValueError(
        f"Expected {argument} to be the dotted path of a submodule, but there is no {path!r}. "
        + ("Did you mean " if near else "There are ")
        + f"{', '.join(map(repr, listed))}{'?' if near else ', ...'}"
    )
