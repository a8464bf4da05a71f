r"""The directions in which class means differ: the one place of decompositions.

What has been decomposed is kept with the value, which never changes: NC1 and its rank, and the picture
of the spectra, ask for the same directions.
"""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.values.precision import FLOAT32_EPS
from lightning_nc.values.statistics import ClassStatistics
from lightning_nc.values.symmetric import gram, panels

_T = TypeVar("_T")
_V = TypeVar("_V")


def means_rounding(statistics: ClassStatistics) -> Float[Tensor, ""]:
    r"""The largest singular value that rounding the means to float32 can make of nothing.

    :math:`\epsilon_{32} \|[\mu_1 \dots \mu_C]\|_F`, a bound on the spectral norm of such a
    perturbation; of the means as they are, not centered.

    Args:
        statistics: Statistics of at least one class.

    Returns:
        The bound, a scalar.

    Example:
        >>> stats = ClassStatistics.from_batch(torch.eye(2), torch.tensor([0, 1]), num_classes=2)
        >>> f"{float(means_rounding(stats)):.1e}"
        '1.7e-07'
    """
    return FLOAT32_EPS * statistics.means.norm()


def kept_with_the_value(function: Callable[[_V], _T]) -> Callable[[_V], _T]:
    """Compute it once for each value, and let it go with the value."""

    @wraps(function)
    def kept(value: _V) -> _T:
        memory = vars(value)
        if function.__name__ not in memory:
            memory[function.__name__] = function(value)
        return memory[function.__name__]

    return kept


@kept_with_the_value
def centered_means_cholesky(statistics: ClassStatistics) -> Float[Tensor, "k k"] | None:
    r"""Cholesky factor of a Gram matrix of the centered means, if all of them count.

    Of :math:`M M^\top + \frac{s}{C} 1 1^\top`, where the rows of M add up to 0 and s is any positive
    number, or of :math:`M^\top M` if C > d. In a tenth of the time of an eigendecomposition this tells
    what it would tell.

    Args:
        statistics: Statistics in which every class has at least one sample.

    Returns:
        The factor. None unless all min(C - 1, d) singular values are certain to exceed
        :func:`means_rounding` and to be precise as roots of what a Gram matrix holds.
    """
    num_classes = statistics.num_classes
    if num_classes == 1:
        return None
    products = _gram_of_centered_means(statistics)
    if num_classes <= statistics.num_features:
        products = products + products.trace() / (num_classes - 1) / num_classes
    precise = _least_share(products) * products.norm().sqrt()
    least = torch.maximum(means_rounding(statistics).to(precise), precise).square()
    margin = products.clone()
    margin.diagonal().sub_(least)
    # all eigenvalues of a symmetric matrix are positive just where it has a Cholesky factor
    certain = torch.linalg.cholesky_ex(margin).info == 0
    factor, info = torch.linalg.cholesky_ex(products)
    return factor if bool(certain & (info == 0) & least.isfinite()) else None


@kept_with_the_value
def centered_means_svd(
    statistics: ClassStatistics,
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
    """A thin singular value decomposition of the centered means.

    By the eigenvalues of a Gram matrix, ten times as fast, where the squares that it holds are precise
    enough; without the singular value that is 0 because the rows add up to 0.

    Args:
        statistics: Statistics in which every class has at least one sample.

    Returns:
        Singular values, descending, and right singular vectors as rows.
    """
    m = statistics.frame.vectors
    wide = statistics.num_classes <= statistics.num_features
    k = min(statistics.num_classes - 1, statistics.num_features)
    squares, vectors = torch.linalg.eigh(_gram_of_centered_means(statistics))
    values = squares.flip(0)[:k].clamp(min=0).sqrt()
    if k and bool(values[-1] > _least_share(squares) * values[0]):
        vectors = vectors.flip(1)[:, :k].T
        return values, (vectors @ m) / values[:, None] if wide else vectors
    if not wide:
        m = torch.linalg.qr(m, mode="r").R  # the same values and vectors, of a d x d matrix
    _, values, vectors = torch.linalg.svd(m, full_matrices=False)
    return values, vectors


def between_class_directions(
    statistics: ClassStatistics,
) -> tuple[Float[Tensor, " r"], Float[Tensor, "r d"]]:
    r"""The directions in which the class means differ: a thin SVD of the centered means.

    A direction counts when its singular value exceeds what rounding the (uncentered) class means to
    float32 can make, :math:`\epsilon_{32} \|[\mu_1 \dots \mu_C]\|_F`, a bound on the spectral norm of
    such a perturbation. A bottleneck of width 4 under 10 classes thus gives rank 4.

    Args:
        statistics: Statistics in which every class has at least one sample.

    Returns:
        The r singular values of the C x d matrix of centered means in descending order, and the
        orthonormal right singular vectors as rows.

    Raises:
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 1]), num_classes=2)
        >>> between_class_directions(stats)[0]
        tensor([1.4142], dtype=torch.float64)
    """
    singular_values, directions = centered_means_svd(statistics)
    counted = singular_values > means_rounding(statistics)
    return singular_values[counted], directions[counted]


def between_class_whitening(statistics: ClassStatistics) -> Float[Tensor, "k d"]:
    r"""Rows P with :math:`P^\top P = (M^\top M)^+`, along which a spread is relative to the means' own.

    With the thin SVD :math:`M = U S V^\top` of the centered means, :math:`P = S^{-1} V^\top` up to a
    rotation of its rows, of the directions that count (:func:`between_class_directions`); by Cholesky
    factors where all of them count.

    Args:
        statistics: Statistics in which every class has at least one sample.

    Returns:
        P; no row if all class means coincide.

    Raises:
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 1]), num_classes=2)
        >>> P = between_class_whitening(stats)
        >>> P.T @ P  # M'M is diag(8, 0)
        tensor([[0.1250, 0.0000],
                [0.0000, 0.0000]], dtype=torch.float64)
    """
    factor, m = centered_means_cholesky(statistics), statistics.frame.vectors
    if factor is None:
        singular_values, directions = between_class_directions(statistics)
        return directions / singular_values[:, None]
    if statistics.num_classes > statistics.num_features:
        identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        return torch.linalg.solve_triangular(factor, identity, upper=False)
    return torch.cholesky_solve(m, factor)


def eigenvectors_above(
    least: Float[Tensor, " d"], matrix: Float[Tensor, "d d"]
) -> tuple[Float[Tensor, " r"], Float[Tensor, "d r"]]:
    r"""Eigenvalues of a covariance that are larger than a bound, and than what rounding makes of them.

    Args:
        least: What does not count along each axis, such as what float32 makes of the data; along an
            eigenvector it is :math:`\sum_j v_j^2` of these.
        matrix: A symmetric matrix without negative eigenvalues.

    Returns:
        The eigenvalues, ascending, and their eigenvectors as columns.

    Example:
        >>> least = torch.tensor([0.5, 0.5, 2.5])
        >>> eigenvectors_above(least, torch.diag(torch.tensor([0.1, 1.0, 2.0])))[0]
        tensor([1.])
    """
    values, vectors = torch.linalg.eigh(matrix)
    of_eigh = len(values) * torch.finfo(values.dtype).eps * values[-1]
    kept = values > torch.maximum(least @ vectors.square(), of_eigh)
    return values[kept], vectors[:, kept]


def trace_along(rows: Float[Tensor, "k d"], square: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    r""":math:`\operatorname{tr}(P S P^\top)` of a symmetric S; the rows are P.

    Args:
        rows: P.
        square: S.

    Returns:
        The trace, a scalar: ``((P.T @ P) * S).sum()``, of which half is computed.

    Example:
        >>> trace_along(torch.eye(2), torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
        tensor(4.)
    """
    of_panels = [_trace_of_panel(rows[:, i], rows[:, j], square[i, j]) for i, j in panels(len(square))]
    return torch.stack(of_panels).sum()


def _trace_of_panel(
    left: Float[Tensor, "k h"], right: Float[Tensor, "k w"], panel: Float[Tensor, "h w"]
) -> Float[Tensor, ""]:
    """In a function, so that one panel is gone before the next one is made."""
    terms = (left.T @ right).mul_(panel)
    # what is above the diagonal's block, which is the last one, stands below it, too
    return 2 * terms.sum() - terms[-right.shape[1] :].sum()


@kept_with_the_value
def _gram_of_centered_means(statistics: ClassStatistics) -> Float[Tensor, "k k"]:
    """Of their rows where C <= d, else of their columns: the smaller one."""
    frame = statistics.frame
    if statistics.num_classes > statistics.num_features:
        return gram(frame.vectors.T)
    all_pairs = len(frame.sampled) == frame.num_vectors
    return frame.gram if all_pairs else gram(frame.vectors)  # NC2 needs the former, too


def _least_share(products: Float[Tensor, "..."]) -> float:
    """Of the largest singular value: the squares of smaller ones have lost half of their digits."""
    return float(max(1e-8, 8 * len(products) * torch.finfo(products.dtype).eps) ** 0.5)
