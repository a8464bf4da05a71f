r"""The penalties of the objective that is trained, as the formulas of the squared error take them.

Convention: data loss + :math:`\frac{\lambda_W}{2} \|W\|_F^2 + \frac{\lambda_b}{2} \|b\|^2 +
\frac{\lambda_H}{2} \|H\|_F^2`, where H holds the features of all N rows, and the data loss is
:math:`\frac{1}{2N} \sum_i \|W h_i + b - e_{y_i}\|^2` or the mean cross-entropy. Nothing here is
inferred from a network: penalties are what the user states.
"""

import math
from dataclasses import dataclass

from torch import Tensor, optim

LOSSES = ("mse_mean", "mse_sum_half", "cross_entropy")
"""``nn.MSELoss()``; half the squared error of a row, averaged over rows; ``nn.CrossEntropyLoss()``."""

_COUPLED = (
    optim.SGD, optim.Adam, optim.NAdam, optim.RAdam, optim.Adamax, optim.RMSprop, optim.Adagrad,
    optim.Adadelta,
)  # fmt: skip
"""Those whose weight decay is added to the gradient, and nothing else shrinks their parameters."""


@dataclass(frozen=True)
class Penalties:
    r"""What the objective adds for weights and features; None where the user has not stated it.

    Attributes:
        weight: :math:`\lambda_W`.
        bias: :math:`\lambda_b`. None beside a stated weight: the same, as an optimizer's weight decay
            has it unless told otherwise. A bias that is free of penalty is stated as 0.
        features: :math:`\lambda_H`.

    Example:
        >>> Penalties(weight=5e-4).for_bias, Penalties(weight=5e-4, bias=0.0).for_bias
        (0.0005, 0.0)
    """

    weight: float | None = None
    bias: float | None = None
    features: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                _require(value, f"the penalty of the {name}")

    @property
    def for_weight(self) -> float:
        """That of the weight, or 0: formulas that have a meaning without it take none."""
        return self.weight or 0.0

    @property
    def for_bias(self) -> float:
        """That of the bias, else that of the weight, else 0."""
        return self.for_weight if self.bias is None else self.bias


NOT_STATED = Penalties()
"""Where the user has said nothing."""


def objective_penalty(weight_decay: float, loss: str, num_classes: int | None = None) -> float:
    r"""The penalty of the objective that a coupled weight decay makes, a plain number.

    Minimizing a loss with weight decay w minimizes :math:`\text{loss} + \frac{w}{2} \|W\|^2`.
    ``nn.MSELoss()`` averages over rows **and** classes: :math:`\frac{1}{NK} \sum_i \|r_i\|^2`. Times
    K/2 that is the data loss of the formulas, with the penalty w K/2; the objective itself, too, is
    K/2 times what was logged. A factor :math:`\lambda_H` of the features in such a loss is converted
    likewise.

    Args:
        weight_decay: w.
        loss: One of :data:`LOSSES`.
        num_classes: K, the outputs; asked for by "mse_mean" alone.

    Returns:
        The penalty.

    Raises:
        ValueError: If the decay is negative or not finite, the loss another one, or K not known.

    Example:
        >>> objective_penalty(0.25, "cross_entropy"), objective_penalty(0.25, "mse_mean", 10)
        (0.25, 1.25)
    """
    _require(weight_decay, "weight_decay")
    if loss not in LOSSES:
        raise ValueError(
            f"Expected loss to be one of {LOSSES}, but got {loss!r}. Of another loss, work out the "
            "penalty yourself: that beside a mean cross-entropy, or beside half a mean squared error."
        )
    if loss != "mse_mean":
        return weight_decay
    if num_classes is None or num_classes < 1:
        raise ValueError(
            f"Expected num_classes with loss='mse_mean', but got {num_classes}. That loss averages "
            "over the outputs as well: how many are there?"
        )
    return weight_decay * num_classes / 2


def penalties_of_weight_decay(
    optimizer: optim.Optimizer,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    loss: str,
    num_classes: int | None = None,
    features: float | None = None,
) -> Penalties:
    r"""What the weight decay of an optimizer is in the objective, for the classifier's weight and bias.

    Each parameter has the decay of its group. The optimizer must add it to the gradient: then it is at
    rest just where :math:`\nabla \text{loss} + w W = 0`, whatever its momentum (``nesterov`` or not),
    its scales or its step. With ``maximize`` it minimizes the negative of the loss with the same
    penalty. A decay that shrinks the weights beside the gradient (AdamW) belongs to no objective that
    could be written down, and is refused.

    It takes the optimizer and not its groups, which do not say how their decay is used.

    Args:
        optimizer: One of torch: SGD, Adam, NAdam, RAdam, Adamax, RMSprop, Adagrad or Adadelta.
        weight: The classifier's, the parameter itself, with a row for each class or target.
        bias: Likewise, if it has one.
        loss: One of :data:`LOSSES`.
        num_classes: K; None: the rows of the weight. 1: a single row is that of a regression with one
            target, and not of a binary head.
        features: A factor :math:`\lambda_H` with which :math:`\frac{\lambda_H}{2} \|H\|_F^2` stands
            beside this loss; it is converted as well.

    Returns:
        The penalties.

    Raises:
        ValueError: If the decay is not added to the gradient, or not known to be; if a parameter is not
            the optimizer's; if the weight has a single row, and num_classes is not 1.

    Example:
        >>> from torch import nn
        >>> head = nn.Linear(5, 4)
        >>> sgd = optim.SGD(head.parameters(), lr=0.1, weight_decay=0.01)
        >>> penalties_of_weight_decay(sgd, head.weight, head.bias, loss="mse_mean")
        Penalties(weight=0.02, bias=0.02, features=None)
    """
    _require_coupled(optimizer)
    if len(weight) == 1 and num_classes != 1:
        raise ValueError(
            "Expected a weight with a row for each class or target, but got a single row. A binary "
            "head counts as the two rows -w/2 and +w/2, of half the squared norm: state twice its "
            "weight decay. For a regression with one target, whose row is as it is, set num_classes=1."
        )
    classes = len(weight) if num_classes is None else num_classes

    def of(decay: float | None) -> float | None:
        return None if decay is None else objective_penalty(decay, loss, classes)

    decay_of_bias = None if bias is None else _decay(optimizer, bias, "bias")
    return Penalties(of(_decay(optimizer, weight, "weight")), of(decay_of_bias), of(features))


def _require(value: float, name: str) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(
            f"Expected {name} to be a finite number that is not negative, but got {value}. Leave it "
            "out where it is not known."
        )


def _require_coupled(optimizer: optim.Optimizer) -> None:
    kind = type(optimizer)
    if "weight_decay" not in optimizer.defaults:
        raise ValueError(
            f"Expected an optimizer with weight decay, but {kind.__name__} has none. Is the penalty a "
            "term of the loss? State it as a number."
        )
    decoupled = any(group.get("decoupled_weight_decay", False) for group in optimizer.param_groups)
    if kind is optim.AdamW or decoupled:
        raise ValueError(
            f"Expected a weight decay that is added to the gradient, but that of {kind.__name__} is "
            "decoupled: what it minimizes has no penalty that could be stated. Use Adam or SGD with "
            "weight_decay, or leave the penalty out."
        )
    if kind not in _COUPLED:  # not isinstance: AdamW is an Adam, too
        known = ", ".join(each.__name__ for each in _COUPLED)
        raise ValueError(
            f"Expected one of torch's optimizers {known}, but got {kind.__name__}, whose weight decay "
            "may be no penalty of the objective. A wrapper? Pass the optimizer inside; else state the "
            "penalty as a number."
        )


def _decay(optimizer: optim.Optimizer, parameter: Tensor, name: str) -> float:
    for group in optimizer.param_groups:
        if any(each is parameter for each in group["params"]):
            return float(group["weight_decay"])
    raise ValueError(
        f"Expected the {name} among the parameters of the optimizer, but it is in none of its groups. "
        "Is it frozen, trained by another optimizer, or a copy? Pass the parameter itself."
    )
