"""The module's own metrics, which a step of the pass would add its rows to."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any

import torch
from torch import nn
from torchmetrics import Metric, MetricCollection, MetricTracker

# hooks are removed by handles that know the dictionary in which they are, and modes and parameters are
# looked after elsewhere
_LEFT_ALONE = set(vars(nn.Module())) - {"_modules", "_buffers"}


@contextmanager
def metrics_on_copies(module: nn.Module) -> Iterator[None]:
    """Inside, the metrics work on copies of all that they hold; afterwards each has its own back.

    It is not touched in between, so that counts, caches, lists and states shared by several metrics
    are what they were, whatever a metric keeps.
    """
    metrics = list(_metrics_in(module))
    own = [dict(vars(metric)) for metric in metrics]
    # modules and parameters stay where they are; a metric in a metric is one of ours, too
    copies: dict[int, Any] = {id(part): part for m in (module, *metrics) for part in _parts(m)}
    try:
        for metric, attributes in zip(metrics, own, strict=True):
            fresh = {k: _copy(v, copies) for k, v in attributes.items() if k not in _LEFT_ALONE}
            vars(metric).update(fresh)
        yield
    finally:
        for metric, attributes in zip(metrics, own, strict=True):
            vars(metric).clear()
            vars(metric).update(attributes)


def _metrics_in(module: nn.Module) -> Iterator[nn.Module]:
    """Those of the modules, those of metrics, and those in plain lists and dictionaries of either."""
    seen: set[int] = set()
    waiting: list[Any] = [module]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Metric | MetricCollection | MetricTracker):
            yield thing
        inside: Any = thing
        if isinstance(thing, nn.Module):
            inside = vars(thing).values()
        elif isinstance(thing, dict):
            inside = thing.values()
        waiting.extend(x for x in inside if isinstance(x, nn.Module | dict | list | tuple))


def _parts(module: nn.Module) -> Iterator[object]:
    yield from module.modules()
    yield from module.parameters()


def _copy(value: Any, copies: dict[int, Any]) -> Any:
    """A deep copy, in which what was shared is shared again."""
    if id(value) in copies:
        return copies[id(value)]
    made: Any
    if isinstance(value, torch.Tensor):
        made = value.detach().clone()  # deepcopy refuses a tensor that has a gradient function
    elif isinstance(value, dict):
        made = copy(value)
        made.update({k: _copy(v, copies) for k, v in value.items()})
    elif type(value) is list:
        made = [_copy(v, copies) for v in value]
    elif type(value) is tuple:
        made = tuple(_copy(v, copies) for v in value)
    else:
        try:
            made = deepcopy(value, copies)
        except Exception:  # a process group, a lock: nothing that a metric adds rows to
            made = value
    copies[id(value)] = made
    return made
