"""What is kept of the scatter inside the classes."""

from collections.abc import Mapping
from typing import Literal, get_args

AUTO_BYTES = 2**30
"""Of float64 scatter, for each stage and module: what ``covariance="auto"`` keeps at most."""

Covariance = Literal["pooled", "per_class", "none"]
CovarianceSetting = Literal["auto", "pooled", "per_class", "none"]
Covariances = CovarianceSetting | Mapping[str, CovarianceSetting]
"""Of all modules; or by layer, with the classifier's features under ""."""


def check_covariance(covariance: str, known: tuple[str, ...] = get_args(Covariance)) -> None:
    """Raise a ValueError unless ``covariance`` is one of those known."""
    if covariance not in known:
        raise ValueError(f"Expected covariance to be one of {known}, but got {covariance!r}.")


def scatter_bytes(num_features: int) -> int:
    """Bytes of a scatter in float64.

    Example:
        >>> scatter_bytes(30_000)
        7200000000
    """
    return 8 * num_features**2


def resolved(covariance: str, num_features: int) -> str:
    """What "auto" comes to; it depends on the width alone, so that all ranks decide alike.

    Args:
        covariance: One of those in :data:`CovarianceSetting`.
        num_features: d.

    Returns:
        One of those in :data:`Covariance`.

    Example:
        >>> resolved("auto", 2048), resolved("auto", 30_000), resolved("pooled", 30_000)
        ('pooled', 'none', 'pooled')
    """
    if covariance != "auto":
        return covariance
    return "pooled" if scatter_bytes(num_features) <= AUTO_BYTES else "none"


def why_not_kept(num_features: int) -> str:
    """A clause on what is missing, with the remedy.

    Example:
        >>> why_not_kept(2048)
        "the within-class covariance was not kept (covariance='none'); use 'pooled'"
    """
    missing = "the within-class covariance was not kept"
    if resolved("auto", num_features) == "pooled":
        return f"{missing} (covariance='none'); use 'pooled'"
    return (
        f"{missing}: of {num_features:,} features it takes {scatter_bytes(num_features):,} bytes, and "
        f"covariance='auto' keeps at most {AUTO_BYTES:,}; if memory allows, set covariance='pooled'"
    )


def by_module(given: Covariances) -> tuple[CovarianceSetting, Mapping[str, CovarianceSetting]]:
    """What holds for all modules, and what some of them have of their own.

    Args:
        given: One of those in :data:`CovarianceSetting`, or by layer.

    Returns:
        Both; "auto" for what is not named.

    Example:
        >>> by_module("pooled"), by_module({"conv": "none"})
        (('pooled', {}), ('auto', {'conv': 'none'}))
    """
    return (given, {}) if isinstance(given, str) else ("auto", given)
