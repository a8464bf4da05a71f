"""Submodules by their dotted paths, wrappers left out."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from torch import nn

# torch.compile, FSDP and activation checkpointing put a module around another; paths leave them out
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# the parts of a glob; "**." as a whole name stands for any number of them, none included
_GLOB = re.compile(
    r"(?P<names>(?<![^.])\*\*\.)|(?P<any>\*\*)|(?P<name>\*)|(?P<one>\?)|(?P<set>\[.[^]]*\])"
)


@dataclass(frozen=True)
class Layer:
    """A place in the network where features are measured.

    Attributes:
        name: The suffix of its keys: "blocks.0", "blocks.0.in", "blocks.0.first"; without a colon.
        path: The module.
        pool: A name in :data:`~lightning_nc.watch.pools.POOLS`, the dotted path of a function, or
            "auto".
        of_input: Whether the features are what goes into the module, and not what comes out.
        is_found: Whether nobody has named it, so that it is left out where it cannot be measured: it
            fits "**", or seems to belong to a linear head.
    """

    name: str
    path: str
    pool: str
    of_input: bool = False
    is_found: bool = False

    @property
    def given(self) -> str:
        """As it is named in a setting."""
        return self.path + (":in" if self.of_input else "")


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


def matching(names: Iterable[str], glob: str) -> list[str]:
    """The paths that a glob names, in their order.

    ``*``, ``?`` and ``[...]`` stand for what is between two dots; ``**`` crosses dots, and as a whole
    name stands for any number of names: ``**.mlp`` is an ``mlp`` at any depth, the top included, and
    ``blocks.**`` is all that is inside ``blocks``, at any depth.

    Args:
        names: Paths.
        glob: A path with these signs.

    Returns:
        Those of the paths that fit.

    Example:
        >>> matching(["blocks.0", "blocks.0.mlp", "mlp"], "blocks.*")
        ['blocks.0']
        >>> matching(["blocks.0", "blocks.0.mlp", "mlp"], "**.mlp")
        ['blocks.0.mlp', 'mlp']
    """
    literal, at = "", 0
    for part in _GLOB.finditer(glob):
        literal += re.escape(glob[at : part.start()]) + _as_regex(part)
        at = part.end()
    fits = re.compile(literal + re.escape(glob[at:]))
    return [name for name in names if name and fits.fullmatch(name)]


def _as_regex(part: re.Match[str]) -> str:
    if part.lastgroup == "set":
        inside = part[0][1:-1].replace("\\", r"\\")
        return rf"(?!\.)[{'^' + inside[1:] if inside[0] == '!' else inside}]"
    return {"names": r"(?:.*\.)?", "any": ".*", "name": r"[^.]*", "one": r"[^.]"}[part.lastgroup or ""]


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
