"""The places in a network where features are measured, as a config names them."""

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from lightning_nc.watch.paths import Layer, matching, require_path, without_wrappers
from lightning_nc.watch.pools import require_pool

__all__ = ["Layer", "find_layers", "place_of"]


def place_of(modules: Mapping[str, nn.Module], path: str, argument: str, pool: str) -> Layer:
    """One place, by a path.

    Args:
        modules: By path.
        path: "name" for what the module puts out, "name:in" for what goes into it.
        argument: The name of the setting, for messages.
        pool: How it becomes rows.

    Returns:
        The place.

    Raises:
        ValueError: If the path names no module, or the pool is none.

    Example:
        >>> place_of({"head": nn.Linear(2, 2)}, "head:in", "features", "auto")
        Layer(name='head.in', path='head', pool='auto', of_input=True)
    """
    require_pool(pool)
    path, of_input = _side(path, argument)
    require_path(modules, path, argument)
    return _layer(path, of_input, pool)


def find_layers(
    modules: Mapping[str, nn.Module],
    layers: Sequence[str] | Mapping[str, str | Sequence[str]],
    pool: str,
) -> list[Layer]:
    """The places that paths and globs ask for.

    Of a path and a glob that give the same key two pools, the path counts; else of "auto" and a pool,
    the pool.

    Args:
        modules: By path.
        layers: Paths or globs, each with or without ":in"; a mapping gives each its pool, or a list
            of pools, each of which is a suffix of the key.
        pool: For those without one of their own.

    Returns:
        The places, in the order of the setting and of the network.

    Raises:
        ValueError: If a path names no module, a pool is none, or a key has two pools.

    Example:
        >>> modules = {"blocks.0": nn.ReLU(), "blocks.1": nn.ReLU()}
        >>> [layer.name for layer in find_layers(modules, {"blocks.*": ["first", "last"]}, "auto")]
        ['blocks.0.first', 'blocks.0.last', 'blocks.1.first', 'blocks.1.last']
    """
    if isinstance(layers, str):
        raise ValueError(f"Expected a list of layers, but got the string {layers!r}: [{layers!r}]?")
    require_pool(pool)
    wanted = layers if isinstance(layers, Mapping) else dict.fromkeys(layers, pool)
    found: dict[str, _Named] = {}
    for given, pools in wanted.items():
        path, of_input = _side(given, "layers")
        is_path = path in modules and path != ""
        for name in [path] if is_path else _named(modules, path):
            for layer in _with_pools(name, of_input, pools, given):
                new = _Named(layer, given, (is_path, layer.pool != "auto"))
                found[layer.name] = _chosen(found.get(layer.name, new), new)
    return [each.layer for each in found.values()]


class _Named(NamedTuple):
    """A layer, what the setting calls it, and how much that says: by path and not glob, with a pool."""

    layer: Layer
    given: str
    says: tuple[bool, bool]


def _chosen(one: _Named, other: _Named) -> _Named:
    """Of two of the same key, the one that says more."""
    places = {(each.layer.path, each.layer.of_input) for each in (one, other)}
    if one.layer != other.layer and (len(places) > 1 or one.says == other.says):
        raise ValueError(
            f"Expected one layer for the key {one.layer.name!r}, but {_told(one)}, and {_told(other)}. "
            "Leave one of them out, or give a layer a list of pools: each has a key of its own."
        )
    return max(one, other, key=lambda each: each.says)


def _told(named: _Named) -> str:
    return f"{named.given!r} gives {named.layer.path!r} with pool {named.layer.pool!r}"


def _side(given: str, argument: str) -> tuple[str, bool]:
    """The path, and whether the input is meant."""
    path, colon, side = given.partition(":")
    if colon and side != "in":
        raise ValueError(
            f"Expected {argument} to name what a module puts out ({path!r}) or what goes into it "
            f"({path + ':in'!r}), but got {given!r}."
        )
    return without_wrappers(path), bool(colon)


def _named(modules: Mapping[str, nn.Module], glob: str) -> list[str]:
    names = matching(modules, glob)
    if not names and fnmatch.filter([name for name in modules if name], glob):
        wide = re.sub(r"\*+", "**", glob)
        raise ValueError(
            f"Expected layers to name submodules, but {glob!r} names none: '*' and '?' stop at dots. "
            f"Did you mean {wide!r}? '**' crosses them."
        )
    if not names:
        require_path(modules, glob, "layers")
    return names


def _with_pools(path: str, of_input: bool, pools: str | Sequence[str], given: str) -> Iterator[Layer]:
    if isinstance(pools, str):
        require_pool(pools)
        yield _layer(path, of_input, pools)
        return
    if not pools:
        raise ValueError(f"Expected a pool or a list of pools for layer {given!r}, but got {pools!r}.")
    for pool in pools:
        require_pool(pool)
        yield _layer(path, of_input, pool, "." + pool.rpartition(".")[2])


def _layer(path: str, of_input: bool, pool: str, suffix: str = "") -> Layer:
    return Layer(path + (".in" if of_input else "") + suffix, path, pool, of_input)
