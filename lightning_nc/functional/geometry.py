r"""NC2: how far a frame (centered class means, classifier rows) is from a simplex ETF.

In a simplex equiangular tight frame (ETF) of C vectors all norms are equal and all pairs have the
cosine :math:`-1/(C-1)`, the widest angle that C vectors can have pairwise. It needs ``d >= C - 1``;
below that, :func:`log_distance_variation` asks for uniformity on the sphere instead (GNC2).

Conventions: standard deviations are population ones (ddof 0; the notebook of Papyan, Han and Donoho
has ddof 1). The means are centered by :math:`\mu_G`, the classifier is taken as it is (Zhou et al.
2022 subtract its mean row). All measures are invariant under rotation and scaling.

Above 2,048 vectors, what is pairwise is computed on a seeded uniform sample of 2,048 of them, against
the ETF of all C.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.values.frame import Frame


def equinorm(frame: Frame) -> Float[Tensor, ""]:
    r"""Coefficient of variation of the norms: :math:`\operatorname{std}_c \|x_c\| / \operatorname{Avg}_c \|x_c\|`.

    Range ``[0, inf)``, 0 at collapse, no unit. Population standard deviation.

    Args:
        frame: Centered class means, or rows of the classifier.

    Returns:
        The coefficient, a float64 scalar.

    Example:
        >>> equinorm(Frame(torch.tensor([[1.0, 0.0], [0.0, 3.0]])))
        tensor(0.5000, dtype=torch.float64)

    References:
        Papyan, Han & Donoho (2020), "Prevalence of neural collapse during the terminal phase of deep
        learning training".
    """  # noqa: E501
    return frame.norms.std(correction=0) / frame.norms.mean()


def equiangularity(frame: Frame) -> Float[Tensor, ""]:
    r"""Standard deviation of the cosines: :math:`\operatorname{std}_{c \ne c'} \cos(x_c, x_{c'})`.

    0 whenever all angles are equal, which does not make them the widest: see :func:`max_angle`.
    Range ``[0, 1]``, 0 at collapse. Population standard deviation.

    Args:
        frame: Centered class means, or rows of the classifier.

    Returns:
        The standard deviation, a float64 scalar.

    Example:
        >>> equiangularity(Frame(torch.eye(3)))
        tensor(0., dtype=torch.float64)

    References:
        Papyan, Han & Donoho (2020), "Prevalence of neural collapse during the terminal phase of deep
        learning training".
    """
    return off_diagonal(frame.cosines).std(correction=0)


def max_angle(frame: Frame) -> Float[Tensor, ""]:
    r"""Distance of the angles to the widest: :math:`\operatorname{Avg}_{c \ne c'} |\cos(x_c, x_{c'}) + \frac1{C-1}|`.

    Range ``[0, 1 + 1/(C-1)]``, 0 at collapse.

    Args:
        frame: Centered class means, or rows of the classifier.

    Returns:
        The average, a float64 scalar.

    Example:
        >>> max_angle(Frame(torch.eye(3)))  # 1 / (C - 1)
        tensor(0.5000, dtype=torch.float64)

    References:
        Papyan, Han & Donoho (2020), "Prevalence of neural collapse during the terminal phase of deep
        learning training".
    """  # noqa: E501
    return (off_diagonal(frame.cosines) + 1 / (frame.num_vectors - 1)).abs().mean()


def etf_distance(frame: Frame) -> Float[Tensor, ""]:
    r"""Distance of the normalized Gram matrix to the ETF's.

    .. math:: \left\| \frac{X X^\top}{\|X X^\top\|_F} - \frac{1}{\sqrt{C-1}} \left(I -
        \tfrac1C 1 1^\top\right) \right\|_F

    Norms and angles in one number; the Frobenius norm is not squared. Range ``[0, sqrt(2)]``, 0 at
    collapse; with ``C > d + 1`` an ETF, and so 0, is out of reach.

    Args:
        frame: Centered class means, or rows of the classifier.

    Returns:
        The distance, a float64 scalar.

    Example:
        >>> etf_distance(Frame(torch.eye(4)))  # an orthogonal frame is not an ETF
        tensor(0.5176, dtype=torch.float64)

    References:
        Zhu et al. (2021), "A geometric analysis of neural collapse with unconstrained features".
    """
    return (unit(frame.gram) - unit(simplex_gram(frame))).norm()


def log_distance_variation(frame: Frame) -> Float[Tensor, ""]:
    r"""GNC2, hyperspherical uniformity: variation of the log inverse distances on the sphere.

    With :math:`u_c = x_c / \|x_c\|` and :math:`l_{cc'} = \log \|u_c - u_{c'}\|^{-1}`:

    .. math:: \operatorname{std}_{c < c'} l_{cc'} \,/\, |\operatorname{Avg}_{c < c'} l_{cc'}|

    Has a meaning for any C, also where ``C > d + 1`` rules an ETF out. Range ``[0, inf)``; 0 for an
    ETF. Population standard deviation. Close to where the average log distance is 0 it is large for
    no geometric reason.

    Args:
        frame: Centered class means.

    Returns:
        The coefficient of variation, a float64 scalar; NaN if two directions coincide.

    Example:
        >>> corners = Frame(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        >>> log_distance_variation(corners)
        tensor(0.3536, dtype=torch.float64)

    References:
        Wu & Papyan (2024), "Linguistic collapse: neural collapse in (large) language models".
    """
    log_inverse = log_inverse_distances(frame)
    return log_inverse.std(correction=0) / log_inverse.mean().abs()


def log_inverse_distances(frame: Frame) -> Float[Tensor, "rows k"]:
    r"""The terms of :func:`log_distance_variation`, each pair twice: :math:`-\log \|u_c - u_{c'}\|`.

    Args:
        frame: Centered class means.

    Returns:
        The terms; infinite where two directions coincide.

    Example:
        >>> log_inverse_distances(Frame(torch.tensor([[2.0, 0.0], [-1.0, 0.0]])))  # -log 2
        tensor([[-0.6931, -0.6931]], dtype=torch.float64)
    """
    squared_distances = 2 - 2 * off_diagonal(frame.cosines)
    # below this lies what rounding the cosine makes: the two directions coincide
    coincide = squared_distances < 16 * torch.finfo(squared_distances.dtype).eps
    return -0.5 * squared_distances.masked_fill(coincide, 0).log()


def off_diagonal(pairs: Float[Tensor, "k k"]) -> Float[Tensor, "k-1 k"]:
    """What is off the diagonal, as a view; each pair stands there twice, which changes no average.

    Args:
        pairs: A square matrix.

    Returns:
        Its entries in their order, in rows that begin behind one entry of the diagonal and end before
        the next.

    Example:
        >>> off_diagonal(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
        tensor([[1., 2.]])
    """
    k = len(pairs)
    return pairs.reshape(-1)[1:].view(k - 1, k + 1)[:, :-1]


def simplex_gram(frame: Frame) -> Float[Tensor, "k k"]:
    """Gram matrix of the simplex ETF, up to a factor: I - J/C, at the pairs that the frame holds."""
    identity = torch.eye(len(frame.sampled), dtype=frame.vectors.dtype, device=frame.vectors.device)
    return identity - 1 / frame.num_vectors


def unit(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """The matrix divided by its Frobenius norm."""
    return matrix / matrix.norm()
