r"""Geometries of cross-entropy in closed form, and the penalties at which classes vanish or coincide.

Objective, with all features free and one linear layer without a bias:

.. math:: \frac1N \sum_i \operatorname{CE}(W h_i, y_i) + \frac{\lambda_W}{2} \|W\|^2
   + \frac{\lambda_H}{2} \sum_i \|h_i\|^2

After ReLU the minimum has a closed form for any counts (:func:`relu_ce`). With features of both signs
it has one for equal counts (:func:`ce_balanced`); for others it is the end of a convex program,
:mod:`lightning_nc.functional.frames.ce_program`. All shapes depend on one number besides the counts'
shares: after ReLU on :math:`r = \sqrt{N \lambda_W \lambda_H (K-1)/K}`, else on
:math:`\sqrt{\lambda_W \lambda_H N}`.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_nc.functional.frames.simplex import etf
from lightning_nc.functional.frames.triple import Counts, Minimum, Triple, class_shares


def relu_ce_coefficients(counts: Counts, r: Float[Tensor, " n"]) -> Float[Tensor, "n K"]:
    r"""How far the logit of each class stands above the others, for features after ReLU.

    .. math:: M_k = \max\!\big(0, \log[(K - 1) (1/q_k - 1)]\big), \qquad q_k = r / \sqrt{p_k}

    At the minimum :math:`q_k` is what the softmax leaves to the wrong classes. The matrices of
    :func:`relu_ce_shape` are linear in :math:`M`. Range ``[0, inf)``.

    Args:
        counts: Rows of each class.
        r: Positive numbers.

    Returns:
        One row per r, in float64; 0 where :math:`q_k \ge (K-1)/K` and the class vanishes.

    Raises:
        ValueError: If a class has no rows.

    Example:
        >>> relu_ce_coefficients(torch.tensor([8, 2]), torch.tensor([0.1, 0.3]))
        tensor([[2.0725, 1.2448],
                [0.6838, 0.0000]], dtype=torch.float64)
    """
    shares = class_shares(counts)
    odds = (len(shares) - 1) * (shares.sqrt() / r.to(shares)[:, None] - 1)
    return odds.clamp(min=1).log()


def relu_ce_shape(counts: Counts, r: float) -> Triple:
    r"""The geometry of cross-entropy after ReLU, up to the scales of its matrices.

    With :math:`M` of :func:`relu_ce_coefficients`, :math:`P = \operatorname{diag}(p)` and
    :math:`A = K I - 1 1^\top`:

    .. math:: G_W \sim A P^{1/2} \operatorname{diag}(M) A, \qquad
       G_H \sim P^{-1/2} \operatorname{diag}(M), \qquad
       Z = (I - \tfrac1K 1 1^\top) \operatorname{diag}(M)

    With equal counts the means are an orthogonal frame, and W and the logits a simplex.

    Args:
        counts: Rows of each class.
        r: :math:`\sqrt{N \lambda_W \lambda_H (K-1)/K}`.

    Returns:
        The geometry; the logits at their own scale. Zeros if every class vanishes.

    Raises:
        ValueError: If a class has no rows.

    Example:
        >>> relu_ce_shape(torch.tensor([8, 2]), 0.1).logits
        tensor([[ 1.0362, -0.6224],
                [-1.0362,  0.6224]], dtype=torch.float64)
    """
    shares = class_shares(counts)
    margins = relu_ce_coefficients(counts, shares.new_tensor([r]))[0]
    simplex = etf(len(shares)).logits.to(shares)
    spread = len(shares) * simplex
    weights = spread * (shares.sqrt() * margins) @ spread
    return Triple(weights, (margins / shares.sqrt()).diag(), simplex * margins)


def relu_ce(counts: Counts, weight_penalty: float, feature_penalty: float) -> Minimum:
    r"""Where cross-entropy is least over features that are not negative: the shape at its scale.

    .. math:: \|\mu_k\|^2 = \sqrt{\frac{(K-1) \lambda_W}{K \lambda_H n_k}} M_k, \qquad
       w_k = \sqrt{\frac{\lambda_H}{\lambda_W K (K-1)}}
             \Big(K \sqrt{n_k} \mu_k - \sum_m \sqrt{n_m} \mu_m\Big)

    Args:
        counts: n, rows of each class.
        weight_penalty: :math:`\lambda_W` of the objective trained.
        feature_penalty: :math:`\lambda_H`, of the sum over all rows.

    Returns:
        The objective and the geometry.

    Raises:
        ValueError: If a class has no rows, or a penalty is not positive.

    Example:
        >>> least = relu_ce(torch.tensor([8, 4, 2, 2]), 0.005, 0.005)
        >>> least.triple.means.diagonal()
        tensor([1.4645, 1.9165, 2.4890, 2.4890], dtype=torch.float64)

    References:
        Dang et al. (2024), "Neural collapse for cross-entropy class-imbalanced learning with
        unconstrained ReLU features model".
    """
    _expect(weight_penalty, feature_penalty)
    shares, k = class_shares(counts), len(counts)
    rows = counts.sum().to(shares)
    r = float((rows * weight_penalty * feature_penalty * (k - 1) / k).sqrt())
    shape = relu_ce_shape(counts, r)
    ratio = weight_penalty / feature_penalty / rows
    means = shape.means * (ratio * (k - 1) / k).sqrt()
    weights = shape.weights / (ratio * (k - 1) * k**3).sqrt()
    wrong = (r / shares.sqrt()).clamp(max=(k - 1) / k)
    # W and features are penalized alike at the minimum
    penalties = feature_penalty * rows * (shares @ means.diagonal())
    return Minimum(penalties - shares @ (-wrong).log1p(), Triple(weights, means, shape.logits))


def r_profile(counts: Counts, logits: Float[Tensor, "K K"]) -> Float[Tensor, " K"]:
    r"""What :func:`relu_ce`'s one number would be, by the logits of each class.

    .. math:: r_k = \sqrt{p_k} \big(1 - \operatorname{softmax}(z_k)_k\big)

    At a minimum after ReLU it is :math:`\sqrt{N \lambda_W \lambda_H (K-1)/K}` for every class that does
    not vanish, whatever the counts. Range ``(0, 1)``.

    Args:
        counts: Rows of each class.
        logits: Of the class means, one column per class, at their own scale.

    Returns:
        One number per class, in float64.

    Example:
        >>> counts = torch.tensor([8, 4, 2, 2])
        >>> r_profile(counts, relu_ce(counts, 0.005, 0.005).triple.logits)
        tensor([0.0173, 0.0173, 0.0173, 0.0173], dtype=torch.float64)
    """
    shares = class_shares(counts)
    logits = logits.to(shares)
    # by the odds against the class, as what is next to nothing keeps its digits
    against = (logits - logits.diagonal()).fill_diagonal_(-torch.inf).logsumexp(dim=0)
    return shares.sqrt() * against.sigmoid()


def ce_balanced(
    num_classes: int,
    samples_per_class: int,
    weight_penalty: float,
    feature_penalty: float,
    smoothing: float = 0.0,
) -> Minimum:
    r"""Where cross-entropy is least over features of both signs, with equal counts: a simplex ETF.

    With :math:`c = \sqrt{n \lambda_W \lambda_H}`, n rows of each class, and the margin
    :math:`m = \log(\frac{1}{c + \delta/K} - K + 1)`, 0 from :math:`c + \delta/K \ge 1/K` on:

    .. math:: Z = m S, \quad G_W = m \sqrt{n \lambda_H / \lambda_W} S, \quad
       G_H = m \sqrt{\lambda_W / (n \lambda_H)} S, \quad S = I - \tfrac1K 1 1^\top

    .. math:: \text{loss} = \log(1 + (K-1) e^{-m}) + \delta (1 - \tfrac1K) m + c (K - 1) m

    A bias, penalized or not, is the same for all classes there and changes nothing.

    Args:
        num_classes: K.
        samples_per_class: n.
        weight_penalty: :math:`\lambda_W` of the objective trained.
        feature_penalty: :math:`\lambda_H`, of the sum over all rows.
        smoothing: :math:`\delta` of the labels.

    Returns:
        The objective and the geometry.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> least = ce_balanced(4, samples_per_class=5, weight_penalty=0.01, feature_penalty=0.005)
        >>> round(float(least.loss), 8)
        0.2430016

    References:
        Zhu et al. (2021), "A geometric analysis of neural collapse with unconstrained features". Guo et
        al. (2024), "Cross entropy versus label smoothing: a neural collapse perspective".
    """
    _expect(weight_penalty, feature_penalty, smoothing=smoothing)
    k, n = num_classes, samples_per_class
    shares = class_shares(torch.full((k,), n))
    c = math.sqrt(n * weight_penalty * feature_penalty)
    margin = math.log(max(1 / (c + smoothing / k) - k + 1, 1.0))
    loss = math.log1p((k - 1) * math.exp(-margin)) + (smoothing * (1 - 1 / k) + c * (k - 1)) * margin
    longer = math.sqrt(n * feature_penalty / weight_penalty)
    logits = margin * etf(len(shares)).logits.to(shares)
    return Minimum(shares.new_tensor(loss), Triple(longer * logits, logits / longer, logits))


def relu_ce_vanishing(
    counts: Counts, weight_penalty: float, feature_penalty: float
) -> Bool[Tensor, " K"]:
    r"""Which classes have the mean 0 at :func:`relu_ce`: the smallest.

    They are those of :math:`N^2 \lambda_W \lambda_H \frac{K}{K-1}` rows and fewer.

    Args:
        counts: n, rows of each class.
        weight_penalty: :math:`\lambda_W` of the objective trained.
        feature_penalty: :math:`\lambda_H`, of the sum over all rows.

    Returns:
        Whether, of each class.

    Raises:
        ValueError: If a class has no rows, or a penalty is not positive.

    Example:
        >>> relu_ce_vanishing(torch.tensor([88, 7, 5]), weight_penalty=0.02, feature_penalty=0.02)
        tensor([False, False,  True])
    """
    _expect(weight_penalty, feature_penalty)
    shares, k = class_shares(counts), len(counts)
    return shares <= counts.sum() * weight_penalty * feature_penalty * k / (k - 1)


def collapse_penalty(counts: Counts, smoothing: float = 0.0) -> Float[Tensor, " K"]:
    r"""From which penalty on classes of equal size coincide: minority collapse.

    Two classes or more of n rows each have one mean and one row of W just where

    .. math:: \sqrt{\lambda_W \lambda_H} \ge \sqrt{n} (1 - \delta) / N

    With features of both signs, with a bias or without. The smallest classes go first, and label
    smoothing makes them go earlier.

    Args:
        counts: Rows of each class.
        smoothing: :math:`\delta` of the labels.

    Returns:
        The penalty of each class; infinite if no other has its size.

    Raises:
        ValueError: If a class has no rows, or the smoothing is not in [0, 1).

    Example:
        >>> collapse_penalty(torch.tensor([20, 20, 4, 4, 4]))
        tensor([0.0860, 0.0860, 0.0385, 0.0385, 0.0385], dtype=torch.float64)

    References:
        Fang et al. (2021), "Exploring deep neural networks via layer-peeled model: minority collapse in
        imbalanced training". Hong & Ling (2023), "Neural collapse for unconstrained feature model under
        cross-entropy loss with imbalanced data".
    """
    _expect(smoothing=smoothing)
    shares = class_shares(counts)
    has_others = (counts == counts[:, None]).sum(dim=0) > 1
    least = counts.to(shares).sqrt() * (1 - smoothing) / counts.sum()
    return torch.where(has_others, least, torch.inf)


def collapsing_classes(counts: Counts, penalty: float, smoothing: float = 0.0) -> Bool[Tensor, " K"]:
    r"""Which classes coincide with the others of their size at the minimum of cross-entropy.

    Args:
        counts: Rows of each class.
        penalty: :math:`\sqrt{\lambda_W \lambda_H}` of the objective trained.
        smoothing: :math:`\delta` of the labels.

    Returns:
        Whether the penalty is that of :func:`collapse_penalty` or more, for each class.

    Example:
        >>> collapsing_classes(torch.tensor([20, 20, 4, 4, 4]), penalty=0.04)
        tensor([False, False,  True,  True,  True])
    """
    return collapse_penalty(counts, smoothing) <= penalty


def largest_collapsing_count(num_samples: int, penalty: float, smoothing: float = 0.0) -> int:
    r"""Up to how many rows a class coincides with others of its size, by :func:`collapse_penalty`.

    Args:
        num_samples: N, of all classes together.
        penalty: :math:`\sqrt{\lambda_W \lambda_H}` of the objective trained.
        smoothing: :math:`\delta` of the labels.

    Returns:
        The number of rows; 0 if none collapses.

    Example:
        >>> largest_collapsing_count(52, penalty=0.04)
        4
    """
    _expect(smoothing=smoothing)
    count = (num_samples * penalty / (1 - smoothing)) ** 2
    # what is whole but for rounding is whole
    return math.floor(count * (1 + 1e-12))


def _expect(*penalties: float, smoothing: float = 0.0) -> None:
    if min(penalties, default=1.0) <= 0 or not 0 <= smoothing < 1:
        raise ValueError(
            f"Expected penalties above 0 and a label smoothing in [0, 1), but got {list(penalties)} "
            f"and {smoothing}. Without both penalties no minimum exists: state those trained with."
        )
