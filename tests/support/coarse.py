"""Hardware that rounds the factors of products, on any CPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class CoarseProducts(TorchDispatchMode):
    """Products of float32 matrices as on hardware that rounds the factors to bfloat16."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.addmm_.default and args[0].dtype == torch.float32:
            self.seen += 1
            out, *factors = args
            args = (out, *(f.to(torch.bfloat16).to(f.dtype) for f in factors))
        return func(*args, **(kwargs or {}))
