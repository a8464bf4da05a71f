"""The memory of all tensors that are reached from an object."""

import gc

import torch
from torch import nn

from lightning_nc.stream.memory import Scratch


def tensors_of(root, stop):
    """All tensors that are reached from an object, each piece of memory once, those of others not.

    Nor is working memory, which all share.
    """
    others = {id(each) for each in stop}
    seen, found, queue = set(), {}, [root]
    while queue:
        each = queue.pop()
        if id(each) in seen or id(each) in others or isinstance(each, type | nn.Module | Scratch):
            continue
        seen.add(id(each))
        if isinstance(each, torch.Tensor):
            storage = each.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
            continue
        inside = gc.get_referents(each)
        if type(each).__name__ in ("function", "module", "frame", "builtin_function_or_method"):
            inside = list(each.__closure__ or ()) if hasattr(each, "__closure__") else []
        queue.extend(inside)
    return sum(found.values())
