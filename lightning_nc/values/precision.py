"""How many digits a device gives; what the user allows for products is only read, never changed."""

import torch

FLOAT32_EPS = torch.finfo(torch.float32).eps


def accumulator_dtype(device: torch.device | str) -> torch.dtype:
    """Dtype in which means and sums are kept: float64, but float32 where the device has none (MPS).

    Example:
        >>> accumulator_dtype("cpu")
        torch.float64
    """
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


def float32_products_are_exact(device: torch.device) -> bool:
    """False where ``set_float32_matmul_precision`` or its successors allow TF32 or bfloat16."""
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    # `fp32_precision` can always be read; `allow_tf32` raises once the newer setting was used
    own = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    if own is None:
        return torch.get_float32_matmul_precision() == "highest"
    return own in ("ieee", "none")
