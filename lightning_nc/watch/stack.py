"""A deep linear head: linear layers in a row, of which the last one is the classifier."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_nc.watch.heads import first_rows, gap, largest_gap
from lightning_nc.watch.paths import Layer


def find_stack(
    modules: Mapping[str, nn.Module], classifier: str | None, of_one_row: bool = False
) -> list[Layer]:
    """The inputs of the layers of a linear head, in their order, less the classifier's.

    They are the ``nn.Linear`` without bias that come right before the classifier where modules are
    registered. Whether nothing else comes between them, a forward tells: see :func:`is_chained`.

    Args:
        modules: By path.
        classifier: The path of the last one; None: the last ``nn.Linear`` of several rows.
        of_one_row: Whether a classifier of a single row may be one, which has no such head.

    Returns:
        The places; none where the head is a single layer.

    Raises:
        ValueError: If the classifier has a single row, and may not.

    Example:
        >>> net = nn.Sequential(nn.ReLU(), nn.Linear(8, 4, bias=False), nn.Linear(4, 3))
        >>> [layer.name for layer in find_stack(dict(net.named_modules()), "2")]
        ['1.in']
    """
    leaves = {n: m for n, m in modules.items() if n and not any(m.children())}
    leaves = {n: m for n, m in leaves.items() if not isinstance(m, nn.Identity)}
    linear = [n for n, m in leaves.items() if isinstance(m, nn.Linear) and m.out_features > 1]
    last = classifier if classifier is not None else (linear or [""])[-1]
    following = leaves.get(last)
    if not isinstance(following, nn.Linear) or (of_one_row and following.out_features == 1):
        return []
    _require_several_rows(last, following)
    names, found = list(leaves), list[Layer]()
    for name in reversed(names[: names.index(last)]):
        module = leaves[name]
        fits = isinstance(module, nn.Linear) and module.out_features == following.in_features
        if not fits or module.bias is not None:
            break
        found.insert(0, Layer(f"{name}.in", name, "auto", of_input=True, is_found=True))
        following = module
    return found


def feeding(modules: Mapping[str, nn.Module], path: str) -> str | None:
    """The ``nn.Linear`` with a bias that is registered right before another one which it fits, if any.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3))
        >>> feeding(dict(net.named_modules()), "1")
        '0'
    """
    leaves = [n for n, m in modules.items() if n and not any(m.children())]
    at = leaves.index(path) if path in leaves else 0
    before, here = modules[leaves[at - 1]] if at else None, modules.get(path)
    if not isinstance(before, nn.Linear) or not isinstance(here, nn.Linear):
        return None
    fits = before.bias is not None and before.out_features == here.in_features
    return leaves[at - 1] if fits else None


def _require_several_rows(name: str, classifier: nn.Linear) -> None:
    if classifier.out_features == 1:
        raise ValueError(
            f"Expected a classifier with a row for each class for the measures linear/*, but {name!r} "
            "has a single one: its frame is that of two opposite rows whatever is trained. Leave these "
            "measures out, or train it with two rows; if it is not the classifier, set classifier."
        )


def is_chained(h: Tensor, weight: Tensor, following: Tensor, rounds: torch.dtype | None = None) -> bool:
    """Whether what enters the following layer is W h, and nothing comes between; waits for the device.

    Where W h is zero, that tells nothing.

    Args:
        h: Rows that enter a layer.
        weight: W.
        following: Rows that enter the following one.
        rounds: The type in which W h was computed, where it is coarser than their own.

    Returns:
        Whether it is.

    Example:
        >>> h, weight = torch.tensor([[1.0, -1.0]]), torch.eye(2)
        >>> is_chained(h, weight, h @ weight.T), is_chained(h, weight, (h @ weight.T).relu())
        (True, False)
    """
    following = following.flatten(0, -2)
    if len(h) != len(following) or len(weight) != following.shape[-1] or not bool(following.any()):
        return False
    seen = gap(first_rows(h), weight, None, first_rows(following))
    return float(seen) <= largest_gap(rounds or following.dtype, h.device)
