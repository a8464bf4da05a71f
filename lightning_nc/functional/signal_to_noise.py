r"""Signal to noise: how far the class means are apart in units of the spread inside the classes.

With p = n / N, the mean of all rows :math:`m = \sum_k p_k \mu_k`, which is weighted by the counts,
:math:`\bar\mu_k = \mu_k - m` and :math:`\Sigma_W` = scatter / N:

.. math:: V = \Sigma_W^{-1/2} [\bar\mu_1 \dots \bar\mu_K] \operatorname{diag}(\sqrt p),
    \qquad G = V^\top V

Its singular values do not change under any invertible affine map of the features. The squared error of
the best linear classifier without penalties is

.. math:: L_{LS} = \tfrac12 \operatorname{tr}[\operatorname{diag}(p) (I + G)^{-1}]
    - \tfrac12 \sum_k p_k^2

and with equal counts :math:`\frac{1}{2K} \sum_j \frac{1}{1 + v_j^2}`.

Conventions: Han, Papyan and Donoho (2022) have equal counts and leave the factor :math:`\sqrt p` out;
their singular values are :math:`w = \sqrt K v`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.functional.noise import directions
from lightning_nc.functional.spectrum import kept_with_the_value
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.precision import accumulator_dtype
from lightning_nc.values.statistics import ClassStatistics

_NEWTON_STEPS = 40  # from any start the last digit is settled after 10 or so

_Counted = Int[Tensor, ""] | int


def snr_matrix(statistics: ClassStatistics) -> Float[Tensor, "r K"]:
    r"""The signal-to-noise matrix, :math:`V = \Sigma_W^{-1/2} [\bar\mu_1 \dots \bar\mu_K] \operatorname{diag}(\sqrt p)`.

    Up to a rotation of its rows: the factor is a Cholesky factor's inverse and not the symmetric root.
    Where :math:`\Sigma_W` is singular, rounding allowed for, it is taken on the range of the features'
    covariance, if it is regular there; r is then the dimension of that range.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.

    Returns:
        V, a column for each class. :math:`V \sqrt p = 0`.

    Raises:
        UndefinedMeasure: If the covariance was not kept, or the class means differ along a direction in
            which classes have no spread: the ratio is infinite there.
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0], [3.0], [9.0], [11.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 0, 1, 1]), num_classes=2)
        >>> snr_matrix(stats)  # means 4 to both sides, a spread of 1, times the root of 1/2
        tensor([[-2.8284,  2.8284]], dtype=torch.float64)

    References:
        Han, Papyan & Donoho (2022), "Neural collapse under MSE loss: proximity to and dynamics on the
        central path".
    """  # noqa: E501
    found = directions(statistics, penalty=0.0, mean_share=0.0)
    if found.factor is None:
        raise UndefinedMeasure(
            "the class means differ along a direction in which classes have no spread, float32 "
            "rounding allowed for, and the signal-to-noise ratio is infinite there"
        )
    return torch.linalg.solve_triangular(found.factor, found.signals[:-1].T, upper=False)


@kept_with_the_value
def snr_values(statistics: ClassStatistics) -> Float[Tensor, " k"]:
    r"""The signal-to-noise ratios: the K - 1 singular values of :func:`snr_matrix`, descending.

    Conventions: class means around the mean of all rows, weighted by :math:`\sqrt{p_k}`; Han, Papyan
    and Donoho's, of equal counts, are :math:`\sqrt K` times as large. Range ``[0, inf)``; at collapse
    ever larger, and all alike with equal counts. Of more than d some are 0. Invariant under any
    invertible affine map of the features.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.

    Returns:
        The ratios, float64.

    Raises:
        UndefinedMeasure: If the covariance was not kept, or a ratio is infinite.
        ValueError: If a class has no sample.

    Example:
        >>> h = torch.tensor([[1.0], [3.0], [9.0], [11.0]])
        >>> stats = ClassStatistics.from_batch(h, torch.tensor([0, 0, 1, 1]), num_classes=2)
        >>> snr_values(stats)
        tensor([4.0000], dtype=torch.float64)

    References:
        Han, Papyan & Donoho (2022), "Neural collapse under MSE loss: proximity to and dynamics on the
        central path".
    """
    values = torch.linalg.svdvals(snr_matrix(statistics))
    all_values = values.new_zeros(statistics.num_classes - 1)
    given = values[: len(all_values)]  # one more is 0, since the means average to their mean
    all_values[: len(given)] = given
    return all_values


def snr_min(statistics: ClassStatistics) -> Float[Tensor, ""]:
    """The least of :func:`snr_values`: how well the classes differ that are told apart worst.

    Range ``[0, inf)``; grows without bound at collapse. 0 if the class means lie in fewer than K - 1
    dimensions.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.

    Returns:
        The ratio, a float64 scalar.

    Raises:
        UndefinedMeasure: If the covariance was not kept, or a ratio is infinite.
        ValueError: If a class has no sample, or there is a single class.

    Example:
        >>> h = torch.tensor([[1.0], [3.0], [9.0], [11.0]])
        >>> snr_min(ClassStatistics.from_batch(h, torch.tensor([0, 0, 1, 1]), num_classes=2))
        tensor(4.0000, dtype=torch.float64)

    References:
        Han, Papyan & Donoho (2022), "Neural collapse under MSE loss: proximity to and dynamics on the
        central path".
    """
    return _several(statistics)[-1]


def snr_max(statistics: ClassStatistics) -> Float[Tensor, ""]:
    """The largest of :func:`snr_values`, of the direction in which classes differ most clearly.

    Range ``[0, inf)``; with equal counts that of :func:`snr_min` at collapse, both ever larger.

    Args:
        statistics: Statistics with a pooled scatter, in which every class has a sample.

    Returns:
        The ratio, a float64 scalar.

    Raises:
        UndefinedMeasure: If the covariance was not kept, or a ratio is infinite.
        ValueError: If a class has no sample, or there is a single class.

    Example:
        >>> h = torch.tensor([[1.0], [3.0], [9.0], [11.0]])
        >>> snr_max(ClassStatistics.from_batch(h, torch.tensor([0, 0, 1, 1]), num_classes=2))
        tensor(4.0000, dtype=torch.float64)

    References:
        Han, Papyan & Donoho (2022), "Neural collapse under MSE loss: proximity to and dynamics on the
        central path".
    """
    return _several(statistics)[0]


def snr_flow(
    start: Float[Tensor, " k"], times: Float[Tensor, " t"], num_samples: _Counted, num_classes: int
) -> Float[Tensor, "t k"]:
    r"""How the signal-to-noise ratios grow on the central path, with equal counts: a closed form.

    Each feature follows the gradient of :math:`\frac{1}{2N} \sum_i \|W h_i + b - e_{y_i}\|^2`, W and b
    always the best for the features, projected on :math:`\Sigma_W = I`: only class means move. Then

    .. math:: \log v + v^2 + \tfrac14 v^4 = a + \frac{t}{NK}

    for each of the ratios, whatever the others do, with a from its start. All go to infinity and become
    alike on the way.

    Conventions: t is the time of that flow, in which :math:`\dot h_i = -\partial L / \partial h_i`; for
    Han, Papyan and Donoho's :math:`w = \sqrt K v` the constants are :math:`c_1 = NK, c_2 = N, c_3 =
    N / (4K)`. To take a step along the gradient and then to renormalize by :math:`\Sigma_W^{-1/2}` is
    **another** flow: :math:`\log v + \tfrac12 v^2 = a + t / (NK)`.

    Args:
        start: Ratios at time 0, as :func:`snr_values` gives them.
        times: t.
        num_samples: N, all rows.
        num_classes: K.

    Returns:
        The ratios, a row for each time; what starts at 0 stays there.

    Raises:
        ValueError: If a ratio is negative or not finite.

    Example:
        >>> start, times = torch.tensor([0.5, 2.0]), torch.tensor([0.0, 100.0])
        >>> snr_flow(start, times, num_samples=10, num_classes=2)
        tensor([[0.5000, 2.0000],
                [1.5878, 2.3328]], dtype=torch.float64)

    References:
        Han, Papyan & Donoho (2022), "Neural collapse under MSE loss: proximity to and dynamics on the
        central path".
    """
    if not bool(((start >= 0) & start.isfinite()).all()):
        raise ValueError(
            "Expected signal-to-noise ratios that are finite and not negative, but got "
            f"{start.tolist()}. Are they singular values?"
        )
    v = start.to(accumulator_dtype(start.device))
    moves, elapsed = v > 0, times.to(v)[:, None] / (num_samples * num_classes)
    v = torch.where(moves, v, 1)
    goal = v.log() + v.square() + v**4 / 4 + elapsed
    # convex and increasing in u = log v: Newton's steps from above only come down to the root
    u = torch.where(goal > 1.25, (4 * goal.clamp(min=1)).log() / 4, goal.clamp(max=0))
    for _ in range(_NEWTON_STEPS):
        square = (2 * u).exp()
        u = u - (u + square + square.square() / 4 - goal) / (1 + square).square()
    return torch.where(moves, u.exp(), 0)


def snr_flow_rate(
    signal_to_noise: Float[Tensor, "r K"], shares: Float[Tensor, " K"], num_samples: _Counted
) -> Float[Tensor, "r K"]:
    r"""The rate at which V changes in the flow of :func:`snr_flow`, with any counts.

    .. math:: \dot V = \frac1N V (I + G)^{-1} \operatorname{diag}(p) (I + G)^{-1} (I - r r^\top), \qquad
        G = V^\top V, \quad r = \sqrt p

    With equal counts each singular value goes its own way, and :func:`snr_flow` has the solution; else
    they depend on each other, and no closed form is known.

    Args:
        signal_to_noise: V, as :func:`snr_matrix` gives it.
        shares: p, of the classes; adds up to 1.
        num_samples: N, all rows.

    Returns:
        The rate, of the shape of V.

    Example:
        >>> V = torch.tensor([[-1.0, 1.0]]).double() / 2**0.5  # v = 1: v / (N K (1 + v^2)^2)
        >>> snr_flow_rate(V, torch.tensor([0.5, 0.5]).double(), num_samples=10) * 80
        tensor([[-0.7071,  0.7071]], dtype=torch.float64)

    References:
        Han, Papyan & Donoho (2022), "Neural collapse under MSE loss: proximity to and dynamics on the
        central path".
    """
    v, r = signal_to_noise, shares.sqrt()
    identity = torch.eye(len(r), dtype=v.dtype, device=v.device)
    factor = torch.linalg.cholesky(identity + v.T @ v)
    rate = torch.cholesky_solve(v.T, factor).T * shares
    rate = torch.cholesky_solve(rate.T, factor).T / num_samples
    return rate - (rate @ r)[:, None] * r


def _several(statistics: ClassStatistics) -> Float[Tensor, " k"]:
    """The ratios, if there are any."""
    if statistics.num_classes < 2:
        raise ValueError(
            "Expected statistics of two classes at least, but got a single one. Were the others left "
            "out?"
        )
    return snr_values(statistics)
