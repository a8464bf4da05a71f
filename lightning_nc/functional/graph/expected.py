r"""What averaging over neighbors is expected to do on a stochastic block model.

N nodes in C classes of n = N/C nodes each; two nodes of one class are joined with probability p, two of
different classes with probability q. The factors compare :math:`H \hat A` with H for features that are
drawn around class means.
"""

import math

_Number = int | float


def effective_within_ratio(p: _Number, q: _Number, class_size: int, num_classes: int = 2) -> float:
    r"""Within-class covariance of neighborhood means, over that of the features: on **sampled** graphs.

    .. math:: \frac{p (1 - p) + (C - 1)\, q (1 - q)}{n\, (p + (C - 1)\, q)^2}

    Two nodes of a class have different neighbors, and so different means: that is what remains of the
    features' spread.

    Conventions: :func:`expected_adjacency_ratio` is another quantity, which papers print for the same.
    To first order in how much degrees vary: simulated values are at most 3% above it where the mean
    degree :math:`n (p + (C - 1) q)` is 45 or more, and 9% at 13, since the mean of 1/d is above 1/mean.
    Of features whose class means lie apart there is more, since nodes differ in the share of their
    neighbors: for two classes :math:`|\mu_1 - \mu_2|^2 p q (p + q - 2 p q) / (n (p + q)^4)`.

    Args:
        p: Of an edge within a class.
        q: Of an edge between classes.
        class_size: n.
        num_classes: C.

    Returns:
        The ratio, without unit.

    Raises:
        ValueError: If p or q is no probability, both are 0, or there is no node.

    Example:
        >>> f"{effective_within_ratio(0.5, 0.1, class_size=200):.4f}"
        '0.0047'
        >>> f"{effective_within_ratio(0.025, 0.0017, class_size=500):.4f}"
        '0.0731'
    """
    degree = _expected_degree(p, q, class_size, num_classes)
    return class_size * (p * (1 - p) + (num_classes - 1) * q * (1 - q)) / degree**2


def expected_adjacency_ratio(p: _Number, q: _Number, class_size: int, num_classes: int = 2) -> float:
    r"""Variance of a neighborhood mean over draws of the features, with the **expected** adjacency.

    .. math:: \frac{p^2 + (C - 1)\, q^2}{n\, (p + (C - 1)\, q)^2}

    relative to the features' own variance. With the expected adjacency all nodes of a class have one
    and the same mean: no within-class covariance remains, and this is how far that mean varies from
    draw to draw. On sampled graphs, where p is small, :func:`effective_within_ratio` is 1/p times as
    large. Papers print it as the constant of within-class covariance.

    Args:
        p: Of an edge within a class.
        q: Of an edge between classes.
        class_size: n.
        num_classes: C.

    Returns:
        The ratio, without unit.

    Raises:
        ValueError: If p or q is no probability, both are 0, or there is no node.

    Example:
        >>> f"{expected_adjacency_ratio(0.5, 0.1, class_size=200):.4f}"
        '0.0036'
        >>> f"{expected_adjacency_ratio(0.025, 0.0017, class_size=500):.4f}"
        '0.0018'

    References:
        Kothapalli, Tirer & Bruna (2023), "A neural collapse perspective on feature evolution in graph
        neural networks".
    """
    degree = _expected_degree(p, q, class_size, num_classes)
    return class_size * (p**2 + (num_classes - 1) * q**2) / degree**2


def between_factor(p: _Number, q: _Number, num_classes: int = 2) -> float:
    r"""Between-class covariance of neighborhood means, over that of the features.

    .. math:: \left( \frac{p - q}{p + (C - 1)\, q} \right)^2

    Right once class means are further apart than sampling moves them. Range ``[0, 1]``; 1 where no edge
    joins two classes.

    Args:
        p: Of an edge within a class.
        q: Of an edge between classes.
        num_classes: C.

    Returns:
        The factor, without unit.

    Raises:
        ValueError: If p or q is no probability, or both are 0.

    Example:
        >>> f"{between_factor(0.5, 0.1):.4f}"
        '0.4444'
    """
    return ((p - q) / _expected_degree(p, q, 1, num_classes)) ** 2


def condition_probability_bound(num_nodes: int, num_classes: int, q: _Number) -> float:
    r"""Probability that all nodes of a class have equally many neighbors in another one.

    .. math:: \left( \sum_{t=0}^{n} \operatorname{Binom}(n, q)(t)^n \right)^{\binom C2}

    Conventions: natural logarithm in rates like q = 0.25 ln(N) / N. By enumeration of small graphs:
    this is exactly the probability that for every pair c < c' the n nodes of c have equally many
    neighbors in c'. So it bounds the probability that this holds in both directions, and with that all
    *numbers* of neighbors are constant over each class. It does **not** bound the probability that
    :func:`~lightning_nc.functional.graph.condition_gap` is 0: this needs no more than equal *shares*,
    and leaves isolated nodes out. With p = 0 and two classes, for one, it is certain; with N = 4,
    C = 2, p = 0.7 and q = 0.3 its probability is 0.433, and the bound 0.425.

    Args:
        num_nodes: N.
        num_classes: C, which divides N.
        q: Of an edge between classes.

    Returns:
        The probability; 0 where float64 holds nothing so small: see
        :func:`condition_probability_bound_log10`.

    Raises:
        ValueError: If C does not divide N, there is a single class, or q is no probability.

    Example:
        >>> f"{condition_probability_bound(1000, 2, 0.25 * math.log(1000) / 1000):.3e}"
        '2.177e-188'

    References:
        Kothapalli, Tirer & Bruna (2023), "A neural collapse perspective on feature evolution in graph
        neural networks", Theorem 3.2.
    """
    return 10 ** condition_probability_bound_log10(num_nodes, num_classes, q)


def condition_probability_bound_log10(num_nodes: int, num_classes: int, q: _Number) -> float:
    """The log10 of :func:`condition_probability_bound`, which holds numbers however small.

    Args:
        num_nodes: N.
        num_classes: C, which divides N.
        q: Of an edge between classes.

    Returns:
        The log10; at most 0.

    Raises:
        ValueError: If C does not divide N, there is a single class, or q is no probability.

    Example:
        >>> f"{condition_probability_bound_log10(5000, 5, 0.01):.0f}"
        '-9004'
    """
    if num_classes < 2 or num_nodes < num_classes or num_nodes % num_classes:
        raise ValueError(
            f"Expected two classes at least, of equal size, but got {num_nodes} nodes for "
            f"{num_classes} classes. Choose a number of nodes that the number of classes divides."
        )
    check_probabilities(q, q)
    if q in (0, 1):
        return 0.0  # all pairs of two classes are joined, or none
    n = num_nodes // num_classes
    logs = [n * _log_binomial(n, t, q) for t in range(n + 1)]
    largest = max(logs)
    log_sum = largest + math.log(math.fsum(math.exp(each - largest) for each in logs))
    return math.comb(num_classes, 2) * min(log_sum, 0.0) / math.log(10)


def check_probabilities(p: _Number, q: _Number) -> None:
    """Refuse what is no probability.

    Args:
        p: Of an edge within a class.
        q: Of an edge between classes.

    Raises:
        ValueError: If one is not in [0, 1].
    """
    if not (0 <= p <= 1 and 0 <= q <= 1):
        raise ValueError(
            f"Expected probabilities between 0 and 1, but got p = {p} and q = {q}. Are they multiples "
            "of ln(N) / N? Then multiply."
        )


def _log_binomial(n: int, t: int, q: _Number) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(t + 1) - math.lgamma(n - t + 1)
    return ways + t * math.log(q) + (n - t) * math.log1p(-q)


def _expected_degree(p: _Number, q: _Number, class_size: int, num_classes: int) -> float:
    check_probabilities(p, q)
    degree = class_size * (p + (num_classes - 1) * q)
    if not degree > 0:
        raise ValueError(
            f"Expected nodes with neighbors, but got p = {p}, q = {q} and {num_classes} classes of "
            f"{class_size} nodes. Without edges there is nothing to average."
        )
    return degree
