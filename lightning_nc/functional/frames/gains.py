r"""Which directions of a linear head live under the squared error, and by how much.

The minimum splits into directions: without a bias the classes, of share p of all rows; with a bias the
singular vectors of the centered labels. Each has a gain g, the logit of its own class, which solves

.. math:: (1 - g)^{M+1} g^{M-1} = \tau / p^M, \qquad \tau = N \lambda_H \prod_l \lambda_l

for M layers with the penalties :math:`\lambda_l`, N rows and the features' penalty. Above a threshold
of the right-hand side the direction vanishes, g = 0: at the global minimum above
:math:`(M-1)^{M-1} / M^{2M}`. With M >= 2 layers a vanished direction is a local minimum anywhere, and a
living one up to a larger threshold (the spinodal): between the two it is bistable, and trained networks
often leave it at zero.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_nc.functional.frames.triple import Counts, class_shares

State = Literal["alive", "bistable", "dead"]


def survival_threshold(num_layers: int) -> float:
    r"""Of :math:`\tau / p^M`: a direction below it is alive at the global minimum.

    Args:
        num_layers: M, of the linear head.

    Returns:
        :math:`(M-1)^{M-1} / M^{2M}`.

    Example:
        >>> survival_threshold(1), survival_threshold(2), survival_threshold(3) == 4 / 729
        (1.0, 0.0625, True)
    """
    return (num_layers - 1) ** (num_layers - 1) / num_layers ** (2 * num_layers)


def spinodal(num_layers: int) -> float:
    r"""Of :math:`\tau / p^M`: up to here a direction that lives is a local minimum, at least.

    Args:
        num_layers: M, of the linear head.

    Returns:
        :math:`(\frac{M+1}{2M})^{M+1} (\frac{M-1}{2M})^{M-1}`.

    Example:
        >>> spinodal(1), f"{spinodal(2):.4f}"
        (1.0, '0.1055')
    """
    m = num_layers
    return ((m + 1) / (2 * m)) ** (m + 1) * ((m - 1) / (2 * m)) ** (m - 1)


def gains(
    right_side: Float[Tensor, "*n K"],
    num_layers: int = 1,
    alive: Bool[Tensor, " K"] | None = None,
) -> Float[Tensor, "*n K"]:
    r"""Gain of each direction: the largest root g of :math:`(1-g)^{M+1} g^{M-1} = \tau / p^M`, or 0.

    Args:
        right_side: :math:`\tau / p^M`, positive.
        num_layers: M, of the linear head.
        alive: The directions that live, as far as the spinodal; others have a gain of 0. None: those
            that live at the global minimum.

    Returns:
        Gains: 0, or above (M-1)/M at the global minimum, or above (M-1)/(2M) with ``alive``.

    Raises:
        ValueError: If there is no layer, or tau is not positive.

    Example:
        >>> gains(torch.tensor([0.01, 0.25, 4.0]))
        tensor([0.9000, 0.5000, 0.0000])
    """
    m = num_layers
    if m < 1 or not bool((right_side > 0).all()):
        raise ValueError(
            f"Expected tau to be positive and num_layers at least 1, but got {m} layers and a least "
            f"right-hand side of {float(right_side.min()):g}. Without a penalty nothing has a length."
        )
    limit = survival_threshold(m) if alive is None else spinodal(m)
    lives = right_side < limit
    if alive is not None:
        lives = lives & alive
    target = torch.where(lives, right_side, 0.5 * limit).log()
    # x = log(1 - g) from below its root: there the logarithm of the left side is concave, and Newton's
    # steps stay on this side; they are many where the root is double, at the spinodal
    x = target / (m + 1)
    for _ in range(1 if m == 1 else 60):
        rest = -torch.expm1(x)  # g
        slope = (m + 1) - (m - 1) * (1 - rest) / rest
        x = x + (target - (m + 1) * x - (m - 1) * rest.log()) / slope.clamp(min=1e-12)
    return torch.where(lives, -torch.expm1(x), 0.0)


def class_states(counts: Counts, tau: float, num_layers: int = 1) -> list[State]:
    r"""Which classes live at this regularization, which vanish, and which may do either.

    Args:
        counts: Rows of each class.
        tau: :math:`N \lambda_H \prod_l \lambda_l`.
        num_layers: M, of the linear head, without a bias.

    Returns:
        For each class "alive" (at the global minimum, though with M >= 2 training can leave it at
        zero), "bistable" (a local minimum as well, not the global one), or "dead".

    Raises:
        ValueError: If a class has no rows.

    Example:
        >>> class_states(torch.tensor([80, 15, 5]), tau=0.1)
        ['alive', 'alive', 'dead']
        >>> class_states(torch.tensor([80, 15, 5]), tau=0.002, num_layers=2)
        ['alive', 'bistable', 'dead']

    References:
        Dang et al. (2023), "Neural collapse in deep linear networks: from balanced to imbalanced data",
        for M = 1.
    """
    right_side = tau / class_shares(counts) ** num_layers
    gains(right_side, num_layers)  # which refuses what cannot be
    lowest, highest = survival_threshold(num_layers), spinodal(num_layers)
    return [
        "alive" if value < lowest else "bistable" if value < highest else "dead"
        for value in right_side.tolist()
    ]


def smallest_surviving_share(tau: float, num_layers: int = 1) -> float:
    r"""The share of all rows at which a class vanishes from the global minimum.

    Args:
        tau: :math:`N \lambda_H \prod_l \lambda_l`, in which N may depend on the class itself.
        num_layers: M, of the linear head, without a bias.

    Returns:
        The share: :math:`(\tau / \text{threshold})^{1/M}`.

    Example:
        >>> f"{smallest_surviving_share(0.1):.2f}"
        '0.10'
    """
    return (tau / survival_threshold(num_layers)) ** (1 / num_layers)
