r"""The minimum of the cross-entropy over free features and one linear layer, for any counts.

With features of either sign the problem depends on one number, :math:`\lambda = \sqrt{\lambda_W
\lambda_H}`, and has no closed form. As a function of the logits Z of the class means it is convex,

.. math:: \min_{Z, b} \sum_k p_k \operatorname{CE}_\delta(z_k + b, k)
          + \lambda \|Z \operatorname{diag}(\sqrt n)\|_* + \frac{\lambda_b}{2} \|b\|^2 ,

and the nuclear norm is the least :math:`\frac12 (\|V\|^2 + \|Q\|^2)` with :math:`V Q = Z
\operatorname{diag}(\sqrt n)`. So a descent over V and Q that ends where no singular value of the
gradient exceeds :math:`\lambda` has found the global minimum.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_nc.functional.frames.simplex import etf
from lightning_nc.functional.frames.triple import Counts, Minimum, Triple, class_shares
from lightning_nc.values.precision import accumulator_dtype

_PRECISE, _ROUNDING = 1e-11, 1e-14
_MOST_STEPS, _MOST_DIRECTIONS = 200, 500


class Program(NamedTuple):
    """The problem in its factors; everything is divided by the penalty, which makes it well scaled.

    A point is one matrix of 2 K + 1 rows: V, Q and the bias.

    Attributes:
        shares: p, the weight of each class in the loss.
        scales: The logits are V Q diag(scales); for features that are penalized row by row
            :math:`n^{-1/2}`.
        penalty: Of the nuclear norm of V Q.
        bias_penalty: 0: free; None: there is no bias.
        smoothing: Of the labels.
    """

    shares: Float[Tensor, " K"]
    scales: Float[Tensor, " K"]
    penalty: float
    bias_penalty: float | None = None
    smoothing: float = 0.0

    def split(self, point: Float[Tensor, "m K"]) -> tuple[Tensor, Tensor, Tensor]:
        """V, Q and b."""
        k = len(self.shares)
        return point[:k], point[k : 2 * k], point[2 * k]

    def logits(self, point: Float[Tensor, "m K"]) -> Float[Tensor, "K K"]:
        """Those of the class means, one column per class, with the bias."""
        v, q, bias = self.split(point)
        return v @ q * self.scales + bias[:, None]

    def data_loss(self, logits: Float[Tensor, "K K"]) -> Float[Tensor, ""]:
        """The cross-entropy, precise where it is next to nothing."""
        right = logits.diagonal()
        against = (logits - right).fill_diagonal_(-torch.inf).logsumexp(0)
        losses = torch.logaddexp(against, torch.zeros_like(against))
        return self.shares @ (losses + self.smoothing * (right - logits.mean(0)))

    def slope(self, logits: Float[Tensor, "K K"]) -> Float[Tensor, "K K"]:
        """Gradient of the data loss by the logits. Its columns add up to 0, which is its diagonal."""
        off = (logits.softmax(0) - self.smoothing / len(logits)).fill_diagonal_(0)
        return self.shares * (off - off.sum(0).diag())

    def value(self, point: Float[Tensor, "m K"]) -> Float[Tensor, ""]:
        """The objective over the penalty."""
        v, q, bias = self.split(point)
        norms = v.square().sum() + q.square().sum() + self._bias_weight * bias.square().sum()
        return self.data_loss(self.logits(point)) / self.penalty + norms / 2

    def gradient(self, point: Float[Tensor, "m K"]) -> Float[Tensor, "m K"]:
        """Of the objective over the penalty."""
        v, q, bias = self.split(point)
        slope = self.slope(self.logits(point)) / self.penalty
        by_product = slope * self.scales
        by_bias = (slope.sum(1) + self._bias_weight * bias) * self._has_bias
        return torch.cat([by_product @ q.T + v, v.T @ by_product + q, by_bias[None]])

    def curvature(self, point: Float[Tensor, "m K"]) -> Callable[[Tensor], Tensor]:
        """The product of the Hessian there and a direction."""
        v, q, _ = self.split(point)
        logits = self.logits(point)
        by_product, softmax = self.slope(logits) * self.scales / self.penalty, logits.softmax(0)
        weighted = softmax * self.shares / self.penalty

        def times(direction: Float[Tensor, "m K"]) -> Float[Tensor, "m K"]:
            dv, dq, db = self.split(direction)
            moved = (dv @ q + v @ dq) * self.scales + db[:, None]
            moved = weighted * (moved - (softmax * moved).sum(0))
            change = moved * self.scales
            by_v = change @ q.T + by_product @ dq.T + dv
            by_q = v.T @ change + dv.T @ by_product + dq
            by_bias = (moved.sum(1) + self._bias_weight * db) * self._has_bias
            return torch.cat([by_v, by_q, by_bias[None]])

        return times

    @property
    def _has_bias(self) -> bool:
        return self.bias_penalty is not None

    @property
    def _bias_weight(self) -> float:
        return (self.bias_penalty or 0.0) / self.penalty


def ce_ufm(
    counts: Counts,
    penalty: float,
    bias_penalty: float | None = None,
    smoothing: float = 0.0,
) -> Minimum:
    r"""Where the cross-entropy is least over features of either sign, one linear layer and a bias.

    .. math:: \min \sum_k p_k \operatorname{CE}_\delta(V Q_k / \sqrt{n_k} + b, k)
              + \frac{\lambda}{2} (\|V\|^2 + \|Q\|^2) + \frac{\lambda_b}{2} \|b\|^2

    with :math:`\lambda = \sqrt{\lambda_W \lambda_H}`; then :math:`G_W = V V^\top`, :math:`G_H` has the
    entries :math:`Q_j^\top Q_k / \sqrt{n_j n_k}`, and Z the columns :math:`V Q_k / \sqrt{n_k}`. The
    scale is that of :math:`\lambda_W = \lambda_H`; with others :math:`G_W` is
    :math:`\sqrt{\lambda_H/\lambda_W}` times this, :math:`G_H` the inverse, and loss and Z the same.
    Shapes depend on the counts' shares and on :math:`\lambda \sqrt N` alone.

    With equal counts it is a simplex ETF. As :math:`\lambda` goes to 0 it becomes SELI, as slowly as
    the logarithm. Without a bias everything is 0 just where :math:`\lambda` is
    :math:`(1 - \delta) \|(I - \frac1K 1 1^\top) \operatorname{diag}(\sqrt n)\|_2 / N` or more.

    Newton's method in V and Q: of one core, 10 classes take 0.01 s, 30 up to 0.1 s and 100 up to 0.3 s.

    Args:
        counts: Rows of each class.
        penalty: :math:`\lambda`, that of the objective trained: the mean cross-entropy over all rows
            with :math:`\frac{\lambda_W}{2} \|W\|^2 + \frac{\lambda_H}{2} \sum_i \|h_i\|^2`.
        bias_penalty: :math:`\lambda_b`; 0: the bias is free; None: there is none.
        smoothing: :math:`\delta` of the labels.

    Returns:
        The loss, and the triple less the bias; zeros where the penalty is too strong.

    Raises:
        ValueError: If a class has no rows or a number is out of range.

    Example:
        >>> minimum = ce_ufm(torch.tensor([3, 3]), penalty=0.05)
        >>> minimum.triple.logits
        tensor([[ 1.1779, -1.1779],
                [-1.1779,  1.1779]], dtype=torch.float64)
        >>> round(float(minimum.loss), 8)
        0.29460606

    References:
        Fang et al. (2021), "Exploring deep neural networks via layer-peeled model: minority collapse in
        imbalanced training". Hong & Ling (2023), "Neural collapse for unconstrained feature model under
        cross-entropy loss with imbalanced data".
    """
    if penalty <= 0 or not 0 <= smoothing < 1 or (bias_penalty or 0) < 0:
        raise ValueError(
            "Expected a penalty above 0, a bias penalty of 0 or more and a label smoothing in [0, 1), "
            f"but got {penalty}, {bias_penalty} and {smoothing}. Without a penalty no minimum exists: "
            "lightning_nc.functional.frames.seli is the limit of weak ones."
        )
    # hundreds of products of matrices of a few rows: the host is the fastest place for them
    counts_there = counts.cpu().double()
    program = Program(
        class_shares(counts_there), counts_there.rsqrt(), penalty, bias_penalty, smoothing
    )
    found = _minimum(program)
    dtype = accumulator_dtype(counts.device)
    triple = Triple(*(matrix.to(counts.device, dtype) for matrix in found.triple))
    return Minimum(found.loss.to(counts.device, dtype), triple)


def solve(program: Program) -> Float[Tensor, "m K"]:
    """The point where a program is least.

    Args:
        program: A problem.

    Returns:
        V, Q and b, one below the other; V and Q are zero where the penalty is too strong.
    """
    k = len(program.shares)
    # from zero, where V and Q have no slope, only the bias moves
    zero = _newton(program, program.shares.new_zeros(2 * k + 1, k))
    steepness = torch.linalg.matrix_norm(program.slope(program.logits(zero)) * program.scales, ord=2)
    if steepness <= program.penalty * (1 + _ROUNDING):
        return zero
    # the margin of equal counts at this penalty
    wrong = (1 - program.smoothing) / k * program.penalty / steepness + program.smoothing / k
    margin = (1 / wrong - k + 1).log().clamp(min=0.5)
    simplex = etf(k).logits
    left, values, right = torch.linalg.svd(margin * simplex / program.scales)
    roots = values.sqrt()
    return _newton(program, torch.cat([left * roots, roots[:, None] * right, zero[-1:]]))


def _minimum(program: Program) -> Minimum:
    """With factors of equal size, which the minimum has, made anew from the logits."""
    v, q, bias = program.split(solve(program))
    left, values, right = torch.linalg.svd(v @ q)
    product = left * values @ right
    means = right.T * values @ right
    logits = product * program.scales
    loss = program.data_loss(logits + bias[:, None]) + program.penalty * values.sum()
    loss = loss + (program.bias_penalty or 0.0) / 2 * bias.square().sum()
    scales = program.scales
    return Minimum(loss, Triple(left * values @ left.T, scales[:, None] * means * scales, logits))


def _newton(program: Program, point: Float[Tensor, "m K"]) -> Float[Tensor, "m K"]:
    """Newton's method with conjugate gradients, until the gradient is lost in rounding."""
    value, gradient = program.value(point), program.gradient(point)
    for _ in range(_MOST_STEPS):
        if gradient.abs().max() <= _PRECISE:
            break
        direction = _direction(program.curvature(point), gradient)
        step, slope = 1.0, (direction * gradient).sum()
        noise = _ROUNDING * value
        while (
            reached := program.value(point + step * direction)
        ) > value + 1e-4 * step * slope + noise:
            step /= 2
            if step < _ROUNDING:
                return point
        there = point + step * direction
        steeper = program.gradient(there)
        if -slope <= noise and steeper.norm() >= gradient.norm():
            break
        point, value, gradient = there, reached, steeper
    return point


def _direction(
    times: Callable[[Tensor], Tensor], gradient: Float[Tensor, "m K"]
) -> Float[Tensor, "m K"]:
    """Newton's direction by conjugate gradients, as far as the curvature is positive."""
    rest = -gradient
    toward, found, square = rest, torch.zeros_like(rest), float(rest.square().sum())
    enough = min(0.01, square**0.5) * square
    for number in range(_MOST_DIRECTIONS):
        product = times(toward)
        curvature = float((toward * product).sum())
        if curvature <= 0:
            return found if number else rest
        found = found + square / curvature * toward
        rest = rest - square / curvature * product
        before, square = square, float(rest.square().sum())
        if square <= enough:
            break
        toward = rest + square / before * toward
    return found
