r"""What becomes of the small classes: do their classifiers coincide, vanish, are they recognized?

The minority are the classes with at most twice the rows of the smallest one, the majority those with at
least half the rows of the largest one; papers, which train with two sizes of classes, mean the two
groups.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from lightning_nc.values.errors import NothingToCompare
from lightning_nc.values.linear_head import LinearHead
from lightning_nc.values.recalls import Recalls
from lightning_nc.values.training import UNEQUAL


def minority_cosine(head: LinearHead) -> Float[Tensor, ""]:
    r"""Minority collapse: mean cosine between the classifier's rows of the smallest classes.

    .. math:: \operatorname{Avg}_{c \neq c'} \cos(w_c, w_{c'})

    over the minority. Range ``[-1, 1]``: 1 where the minority has collapsed to one direction,
    -1/(C - 1) in a simplex ETF, 0 in an orthogonal frame. Invariant under rotation and scaling of the
    rows.

    Args:
        head: The classifier, and the counts of training.

    Returns:
        The cosine, a float64 scalar; NaN where a row is zero.

    Raises:
        UndefinedMeasure: If the counts are not known, or equal, or only one class is small.

    Example:
        >>> import torch
        >>> from lightning_nc import ClassStatistics, LinearClassifier
        >>> stats = ClassStatistics.from_batch(torch.eye(3), torch.arange(3), num_classes=3)
        >>> weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 1.0, 0.0]])
        >>> minority_cosine(LinearHead(stats, LinearClassifier(weight), torch.tensor([90, 9, 9])))
        tensor(1., dtype=torch.float64)

    References:
        Fang, He, Long & Su (2021), "Exploring deep neural networks via layer-peeled model: minority
        collapse in imbalanced training".
    """
    minority, _ = _groups(head)
    rows = head.product.frame.vectors[minority]
    if len(rows) < 2:
        raise NothingToCompare("a single class is small, and has no other to be compared with")
    total = (rows / rows.norm(dim=1, keepdim=True)).sum(0).square().sum()
    return (total - len(rows)) / (len(rows) * (len(rows) - 1))


def norm_ratio(head: LinearHead) -> Float[Tensor, ""]:
    r"""Mean norm of the classifier's rows of the largest classes over that of the smallest.

    Range ``(0, inf)``; 1 in a simplex ETF and in an orthogonal frame. It grows as the small classes
    vanish. Invariant under rotation and scaling of the rows.

    Args:
        head: The classifier, and the counts of training.

    Returns:
        The ratio, a float64 scalar; infinite where the minority has vanished.

    Raises:
        UndefinedMeasure: If the counts are not known, or equal.

    Example:
        >>> import torch
        >>> from lightning_nc import ClassStatistics, LinearClassifier
        >>> stats = ClassStatistics.from_batch(torch.eye(2), torch.arange(2), num_classes=2)
        >>> weight = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> norm_ratio(LinearHead(stats, LinearClassifier(weight), torch.tensor([90, 9])))
        tensor(1.5000, dtype=torch.float64)

    References:
        Fang, He, Long & Su (2021), "Exploring deep neural networks via layer-peeled model: minority
        collapse in imbalanced training".
    """
    minority, majority = _groups(head)
    norms = head.product.frame.norms
    return norms[majority].mean() / norms[minority].mean()


def recall_many(recalls: Recalls) -> Float[Tensor, ""]:
    """Recall of the nearest class center, averaged over many-shot classes: more than 100 rows.

    See :func:`recall_few`.

    Args:
        recalls: Counts by class.

    Returns:
        The recall, a float64 scalar.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or no such class has rows.

    Example:
        >>> import torch
        >>> rows, few = torch.tensor([4.0, 4.0]), torch.tensor([200, 10])
        >>> recall_many(Recalls(rows, torch.tensor([4.0, 1.0]), few, (20, 100)))
        tensor(1.)
    """
    counts, (_, high) = _known(recalls), recalls.shots
    return _mean_recall(recalls, counts > high, f"more than {high}")


def recall_medium(recalls: Recalls) -> Float[Tensor, ""]:
    """Recall of the nearest class center, averaged over medium-shot classes: 20 to 100 rows.

    See :func:`recall_few`.

    Args:
        recalls: Counts by class.

    Returns:
        The recall, a float64 scalar.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or no such class has rows.

    Example:
        >>> import torch
        >>> rows, few = torch.tensor([4.0, 4.0]), torch.tensor([100, 20])
        >>> recall_medium(Recalls(rows, torch.tensor([4.0, 1.0]), few, (20, 100)))
        tensor(0.6250)
    """
    counts, (low, high) = _known(recalls), recalls.shots
    return _mean_recall(recalls, (counts >= low) & (counts <= high), f"{low} to {high}")


def recall_few(recalls: Recalls) -> Float[Tensor, ""]:
    r"""Recall of the nearest class center, averaged over few-shot classes: fewer than 20 rows.

    .. math:: \operatorname{Avg}_{c} \operatorname{Avg}_{i: y_i = c} \Big[
        \frac{n_c}{n_c - 1} \|h_i - \mu_c\| < \min_{c' \ne c} \|h_i - \mu_{c'}\| \Big]

    Class means are those of the stage, but of a row's own class that of its other rows: with the row
    itself, means of few rows in many dimensions would be nearest to their own rows whatever these are.
    A class of a single row does not count. The rows of a class are counted in training, a whole epoch.
    The limits can be set. Each class counts alike, whatever its rows. Of the sample, as
    :func:`~lightning_nc.functional.ncc_accuracy`; classes without a sampled row do not count. Range
    ``[0, 1]``.

    Args:
        recalls: Counts by class.

    Returns:
        The recall, a float64 scalar.

    Raises:
        UndefinedMeasure: If the counts of training are not known, or no such class has rows.

    Example:
        >>> import torch
        >>> rows, few = torch.tensor([4.0, 4.0]), torch.tensor([200, 10])
        >>> recall_few(Recalls(rows, torch.tensor([4.0, 1.0]), few, (20, 100)))
        tensor(0.2500)

    References:
        Liu, Miao, Zhan, Wang, Gong & Yu (2019), "Large-scale long-tailed recognition in an open world",
        for the split.
    """
    counts, (low, _) = _known(recalls), recalls.shots
    return _mean_recall(recalls, (counts > 0) & (counts < low), f"fewer than {low}")


def _groups(head: LinearHead) -> tuple[Bool[Tensor, " K"], Bool[Tensor, " K"]]:
    """The smallest classes, and the largest."""
    counts = head.require_counts()
    least, most = counts.min(), counts.max()
    if bool(most <= UNEQUAL * least):
        raise NothingToCompare(f"no class has more than {UNEQUAL} times the rows of another")
    return counts <= UNEQUAL * least, counts * UNEQUAL >= most


def _known(recalls: Recalls) -> Tensor:
    if recalls.training_counts is None:
        raise NothingToCompare("the counts of the classes in training are not known yet")
    if len(recalls.training_counts) != len(recalls.sampled):
        raise NothingToCompare("training had another number of classes")
    if not recalls.is_whole:
        raise NothingToCompare(
            "the counts of the classes in training are not those of a whole epoch with all of its rows"
        )
    return recalls.training_counts.to(recalls.sampled.device)


def _mean_recall(recalls: Recalls, chosen: Bool[Tensor, " C"], rows: str) -> Float[Tensor, ""]:
    chosen = chosen & (recalls.sampled > 0)
    if not bool(chosen.any()):
        raise NothingToCompare(f"no class has {rows} rows in training, and rows here")
    return (recalls.correct[chosen] / recalls.sampled[chosen]).mean()
