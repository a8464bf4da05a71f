"""How many digits a device gives, and what the user allows for products."""

import pytest
import torch

from lightning_nc.values.precision import accumulator_dtype, float32_products_are_exact


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("cpu", torch.float64), ("cuda:1", torch.float64), ("mps", torch.float32)],
)
def test_sums_are_float64_where_the_device_has_it(device, dtype):
    assert accumulator_dtype(device) == dtype


@pytest.mark.parametrize(
    ("precision", "exact"), [("highest", True), ("high", False), ("medium", False)]
)
def test_what_the_user_allows_for_products_is_read(precision, exact, restored_precision):
    torch.set_float32_matmul_precision(precision)
    assert float32_products_are_exact(torch.device("cpu")) is exact


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="torch without the setting")
@pytest.mark.parametrize(("precision", "exact"), [("ieee", True), ("tf32", False), ("bf16", False)])
def test_the_newer_setting_for_products_is_read(precision, exact, restored_precision):
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = precision
        assert float32_products_are_exact(torch.device("cpu")) is exact
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
