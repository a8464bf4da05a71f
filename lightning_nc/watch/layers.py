"""The places in a network where features are measured, as a config names them."""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from lightning_nc.values.covariance import CovarianceSetting
from lightning_nc.values.recorded import HEAD
from lightning_nc.watch.graph_pools import GRAPH_POOLS
from lightning_nc.watch.paths import Layer, matching, require_path, without_wrappers
from lightning_nc.watch.pools import require_pool

__all__ = ["Layer", "covariances_of", "find_layers", "place_of"]

_DROPOUTS = (nn.modules.dropout._DropoutNd,)
_DROPS_PATHS = ("DropPath", "StochasticDepth")  # timm's and torchvision's


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
        Layer(name='head.in', path='head', pool='auto', of_input=True, is_found=False)
    """
    require_pool(pool)
    if pool in GRAPH_POOLS:
        raise ValueError(
            f"Expected pool to make rows of {argument}={path!r}, but {pool!r} is for layers. Leave "
            f"pool out, and measure layers={{{path!r}: [{pool!r}]}}."
        )
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
    the pool. Of what ``**`` finds, modules that hand on what they are given, or make a weight, are left
    out.

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
        is_found = not is_path and "**" in path
        names = [path] if is_path else _named(modules, path)
        for name in [n for n in names if not is_found or not _hands_on(n, modules[n])]:
            for layer in _with_pools(name, of_input, pools, given):
                layer = replace(layer, is_found=is_found)
                new = _Named(layer, given, (is_path, layer.pool != "auto"))
                found[layer.name] = _chosen(found.get(layer.name, new), new)
    return [each.layer for each in found.values()]


def _hands_on(path: str, module: nn.Module) -> bool:
    """Whether a module puts out what goes in, in eval mode at least, or makes a weight."""
    makes_weight = "parametrizations" in path.split(".")
    is_dropout = isinstance(module, (*_DROPOUTS, nn.Identity))
    return makes_weight or is_dropout or type(module).__name__ in _DROPS_PATHS


def by_place(layers: Mapping[str, Layer]) -> dict[tuple[str, bool], list[str]]:
    """The names of layers by the module, and whether its input is meant: one for each pool.

    Example:
        >>> by_place({name: Layer(name, "a", "auto") for name in ("a.first", "a.last")})
        {('a', False): ['a.first', 'a.last']}
    """
    names: dict[tuple[str, bool], list[str]] = {}
    for each in layers.values():
        names.setdefault((each.path, each.of_input), []).append(each.name)
    return names


def drops(module: nn.Module) -> bool:
    """Whether a module is a Dropout that changes something in training.

    Example:
        >>> drops(nn.Dropout(0.1)), drops(nn.Dropout(0.0))
        (True, False)
    """
    shares = [getattr(module, name, None) for name in ("p", "drop_prob")]
    is_one = isinstance(module, _DROPOUTS) or type(module).__name__ in _DROPS_PATHS
    return is_one and any(shares)


class _Named(NamedTuple):
    """A layer, what the setting calls it, and how much that says: by path and not glob, with a pool."""

    layer: Layer
    given: str
    says: tuple[bool, bool]


def _chosen(one: _Named, other: _Named) -> _Named:
    """Of two of the same key, the one that says more."""
    places = {(each.layer.path, each.layer.of_input) for each in (one, other)}
    pools = {each.layer.pool for each in (one, other)}
    if len(pools) + len(places) > 2 and (len(places) > 1 or one.says == other.says):
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


def covariances_of(
    layers: Iterable[Layer], given: Mapping[str, CovarianceSetting]
) -> dict[str, CovarianceSetting]:
    """What is kept of the scatter of those layers that have a setting of their own.

    Args:
        layers: The measured layers.
        given: One of "auto", "pooled", "per_class" and "none" by path or glob, of which a later one
            counts; "" stands for the classifier's features.

    Returns:
        The settings by the names of layers, and under :data:`HEAD`.

    Raises:
        ValueError: If a path fits no layer.

    Example:
        >>> covariances_of([Layer("conv", "conv", "auto")], {"": "per_class", "c*": "none"})
        {'': 'per_class', 'conv': 'none'}
    """
    places = {layer.name: {layer.name, layer.given, layer.path} for layer in layers}
    own: dict[str, CovarianceSetting] = {}
    for path, setting in given.items():
        fitting = [n for n, known in places.items() if path in known or matching(known, path)]
        if path and not fitting:
            raise ValueError(
                "Expected covariance to name measured layers, or '' for the classifier's features, "
                f"but got {path!r}, which fits none of {', '.join(map(repr, places)) or 'no layers'}."
            )
        own |= dict.fromkeys(fitting if path else [HEAD], setting)
    return own
