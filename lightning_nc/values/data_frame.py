"""Rows as a table of pandas, which is there only where the user has installed it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]


def data_frame(rows: Any, columns: Mapping[Any, type], instead: str, **more: Any) -> "DataFrame":
    """A data frame whose columns have their types even where it has no rows.

    Args:
        rows: What pandas makes a DataFrame of: dicts by column, or columns by name.
        columns: The type of each column, in their order.
        instead: What to use where there is no pandas, for the error.
        more: Further arguments of the DataFrame, such as ``index``.

    Returns:
        The data frame.

    Raises:
        ImportError: If pandas is not installed.

    Example:
        >>> data_frame([{"key": "nc1/cdnv", "value": 0.5}], {"key": str, "value": float}, "to_rows()")
                key  value
        0  nc1/cdnv    0.5
    """
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise ImportError(
            f"Expected pandas for to_pandas(), but it cannot be imported ({error}). Install it with: "
            f"pip install pandas. Without it, take {instead}."
        ) from error
    return DataFrame(rows, columns=list(columns), **more).astype(dict(columns))
