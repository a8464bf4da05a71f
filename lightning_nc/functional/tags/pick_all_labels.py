r"""What the pick-all-label loss has at its minimum, features free: margins, lengths, and the loss.

Objective, with N rows of which :math:`n_m` have m tags, K tags, one linear layer without a bias:

.. math:: \frac1N \sum_i \ell(W h_i, S_i) + \frac{\lambda_W}{2} \|W\|^2
   + \frac{\lambda_H}{2} \sum_i \|h_i\|^2, \qquad
   \ell(z, S) = \sum_{k \in S} \operatorname{CE}(z, k)

or, ``normalized``, :math:`\ell / |S|`, which is ``nn.CrossEntropyLoss`` with the soft targets
:math:`1/|S|` and has another minimum. Where the sets of m tags occur equally often for each m,

.. math:: W W^\top = \rho (I - J/K), \qquad h_S = C_m \sum_{k \in S} w_k, \qquad a_m = \rho\, C_m

with :math:`a_m` the logit of a tag of the row less that of any other:

.. math:: a_m (m e^{a_m} + K - m) = \frac{p_m}{m} \frac{K \rho}{\kappa}, \qquad \kappa = N \lambda_H

with :math:`p_m = m`, or 1 if normalized. Each m stands alone: counts enter through :math:`\rho` only.
The penalty of the features enters through :math:`\kappa` alone, the ``row_penalty``: it is
:math:`\frac{\kappa}{2} \operatorname{Avg}_i \|h_i\|^2`. With a bias the minimum is the same, as equal
counts leave it the same for all tags.

These are plain numbers, solved by Newton's method in float64.

References:
    Li, Li, Wang & Qu (2024), "Neural collapse in multi-label learning with pick-all-label loss", for
    the geometry. The scalars are from the stationarity of the objective.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

_LEAST_RHO = 1e-150


@dataclass(frozen=True)
class PickAllLabelOptimum:
    r"""The minimum of the pick-all-label loss with penalties.

    Attributes:
        rho: :math:`\|W\|^2 / (K - 1)`. 0: the penalties are so large that W and all features are 0.
        margins: :math:`a_m`, by m.
        scales: :math:`C_m`, by m; NaN where all is 0, of which everything is a multiple.
        loss: The objective, penalties included.
    """

    rho: float
    margins: Mapping[int, float]
    scales: Mapping[int, float]
    loss: float


def pick_all_label_margin(
    multiplicity: int, num_classes: int, rho: float, row_penalty: float, normalized: bool = False
) -> float:
    r"""The logit of a tag of the row, less that of any other tag, for given weights.

    The root :math:`a_m` of :math:`a (m e^a + K - m) = \frac{p_m}{m} \frac{K \rho}{\kappa}`.

    Args:
        multiplicity: m, tags of the row, below K.
        num_classes: K.
        rho: :math:`\|W\|^2 / (K - 1)`.
        row_penalty: :math:`\kappa = N \lambda_H`.
        normalized: Whether the loss of a row is divided by m.

    Returns:
        The margin, positive; 0 with weights of 0.

    Raises:
        ValueError: If m is not in 1 to K - 1, the penalty is not positive, or rho negative.

    Example:
        >>> f"{pick_all_label_margin(1, num_classes=4, rho=8.46407772, row_penalty=0.21):.6f}"
        '3.702407'
    """
    _require_multiplicity(multiplicity, num_classes)
    if not (0 <= rho < math.inf and 0 < row_penalty < math.inf):
        raise ValueError(
            f"Expected rho to be at least 0 and row_penalty to be positive, but got {rho} and "
            f"{row_penalty}. Without a penalty on the features the margin has no limit."
        )
    m, others = multiplicity, num_classes - multiplicity
    right_side = num_classes * rho / row_penalty / (m if normalized else 1)
    # both bounds are above the root, as m e^a + K - m is above K and above m e^a; from above, Newton's
    # steps on the logarithms, convex in u = log a, stay above
    bound = min(right_side / num_classes, math.log1p(right_side / m))
    if bound == 0:
        return 0.0
    u, target = math.log(bound), math.log(right_side)
    for _ in range(100):
        a = math.exp(u)
        both = m * math.exp(a) + others
        step = (u + math.log(both) - target) / (1 + a * m * math.exp(a) / both)
        u -= step
        if abs(step) < 1e-15:
            break
    return math.exp(u)


def pick_all_label_scales(
    num_classes: int,
    rho: float,
    row_penalty: float,
    multiplicities: Iterable[int] = (1, 2),
    normalized: bool = False,
) -> dict[int, float]:
    r"""How long rows with m tags are at the minimum: :math:`h_S = C_m \sum_{k \in S} w_k`.

    :math:`C_m = a_m / \rho` of :func:`pick_all_label_margin`. Measured is :math:`C_m / C_1`, as
    :func:`~lightning_nc.functional.tags.tag_scale`: for the sum over tags it tends to 1 as the penalty
    vanishes, though slowly, like :math:`1 - \log(m) / a_1`, and to 1 again as the weights vanish; for
    the normalized loss to 1 and to 1/m.

    Args:
        num_classes: K.
        rho: :math:`\|W\|^2 / (K - 1)`, of the weights as they are.
        row_penalty: :math:`\kappa = N \lambda_H`.
        multiplicities: The numbers of tags m, below K.
        normalized: Whether the loss of a row is divided by m.

    Returns:
        :math:`C_m` by m.

    Raises:
        ValueError: If an m is not in 1 to K - 1, or penalty or rho is not positive.

    Example:
        >>> scales = pick_all_label_scales(4, rho=8.46407772, row_penalty=0.21)
        >>> f"{scales[1]:.6f}, {scales[2]:.6f}"
        '0.437426, 0.376818'
    """
    if not rho > 0:
        raise ValueError(
            f"Expected rho to be positive, but got {rho}. With weights of 0 the features are 0, "
            "too, and have no scale."
        )
    of_all = (num_classes, rho, row_penalty, normalized)
    return {m: pick_all_label_margin(m, *of_all) / rho for m in multiplicities}


def pick_all_label_optimum(
    rows_by_multiplicity: Mapping[int, int],
    num_classes: int,
    penalty: float,
    feature_penalty: float,
    normalized: bool = False,
) -> PickAllLabelOptimum:
    r"""The minimum itself, for given penalties and any counts of the multiplicities.

    :math:`\rho` is where the penalties of W and of the features are alike:

    .. math:: \lambda_W (K - 1) \rho^2 = \kappa \sum_m \frac{n_m}{N} a_m^2 \frac{m (K - m)}{K}

    and 0, with all features 0, from the penalties on at which no root is left:

    .. math:: \lambda_W \kappa \ge \sum_m \frac{n_m}{N} \Big(\frac{p_m}{m}\Big)^2
        \frac{m (K - m)}{K (K - 1)}

    The sets of m tags occur equally often, for each m, and there are at least K - 1 features.

    Args:
        rows_by_multiplicity: :math:`n_m` by m, below K.
        num_classes: K.
        penalty: :math:`\lambda_W` of the objective trained.
        feature_penalty: :math:`\lambda_H`, of the sum over all rows.
        normalized: Whether the loss of a row is divided by m.

    Returns:
        Weights, margins, scales and the least objective.

    Raises:
        ValueError: If an m is not in 1 to K - 1, a penalty is not positive, or there are no rows.

    Example:
        >>> rows = {1: 4 * 6, 2: 6 * 3}
        >>> least = pick_all_label_optimum(rows, num_classes=4, penalty=0.01, feature_penalty=0.005)
        >>> f"{least.rho:.6f}, {least.scales[2]:.6f}, {least.loss:.6f}"
        '8.464078, 0.376818, 0.923441'
        >>> pick_all_label_optimum(rows, 4, penalty=1.0, feature_penalty=0.01).rho
        0.0
    """
    shares, row_penalty = _shares(rows_by_multiplicity, num_classes, penalty, feature_penalty)
    weights = {m: share * m * (num_classes - m) / num_classes for m, share in shares.items()}

    def pull(rho: float) -> float:
        """The features' penalty over that of W, which falls with rho; 1 at the minimum."""
        found = _scales_from_zero(shares, num_classes, rho, row_penalty, normalized)
        squares = sum(weight * found[m] ** 2 for m, weight in weights.items())
        return row_penalty / penalty / (num_classes - 1) * squares

    rho = _where_one(pull) if pull(0.0) > 1 else 0.0
    of_all = (num_classes, rho, row_penalty, normalized)
    margins = {m: pick_all_label_margin(m, *of_all) for m in shares}
    scales = {m: a / rho if rho else math.nan for m, a in margins.items()}
    # at the minimum both penalties are alike
    loss = penalty * rho * (num_classes - 1)
    for m, a in margins.items():
        # log(m e^a + K - m) - a, which is the loss of each of its tags
        of_tag = math.log(m) + math.log1p((num_classes - m) / m * math.exp(-a))
        loss += shares[m] * (1 if normalized else m) * of_tag
    return PickAllLabelOptimum(rho, margins, scales, loss)


def _scales_from_zero(
    multiplicities: Iterable[int], num_classes: int, rho: float, row_penalty: float, normalized: bool
) -> dict[int, float]:
    """C by m, and at rho = 0 its limit from above."""
    if rho:
        return pick_all_label_scales(num_classes, rho, row_penalty, multiplicities, normalized)
    return {m: 1 / row_penalty / (m if normalized else 1) for m in multiplicities}


def _where_one(falling: Callable[[float], float]) -> float:
    """Where a function that falls from above 1 at zero to 0 is 1, to the last digits."""
    low = high = 1.0
    while falling(high) > 1:
        high *= 2
    while falling(low) <= 1 and low > _LEAST_RHO:
        low /= 2
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if falling(middle) > 1 else (low, middle)
    return math.sqrt(low * high)


def _shares(
    rows_by_multiplicity: Mapping[int, int],
    num_classes: int,
    penalty: float,
    feature_penalty: float,
) -> tuple[dict[int, float], float]:
    """The share of all rows by multiplicity, and the penalty of a row."""
    rows = {m: count for m, count in sorted(rows_by_multiplicity.items()) if count}
    for m in rows:
        _require_multiplicity(m, num_classes)
    total = sum(rows.values())
    if not total > 0 or min(rows.values()) < 0:
        raise ValueError(f"Expected rows of some multiplicity, but got {dict(rows_by_multiplicity)}.")
    if not (0 < penalty < math.inf and 0 < feature_penalty < math.inf):
        raise ValueError(
            f"Expected positive penalties, but got {penalty} and {feature_penalty}. Without one there "
            "is no minimum: weights or features grow for ever."
        )
    return {m: count / total for m, count in rows.items()}, total * feature_penalty


def _require_multiplicity(multiplicity: int, num_classes: int) -> None:
    if not 1 <= multiplicity < num_classes:
        raise ValueError(
            f"Expected multiplicities in 1 to num_classes - 1 = {num_classes - 1}, but got "
            f"{multiplicity}. A row with all tags, or none, has no tag to be told from another."
        )
