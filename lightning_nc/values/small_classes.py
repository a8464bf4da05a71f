"""Classes with too few rows, left out."""

from torch import Tensor

from lightning_nc.values.statistics import ClassStatistics


def without_small_classes(statistics: ClassStatistics, min_count: int) -> ClassStatistics:
    """Statistics in which classes with fewer rows are as if they had none.

    The pooled scatter holds the rows of all classes. Less those of small ones it is known where each
    class has its own, or where small classes have a single row, which adds nothing to it; else there is
    none.

    Args:
        statistics: Of all classes.
        min_count: Rows that a class has at least.

    Returns:
        Statistics of as many classes.

    Example:
        >>> import torch
        >>> stats = ClassStatistics.from_batch(torch.ones(3, 2), torch.tensor([0, 0, 1]), num_classes=2)
        >>> without_small_classes(stats, 2).counts
        tensor([2, 0])
    """
    small = (statistics.counts < min_count) & statistics.seen
    if not bool(small.any()):
        return statistics
    kept = ~small
    return ClassStatistics(
        counts=statistics.counts * kept,
        means=statistics.means * kept[:, None],
        scatter=_pooled(statistics, small),
        sums_of_squares=statistics.sums_of_squares * kept,
        class_scatter=(
            None if statistics.class_scatter is None else statistics.class_scatter * kept[:, None, None]
        ),
    )


def _pooled(statistics: ClassStatistics, small: Tensor) -> Tensor | None:
    if statistics.class_scatter is not None:
        return statistics.class_scatter[~small].sum(0)
    single = bool((statistics.counts[small] <= 1).all())
    return statistics.scatter if single else None
