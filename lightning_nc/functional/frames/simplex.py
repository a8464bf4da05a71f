r"""Geometries without a parameter: the simplex ETF, the orthogonal frame, and SELI.

With equal counts, cross-entropy and the squared error with a free bias lead to the simplex, the squared
error without a bias to the orthogonal frame. Under weak regularization and unequal counts cross-entropy
leads to SELI, whose logits are those of the simplex for any counts.

SELI is approached as slowly as the logarithm of the regularization: for the counts (10, 10, 1, 1) the
distances of weights, means and logits are .103, .173 and .153 at a penalty of 1e-3, and still .051,
.082 and .075 at 1e-6.
"""

import torch

from lightning_nc.functional.frames.triple import Counts, Triple, class_shares


def etf(num_classes: int) -> Triple:
    r"""The simplex equiangular tight frame: :math:`I - \frac1K 1 1^\top` for weights, means and logits.

    Args:
        num_classes: K.

    Returns:
        The geometry.

    Example:
        >>> etf(2).means
        tensor([[ 0.5000, -0.5000],
                [-0.5000,  0.5000]], dtype=torch.float64)

    References:
        Papyan, Han & Donoho (2020), "Prevalence of neural collapse during the terminal phase of deep
        learning training".
    """
    simplex = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    return Triple(simplex, simplex, simplex)


def orthogonal(num_classes: int) -> Triple:
    """The orthogonal frame (OF): the identity for weights, means and logits.

    Args:
        num_classes: K.

    Returns:
        The geometry.

    Example:
        >>> orthogonal(2).means
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)

    References:
        Tirer & Bruna (2022), "Extended unconstrained features model for exploring deep neural
        collapse".
    """
    identity = torch.eye(num_classes, dtype=torch.float64)
    return Triple(identity, identity, identity)


def seli(counts: Counts) -> Triple:
    r"""Simplex-encoded labels interpolation (SELI), for any counts.

    With :math:`S = I - \frac1K 1 1^\top`, :math:`D = \operatorname{diag}(n)^{-1/2}` and the thin SVD
    :math:`S D^{-1} = U \Lambda V^\top` of rank K - 1:

    .. math:: G_W = U \Lambda U^\top, \qquad G_H = D V \Lambda V^\top D, \qquad Z = S

    The class means average to zero without weights, so that no center but the unweighted one leaves
    them as they are.

    Args:
        counts: n, rows of each class.

    Returns:
        The geometry, for all counts times the square root of the number of rows.

    Raises:
        ValueError: If a class has no rows.

    Example:
        >>> seli(torch.tensor([4, 4, 1, 1])).weights.diagonal() * 10**0.5
        tensor([1.3953, 1.3953, 0.8953, 0.8953], dtype=torch.float64)

    References:
        Thrampoulidis, Kini, Vakilian & Behnia (2022), "Imbalance trouble: revisiting neural-collapse
        geometry".
    """
    shares = class_shares(counts)
    simplex = etf(len(counts)).logits.to(shares)
    # of the product with its transpose: an SVD fails to converge for some counts that repeat
    squares, left = torch.linalg.eigh((simplex * shares) @ simplex)
    left, values = left[:, 1:], squares[1:].sqrt()
    features = simplex @ left / values  # D V
    return Triple((left * values) @ left.T, (features * values) @ features.T, simplex)
