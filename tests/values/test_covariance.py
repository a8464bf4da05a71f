"""What is kept of the scatter, and what is said where it is not."""

import pytest
import torch

from lightning_nc import ClassStatistics
from lightning_nc.values import UndefinedMeasure, covariance
from lightning_nc.values.covariance import resolved, scatter_bytes, why_not_kept


@pytest.mark.parametrize("setting", ["pooled", "per_class", "none"])
@pytest.mark.parametrize("width", [1, 100_000])
def test_what_was_asked_for_by_name_is_what_is_meant(setting, width):
    assert resolved(setting, width) == setting


def test_auto_keeps_a_scatter_of_a_gibibyte_and_no_more():
    widest = 11_585
    assert scatter_bytes(widest) <= 2**30 < scatter_bytes(widest + 1)
    assert [resolved("auto", width) for width in (1, widest, widest + 1)] == [
        "pooled",
        "pooled",
        "none",
    ]


def test_the_reason_names_the_bytes_where_auto_keeps_none():
    assert why_not_kept(16) == (
        "the within-class covariance was not kept (covariance='none'); use 'pooled'"
    )
    assert why_not_kept(30_000) == (
        "the within-class covariance was not kept: of 30,000 features it takes 7,200,000,000 bytes, "
        "and covariance='auto' keeps at most 1,073,741,824; if memory allows, set covariance='pooled'"
    )


def test_statistics_without_a_scatter_say_why(monkeypatch):
    statistics = ClassStatistics.empty(2, 16, "none")
    for limit, text in ((2**30, "use 'pooled'"), (2047, "takes 2,048 bytes, and covariance='auto'")):
        monkeypatch.setattr(covariance, "AUTO_BYTES", limit)
        for ask in (statistics.require_scatter, lambda: statistics.within_covariance):
            with pytest.raises(UndefinedMeasure, match=text):
                ask()


def test_statistics_know_three_of_them():
    for make in (
        lambda: ClassStatistics.empty(2, 4, "auto"),
        lambda: ClassStatistics.from_batch(torch.eye(2), torch.arange(2), 2, "auto"),
    ):
        with pytest.raises(
            ValueError, match=r"one of \('pooled', 'per_class', 'none'\), but got 'auto'"
        ):
            make()
