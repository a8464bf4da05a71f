"""What the user allows for products of float32 matrices; only read, never changed."""

import torch


def float32_products_are_exact(device: torch.device) -> bool:
    """False where ``set_float32_matmul_precision`` or its successors allow TF32 or bfloat16."""
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    # `fp32_precision` can always be read; `allow_tf32` raises once the newer setting was used
    own = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    if own is None:
        return torch.get_float32_matmul_precision() == "highest"
    return own in ("ieee", "none")
