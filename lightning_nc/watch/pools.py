"""How an output with more than two dimensions becomes rows."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_nc.dotted_path import import_function
from lightning_nc.watch.paths import require_path, without_wrappers

POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "spatial_mean": lambda x: x.flatten(2).mean(2),
    "token_mean": lambda x: x.flatten(1, -2).mean(1),
    "flatten": lambda x: x.flatten(1),
    "first": lambda x: x[:, 0],
    "last": lambda x: x[:, -1],
    "tokens": lambda x: x.flatten(0, -2),
}
"""How an output with more than two dimensions becomes rows, by the name of the setting."""

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)


def find_layers(
    modules: Mapping[str, nn.Module], layers: Sequence[str] | Mapping[str, str], pool: str
) -> dict[str, str]:
    """The pool of each module that paths and globs ask for.

    Args:
        modules: By path.
        layers: Paths or globs; a mapping gives each its pool.
        pool: For those without one of their own.

    Returns:
        Names of pools by path.

    Raises:
        ValueError: If a path names no module, or a pool is none.
    """
    if isinstance(layers, str):
        raise ValueError(f"Expected a list of layers, but got the string {layers!r}: [{layers!r}]?")
    wanted = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, pool)
    found: dict[str, str] = {}
    for its_pool in (pool, *wanted.values()):
        if its_pool not in (*POOLS, "auto"):
            _check_pool(its_pool)
    for given, its_pool in wanted.items():
        pattern = without_wrappers(given)
        names = fnmatch.filter([name for name in modules if name], pattern)
        if not names:
            require_path(modules, pattern, "layers")
        found.update(dict.fromkeys(names, its_pool))
    return found


def _check_pool(pool: str) -> None:
    if "." not in pool:
        raise ValueError(
            f"Expected pool to be 'auto', one of {', '.join(POOLS)}, or the dotted path of a function, "
            f"but got {pool!r}."
        )
    import_function(pool, "pool")


def pooled(
    name: str, module: nn.Module, x: Tensor, pool: str, label_shape: torch.Size | None
) -> Tensor:
    """The output of a module as rows, in memory of their own.

    Args:
        name: Its path, for messages.
        module: Whose output it is.
        x: The output.
        pool: A name in :data:`POOLS`, a dotted function, or "auto".
        label_shape: Shape of the batch's labels, by which token-level features are told.

    Returns:
        Rows.

    Raises:
        ValueError: If "auto" cannot tell where the channels are.
    """
    if x.ndim <= 2:
        return x.clone()
    if pool == "auto":
        pool = choose_pool(name, module, x, label_shape)
    function = POOLS.get(pool) or import_function(pool, "pool")
    rows = function(x)
    return rows.clone() if rows._is_view() else rows


def choose_pool(name: str, module: nn.Module, x: Tensor, label_shape: torch.Size | None) -> str:
    """Tokens where the labels have the leading dimensions, else by where the module has its channels.

    Args:
        name: Its path, for messages.
        module: Whose output it is.
        x: The output.
        label_shape: Shape of the batch's labels.

    Returns:
        A name in :data:`POOLS`.

    Raises:
        ValueError: If the module's type does not tell.
    """
    if label_shape is not None and len(label_shape) > 1 and x.shape[:-1] == label_shape:
        return "tokens"
    leaves = [m for m in module.modules() if next(m.children(), None) is None]
    first = any(isinstance(m, _CHANNELS_FIRST) for m in leaves)
    last = any(isinstance(m, _CHANNELS_LAST) for m in module.modules())
    if first != last:
        return "spatial_mean" if first else "token_mean"
    raise ValueError(
        f"Expected a pool for layer {name!r}, a {type(module).__name__} whose output has shape "
        f"{tuple(x.shape)} and whose type does not tell where its channels are. Set pool, or "
        f"layers={{{name!r}: pool}}, to one of {', '.join(POOLS)}, or a dotted function."
    )
